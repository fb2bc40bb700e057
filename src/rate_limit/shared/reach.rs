//! Whether the store answers, over all workers of the process: one gauge, and a log line at each
//! change that lasts.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntGauge;

use super::connect::Trouble;

/// How often it is told that the store comes and goes.
const FALTERS: Duration = Duration::from_secs(60);

/// What the workers know of the store.
pub struct Reach {
    state: Mutex<State>,
    up: IntGauge,
    /// The store's address, for the log.
    store: Box<str>,
}

#[derive(Default)]
struct State {
    workers: u32,
    /// Those of them that the store answers.
    answered: u32,
    /// Changes since the last line of the log.
    changes: u32,
    trouble: Option<Trouble>,
    told: Option<(bool, Instant)>,
}

impl Reach {
    pub(super) fn new(up: IntGauge, store: &str) -> Self {
        up.set(0);
        Self {
            state: Mutex::default(),
            up,
            store: store.into(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.all();
        change(&mut state);
        if state.all() != before {
            state.changes += 1;
        }
        // Within the lock: the last to change is the last to write.
        self.up.set(i64::from(state.all()));
        state
    }

    /// One more worker, which the store does not answer yet.
    pub(super) fn joined(&self) {
        drop(self.change(|state| state.workers += 1));
    }

    /// A worker less; `answered`: one that the store answered.
    pub(super) fn left(&self, answered: bool) {
        drop(self.change(|state| {
            state.workers -= 1;
            state.answered -= u32::from(answered);
        }));
    }

    /// The store answers one more worker.
    pub(super) fn answers(&self) {
        drop(self.change(|state| state.answered += 1));
    }

    /// The store answers one worker less.
    pub(super) fn fails(&self) {
        drop(self.change(|state| state.answered -= 1));
    }

    /// Why it does not answer, or not yet.
    pub(super) fn note(&self, trouble: &Trouble) {
        drop(self.change(|state| state.trouble = Some(trouble.clone())));
    }

    /// Tells the log what has changed since it was last told; to be called once a second, so that
    /// there is never more than a line a second.
    pub fn tell(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (up, now) = (state.all(), Instant::now());
        if !up && state.told.is_none() && state.trouble.is_none() {
            // The workers have not tried yet.
            return;
        }
        let same = state.told.filter(|(told, _)| *told == up);
        let (store, changes) = (&*self.store, state.changes);
        let why = state.trouble.as_ref().map(ToString::to_string);
        match same {
            Some((_, at)) if changes > 1 && now.duration_since(at) >= FALTERS => {
                tracing::warn!(
                    store,
                    changes,
                    why,
                    "the shared store of limits comes and goes"
                );
            }
            Some(_) => return,
            None if up => tracing::info!(store, changes, "the shared store of limits answers"),
            None => {
                tracing::warn!(
                    store,
                    changes,
                    why,
                    "the shared store of limits does not answer: this replica limits by its share"
                );
            }
        }
        state.changes = 0;
        state.told = Some((up, now));
    }
}

impl State {
    /// Whether the store answers every worker.
    fn all(&self) -> bool {
        self.workers > 0 && self.workers == self.answered
    }
}
