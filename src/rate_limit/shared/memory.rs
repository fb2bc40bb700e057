//! What the store has just refused: it need not be asked again at once, so that a flood of one client
//! does not become a flood of the store.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Most refusals remembered; about half a megabyte.
const MOST: usize = 4096;
/// Longest time for which the store is not asked again: who changes a limit or clears the store should
/// not wait for what was refused before.
const LONGEST: Duration = Duration::from_secs(1);

/// Refusals, by the names of their buckets.
#[derive(Default)]
pub(super) struct Memory(RefCell<HashMap<Box<str>, Refused>>);

struct Refused {
    /// When the store will admit again.
    until: Instant,
    /// When it is asked again at the latest.
    holds: Instant,
}

impl Refused {
    fn new(now: Instant, wait: Duration) -> Self {
        Self {
            until: now + wait,
            holds: now + wait.min(LONGEST),
        }
    }
}

impl Memory {
    /// How long `bucket` is known to refuse.
    pub(super) fn wait(&self, bucket: &str, now: Instant) -> Option<Duration> {
        let refusals = self.0.borrow();
        let refused = refusals.get(bucket).filter(|refused| refused.holds > now)?;
        Some(refused.until.saturating_duration_since(now))
    }

    /// Remembers that `bucket` refuses for `wait`.
    pub(super) fn refused(&self, bucket: &str, now: Instant, wait: Duration) {
        let mut refusals = self.0.borrow_mut();
        let refused = Refused::new(now, wait);
        if let Some(known) = refusals.get_mut(bucket) {
            *known = refused;
            return;
        }
        if refusals.len() >= MOST {
            refusals.retain(|_, refused| refused.holds > now);
        }
        if refusals.len() >= MOST {
            // All still hold. Asking the store again does no harm; remembering more would.
            refusals.clear();
        }
        refusals.insert(bucket.into(), refused);
    }

    /// Forgets all: the store may have.
    pub(super) fn forget(&self) {
        self.0.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_until_it_is_over_but_not_for_long() {
        let (memory, now) = (Memory::default(), Instant::now());
        let part = LONGEST / 4;
        memory.refused("short", now, 2 * part);
        memory.refused("long", now, 100 * LONGEST);
        assert_eq!(memory.wait("short", now + part), Some(part));
        assert_eq!(memory.wait("short", now + 2 * part), None);
        assert_eq!(memory.wait("long", now + part), Some(100 * LONGEST - part));
        assert_eq!(memory.wait("long", now + LONGEST), None);
        assert_eq!(memory.wait("other", now), None);
    }

    #[test]
    fn the_memory_is_bounded() {
        let (memory, now) = (Memory::default(), Instant::now());
        for n in 0..10 * MOST {
            memory.refused(&n.to_string(), now, Duration::from_secs(60));
        }
        assert!(memory.0.borrow().len() <= MOST);
        assert!(memory.0.borrow().capacity() <= 2 * MOST);
    }
}
