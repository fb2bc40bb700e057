//! What connections from clients count.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry, Result};

use super::families::{counter, counters, counters_of, gauges};

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

/// What connections from clients count.
pub struct ConnectionMetrics {
    pub h1: IntGauge,
    pub h2: IntGauge,
    pub refused: IntCounter,
    pub refused_client: IntCounter,
    pub refused_rate: IntCounter,
    pub reset_floods: IntCounter,
    pub frame_floods: IntCounter,
    pub violations: IntCounter,
    pub(super) timeouts: [IntCounter; TimedOut::ALL.len()],
    pub write_stalls: IntCounter,
    pub accept_errors: IntCounter,
    pub(super) proxy_failures: [IntCounter; ProxyFailure::ALL.len()],
    pub handshake_failures: IntCounterVec,
}

impl ConnectionMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self> {
        let open = gauges(
            r,
            "gateway_connections",
            "Open connections from clients, tunnels included.",
            &["listener", "proto"],
        )?;
        let [refused, refused_client, refused_rate] = counters_of(
            r,
            "gateway_connections_refused_total",
            "Connections closed at once because limits.connections (total), limits.connections_per_client (client) or a policy on new connections (rate) was reached.",
            "reason",
            ["total", "client", "rate"],
        )?;
        Ok(Self {
            h1: open.with_label_values(&["public", "h1"]),
            h2: open.with_label_values(&["public", "h2"]),
            refused,
            refused_client,
            refused_rate,
            reset_floods: counter(
                r,
                "gateway_h2_reset_floods_total",
                "HTTP/2 connections ended because the client gave up most of its requests.",
            )?,
            frame_floods: counter(
                r,
                "gateway_h2_frame_floods_total",
                "HTTP/2 connections ended because the client sent more control frames than limits.h2_control_frames.",
            )?,
            violations: counter(
                r,
                "gateway_h2_violations_total",
                "HTTP/2 connections ended because the client broke or strained the protocol.",
            )?,
            timeouts: counters_of(
                r,
                "gateway_connection_timeouts_total",
                "Connections closed because nothing came in time: no first request (first_request), half a head (header), no next request (keep_alive).",
                "reason",
                TimedOut::ALL,
            )?,
            write_stalls: counter(
                r,
                "gateway_write_stalls_total",
                "Connections and streams ended because the client took nothing of its answer.",
            )?,
            accept_errors: counter(
                r,
                "gateway_accept_errors_total",
                "Errors of accept, such as too many open files.",
            )?,
            proxy_failures: counters_of(
                r,
                "gateway_proxy_protocol_failures_total",
                "Connections closed for want of a PROXY protocol header to believe (untrusted, malformed, closed, timeout).",
                "reason",
                ProxyFailure::ALL,
            )?,
            handshake_failures: counters(
                r,
                "gateway_tls_handshake_failures_total",
                "TLS handshakes that failed (tls, io, timeout).",
                &["reason"],
            )?,
        })
    }
}
