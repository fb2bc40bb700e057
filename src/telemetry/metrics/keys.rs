//! What the use of keys counts. Each key in force has its series from the moment it is, at 0 until
//! it is used, and no longer than it is.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::families::{counters, gauges};
use super::unix_now;
use crate::reject::Reject;

/// The results of a check that finds no key, in the order of [`KeyMetrics::refused`].
const REFUSED: [&str; 3] = ["closed", "duplicate", "invalid"];

/// The series of all keys.
pub(in crate::telemetry) struct KeyMetrics {
    auth: IntCounterVec,
    refused: [IntCounter; REFUSED.len()],
    last_used: IntGaugeVec,
    retire: IntGaugeVec,
    /// The names that have series.
    named: Mutex<BTreeSet<Arc<str>>>,
}

/// The series of one key, held by what has the key: a request looks none up, and one that still
/// goes by a key that is gone brings no series of it back.
#[derive(Clone, Debug)]
pub struct KeySeries {
    used: IntCounter,
    last_used: IntGauge,
}

impl KeySeries {
    /// Counts one use.
    pub fn used(&self) {
        self.used.inc();
        self.last_used.set(unix_now());
    }
}

impl KeyMetrics {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        let auth = counters(
            r,
            "gateway_auth_total",
            "API requests by the result of the key check (ok, invalid, duplicate, closed) and the key's name.",
            &["result", "key_id"],
        )?;
        Ok(Self {
            refused: REFUSED.map(|result| auth.with_label_values(&[result, "none"])),
            auth,
            last_used: gauges(
                r,
                "gateway_key_last_used_timestamp_seconds",
                "When a key was last used, Unix time; 0: not since it is in force.",
                &["key_id"],
            )?,
            retire: gauges(
                r,
                "gateway_key_retire_timestamp_seconds",
                "When a key is to be used no more, Unix time, where api.retire says so.",
                &["key_id"],
            )?,
            named: Mutex::default(),
        })
    }

    /// The series of the key of this name, made if need be.
    pub(super) fn of(&self, name: &Arc<str>) -> KeySeries {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.insert(Arc::clone(name));
        KeySeries {
            used: self.auth.with_label_values(&["ok", name]),
            last_used: self.last_used.with_label_values(&[name]),
        }
    }

    /// Ends the series of all keys but these.
    pub(super) fn keep<'n>(&self, names: impl Iterator<Item = &'n Arc<str>>) {
        let kept: BTreeSet<_> = names.collect();
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|name| {
            let keep = kept.contains(name);
            if !keep {
                // The only error is that there is none.
                self.auth.remove_label_values(&["ok", name]).ok();
                self.last_used.remove_label_values(&[name]).ok();
            }
            keep
        });
    }

    /// When keys are to be used no more; of no others.
    pub(super) fn retire(&self, retire: &[(Arc<str>, i64)]) {
        self.retire.reset();
        for (name, begins) in retire {
            self.retire.with_label_values(&[name]).set(*begins);
        }
    }

    /// Counts a check that found no key.
    pub(in crate::telemetry) fn refused(&self, reject: Reject) {
        let result = match reject {
            Reject::ApiNotEnabled => 0,
            Reject::DuplicateAuthorization => 1,
            _ => 2,
        };
        self.refused[result].inc();
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::Metrics;

    use super::*;

    fn value(metrics: &Metrics, series: &str) -> Option<i64> {
        let text = String::from_utf8(metrics.text()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series))?;
        Some(line.trim().parse().unwrap())
    }

    fn used(metrics: &Metrics, name: &str) -> Option<i64> {
        let series = format!("gateway_auth_total{{key_id=\"{name}\",result=\"ok\"}}");
        value(metrics, &series)
    }

    fn last_used(metrics: &Metrics, name: &str) -> Option<i64> {
        let series = format!("gateway_key_last_used_timestamp_seconds{{key_id=\"{name}\"}}");
        value(metrics, &series)
    }

    #[test]
    fn a_key_has_series_as_long_as_it_is_in_force_and_counts_again_when_it_is_back() {
        let metrics = Metrics::new().unwrap();
        let [old, new]: [Arc<str>; 2] = ["old".into(), "new".into()];
        let first = [metrics.key(&old), metrics.key(&new)];
        metrics.keep_keys([&old, &new].into_iter());
        assert_eq!(
            (used(&metrics, "old"), last_used(&metrics, "old")),
            (Some(0), Some(0))
        );
        first[0].used();
        first[1].used();
        assert_eq!(used(&metrics, "old"), Some(1));
        assert!(last_used(&metrics, "old").unwrap() > 1_700_000_000);

        // The next configuration has but the new one: it goes on counting, the old one is gone,
        // also when a request that began before still counts.
        let second = metrics.key(&new);
        metrics.keep_keys(std::iter::once(&new));
        first[0].used();
        second.used();
        first[1].used();
        assert_eq!(
            (used(&metrics, "old"), last_used(&metrics, "old")),
            (None, None)
        );
        assert_eq!(used(&metrics, "new"), Some(3));

        // And back: from 0, and it counts.
        let third = metrics.key(&old);
        metrics.keep_keys([&old, &new].into_iter());
        assert_eq!(
            (used(&metrics, "old"), last_used(&metrics, "old")),
            (Some(0), Some(0))
        );
        third.used();
        assert_eq!(used(&metrics, "old"), Some(1));
        assert_eq!(used(&metrics, "new"), Some(3));
    }

    #[test]
    fn the_series_of_a_configuration_that_was_never_in_force_end_with_the_next_one() {
        let metrics = Metrics::new().unwrap();
        let [never, kept]: [Arc<str>; 2] = ["never".into(), "kept".into()];
        drop([metrics.key(&never), metrics.key(&kept)]);
        metrics.keep_keys(std::iter::once(&kept));
        assert_eq!(
            (used(&metrics, "never"), used(&metrics, "kept")),
            (None, Some(0))
        );
    }
}
