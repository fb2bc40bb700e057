//! The record of one request: begun with its head, ended with the last byte of its answer or
//! with its tunnel; then it becomes one log line and its metrics.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Method, StatusCode, Uri, Version};
use prometheus::IntCounter;

use super::access::{AccessLog, Line, Lines};
use super::closed::{CloseClass, Closed, ClosedBy};
use super::metrics::{KeySeries, Metrics};
use super::trace::{Context, Trace, TraceId, Traced, Tracer};
use crate::names::{METHODS, Route, method_index};
use crate::peer::Peer;
use crate::reject::Reject;

/// A worker's way to the metrics: the handles it has used, so that a request looks none up.
pub struct Recorder {
    /// The process' metrics.
    pub metrics: Arc<Metrics>,
    /// The process' traces, where they are on.
    tracer: Option<Arc<Tracer>>,
    /// The process' lines of requests, and where this worker makes them as JSON.
    log: Arc<AccessLog>,
    lines: Option<RefCell<Lines>>,
    /// For each route and method, the status codes seen and their counters: few, so searched in line.
    requests: RefCell<Vec<Vec<(u16, IntCounter)>>>,
}

impl Recorder {
    /// A recorder for one worker.
    pub fn new(metrics: Arc<Metrics>, tracer: Option<Arc<Tracer>>, log: Arc<AccessLog>) -> Self {
        Self {
            metrics,
            tracer,
            lines: log.lines(),
            log,
            requests: RefCell::new(vec![Vec::new(); Route::ALL.len() * METHODS.len()]),
        }
    }

    /// Counts one key check, with the series of the key that was given.
    pub fn authorized(&self, checked: Result<&KeySeries, Reject>) {
        match checked {
            Ok(key) => key.used(),
            Err(reject) => self.metrics.keys.refused(reject),
        }
    }

    fn count(&self, route: Route, method: usize, status: StatusCode) {
        let code = status.as_u16();
        let mut requests = self.requests.borrow_mut();
        let row = &mut requests[route.index() * METHODS.len() + method];
        if let Some((_, counter)) = row.iter().find(|(seen, _)| *seen == code) {
            counter.inc();
            return;
        }
        let counter = self.metrics.requests.counter(route, method, status);
        counter.inc();
        row.push((code, counter));
    }
}

/// One request, from its head to its end.
pub struct Record {
    recorder: Rc<Recorder>,
    peer: Rc<Peer>,
    started: Instant,
    method: usize,
    version: Version,
    /// What it is for.
    pub route: Route,
    /// The name of its key.
    pub key: Option<Arc<str>>,
    /// The client's address, when it is not the peer's.
    pub client: Option<std::net::IpAddr>,
    /// Its id, once known.
    pub request_id: http::HeaderValue,
    /// The answer's status.
    pub status: StatusCode,
    /// Why the gateway refused it.
    pub reject: Option<Reject>,
    /// Time the backend took for the head of its answer.
    pub upstream: Option<Duration>,
    /// Bytes of its body.
    pub received: u64,
    /// The trace it belongs to, where traces are on.
    trace: Option<Box<Trace>>,
    /// Whether it became a tunnel.
    tunnel: bool,
    ended: bool,
}

impl Record {
    /// Begins with the head of a request.
    pub fn begin(
        recorder: &Rc<Recorder>,
        peer: &Rc<Peer>,
        method: &Method,
        version: Version,
    ) -> Self {
        recorder.metrics.requests.inflight.inc();
        Self {
            recorder: Rc::clone(recorder),
            peer: Rc::clone(peer),
            started: Instant::now(),
            method: method_index(method),
            version,
            route: Route::None,
            key: None,
            client: None,
            request_id: http::HeaderValue::from_static(""),
            // What is told of a client that left before it had an answer.
            status: StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            reject: None,
            upstream: None,
            received: 0,
            trace: None,
            tunnel: false,
            ended: false,
        }
    }

    /// Measures the head, in the terms of the limits it is under.
    pub fn measure(&self, uri: &Uri, headers: &HeaderMap) {
        let h2 = self.version == Version::HTTP_2;
        // Over HTTP/2 a field weighs 32 bytes more than its name and value (RFC 9113 section
        // 6.5.2), over HTTP/1.1 `: ` and the end of its line.
        let each = if h2 { 32 } else { 4 };
        let fields: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + each)
            .sum();
        let target = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
        let first = METHODS[self.method].len() + target;
        let rest = if h2 {
            // `:method`, `:scheme`, `:authority`, `:path`
            29 + 5 + 4 * each + uri.authority().map_or(0, |host| host.as_str().len())
        } else {
            " ".len() + " HTTP/1.1\r\n\r\n".len()
        };
        let requests = &self.recorder.metrics.requests;
        requests
            .header_bytes
            .observe((first + rest + fields) as f64);
        requests.header_fields.observe(headers.len() as f64);
    }

    /// Finds the trace it belongs to, where traces are on.
    pub fn trace(&mut self, headers: &HeaderMap) {
        if let Some(tracer) = &self.recorder.tracer {
            self.trace = Some(tracer.begin(headers, self.peer.trusted));
        }
    }

    /// It is about to be sent to the backend: the context that goes with it, where traces are on.
    pub fn calls(&mut self) -> Option<Context> {
        let trace = self.trace.as_mut()?;
        Some(trace.call(self.started.elapsed()))
    }

    /// What came of the call to the backend, and how long that took.
    pub fn called(&mut self, took: Duration, outcome: Result<StatusCode, Reject>) {
        if outcome.is_ok() {
            self.upstream = Some(took);
        }
        if let Some(call) = self.trace.as_mut().and_then(|trace| trace.call.as_mut()) {
            call.took = Some(took);
            call.outcome = outcome.map(|status| status.as_u16()).map_err(Reject::code);
        }
    }

    /// Tells its trace, if it is one that is told and has not been: whether it did.
    fn tell_trace(&mut self, took: Duration, complete: bool) -> bool {
        let (Some(trace), Some(tracer)) = (&mut self.trace, &self.recorder.tracer) else {
            return false;
        };
        if !trace.is_told() {
            return false;
        }
        trace.was_told();
        let left = self.status.as_u16() == 499;
        tracer.tell(Traced {
            trace_id: trace.id,
            span: trace.span,
            parent: trace.parent,
            started: SystemTime::now().checked_sub(took).unwrap_or(UNIX_EPOCH),
            took,
            method: self.method,
            version: self.version,
            route: self.route,
            status: (!left).then_some(self.status.as_u16()),
            error: match self.reject {
                Some(reject) => Some(reject.code()),
                None if left || !complete => Some("aborted"),
                None => None,
            },
            call: trace.call.take(),
        });
        if !self.tunnel {
            let requests = &self.recorder.metrics.requests;
            requests
                .exemplars
                .note(self.route, took.as_secs_f64(), trace.id);
        }
        true
    }

    /// The answer was a 101 and both sides agreed: the request is over for the gauges, the record
    /// goes on until the tunnel ends.
    pub fn upgraded(&mut self) {
        let metrics = &self.recorder.metrics;
        metrics.requests.inflight.dec();
        self.recorder.count(self.route, self.method, self.status);
        metrics.websocket_active(self.route).inc();
        self.tunnel = true;
        // A span of hours is none that anybody finds: the handshake is what is told.
        self.tell_trace(self.started.elapsed(), true);
    }

    /// The answer ended `at` that time: `sent` bytes of its body, and whether that was all of it.
    pub fn ended(mut self, at: Instant, sent: u64, complete: bool) {
        self.end(at, (sent, complete), None);
    }

    /// The tunnel is over.
    pub fn tunnel_ended(mut self, closed: Closed) {
        self.received = closed.received;
        self.end(Instant::now(), (closed.sent, true), Some(closed));
    }

    fn end(&mut self, at: Instant, (sent, complete): (u64, bool), closed: Option<Closed>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = at.duration_since(self.started);
        let traced = self.tell_trace(took, complete);
        let metrics = &self.recorder.metrics;
        match closed {
            Some(closed) => {
                metrics.websocket_active(self.route).dec();
                metrics.websocket_closed(closed.by, closed.class);
                metrics.tunnels.duration.observe(took.as_secs_f64());
                if closed.cut {
                    metrics.process.drain_cut_tunnels.inc();
                }
            }
            None => {
                metrics.requests.inflight.dec();
                self.recorder.count(self.route, self.method, self.status);
                metrics.requests.duration[self.route.index()].observe(took.as_secs_f64());
            }
        }
        if let Some(upstream) = self.upstream {
            metrics.upstream.duration.observe(upstream.as_secs_f64());
        }
        if let Some(reject) = self.reject {
            metrics.requests.rejected[reject.index()].inc();
        }
        self.log(took, (sent, complete), closed, traced);
    }

    /// Writes its line, where lines like it are written.
    fn log(
        &self,
        took: Duration,
        (sent, complete): (u64, bool),
        closed: Option<Closed>,
        traced: bool,
    ) {
        let log = &self.recorder.log;
        if !log.is_on() {
            return;
        }
        let part = log.sampling.part(self.status);
        if part < 1.0 && !traced && complete && fastrand::f64() >= part {
            return;
        }
        let milliseconds = |took: Duration| took.as_micros() as f64 / 1e3;
        let line = Line {
            request_id: self.request_id.to_str().unwrap_or_default(),
            client: self.client,
            peer: &self.peer.text,
            proto: if self.version == Version::HTTP_2 {
                "h2"
            } else {
                "h1"
            },
            trace_id: self.trace.as_ref().map(|trace| TraceId(trace.id)),
            method: METHODS[self.method],
            route: self.route.as_str(),
            status: self.status.as_u16(),
            error: self.reject.map(Reject::code),
            key_id: self.key.as_deref(),
            duration_ms: milliseconds(took),
            upstream_ms: self.upstream.map(milliseconds),
            bytes_received: self.received,
            bytes_sent: sent,
            sample: (part < 1.0).then_some(part),
            aborted: (!complete).then_some(true),
            closed_by: closed.map(|closed| closed.by.as_str()),
            code_class: closed.map(|closed| closed.class.as_str()),
            cut: closed.and_then(|closed| closed.cut.then_some(true)),
        };
        match &self.recorder.lines {
            Some(lines) => lines.borrow_mut().write(&line),
            None => line.tell(),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Nobody told how it ended.
        let broken = self.tunnel.then_some(Closed {
            by: ClosedBy::Error,
            class: CloseClass::None,
            cut: false,
            received: self.received,
            sent: 0,
        });
        if !self.ended {
            self.end(Instant::now(), (0, self.tunnel), broken);
        }
    }
}
