//! What was decided here while the store did not answer, to be settled with its buckets when it is back:
//! else they would have filled meanwhile, and a store that comes and goes would admit everything twice;
//! and what it has taken for a request that was refused here would be lost.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

use super::script::Quota;

/// Most buckets of which something may be missing; about 200 KB. What is beyond is forgiven.
const MOST: usize = 1024;

/// Buckets by name, and what is missing of them.
#[derive(Default)]
pub(super) struct Debts(RefCell<HashMap<Box<str>, Debt>>);

/// Tokens missing, in this stretch of time and the one before; each is as long as an empty bucket takes
/// to fill, so that nothing older is of account.
struct Debt {
    quota: Quota,
    begun: Instant,
    missing: i32,
    before: i32,
}

impl Debt {
    fn turn(&mut self, now: Instant) {
        let stretch = self.quota.fills_in();
        let passed = now.duration_since(self.begun);
        if passed >= 2 * stretch {
            (self.before, self.missing, self.begun) = (0, 0, now);
        } else if passed >= stretch {
            (self.before, self.missing) = (self.missing, 0);
            self.begun += stretch;
        }
    }

    fn owed(&self, now: Instant) -> i32 {
        let stretch = self.quota.fills_in().as_secs_f64();
        let passed = now.duration_since(self.begun).as_secs_f64() / stretch;
        let before = f64::from(self.before) * (1.0 - passed).max(0.0);
        self.missing.saturating_add(before.round() as i32)
    }
}

impl Debts {
    /// So many tokens of `bucket` are missing in the store; below 0: were taken for nothing.
    pub(super) fn note(&self, bucket: &str, quota: &Quota, missing: i32, now: Instant) {
        let mut debts = self.0.borrow_mut();
        if let Some(debt) = debts.get_mut(bucket) {
            debt.turn(now);
            debt.missing = debt.missing.saturating_add(missing);
            // A reload may have changed the policy meanwhile.
            if debt.quota != *quota {
                debt.quota = quota.clone();
            }
        } else if debts.len() < MOST {
            let debt = Debt {
                quota: quota.clone(),
                begun: now,
                missing,
                before: 0,
            };
            debts.insert(bucket.into(), debt);
        }
    }

    /// What is missing of which bucket; `settled` says when it is not any more.
    pub(super) fn all(&self, now: Instant) -> Vec<(Box<str>, Quota, i32)> {
        let mut debts = self.0.borrow_mut();
        debts.values_mut().for_each(|debt| debt.turn(now));
        debts.retain(|_, debt| debt.owed(now) != 0);
        let all = debts.iter();
        all.map(|(bucket, debt)| (bucket.clone(), debt.quota.clone(), debt.owed(now)))
            .collect()
    }

    /// So much is no longer missing.
    pub(super) fn settled(&self, all: &[(Box<str>, Quota, i32)], now: Instant) {
        for (bucket, quota, missing) in all {
            self.note(bucket, quota, -missing, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_taken_is_owed_for_as_long_as_it_would_be_missing() {
        let (debts, now) = (Debts::default(), Instant::now());
        let second = Duration::from_secs(1);
        let quota = Quota::new(second, 10);
        for n in 0..10 {
            debts.note("a", &quota, 1, now + n * second);
        }
        let owed = |after| debts.all(now + after * second).first().map(|d| d.2);
        assert_eq!(owed(9), Some(10));
        assert_eq!(owed(15), Some(5));
        assert_eq!(owed(21), None);
        // Taken by the store for a request that was refused here.
        debts.note("b", &quota, -3, now);
        debts.note("b", &quota, 1, now);
        let all = debts.all(now);
        assert_eq!(all[0].2, -2);
        // More came while that was settled.
        debts.note("b", &quota, 4, now);
        debts.settled(&all, now);
        assert_eq!(debts.all(now)[0].2, 4);
        // The policy was changed.
        let larger = Quota::new(Duration::from_secs(1), 20);
        debts.note("b", &larger, 1, now);
        let (_, quota, missing) = debts.all(now).remove(0);
        assert!(quota == larger && missing == 5);
    }

    #[test]
    fn the_list_is_bounded() {
        let (debts, now) = (Debts::default(), Instant::now());
        let quota = Quota::new(Duration::from_secs(1), 10);
        for n in 0..3 * MOST {
            debts.note(&n.to_string(), &quota, 1, now);
        }
        assert_eq!(debts.all(now).len(), MOST);
    }
}
