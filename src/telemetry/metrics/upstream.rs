//! What the backend's side counts.

use prometheus::{Histogram, IntCounter, IntGauge, Registry, Result};

use super::families::{counter, counters_of, gauge, histogram};
use super::requests::DURATIONS;

/// What the backend's side counts.
pub struct UpstreamMetrics {
    pub duration: Histogram,
    pub up: IntGauge,
    pub connects: IntCounter,
    pub connect_failures: IntCounter,
    pub reused_reset: IntCounter,
}

impl UpstreamMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self> {
        let [connects, connect_failures] = counters_of(
            r,
            "gateway_upstream_connects_total",
            "Connections to the backend, by result.",
            "result",
            ["ok", "failed"],
        )?;
        Ok(Self {
            duration: histogram(
                r,
                "gateway_upstream_request_duration_seconds",
                "Time from sending a request to the head of the backend's answer.",
                &DURATIONS,
            )?,
            up: gauge(
                r,
                "gateway_upstream_up",
                "1 when the backend accepted the last test connection.",
            )?,
            connects,
            connect_failures,
            reused_reset: counter(
                r,
                "gateway_upstream_reused_reset_total",
                "Kept connections that the backend had closed when they were used again.",
            )?,
        })
    }
}
