//! Metrics of the store that replicas share.

use prometheus::{Histogram, IntCounter, IntGauge, Registry};

use super::families::{counters, gauge, histogram};

/// Round trips on a local network, in seconds.
const BOUNDS: [f64; 10] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1,
];

/// What is counted of the shared store of limits.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field carries its help text in `new`")]
pub struct StoreMetrics {
    pub up: IntGauge,
    pub answered: IntCounter,
    pub late: IntCounter,
    pub failed: IntCounter,
    pub unasked: IntCounter,
    pub remembered: IntCounter,
    pub duration: Histogram,
}

impl StoreMetrics {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let requests = counters(
            r,
            "gateway_ratelimit_store_requests_total",
            "Judgements of limits for which the shared store answered (ok), did not in time (timeout), failed (error), was known not to answer and left alone (unasked), or need not be asked as it had just refused (remembered).",
            &["result"],
        )?;
        Ok(Self {
            up: gauge(
                r,
                "gateway_ratelimit_store_up",
                "1 when the shared store of limits answers every worker; 0 when it does not, or when there is none.",
            )?,
            answered: requests.with_label_values(&["ok"]),
            late: requests.with_label_values(&["timeout"]),
            failed: requests.with_label_values(&["error"]),
            unasked: requests.with_label_values(&["unasked"]),
            remembered: requests.with_label_values(&["remembered"]),
            duration: histogram(
                r,
                "gateway_ratelimit_store_duration_seconds",
                "Time the shared store of limits took to answer.",
                &BOUNDS,
            )?,
        })
    }
}
