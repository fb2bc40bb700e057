//! One stream: what of its request's body is there, and how much its client would take of the answer.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};

/// As much of a body as may be there and not be taken yet, bytes.
pub(super) const WINDOW: u32 = 256 << 10;

/// A stream that has a request; gone from its connection when that is answered.
pub(super) struct Stream {
    pub(super) id: u32,
    /// Bytes of the answer that the client would take.
    pub(super) takes: Cell<i64>,
    /// The request's body.
    pub(super) body: RefCell<Incoming>,
    /// It is among those that wait for room, or for the connection's window.
    pub(super) waits: Cell<bool>,
    reset: Cell<bool>,
    /// Of its task, while that waits.
    waker: Cell<Option<Waker>>,
}

/// A body, as far as it has come.
#[derive(Debug)]
pub(super) struct Incoming {
    /// Not taken yet.
    there: BytesMut,
    /// Bytes that are still to come, where that was told.
    pub(super) left: Option<u64>,
    /// Bytes that may still be sent.
    pub(super) window: u32,
    /// Bytes that were taken, of which the client was not told.
    owed: u32,
    pub(super) ended: bool,
    /// Nobody wants it.
    unwanted: bool,
    /// It is not what was told of it, or will never be whole.
    pub(super) broken: bool,
}

impl Stream {
    pub(super) fn new(id: u32, takes: i64, length: Option<u64>, ended: bool) -> Self {
        Self {
            id,
            takes: Cell::new(takes),
            body: RefCell::new(Incoming {
                there: BytesMut::new(),
                left: length,
                window: WINDOW,
                owed: 0,
                ended,
                unwanted: ended,
                broken: false,
            }),
            waits: Cell::new(false),
            reset: Cell::new(false),
            waker: Cell::new(None),
        }
    }

    /// Whether there is nobody to be answered; wakes the task when that, or anything else, changes.
    pub(super) fn watch(&self, cx: &Context<'_>) -> bool {
        let known = self
            .waker
            .take()
            .filter(|waker| waker.will_wake(cx.waker()));
        self.waker
            .set(Some(known.unwrap_or_else(|| cx.waker().clone())));
        self.reset.get()
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn is_reset(&self) -> bool {
        self.reset.get()
    }

    /// Nothing more is sent on it, nor taken.
    pub(super) fn reset(&self) {
        self.reset.set(true);
        let body = &mut *self.body.borrow_mut();
        body.broken |= !body.ended;
        self.wake();
    }
}

impl Incoming {
    /// Takes a piece; the number of bytes of it that nobody will take.
    pub(super) fn put(&mut self, piece: &[u8]) -> u32 {
        if let Some(left) = &mut self.left {
            match left.checked_sub(piece.len() as u64) {
                Some(rest) => *left = rest,
                None => self.broken = true,
            }
        }
        if self.unwanted || self.broken {
            return piece.len() as u32;
        }
        self.there.extend_from_slice(piece);
        0
    }

    /// All that is there.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.there).freeze()
    }

    /// Nobody will take more of it; the number of bytes that nobody took.
    pub(super) fn refuse(&mut self) -> u32 {
        self.unwanted = true;
        self.take().len() as u32
    }

    /// So much was taken; how far its window is to be opened, if it is.
    pub(super) fn taken(&mut self, bytes: u32) -> Option<u32> {
        if self.ended || self.unwanted {
            return None;
        }
        self.owed += bytes;
        if self.owed < WINDOW / 2 {
            return None;
        }
        let by = std::mem::take(&mut self.owed);
        self.window += by;
        Some(by)
    }

    /// Bytes that are still to be taken, where that is known.
    pub(super) fn untaken(&self) -> Option<u64> {
        if self.ended && self.there.is_empty() {
            return Some(0);
        }
        self.left.map(|left| left + self.there.len() as u64)
    }
}
