//! The life of a request, top to bottom.
//!
//! A fresh snapshot for each request: a key that was removed fails on the next request of an open
//! connection. The path that was judged is the path that is forwarded: there is only one.

mod json;
mod judge;
mod session;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, LOCATION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::Body as _;

use crate::body::{Body, Inbound};
use crate::names::Route;
use crate::rate_limit::{Fields, Limited};
use crate::reject::{Form, Reject};
use crate::snapshot::Snapshot;
use crate::stages::auth::Admitted;
use crate::stages::headers::{Framing, TraceContext};
use crate::stages::route::Routed;
use crate::stages::websocket;
use crate::telemetry::{Record, Recorder};
use crate::upstream::{Answer, Connection, Upload};

pub use judge::{Asked, Verdict, Way, Witness, framing, judge};
use session::InFlight;
pub use session::{AnswerBody, Finish, Seen, Session, Tunnel, Worker};

/// Answers one request. Always an answer: what goes wrong inside becomes one here, and is told
/// once, when the last byte of it is through. A `flaw` is what was found wrong with the request
/// while it was read; such a one goes no further than its answer.
pub async fn handle(
    session: Rc<Session>,
    head: &Parts,
    body: Inbound,
    flaw: Option<Reject>,
) -> Response<AnswerBody> {
    let mut record = Record::begin(
        &session.worker.recorder,
        &session.peer,
        &head.method,
        head.version,
    );
    if flaw.is_none() {
        record.measure(&head.uri, &head.headers);
    }
    record.trace(&head.headers);
    let in_flight = InFlight::begin(session);
    let session = &*in_flight;
    record.request_id = request_id(session, &head.headers);
    let id = record.request_id.clone();
    let preference = Preference::of(&head.headers);
    let asked_head = head.method == Method::HEAD;
    let mut limits = Limits::default();
    let answered = match flaw {
        None => answer(session, head, body, &mut record, &mut limits).await,
        Some(flaw) => {
            let routed = session.worker.snapshot().routes.route(head.uri.path());
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
    Switches(Response<()>, Box<Connection>),
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The way of a request through the stages.
async fn answer(
    session: &Session,
    head: &Parts,
    body: Inbound,
    record: &mut Record,
    limits: &mut Limits,
) -> Result<Answered, Reject> {
    let snapshot = session.worker.snapshot();
    let framing = framing(
        &head.headers,
        body.size_hint().exact(),
        body.is_end_stream(),
    );
    let asked = Asked {
        head,
        framing,
        ahead: session.ahead.get(),
        peer: &session.peer,
    };
    let mut told = Told {
        record,
        recorder: &session.worker.recorder,
        limits,
    };
    let judged = judge(&snapshot, &asked, &session.worker.store, &mut told).await;
    // What is not needed any more does not wait with it for the backend.
    let (out, ask, upgrade, limit, rewrites_body) = match judged? {
        Verdict::AddSlash => {
            return Ok(Answered::Full(add_slash(&snapshot, head.uri.query())));
        }
        Verdict::Forward(way) => {
            let mut out = BytesMut::with_capacity(1 << 10);
            let trace = record.calls().map(|context| TraceContext {
                parent: context.parent,
                keeps_state: context.keeps_state,
            });
            way.write(
                &snapshot,
                &asked,
                &record.request_id,
                trace.as_ref(),
                &mut out,
            );
            let ask = way.ask(&snapshot, &head.method);
            (out, ask, way.upgrade, way.limit, way.rewrites_body)
        }
    };
    let upload = (framing != Framing::None).then(|| {
        Upload::new(
            body,
            framing == Framing::Chunked,
            limit,
            snapshot.body_timeout,
        )
    });
    let sent = Instant::now();
    let answered = session
        .worker
        .upstream
        .send(&snapshot.upstream, ask, out.freeze(), upload)
        .await;
    let answered = answered.map_err(|failure| {
        tracing::debug!(request_id = ?record.request_id, failure = %failure, "no answer from the backend");
        failure.reject()
    });
    let outcome = answered.as_ref().map(|answer| answer.status);
    let at = answered
        .as_ref()
        .map_or_else(|_| Instant::now(), |answer| answer.at);
    record.called(at.duration_since(sent), outcome.map_err(|reject| *reject));
    let mut answer = answered?;
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

/// Puts decisions into the record and the metrics as they are made.
struct Told<'a> {
    record: &'a mut Record,
    recorder: &'a Recorder,
    limits: &'a mut Limits,
}

impl Witness for Told<'_> {
    fn admitted(&mut self, fields: Option<Fields>) {
        self.limits.fields = fields;
    }

    fn limited(&mut self, limited: Limited) -> Reject {
        self.limits.refuse(limited)
    }

    fn routed(&mut self, _host: usize, routed: &Routed<'_>) {
        self.record.route = routed.route;
    }

    fn client(&mut self, client: Option<IpAddr>) {
        self.record.client = client;
    }

    fn authorized(&mut self, snapshot: &Snapshot, checked: &Result<Admitted<'_>, Reject>) {
        let key = checked.as_ref().map(|admitted| admitted.key);
        self.recorder.authorized(
            key.map(|key| &snapshot.key_series[key])
                .map_err(|reject| *reject),
        );
        if let Ok(key) = key {
            self.record.key = Some(Arc::clone(snapshot.keys.name(key)));
        }
    }
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
