//! The life of a request, top to bottom.
//!
//! A fresh snapshot for each request: a key that was removed fails on the next request of an open
//! connection. The path that was judged is the path that is forwarded: there is only one.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::Read;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HOST, LOCATION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::body::{Body, End};
use crate::drain::Drain;
use crate::names::Route;
use crate::peer::{self, Peer};
use crate::reject::{Form, Reject};
use crate::snapshot::{Current, Snapshot};
use crate::stages::headers::{self, Framing, Outgoing};
use crate::stages::route::Place;
use crate::stages::websocket;
use crate::telemetry::{Record, Recorder};
use crate::upstream::{Answer, Ask, Connection, Download, Upload, Upstream};

/// A snapshot as one worker shares it among its requests: cloning it touches no counter that
/// other cores touch.
pub type Seen = Rc<Arc<Snapshot>>;

/// What one worker has of its own.
pub struct Worker {
    current: Current,
    /// The snapshot seen last.
    seen: RefCell<Seen>,
    /// Its connections to the backend.
    pub upstream: Upstream,
    /// Its way to the metrics.
    pub recorder: Rc<Recorder>,
    /// The process' tasks.
    pub drain: Drain,
    /// Begins every request id of this worker; the count ends it.
    id_prefix: u64,
    id_count: Cell<u64>,
}

impl Worker {
    /// A worker with no connection yet.
    pub fn new(current: Current, recorder: Rc<Recorder>, drain: Drain) -> Self {
        Self {
            seen: RefCell::new(Rc::new(current.load_full())),
            upstream: Upstream::new(Arc::clone(&recorder.metrics)),
            current,
            recorder,
            drain,
            id_prefix: fastrand::u64(..),
            id_count: Cell::new(0),
        }
    }

    /// What is in force now.
    pub fn snapshot(&self) -> Seen {
        let mut seen = self.seen.borrow_mut();
        if !std::ptr::eq(Arc::as_ptr(&**seen), Arc::as_ptr(&self.current.load())) {
            *seen = Rc::new(self.current.load_full());
        }
        Rc::clone(&seen)
    }

    fn next_id(&self) -> HeaderValue {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let count = self.id_count.replace(self.id_count.get() + 1);
        let number = u128::from(self.id_prefix) << 64 | u128::from(count);
        let mut text = [0; 32];
        for (i, digit) in text.iter_mut().enumerate() {
            *digit = HEX[(number >> (124 - 4 * i)) as usize & 15];
        }
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
    }
}

/// What the requests of one client connection share.
pub struct Session {
    /// The worker that holds the connection.
    pub worker: Rc<Worker>,
    /// Who is connected.
    pub peer: Rc<Peer>,
    /// Requests that are not answered to the last byte.
    pub in_flight: Cell<usize>,
    /// Since when there is none; `None`: no request came yet.
    pub quiet_since: Cell<Option<tokio::time::Instant>>,
    /// When the first byte of a request came whose head is not complete.
    pub head_since: Cell<Option<tokio::time::Instant>>,
    /// Whether the last request had a body, of which something may be unread.
    pub sent_body: Cell<bool>,
    /// Set when both sides agreed to a tunnel.
    pub tunnel: RefCell<Option<Tunnel>>,
}

/// A tunnel that was agreed to.
pub struct Tunnel {
    /// The backend's side.
    pub backend: Connection,
    /// The record of the request that opened it.
    pub record: Record,
}

/// Ends a request: its record, and its place among those in flight.
pub struct Finish {
    /// Gone where a tunnel took it over.
    record: Option<Record>,
    _in_flight: InFlight,
}

impl End for Finish {
    fn ended(self, sent: u64, complete: bool) {
        if let Some(record) = self.record {
            record.ended(sent, complete);
        }
    }
}

struct InFlight(Rc<Session>);

impl InFlight {
    fn begin(session: Rc<Session>) -> Self {
        session.in_flight.set(session.in_flight.get() + 1);
        session.head_since.set(None);
        Self(session)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.quiet_since.set(Some(tokio::time::Instant::now()));
    }
}

/// The body of an answer to a client.
pub type AnswerBody = Body<Download, Finish>;

/// Answers one request. Always an answer: what goes wrong inside becomes one here, and is told
/// once, when the last byte of it is through.
pub async fn handle(
    session: Rc<Session>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let mut record = Record::begin(
        &session.worker.recorder,
        &session.peer,
        request.method(),
        request.version(),
    );
    let in_flight = InFlight::begin(session);
    in_flight.0.sent_body.set(!request.body().is_end_stream());
    let session = &in_flight.0;
    record.request_id = request_id(session, request.headers());
    let id = record.request_id.clone();
    let preference = Preference::of(request.headers());
    let asked_head = request.method() == Method::HEAD;
    // What is left of a small body is read away; a connection with more of it unread is closed
    // after the answer, and that is said (RFC 9112 section 9.6). HTTP/2 has streams for this.
    let http_1 = request.version() != Version::HTTP_2;
    let large = request
        .body()
        .size_hint()
        .exact()
        .is_none_or(|length| length > SMALL_BODY);
    let mut unread = false;
    let answered = answer(session, request, &mut record)
        .await
        .unwrap_or_else(|reject| {
            record.reject = Some(reject);
            unread = large;
            Answered::Full(reject.answer(
                preference.form(record.route),
                id.to_str().unwrap_or_default(),
            ))
        });
    let mut response = match answered {
        Answered::Streams(answer) => {
            record.status = answer.status;
            unread = answer.early;
            let finish = Finish {
                record: Some(record),
                _in_flight: in_flight,
            };
            let mut response = Response::new(Body::stream(answer.body, finish));
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            response
        }
        Answered::Full(mut response) => {
            record.status = response.status();
            let finish = Finish {
                record: Some(record),
                _in_flight: in_flight,
            };
            if asked_head {
                without_body(&mut response);
            }
            response.map(|bytes| Body::full(bytes, Some(finish)))
        }
        Answered::Switches(response, backend) => {
            record.status = response.status();
            record.upgraded();
            *session.tunnel.borrow_mut() = Some(Tunnel { backend, record });
            let finish = Finish {
                record: None,
                _in_flight: in_flight,
            };
            response.map(|()| Body::full(Bytes::new(), Some(finish)))
        }
    };
    response.headers_mut().insert(X_REQUEST_ID, id);
    if unread && http_1 {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// What may be left of a body and still be read away, bytes.
const SMALL_BODY: u64 = 4 << 10;

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
    request: Request<Incoming>,
    record: &mut Record,
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

    // The key, then the limits: both for the API alone.
    let client = client(&snapshot, session, &head.headers, record);
    if routed.route.is_api() {
        let key = authorize(&snapshot, &session.worker.recorder, &head.headers, record)?;
        snapshot
            .rate_limits
            .check(key, client)
            .map_err(|limited| Reject::RateLimited {
                retry_after: limited.retry_after,
            })?;
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
    let framing = framing(&head.headers, &body)?;
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
        forwarded: &snapshot.forwarded[host],
        peer: &session.peer.text,
        trusted: session.peer.trusted,
        request_id: &record.request_id,
        framing,
        upgrade: upgrade.is_some(),
        identity: rewrites_body,
    }
    .write(&mut out);
    let upload =
        (framing != Framing::None).then(|| Upload::new(body, framing == Framing::Chunked, limit));
    let ask = Ask {
        head: head.method == Method::HEAD,
        idempotent: is_idempotent(&head.method),
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
    if rewrites_body && is_json(&answer.headers) {
        let patience = snapshot.upstream.response_timeout;
        return tokio::time::timeout(patience, rewrite_body(&snapshot, answer))
            .await
            .unwrap_or(Err(Reject::UpstreamTimeout));
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

fn authorize(
    snapshot: &Snapshot,
    recorder: &Recorder,
    headers: &HeaderMap,
    record: &mut Record,
) -> Result<usize, Reject> {
    let checked = snapshot.keys.check(headers);
    recorder.authorized(checked.map(|position| snapshot.keys.name(position)));
    let position = checked?;
    record.key = Some(Arc::clone(snapshot.keys.name(position)));
    Ok(position)
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

fn framing(headers: &HeaderMap, body: &Incoming) -> Result<Framing, Reject> {
    // The library would take the last coding and drop a length beside it; what is framed in two
    // ways, or coded in a way the backend is not told of, is refused (RFC 9112 section 6.1).
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let plain = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        if !plain || headers.contains_key(CONTENT_LENGTH) {
            return Err(Reject::BadRequest(
                "The body must be framed by Content-Length or by Transfer-Encoding: chunked.",
            ));
        }
    }
    Ok(match body.size_hint().exact() {
        // "Content-Length: 0" is passed on: some backends want it with POST.
        Some(0) if headers.contains_key(CONTENT_LENGTH) => Framing::Length(0),
        _ if body.is_end_stream() => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    })
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    )
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

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    let kind = kind
        .split(|b| *b == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    kind.eq_ignore_ascii_case(b"application/json")
}

/// The largest JSON answer that is read, compressed or not.
const MAX_JSON: usize = 1 << 20;

/// Reads a small JSON answer and maps its fields. What turns out to be larger, or is encoded in a
/// way we do not read, is an answer that cannot be made right: an error, not a wrong URL.
async fn rewrite_body(snapshot: &Snapshot, answer: Answer) -> Result<Answered, Reject> {
    let Answer {
        status,
        mut headers,
        mut body,
        ..
    } = answer;
    let mut bytes = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_broken| Reject::UpstreamFailed)?;
        bytes.extend_from_slice(frame.data_ref().map_or(&b""[..], Bytes::as_ref));
        if bytes.len() > MAX_JSON {
            tracing::warn!("a JSON answer that would have to be rewritten is over 1 MiB");
            return Err(Reject::UpstreamFailed);
        }
    }
    let encoding = headers
        .get(CONTENT_ENCODING)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let plain = match encoding {
        b"" | b"identity" => bytes.clone().freeze(),
        b"gzip" | b"x-gzip" => inflate(&bytes).ok_or(Reject::UpstreamFailed)?,
        _ => {
            tracing::warn!("the backend compressed an answer although it was asked not to");
            return Err(Reject::UpstreamFailed);
        }
    };
    let bytes = match snapshot.rewrite.json(&plain) {
        None => bytes.freeze(),
        Some(mapped) => {
            for stale in [
                CONTENT_ENCODING,
                ETAG,
                HeaderName::from_static("content-md5"),
                HeaderName::from_static("digest"),
                HeaderName::from_static("content-digest"),
                HeaderName::from_static("repr-digest"),
            ] {
                headers.remove(stale);
            }
            headers.insert(CONTENT_LENGTH, HeaderValue::from(mapped.len()));
            mapped.into()
        }
    };
    let mut response = Response::new(bytes);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(Answered::Full(response))
}

fn inflate(bytes: &[u8]) -> Option<Bytes> {
    let mut plain = Vec::new();
    let read = flate2::read::GzDecoder::new(bytes)
        .take(MAX_JSON as u64 + 1)
        .read_to_end(&mut plain)
        .ok()?;
    (read <= MAX_JSON).then(|| plain.into())
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
