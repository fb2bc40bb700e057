//! What WebSockets count.

use prometheus::{Histogram, IntCounter, IntGaugeVec, Registry, Result};

use super::families::{counters, counters_of, gauges, histogram};
use crate::telemetry::closed::{CloseClass, ClosedBy};

const SESSIONS: [f64; 8] = [1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0];

/// What WebSockets count.
pub struct TunnelMetrics {
    pub(super) active: IntGaugeVec,
    pub(super) closed: [[IntCounter; CloseClass::ALL.len()]; ClosedBy::ALL.len()],
    pub received: IntCounter,
    pub sent: IntCounter,
    pub(in crate::telemetry) duration: Histogram,
}

impl TunnelMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self> {
        let closed = counters(
            r,
            "gateway_websocket_closed_total",
            "Tunnels closed, by who closed them and the class of the close code (none: no Close frame, invalid: no frames).",
            &["by", "code_class"],
        )?;
        let [received, sent] = counters_of(
            r,
            "gateway_websocket_bytes_total",
            "Bytes through tunnels, received from and sent to clients.",
            "direction",
            ["received", "sent"],
        )?;
        Ok(Self {
            active: gauges(r, "gateway_websocket_active", "Open tunnels.", &["route"])?,
            closed: ClosedBy::ALL.map(|by| {
                CloseClass::ALL
                    .map(|class| closed.with_label_values(&[by.as_str(), class.as_str()]))
            }),
            received,
            sent,
            duration: histogram(
                r,
                "gateway_websocket_session_duration_seconds",
                "How long tunnels were open.",
                &SESSIONS,
            )?,
        })
    }
}
