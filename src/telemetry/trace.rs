//! Traces (W3C Trace Context): the trace a request belongs to, whether it is told, and the queue in
//! which told ones wait. Nothing here waits, and a request that is not traced costs an id.
//!
//! The SDK's own spans are not made on the request's way: each takes some allocations and a list of
//! attributes. A request notes numbers, and whoever sends them makes spans of them (`otlp`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, Version};

use super::metrics::{Metrics, TraceMetrics};
use crate::config;
use crate::names::Route;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The process' traces, where they are on.
pub struct Tracer {
    queue: SyncSender<Traced>,
    /// A request is traced whose random number of 63 bits is below it.
    below: AtomicU64,
    believes_all: AtomicBool,
    metrics: TraceMetrics,
}

/// A request that was traced, when it is over.
#[derive(Clone, Debug)]
pub struct Traced {
    /// The trace it belongs to; never 0.
    pub trace_id: u128,
    /// Its own span; never 0.
    pub span: u64,
    /// The span of who sent it; 0: it began here.
    pub parent: u64,
    /// When its head had come.
    pub started: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Position of its method in [`crate::names::METHODS`].
    pub method: usize,
    /// The protocol it came by.
    pub version: Version,
    /// What it was for.
    pub route: Route,
    /// The status of its answer; `None`: there was nobody left to answer.
    pub status: Option<u16>,
    /// What went wrong with it, in a word.
    pub error: Option<&'static str>,
    /// The call to the backend, if there was one.
    pub call: Option<Call>,
}

/// A call to the backend.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its span; never 0.
    pub span: u64,
    /// From the request's head to its beginning.
    pub after: Duration,
    /// From there to the head of the answer; `None`: the request was over before.
    pub took: Option<Duration>,
    /// The answer's status, or what went wrong.
    pub outcome: Result<u16, &'static str>,
}

/// The trace of a request that is under way.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) id: u128,
    pub(super) span: u64,
    pub(super) parent: u64,
    /// The flags that are passed on: whether it is told, and whether its id is random.
    flags: u8,
    pub(super) call: Option<Call>,
}

/// The context that is passed on to the backend.
pub struct Context {
    /// `traceparent`
    pub parent: [u8; 55],
    /// Whether `tracestate` belongs to it.
    pub keeps_state: bool,
}

impl Tracer {
    /// Traces as `trace` says. What is told is taken from the queue.
    pub fn new(trace: &config::Trace, metrics: &Metrics) -> (Arc<Self>, Receiver<Traced>) {
        let (queue, told) = sync_channel(trace.queue);
        let this = Self {
            queue,
            below: AtomicU64::new(0),
            believes_all: AtomicBool::new(false),
            metrics: metrics.traces.clone(),
        };
        this.follow(trace);
        (Arc::new(this), told)
    }

    /// Decides from now on as `trace` says.
    pub fn follow(&self, trace: &config::Trace) {
        let below = (trace.ratio.get() * (1_u64 << 63) as f64) as u64;
        self.below.store(below, Ordering::Relaxed);
        let all = trace.believe == config::Believe::All;
        self.believes_all.store(all, Ordering::Relaxed);
    }

    /// The trace that a request belongs to: the one its sender names, or a new one. A sender that is
    /// not believed can keep a request from being told, and cannot make us tell it.
    pub(super) fn begin(&self, headers: &HeaderMap, trusted: bool) -> Box<Trace> {
        let number = fastrand::u64(..);
        let drawn = || number >> 1 < self.below.load(Ordering::Relaxed);
        let span = not_0();
        Box::new(match Parent::of(headers) {
            Some(parent) => {
                let asks = parent.flags & SAMPLED != 0;
                let believed = trusted || self.believes_all.load(Ordering::Relaxed);
                let told = asks && (believed || drawn());
                Trace {
                    id: parent.trace_id,
                    span,
                    parent: parent.span,
                    flags: u8::from(told) | parent.flags & RANDOM,
                    call: None,
                }
            }
            // By its lower half, as other services decide it that have the same ratio.
            None => Trace {
                id: u128::from(not_0()) << 64 | u128::from(number),
                span,
                parent: 0,
                flags: u8::from(drawn()) | RANDOM,
                call: None,
            },
        })
    }

    /// Tells of a request that is over. Where the queue is full it is dropped and counted.
    pub(super) fn tell(&self, traced: Traced) {
        if self.queue.try_send(traced).is_err() {
            self.metrics.dropped.inc();
        }
    }
}

const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

fn not_0() -> u64 {
    fastrand::u64(1..)
}

impl Trace {
    /// Whether it is told.
    pub(super) fn is_told(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// It has been told.
    pub(super) fn was_told(&mut self) {
        self.flags &= !SAMPLED;
    }

    /// Begins the call to the backend, `after` the request's head, and gives it its context.
    pub(super) fn call(&mut self, after: Duration) -> Context {
        let span = not_0();
        self.call = Some(Call {
            span,
            after,
            took: None,
            outcome: Err("canceled"),
        });
        let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(self.id, &mut parent[3..35]);
        hex(u128::from(span), &mut parent[36..52]);
        hex(u128::from(self.flags), &mut parent[53..]);
        Context {
            parent,
            keeps_state: self.parent != 0,
        }
    }
}

/// Writes the last digits of a number.
fn hex(number: u128, digits: &mut [u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (i, digit) in digits.iter_mut().rev().enumerate() {
        *digit = HEX[(number >> (4 * i)) as usize & 15];
    }
}

/// What `traceparent` says.
struct Parent {
    trace_id: u128,
    span: u64,
    flags: u8,
}

impl Parent {
    /// Of the only `traceparent`, if it is one (W3C Trace Context section 3.2). Later versions may
    /// say more, and begin like this one.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return None;
        };
        let value = value.as_bytes();
        let (known, more) = value.split_at_checked(55)?;
        let version = number(&known[..2])?;
        let whole = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more.starts_with(b"-"),
        };
        if !whole || [known[2], known[35], known[52]] != *b"---" {
            return None;
        }
        let this = Self {
            trace_id: number(&known[3..35])?,
            span: number(&known[36..52])? as u64,
            flags: number(&known[53..])? as u8,
        };
        (this.trace_id != 0 && this.span != 0).then_some(this)
    }
}

/// A number in lower-case hexadecimal digits.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// A trace id as it is written.
pub(super) struct TraceId(pub(super) u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn tracer(ratio: f64, believe: config::Believe) -> (Arc<Tracer>, Receiver<Traced>) {
        let trace = config::Trace {
            ratio: ratio.try_into().unwrap(),
            believe,
            queue: 2,
            ..config::Trace::default()
        };
        Tracer::new(&trace, &Metrics::new().unwrap())
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in values {
            map.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn a_trace_goes_on_with_a_span_of_our_own() {
        let (tracer, _told) = tracer(0.0, config::Believe::Proxies);
        let mut trace = tracer.begin(&headers(&[SENT]), true);
        assert_eq!(trace.id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(trace.parent, 0x00f0_67aa_0ba9_02b7);
        assert!(trace.is_told());
        let context = trace.call(Duration::ZERO);
        let span = trace.call.as_ref().unwrap().span;
        let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span:016x}-01");
        assert_eq!(str::from_utf8(&context.parent).unwrap(), expected);
        assert!(context.keeps_state && span != trace.span);
    }

    #[test]
    fn what_is_no_context_begins_a_new_trace() {
        let (tracer, _told) = tracer(1.0, config::Believe::All);
        let no_trace = SENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let no_span = SENT.replace("00f067aa0ba902b7", &"0".repeat(16));
        let longer = format!("{SENT}-more");
        for bad in [
            "",
            "00",
            &SENT[..54],
            &SENT.to_uppercase(),
            &SENT.replace("00-", "ff-"),
            &SENT.replace('-', "_"),
            &no_trace,
            &no_span,
            &longer,
            &SENT.replace('7', "g"),
        ] {
            let mut trace = tracer.begin(&headers(&[bad]), true);
            assert_eq!(trace.parent, 0, "{bad}");
            assert!(trace.is_told() && !trace.call(Duration::ZERO).keeps_state);
        }
        assert_eq!(tracer.begin(&headers(&[SENT, SENT]), true).parent, 0);
        let later = SENT.replacen("00", "cc", 1);
        for good in [later.clone(), later + "-what-comes-with-it"] {
            assert_ne!(tracer.begin(&headers(&[&good]), true).parent, 0, "{good}");
        }
    }

    #[test]
    fn the_sender_decides_where_it_is_believed_and_the_ratio_otherwise() {
        let unsampled = SENT.replace("-01", "-00");
        let (proxies, all) = (config::Believe::Proxies, config::Believe::All);
        for (ratio, believe, trusted, sent, told) in [
            (0.0, proxies, true, SENT, true),
            (0.0, proxies, false, SENT, false),
            (0.0, all, false, SENT, true),
            (1.0, proxies, false, SENT, true),
            // Its no is heard of everybody.
            (1.0, proxies, true, &unsampled, false),
            (1.0, all, false, &unsampled, false),
            (1.0, proxies, false, &unsampled, false),
            (1.0, proxies, false, "", true),
            (0.0, all, true, "", false),
        ] {
            let (tracer, _told) = tracer(ratio, believe);
            let trace = tracer.begin(&headers(&[sent]), trusted);
            assert_eq!(
                trace.is_told(),
                told,
                "{ratio} {believe:?} {trusted} {sent}"
            );
        }
        let (tracer, _told) = tracer(0.25, proxies);
        for sent in ["", SENT] {
            let told = (0..10_000).filter(|_| tracer.begin(&headers(&[sent]), false).is_told());
            let part = told.count();
            assert!((2_200..2_800).contains(&part), "{part}");
        }
    }
}
