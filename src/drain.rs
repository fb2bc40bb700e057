//! Which tasks are alive, and the signals for them to finish.
//!
//! First [`Drain::stop`]: no new work, finish what is there, within a budget over which tunnels
//! spread their ends ([`Drain::moment`]). Then, where somebody is in a hurry, [`Drain::hurry`]: no
//! tunnel waits for its moment any more. Then, at the deadline, [`Drain::cut`]: end at once.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// Why the process leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It ends.
    Shutdown,
    /// Another process takes over where it listens: who comes back at once is served.
    Handover,
}

/// Shared by every task of the process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<Signals>);

#[derive(Debug, Default)]
struct Signals {
    stop: Signal,
    hurry: Signal,
    cut: Signal,
    tasks: TaskTracker,
    /// Made by the first `stop`, the same for all workers.
    plan: Arc<OnceLock<Plan>>,
}

/// A token, and whether it was cancelled where that can be seen without its lock.
#[derive(Debug, Default)]
struct Signal {
    token: CancellationToken,
    given: Arc<AtomicBool>,
}

impl Signal {
    fn give(&self) {
        self.given.store(true, Ordering::Release);
        self.token.cancel();
    }

    fn is_given(&self) -> bool {
        self.given.load(Ordering::Acquire)
    }

    fn child(&self) -> Self {
        Self {
            token: self.token.child_token(),
            given: Arc::clone(&self.given),
        }
    }

    fn wait(&self) -> Given<'_> {
        Given {
            cancelled: self.token.cancelled(),
            given: &self.given,
            registered: false,
        }
    }
}

pin_project! {
    /// Resolves when a signal is given. To be polled by one task: it is registered with the token once, not
    /// with each of its polls.
    pub struct Given<'s> {
        #[pin]
        cancelled: WaitForCancellationFuture<'s>,
        given: &'s AtomicBool,
        registered: bool,
    }
}

impl Future for Given<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let registered = std::mem::replace(this.registered, true);
        if registered && !this.given.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        this.cancelled.poll(cx)
    }
}

/// How the process leaves.
#[derive(Debug)]
struct Plan {
    leaving: Leaving,
    begun: Instant,
    /// Over how long tunnels spread their ends.
    spread: Duration,
    /// Where in it the first one stands, from 0 to 1.
    first: f64,
    /// How many have drawn their moment.
    drawn: AtomicU32,
}

/// The part of the budget in which tunnels are told to end; the rest is for them to do so.
const TELLING: f64 = 0.8;

impl Drain {
    /// Spawns on this thread a task that [`Self::finished`] waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(tokio::task::spawn_local(self.0.tasks.track_future(task)));
    }

    /// Asks every task to finish within `budget`, after which the caller is to [`Self::cut`]. Only
    /// the first call counts.
    pub fn stop(&self, leaving: Leaving, budget: Duration) {
        self.0.plan.get_or_init(|| Plan {
            leaving,
            begun: Instant::now(),
            spread: budget.mul_f64(TELLING),
            first: fastrand::f64(),
            drawn: AtomicU32::new(0),
        });
        self.0.stop.give();
        self.0.tasks.close();
    }

    /// Asks every task to finish now, not at its moment.
    pub fn hurry(&self) {
        self.0.hurry.give();
    }

    /// Ends every task.
    pub fn cut(&self) {
        self.0.stop.give();
        self.0.hurry.give();
        self.0.cut.give();
    }

    /// The same signals and tasks for one worker, whose connections then wait on locks that no
    /// other core takes.
    pub fn for_worker(&self) -> Self {
        Self(Arc::new(Signals {
            stop: self.0.stop.child(),
            hurry: self.0.hurry.child(),
            cut: self.0.cut.child(),
            tasks: self.0.tasks.clone(),
            plan: Arc::clone(&self.0.plan),
        }))
    }

    /// Whether tasks are asked to finish.
    pub fn is_stopping(&self) -> bool {
        self.0.stop.is_given()
    }

    /// Why, once they are asked to.
    pub fn leaving(&self) -> Option<Leaving> {
        self.0.plan.get().map(|plan| plan.leaving)
    }

    /// When a tunnel that asks is to end. Those that ask lie evenly over the first 80 % of the
    /// budget, however many they are: each is the golden section of a turn after the one before
    /// it. A little jitter on top, so that no two processes keep step.
    pub fn moment(&self) -> Instant {
        let Some(plan) = self.0.plan.get() else {
            return Instant::now();
        };
        let turn = f64::from(plan.drawn.fetch_add(1, Ordering::Relaxed)) * GOLDEN_SECTION;
        let place = (plan.first + turn + fastrand::f64() * JITTER).fract();
        plan.begun + plan.spread.mul_f64(place)
    }

    /// Resolves when tasks are asked to finish.
    pub fn stopping(&self) -> Given<'_> {
        self.0.stop.wait()
    }

    /// Resolves when no task is to wait for its moment any more.
    pub fn hurrying(&self) -> Given<'_> {
        self.0.hurry.wait()
    }

    /// Resolves when tasks are to end at once.
    pub fn cutting(&self) -> Given<'_> {
        self.0.cut.wait()
    }

    /// Resolves when [`Self::stop`] was called and no task is left.
    pub async fn finished(&self) {
        self.0.tasks.wait().await;
    }

    /// How many tasks are alive.
    pub fn remaining(&self) -> usize {
        self.0.tasks.len()
    }
}

const GOLDEN_SECTION: f64 = 0.618_033_988_749_894_9;
const JITTER: f64 = 1.0 / 64.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_lie_evenly_over_the_first_four_fifths_of_the_budget() {
        for tunnels in [1, 2, 3, 10, 100, 5000] {
            let drain = Drain::default();
            let asked = Instant::now();
            drain.stop(Leaving::Shutdown, Duration::from_secs(100));
            let begun = drain.0.plan.get().unwrap().begun;
            let workers = [drain.for_worker(), drain.for_worker()];
            let mut moments: Vec<f64> = (0..tunnels)
                .map(|n| {
                    let at = workers[n % 2].moment();
                    assert!(at >= asked);
                    (at - begun).as_secs_f64()
                })
                .collect();
            moments.sort_by(f64::total_cmp);
            assert!(moments[0] >= 0.0 && moments[tunnels - 1] < 80.0);
            let even = 80.0 / tunnels as f64;
            for pair in moments.windows(2) {
                let jitter = 80.0 * JITTER;
                assert!(pair[1] - pair[0] < 2.0 * even + jitter, "{moments:?}");
            }
        }
    }

    #[test]
    fn the_first_reason_counts_and_every_worker_knows_it() {
        let drain = Drain::default();
        let worker = drain.for_worker();
        assert_eq!(worker.leaving(), None);
        drain.stop(Leaving::Handover, Duration::ZERO);
        drain.stop(Leaving::Shutdown, Duration::ZERO);
        assert_eq!(worker.leaving(), Some(Leaving::Handover));
        assert!(worker.is_stopping());
    }
}
