//! How fast the backend answers requests of one route, noted by all workers without a lock. Times are
//! microseconds.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What was seen of a route.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// Not enough.
    Unknown,
    /// The fastest of some answers that are not enough; more are waited for.
    Few(u32),
    /// The fastest of enough answers.
    Fastest(u32),
    /// Enough clients gave up and none had an answer; the longest wait of them.
    AllGaveUp(u32),
    /// There are enough answers, and all of them came later than a queue is told by.
    HeldBack,
}

/// Answers of one route since they were last looked at.
pub(super) struct Seen {
    /// The fastest of them, microseconds.
    fastest: AtomicU32,
    /// How many, counted up to [`ENOUGH`].
    answers: AtomicU32,
    /// Clients that gave up since the last answer, counted as well, and the longest that one of them
    /// had waited, microseconds. Where all give up it is the only sign there is.
    gave_up: AtomicU32,
    longest: AtomicU32,
    /// Answers that were held back, since the last that was not.
    held_back: AtomicU32,
}

/// Answers that make a judgement.
const ENOUGH: u32 = 8;

/// An answer that took longer is one the backend held back on purpose (reports, long polling): how
/// long it took tells nothing of the load.
pub(super) const HELD_BACK: u32 = 5_000_000;

impl Default for Seen {
    fn default() -> Self {
        Self {
            fastest: AtomicU32::new(u32::MAX),
            answers: AtomicU32::new(0),
            gave_up: AtomicU32::new(0),
            longest: AtomicU32::new(0),
            held_back: AtomicU32::new(0),
        }
    }
}

impl Seen {
    // Each is looked at before it is written, so that cores seldom take the line from each other.

    /// An answer took so long.
    pub(super) fn answered(&self, took: u32) {
        // However long it took: somebody has an answer.
        if self.gave_up.load(Relaxed) > 0 {
            self.gave_up.store(0, Relaxed);
            self.longest.store(0, Relaxed);
        }
        if took >= HELD_BACK {
            if self.held_back.load(Relaxed) < ENOUGH {
                self.held_back.fetch_add(1, Relaxed);
            }
            return;
        }
        if self.held_back.load(Relaxed) > 0 {
            self.held_back.store(0, Relaxed);
        }
        if self.fastest.load(Relaxed) > took {
            self.fastest.fetch_min(took, Relaxed);
        }
        if self.answers.load(Relaxed) < ENOUGH {
            self.answers.fetch_add(1, Relaxed);
        }
    }

    /// A client had waited so long when it gave up.
    pub(super) fn gave_up(&self, after: u32) {
        if after >= HELD_BACK {
            return;
        }
        if self.longest.load(Relaxed) < after {
            self.longest.fetch_max(after, Relaxed);
        }
        if self.gave_up.load(Relaxed) < ENOUGH {
            self.gave_up.fetch_add(1, Relaxed);
        }
    }

    /// What is to be said of the route when there was enough; then it is counted anew.
    pub(super) fn take(&self) -> Pace {
        let gave_up = self.gave_up.load(Relaxed);
        let pace = match self.answers.load(Relaxed) {
            ENOUGH.. => Pace::Fastest(self.fastest.load(Relaxed)),
            0 if gave_up >= ENOUGH => Pace::AllGaveUp(self.longest.load(Relaxed)),
            0 if self.held_back.load(Relaxed) >= ENOUGH => Pace::HeldBack,
            0 => return Pace::Unknown,
            1.. => return Pace::Few(self.fastest.load(Relaxed)),
        };
        self.forget();
        pace
    }

    /// Counts anew.
    pub(super) fn forget(&self) {
        self.answers.store(0, Relaxed);
        self.fastest.store(u32::MAX, Relaxed);
        self.gave_up.store(0, Relaxed);
        self.longest.store(0, Relaxed);
        self.held_back.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_up_counts_only_where_nobody_has_an_answer() {
        let seen = Seen::default();
        for n in 1..=ENOUGH {
            assert!(matches!(seen.take(), Pace::Unknown));
            seen.gave_up(100 * n);
        }
        assert!(matches!(seen.take(), Pace::AllGaveUp(800)));
        for n in 1..=ENOUGH {
            seen.gave_up(1);
            seen.gave_up(1);
            assert!(n == 1 || matches!(seen.take(), Pace::Few(_)));
            seen.answered(1000 - n);
        }
        assert!(matches!(seen.take(), Pace::Fastest(992)));
        assert!(matches!(seen.take(), Pace::Unknown));
    }

    #[test]
    fn answers_that_are_held_back_tell_no_time_and_that_there_are_answers() {
        let seen = Seen::default();
        for _ in 1..ENOUGH {
            seen.gave_up(3_000_000);
            seen.answered(HELD_BACK);
            seen.gave_up(HELD_BACK);
        }
        assert!(matches!(seen.take(), Pace::Unknown));
        seen.answered(HELD_BACK + 1);
        assert!(matches!(seen.take(), Pace::HeldBack));
        for _ in 0..ENOUGH {
            seen.answered(HELD_BACK);
        }
        seen.answered(700);
        assert!(matches!(seen.take(), Pace::Few(700)));
    }
}
