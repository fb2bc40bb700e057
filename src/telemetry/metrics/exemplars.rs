//! Exemplars: for each bucket of the request durations the last request in it that is traced, so
//! that a slow one leads to its trace. Only its trace id is kept. They take a fixed place: nothing
//! grows, whoever sends what.

use std::sync::Mutex;

use super::requests::DURATIONS;
use super::unix_time;
use crate::names::Route;

/// One for each route and bucket, the last of which has no bound.
#[derive(Default)]
pub(in crate::telemetry) struct Exemplars {
    slots: [[Mutex<Option<Exemplar>>; DURATIONS.len() + 1]; Route::ALL.len()],
}

/// One request.
#[derive(Clone, Copy)]
pub(super) struct Exemplar {
    pub(super) trace_id: u128,
    /// Its duration, seconds.
    pub(super) value: f64,
    /// When it ended, seconds since 1970.
    pub(super) at: f64,
}

impl Exemplars {
    /// The family that has them.
    pub(super) const FAMILY: &str = "gateway_request_duration_seconds";

    /// Notes a traced request.
    pub(in crate::telemetry) fn note(&self, route: Route, value: f64, trace_id: u128) {
        let bucket = DURATIONS.partition_point(|bound| *bound < value);
        // One that another worker is just writing is as good.
        if let Ok(mut slot) = self.slots[route.index()][bucket].try_lock() {
            *slot = Some(Exemplar {
                trace_id,
                value,
                at: unix_time(),
            });
        }
    }

    /// That of a route's bucket.
    pub(super) fn get(&self, route: &str, bucket: usize) -> Option<Exemplar> {
        let route = Route::ALL.iter().position(|r| r.as_str() == route)?;
        *self.slots[route].get(bucket)?.lock().ok()?
    }
}
