//! How long HTTP/2 connections may hold their worker's event loop.
//!
//! A hundred streams that a client opens at once are a hundred requests that are ready at once, and
//! whoever comes after them would wait for them all. So a connection has a slice of time for all it
//! does. Who has used it up queues with the others of the worker that want more, and each time the loop
//! goes round, one of them gets another slice: however many there are, a round is as long as one slice
//! and what everybody else needs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// One turn: some thirty requests, or a few of the most expensive kind.
const SLICE: Duration = Duration::from_micros(400);

/// The connections of a worker that want more than their slice, in the order of their next turns.
#[derive(Clone, Default)]
pub(super) struct Queue(Rc<Waiters>);

#[derive(Default)]
struct Waiters {
    connections: RefCell<VecDeque<Rc<Turns>>>,
    /// Counts rounds while somebody queues.
    round: Cell<u32>,
}

/// The time that one connection used of its slice.
pub(super) struct Turns {
    queue: Queue,
    used: Cell<Duration>,
    /// The round in which it was polled last.
    round: Cell<u32>,
    /// When the poll that is under way began.
    since: Cell<Instant>,
    queued: Cell<bool>,
    /// Of its task, while it waits for its next slice.
    task: Cell<Option<Waker>>,
}

impl Queue {
    fn join(&self, turns: &Rc<Turns>) {
        let mut connections = self.0.connections.borrow_mut();
        connections.push_back(Rc::clone(turns));
        if connections.len() == 1 {
            drop(tokio::task::spawn_local(self.clone().give_turns()));
        }
    }

    /// One turn each time the loop goes round, until nobody wants one.
    async fn give_turns(self) {
        loop {
            tokio::task::yield_now().await;
            let Waiters { connections, round } = &*self.0;
            round.set(round.get().wrapping_add(1));
            let Some(next) = connections.borrow().front().cloned() else {
                return;
            };
            next.begin();
            connections.borrow_mut().pop_front();
            if connections.borrow().is_empty() {
                return;
            }
        }
    }
}

impl Turns {
    pub(super) fn new(queue: Queue) -> Rc<Self> {
        Rc::new(Self {
            queue,
            used: Cell::default(),
            round: Cell::default(),
            since: Cell::new(Instant::now()),
            queued: Cell::default(),
            task: Cell::default(),
        })
    }

    /// Polls `work` if there is time left in the slice; otherwise the task is woken in the next.
    pub(super) fn poll<T>(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let round = self.queue.0.round.get();
        // Others have had turns, and this connection wanted none.
        if !self.queued.get() && round.wrapping_sub(self.round.replace(round)) > 1 {
            self.used.set(Duration::ZERO);
        }
        if self.queued.get() || self.used.get() > SLICE {
            return self.wait(cx);
        }
        self.since.set(Instant::now());
        let done = work(cx);
        self.used.set(self.used.get() + self.since.get().elapsed());
        done
    }

    /// Within a poll: whether the slice is used up.
    pub(super) fn is_over(&self) -> bool {
        self.queued.get() || self.used.get() + self.since.get().elapsed() > SLICE
    }

    /// Within a poll: [`Poll::Pending`], and woken in the next slice, when this one is used up.
    pub(super) fn poll_enough(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_over() {
            self.wait(cx)
        } else {
            Poll::Ready(())
        }
    }

    fn wait<T>(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.task.set(Some(cx.waker().clone()));
        if !self.queued.replace(true) {
            self.queue.join(self);
        }
        Poll::Pending
    }

    fn begin(&self) {
        self.queued.set(false);
        self.used.set(Duration::ZERO);
        self.round.set(self.queue.0.round.get());
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn work(time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    #[tokio::test(flavor = "local")]
    async fn of_many_connections_that_want_more_one_has_a_turn_in_each_round() {
        const PIECES: u32 = 8;
        let queue = Queue::default();
        let done: Rc<Cell<u32>> = Rc::default();
        let mut tasks = Vec::new();
        for _ in 0..20 {
            let (turns, done) = (Turns::new(queue.clone()), Rc::clone(&done));
            tasks.push(tokio::task::spawn_local(async move {
                for _ in 0..PIECES {
                    let each = |_: &mut Context<'_>| {
                        work(SLICE);
                        Poll::Ready(())
                    };
                    poll_fn(|cx| turns.poll(cx, each)).await;
                    done.set(done.get() + 1);
                    // Ready again at once.
                    let mut went = false;
                    poll_fn(|cx| match std::mem::replace(&mut went, true) {
                        true => Poll::Ready(()),
                        false => {
                            cx.waker().wake_by_ref();
                            Poll::Pending
                        }
                    })
                    .await;
                }
            }));
        }
        // Each has one slice at once; from then on they queue.
        while done.get() < 20 {
            tokio::task::yield_now().await;
        }
        let mut most = 0;
        while done.get() < 20 * PIECES {
            let before = done.get();
            tokio::task::yield_now().await;
            most = most.max(done.get() - before);
        }
        assert!((1..=3).contains(&most), "{most} slices in one round");
        for task in tasks {
            task.await.unwrap();
        }
        assert!(queue.0.connections.borrow().is_empty());
    }

    #[tokio::test(flavor = "local")]
    async fn one_poll_that_takes_too_long_goes_on_in_the_next_round() {
        let turns = Turns::new(Queue::default());
        let (mut polls, mut pieces) = (0, 0);
        poll_fn(|cx| {
            turns.poll(cx, |cx| {
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
    }
}
