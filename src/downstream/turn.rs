//! How long one HTTP/2 connection may hold its worker's event loop.
//!
//! A hundred streams that a client opens at once are a hundred tasks that are ready at once, and
//! whoever comes after them waits for them all: on the worker, the connection is what takes turns, not
//! the stream. Its tasks share a slice of time; when that is used up, those of them that want more wait
//! until the loop has looked at what else is ready.

use std::cell::Cell;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// One turn: some twenty requests, or a few of the most expensive kind.
const SLICE: Duration = Duration::from_micros(200);

/// The time that the tasks of one connection used since the loop last went round for them.
#[derive(Default)]
pub(super) struct Turns {
    used: Cell<Duration>,
    round: Cell<u32>,
    since: Cell<Option<Instant>>,
}

/// What a task remembers that waits for the next round.
#[derive(Default)]
pub(super) struct Waiting(Option<u32>);

impl Turns {
    /// Polls `work` if there is time left in this round; otherwise the task is woken in the next.
    pub(super) fn poll<T>(
        &self,
        waiting: &mut Waiting,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // Who waited and is polled again tells that the loop has gone round.
        if waiting.0.take() == Some(self.round.get()) {
            self.round.set(self.round.get().wrapping_add(1));
            self.used.set(Duration::ZERO);
        }
        if self.used.get() > SLICE {
            waiting.0 = Some(self.round.get());
            return wait(cx);
        }
        let begun = Instant::now();
        self.since.set(Some(begun));
        let done = work(cx);
        self.since.set(None);
        self.used.set(self.used.get() + begun.elapsed());
        done
    }

    /// Within a poll: [`Poll::Pending`], and woken in the next round, when it has used up the slice.
    pub(super) fn poll_enough(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.since.get() {
            Some(since) if self.used.get() + since.elapsed() > SLICE => wait(cx),
            _ => Poll::Ready(()),
        }
    }
}

/// Has the task woken when the loop has looked for other work.
fn wait<T>(cx: &mut Context<'_>) -> Poll<T> {
    if pin!(tokio::task::yield_now()).poll(cx).is_ready() {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}
