//! A buffer of the worker's to read into: a connection has one only while something is left in it.

use std::cell::Cell;

/// One read, bytes.
pub(super) const READ: usize = 64 << 10;

thread_local! {
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

pub(super) fn take() -> Box<[u8]> {
    SPARE.take().unwrap_or_else(|| vec![0; READ].into())
}

pub(super) fn give(buffer: Box<[u8]>) {
    if buffer.len() == READ {
        SPARE.set(Some(buffer));
    }
}
