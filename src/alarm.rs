//! A timer for deadlines that move with every byte or request, and are hardly ever reached.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Looked at when it runs out, and not moved with every deadline: setting the runtime's timers takes
/// longer than looking at the clock once in a while.
pub struct Alarm {
    timer: Pin<Box<Sleep>>,
    /// Of the task that waits for it.
    waker: Option<Waker>,
}

impl Alarm {
    /// One that runs out in `first`, to begin with.
    pub fn new(first: Duration) -> Self {
        Self {
            timer: Box::pin(tokio::time::sleep(first)),
            waker: None,
        }
    }

    /// Ready once `end` has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>, end: Instant) -> Poll<()> {
        let timer = self.timer.as_mut();
        let waits = |waker: &Waker| waker.will_wake(cx.waker());
        if end < timer.deadline() {
            timer.reset(end);
        } else if self.waker.as_ref().is_some_and(waits) && !timer.is_elapsed() {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn it_runs_out_when_the_end_that_is_asked_for_has_passed_whatever_it_was_set_to() {
        for ends in [[1, 2, 3], [5, 20, 21], [9, 3, 12]] {
            let began = Instant::now();
            let mut alarm = Alarm::new(Duration::from_millis(5));
            for end in ends {
                let end = began + Duration::from_millis(end);
                poll_fn(|cx| alarm.poll(cx, end)).await;
                assert!(Instant::now() >= end, "{ends:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_end_that_was_given_up_does_not_count() {
        let begun = Instant::now();
        let [early, late] = [1, 10].map(|end| begun + Duration::from_millis(end));
        let mut alarm = Alarm::new(Duration::from_secs(9));
        let once = poll_fn(|cx| Poll::Ready(alarm.poll(cx, early))).await;
        assert!(once.is_pending() || Instant::now() >= early);
        poll_fn(|cx| alarm.poll(cx, late)).await;
        assert!(Instant::now() >= late);
        // Set to nine seconds, it was moved to the earlier ends.
        assert!(begun.elapsed() < Duration::from_secs(9));
    }

    #[tokio::test]
    async fn another_task_that_waits_for_it_is_woken() {
        let mut alarm = Alarm::new(Duration::from_millis(5));
        let end = Instant::now() + Duration::from_millis(5);
        let nobody = &mut Context::from_waker(Waker::noop());
        let _early: Poll<()> = alarm.poll(nobody, end);
        poll_fn(|cx| alarm.poll(cx, end)).await;
        assert!(Instant::now() >= end);
    }
}
