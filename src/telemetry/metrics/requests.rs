//! What requests count.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use http::StatusCode;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry, Result};

use super::exemplars::Exemplars;
use super::families::{counter, counters, counters_of, gauge, histogram, histograms};
use crate::names::{METHODS, Route};
use crate::reject::Reject;

/// The bounds that OpenTelemetry advises for `http.server.request.duration`, in seconds.
pub(super) const DURATIONS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// Around `limits.header_bytes`, and what is usual.
const HEADER_BYTES: [f64; 9] = [
    256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0,
];
/// Around `limits.header_count`, and what is usual.
const HEADER_FIELDS: [f64; 9] = [5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 100.0];

/// Most series of `gateway_requests_total`. Routes and methods are closed sets; status codes are the
/// backend's choice, and one that answers with all there are must not fill a monitoring system.
const MOST_SERIES: usize = 2000;

/// What requests count.
pub struct RequestMetrics {
    requests: IntCounterVec,
    /// The series that there are, by route, method and code.
    known: Mutex<BTreeSet<(u8, u8, u16)>>,
    dropped: IntCounter,
    pub(in crate::telemetry) duration: [Histogram; Route::ALL.len()],
    /// Of `duration`.
    pub(in crate::telemetry) exemplars: Exemplars,
    pub inflight: IntGauge,
    pub rejected: [IntCounter; Reject::CODES.len()],
    pub(in crate::telemetry) header_bytes: Histogram,
    pub(in crate::telemetry) header_fields: Histogram,
}

impl RequestMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self> {
        let duration = histograms(
            r,
            Exemplars::FAMILY,
            "Time from a request's head to the end of its answer; tunnels excluded.",
            &DURATIONS,
            "route",
        )?;
        Ok(Self {
            requests: counters(
                r,
                "gateway_requests_total",
                "Requests answered, by route, method and status code.",
                &["route", "method", "code"],
            )?,
            known: Mutex::default(),
            dropped: counter(
                r,
                "gateway_metrics_dropped_total",
                "Status codes that got no series of their own because gateway_requests_total has as many as it may have; they are counted as code \"other\".",
            )?,
            duration: Route::ALL.map(|route| duration.with_label_values(&[route.as_str()])),
            exemplars: Exemplars::default(),
            inflight: gauge(
                r,
                "gateway_inflight_requests",
                "Requests being answered now.",
            )?,
            rejected: counters_of(
                r,
                "gateway_rejected_requests_total",
                "Requests the gateway refused itself, by its error code.",
                "reason",
                Reject::CODES,
            )?,
            header_bytes: histogram(
                r,
                "gateway_request_header_bytes",
                "Size of request heads, as limits.header_bytes counts it.",
                &HEADER_BYTES,
            )?,
            header_fields: histogram(
                r,
                "gateway_request_header_fields",
                "Header fields of requests, as limits.header_count counts them.",
                &HEADER_FIELDS,
            )?,
        })
    }

    /// The counter of requests with this route, position of a method, and code. Looked up, so to be
    /// kept.
    pub(in crate::telemetry) fn counter(
        &self,
        route: Route,
        method: usize,
        status: StatusCode,
    ) -> IntCounter {
        const OTHER: u16 = 0;
        // Codes beyond those that HTTP defines classes for share one series.
        let code = Some(status.as_u16()).filter(|code| *code < 600);
        let key = |code| (route.index() as u8, method as u8, code);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let own = code.filter(|code| {
            let fits = known.contains(&key(*code)) || known.len() < MOST_SERIES;
            if !fits {
                self.dropped.inc();
            }
            fits
        });
        known.insert(key(own.unwrap_or(OTHER)));
        let label = if own.is_some() {
            status.as_str()
        } else {
            "other"
        };
        self.requests
            .with_label_values(&[route.as_str(), METHODS[method], label])
    }
}
