//! One way of a tunnel: bytes pass as they come, and at the end a word of ours between two frames.
//!
//! Each read goes into a buffer of the worker's and on into the other socket at once. Only what
//! that socket would not take is kept, and then nothing more is read: that is the backpressure.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Control, Frames};
use super::pulse::{Pulse, Sifted};

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; 32 << 10].into());
}

/// Whose connection broke.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Reader,
    Writer,
}

/// From one side's reader to the other side's writer.
pub(super) struct Direction {
    /// What the writer has not taken yet.
    unsent: Unsent,
    /// Bytes of the reader's that were passed on.
    pub(super) moved: u64,
    /// What was read, as frames.
    pub(super) frames: Frames,
    word: Word,
    /// Towards a backend, what we say is masked.
    masked: bool,
    /// The reader has said its last byte.
    pub(super) ended: bool,
    flush: bool,
    /// The writer was told that there will be no more.
    pub(super) closed: bool,
}

/// Our own Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Not wanted.
    Unwanted,
    /// To be said with this code as soon as no frame is in the middle.
    Wanted(u16),
    /// Said; nothing of the reader's passes any more.
    Said,
    /// Not to be said, as the reader has said its own or has ended, or nobody would hear it; nothing
    /// more passes either.
    Needless,
}

impl Direction {
    /// `first` is what the reader sent ahead.
    pub(super) fn new(first: &[u8], masked: bool) -> Self {
        let mut frames = Frames::default();
        frames.pass(first);
        Self {
            unsent: Unsent::of(&[first]),
            moved: first.len() as u64,
            frames,
            word: Word::Unwanted,
            masked,
            ended: false,
            flush: false,
            closed: false,
        }
    }

    /// Has a Close frame said as soon as that can be; what the reader sends after it is read and
    /// forgotten.
    pub(super) fn say_close(&mut self, code: u16) {
        if self.word == Word::Unwanted {
            self.word = Word::Wanted(code);
            let close = self.word_here();
            self.unsent
                .add(close.as_ref().map_or(&[], Control::as_bytes));
        }
    }

    /// Has a Ping said as soon as that can be.
    pub(super) fn say_ping(&mut self, pulse: &mut Pulse) {
        if self.word == Word::Unwanted && !self.ended {
            let ping = pulse.ping_here(&self.frames);
            self.unsent
                .add(ping.as_ref().map_or(&[], Control::as_bytes));
        }
    }

    /// Whether a Close frame of ours was said.
    pub(super) fn said_close(&self) -> bool {
        self.word == Word::Said
    }

    /// Whether the reader has said its last word, as a frame or by ending.
    pub(super) fn is_answered(&self) -> bool {
        self.ended || self.frames.close().is_some()
    }

    /// Whether the writer got all that it will ever get; `answered`: and has said its own last
    /// word, which it is waited for when it was told to.
    pub(super) fn may_close(&self, answered: bool) -> bool {
        self.unsent.is_empty()
            && match self.word {
                Word::Unwanted => self.ended,
                Word::Wanted(_) => false,
                Word::Said => answered,
                Word::Needless => answered || self.ended,
            }
    }

    /// The reader's connection broke.
    pub(super) fn lose_reader(&mut self) {
        self.ended = true;
        self.word_here();
    }

    /// The writer's connection broke: nothing is left to be done for it.
    pub(super) fn lose_writer(&mut self) {
        self.word = Word::Needless;
        self.unsent = Unsent::default();
        self.flush = false;
        self.closed = true;
    }

    /// Moves what can be moved. A `pulse` hears what a client says, and has its Ping said to it.
    pub(super) fn poll_move<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        mut pulse: Option<&mut Pulse>,
    ) -> Result<(), Side> {
        loop {
            let blocked = self.poll_unsent(cx, writer)?.is_pending();
            if self.ended || (blocked && !self.forgets()) {
                return self.poll_flush(cx, writer);
            }
            match self.poll_pass(cx, reader, writer, pulse.as_deref_mut()) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(side)) => return Err(side),
                Poll::Pending => return self.poll_flush(cx, writer),
            }
        }
    }

    /// Tells the writer that there will be no more.
    pub(super) fn poll_close<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) {
        if !self.closed {
            // A peer that is gone already is as closed as can be.
            self.closed = Pin::new(writer).poll_shutdown(cx).is_ready();
        }
    }

    /// Whether what is read is forgotten.
    fn forgets(&self) -> bool {
        matches!(self.word, Word::Said | Word::Needless)
    }

    /// The Close frame, if it is wanted and this is the place for it.
    fn word_here(&mut self) -> Option<Control> {
        let Word::Wanted(code) = self.word else {
            return None;
        };
        if self.ended || self.frames.close().is_some() {
            self.word = Word::Needless;
        } else if self.frames.at_boundary() {
            self.word = Word::Said;
            return Some(Control::close(code, self.masked));
        }
        None
    }

    fn poll_unsent<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Result<Poll<()>, Side> {
        while !self.unsent.is_empty() {
            match Pin::new(&mut *writer).poll_write(cx, self.unsent.as_bytes()) {
                Poll::Ready(Ok(n)) if n > 0 => self.unsent.advance(n),
                Poll::Ready(_) => return Err(Side::Writer),
                Poll::Pending => return Ok(Poll::Pending),
            }
            self.flush = true;
        }
        Ok(Poll::Ready(()))
    }

    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Result<(), Side> {
        if self.flush {
            match Pin::new(writer).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flush = false,
                Poll::Ready(Err(_)) => return Err(Side::Writer),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// One read, and one write of what it gave.
    fn poll_pass<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        pulse: Option<&mut Pulse>,
    ) -> Poll<Result<(), Side>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            match Pin::new(reader).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => {
                    // TLS without a farewell: the connection is gone.
                    debug_assert!(e.kind() != io::ErrorKind::WouldBlock);
                    return Poll::Ready(Err(Side::Reader));
                }
                Poll::Pending => return Poll::Pending,
            }
            let data = read.filled();
            self.ended = data.is_empty();
            let (passes, then) = self.follow(data, pulse);
            let mut taken = 0;
            if !passes.is_empty() {
                taken = match Pin::new(writer).poll_write(cx, passes) {
                    Poll::Ready(Ok(n)) if n > 0 => n,
                    Poll::Ready(_) => return Poll::Ready(Err(Side::Writer)),
                    Poll::Pending => 0,
                };
                self.flush = true;
            }
            self.unsent.add(&passes[taken..]);
            self.unsent.add(&then);
            Poll::Ready(Ok(()))
        })
    }

    /// What of `data` passes as it is, and what goes out after that: a word of ours among it, or
    /// what is left when a Pong to us was taken out.
    fn follow<'d>(&mut self, data: &'d [u8], mut pulse: Option<&mut Pulse>) -> (&'d [u8], Vec<u8>) {
        if self.forgets() {
            self.frames.pass(data);
            return (&[], Vec::new());
        }
        // Where something is to be said, to the next place for it.
        let speaks = matches!(self.word, Word::Wanted(_));
        let Sifted { used, passes, then } = match &mut pulse {
            Some(pulse) if self.masked => pulse.sift(&mut self.frames, data, speaks),
            pulse => {
                let pings = pulse.as_ref().is_some_and(|pulse| pulse.wants_ping());
                let used = if speaks || pings {
                    self.frames.pass_frame(data)
                } else {
                    self.frames.pass(data);
                    data.len()
                };
                Sifted::all(used)
            }
        };
        let (mut then, rest) = (then, &data[used..]);
        self.moved += (passes + then.len()) as u64;
        if speaks {
            let close = self.word_here();
            then.extend_from_slice(close.as_ref().map_or(&[], Control::as_bytes));
        } else if let Some(ping) = pulse.and_then(|pulse| pulse.ping_here(&self.frames)) {
            then.extend_from_slice(ping.as_bytes());
            then.extend_from_slice(rest);
            self.moved += rest.len() as u64;
        }
        self.frames.pass(rest);
        (&data[..passes], then)
    }
}

/// Bytes that wait for a writer; none take no memory but their place.
#[derive(Default)]
struct Unsent {
    bytes: Box<[u8]>,
    /// How many of them were taken.
    at: u32,
}

impl Unsent {
    fn of(parts: &[&[u8]]) -> Self {
        Self {
            bytes: parts.concat().into(),
            at: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.at as usize..]
    }

    fn add(&mut self, more: &[u8]) {
        if !more.is_empty() {
            *self = Self::of(&[self.as_bytes(), more]);
        }
    }

    fn advance(&mut self, n: usize) {
        self.at += n as u32;
        if self.as_bytes().is_empty() {
            *self = Self::default(); // gives the memory back
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::super::pulse::Ping;
    use super::*;

    /// What comes out of `direction` for `pieces`, and whether `ask` was called between two frames.
    fn passed(
        direction: &mut Direction,
        pieces: &[&[u8]],
        pulse: &mut Option<Pulse>,
        ask: usize,
        mut say: impl FnMut(&mut Direction, &mut Option<Pulse>),
    ) -> Vec<u8> {
        let mut out = Vec::new();
        for (n, piece) in pieces.iter().enumerate() {
            if n == ask {
                say(direction, pulse);
                out.extend_from_slice(direction.unsent.as_bytes());
            }
            let (passes, then) = direction.follow(piece, pulse.as_mut());
            out.extend_from_slice(passes);
            out.extend(then);
        }
        out
    }

    /// Frames of data of these sizes, each after the other, and where each ends.
    fn stream(sizes: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        for (n, size) in sizes.iter().enumerate() {
            bytes.push(if n % 2 == 0 { 0x82 } else { 0x02 });
            match *size {
                short @ ..126 => bytes.push(short as u8),
                long => bytes.extend([126, (long >> 8) as u8, long as u8]),
            }
            // As if each byte of it began a Close frame.
            bytes.resize(bytes.len() + size, 0x88);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    proptest! {
        #[test]
        fn our_word_stands_at_the_first_place_for_it_however_the_bytes_are_cut(
            sizes in prop::collection::vec(prop_oneof![0..4_usize, 0..600_usize], 1..12),
            cut in prop_oneof![1..8_usize, 1..2000_usize],
            ask in 0..40_usize,
            masked in any::<bool>(),
        ) {
            let (bytes, ends) = stream(&sizes);
            let pieces: Vec<&[u8]> = bytes.chunks(cut).collect();
            let asked_at = (ask * cut).min(bytes.len());
            let place = ends.iter().copied().find(|end| *end >= asked_at).unwrap();
            let asks = ask < pieces.len();

            // A Close: nothing follows it.
            let mut direction = Direction::new(&[], masked);
            let out = passed(&mut direction, &pieces, &mut None, ask, |direction, _| {
                direction.say_close(1001);
            });
            prop_assert_eq!(direction.said_close(), asks);
            if asks {
                let (before, close) = out.split_at(place);
                prop_assert_eq!(before, &bytes[..place]);
                let mut frames = Frames::default();
                frames.pass(close);
                prop_assert_eq!(frames.close(), Some(1001));
                prop_assert_eq!(close.len(), if masked { 8 } else { 4 });
                prop_assert_eq!(direction.moved, place as u64);
            } else {
                prop_assert_eq!(&out, &bytes);
            }

            // A Ping: all follows it.
            let mut direction = Direction::new(&[], false);
            let mut pulse = Some(Pulse::new(Ping::new(Duration::ZERO), Instant::now()));
            let out = passed(&mut direction, &pieces, &mut pulse, ask, |direction, pulse| {
                let pulse = pulse.as_mut().unwrap();
                pulse.look_at_time(Instant::now());
                direction.say_ping(pulse);
            });
            prop_assert_eq!(direction.moved, bytes.len() as u64);
            if asks {
                prop_assert_eq!(&out[..place], &bytes[..place]);
                prop_assert_eq!(&out[place..place + 2], &[0x89, 8]);
                prop_assert_eq!(&out[place + 10..], &bytes[place..]);
            } else {
                prop_assert_eq!(&out, &bytes);
            }
        }
    }
}
