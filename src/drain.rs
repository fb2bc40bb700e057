//! Which tasks are alive, and the signals for them to finish.
//!
//! First [`Drain::stop`]: no new work, finish what is there. Then, at the deadline,
//! [`Drain::cut`]: end at once.

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// Shared by every task of the process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    /// Spawns on this thread a task that [`Self::finished`] waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        drop(tokio::task::spawn_local(self.tasks.track_future(task)));
    }

    /// Asks every task to finish.
    pub fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
    }

    /// Ends every task.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// The same signals and tasks for one worker, whose connections then wait on locks that no
    /// other core takes.
    pub fn for_worker(&self) -> Self {
        Self {
            stop: self.stop.child_token(),
            cut: self.cut.child_token(),
            tasks: self.tasks.clone(),
        }
    }

    /// Whether tasks are asked to finish.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Resolves when tasks are asked to finish.
    pub fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.stop.cancelled()
    }

    /// Resolves when tasks are to end at once.
    pub fn cutting(&self) -> WaitForCancellationFuture<'_> {
        self.cut.cancelled()
    }

    /// Resolves when [`Self::stop`] was called and no task is left.
    pub async fn finished(&self) {
        self.tasks.wait().await;
    }

    /// How many tasks are alive.
    pub fn remaining(&self) -> usize {
        self.tasks.len()
    }
}
