//! Every metric, once. The names are public API, pinned by a golden file.
//!
//! Handles are looked up when they are made, never for a request. Labels come from closed sets
//! ([`crate::names`], [`crate::reject::Reject::CODES`], names in the configuration): no path, host,
//! address or key can become one.

mod configuration;
mod connections;
mod exemplars;
mod families;
mod keys;
mod openmetrics;
mod overload;
mod process;
mod requests;
mod store;
mod traces;
mod tunnels;
mod upstream;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder};

use self::configuration::ConfigurationMetrics;
use self::connections::ConnectionMetrics;
pub use self::connections::{ProxyFailure, TimedOut};
use self::families::counters;
use self::keys::KeyMetrics;
pub use self::keys::KeySeries;
pub use self::overload::{Cause, Kind, OverloadMetrics};
use self::process::ProcessMetrics;
use self::requests::RequestMetrics;
pub use self::store::StoreMetrics;
pub use self::traces::TraceMetrics;
use self::tunnels::TunnelMetrics;
use self::upstream::UpstreamMetrics;
use super::closed::{CloseClass, ClosedBy};
use crate::names::Route;

/// What one rate-limit policy counts.
#[derive(Clone, Debug)]
pub struct PolicyCounters {
    /// Requests it let pass.
    pub admitted: IntCounter,
    /// Requests it refused, or would have refused.
    pub limited: IntCounter,
}

/// A format in which all series are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
}

impl Exposition {
    /// Its content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The process' metrics.
pub struct Metrics {
    registry: Registry,
    /// Requests.
    pub requests: RequestMetrics,
    pub(super) keys: KeyMetrics,
    ratelimit: IntCounterVec,
    /// The store of limits that replicas share.
    pub store: StoreMetrics,
    /// Places for requests in flight to the backend.
    pub overload: OverloadMetrics,
    /// WebSockets.
    pub tunnels: TunnelMetrics,
    /// Connections from clients.
    pub connections: ConnectionMetrics,
    /// The backend's side.
    pub upstream: UpstreamMetrics,
    /// What is in force.
    pub configuration: ConfigurationMetrics,
    /// Traced requests.
    pub traces: TraceMetrics,
    /// The process itself.
    pub process: ProcessMetrics,
}

impl Metrics {
    /// Makes and registers every metric.
    pub fn new() -> prometheus::Result<Self> {
        let r = Registry::new();
        Ok(Self {
            requests: RequestMetrics::new(&r)?,
            keys: KeyMetrics::new(&r)?,
            ratelimit: counters(
                &r,
                "gateway_ratelimit_total",
                "Requests a policy judged, by result (admitted, limited).",
                &["policy", "result", "enforced"],
            )?,
            store: StoreMetrics::new(&r)?,
            overload: OverloadMetrics::new(&r)?,
            tunnels: TunnelMetrics::new(&r)?,
            connections: ConnectionMetrics::new(&r)?,
            upstream: UpstreamMetrics::new(&r)?,
            configuration: ConfigurationMetrics::new(&r)?,
            traces: TraceMetrics::new(&r)?,
            process: ProcessMetrics::new(&r)?,
            registry: r,
        })
    }

    /// The series of one policy.
    pub fn policy(&self, name: &str, enforced: bool) -> PolicyCounters {
        let series = |result| {
            self.ratelimit.with_label_values(&[
                name,
                result,
                if enforced { "true" } else { "false" },
            ])
        };
        PolicyCounters {
            admitted: series("admitted"),
            limited: series("limited"),
        }
    }

    /// The series of the key of this name, made if need be.
    pub fn key(&self, name: &Arc<str>) -> KeySeries {
        self.keys.of(name)
    }

    /// These are the keys in force: the series of all others end.
    pub fn keep_keys<'n>(&self, names: impl Iterator<Item = &'n Arc<str>>) {
        self.keys.keep(names);
    }

    /// When keys are to be used no more, by name, Unix time; of no others.
    pub fn retire_keys(&self, retire: &[(Arc<str>, i64)]) {
        self.keys.retire(retire);
    }

    /// The gauge of open tunnels of a route.
    pub fn websocket_active(&self, route: Route) -> IntGauge {
        self.tunnels.active.with_label_values(&[route.as_str()])
    }

    /// How many tunnels are open.
    pub fn websockets_open(&self) -> u64 {
        let open = Route::ALL.map(|route| self.websocket_active(route).get());
        open.iter().sum::<i64>().unsigned_abs()
    }

    /// Counts the end of a tunnel.
    pub(super) fn websocket_closed(&self, by: ClosedBy, class: CloseClass) {
        self.tunnels.closed[by as usize][class as usize].inc();
    }

    /// How many tunnels have ended for this reason.
    pub fn websockets_closed(&self, by: ClosedBy) -> u64 {
        let classes = &self.tunnels.closed[by as usize];
        classes.iter().map(IntCounter::get).sum()
    }

    /// Counts a connection closed for want of a PROXY protocol header.
    pub fn proxy_protocol_failed(&self, why: ProxyFailure) {
        self.connections.proxy_failures[why as usize].inc();
    }

    /// Counts a connection on which nothing came in time.
    pub fn timed_out(&self, what: TimedOut) {
        self.connections.timeouts[what as usize].inc();
    }

    /// A configuration was loaded and is in force, the `generation`th after the one of the start.
    pub fn config_loaded(&self, hash: &str, generation: i64) {
        self.configuration.loaded(hash, generation);
    }

    /// A configuration was rejected; what was in force stays.
    pub fn config_rejected(&self) {
        self.configuration.rejected();
    }

    /// All series.
    pub fn expose(&self, exposition: Exposition) -> Vec<u8> {
        let families = self.registry.gather();
        let mut out = String::with_capacity(32 << 10);
        // Writing to memory cannot fail, and what was gathered was registered with valid names.
        match exposition {
            Exposition::Text => {
                let mut out = out.into_bytes();
                let _: prometheus::Result<()> = TextEncoder::new().encode(&families, &mut out);
                out
            }
            Exposition::OpenMetrics => {
                let _: std::fmt::Result =
                    openmetrics::write(&families, &self.requests.exemplars, &mut out);
                out.into_bytes()
            }
        }
    }

    /// All series in the text format 0.0.4.
    pub fn text(&self) -> Vec<u8> {
        self.expose(Exposition::Text)
    }
}

fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Whole seconds since 1970.
fn unix_now() -> i64 {
    since_1970().as_secs() as i64
}

/// Seconds since 1970.
fn unix_time() -> f64 {
    since_1970().as_secs_f64()
}
