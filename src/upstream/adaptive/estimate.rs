//! How fast each route is without load, as far as it is known, and which of them has become slowest.

use super::STEEPEST;
use crate::names::Route;
use crate::upstream::pace::{HELD_BACK, Pace};

/// Answers may become slower by this factor ...
const TOLERANCE: f64 = 2.0;
/// ... and at least by so much: less than that nobody feels, and every machine has such moments.
pub(super) const SLACK: f64 = super::SLOWER.as_micros() as f64;
/// Part of a rise in the fastest answers that is taken for the backend's nature, each window.
const DRIFT: f64 = 1.0 / 64.0;

/// The paces of a window, by route.
type Paces = [Pace; Route::ALL.len()];

/// The fastest answer of each route without load, as far as known; microseconds.
#[derive(Default)]
pub(super) struct Unloaded([Option<f64>; Route::ALL.len()]);

/// The route that has become slowest; microseconds.
#[derive(Clone, Copy)]
pub(super) struct Slowest {
    /// How long its fastest answer took.
    pub(super) took: f64,
    /// How long it takes without load.
    pub(super) unloaded: f64,
}

impl Slowest {
    /// How long its fastest answer may take.
    pub(super) fn target(self) -> f64 {
        target(self.unloaded)
    }

    /// Whether it took longer.
    pub(super) fn is_slow(self) -> bool {
        self.took > self.target()
    }
}

impl Unloaded {
    /// Takes what is seen without load, that of few answers, too, where the look is `over`; `false`:
    /// not enough was seen.
    pub(super) fn look_up(&mut self, paces: &Paces, over: bool) -> bool {
        let mut done = false;
        for (unloaded, pace) in self.0.iter_mut().zip(paces) {
            let fastest = match *pace {
                Pace::Fastest(fastest) => fastest,
                Pace::Few(fastest) if over => fastest,
                Pace::HeldBack => HELD_BACK,
                Pace::Few(_) | Pace::Unknown | Pace::AllGaveUp(_) => continue,
            };
            *unloaded = Some(fastest.into());
            done = true;
        }
        done
    }

    /// The slowest route, measured by what it takes without load, if enough was seen of any; and
    /// whether the backend held answers of some route back. What is faster than ever is learnt.
    pub(super) fn compare(&mut self, paces: &Paces) -> (Option<Slowest>, bool) {
        let (mut gradient, mut slowest) = (f64::INFINITY, None);
        let mut held_back = false;
        for (unloaded, pace) in self.0.iter_mut().zip(paces) {
            let (took, known) = match *pace {
                Pace::Unknown | Pace::Few(_) => continue,
                Pace::HeldBack => {
                    // Who leaves earlier than that is impatient: it is no sign of load.
                    unloaded.get_or_insert(HELD_BACK.into());
                    held_back = true;
                    continue;
                }
                Pace::Fastest(fastest) => {
                    let fastest = f64::from(fastest);
                    let known = unloaded.get_or_insert(fastest);
                    *known = known.min(fastest);
                    if fastest <= target(*known) {
                        *known += (fastest - *known) * DRIFT;
                    }
                    (fastest, *known)
                }
                Pace::AllGaveUp(longest) => {
                    let longest = f64::from(longest);
                    // Of a backend that was never seen otherwise: it is overloaded by far.
                    let known = unloaded.unwrap_or(longest * STEEPEST);
                    // Who leaves at once tells nothing.
                    if longest <= target(known) {
                        continue;
                    }
                    (longest, known)
                }
            };
            if target(known) / took < gradient {
                gradient = target(known) / took;
                slowest = Some(Slowest {
                    took,
                    unloaded: known,
                });
            }
        }
        (slowest, held_back)
    }
}

/// How long the fastest answers may take where they take so long without load.
fn target(unloaded: f64) -> f64 {
    (unloaded * TOLERANCE).max(unloaded + SLACK)
}
