//! How long HTTP/2 connections, and large bodies over HTTP/1.1, may hold their worker's event loop.
//!
//! A hundred streams that a client opens at once are a hundred requests that are ready at once, and
//! whoever comes after them would wait for them all. So all such connections of a worker share a slice
//! of time each time the loop goes round. Who comes when it is used up, or has not done all it wanted,
//! queues; each round the first of the queue gets a turn of its own, and so do the next ones until half a
//! slice is used up. However many connections there are, a round is as long as two slices and what
//! everybody else needs.
//!
//! Who has used little goes before those that have used much, as in deficit round robin with a list of
//! new flows (RFC 8290 section 4.2), in three rounds of four.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Under callgrind, for which `benches/run` builds, the work that fits in a slice takes fifty times as long.
const SLOWER: u64 = if cfg!(slow_motion) { 50 } else { 1 };
/// The time that is shared in a round: some twenty requests, or a few of the most expensive kind.
const SLICE: Duration = Duration::from_micros(300 * SLOWER);
/// A turn of a connection with a large body over HTTP/1.1, two or three pieces of it: its requests are not
/// many, and nothing is gained by looking at more of them at once.
const BODY: Duration = Duration::from_micros(150 * SLOWER);
/// A second one of these is not begun in a round.
const _: () = assert!(BODY.as_micros() >= SLICE.as_micros() / 2);
/// In one of so many rounds those that have used much come first, or they might never.
const FOR_HEAVY: u32 = 4;
/// Below so much in a round nobody has to be told of the next one.
const LITTLE: Duration = Duration::from_micros(75 * SLOWER);

/// The connections of a worker that want more than there is time for, in the order of their next turns.
#[derive(Clone, Default)]
pub(super) struct Queue(Rc<Waiters>);

#[derive(Default)]
struct Waiters {
    /// Those that have used little, and those that have used much.
    light: RefCell<VecDeque<Rc<Turns>>>,
    heavy: RefCell<VecDeque<Rc<Turns>>>,
    /// Time that was used in this round.
    spent: Cell<Duration>,
    /// Counts rounds while somebody follows them.
    round: Cell<u32>,
    /// Somebody does.
    followed: Cell<bool>,
}

/// What one connection had of its worker's time.
pub(super) struct Turns {
    queue: Queue,
    /// As long as a turn of its own.
    turn: Duration,
    /// Since it last wanted nothing for a round.
    used: Cell<Duration>,
    /// The round in which it was polled last.
    round: Cell<u32>,
    /// When the poll that is under way began, and how long it may be.
    since: Cell<Instant>,
    allowed: Cell<Duration>,
    queued: Cell<bool>,
    /// The next poll is its turn.
    granted: Cell<bool>,
    /// Of its task, while it waits for its turn.
    task: Cell<Option<Waker>>,
}

impl Queue {
    fn join(&self, turns: &Rc<Turns>, used: Duration) {
        let waiters = &*self.0;
        let list = if used <= SLICE {
            &waiters.light
        } else {
            &waiters.heavy
        };
        list.borrow_mut().push_back(Rc::clone(turns));
        self.follow();
    }

    /// Has somebody notice the next round.
    fn follow(&self) {
        if !self.0.followed.replace(true) {
            drop(tokio::task::spawn_local(self.clone().follow_rounds()));
        }
    }

    /// The next turn, if somebody waits for it.
    fn grant(&self) -> bool {
        let waiters = &*self.0;
        let mut lists = [&waiters.light, &waiters.heavy];
        if waiters.round.get().is_multiple_of(FOR_HEAVY) {
            lists.reverse();
        }
        // Whose connection has ended needs none.
        let waits = |turns: &Rc<Turns>| Rc::strong_count(turns) > 1;
        let next = lists.into_iter().find_map(|list| {
            let mut list = list.borrow_mut();
            std::iter::from_fn(|| list.pop_front()).find(waits)
        });
        next.inspect(|next| next.come()).is_some()
    }

    /// A turn each time the loop goes round, until nobody wants one.
    async fn follow_rounds(self) {
        loop {
            tokio::task::yield_now().await;
            let waiters = &*self.0;
            waiters.spent.set(Duration::ZERO);
            waiters.round.set(waiters.round.get().wrapping_add(1));
            if !self.grant() {
                waiters.followed.set(false);
                return;
            }
        }
    }
}

impl Turns {
    pub(super) fn new(queue: Queue) -> Rc<Self> {
        Self::with(queue, SLICE)
    }

    fn with(queue: Queue, turn: Duration) -> Rc<Self> {
        Rc::new(Self {
            turn,
            round: Cell::new(queue.0.round.get()),
            queue,
            used: Cell::default(),
            since: Cell::new(Instant::now()),
            allowed: Cell::default(),
            queued: Cell::default(),
            granted: Cell::default(),
            task: Cell::default(),
        })
    }

    /// Polls `work` if there is time left in this round; otherwise the task is woken in its turn.
    pub(super) fn poll<T>(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let waiters = &*self.queue.0;
        let round = waiters.round.get();
        let granted = self.granted.take();
        let passed = round.wrapping_sub(self.round.replace(round));
        // Nobody wants turns, or others have had some and this connection wanted none.
        let rested = !waiters.followed.get() || passed > 1;
        if rested && !granted && !self.queued.get() {
            self.used.set(Duration::ZERO);
        }
        let left = SLICE.saturating_sub(waiters.spent.get());
        if self.queued.get() || !granted && left.is_zero() {
            return self.wait(cx, Duration::ZERO);
        }
        self.begin(if granted {
            self.turn
        } else {
            self.turn.min(left)
        });
        let done = work(cx);
        self.end(granted);
        done
    }

    /// A large body takes part from now on, within a poll that began without taking turns and ends with
    /// [`Turns::leave`].
    pub(super) fn enter(queue: Queue) -> Rc<Self> {
        let left = SLICE.saturating_sub(queue.0.spent.get());
        let this = Self::with(queue, BODY);
        this.begin(left.min(BODY));
        this
    }

    /// The poll within which it was entered is over.
    pub(super) fn leave(&self) {
        self.end(false);
    }

    fn begin(&self, allowed: Duration) {
        self.allowed.set(allowed);
        self.since.set(Instant::now());
    }

    /// So much was done in this round.
    fn end(&self, granted: bool) {
        let took = self.since.get().elapsed();
        self.used.set(self.used.get() + took);
        let spent = self.queue.0.spent.get() + took;
        self.queue.0.spent.set(spent);
        if granted && spent < SLICE / 2 {
            self.queue.grant();
        } else if spent > LITTLE {
            self.queue.follow();
        }
    }

    /// Whether the connection is in the queue.
    pub(super) fn are_waited_for(&self) -> bool {
        self.queued.get()
    }

    /// Within a poll: whether its time is used up.
    pub(super) fn is_over(&self) -> bool {
        self.queued.get() || self.since.get().elapsed() >= self.allowed.get()
    }

    /// Within a poll: [`Poll::Pending`], and woken in its turn, when its time is used up.
    pub(super) fn poll_enough(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_over() {
            self.wait(cx, self.since.get().elapsed())
        } else {
            Poll::Ready(())
        }
    }

    /// `now`: what it has used in the poll that is under way.
    fn wait<T>(self: &Rc<Self>, cx: &mut Context<'_>, now: Duration) -> Poll<T> {
        self.task.set(Some(cx.waker().clone()));
        if !self.queued.replace(true) {
            self.queue.join(self, self.used.get() + now);
        }
        Poll::Pending
    }

    fn come(&self) {
        self.queued.set(false);
        self.granted.set(true);
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::ready;

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
        assert!(queue.0.light.borrow().is_empty() && queue.0.heavy.borrow().is_empty());
    }

    #[tokio::test(flavor = "local")]
    async fn who_wants_little_does_not_wait_for_all_who_want_much() {
        let queue = Queue::default();
        let busy: Rc<Cell<bool>> = Rc::new(Cell::new(true));
        let heavy = (0..30).map(|_| {
            let (turns, busy) = (Turns::with(queue.clone(), BODY), Rc::clone(&busy));
            tokio::task::spawn_local(poll_fn(move |cx| {
                turns.poll(cx, |cx| {
                    while busy.get() {
                        ready!(turns.poll_enough(cx));
                        work(BODY);
                    }
                    Poll::Ready(())
                })
            }))
        });
        let heavy: Vec<_> = heavy.collect();
        // All have had turns enough to have used much.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let turns = Turns::new(queue.clone());
        let rounds = || queue.0.round.get();
        // The next one is not one of those that begin with who has used much.
        while (rounds() + 1).is_multiple_of(FOR_HEAVY) {
            tokio::task::yield_now().await;
        }
        let begun = rounds();
        // It comes when there is nothing left of this one.
        queue.0.spent.set(SLICE);
        poll_fn(|cx| turns.poll(cx, |_| Poll::Ready(()))).await;
        assert!(rounds() - begun <= 2, "{} rounds", rounds() - begun);
        busy.set(false);
        for task in heavy {
            task.await.unwrap();
        }
    }

    #[tokio::test(flavor = "local")]
    async fn who_wants_much_has_turns_although_there_are_always_some_who_want_little() {
        let queue = Queue::default();
        let moved: Rc<Cell<u32>> = Rc::default();
        let turns = Turns::new(queue.clone());
        let heavy = poll_fn(|cx| {
            turns.poll(cx, |cx| {
                while moved.get() < 20 {
                    ready!(turns.poll_enough(cx));
                    work(SLICE);
                    moved.set(moved.get() + 1);
                }
                Poll::Ready(())
            })
        });
        let light = (0..10).map(|_| {
            let queue = queue.clone();
            tokio::task::spawn_local(async move {
                while queue.0.round.get() < 200 {
                    let turns = Turns::new(queue.clone());
                    let each = |_: &mut Context<'_>| {
                        work(SLICE);
                        Poll::Ready(())
                    };
                    poll_fn(|cx| turns.poll(cx, each)).await;
                    tokio::task::yield_now().await;
                }
            })
        });
        let light: Vec<_> = light.collect();
        heavy.await;
        let rounds = queue.0.round.get();
        assert!(
            (20..=20 * FOR_HEAVY + 9).contains(&rounds),
            "{rounds} rounds"
        );
        for task in light {
            task.abort();
        }
    }

    #[tokio::test(flavor = "local")]
    async fn a_connection_that_ended_in_the_queue_takes_no_turn() {
        let queue = Queue::default();
        queue.0.spent.set(SLICE);
        let [ended, next] = [(); 2].map(|()| Turns::new(queue.clone()));
        let mut cx = Context::from_waker(Waker::noop());
        for turns in [&ended, &next] {
            assert!(turns.poll(&mut cx, |_| Poll::Ready(())).is_pending());
        }
        drop(ended);
        assert!(queue.grant() && next.granted.get());
        assert!(!queue.grant());
    }

    #[tokio::test(flavor = "local")]
    async fn polls_that_turn_out_to_be_long_share_a_round_from_then_on() {
        const PIECE: Duration = Duration::from_micros(100);
        let queue = Queue::default();
        let moved: Rc<Cell<u32>> = Rc::default();
        let tasks = (0..50).map(|_| {
            let (queue, moved) = (queue.clone(), Rc::clone(&moved));
            let (mut turns, mut pieces) = (None::<Rc<Turns>>, 0);
            tokio::task::spawn_local(poll_fn(move |cx| {
                let mut move_on = |turns: &Rc<Turns>, cx: &mut Context<'_>| {
                    while pieces < 10 {
                        ready!(turns.poll_enough(cx));
                        work(PIECE);
                        pieces += 1;
                        moved.set(moved.get() + 1);
                    }
                    Poll::Ready(())
                };
                match &turns {
                    Some(turns) => turns.poll(cx, |cx| move_on(turns, cx)),
                    None => {
                        let turns = turns.insert(Turns::enter(queue.clone()));
                        let done = move_on(turns, cx);
                        turns.leave();
                        done
                    }
                }
            }))
        });
        let tasks: Vec<_> = tasks.collect();
        let mut most = 0;
        while moved.get() < 500 {
            let before = moved.get();
            tokio::task::yield_now().await;
            most = most.max(moved.get() - before);
        }
        // Two slices, and each may go over by a piece.
        let in_a_round = 2 * (SLICE.div_duration_f32(PIECE) as u32 + 1);
        assert!((1..=in_a_round).contains(&most), "{most} in one round");
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[tokio::test(flavor = "local")]
    async fn one_poll_that_takes_too_long_goes_on_in_the_next_round() {
        let turns = Turns::new(Queue::default());
        let (mut polls, mut pieces) = (0, 0);
        poll_fn(|cx| {
            turns.poll(cx, |cx| {
                polls += 1;
                while pieces < 10 {
                    ready!(turns.poll_enough(cx));
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
