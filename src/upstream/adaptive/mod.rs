//! How many requests the backend takes at once without making them wait: found out, not configured.
//!
//! The shape is that of Gradient2 of Netflix's concurrency-limits: how much slower answers are than
//! they are without load tells whether there are too many in flight, a step of the root of the limit
//! looks for more room. What is measured is taken from network congestion control, as averages of
//! unlike requests say little. The sign of a queue is the *fastest* answer of a window, route by
//! route: a standing queue lets nobody pass quickly (CoDel: Nichols and Jacobson, ACM Queue 2012).
//! How many should be in flight then is what the backend does in a second times how long it may
//! take (Little's law), which holds also while a long queue is still there; and how fast it is
//! without load is looked up now and then by holding back for a moment, or a lasting overload would
//! be taken for its nature (BBR: Cardwell and others, ACM Queue 2016).
//!
//! Until answers have become slower there is no limit but the configured one.

mod estimate;
#[cfg(test)]
mod tests;

use std::time::Duration;

use estimate::{Slowest, Unloaded};

use super::pace::Pace;
use crate::names::Route;

/// By so much, at least, answers have to become slower to count as slow.
pub(super) const SLOWER: Duration = Duration::from_millis(25);
/// Times are microseconds.
const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;

/// How much of a change is made at once. Its effect shows a window late: all of it would swing.
const SMOOTHING: f64 = 0.5;
/// The least part of the limit that is left at once: in a bad moment a window may have no answers.
const STEEPEST: f64 = 0.25;
/// A limit may be so many times what is in flight because of it, where one client or kind has it all.
const UNFILLED: f64 = 3.0;
/// While looking at the backend without load: at most this part of the limit, and this part of what
/// the backend works on at once by what is known of it (Little's law).
const HOLD_BACK: f64 = 0.25;
const IDLE_HANDS: f64 = 0.75;
/// The first look is so long after the first refusal, and any only when no more than the limit have
/// been in flight for a window: a long queue has to go first.
const LOOK_FIRST: u64 = 3 * SECOND;
/// Between two looks at least so long; and so many times as long as the last took.
const LOOK_EVERY: u64 = 10 * SECOND;
const LOOK_SELDOM: u64 = 20;
/// A look that has not seen enough by then takes what it has seen: so long, and this many times as
/// long as answers took before.
const LOOK_LONGEST: u64 = 2 * SECOND;
const LOOK_ANSWERS: f64 = 2.0;
/// After so long without requests everything known of the load is over.
const QUIET: u64 = 5 * SECOND;

/// What was seen in a window.
pub(super) struct Window {
    /// Now, since some beginning.
    pub(super) now: u64,
    /// The limit is never above.
    pub(super) most: u32,
    /// So many in flight are never too many; the limit is never below, but for moments of looking.
    pub(super) least: u32,
    /// Requests in flight now, and most of them in this window.
    pub(super) in_flight: u32,
    pub(super) peak: u32,
    /// Whether somebody was refused.
    pub(super) refused: bool,
    /// Answers of all routes since the last one.
    pub(super) answers: u32,
    /// By route.
    pub(super) paces: [Pace; Route::ALL.len()],
}

/// What follows from it.
pub(super) struct Turn {
    /// Most requests in flight from now on.
    pub(super) limit: u32,
    /// When the next window ends.
    pub(super) next: u64,
    /// What was seen but not enough of it is to be forgotten.
    pub(super) afresh: bool,
}

/// The state of the search.
pub(super) struct Adaptive {
    limit: f64,
    unloaded: Unloaded,
    look: Look,
    /// Most in flight while looking, and how long each part of it may take.
    held: f64,
    longest: u64,
    last: u64,
    /// Whether it was told that requests are refused, and when one was last.
    told: bool,
    last_refused: u64,
}

/// Looking at the backend without load.
#[derive(Clone, Copy)]
enum Look {
    /// There is no need.
    None,
    /// Not before this time.
    From(u64),
    /// Since this time, until no more than what is held back to is in flight.
    Emptying(u64),
    /// Since this time, until enough answers are there.
    Looking(u64),
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            limit: f64::INFINITY,
            unloaded: Unloaded::default(),
            look: Look::None,
            held: 1.0,
            longest: LOOK_LONGEST,
            last: 0,
            told: false,
            last_refused: 0,
        }
    }
}

impl Adaptive {
    /// Takes a window into account.
    pub(super) fn turn(&mut self, window: &Window) -> Turn {
        let now = window.now;
        let span = now.saturating_sub(self.last);
        if span > QUIET {
            self.limit = f64::INFINITY;
            self.look = Look::None;
        }
        self.last = now;
        let rate = f64::from(window.answers) / span.max(1) as f64;
        self.limit = self.limit.min(window.most.into());
        self.tell(window);
        match self.look {
            Look::Emptying(since) => {
                let empty = f64::from(window.in_flight) <= self.held;
                if empty || now - since > self.longest {
                    self.look = Look::Looking(now);
                }
                self.hold(now, true)
            }
            Look::Looking(since) => {
                let over = now - since > self.longest;
                if !self.unloaded.look_up(&window.paces, over) && !over {
                    return self.hold(now, false);
                }
                self.look = Look::From(now + LOOK_EVERY.max((now - since) * LOOK_SELDOM));
                self.go_on(now, 0.0, true)
            }
            Look::None | Look::From(_) => {
                let slowest = self.compare(window, rate);
                let limited = self.limit < window.most.into();
                let at_rest = f64::from(window.peak) <= self.limit;
                self.look = match self.look {
                    Look::From(_) if !limited => Look::None,
                    Look::None if limited && window.refused => Look::From(now + LOOK_FIRST),
                    same => same,
                };
                if let Look::From(time) = self.look
                    && now >= time
                    && window.refused
                    && at_rest
                    && let Some(Slowest { took, unloaded }) = slowest
                {
                    self.look = Look::Emptying(now);
                    let part = HOLD_BACK.min(IDLE_HANDS * unloaded / took);
                    self.held = (self.limit * part).ceil();
                    self.longest = LOOK_LONGEST.max((took * LOOK_ANSWERS) as u64);
                    return self.hold(now, true);
                }
                self.go_on(now, slowest.map_or(0.0, |slowest| slowest.took), false)
            }
        }
    }

    fn go_on(&self, now: u64, slowest: f64, afresh: bool) -> Turn {
        // A window in which answers to what was let in under the new limit come.
        let length = (slowest as u64).clamp(100 * MS, SECOND);
        Turn {
            limit: self.limit as u32,
            next: now + length,
            afresh,
        }
    }

    fn hold(&self, now: u64, afresh: bool) -> Turn {
        Turn {
            limit: (self.held as u32).max(1),
            next: now + 20 * MS,
            afresh,
        }
    }

    /// Moves the limit by the route that has become slowest, and gives it; `rate`: answers in a
    /// microsecond.
    fn compare(&mut self, window: &Window, rate: f64) -> Option<Slowest> {
        let (slowest, held_back) = self.unloaded.compare(&window.paces);
        let peak = f64::from(window.peak.max(1));
        let Some(slowest) = slowest else {
            // Nothing speaks for the limit any more, and it is not an old queue that is answered.
            if held_back && peak <= self.limit {
                self.limit = (self.limit * 2.0).min(window.most.into());
            }
            return None;
        };
        // If so few are slow, it is not for their number.
        let few = window.peak <= window.least && !window.refused;
        if slowest.is_slow() && !few {
            // A limit that nobody reached is not what kept it so low.
            let (before, filled) = if window.refused {
                (self.limit, (self.limit / peak).clamp(1.0, UNFILLED))
            } else {
                (self.limit.min(peak), 1.0)
            };
            let enough = rate * slowest.target() * filled;
            let new = (enough + enough.sqrt()).clamp(before * STEEPEST, before);
            self.limit = if window.refused && new > before / 2.0 {
                before + (new - before) * SMOOTHING
            } else {
                new
            };
        } else {
            self.limit += self.limit.sqrt() * SMOOTHING;
        }
        let most = f64::from(window.most);
        self.limit = self.limit.clamp(f64::from(window.least).min(most), most);
        Some(slowest)
    }

    /// Says when refusing begins and when it is over.
    fn tell(&mut self, window: &Window) {
        if window.refused {
            self.last_refused = window.now;
            if !self.told {
                self.told = true;
                tracing::warn!(
                    in_flight = window.peak,
                    limit = self.limit as u32,
                    "overload: the backend is slower than it can be, or has all it may have; requests are refused"
                );
            }
        } else if self.told && window.now - self.last_refused > 10 * SECOND {
            self.told = false;
            tracing::info!("no request was refused for overload for ten seconds");
        }
    }
}
