//! Every metric, once. The names are public API, pinned by a golden file.
//!
//! Handles are looked up when they are made, never for a request. Labels come from closed sets
//! ([`crate::names`], [`Reject::CODES`], names in the configuration): no path, host, address or
//! key can become one.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::closed::{CloseClass, ClosedBy};
use super::keys::{KeyMetrics, KeySeries};
use super::overload::OverloadMetrics;
use super::store::StoreMetrics;
use crate::names::Route;
use crate::reject::Reject;

/// The bounds that OpenTelemetry advises for `http.server.request.duration`, in seconds.
const REQUEST_BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
const SESSION_BOUNDS: [f64; 8] = [1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0];

/// Why a connection had no PROXY protocol header to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyFailure {
    /// It came from somebody who is no trusted proxy.
    Untrusted,
    /// What it began with is no header, or a too long one.
    Malformed,
    /// It ended or broke before the header was complete.
    Closed,
    /// The header was not complete in time.
    Timeout,
}

impl ProxyFailure {
    /// Label values, in the order of the variants.
    const ALL: [&str; 4] = ["untrusted", "malformed", "closed", "timeout"];
}

/// What a connection between requests waited for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimedOut {
    /// The first byte of its first request.
    FirstRequest,
    /// The rest of a request's head.
    Header,
    /// The next request.
    KeepAlive,
}

impl TimedOut {
    /// Label values, in the order of the variants.
    const ALL: [&str; 3] = ["first_request", "header", "keep_alive"];
}

/// What one rate-limit policy counts.
#[derive(Clone, Debug)]
pub struct PolicyCounters {
    /// Requests it let pass.
    pub admitted: IntCounter,
    /// Requests it refused, or would have refused.
    pub limited: IntCounter,
}

/// The process' metrics.
#[expect(missing_docs, reason = "each field carries its help text in `new`")]
pub struct Metrics {
    registry: Registry,
    pub(super) requests: IntCounterVec,
    pub(super) duration: [Histogram; Route::ALL.len()],
    pub upstream_duration: Histogram,
    pub inflight: IntGauge,
    pub overload: OverloadMetrics,
    pub rejected: [IntCounter; Reject::CODES.len()],
    pub(super) keys: KeyMetrics,
    pub api_enabled: IntGauge,
    ratelimit: IntCounterVec,
    pub store: StoreMetrics,
    websocket_active: IntGaugeVec,
    websocket_closed: [[IntCounter; CloseClass::ALL.len()]; ClosedBy::ALL.len()],
    pub websocket_received: IntCounter,
    pub websocket_sent: IntCounter,
    pub websocket_duration: Histogram,
    pub connections_h1: IntGauge,
    pub connections_h2: IntGauge,
    pub connections_refused: IntCounter,
    pub connections_refused_client: IntCounter,
    pub connections_refused_rate: IntCounter,
    pub reset_floods: IntCounter,
    pub frame_floods: IntCounter,
    pub violations: IntCounter,
    timeouts: [IntCounter; TimedOut::ALL.len()],
    pub write_stalls: IntCounter,
    pub accept_errors: IntCounter,
    proxy_protocol_failures: [IntCounter; ProxyFailure::ALL.len()],
    pub handshake_failures: IntCounterVec,
    pub certificate_not_after: GaugeVec,
    config_reload_successful: IntGauge,
    config_reload_timestamp: Gauge,
    config_reload_attempt: Gauge,
    config_generation: IntGauge,
    /// Of the results `ok` and `failed`.
    config_reloads: [IntCounter; 2],
    config_info: IntGaugeVec,
    pub upstream_up: IntGauge,
    pub upstream_connects: IntCounter,
    pub upstream_connect_failures: IntCounter,
    pub upstream_reused_reset: IntCounter,
    pub handovers_taken: IntCounter,
    pub handovers_failed: IntCounter,
    pub handovers_refused: IntCounter,
    pub draining: IntGauge,
    pub drain_remaining: IntGauge,
    pub drain_cut_tunnels: IntCounter,
    pub drain_cut_connections: IntCounter,
    pub log_dropped: IntCounter,
}

impl Metrics {
    /// Makes and registers every metric.
    pub fn new() -> prometheus::Result<Self> {
        let r = Registry::new();
        let duration = register(
            &r,
            HistogramVec::new(
                HistogramOpts::new(
                    "gateway_request_duration_seconds",
                    "Time from a request's head to the end of its answer; tunnels excluded.",
                )
                .buckets(REQUEST_BOUNDS.to_vec()),
                &["route"],
            )?,
        )?;
        let rejected = counters(
            &r,
            "gateway_rejected_requests_total",
            "Requests the gateway refused itself, by its error code.",
            &["reason"],
        )?;
        let websocket_closed = counters(
            &r,
            "gateway_websocket_closed_total",
            "Tunnels closed, by who closed them and the class of the close code (none: no Close frame, invalid: no frames).",
            &["by", "code_class"],
        )?;
        let websocket_bytes = counters(
            &r,
            "gateway_websocket_bytes_total",
            "Bytes through tunnels, received from and sent to clients.",
            &["direction"],
        )?;
        let connections = gauges(
            &r,
            "gateway_connections",
            "Open connections from clients, tunnels included.",
            &["listener", "proto"],
        )?;
        let connects = counters(
            &r,
            "gateway_upstream_connects_total",
            "Connections to the backend, by result.",
            &["result"],
        )?;
        let refused = counters(
            &r,
            "gateway_connections_refused_total",
            "Connections closed at once because limits.connections (total), limits.connections_per_client (client) or a policy on new connections (rate) was reached.",
            &["reason"],
        )?;
        let proxy_protocol_failures = counters(
            &r,
            "gateway_proxy_protocol_failures_total",
            "Connections closed for want of a PROXY protocol header to believe (untrusted, malformed, closed, timeout).",
            &["reason"],
        )?;
        let reloads = counters(
            &r,
            "gateway_config_reloads_total",
            "Attempts to reload the configuration, by result (ok, failed).",
            &["result"],
        )?;
        let cut = counters(
            &r,
            "gateway_drain_cut_total",
            "Tunnels and other connections (tunnel, connection) that were cut at the end of a drain.",
            &["kind"],
        )?;
        let handovers = counters(
            &r,
            "gateway_handovers_total",
            "Hand-overs of the listening sockets to a new process: this one took them over (taken), its successor was not ready (failed), SIGUSR2 came during another (refused).",
            &["result"],
        )?;
        let timeouts = counters(
            &r,
            "gateway_connection_timeouts_total",
            "Connections closed because nothing came in time: no first request (first_request), half a head (header), no next request (keep_alive).",
            &["reason"],
        )?;
        let build = gauges(
            &r,
            "gateway_build_info",
            "1; the label tells the version.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        r.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(Self {
            requests: counters(
                &r,
                "gateway_requests_total",
                "Requests answered, by route, method and status code.",
                &["route", "method", "code"],
            )?,
            duration: Route::ALL.map(|route| duration.with_label_values(&[route.as_str()])),
            upstream_duration: histogram(
                &r,
                "gateway_upstream_request_duration_seconds",
                "Time from sending a request to the head of the backend's answer.",
                &REQUEST_BOUNDS,
            )?,
            inflight: gauge(
                &r,
                "gateway_inflight_requests",
                "Requests being answered now.",
            )?,
            overload: OverloadMetrics::new(&r)?,
            rejected: Reject::CODES.map(|code| rejected.with_label_values(&[code])),
            keys: KeyMetrics::new(&r)?,
            api_enabled: gauge(
                &r,
                "gateway_api_enabled",
                "1 when a key is configured, 0 when the API is closed.",
            )?,
            ratelimit: counters(
                &r,
                "gateway_ratelimit_total",
                "Requests a policy judged, by result (admitted, limited).",
                &["policy", "result", "enforced"],
            )?,
            store: StoreMetrics::new(&r)?,
            websocket_active: gauges(&r, "gateway_websocket_active", "Open tunnels.", &["route"])?,
            websocket_closed: ClosedBy::ALL.map(|by| {
                CloseClass::ALL
                    .map(|class| websocket_closed.with_label_values(&[by.as_str(), class.as_str()]))
            }),
            websocket_received: websocket_bytes.with_label_values(&["received"]),
            websocket_sent: websocket_bytes.with_label_values(&["sent"]),
            websocket_duration: histogram(
                &r,
                "gateway_websocket_session_duration_seconds",
                "How long tunnels were open.",
                &SESSION_BOUNDS,
            )?,
            connections_h1: connections.with_label_values(&["public", "h1"]),
            connections_h2: connections.with_label_values(&["public", "h2"]),
            connections_refused: refused.with_label_values(&["total"]),
            connections_refused_client: refused.with_label_values(&["client"]),
            connections_refused_rate: refused.with_label_values(&["rate"]),
            reset_floods: counter(
                &r,
                "gateway_h2_reset_floods_total",
                "HTTP/2 connections ended because the client gave up most of its requests.",
            )?,
            frame_floods: counter(
                &r,
                "gateway_h2_frame_floods_total",
                "HTTP/2 connections ended because the client sent more control frames than limits.h2_control_frames.",
            )?,
            violations: counter(
                &r,
                "gateway_h2_violations_total",
                "HTTP/2 connections ended because the client broke or strained the protocol.",
            )?,
            timeouts: TimedOut::ALL.map(|reason| timeouts.with_label_values(&[reason])),
            write_stalls: counter(
                &r,
                "gateway_write_stalls_total",
                "Connections and streams ended because the client took nothing of its answer.",
            )?,
            accept_errors: counter(
                &r,
                "gateway_accept_errors_total",
                "Errors of accept, such as too many open files.",
            )?,
            proxy_protocol_failures: ProxyFailure::ALL
                .map(|reason| proxy_protocol_failures.with_label_values(&[reason])),
            handshake_failures: counters(
                &r,
                "gateway_tls_handshake_failures_total",
                "TLS handshakes that failed (tls, io, timeout).",
                &["reason"],
            )?,
            certificate_not_after: {
                register(
                    &r,
                    GaugeVec::new(
                        Opts::new(
                            "gateway_tls_cert_not_after_timestamp_seconds",
                            "When the served certificate expires, Unix time.",
                        ),
                        &["name"],
                    )?,
                )?
            },
            config_reload_successful: gauge(
                &r,
                "gateway_config_last_reload_successful",
                "1 when the last attempt to load the configuration succeeded.",
            )?,
            config_reload_timestamp: {
                register(
                    &r,
                    Gauge::new(
                        "gateway_config_last_reload_timestamp_seconds",
                        "When the configuration in force was loaded, Unix time.",
                    )?,
                )?
            },
            config_reload_attempt: {
                register(
                    &r,
                    Gauge::new(
                        "gateway_config_last_reload_attempt_timestamp_seconds",
                        "When it was last tried to load a configuration, Unix time.",
                    )?,
                )?
            },
            config_generation: gauge(
                &r,
                "gateway_config_generation",
                "How many times the configuration was reloaded since the start.",
            )?,
            config_reloads: ["ok", "failed"].map(|result| reloads.with_label_values(&[result])),
            config_info: gauges(
                &r,
                "gateway_config_info",
                "1; the label is a digest of the configuration in force.",
                &["hash"],
            )?,
            upstream_up: gauge(
                &r,
                "gateway_upstream_up",
                "1 when the backend accepted the last test connection.",
            )?,
            upstream_connects: connects.with_label_values(&["ok"]),
            upstream_connect_failures: connects.with_label_values(&["failed"]),
            upstream_reused_reset: counter(
                &r,
                "gateway_upstream_reused_reset_total",
                "Kept connections that the backend had closed when they were used again.",
            )?,
            handovers_taken: handovers.with_label_values(&["taken"]),
            handovers_failed: handovers.with_label_values(&["failed"]),
            handovers_refused: handovers.with_label_values(&["refused"]),
            draining: gauge(&r, "gateway_draining", "1 from SIGTERM to the end.")?,
            drain_remaining: gauge(
                &r,
                "gateway_drain_remaining_connections",
                "Connections and tunnels still open while draining.",
            )?,
            drain_cut_tunnels: cut.with_label_values(&["tunnel"]),
            drain_cut_connections: cut.with_label_values(&["connection"]),
            log_dropped: counter(
                &r,
                "gateway_log_lines_dropped_total",
                "Log lines dropped because the reader of standard output was too slow.",
            )?,
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

    /// The gauge of open tunnels of a route.
    pub fn websocket_active(&self, route: Route) -> IntGauge {
        self.websocket_active.with_label_values(&[route.as_str()])
    }

    /// How many tunnels are open.
    pub fn websockets_open(&self) -> u64 {
        let open = Route::ALL.map(|route| self.websocket_active(route).get());
        open.iter().sum::<i64>().unsigned_abs()
    }

    /// Counts the end of a tunnel.
    pub(super) fn websocket_closed(&self, by: ClosedBy, class: CloseClass) {
        self.websocket_closed[by as usize][class as usize].inc();
    }

    /// How many tunnels have ended for this reason.
    pub fn websockets_closed(&self, by: ClosedBy) -> u64 {
        let classes = &self.websocket_closed[by as usize];
        classes.iter().map(IntCounter::get).sum()
    }

    /// Counts a connection closed for want of a PROXY protocol header.
    pub fn proxy_protocol_failed(&self, why: ProxyFailure) {
        self.proxy_protocol_failures[why as usize].inc();
    }

    /// Counts a connection on which nothing came in time.
    pub fn timed_out(&self, what: TimedOut) {
        self.timeouts[what as usize].inc();
    }

    /// A configuration was loaded and is in force, the `generation`th after the one of the start.
    pub fn config_loaded(&self, hash: &str, generation: i64) {
        self.config_info.reset();
        self.config_info.with_label_values(&[hash]).set(1);
        self.config_reload_successful.set(1);
        let now = unix_now() as f64;
        self.config_reload_timestamp.set(now);
        self.config_reload_attempt.set(now);
        self.config_generation.set(generation);
        if generation > 0 {
            self.config_reloads[0].inc();
        }
    }

    /// A configuration was rejected; what was in force stays.
    pub fn config_rejected(&self) {
        self.config_reload_successful.set(0);
        self.config_reload_attempt.set(unix_now() as f64);
        self.config_reloads[1].inc();
    }

    /// All series in the text format 0.0.4.
    pub fn text(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 << 10);
        // Writing to memory cannot fail, and what was gathered was registered with valid names.
        let _: prometheus::Result<()> =
            TextEncoder::new().encode(&self.registry.gather(), &mut out);
        out
    }
}

/// Seconds since 1970.
pub(super) fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() as i64)
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

pub(super) fn counters(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    register(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn gauges(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntGaugeVec> {
    register(r, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn counter(r: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    register(r, IntCounter::new(name, help)?)
}

pub(super) fn gauge(r: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    register(r, IntGauge::new(name, help)?)
}

pub(super) fn histogram(
    r: &Registry,
    name: &str,
    help: &str,
    bounds: &[f64],
) -> prometheus::Result<Histogram> {
    register(
        r,
        Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds.to_vec()))?,
    )
}
