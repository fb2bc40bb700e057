//! HTTP/2 as it arrives, told by the headers of its frames (RFC 9113 section 4.1): how often a client
//! sends what costs it little and us something, and since when a head is half there.
//!
//! The framing library answers PING and SETTINGS however many come, and passes over what it does not
//! know (CVE-2019-9512, -9513, -9515, -9517). It bounds DATA and CONTINUATION frames itself.

use std::time::Duration;

use tokio::time::Instant;

/// What begins a connection before its first frame.
const PREFACE: usize = 24;
const HEADER: usize = 9;
/// The length of a WINDOW_UPDATE's payload.
const UPDATE: usize = 4;
/// Windows are seldom opened by less: honest clients wait until a good part of one is used.
const SMALL_UPDATE: u32 = 1 << 10;
const SECOND: Duration = Duration::from_secs(1);

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The frames of one connection, as far as they have come.
#[derive(Debug)]
pub struct Frames {
    /// Header of the frame that is being read, and what a WINDOW_UPDATE says.
    head: [u8; HEADER + UPDATE],
    /// How many bytes of it are there.
    got: usize,
    /// Bytes that are passed over: the preface, or the rest of a frame.
    skip: usize,
    /// Most control frames in a second.
    most: u32,
    /// Control frames since `counted_since`.
    counted: u32,
    counted_since: Option<Instant>,
    flooded: bool,
    half_head_since: Option<Instant>,
    newest: u32,
}

impl Frames {
    /// At the beginning of a connection that may have `most` control frames a second.
    pub fn new(most: u32) -> Self {
        Self {
            head: [0; HEADER + UPDATE],
            got: 0,
            skip: PREFACE,
            most,
            counted: 0,
            counted_since: None,
            flooded: false,
            half_head_since: None,
            newest: 0,
        }
    }

    /// Looks at the bytes that came next, now.
    pub fn saw(&mut self, mut bytes: &[u8], now: Instant) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let taken = (self.wanted() - self.got).min(bytes.len());
            self.head[self.got..self.got + taken].copy_from_slice(&bytes[..taken]);
            self.got += taken;
            bytes = &bytes[taken..];
            if self.got == self.wanted() {
                self.frame(now);
            }
        }
    }

    /// Whether there were more control frames than a client may send.
    pub fn flooded(&self) -> bool {
        self.flooded
    }

    /// Since when a block of header fields lacks its end: until then nothing else may be sent.
    pub fn half_head_since(&self) -> Option<Instant> {
        self.half_head_since
    }

    /// Bytes that are still to come of the frame that is being read.
    pub fn left(&self) -> usize {
        self.skip
    }

    /// The newest stream that the client began; 0: none.
    pub fn newest(&self) -> u32 {
        self.newest
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head;
        u32::from_be_bytes([0, a, b, c]) as usize
    }

    fn wanted(&self) -> usize {
        // One of another length is none; the library ends the connection.
        let update = self.head[3] == kind::WINDOW_UPDATE && self.length() == UPDATE;
        if self.got >= HEADER && update {
            HEADER + UPDATE
        } else {
            HEADER
        }
    }

    /// The head of a frame is there.
    fn frame(&mut self, now: Instant) {
        let length = self.length();
        let [_, _, _, kind, flags, s0, s1, s2, s3, by @ ..] = self.head;
        self.skip = length - (self.got - HEADER);
        let whole = self.got > HEADER;
        self.got = 0;
        match kind {
            kind::DATA if length > 0 || flags & END_STREAM > 0 => {}
            kind::WINDOW_UPDATE if whole && u32::from_be_bytes(by) >= SMALL_UPDATE => {}
            kind::HEADERS | kind::CONTINUATION => {
                self.newest = self.newest.max(u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]));
                self.half_head_since = match self.half_head_since {
                    _ if flags & END_HEADERS > 0 => None,
                    None => Some(now),
                    since => since,
                };
            }
            _ => self.count(now),
        }
    }

    fn count(&mut self, now: Instant) {
        if self
            .counted_since
            .is_none_or(|since| now.duration_since(since) >= SECOND)
        {
            (self.counted, self.counted_since) = (0, Some(now));
        }
        self.counted += 1;
        self.flooded |= self.counted > self.most;
    }
}

/// GOAWAY, ENHANCE_YOUR_CALM (RFC 9113 sections 6.8 and 7); `newest` is the newest stream that may
/// have been looked at.
pub(super) fn calm_down(newest: u32) -> [u8; HEADER + 8] {
    let [a, b, c, d] = newest.to_be_bytes();
    [0, 0, 8, 7, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, 11]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn saw(most: u32, frames: &[Vec<u8>]) -> Frames {
        let (mut seen, now) = (Frames::new(most), Instant::now());
        seen.saw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now);
        for frame in frames {
            seen.saw(frame, now);
        }
        seen
    }

    #[test]
    fn control_frames_are_counted_by_the_second_and_others_are_not() {
        let ping = frame(6, 0, 0, b"pingpong");
        for one in [
            ping.clone(),
            frame(4, 0, 0, &[0; 600]),
            frame(2, 0, 1, &[0; 5]),
            frame(3, 0, 1, &[0; 4]),
            frame(8, 0, 0, &[0, 0, 3, 255]),
            frame(8, 0, 0, &[0; 3]),
            frame(8, 0, 0, &[0; 5]),
            frame(0, 0, 1, b""),
            frame(0xbe, 255, 0, &[1; 100]),
        ] {
            assert!(!saw(5, &vec![one.clone(); 5]).flooded());
            assert!(saw(5, &vec![one.clone(); 6]).flooded(), "{one:?}");
        }
        for one in [
            frame(0, 0, 1, b"x"),
            frame(0, 1, 1, b""),
            frame(1, 5, 1, b"x"),
            frame(8, 0, 1, &[0, 0, 4, 0]),
        ] {
            assert!(!saw(5, &vec![one.clone(); 50]).flooded(), "{one:?}");
        }
        let (mut slow, begun) = (saw(5, &[]), Instant::now());
        for n in 0..50 {
            slow.saw(&ping, begun + SECOND / 5 * n);
        }
        assert!(!slow.flooded());
    }

    #[test]
    fn a_head_is_half_there_until_its_last_piece() {
        let (begun, more, last) = (
            frame(1, 1, 7, b"x"),
            frame(9, 0, 7, b""),
            frame(9, 4, 7, b"y"),
        );
        let mut frames = saw(5, &[begun, more]);
        assert!(frames.half_head_since().is_some());
        assert_eq!(frames.newest(), 7);
        frames.saw(&last, Instant::now());
        assert!(frames.half_head_since().is_none() && !frames.flooded());
    }

    proptest! {
        #[test]
        fn frames_cut_anywhere_are_the_same_frames(
            frames in prop::collection::vec((0u8..11, any::<u8>(), 0u32..20, prop::collection::vec(any::<u8>(), 0..20)), 0..20),
            pieces in prop::collection::vec(1usize..40, 1..5),
        ) {
            let frames: Vec<_> = frames.iter().map(|(k, f, s, p)| frame(*k, *f, *s, p)).collect();
            let whole = saw(3, &frames);
            let all = frames.concat();
            let (mut cut, mut rest) = (saw(3, &[]), &all[..]);
            for n in pieces.into_iter().cycle() {
                let (piece, after) = rest.split_at(n.min(rest.len()));
                cut.saw(piece, Instant::now());
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            let told = |f: &Frames| (f.flooded(), f.half_head_since().is_some(), f.newest(), f.skip, f.got);
            prop_assert_eq!(told(&whole), told(&cut));
        }
    }
}
