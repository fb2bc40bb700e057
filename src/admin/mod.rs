//! Health, metrics and the live page for operators, on an address of their own, plain HTTP.

mod attention;
mod live;
mod page;
mod passing;
mod scrape;
mod standing;
mod view;
mod words;

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::live::Events;
pub use self::live::Live;
use crate::drain::Drain;
use crate::snapshot::Current;
use crate::telemetry::{Exposition, LogGuard, Metrics};
use crate::upstream::Admission;
use crate::upstream::health::Health;

/// What the admin address tells of.
pub struct Admin {
    /// The process' metrics.
    pub metrics: Arc<Metrics>,
    /// What is in force.
    pub current: Current,
    /// The requests in flight to the backend.
    pub admission: Arc<Admission>,
    /// Whether listeners are bound and everything is loaded.
    pub started: Cell<bool>,
    /// Whether the process is about to end.
    pub draining: Cell<bool>,
    /// The backend.
    pub health: Health,
    /// The process' tasks.
    pub drain: Drain,
    /// The log.
    pub log: Arc<LogGuard>,
    /// What the live page remembers.
    pub live: Live,
}

/// An answer's body: all at once, or events as they come.
type Body = Either<Full<Bytes>, Events>;

/// Serves until the process ends, or another one answers from now on: `left`.
pub async fn serve(listener: TcpListener, admin: Rc<Admin>, left: CancellationToken) {
    drop(tokio::task::spawn_local(Rc::clone(&admin).keep_live()));
    loop {
        let accepted = tokio::select! {
            biased;
            () = left.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let (admin, left) = (Rc::clone(&admin), left.clone());
        // Not one of the tasks that a drain waits for: it is asked until the very end.
        drop(tokio::task::spawn_local(async move {
            let service = service_fn(|request| {
                let answer = admin.live(&request);
                let answer = answer.unwrap_or_else(|| admin.answer(&request).map(Either::Left));
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => return drop(ended),
                () = left.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            drop(connection.await);
        }));
    }
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        match request.uri().path() {
            // The process: an answer at all is the answer. Never asks the backend.
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/startupz" if self.started.get() => text(StatusCode::OK, "ok\n"),
            "/startupz" => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            "/readyz" => match self.unready() {
                None => text(StatusCode::OK, "ok\n"),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
            },
            "/metrics" => self.metrics(exposition(request.headers())),
            _ => text(
                StatusCode::NOT_FOUND,
                "here are /, /events, /livez, /readyz, /startupz and /metrics\n",
            ),
        }
    }

    fn unready(&self) -> Option<&'static str> {
        match () {
            () if self.draining.get() => Some("draining\n"),
            () if !self.started.get() => Some("starting\n"),
            () if !self.health.is_up() => Some("the backend accepts no connections\n"),
            () => None,
        }
    }

    /// What is known when it is asked, told to the metrics.
    fn look(&self) {
        let dropped = self.log.dropped();
        self.metrics
            .process
            .log_dropped
            .inc_by(dropped.saturating_sub(self.metrics.process.log_dropped.get()));
        self.metrics
            .process
            .drain_remaining
            .set(if self.draining.get() {
                self.drain.remaining() as i64
            } else {
                0
            });
        self.admission
            .show(&self.current.load().upstream.admission, &self.metrics);
    }

    /// All series, in the text format.
    fn text(&self) -> String {
        self.look();
        String::from_utf8(self.metrics.expose(Exposition::Text)).unwrap_or_default()
    }

    fn metrics(&self, exposition: Exposition) -> Response<Full<Bytes>> {
        self.look();
        let mut response = Response::new(Full::from(self.metrics.expose(exposition)));
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static(exposition.content_type());
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(VARY, HeaderValue::from_static("accept"));
        response
    }
}

/// The format that is wanted most (RFC 9110 section 12.5.1). Who names OpenMetrics in a version that
/// is spoken here, and wants nothing else more, gets it; everybody else gets the older format.
fn exposition(headers: &HeaderMap) -> Exposition {
    let (mut open, mut text) = (0, 0);
    for range in headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
    {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let (mut weight, mut spoken) = (1000, true);
        for parameter in parts {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("q") {
                // Thousandths: whole numbers compare.
                let q = value.parse::<f32>().unwrap_or(0.0).clamp(0.0, 1.0);
                weight = (q * 1000.0) as u16;
            } else if name.eq_ignore_ascii_case("version") {
                spoken = value == "1.0.0";
            }
        }
        if media.eq_ignore_ascii_case("application/openmetrics-text") && spoken {
            open = open.max(weight);
        } else if media.eq_ignore_ascii_case("text/plain") {
            text = text.max(weight);
        }
    }
    if open > 0 && open >= text {
        Exposition::OpenMetrics
    } else {
        Exposition::Text
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
