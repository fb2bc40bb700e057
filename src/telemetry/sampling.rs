//! What part of the lines of requests is written.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

use crate::config::Sample;

/// What part is written, for each class of status. Changes while requests go on.
#[derive(Debug)]
pub(super) struct Sampling([AtomicU64; 4]);

impl Sampling {
    /// As `sample` says.
    pub(super) fn new(sample: &Sample) -> Self {
        let this = Self(Default::default());
        this.follow(sample);
        this
    }

    /// From now on as `sample` says.
    pub(super) fn follow(&self, sample: &Sample) {
        let parts = [
            sample.success,
            sample.redirect,
            sample.client_error,
            sample.server_error,
        ];
        for (kept, part) in self.0.iter().zip(parts) {
            kept.store(part.get().to_bits(), Ordering::Relaxed);
        }
    }

    /// What part of the lines with this status is written, from 0 to 1.
    pub(super) fn part(&self, status: StatusCode) -> f64 {
        let class = match status.as_u16() {
            ..300 => 0,
            300..400 => 1,
            400..500 => 2,
            500.. => 3,
        };
        f64::from_bits(self.0[class].load(Ordering::Relaxed))
    }
}
