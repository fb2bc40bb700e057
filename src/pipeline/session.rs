//! What requests share: a worker, a client connection, and their places among those in flight.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;
use tokio::time::Instant;

use crate::body::{Body, End};
use crate::drain::Drain;
use crate::peer::Peer;
use crate::rate_limit::shared::Client;
use crate::snapshot::{Current, Snapshot};
use crate::telemetry::{Record, Recorder, TimedOut};
use crate::upstream::{Admission, Connection, Download, Upstream};

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
    /// Its way to the store of limits that replicas share.
    pub store: Client,
    /// Its way to the metrics.
    pub recorder: Rc<Recorder>,
    /// The process' tasks.
    pub drain: Drain,
    /// Begins every request id of this worker; the count ends it.
    id_prefix: u64,
    id_count: Cell<u64>,
}

impl Worker {
    /// A worker with no connection yet; `admission` is all workers'.
    pub fn new(
        current: Current,
        recorder: Rc<Recorder>,
        drain: Drain,
        admission: Arc<Admission>,
    ) -> Self {
        Self {
            seen: RefCell::new(Rc::new(current.load_full())),
            upstream: Upstream::new(admission, Arc::clone(&recorder.metrics)),
            current,
            store: Client::default(),
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

    pub(super) fn next_id(&self) -> HeaderValue {
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
    pub quiet_since: Cell<Option<Instant>>,
    /// When the first byte of a request came whose head is not complete.
    pub head_since: Cell<Option<Instant>>,
    /// Since when the client takes none of what is to be written.
    pub stalled_since: Cell<Option<Instant>>,
    /// Whether more than one request had come when this one's head was complete.
    pub ahead: Cell<bool>,
    /// Set when both sides agreed to a tunnel.
    pub tunnel: RefCell<Option<Tunnel>>,
}

impl Session {
    /// A connection with `peer` on which nothing has come yet.
    pub fn new(worker: Rc<Worker>, peer: Rc<Peer>) -> Self {
        Self {
            worker,
            peer,
            in_flight: Cell::new(0),
            quiet_since: Cell::new(None),
            head_since: Cell::new(None),
            stalled_since: Cell::new(None),
            ahead: Cell::new(false),
            tunnel: RefCell::new(None),
        }
    }

    /// Whether nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.get() == 0
            && self.head_since.get().is_none()
            && self.stalled_since.get().is_none()
    }

    /// Notes whether the client took what was just written.
    pub fn note_stall(&self, stalled: bool) {
        if !stalled {
            self.stalled_since.set(None);
        } else if self.stalled_since.get().is_none() {
            self.stalled_since.set(Some(Instant::now()));
        }
    }

    /// Counts a client that sent no request in time.
    pub fn count_quiet(&self) {
        let metrics = &self.worker.recorder.metrics;
        metrics.timed_out(match self.quiet_since.get() {
            None => TimedOut::FirstRequest,
            Some(_) => TimedOut::KeepAlive,
        });
    }

    /// Counts a client that took nothing for too long.
    pub fn count_stall(&self) {
        self.worker.recorder.metrics.connections.write_stalls.inc();
    }
}

/// A tunnel that was agreed to.
pub struct Tunnel {
    /// The backend's side.
    pub backend: Box<Connection>,
    /// The record of the request that opened it.
    pub record: Record,
}

/// Ends a request: its record, and its place among those in flight.
pub struct Finish {
    /// Gone where a tunnel took it over.
    record: Option<Record>,
    in_flight: InFlight,
}

impl Finish {
    pub(super) fn new(record: Option<Record>, in_flight: InFlight) -> Self {
        Self { record, in_flight }
    }
}

impl End for Finish {
    fn ended(mut self, sent: u64, complete: bool) {
        let now = Instant::now();
        self.in_flight.ended = Some(now);
        if let Some(record) = self.record {
            record.ended(now.into_std(), sent, complete);
        }
    }
}

pub(super) struct InFlight {
    session: Rc<Session>,
    /// When, where that was looked at already.
    ended: Option<Instant>,
}

impl InFlight {
    pub(super) fn begin(session: Rc<Session>) -> Self {
        session.in_flight.set(session.in_flight.get() + 1);
        session.head_since.set(None);
        Self {
            session,
            ended: None,
        }
    }
}

impl Deref for InFlight {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let ended = self.ended.unwrap_or_else(Instant::now);
        self.session.in_flight.set(self.session.in_flight.get() - 1);
        self.session.quiet_since.set(Some(ended));
    }
}

/// The body of an answer to a client.
pub type AnswerBody = Body<Download, Finish>;
