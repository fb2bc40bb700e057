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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::rc::Rc;

    use super::*;

    fn work(time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    #[tokio::test(flavor = "local")]
    async fn many_tasks_of_one_connection_do_not_go_before_what_comes_after_them() {
        let turns: Rc<Turns> = Rc::default();
        let done: Rc<RefCell<Vec<u32>>> = Rc::default();
        let mut tasks = Vec::new();
        for n in 0..50 {
            let (turns, done) = (Rc::clone(&turns), Rc::clone(&done));
            tasks.push(tokio::task::spawn_local(async move {
                let mut waiting = Waiting::default();
                let each = |_: &mut Context<'_>| {
                    work(SLICE / 2);
                    Poll::Ready(())
                };
                poll_fn(|cx| turns.poll(&mut waiting, cx, each)).await;
                done.borrow_mut().push(n);
            }));
        }
        let seen = Rc::clone(&done);
        let other = tokio::task::spawn_local(async move { seen.borrow().len() });
        // 0.2 ms take two or three of them.
        assert!((1..=3).contains(&other.await.unwrap()));
        for task in tasks {
            task.await.unwrap();
        }
        let mut done = done.take();
        done.sort_unstable();
        assert_eq!(done, (0..50).collect::<Vec<_>>(), "each had its turn");
    }

    #[tokio::test]
    async fn one_poll_that_takes_too_long_goes_on_in_the_next_round() {
        let turns = Turns::default();
        let (mut waiting, mut polls, mut pieces) = (Waiting::default(), 0, 0);
        poll_fn(|cx| {
            turns.poll(&mut waiting, cx, |cx| {
                polls += 1;
                while pieces < 10 {
                    std::task::ready!(turns.poll_enough(cx));
                    work(SLICE / 2);
                    pieces += 1;
                }
                Poll::Ready(())
            })
        })
        .await;
        assert_eq!(pieces, 10);
        assert!(polls > 3, "{polls}");
        // Outside of a poll nothing is held back.
        assert!(
            poll_fn(|cx| Poll::Ready(turns.poll_enough(cx)))
                .await
                .is_ready()
        );
    }
}
