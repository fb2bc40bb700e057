//! Frames as they come (RFC 9113 sections 5 and 6).

use std::rc::Rc;

use tokio::time::Instant;

use super::frame::{self, Code, HEADER, Header, LARGEST, MOST, PREFACE, flag, kind, setting};
use super::head::Heading;
use super::link::{Fault, Link};
use super::stream::Stream;

/// What of something longer is there.
pub(super) enum Incomplete {
    /// So much of what a connection begins with.
    Preface(usize),
    /// That is there; SETTINGS must follow.
    Settings,
    /// Nothing.
    None,
    /// A head that goes on in another frame.
    Head(Block),
    /// A frame of a body.
    Data(Data),
}

pub(super) struct Block {
    stream: u32,
    ends: bool,
    bytes: Vec<u8>,
    pieces: usize,
}

pub(super) struct Data {
    /// None where nobody wants it.
    stream: Option<Rc<Stream>>,
    /// Bytes of the body that are still to come, and of the padding behind it.
    left: usize,
    padding: usize,
    ends: bool,
}

/// How much of the bytes was looked at.
pub(super) struct Looked {
    pub(super) bytes: usize,
    /// More of them could have been, but time was up.
    pub(super) stopped: bool,
}

const PROTOCOL: Fault = Fault::Violation(Code::Protocol);
const FRAME_SIZE: Fault = Fault::Violation(Code::FrameSize);
const FLOW: Fault = Fault::Violation(Code::FlowControl);
/// Frames that a head may be cut into.
const MOST_PIECES: usize = 32;

impl Link {
    /// Looks at the bytes that came next; `is_up` tells whether the time for it is over.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        is_up: impl Fn() -> bool,
    ) -> Result<Looked, Fault> {
        let mut rest = bytes;
        let mut stopped = false;
        while !rest.is_empty() {
            match &mut self.incomplete {
                Incomplete::Preface(there) => {
                    let n = rest.len().min(PREFACE.len() - *there);
                    if rest[..n] != PREFACE[*there..*there + n] {
                        return Err(PROTOCOL);
                    }
                    *there += n;
                    rest = &rest[n..];
                    if *there == PREFACE.len() {
                        self.incomplete = Incomplete::Settings;
                    }
                    continue;
                }
                Incomplete::Data(_) => {
                    rest = self.data_piece(rest)?;
                    continue;
                }
                _ => {}
            }
            let Some(header) = Header::read(rest) else {
                break;
            };
            if header.length > LARGEST {
                return Err(FRAME_SIZE);
            }
            // A request is what takes time.
            if header.kind == kind::HEADERS && is_up() {
                stopped = true;
                break;
            }
            let after = &rest[HEADER..];
            if header.kind == kind::DATA {
                let padded = usize::from(header.has(flag::PADDED));
                let Some((padding, after)) = after.split_at_checked(padded) else {
                    break;
                };
                self.begin_data(&header, padding.first().copied())?;
                rest = after;
                continue;
            }
            let Some((payload, after)) = after.split_at_checked(header.length) else {
                break;
            };
            self.frame(&header, payload)?;
            rest = after;
        }
        Ok(Looked {
            bytes: bytes.len() - rest.len(),
            stopped,
        })
    }

    /// Whether a head is half there, given the bytes that were not looked at yet.
    pub(super) fn has_half_a_head(&self, rest: &[u8]) -> bool {
        let begins = Header::read(rest)
            .is_some_and(|h| matches!(h.kind, kind::HEADERS | kind::CONTINUATION));
        begins || matches!(self.incomplete, Incomplete::Head(_))
    }

    fn frame(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        match &self.incomplete {
            Incomplete::Settings if header.kind != kind::SETTINGS || header.has(flag::ACK) => {
                return Err(PROTOCOL);
            }
            Incomplete::Settings => self.incomplete = Incomplete::None,
            Incomplete::Head(block)
                if header.kind != kind::CONTINUATION || header.stream != block.stream =>
            {
                return Err(PROTOCOL);
            }
            _ => {}
        }
        if !self.conduct.frame(header, payload, Instant::now) {
            return Err(Fault::Frames);
        }
        match header.kind {
            kind::HEADERS => self.headers(header, payload),
            kind::CONTINUATION => self.continuation(header, payload),
            kind::PRIORITY if header.stream == 0 => Err(PROTOCOL),
            // Of a stream that may not have begun: one that has not cannot be reset.
            kind::PRIORITY if payload.len() != 5 => Err(FRAME_SIZE),
            kind::RST_STREAM => self.reset_by_client(header.stream, payload),
            kind::SETTINGS => self.settings(header, payload),
            kind::PUSH_PROMISE => Err(PROTOCOL),
            kind::PING | kind::GOAWAY if header.stream != 0 => Err(PROTOCOL),
            kind::PING if payload.len() != 8 => Err(FRAME_SIZE),
            kind::GOAWAY if payload.len() < 8 => Err(FRAME_SIZE),
            kind::PING if header.has(flag::ACK) => {
                self.pong(payload);
                Ok(())
            }
            kind::PING => {
                frame::write(self.control(), kind::PING, flag::ACK, 0, payload);
                Ok(())
            }
            kind::WINDOW_UPDATE => self.window_update(header.stream, payload),
            // Priorities are not looked at; what is not known is passed over (RFC 9113 section 5.5).
            _ => Ok(()),
        }
    }

    // -- heads

    fn headers(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        if header.stream.is_multiple_of(2) {
            return Err(PROTOCOL);
        }
        let mut block = payload;
        if header.has(flag::PADDED) {
            let (padding, rest) = block.split_first().ok_or(FRAME_SIZE)?;
            let length = rest.len().checked_sub(usize::from(*padding));
            block = &rest[..length.ok_or(PROTOCOL)?];
        }
        if header.has(flag::PRIORITY) {
            block = block.get(5..).ok_or(FRAME_SIZE)?;
        }
        let ends = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            return self.head_is_there(header.stream, block, ends);
        }
        self.incomplete = Incomplete::Head(Block {
            stream: header.stream,
            ends,
            bytes: block.to_vec(),
            pieces: 1,
        });
        self.bound_block()
    }

    fn continuation(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        let Incomplete::Head(block) = &mut self.incomplete else {
            return Err(PROTOCOL);
        };
        block.bytes.extend_from_slice(payload);
        block.pieces += 1;
        if !header.has(flag::END_HEADERS) {
            return self.bound_block();
        }
        let taken = std::mem::replace(&mut self.incomplete, Incomplete::None);
        let Incomplete::Head(block) = taken else {
            return Err(PROTOCOL);
        };
        self.head_is_there(block.stream, &block.bytes, block.ends)
    }

    /// A head that has no end (CVE-2024-27316).
    fn bound_block(&self) -> Result<(), Fault> {
        match &self.incomplete {
            Incomplete::Head(block)
                if block.pieces > MOST_PIECES
                    || block.bytes.len() > self.bounds.bytes.max(LARGEST) =>
            {
                Err(Fault::Violation(Code::Calm))
            }
            _ => Ok(()),
        }
    }

    fn head_is_there(&mut self, id: u32, block: &[u8], ends: bool) -> Result<(), Fault> {
        if id <= self.newest {
            return self.trailers(id, block, ends);
        }
        let mut heading = Heading::new(self.bounds);
        self.decoder
            .decode(block, |field, size| heading.field(field, size))
            .map_err(|_broken| Fault::Violation(Code::Compression))?;
        if self.has_left() {
            return Ok(());
        }
        self.newest = id;
        match heading.finish(ends) {
            Ok(asked) => self.begin(id, asked, ends),
            Err(_) => self.refuse(id, Code::Protocol),
        }
    }

    /// Trailers are dropped: nothing of them may be merged into the head.
    fn trailers(&mut self, id: u32, block: &[u8], ends: bool) -> Result<(), Fault> {
        self.decoder
            .decode(block, |_, _| {})
            .map_err(|_broken| Fault::Violation(Code::Compression))?;
        let Some(stream) = self.stream(id).map(Rc::clone) else {
            return self.is_late(id);
        };
        if stream.body.borrow().ended {
            self.refuse(id, Code::StreamClosed)
        } else if !ends {
            self.refuse(id, Code::Protocol)
        } else {
            self.body_ends(&stream)
        }
    }

    /// Something came on a stream that is over: its client may not have known.
    fn is_late(&self, id: u32) -> Result<(), Fault> {
        if self.ended_early(id) {
            Ok(())
        } else {
            Err(Fault::Violation(Code::StreamClosed))
        }
    }

    // -- bodies

    fn begin_data(&mut self, header: &Header, padding: Option<u8>) -> Result<(), Fault> {
        if !matches!(self.incomplete, Incomplete::None) || header.stream == 0 {
            return Err(PROTOCOL);
        }
        let id = header.stream;
        if id > self.newest && !self.has_left() {
            return Err(PROTOCOL);
        }
        let padded = usize::from(padding.is_some());
        let padding = usize::from(padding.unwrap_or(0));
        let left = header
            .length
            .checked_sub(padded + padding)
            .ok_or(PROTOCOL)?;
        if !self.conduct.data(header, left, Instant::now) {
            return Err(Fault::Frames);
        }
        let length = header.length as u32;
        if !self.admit(length) {
            return Err(FLOW);
        }
        let mut stream = self.stream(id).map(Rc::clone);
        match &stream {
            None if id > self.newest => {}
            None => self.is_late(id)?,
            Some(open) => {
                let refused = {
                    let body = &mut *open.body.borrow_mut();
                    let fits = body.window.checked_sub(length);
                    body.window = fits.unwrap_or(0);
                    if body.ended {
                        Some(Code::StreamClosed)
                    } else {
                        fits.is_none().then_some(Code::FlowControl)
                    }
                };
                if let Some(code) = refused {
                    self.refuse(id, code)?;
                    stream = None;
                }
            }
        }
        self.incomplete = Incomplete::Data(Data {
            stream,
            left,
            padding,
            ends: header.has(flag::END_STREAM),
        });
        if padded > 0 {
            self.pass(padded);
        }
        // A frame that is empty is over.
        self.data_piece(&[]).map(|_none| ())
    }

    /// Bytes of the frame that nobody takes: its padding.
    fn pass(&mut self, bytes: usize) {
        let stream = match &self.incomplete {
            Incomplete::Data(data) => data.stream.clone(),
            _ => None,
        };
        self.taken(stream.as_deref(), bytes as u32);
    }

    /// Takes what is there of the frame; what follows it is left.
    fn data_piece<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Fault> {
        let Incomplete::Data(data) = &mut self.incomplete else {
            return Ok(bytes);
        };
        let (piece, rest) = bytes.split_at(data.left.min(bytes.len()));
        let (padding, rest) = rest.split_at(data.padding.min(rest.len()));
        data.left -= piece.len();
        data.padding -= padding.len();
        let ended = data.left + data.padding == 0;
        let ends = data.ends;
        let stream = data.stream.clone().filter(|stream| !stream.is_reset());
        if ended {
            self.incomplete = Incomplete::None;
        }
        let Some(stream) = stream else {
            self.taken(None, (piece.len() + padding.len()) as u32);
            return Ok(rest);
        };
        let (untaken, broken) = {
            let body = &mut *stream.body.borrow_mut();
            (body.put(piece), body.broken)
        };
        self.taken(None, untaken);
        self.taken(Some(&stream), padding.len() as u32);
        if broken {
            self.refuse(stream.id, Code::Protocol)?;
        } else if ended && ends {
            self.body_ends(&stream)?;
        } else if !piece.is_empty() {
            stream.wake();
        }
        Ok(rest)
    }

    fn body_ends(&mut self, stream: &Stream) -> Result<(), Fault> {
        let short = {
            let body = &mut *stream.body.borrow_mut();
            body.ended = true;
            body.left.replace(0).is_some_and(|left| left > 0)
        };
        if short {
            stream.body.borrow_mut().broken = true;
            return self.refuse(stream.id, Code::Protocol);
        }
        stream.wake();
        Ok(())
    }

    // -- the rest

    fn reset_by_client(&mut self, id: u32, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() != 4 {
            return Err(FRAME_SIZE);
        }
        if id == 0 || id > self.newest && !self.has_left() {
            return Err(PROTOCOL);
        }
        match self.stream(id) {
            Some(stream) => stream.reset(),
            // Refused before it was given up: that counts all the same.
            None if self.ended_early(id) => {}
            None => return Ok(()),
        }
        if self.conduct.give_up() {
            Ok(())
        } else {
            Err(Fault::Resets)
        }
    }

    fn settings(&mut self, header: &Header, payload: &[u8]) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(PROTOCOL);
        }
        if header.has(flag::ACK) {
            return if payload.is_empty() {
                Ok(())
            } else {
                Err(FRAME_SIZE)
            };
        }
        let (each, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(FRAME_SIZE);
        }
        for [a, b, value @ ..] in each {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                setting::HEADER_TABLE_SIZE => self.encoder.resize(value),
                setting::ENABLE_PUSH if value > 1 => return Err(PROTOCOL),
                setting::INITIAL_WINDOW_SIZE if value > MOST => return Err(FLOW),
                setting::INITIAL_WINDOW_SIZE => {
                    let by = i64::from(value) - self.takes_at_first;
                    self.takes_at_first += by;
                    for stream in &self.streams {
                        let takes = stream.takes.get() + by;
                        if takes > i64::from(MOST) {
                            return Err(FLOW);
                        }
                        stream.takes.set(takes);
                        stream.wake();
                    }
                }
                setting::MAX_FRAME_SIZE => match value as usize {
                    size @ LARGEST..16_777_216 => self.largest_frame = size,
                    _ => return Err(PROTOCOL),
                },
                _ => {}
            }
        }
        frame::write(self.control(), kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    fn window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Fault> {
        let bytes = *payload
            .first_chunk::<4>()
            .filter(|_| payload.len() == 4)
            .ok_or(FRAME_SIZE)?;
        let by = i64::from(u32::from_be_bytes(bytes) & MOST);
        if id == 0 {
            if by == 0 {
                return Err(PROTOCOL);
            }
            return if self.open(by) { Ok(()) } else { Err(FLOW) };
        }
        if id > self.newest && !self.has_left() {
            return Err(PROTOCOL);
        }
        let Some(stream) = self.stream(id) else {
            return Ok(());
        };
        let takes = stream.takes.get() + by;
        if by == 0 || takes > i64::from(MOST) {
            let code = if by == 0 {
                Code::Protocol
            } else {
                Code::FlowControl
            };
            return self.refuse(id, code);
        }
        stream.takes.set(takes);
        stream.wake();
        Ok(())
    }
}
