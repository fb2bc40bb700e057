//! What both directions of a connection know: its streams, their windows, and the frames that are to
//! be written.

use std::collections::VecDeque;
use std::rc::Rc;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::super::date;
use super::super::head::Bounds;
use super::flood::Conduct;
use super::frame::{self, Code, HEADER, Header, LARGEST, MOST, flag, kind, setting};
use super::head::Asked;
use super::hpack::{Decoder, Encoder};
use super::receive::Incomplete;
use super::stream::{self, Stream};

/// As much of all bodies as may be there and not be taken yet, bytes.
const WINDOW: u32 = 1 << 20;
/// As much as may wait to be written, bytes; heads of answers and control frames may come on top.
const ROOM: usize = 32 << 10;
/// No more is read while more than this waits to be written.
const CONGESTED: usize = 2 * ROOM;
/// Streams that ended before their requests did, or as many as a client may have at a time: what is still on its way on them is no mistake.
const ENDED_EARLY: usize = 256;
/// Marks the PING after which a client knows that it is to leave.
const LEAVE: &[u8; 8] = b"farewell";

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// What came is not HTTP/2.
    Violation(Code),
    /// More control frames than a client may send.
    Frames,
    /// More streams that were given up than a client may give up.
    Resets,
}

impl Fault {
    pub(super) fn code(self) -> Code {
        match self {
            Self::Violation(code) => code,
            Self::Frames | Self::Resets => Code::Calm,
        }
    }
}

/// How far the client has been told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    None,
    /// It may not know yet.
    Said,
    /// It knows: streams after this one are not answered.
    Heard,
}

/// A request whose head is there.
pub(super) struct Begun {
    pub(super) stream: Rc<Stream>,
    pub(super) asked: Asked,
    pub(super) has_body: bool,
}

/// One connection.
pub(super) struct Link {
    pub(super) bounds: Bounds,
    most_streams: usize,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) conduct: Conduct,
    /// Those that have a task, in the order of their numbers.
    pub(super) streams: Vec<Rc<Stream>>,
    ended_early: VecDeque<u32>,
    /// Requests that nobody answers yet.
    pub(super) begun: Vec<Begun>,
    /// What of a frame, or of a head, is there.
    pub(super) incomplete: Incomplete,
    /// The newest stream that the client began.
    pub(super) newest: u32,
    farewell: Farewell,
    /// Bytes that the client may still send.
    window: u32,
    /// Bytes that were taken, of which the client was not told.
    owed: u32,
    /// Bytes that the client would take: in all, and of a new stream.
    pub(super) takes: i64,
    pub(super) takes_at_first: i64,
    pub(super) largest_frame: usize,
    /// Frames that are to be written.
    out: Vec<u8>,
    written: usize,
    /// When the client took something last: opened the window of the connection.
    pub(super) opened: Instant,
    /// Streams that wait for room, or for the connection's window: those that had some since it was made, and those that had none.
    had_room: Vec<Rc<Stream>>,
    want_room: Vec<Rc<Stream>>,
}

impl Link {
    /// `control_frames`: the most of a second.
    pub(super) fn new(bounds: Bounds, streams: u32, control_frames: u32) -> Self {
        let mut out = Vec::with_capacity(64);
        let head = u32::try_from(bounds.bytes).unwrap_or(u32::MAX);
        frame::settings(
            &mut out,
            &[
                (setting::MAX_CONCURRENT_STREAMS, streams),
                (setting::INITIAL_WINDOW_SIZE, stream::WINDOW),
                (setting::MAX_HEADER_LIST_SIZE, head),
            ],
        );
        frame::window_update(&mut out, 0, WINDOW - frame::WINDOW);
        Self {
            bounds,
            most_streams: streams as usize,
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            conduct: Conduct::new(control_frames),
            streams: Vec::new(),
            ended_early: VecDeque::new(),
            begun: Vec::new(),
            incomplete: Incomplete::Preface(0),
            newest: 0,
            farewell: Farewell::None,
            window: WINDOW,
            owed: 0,
            takes: i64::from(frame::WINDOW),
            takes_at_first: i64::from(frame::WINDOW),
            largest_frame: LARGEST,
            out,
            written: 0,
            opened: Instant::now(),
            had_room: Vec::new(),
            want_room: Vec::new(),
        }
    }

    // -- streams

    /// The stream of this number that is still to be answered.
    pub(super) fn stream(&self, id: u32) -> Option<&Rc<Stream>> {
        let at = self.streams.binary_search_by_key(&id, |s| s.id).ok()?;
        Some(&self.streams[at]).filter(|stream| !stream.is_reset())
    }

    /// Whether the client may still be sending on a stream that has ended.
    pub(super) fn ended_early(&self, id: u32) -> bool {
        self.ended_early.contains(&id)
    }

    fn remember(&mut self, id: u32) {
        if self.ended_early.len() >= ENDED_EARLY.max(self.most_streams) {
            self.ended_early.pop_front();
        }
        self.ended_early.push_back(id);
    }

    /// A request begins, unless there are too many.
    pub(super) fn begin(&mut self, id: u32, asked: Asked, ends: bool) -> Result<(), Fault> {
        if self.streams.len() >= self.most_streams {
            // Those that the client has reset do not count for it (RFC 9113 section 5.1.2), and are
            // still being put away here: no fault of its, and it may ask again.
            let open = self.streams.iter().filter(|stream| !stream.is_reset());
            if open.count() < self.most_streams {
                self.reset(id, Code::Refused);
                return Ok(());
            }
            return self.refuse(id, Code::Refused);
        }
        self.conduct.request();
        let stream = Rc::new(Stream::new(id, self.takes_at_first, asked.length, ends));
        self.streams.push(Rc::clone(&stream));
        self.begun.push(Begun {
            stream,
            asked,
            has_body: !ends,
        });
        Ok(())
    }

    /// Ends a stream for what the client did on it.
    pub(super) fn refuse(&mut self, id: u32, code: Code) -> Result<(), Fault> {
        self.reset(id, code);
        if self.conduct.fault() {
            Ok(())
        } else {
            Err(Fault::Violation(Code::Calm))
        }
    }

    /// Ends a stream.
    pub(super) fn reset(&mut self, id: u32, code: Code) {
        frame::reset(&mut self.out, id, code);
        self.remember(id);
        if let Some(stream) = self.stream(id).map(Rc::clone) {
            stream.reset();
        }
    }

    /// The task of a stream is over; `done`: it came to its end.
    pub(super) fn forget(&mut self, stream: &Stream, done: bool) {
        if let Ok(at) = self.streams.binary_search_by_key(&stream.id, |s| s.id) {
            self.streams.remove(at);
        }
        let untaken = stream.body.borrow_mut().refuse();
        self.taken(None, untaken);
        if done && !stream.is_reset() && !stream.body.borrow().ended {
            // RFC 9113 section 8.1: answered, and the rest of the request is not wanted.
            self.reset(stream.id, Code::NoError);
        }
    }

    // -- what comes

    /// Room for a DATA frame of so many bytes; `false`: there is none.
    pub(super) fn admit(&mut self, length: u32) -> bool {
        let admitted = length <= self.window;
        self.window = self.window.saturating_sub(length);
        admitted
    }

    /// Bytes that were sent are not held any more; tells the client now and then.
    pub(super) fn taken(&mut self, stream: Option<&Stream>, bytes: u32) {
        self.owed += bytes;
        if self.owed >= WINDOW / 2 {
            let by = std::mem::take(&mut self.owed);
            self.window += by;
            frame::window_update(&mut self.out, 0, by);
        }
        if let Some(stream) = stream
            && let Some(by) = stream.body.borrow_mut().taken(bytes)
        {
            frame::window_update(&mut self.out, stream.id, by);
        }
    }

    // -- leaving

    /// Tells the client that it is to leave; what it asks until it knows is answered.
    pub(super) fn say_farewell(&mut self) {
        if self.farewell == Farewell::None {
            self.farewell = Farewell::Said;
            frame::go_away(&mut self.out, MOST, Code::NoError);
            frame::write(&mut self.out, kind::PING, 0, 0, LEAVE);
        }
    }

    /// A PING was answered.
    pub(super) fn pong(&mut self, payload: &[u8]) {
        if self.farewell == Farewell::Said && payload == LEAVE {
            self.farewell = Farewell::Heard;
            frame::go_away(&mut self.out, self.newest, Code::NoError);
        }
    }

    /// Whether the client knows that new streams are not answered.
    pub(super) fn has_left(&self) -> bool {
        self.farewell == Farewell::Heard
    }

    /// Whether nothing is left to do on a connection whose client is to leave.
    pub(super) fn is_over(&self) -> bool {
        self.has_left() && self.streams.is_empty() && self.out.is_empty()
    }

    /// Says why the connection ends, and that nothing more will come.
    pub(super) fn end(&mut self, code: Code) {
        frame::go_away(&mut self.out, self.newest, code);
    }

    // -- what goes

    /// Whether the client takes so little that nothing more is to be read of it.
    pub(super) fn is_congested(&self) -> bool {
        self.out.len() - self.written > CONGESTED
    }

    /// Control frames are appended here.
    pub(super) fn control(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// The bytes to be written next.
    pub(super) fn unwritten(&self) -> &[u8] {
        &self.out[self.written..]
    }

    /// So many of them were written. When all were, who waits for room has it; `true`: somebody did, or
    /// more may be read.
    pub(super) fn wrote(&mut self, bytes: usize) -> bool {
        let was_congested = self.is_congested();
        self.written += bytes;
        let flows = was_congested && !self.is_congested();
        if self.written < self.out.len() {
            return flows;
        }
        self.written = 0;
        spare::give(std::mem::take(&mut self.out));
        self.wake_waiting() || flows
    }

    /// Wakes who waits for room or for the connection's window; `false`: nobody does.
    fn wake_waiting(&mut self) -> bool {
        let awaited = !(self.want_room.is_empty() && self.had_room.is_empty());
        // Who had none goes first.
        for stream in self.want_room.drain(..).chain(self.had_room.drain(..)) {
            stream.waits.set(false);
            stream.wake();
        }
        awaited
    }

    /// The client would take so many bytes more; `false`: that is more than there can be.
    pub(super) fn open(&mut self, by: i64) -> bool {
        let was_shut = self.takes <= 0;
        self.takes += by;
        self.opened = Instant::now();
        if was_shut && self.takes > 0 {
            self.wake_waiting();
        }
        self.takes <= i64::from(MOST)
    }

    /// Bytes of a body that may be appended for `stream`; 0: not now. The second tells whether it is
    /// the client that does not take more.
    pub(super) fn room(&self, stream: &Stream) -> (usize, bool) {
        let takes = self.takes.min(stream.takes.get()).max(0);
        if takes == 0 {
            return (0, true);
        }
        let room = ROOM.saturating_sub(self.out.len());
        let most = self.largest_frame.min(LARGEST);
        (
            room.min(most).min(usize::try_from(takes).unwrap_or(most)),
            false,
        )
    }

    /// Has `stream` woken when there is room again; `had`: it had some this time.
    pub(super) fn wait_for_room(&mut self, stream: &Rc<Stream>, had: bool) {
        if stream.waits.replace(true) {
            return;
        }
        let list = if had {
            &mut self.had_room
        } else {
            &mut self.want_room
        };
        list.push(Rc::clone(stream));
    }

    /// Appends the head of an answer; `length`: what it does not say of its body's length itself.
    pub(super) fn head(
        &mut self,
        id: u32,
        status: StatusCode,
        headers: &HeaderMap,
        length: Option<u64>,
        ends: bool,
    ) {
        if self.out.is_empty() {
            self.out = spare::take();
        }
        let begin = self.out.len();
        self.out.extend_from_slice(&[0; HEADER]);
        let (encoder, out) = (&mut self.encoder, &mut self.out);
        encoder.status(status, out);
        for (name, value) in headers {
            encoder.field(name, value, out);
        }
        if let Some(length) = length {
            encoder.field(&http::header::CONTENT_LENGTH, &length.into(), out);
        }
        if !headers.contains_key(http::header::DATE) {
            date::with(|date| encoder.field(&http::header::DATE, date, out));
        }
        let flags = if ends { flag::END_STREAM } else { 0 };
        self.close_head(begin, id, flags);
    }

    /// Writes the header of the frame that began at `begin`, and cuts it where it is too large for one.
    fn close_head(&mut self, begin: usize, id: u32, flags: u8) {
        let length = self.out.len() - begin - HEADER;
        let mut header = Header {
            length,
            kind: kind::HEADERS,
            flags: flags | flag::END_HEADERS,
            stream: id,
        };
        if length <= self.largest_frame {
            self.out[begin..begin + HEADER].copy_from_slice(&header.bytes());
            return;
        }
        let block = self.out.split_off(begin + HEADER);
        self.out.truncate(begin);
        let mut pieces = block.chunks(self.largest_frame).peekable();
        header.flags = flags;
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                header.flags |= flag::END_HEADERS;
            }
            frame::write(&mut self.out, header.kind, header.flags, id, piece);
            (header.kind, header.flags) = (kind::CONTINUATION, 0);
        }
    }

    /// Appends a piece of an answer's body, no longer than there is room.
    pub(super) fn data(&mut self, stream: &Stream, piece: &[u8], ends: bool) {
        if self.out.is_empty() {
            self.out = spare::take();
        }
        let bytes = piece.len() as i64;
        self.takes -= bytes;
        stream.takes.set(stream.takes.get() - bytes);
        let flags = if ends { flag::END_STREAM } else { 0 };
        frame::write(&mut self.out, kind::DATA, flags, stream.id, piece);
    }
}

/// Buffers that nobody uses now: a connection has one only while it has something to write.
mod spare {
    use std::cell::Cell;

    thread_local! {
        static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }

    pub(super) fn take() -> Vec<u8> {
        SPARE.take()
    }

    pub(super) fn give(mut buffer: Vec<u8>) {
        if buffer.capacity() <= 2 * super::ROOM {
            buffer.clear();
            SPARE.set(buffer);
        }
    }
}
