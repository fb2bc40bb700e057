//! A client's connection as TLS carries it. rustls shakes hands, makes all keys and brings the ciphers; whose
//! bytes lie where is decided here: a record is opened where it was read, and an idle connection holds no
//! buffer.

mod handshake;
mod records;
mod spare;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use rustls::crypto::cipher::OutboundChunks;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub use handshake::accept;
use records::{LARGEST, Opened, Records};

/// As much as is sealed at a time, records.
const AT_ONCE: usize = 8;
/// Pieces of what is written that become one record.
const PIECES: usize = 8;

/// A connection to a client, past its handshake.
pub struct ClientStream {
    socket: TcpStream,
    records: Records,
    h2: bool,
    /// What was read and is not used yet; none while nothing is left.
    ahead: Option<Ahead>,
    /// The beginning of a record whose rest has not come.
    begun: Vec<u8>,
    /// Sealed, and not taken by the socket.
    unsent: VecDeque<io::Cursor<Vec<u8>>>,
    receives: Receives,
    /// Nothing more is sent: we have said so.
    has_ended: bool,
}

/// What the client may still send.
enum Receives {
    More,
    End,
    /// It did what no client may do; of this it has been told.
    Fault(rustls::Error),
}

struct Ahead {
    buffer: Box<[u8]>,
    /// Data that is not handed on.
    data: Range<usize>,
    /// Records that are not opened.
    sealed: Range<usize>,
}

impl ClientStream {
    /// After a handshake; `came` is what came after its last message.
    fn new(socket: TcpStream, records: Records, h2: bool, came: Vec<u8>) -> Self {
        let ahead = Ahead {
            data: 0..0,
            sealed: 0..came.len(),
            buffer: came.into(),
        };
        Self {
            socket,
            records,
            h2,
            ahead: Some(ahead).filter(|ahead| !ahead.sealed.is_empty()),
            begun: Vec::new(),
            unsent: VecDeque::new(),
            receives: Receives::More,
            has_ended: false,
        }
    }

    /// Whether the client speaks HTTP/2, as ALPN has agreed.
    #[must_use]
    pub fn is_h2(&self) -> bool {
        self.h2
    }

    /// The socket below TLS: for who reads on and forgets what comes.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Hands on what lies ahead.
    fn give(&mut self, mut ahead: Ahead, asked: &mut ReadBuf<'_>) {
        loop {
            let n = ahead.data.len().min(asked.remaining());
            asked.put_slice(&ahead.buffer[ahead.data.start..ahead.data.start + n]);
            ahead.data.start += n;
            if !ahead.data.is_empty() || !matches!(self.receives, Receives::More) {
                break;
            }
            match self.open(&mut ahead, asked.remaining()) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => self.fail(e),
            }
        }
        let left = &ahead.buffer[ahead.sealed.clone()];
        let is_whole = matches!(records::length(left), Ok(Some(length)) if length <= left.len());
        match self.receives {
            Receives::More if is_whole || !ahead.data.is_empty() => self.ahead = Some(ahead),
            Receives::More => {
                self.begun = left.to_vec();
                spare::give(ahead.buffer);
            }
            // Whatever else the client sent, it is not heard.
            Receives::End | Receives::Fault(_) => spare::give(ahead.buffer),
        }
    }

    /// Opens the next record; `false`: it is not there, or nobody has `room`, bytes, for any of it.
    fn open(&mut self, ahead: &mut Ahead, room: usize) -> Result<bool, rustls::Error> {
        let sealed = &mut ahead.buffer[ahead.sealed.clone()];
        let Some(length) = records::length(sealed)?.filter(|length| *length <= sealed.len()) else {
            return Ok(false);
        };
        if room == 0 {
            return Ok(false);
        }
        let start = ahead.sealed.start;
        let opened = self.records.open(&mut sealed[..length])?;
        ahead.sealed.start += length;
        match opened {
            Opened::Data(at) => ahead.data = start + at.start..start + at.end,
            Opened::Nothing => {}
            Opened::Answer(answer) => self.unsent.push_back(io::Cursor::new(answer)),
            Opened::End => self.receives = Receives::End,
        }
        Ok(true)
    }

    /// The client is at fault: it is told so, and nothing more passes.
    fn fail(&mut self, e: rustls::Error) {
        if !self.has_ended {
            self.has_ended = true;
            // What it said itself was its last word.
            if !matches!(e, rustls::Error::AlertReceived(_))
                && let Ok(alert) = self.records.seal_end(Some(&e))
            {
                self.unsent.push_back(io::Cursor::new(alert));
            }
        }
        self.receives = Receives::Fault(e);
    }

    /// Reads what has come; `None`: there will be no more.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Ahead>>> {
        let mut buffer = spare::take();
        let begun = self.begun.len();
        buffer[..begun].copy_from_slice(&self.begun);
        let mut read = ReadBuf::new(&mut buffer[begun..]);
        let polled = Pin::new(&mut self.socket).poll_read(cx, &mut read);
        let came = read.filled().len();
        if matches!(polled, Poll::Ready(Ok(()))) && came > 0 {
            self.begun = Vec::new();
            return Poll::Ready(Ok(Some(Ahead {
                buffer,
                data: 0..0,
                sealed: 0..begun + came,
            })));
        }
        spare::give(buffer);
        polled.map_ok(|()| None)
    }

    /// Sends what waits for the socket.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let socket = Pin::new(&mut self.socket);
            let mut n = if self.unsent.len() == 1 {
                ready!(socket.poll_write(cx, self.unsent[0].chunk()))?
            } else {
                let mut pieces = [IoSlice::new(&[]); AT_ONCE];
                for (piece, unsent) in pieces.iter_mut().zip(&self.unsent) {
                    *piece = IoSlice::new(unsent.chunk());
                }
                ready!(socket.poll_write_vectored(cx, &pieces))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some(first) = self.unsent.front_mut().filter(|_| n > 0) {
                let sent = n.min(first.remaining());
                first.advance(sent);
                n -= sent;
                if !first.has_remaining() {
                    self.unsent.pop_front();
                }
            }
        }
        self.unsent = VecDeque::new();
        Poll::Ready(Ok(()))
    }

    fn poll_seal(
        &mut self,
        cx: &mut Context<'_>,
        mut data: OutboundChunks<'_>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(cx))?;
        if self.has_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let most = data.len().min(AT_ONCE * LARGEST);
        let mut sealed = 0;
        while sealed < most {
            let (piece, rest) = data.split_at(LARGEST);
            sealed += piece.len();
            let record = self.records.seal(piece).map_err(fault)?;
            data = rest;
            if sealed == most && self.unsent.is_empty() {
                return self.poll_send(cx, record).map_ok(|()| most);
            }
            self.unsent.push_back(io::Cursor::new(record));
        }
        match self.poll_unsent(cx) {
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            _ => Poll::Ready(Ok(most)),
        }
    }

    /// Sends a record while no other waits; what the socket does not take is kept.
    fn poll_send(&mut self, cx: &mut Context<'_>, record: Vec<u8>) -> Poll<io::Result<()>> {
        let mut record = io::Cursor::new(record);
        while record.has_remaining() {
            match Pin::new(&mut self.socket).poll_write(cx, record.chunk()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => record.advance(n),
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    self.unsent.push_back(record);
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        asked: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = asked.filled().len();
        // What brings no data is bounded: soon there is some, a fault, or nothing more to read.
        loop {
            if let Some(ahead) = this.ahead.take() {
                this.give(ahead, asked);
            }
            if asked.filled().len() > before || asked.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if !this.unsent.is_empty() {
                // Maybe an answer to what was read, which nobody else would send.
                let _sent: Poll<io::Result<()>> = this.poll_unsent(cx);
            }
            match &this.receives {
                Receives::More => {}
                Receives::End => return Poll::Ready(Ok(())),
                Receives::Fault(e) => return Poll::Ready(Err(fault(e.clone()))),
            }
            this.ahead = ready!(this.poll_ahead(cx))?;
            if this.ahead.is_none() {
                // Without a word of TLS: it may have been cut off by anybody.
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_seal(cx, bytes.into())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut slices: [&[u8]; PIECES] = [&[]; PIECES];
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = piece;
        }
        let used = pieces.len().min(PIECES);
        self.poll_seal(cx, OutboundChunks::new(&slices[..used]))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_unsent(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_ended {
            self.has_ended = true;
            let farewell = self.records.seal_end(None).map_err(fault)?;
            self.unsent.push_back(io::Cursor::new(farewell));
        }
        ready!(self.poll_unsent(cx))?;
        match ready!(Pin::new(&mut self.socket).poll_shutdown(cx)) {
            // It is gone already.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

fn fault(e: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}
