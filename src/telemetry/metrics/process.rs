//! What the process counts of itself: which version it is, its hand-overs, its end, its log.

use prometheus::process_collector::ProcessCollector;
use prometheus::{IntCounter, IntGauge, Registry, Result};

use super::families::{counter, counters_of, gauge, gauges};

/// What the process counts of itself.
pub struct ProcessMetrics {
    pub handovers_taken: IntCounter,
    pub handovers_failed: IntCounter,
    pub handovers_refused: IntCounter,
    pub draining: IntGauge,
    pub drain_remaining: IntGauge,
    pub drain_cut_tunnels: IntCounter,
    pub drain_cut_connections: IntCounter,
    pub log_dropped: IntCounter,
}

impl ProcessMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self> {
        let build = gauges(
            r,
            "gateway_build_info",
            "1; the label tells the version.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        // CPU, memory, open files, threads, start: `process_…`.
        r.register(Box::new(ProcessCollector::for_self()))?;
        let [handovers_taken, handovers_failed, handovers_refused] = counters_of(
            r,
            "gateway_handovers_total",
            "Hand-overs of the listening sockets to a new process: this one took them over (taken), its successor was not ready (failed), SIGUSR2 came during another (refused).",
            "result",
            ["taken", "failed", "refused"],
        )?;
        let [drain_cut_tunnels, drain_cut_connections] = counters_of(
            r,
            "gateway_drain_cut_total",
            "Tunnels and other connections (tunnel, connection) that were cut at the end of a drain.",
            "kind",
            ["tunnel", "connection"],
        )?;
        Ok(Self {
            handovers_taken,
            handovers_failed,
            handovers_refused,
            draining: gauge(r, "gateway_draining", "1 from SIGTERM to the end.")?,
            drain_remaining: gauge(
                r,
                "gateway_drain_remaining_connections",
                "Connections and tunnels still open while draining.",
            )?,
            drain_cut_tunnels,
            drain_cut_connections,
            log_dropped: counter(
                r,
                "gateway_log_lines_dropped_total",
                "Log lines dropped because the reader of standard output was too slow.",
            )?,
        })
    }
}
