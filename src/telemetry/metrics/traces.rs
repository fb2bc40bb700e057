//! What became of traced requests.

use prometheus::{IntCounter, Registry, Result};

use super::families::counters_of;

/// What became of traced requests.
#[derive(Clone, Debug)]
pub struct TraceMetrics {
    /// The receiver took them.
    pub exported: IntCounter,
    /// The queue was full.
    pub dropped: IntCounter,
    /// The receiver did not take them.
    pub failed: IntCounter,
}

impl TraceMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self> {
        let [exported, dropped, failed] = counters_of(
            r,
            "gateway_traced_requests_total",
            "Traced requests whose spans the receiver took (exported) or did not take (failed), or that found the queue full (dropped).",
            "result",
            ["exported", "dropped", "failed"],
        )?;
        Ok(Self {
            exported,
            dropped,
            failed,
        })
    }
}
