//! Metrics of the places for requests in flight to the backend.

use prometheus::{IntCounter, IntGauge, Registry};

use super::families::{counters, gauge};

/// What a request asks of the backend, where there is not room for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The API.
    Api,
    /// A handshake of a WebSocket.
    Socket,
    /// Anything else.
    Page,
}

impl Kind {
    /// Label values, in the order of the variants.
    const ALL: [&str; 3] = ["api", "socket", "page"];

    /// Its label value.
    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize]
    }
}

/// Why there was no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// As many are in flight as are allowed at all.
    Cap,
    /// As many are in flight as the backend takes without becoming slow.
    Slow,
    /// The client has its share.
    Share,
}

impl Cause {
    /// Label values, in the order of the variants.
    const ALL: [&str; 3] = ["cap", "slow", "share"];
}

/// What is counted of requests in flight to the backend.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field carries its help text in `new`")]
pub struct OverloadMetrics {
    pub in_flight: IntGauge,
    pub limit: IntGauge,
    refused: [[IntCounter; Cause::ALL.len()]; Kind::ALL.len()],
}

impl OverloadMetrics {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let refused = counters(
            r,
            "gateway_overload_refused_total",
            "Requests refused for overload, by kind (api, socket, page) and cause: as many in flight as are allowed (cap), as the backend takes without becoming slow (slow), as one client may have (share).",
            &["kind", "cause"],
        )?;
        Ok(Self {
            in_flight: gauge(
                r,
                "gateway_upstream_inflight_requests",
                "Requests that wait for the head of the backend's answer.",
            )?,
            limit: gauge(
                r,
                "gateway_upstream_inflight_limit",
                "Most of them at once, as of now.",
            )?,
            refused: Kind::ALL
                .map(|kind| Cause::ALL.map(|cause| refused.with_label_values(&[kind, cause]))),
        })
    }

    /// Counts a request refused for overload.
    pub fn refused(&self, kind: Kind, cause: Cause) {
        self.refused[kind as usize][cause as usize].inc();
    }
}
