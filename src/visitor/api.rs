//! The REST API (contract section 0).

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use axum::Router;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query as QueryString, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::grant::WatchGrant;
use super::object::Visitor;
use super::search::Query;
use super::token::{self, Purpose};
use super::watch_url::{BodyError, WatchRequest};
use super::{App, Judge};

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// All routes of the API below `mount` ("" or e.g. `/up/tree`), each behind the key.
pub(super) fn routes(app: &Arc<App>, mount: &str) -> Router<Arc<App>> {
    let at = |path: &str| format!("{mount}/api{path}");
    Router::new()
        .route(&at("/visitors/list/latest"), only(get(latest), "GET, HEAD"))
        .route(&at("/visitors/list/search"), only(get(search), "GET, HEAD"))
        .route(&at("/visitors/{id}"), only(get(visitor), "GET, HEAD"))
        .route(
            &at("/visitors/{id}/watch_url"),
            only(post(watch_url), "POST"),
        )
        .route(&at(""), any(unknown_path))
        .route(&at("/"), any(unknown_path))
        .route(&at("/{*rest}"), any(unknown_path))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        // Outermost: without a key not even the shape of the API is told.
        .layer(middleware::from_fn_with_state(Arc::clone(app), check_key))
}

/// Who is let in.
pub(super) struct Keys(Judge);

impl Keys {
    /// Who has one of these; none: the API is disabled.
    pub(super) fn new(keys: &[String]) -> Self {
        // Digests are equally long: comparing tells nothing about how long or how close a wrong key
        // was.
        let keys: Vec<_> = keys.iter().map(|key| sha256(key.as_bytes())).collect();
        Self(Arc::new(move |given| {
            if keys.is_empty() {
                return None;
            }
            let given = sha256(given.unwrap_or_default());
            // All keys are compared, whichever fits: the time tells nothing about which one.
            Some(keys.iter().fold(false, |fits, key| {
                fits | verify_slices_are_equal(key.as_ref(), given.as_ref()).is_ok()
            }))
        }))
    }

    /// Whom `judge` lets in.
    pub(super) fn judged(judge: &Judge) -> Self {
        Self(Arc::clone(judge))
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        let given = lines.next().map(HeaderValue::as_bytes);
        // Two lines could mean one thing to a proxy and another to us.
        let twice = lines.next().is_some();
        match (self.0)(given) {
            None => Err("api_not_enabled"),
            Some(true) if !twice => Ok(()),
            Some(_) => Err("invalid_api_key"),
        }
    }
}

fn sha256(bytes: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, bytes)
}

async fn check_key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match app.keys.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(code) => {
            tracing::debug!(code, "API call refused");
            let body = json!({"status": "error", "error": code});
            answer(StatusCode::UNAUTHORIZED, &body)
        }
    }
}

async fn latest(State(app): State<Arc<App>>) -> Response {
    list(&app.store.latest())
}

#[derive(Deserialize)]
struct SearchParameters {
    q: Option<String>,
}

async fn search(
    State(app): State<Arc<App>>,
    parameters: Result<QueryString<SearchParameters>, QueryRejection>,
) -> Response {
    let Ok(QueryString(SearchParameters { q })) = parameters else {
        return bad_field("q", "q must be given once at most, as UTF-8 text");
    };
    match Query::parse(q.as_deref().unwrap_or_default()) {
        Ok(query) => list(&app.store.search(&query)),
        Err(message) => bad_field("q", &message),
    }
}

fn list(visitors: &[Arc<Visitor>]) -> Response {
    #[derive(Serialize)]
    struct List<'a> {
        status: &'static str,
        visitors: Vec<&'a Visitor>,
    }
    let visitors = visitors.iter().map(AsRef::as_ref).collect();
    let status = "ok";
    answer(StatusCode::OK, &List { status, visitors })
}

async fn visitor(State(app): State<Arc<App>>, id: Result<Path<String>, PathRejection>) -> Response {
    #[derive(Serialize)]
    struct One<'a> {
        status: &'static str,
        visitor: &'a Visitor,
    }
    let Some(visitor) = id.ok().and_then(|Path(id)| app.store.get(&id)) else {
        return unknown_visitor();
    };
    let status = "ok";
    let visitor = visitor.as_ref();
    answer(StatusCode::OK, &One { status, visitor })
}

async fn watch_url(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    // Offline and already watched visitors are as good as any: the agent's page waits, and more
    // than one agent may join (contract section 3).
    let Some(visitor) = id.ok().and_then(|Path(id)| app.store.get(&id)) else {
        return unknown_visitor();
    };
    let body = match body {
        Ok(body) => body,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body is larger than the allowed {MAX_BODY} bytes");
            return error(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", &message);
        }
        Err(_incomplete) => return bad_field("body", "the body did not arrive whole"),
    };
    let request = match WatchRequest::parse(&body, app.license) {
        Ok(request) => request,
        Err(BodyError::Field { field, message }) => return bad_field(&field, &message),
        Err(BodyError::Json {
            line,
            column,
            message,
        }) => {
            let body = json!({
                "status": "error", "error": "invalid_json",
                "line": line, "column": column, "message": message,
            });
            return answer(StatusCode::BAD_REQUEST, &body);
        }
    };
    match sign(&app, &visitor, request) {
        Ok(token) => {
            let id = &visitor.short_id;
            tracing::info!(visitor = %id, "watch URL issued");
            let watch_url = format!("{}/screen?id={id}&token={token}", app.base_endpoint);
            answer(
                StatusCode::OK,
                &json!({"status": "ok", "watch_url": watch_url}),
            )
        }
        Err(failure) => {
            tracing::error!(%failure, "watch URL not signed");
            let message = "the watch URL could not be made; try again";
            error(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
        }
    }
}

fn sign(app: &App, visitor: &Visitor, request: WatchRequest) -> std::io::Result<String> {
    let grant = WatchGrant {
        short_id: visitor.short_id.clone(),
        agent: request.agent,
        permissions: request.permissions,
        branding: request.branding,
        nonce: token::nonce()?,
    };
    app.signer
        .seal(Purpose::Watch, grant, SystemTime::now(), app.token_ttl)
}

/// Answers the other methods of a path with 405; `allow` lists those it has.
fn only(methods: MethodRouter<Arc<App>>, allow: &'static str) -> MethodRouter<Arc<App>> {
    methods.fallback(move || async move {
        let message = format!("this path allows {allow}");
        let code = "method_not_allowed";
        let mut response = error(StatusCode::METHOD_NOT_ALLOWED, code, &message);
        let allow = HeaderValue::from_static(allow);
        response.headers_mut().insert(ALLOW, allow);
        response
    })
}

async fn unknown_path() -> Response {
    error(
        StatusCode::NOT_FOUND,
        "not_found",
        "there is no such API path",
    )
}

fn unknown_visitor() -> Response {
    let message = "there is no visitor of this short id";
    error(StatusCode::NOT_FOUND, "not_found", message)
}

fn bad_field(field: &str, message: &str) -> Response {
    let body = json!({
        "status": "error", "error": "invalid_request", "field": field, "message": message,
    });
    answer(StatusCode::BAD_REQUEST, &body)
}

/// An error in the service's shape (contract section 3) with words for people.
pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Response {
    answer(
        status,
        &json!({"status": "error", "error": code, "message": message}),
    )
}

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => {
            let headers = [
                (CONTENT_TYPE, "application/json"),
                (CACHE_CONTROL, "no-store"),
            ];
            (status, headers, body).into_response()
        }
        // Only a map with keys that are not strings could get here, and there is none.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[&str], lines: &[&'static str]) -> Result<(), &'static str> {
        let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(AUTHORIZATION, HeaderValue::from_static(line));
        }
        Keys::new(&keys).check(&headers)
    }

    #[test]
    fn only_a_bare_key_given_once_is_let_in() {
        assert_eq!(check(&[], &["key"]), Err("api_not_enabled"));
        assert_eq!(check(&["key"], &["key"]), Ok(()));
        assert_eq!(check(&["old", "new"], &["old"]), Ok(()));
        assert_eq!(check(&["old", "new"], &["new"]), Ok(()));
        for lines in [
            &[][..],
            &[""],
            &["ke"],
            &["keys"],
            &["KEY"],
            &["Bearer key"],
            &["key", "key"],
        ] {
            assert_eq!(check(&["key"], lines), Err("invalid_api_key"), "{lines:?}");
        }
    }
}
