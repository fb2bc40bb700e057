//! How long HTTP/2 connections may hold their worker's event loop.
//!
//! A hundred streams that a client opens at once are a hundred tasks that are ready at once, and
//! whoever comes after them waits for them all: on the worker, the connection is what takes turns, not
//! the stream. Its tasks share a slice of time. Who has used it up queues with the others of the worker
//! that want more, and each time the loop goes round, one of them gets another slice: however many
//! there are, a round is as long as one slice and what everybody else needs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// One turn: some twenty requests, or a few of the most expensive kind.
const SLICE: Duration = Duration::from_micros(200);

/// The connections of a worker that want more than their slice, in the order of their next turns.
#[derive(Clone, Default)]
pub(super) struct Queue(Rc<Waiters>);

#[derive(Default)]
struct Waiters {
    connections: RefCell<VecDeque<Rc<Turns>>>,
    /// Counts rounds while somebody queues.
    round: Cell<u32>,
}

/// The time that the tasks of one connection used of their slice.
pub(super) struct Turns {
    queue: Queue,
    used: Cell<Duration>,
    /// The round in which a task was polled last.
    round: Cell<u32>,
    /// When the task that is being polled, was.
    since: Cell<Instant>,
    polling: Cell<bool>,
    queued: Cell<bool>,
    /// Counts slices.
    turn: Cell<u32>,
    /// Tasks that wait for the next one.
    tasks: RefCell<Vec<Waker>>,
    /// Of the task that is being polled, where it is the connection's own.
    within: Cell<Waiting>,
}

/// What a task remembers that waits for a turn: the one it waits in.
#[derive(Clone, Copy, Default)]
pub(super) struct Waiting(Option<u32>);

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
            polling: Cell::default(),
            queued: Cell::default(),
            turn: Cell::default(),
            tasks: RefCell::default(),
            within: Cell::default(),
        })
    }

    /// Polls `work` if there is time left in the slice; otherwise the task is woken in the next.
    pub(super) fn poll<T>(
        self: &Rc<Self>,
        waiting: &mut Waiting,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let round = self.queue.0.round.get();
        // Others have had turns, and this connection wanted none.
        if !self.queued.get() && round.wrapping_sub(self.round.replace(round)) > 1 {
            self.used.set(Duration::ZERO);
        }
        if self.queued.get() || self.used.get() > SLICE {
            return self.wait(waiting, cx);
        }
        let begun = Instant::now();
        self.since.set(begun);
        self.polling.set(true);
        let done = work(cx);
        self.polling.set(false);
        self.used.set(self.used.get() + begun.elapsed());
        done
    }

    /// Within a poll: [`Poll::Pending`], and woken in the next slice, when this one is used up.
    pub(super) fn poll_enough(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        let spent = || self.used.get() + self.since.get().elapsed() > SLICE;
        if !self.polling.get() || !(self.queued.get() || spent()) {
            return Poll::Ready(());
        }
        let mut waiting = self.within.get();
        let pending = self.wait(&mut waiting, cx);
        self.within.set(waiting);
        pending
    }

    fn wait<T>(self: &Rc<Self>, waiting: &mut Waiting, cx: &mut Context<'_>) -> Poll<T> {
        if waiting.0.replace(self.turn.get()) != Some(self.turn.get()) {
            self.tasks.borrow_mut().push(cx.waker().clone());
        }
        if !self.queued.replace(true) {
            self.queue.join(self);
        }
        Poll::Pending
    }

    fn begin(&self) {
        self.queued.set(false);
        self.turn.set(self.turn.get().wrapping_add(1));
        self.used.set(Duration::ZERO);
        self.round.set(self.queue.0.round.get());
        for task in self.tasks.take() {
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
    async fn many_tasks_of_one_connection_do_not_go_before_what_comes_after_them() {
        let turns = Turns::new(Queue::default());
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

    #[tokio::test(flavor = "local")]
    async fn of_many_connections_that_want_more_one_has_a_turn_in_each_round() {
        const PIECES: u32 = 8;
        let queue = Queue::default();
        let done: Rc<Cell<u32>> = Rc::default();
        let mut tasks = Vec::new();
        for _ in 0..20 {
            let (turns, done) = (Turns::new(queue.clone()), Rc::clone(&done));
            tasks.push(tokio::task::spawn_local(async move {
                let mut waiting = Waiting::default();
                for _ in 0..PIECES {
                    let each = |_: &mut Context<'_>| {
                        work(SLICE);
                        Poll::Ready(())
                    };
                    poll_fn(|cx| turns.poll(&mut waiting, cx, each)).await;
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
