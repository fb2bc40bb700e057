//! The lines of requests: what is in one, whether it is written, and, where the log is JSON, its bytes.
//!
//! They are most of a log. As JSON they are written here, in the very form that other lines have: as
//! events, field by field through a visitor, each took half of the instructions of a whole request.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use tracing_appender::non_blocking::NonBlocking;

use super::sampling::Sampling;
use super::trace::TraceId;
use crate::config::Log;

/// The process' lines of requests.
pub struct AccessLog {
    on: AtomicBool,
    /// What part of them is written.
    pub(super) sampling: Sampling,
    /// Where they go as JSON; otherwise they are events as all others are.
    json: Option<NonBlocking>,
}

impl AccessLog {
    /// As `log` says; `json`: where to, if they are to be JSON.
    pub(super) fn new(log: &Log, json: Option<NonBlocking>) -> Self {
        let this = Self {
            on: AtomicBool::default(),
            sampling: Sampling::new(&log.sample),
            json,
        };
        this.follow(log);
        this
    }

    /// From now on as `log` says.
    pub(super) fn follow(&self, log: &Log) {
        self.on.store(log.access, Ordering::Relaxed);
        self.sampling.follow(&log.sample);
    }

    /// Whether any are written.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// A worker's way to it.
    pub(super) fn lines(&self) -> Option<RefCell<Lines>> {
        let writer = self.json.clone()?;
        Some(RefCell::new(Lines {
            writer,
            line: Vec::with_capacity(512),
            clock: WallClock::default(),
        }))
    }
}

/// Where a worker's lines are made.
pub(super) struct Lines {
    writer: NonBlocking,
    line: Vec<u8>,
    clock: WallClock,
}

impl Lines {
    /// Hands a line to the thread that writes; one that does not fit its queue is counted there.
    pub(super) fn write(&mut self, fields: &Line<'_>) {
        let Self {
            writer,
            line,
            clock,
        } = self;
        let whole = Whole {
            timestamp: clock.now(),
            level: "INFO",
            fields,
            target: TARGET,
        };
        line.clear();
        if serde_json::to_writer(&mut *line, &whole).is_ok() {
            line.push(b'\n');
            drop(writer.write_all(line));
        }
    }
}

/// What events of requests are called.
pub(super) const TARGET: &str = "access";

#[derive(Serialize)]
struct Whole<'a> {
    timestamp: &'a str,
    level: &'static str,
    #[serde(flatten)]
    fields: &'a Line<'a>,
    target: &'static str,
}

/// What a line says. What is `None` is not in it.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    pub(super) request_id: &'a str,
    /// Where it is not the peer's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client: Option<IpAddr>,
    pub(super) peer: &'a str,
    pub(super) proto: &'static str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub(super) trace_id: Option<TraceId>,
    pub(super) method: &'static str,
    pub(super) route: &'static str,
    pub(super) status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_id: Option<&'a str>,
    pub(super) duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream_ms: Option<f64>,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    /// What part of the lines like this one is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sample: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) aborted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) closed_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code_class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cut: Option<bool>,
}

fn as_text<S: Serializer>(id: &Option<TraceId>, to: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => to.collect_str(id),
        None => to.serialize_none(),
    }
}

impl Line<'_> {
    /// As an event: a line of text.
    pub(super) fn tell(&self) {
        tracing::info!(
            target: TARGET,
            request_id = self.request_id,
            client = self.client.map(tracing::field::display),
            peer = self.peer,
            proto = self.proto,
            trace_id = self.trace_id.as_ref().map(tracing::field::display),
            method = self.method,
            route = self.route,
            status = self.status,
            error = self.error,
            key_id = self.key_id,
            duration_ms = self.duration_ms,
            upstream_ms = self.upstream_ms,
            bytes_received = self.bytes_received,
            bytes_sent = self.bytes_sent,
            sample = self.sample,
            aborted = self.aborted,
            closed_by = self.closed_by,
            code_class = self.code_class,
            cut = self.cut,
        );
    }
}

/// Tells the time; what is not of a second is put together once a second.
#[derive(Default)]
struct WallClock {
    text: String,
    second: i64,
}

impl WallClock {
    /// Now, as RFC 3339 with microseconds.
    fn now(&mut self) -> &str {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        self.at(now.as_secs() as i64, now.subsec_micros())
    }

    fn at(&mut self, second: i64, micros: u32) -> &str {
        if self.text.is_empty() || self.second != second {
            self.second = second;
            let at = OffsetDateTime::from_unix_timestamp(second);
            let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            self.text.clear();
            let (date, month) = (at.date(), u8::from(at.month()));
            let (year, day) = (date.year(), date.day());
            let (hour, minute, second) = at.to_hms();
            let _infallible = write!(
                self.text,
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}."
            );
        }
        self.text.truncate(TO_THE_SECOND);
        let _infallible = write!(self.text, "{micros:06}Z");
        &self.text
    }
}

/// Length of `2026-11-25T08:30:00.`
const TO_THE_SECOND: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_told_to_the_microsecond() {
        let mut clock = WallClock::default();
        assert_eq!(clock.at(951_782_399, 7), "2000-02-28T23:59:59.000007Z");
        assert_eq!(
            clock.at(951_782_399, 999_999),
            "2000-02-28T23:59:59.999999Z"
        );
        assert_eq!(clock.at(951_782_400, 0), "2000-02-29T00:00:00.000000Z");
        assert_eq!(clock.at(0, 1), "1970-01-01T00:00:00.000001Z");
    }
}
