//! Memory for what a request needs, used again by the next one: its future takes some kilobytes, which is
//! more than the allocator has at hand, and an idle connection is not to hold it.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::LocalKey;

use pin_project_lite::pin_project;

/// Places for futures that nobody uses now, as many as are kept of a burst.
const MOST: usize = 64;

/// A place for a future that is made of `A` and gives `T`.
trait Place<A, T> {
    fn fill(self: Pin<&mut Self>, of: A);
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T>;
    fn clear(self: Pin<&mut Self>);
}

pin_project! {
    struct Room<M, F> {
        make: M,
        #[pin]
        future: Option<F>,
    }
}

impl<A, T, M: Fn(A) -> F, F: Future<Output = T>> Place<A, T> for Room<M, F> {
    fn fill(self: Pin<&mut Self>, of: A) {
        let mut this = self.project();
        let future = (this.make)(of);
        this.future.set(Some(future));
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.project().future.as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }

    fn clear(self: Pin<&mut Self>) {
        self.project().future.set(None);
    }
}

type Boxed<A, T> = Pin<Box<dyn Place<A, T>>>;

/// Places that nobody uses now. Of one kind: all are filled by the same function.
pub(super) struct Spare<A, T>(RefCell<Vec<Boxed<A, T>>>);

impl<A: 'static, T: 'static> Spare<A, T> {
    pub(super) const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    /// The future that `make` makes of `of`, in a place of `spare`'s or a new one.
    pub(super) fn future<F: Future<Output = T> + 'static>(
        spare: &'static LocalKey<Self>,
        make: impl Fn(A) -> F + 'static,
        of: A,
    ) -> Lent<A, T> {
        let kept = spare.with(|spare| spare.0.borrow_mut().pop());
        let mut place = kept.unwrap_or_else(|| Box::pin(Room { make, future: None }));
        place.as_mut().fill(of);
        Lent {
            place: Some(place),
            spare,
        }
    }
}

/// A future in a place that goes back where it came from.
pub(super) struct Lent<A: 'static, T: 'static> {
    place: Option<Boxed<A, T>>,
    spare: &'static LocalKey<Spare<A, T>>,
}

impl<A, T> Future for Lent<A, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.place {
            Some(place) => place.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<A, T> Drop for Lent<A, T> {
    fn drop(&mut self) {
        let Some(mut place) = self.place.take() else {
            return;
        };
        place.as_mut().clear();
        // Where the thread ends there is none.
        let _gone: Result<(), _> = self.spare.try_with(|spare| {
            let mut spare = spare.0.borrow_mut();
            if spare.len() < MOST {
                spare.push(place);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::task::Waker;

    use super::*;

    thread_local! {
        static SPARE: Spare<Rc<Cell<u32>>, u32> = const { Spare::new() };
    }

    /// Gives what is in the cell once something is.
    fn wait(cell: Rc<Cell<u32>>) -> Lent<Rc<Cell<u32>>, u32> {
        let make = |cell: Rc<Cell<u32>>| {
            std::future::poll_fn(move |_| match cell.get() {
                0 => Poll::Pending,
                number => Poll::Ready(number),
            })
        };
        Spare::future(&SPARE, make, cell)
    }

    fn spared() -> usize {
        SPARE.with(|spare| spare.0.borrow().len())
    }

    #[test]
    fn a_place_is_used_again_and_what_was_in_it_is_gone() {
        let cx = &mut Context::from_waker(Waker::noop());
        let cells = [1, 0].map(|number| Rc::new(Cell::new(number)));
        let [mut first, mut second] = cells.clone().map(wait);
        assert_eq!(Pin::new(&mut first).poll(cx), Poll::Ready(1));
        assert_eq!(Pin::new(&mut second).poll(cx), Poll::Pending);
        drop((first, second));
        assert_eq!(spared(), 2);
        // Finished or broken off, nothing holds what the futures were made of.
        assert!(cells.iter().all(|cell| Rc::strong_count(cell) == 1));
        let mut third = wait(Rc::new(Cell::new(3)));
        assert_eq!(spared(), 1);
        assert_eq!(Pin::new(&mut third).poll(cx), Poll::Ready(3));
    }

    #[test]
    fn of_a_burst_not_all_places_are_kept() {
        let all: Vec<_> = (0..2 * MOST).map(|_| wait(Rc::default())).collect();
        drop(all);
        assert_eq!(spared(), MOST);
    }
}
