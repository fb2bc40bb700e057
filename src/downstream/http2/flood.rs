//! How often a client does what costs it little and us something.

use std::time::Duration;

use tokio::time::Instant;

use super::frame::{Header, flag, kind};

/// Windows are seldom opened by less: honest clients wait until a good part of one is used.
const SMALL_UPDATE: u32 = 1 << 10;
/// Bodies are seldom sent in smaller pieces, bytes.
const SMALL_PIECE: usize = 64;
/// And seldom in so many of them in a second.
const MOST_PIECES: u32 = 4000;
const SECOND: Duration = Duration::from_secs(1);
/// Streams that may be ended for what is wrong with them.
const MOST_FAULTS: u32 = 256;

/// What a client did on one connection.
#[derive(Debug)]
pub(super) struct Conduct {
    control: Rate,
    pieces: Rate,
    requests: u32,
    /// Requests of which it did not want the answer any more.
    given_up: u32,
    faults: u32,
}

/// Frames of a kind, counted by the second.
#[derive(Debug)]
struct Rate {
    most: u32,
    counted: u32,
    since: Option<Instant>,
}

impl Rate {
    fn new(most: u32) -> Self {
        Self {
            most,
            counted: 0,
            since: None,
        }
    }

    /// One more; `false`: that is too many.
    fn count(&mut self, now: Instant) -> bool {
        if self
            .since
            .is_none_or(|since| now.duration_since(since) >= SECOND)
        {
            (self.counted, self.since) = (0, Some(now));
        }
        self.counted += 1;
        self.counted <= self.most
    }
}

impl Conduct {
    pub(super) fn new(control_frames: u32) -> Self {
        Self {
            control: Rate::new(control_frames),
            pieces: Rate::new(MOST_PIECES),
            requests: 0,
            given_up: 0,
            faults: 0,
        }
    }

    /// A frame came, which is none of a body; `false`: it is one too many (CVE-2019-9512, -9513, -9515,
    /// -9517).
    pub(super) fn frame(
        &mut self,
        header: &Header,
        payload: &[u8],
        now: impl FnOnce() -> Instant,
    ) -> bool {
        let moves = match header.kind {
            kind::HEADERS | kind::CONTINUATION => true,
            kind::WINDOW_UPDATE => {
                matches!(*payload, [a, b, c, d] if u32::from_be_bytes([a, b, c, d]) >= SMALL_UPDATE)
            }
            _ => false,
        };
        moves || self.control.count(now())
    }

    /// A frame of a body came, with so many bytes of it; `false`: it is one too many.
    pub(super) fn data(
        &mut self,
        header: &Header,
        bytes: usize,
        now: impl FnOnce() -> Instant,
    ) -> bool {
        match bytes {
            _ if header.has(flag::END_STREAM) => true,
            0 => self.control.count(now()),
            SMALL_PIECE.. => true,
            _ => self.pieces.count(now()),
        }
    }

    pub(super) fn request(&mut self) {
        self.requests = self.requests.saturating_add(1);
    }

    /// A request was given up; `false`: people leave pages, and nobody leaves most of hundreds
    /// (CVE-2023-44487).
    pub(super) fn give_up(&mut self) -> bool {
        self.given_up = self.given_up.saturating_add(1);
        self.given_up <= 300 || self.given_up <= self.requests / 2
    }

    /// A stream had to be ended for what was wrong with it; `false`: that was one too many
    /// (CVE-2025-8671).
    pub(super) fn fault(&mut self) -> bool {
        self.faults = self.faults.saturating_add(1);
        self.faults <= MOST_FAULTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(frame: (u8, u8, &[u8]), times: u32, apart: Duration) -> bool {
        let (mut conduct, begun) = (Conduct::new(5), Instant::now());
        let (kind, flags, payload) = frame;
        let header = Header {
            length: payload.len(),
            kind,
            flags,
            stream: 1,
        };
        (0..times).all(|n| match kind {
            kind::DATA => conduct.data(&header, payload.len(), || begun + apart * n),
            _ => conduct.frame(&header, payload, || begun + apart * n),
        })
    }

    #[test]
    fn control_frames_are_counted_by_the_second_and_others_are_not() {
        for one in [
            (kind::PING, 0, &b"pingpong"[..]),
            (kind::SETTINGS, 0, &[0; 600]),
            (kind::PRIORITY, 0, &[0; 5]),
            (kind::RST_STREAM, 0, &[0; 4]),
            (kind::WINDOW_UPDATE, 0, &[0, 0, 3, 255]),
            (kind::WINDOW_UPDATE, 0, &[0; 3]),
            (kind::WINDOW_UPDATE, 0, &[0; 5]),
            (kind::DATA, 0, b""),
            (0xbe, 255, &[1; 100]),
        ] {
            assert!(many(one, 5, Duration::ZERO));
            assert!(!many(one, 6, Duration::ZERO), "{one:?}");
            assert!(many(one, 50, SECOND / 5));
        }
        for one in [
            (kind::DATA, 0, &[b'x'; 64][..]),
            (kind::DATA, flag::END_STREAM, b""),
            (kind::HEADERS, 5, b"x"),
            (kind::WINDOW_UPDATE, 0, &[0, 0, 4, 0]),
        ] {
            assert!(many(one, 50, Duration::ZERO), "{one:?}");
        }
        let piece = (kind::DATA, 0, &b"x"[..]);
        assert!(many(piece, MOST_PIECES, Duration::ZERO));
        assert!(!many(piece, MOST_PIECES + 1, Duration::ZERO));
    }

    #[test]
    fn who_gives_up_some_of_many_is_no_attacker() {
        let mut conduct = Conduct::new(5);
        (0..1000).for_each(|_| conduct.request());
        assert!((0..500).all(|_| conduct.give_up()));
        assert!(!conduct.give_up());
        let mut conduct = Conduct::new(5);
        assert!((0..300).all(|_| conduct.give_up()));
        assert!(!conduct.give_up());
    }
}
