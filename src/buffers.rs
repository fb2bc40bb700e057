//! The buffers that large bodies are read to, used again by whoever reads next in the thread: nobody has one
//! who waits, and what is read lies where the processor has just looked.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};

/// The room of one, bytes.
pub const ROOM: usize = 128 << 10;

thread_local! {
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// An empty buffer with room for [`ROOM`] bytes at least.
pub fn take() -> BytesMut {
    let mut buffer = SPARE.take();
    buffer.reserve(ROOM);
    buffer
}

/// Takes back a buffer that nobody needs any more.
pub fn give_back(mut buffer: BytesMut) {
    buffer.clear();
    // Not one that is smaller or far larger, nor while somebody else has a part of it.
    if buffer.try_reclaim(ROOM) && buffer.capacity() < 2 * ROOM {
        SPARE.set(buffer);
    }
}

/// Takes back the buffer of data that is used up.
pub fn give_back_of(data: &mut Bytes) {
    if let Ok(buffer) = std::mem::take(data).try_into_mut() {
        give_back(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spared() -> usize {
        let buffer = SPARE.take();
        let room = buffer.capacity();
        SPARE.set(buffer);
        room
    }

    #[test]
    fn a_buffer_is_used_again_once_all_that_was_in_it_is_used_up() {
        let mut buffer = take();
        let place = buffer.as_ptr();
        buffer.extend_from_slice(b"one, two");
        let (mut one, mut two) = (buffer.split_to(3).freeze(), buffer.split().freeze());
        drop(buffer);
        give_back_of(&mut one);
        assert_eq!(spared(), 0, "`two` is still there");
        bytes::Buf::advance(&mut two, 5);
        give_back_of(&mut two);
        let again = take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert_eq!(spared(), 0);
    }

    #[test]
    fn only_what_has_the_right_room_is_kept() {
        for room in [ROOM / 2, 2 * ROOM] {
            give_back(BytesMut::with_capacity(room));
            assert_eq!(spared(), 0, "{room}");
        }
        give_back_of(&mut Bytes::from_static(&[0; ROOM]));
        assert_eq!(spared(), 0);
    }
}
