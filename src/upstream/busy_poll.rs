//! Asking for events for a moment before sleeping, where the backend is likely to answer within it.
//!
//! Between a backend on the same host and a thread that sleeps, waking the thread takes longer than
//! everything else. So when something was sent and nothing before it for a while, the worker's loop
//! goes round without sleeping until the backend has sent something, or [`LONGEST`] has passed.
//!
//! What that may cost is bounded: a worker with more to do never does it, and where more than a tenth of
//! it is in vain it is done more and more seldom, down to once in [`RAREST`] times. So it is for a backend
//! that takes longer, and for one that has to run on the very core that is kept from it.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Longer than 99 of 100 echoes of a backend that has to be woken on another core of the host.
const LONGEST: Duration = Duration::from_micros(75);
/// Who sends more often than that sleeps little anyway.
const QUIET: Duration = Duration::from_micros(200);
/// What is in vain too often is done once in so many times.
const RAREST: u32 = 1024;

/// One worker's looking out for its backend.
#[derive(Default)]
pub struct BusyPoll {
    /// When something was last sent.
    sent: Cell<Option<Instant>>,
    /// The backend's answer is being looked for.
    looks: Cell<bool>,
    /// How many times in a row it is not, and how many of these are left.
    pass: Cell<u32>,
    left: Cell<u32>,
    /// Of the task that looks.
    task: Cell<Option<Waker>>,
}

impl BusyPoll {
    /// Something was sent to the backend at `now`.
    pub(super) fn sent(&self, now: Instant) {
        let before = self.sent.replace(Some(now));
        // There is enough to do.
        if self.looks.take() || before.is_some_and(|before| now < before + QUIET) {
            return;
        }
        if let Some(left) = self.left.get().checked_sub(1) {
            return self.left.set(left);
        }
        if let Some(task) = self.task.take() {
            self.looks.set(true);
            task.wake();
        }
    }

    /// Something came from the backend.
    pub(super) fn came(&self) {
        if self.looks.take() {
            let pass = self.pass.get();
            self.next(pass.saturating_sub(1 + pass / 16));
        }
    }

    /// Looks for answers, as long as the worker lives.
    pub async fn run(&self) {
        // Where instructions are counted, those of waiting are not to be among them.
        let longest = if cfg!(slow_motion) {
            Duration::ZERO
        } else {
            LONGEST
        };
        self.run_for(longest).await;
    }

    async fn run_for(&self, longest: Duration) {
        loop {
            poll_fn(|cx| self.poll_begun(cx)).await;
            let since = Instant::now();
            while self.looks.get() {
                if since.elapsed() >= longest {
                    self.looks.set(false);
                    self.next((2 * self.pass.get() + 4).min(RAREST - 1));
                    break;
                }
                // The loop asks for events, without sleeping, before this goes on.
                tokio::task::yield_now().await;
            }
        }
    }

    fn poll_begun(&self, cx: &Context<'_>) -> Poll<()> {
        if self.looks.get() {
            return Poll::Ready(());
        }
        self.task.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// So many times in a row it is not looked for now.
    fn next(&self, pass: u32) {
        self.pass.set(pass);
        self.left.set(pass);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// How often the loop slept while a backend was asked a hundred times, one after the other.
    fn sleeps(looked_for: bool) -> u32 {
        let slept = Arc::new(AtomicU32::new(0));
        let parked = Arc::clone(&slept);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || {
                parked.fetch_add(1, Ordering::Relaxed);
            })
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let backend = std::thread::spawn(move || {
            let (mut from, _) = listener.accept().unwrap();
            let mut to = from.try_clone().unwrap();
            std::io::copy(&mut from, &mut to).unwrap();
        });
        let busy_poll = BusyPoll::default();
        let asks = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let (before, mut now) = (slept.load(Ordering::Relaxed), Instant::now());
            for _ in 0..100 {
                stream.write_all(b"?").await.unwrap();
                if looked_for {
                    now += QUIET;
                    busy_poll.sent(now);
                }
                stream.read_u8().await.unwrap();
                busy_poll.came();
                // What looks gets ready for the next time.
                tokio::task::yield_now().await;
            }
            slept.load(Ordering::Relaxed) - before
        };
        let slept = runtime.block_on(async {
            tokio::select! {
                biased;
                () = busy_poll.run_for(Duration::MAX) => unreachable!(),
                slept = asks => slept,
            }
        });
        backend.join().unwrap();
        slept
    }

    #[test]
    fn the_loop_does_not_sleep_while_an_answer_is_looked_for() {
        assert!(sleeps(false) > 0);
        assert_eq!(sleeps(true), 0);
    }

    /// How many of `times` sends, with quiet between them, are followed by a look; of these looks one in
    /// `vain` is in vain.
    async fn looks(busy_poll: &BusyPoll, times: u32, vain: u64) -> u32 {
        let chance = BuildHasherDefault::<DefaultHasher>::default();
        let mut now = busy_poll.sent.get().unwrap_or_else(Instant::now);
        let mut looks = 0;
        for _ in 0..times {
            now += QUIET;
            busy_poll.sent(now);
            if busy_poll.looks.get() {
                looks += 1;
                // Those that are do not come at regular intervals.
                if !chance.hash_one(looks).is_multiple_of(vain) {
                    busy_poll.came();
                }
            }
            // It ends, and the next one can begin.
            tokio::task::yield_now().await;
        }
        looks
    }

    #[tokio::test]
    async fn what_is_in_vain_too_often_is_hardly_done_until_answers_are_quick_again() {
        let busy_poll = BusyPoll::default();
        let (all, often, always) = (u64::MAX, 7, 1);
        let mut counted = Vec::new();
        let counts = async {
            // The task that looks has to be there first.
            tokio::task::yield_now().await;
            for (times, vain) in [
                (1000, all),
                (1000, 50),
                (100 * RAREST, always),
                (20 * RAREST, all),
                (1000, all),
                (100 * RAREST, often),
            ] {
                counted.push(looks(&busy_poll, times, vain).await);
            }
        };
        tokio::select! {
            biased;
            () = busy_poll.run_for(Duration::ZERO) => unreachable!(),
            () = counts => {}
        }
        let [quick, mostly, slow, _, again, shared] = counted[..] else {
            unreachable!()
        };
        assert_eq!(quick, 1000);
        assert!((700..950).contains(&mostly), "{counted:?}");
        assert!((100..110).contains(&slow), "{counted:?}");
        assert_eq!(again, 1000, "{counted:?}");
        assert!(shared < RAREST, "{counted:?}");
    }

    #[tokio::test]
    async fn a_worker_with_more_to_do_does_not_look() {
        let busy_poll = BusyPoll::default();
        let checks = async {
            tokio::task::yield_now().await;
            let now = Instant::now();
            busy_poll.sent(now);
            assert!(busy_poll.looks.get());
            for i in 1..5 {
                busy_poll.sent(now + i * QUIET / 2);
                assert!(!busy_poll.looks.get(), "{i}");
                tokio::task::yield_now().await;
            }
            busy_poll.sent(now + 4 * QUIET);
            assert!(busy_poll.looks.get());
        };
        tokio::select! {
            biased;
            () = busy_poll.run_for(Duration::MAX) => unreachable!(),
            () = checks => {}
        }
    }
}
