//! The life of a request, top to bottom.
//!
//! A fresh snapshot for each request: a key that was removed fails on the next request of an open
//! connection. The path that was judged is the path that is forwarded: there is only one.

mod json;
mod session;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, LOCATION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;

use crate::body::{Body, Inbound};
use crate::names::Route;
use crate::peer;
use crate::rate_limit::{Fields, Limited, Subject};
use crate::reject::{Form, Reject};
use crate::snapshot::Snapshot;
use crate::stages::auth::Admitted;
use crate::stages::headers::{self, Authorization, Framing, Outgoing};
use crate::stages::lookup;
use crate::stages::route::Place;
use crate::stages::websocket;
use crate::telemetry::{Record, Recorder};
use crate::upstream::{Answer, Ask, Connection, Upload};

use session::InFlight;
pub use session::{AnswerBody, Finish, Seen, Session, Tunnel, Worker};

/// Answers one request. Always an answer: what goes wrong inside becomes one here, and is told
/// once, when the last byte of it is through. A `flaw` is what was found wrong with the request
/// while it was read; such a one goes no further than its answer.
pub async fn handle(
    session: Rc<Session>,
    request: Request<Inbound>,
    flaw: Option<Reject>,
) -> Response<AnswerBody> {
    let mut record = Record::begin(
        &session.worker.recorder,
        &session.peer,
        request.method(),
        request.version(),
    );
    let in_flight = InFlight::begin(session);
    let session = &*in_flight;
    record.request_id = request_id(session, request.headers());
    let id = record.request_id.clone();
    let preference = Preference::of(request.headers());
    let asked_head = request.method() == Method::HEAD;
    let mut limits = Limits::default();
    let answered = match flaw {
        None => answer(session, request, &mut record, &mut limits).await,
        Some(flaw) => {
            let routed = session.worker.snapshot().routes.route(request.uri().path());
            record.route = routed;
            Err(flaw)
        }
    };
    let answered = answered.unwrap_or_else(|reject| {
        record.reject = Some(reject);
        Answered::Full(reject.answer(
            preference.form(record.route),
            id.to_str().unwrap_or_default(),
            limits.refused_by.as_deref(),
        ))
    });
    let mut response = match answered {
        Answered::Streams(answer) => {
            record.status = answer.status;
            let finish = Finish::new(Some(record), in_flight);
            let mut response = Response::new(Body::stream(answer.body, finish));
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            response
        }
        Answered::Full(mut response) => {
            record.status = response.status();
            let finish = Finish::new(Some(record), in_flight);
            if asked_head {
                without_body(&mut response);
            }
            response.map(|bytes| Body::full(bytes, Some(finish)))
        }
        Answered::Switches(response, backend) => {
            record.status = response.status();
            record.upgraded();
            *session.tunnel.borrow_mut() = Some(Tunnel { backend, record });
            let finish = Finish::new(None, in_flight);
            response.map(|()| Body::full(Bytes::new(), Some(finish)))
        }
    };
    response.headers_mut().insert(X_REQUEST_ID, id);
    if let Some(fields) = limits.fields
        && !response.status().is_redirection()
    {
        // Beside those of the backend, if it has limits of its own: the fields are lists.
        let headers = response.headers_mut();
        headers.append(RATELIMIT_POLICY, fields.policy);
        headers.append(RATELIMIT, fields.state);
    }
    response
}

/// What the limits said of a request.
#[derive(Default)]
struct Limits {
    fields: Option<Fields>,
    refused_by: Option<Arc<str>>,
}

impl Limits {
    /// The refusal that `limited` is.
    fn refuse(&mut self, limited: Limited) -> Reject {
        let reject = limited.reject();
        self.fields = limited.fields;
        self.refused_by = Some(limited.policy);
        reject
    }
}

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

enum Answered {
    /// The backend's answer as it comes.
    Streams(Answer),
    /// An answer in memory.
    Full(Response<Bytes>),
    /// A 101 of the backend, and the connection to it.
    Switches(Response<()>, Connection),
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The way of a request through the stages.
async fn answer(
    session: &Session,
    request: Request<Inbound>,
    record: &mut Record,
    limits: &mut Limits,
) -> Result<Answered, Reject> {
    let snapshot = session.worker.snapshot();
    let (head, body) = request.into_parts();
    match head.method {
        Method::CONNECT => return Err(Reject::NotImplemented),
        Method::TRACE => return Err(Reject::MethodNotAllowed),
        _ => {}
    }

    // Route.
    let host = snapshot.routes.host(
        &head.uri,
        head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes),
    )?;
    let routed = snapshot.routes.judge(head.uri.path())?;
    record.route = routed.route;

    // The key and the limits, for the API alone. Who fails too often is not even heard.
    let client = client(&snapshot, session, &head.headers, record);
    let mut key = None;
    let mut authorization = Authorization::Own;
    if routed.route.is_api() {
        let policies = &snapshot.rate_limits;
        let heard = policies.may_authenticate(client);
        heard.map_err(|limited| limits.refuse(limited))?;
        let store = &session.worker.store;
        let authorized = authorize(&snapshot, &session.worker.recorder, &head.headers, record);
        if let Err(reject) = &authorized
            && *reject != Reject::ApiNotEnabled
        {
            let failed = policies.failed(client, store).await;
            failed.map_err(|limited| limits.refuse(limited))?;
        }
        let admitted = authorized?;
        authorization = Authorization::Judged(admitted.forwarded);
        let position = admitted.key;
        let subject = Subject {
            route: routed.route,
            lookup: routed.route == Route::VisitorsSearch
                && lookup::searches_code(head.uri.query()),
            key: position,
            client,
        };
        let admitted = policies.judge(subject, store).await;
        limits.fields = admitted.map_err(|limited| limits.refuse(limited))?;
        key = Some(position);
    }
    let rest = match routed.place {
        Place::Below(rest) => rest,
        Place::Outside => return Err(Reject::NotFound),
        Place::Bare if snapshot.add_slash && !head.headers.contains_key(UPGRADE) => {
            return Ok(Answered::Full(add_slash(&snapshot, head.uri.query())));
        }
        Place::Bare => "".into(),
    };

    // Out to the backend.
    let upgrade = websocket::handshake(&head.method, head.version, &head.headers)?;
    if upgrade.is_some() {
        if session.ahead.get() {
            return Err(Reject::BadRequest(
                "Nothing may follow a WebSocket handshake before its answer.",
            ));
        }
        let store = &session.worker.store;
        let policies = &snapshot.rate_limits;
        let admitted = policies.judge_websocket(key, client, store).await;
        admitted.map_err(|limited| limits.refuse(limited))?;
    }
    let framing = framing(&head.headers, &body);
    let limit = routed.route.is_api().then_some(snapshot.api_max_body);
    if let (Framing::Length(length), Some(limit)) = (framing, limit)
        && length > limit
    {
        return Err(Reject::PayloadTooLarge);
    }
    let rewrites_body = routed.route == Route::WatchUrl && snapshot.rewrite.reads_json();
    let mut out = BytesMut::with_capacity(1 << 10);
    Outgoing {
        method: &head.method,
        path: if snapshot.upstream_base.is_empty() && rest.is_empty() {
            ["/", ""]
        } else {
            [&snapshot.upstream_base, &rest]
        },
        query: head.uri.query(),
        headers: &head.headers,
        authorization,
        is_key: &|value| snapshot.keys.is_key(value),
        forwarded: &snapshot.forwarded[host],
        peer: &session.peer.text,
        trusted: session.peer.trusted,
        request_id: &record.request_id,
        framing,
        upgrade: upgrade.is_some(),
        identity: rewrites_body,
    }
    .write(&mut out);
    let upload = (framing != Framing::None).then(|| {
        Upload::new(
            body,
            framing == Framing::Chunked,
            limit,
            snapshot.body_timeout,
        )
    });
    let ask = Ask {
        head: head.method == Method::HEAD,
        safe: head.method.is_safe(),
        upgrade: upgrade.is_some(),
    };
    let sent = Instant::now();
    let answered = session
        .worker
        .upstream
        .send(&snapshot.upstream, ask, out.freeze(), upload)
        .await;
    let mut answer = answered.map_err(|failure| {
        tracing::debug!(request_id = ?record.request_id, failure = %failure, "no answer from the backend");
        failure.reject()
    })?;
    record.upstream = Some(sent.elapsed());
    record.received = answer.received;

    // And back.
    snapshot.rewrite.headers(&mut answer.headers);
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        return switch(upgrade.as_deref(), answer);
    }
    if rewrites_body && json::is_json(&answer.headers) {
        let mapped = json::map(&snapshot.rewrite, answer);
        let mapped = tokio::time::timeout(snapshot.upstream.response_timeout, mapped).await;
        return mapped
            .unwrap_or(Err(Reject::UpstreamTimeout))
            .map(Answered::Full);
    }
    Ok(Answered::Streams(answer))
}

/// What an answer to HEAD is: the length of the body, not the body.
fn without_body(response: &mut Response<Bytes>) {
    let length = HeaderValue::from(response.body().len());
    response
        .headers_mut()
        .entry(CONTENT_LENGTH)
        .or_insert(length);
    response.body_mut().clear();
}

/// The id a trusted peer gave, or a new one.
fn request_id(session: &Session, headers: &HeaderMap) -> HeaderValue {
    let usable = |id: &&HeaderValue| {
        let plain = |b: &u8| {
            b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'=' | b'+')
        };
        (1..=128).contains(&id.len()) && id.as_bytes().iter().all(plain)
    };
    let given = if session.peer.trusted {
        headers.get(X_REQUEST_ID).filter(usable).cloned()
    } else {
        None
    };
    given.unwrap_or_else(|| session.worker.next_id())
}

fn client(
    snapshot: &Snapshot,
    session: &Session,
    headers: &HeaderMap,
    record: &mut Record,
) -> std::net::IpAddr {
    if !session.peer.trusted {
        return session.peer.address;
    }
    record.client = headers::client_behind(headers, |hop| {
        peer::is_trusted(hop, &snapshot.trusted_proxies)
    });
    record.client.unwrap_or(session.peer.address)
}

fn authorize<'a>(
    snapshot: &'a Snapshot,
    recorder: &Recorder,
    headers: &'a HeaderMap,
    record: &mut Record,
) -> Result<Admitted<'a>, Reject> {
    let checked = snapshot.keys.check(headers);
    recorder.authorized(checked.map(|admitted| &snapshot.key_series[admitted.key]));
    let admitted = checked?;
    record.key = Some(Arc::clone(snapshot.keys.name(admitted.key)));
    Ok(admitted)
}

/// `308` to the base path with its final slash (relative links of the page begin there).
fn add_slash(snapshot: &Snapshot, query: Option<&str>) -> Response<Bytes> {
    let mut target = format!("{}/", snapshot.endpoint.base);
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(target) = HeaderValue::try_from(target) {
        response.headers_mut().insert(LOCATION, target);
    }
    response
}

/// How the body travels on; that it is framed in one way only was seen to where it was read.
fn framing(headers: &HeaderMap, body: &Inbound) -> Framing {
    match body.size_hint().exact() {
        // "Content-Length: 0" is passed on: some backends want it with POST.
        Some(0) if headers.contains_key(CONTENT_LENGTH) => Framing::Length(0),
        _ if body.is_end_stream() => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

/// A 101 is passed on when it is a true answer to the handshake.
fn switch(key: Option<&[u8]>, answer: Answer) -> Result<Answered, Reject> {
    let Answer {
        mut headers, body, ..
    } = answer;
    let genuine = key.is_some_and(|key| websocket::accepts(&headers, key));
    let (true, Some(backend)) = (genuine, body.into_connection()) else {
        return Err(Reject::UpstreamFailed);
    };
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    Ok(Answered::Switches(response, backend))
}

/// In what form this client would like a refusal outside the API.
#[derive(Clone, Copy)]
struct Preference(Form);

impl Preference {
    fn of(headers: &HeaderMap) -> Self {
        let html = headers
            .get(ACCEPT)
            .is_some_and(|accept| memchr::memmem::find(accept.as_bytes(), b"text/html").is_some());
        Self(if html { Form::Html } else { Form::Text })
    }

    fn form(self, route: Route) -> Form {
        if route.is_api() { Form::Json } else { self.0 }
    }
}
