//! The body of an answer: decoded as it arrives, no byte copied; when it ends the connection
//! goes back to the pool.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::Failure;
use super::connection::{Connection, Pool};
use super::head::Framing;
use super::upload::Outgoing;

/// Why a body broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(&'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

/// A body on its way from the backend.
pub struct Download {
    /// Gone once the body has ended.
    connection: Option<Connection>,
    decoder: Decoder,
    /// What is still to be sent when the backend answered early.
    outgoing: Option<Box<Outgoing>>,
    keep: Option<(Rc<Pool>, usize)>,
    /// Longest silence of the backend.
    silence: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Download {
    /// `keep`: where the connection goes and how many are kept there, if it may be used again.
    pub(super) fn new(
        connection: Connection,
        framing: Framing,
        outgoing: Option<Box<Outgoing>>,
        keep: Option<(Rc<Pool>, usize)>,
        silence: Duration,
    ) -> Self {
        let decoder = match framing {
            Framing::None => Decoder::Done,
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::Chunked(Chunked::Size),
            Framing::UntilClose => Decoder::UntilClose,
        };
        let mut this = Self {
            connection: Some(connection),
            decoder,
            outgoing,
            keep,
            silence,
            timer: None,
        };
        this.release_at_end();
        this
    }

    /// The connection of an answer that switched protocols.
    pub fn into_connection(mut self) -> Option<Connection> {
        self.keep = None;
        self.connection.take()
    }

    /// At the end of the body the connection is kept, unless something is left on either side.
    fn release_at_end(&mut self) {
        if !matches!(self.decoder, Decoder::Done) {
            return;
        }
        let Some((pool, size)) = self.keep.take() else {
            return;
        };
        if let Some(connection) = self
            .connection
            .take_if(|c| c.buffer.is_empty() && self.outgoing.is_none())
        {
            pool.put(connection, size);
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        loop {
            let Some(connection) = &mut this.connection else {
                return Poll::Ready(None);
            };
            if let Some(outgoing) = &mut this.outgoing {
                match outgoing.poll_send(cx, &mut connection.stream) {
                    Poll::Ready(Ok(())) => this.outgoing = None,
                    // The answer may be whole although the rest of the request is not wanted.
                    Poll::Ready(Err(Failure::Broken(_))) => {
                        this.outgoing = None;
                        this.keep = None;
                    }
                    // The backend waits for a rest that will not come.
                    Poll::Ready(Err(_)) => {
                        this.connection = None;
                        return Poll::Ready(Some(Err(Broken("the request's body broke off"))));
                    }
                    Poll::Pending => {}
                }
            }
            match this.decoder.decode(&mut connection.buffer) {
                Ok(Decoded::Data(data)) => {
                    this.release_at_end();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::End) => {
                    this.release_at_end();
                    this.connection = None;
                    return Poll::Ready(None);
                }
                Ok(Decoded::More) => {}
                Err(how) => {
                    this.connection = None;
                    return Poll::Ready(Some(Err(Broken(how))));
                }
            }
            let read = match connection.poll_fill(cx) {
                Poll::Ready(read) => read,
                Poll::Pending => {
                    // A timer only for answers that let us wait.
                    let silence = this.silence;
                    let timer = this
                        .timer
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(silence)));
                    ready!(timer.as_mut().poll(cx));
                    this.connection = None;
                    return Poll::Ready(Some(Err(Broken(
                        "the backend fell silent within its answer",
                    ))));
                }
            };
            if let Some(timer) = &mut this.timer {
                timer.as_mut().reset(Instant::now() + this.silence);
            }
            if !matches!(read, Ok(1..)) {
                let whole = matches!((&this.decoder, read), (Decoder::UntilClose, Ok(0)));
                this.connection = None;
                this.keep = None;
                return Poll::Ready(
                    (!whole).then_some(Err(Broken("the backend broke off its answer"))),
                );
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.decoder, Decoder::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match self.decoder {
            Decoder::Length(left) => SizeHint::with_exact(left),
            Decoder::Done => SizeHint::with_exact(0),
            Decoder::Chunked(_) | Decoder::UntilClose => SizeHint::default(),
        }
    }
}

enum Decoder {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
}

enum Decoded {
    Data(Bytes),
    More,
    End,
}

impl Decoder {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, &'static str> {
        match self {
            Self::Done => Ok(Decoded::End),
            _ if buffer.is_empty() => Ok(Decoded::More),
            Self::Length(left) => {
                let n = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                *left -= n as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Decoded::Data(buffer.split_to(n).freeze()))
            }
            Self::UntilClose => Ok(Decoded::Data(buffer.split().freeze())),
            Self::Chunked(chunked) => {
                let decoded = chunked.decode(buffer);
                if matches!(chunked, Chunked::Over) {
                    *self = Self::Done;
                }
                decoded
            }
        }
    }
}

/// RFC 9112 section 7.1. Extensions and trailers are dropped.
enum Chunked {
    /// A size line is next.
    Size,
    Data(u64),
    DataEnd,
    /// The trailer section; so many bytes of it came.
    Trailers(usize),
    Over,
}

/// The longest size line, extensions included, and the largest trailer section.
const MAX_LINE: usize = 1 << 10;
const MAX_TRAILERS: usize = 16 << 10;

impl Chunked {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, &'static str> {
        loop {
            match self {
                Self::Size => {
                    let Some(line) = take_line(buffer, MAX_LINE)? else {
                        return Ok(Decoded::More);
                    };
                    *self = match size(&line)? {
                        0 => Self::Trailers(0),
                        size => Self::Data(size),
                    };
                }
                Self::Data(_) if buffer.is_empty() => return Ok(Decoded::More),
                Self::Data(left) => {
                    let n = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(buffer.len());
                    *left -= n as u64;
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(Decoded::Data(buffer.split_to(n).freeze()));
                }
                Self::DataEnd => {
                    if buffer.len() < 2 {
                        return Ok(Decoded::More);
                    }
                    if buffer[..2] != *b"\r\n" {
                        return Err("a chunk of the answer does not end where it should");
                    }
                    buffer.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers(total) => {
                    let Some(line) = take_line(buffer, MAX_TRAILERS)? else {
                        return Ok(Decoded::More);
                    };
                    *total += line.len();
                    if line.is_empty() {
                        *self = Self::Over;
                        return Ok(Decoded::End);
                    }
                    if *total > MAX_TRAILERS {
                        return Err("the answer's trailers are too large");
                    }
                }
                Self::Over => return Ok(Decoded::End),
            }
        }
    }
}

/// A line without its CRLF; a bare LF ends none.
fn take_line(buffer: &mut BytesMut, max: usize) -> Result<Option<BytesMut>, &'static str> {
    match memchr::memchr(b'\n', buffer) {
        Some(end) if end > max => Err("a line of the answer's chunks is too long"),
        Some(end) if end > 0 && buffer[end - 1] == b'\r' => {
            let mut line = buffer.split_to(end + 1);
            line.truncate(end - 1);
            Ok(Some(line))
        }
        Some(_) => Err("a line of the answer's chunks ends without CR"),
        None if buffer.len() > max => Err("a line of the answer's chunks is too long"),
        None => Ok(None),
    }
}

fn size(line: &[u8]) -> Result<u64, &'static str> {
    const BAD: &str = "a chunk size of the answer is invalid";
    let digits = line
        .split(|b| *b == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii_end();
    // `from_str_radix` alone would take a sign.
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(BAD);
    }
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or(BAD)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of a whole body, and what is left over.
    type Dechunked = Option<(Vec<u8>, Vec<u8>)>;

    /// Feeds `bytes` in pieces of the given sizes.
    fn dechunk(bytes: &[u8], pieces: &[usize]) -> Result<Dechunked, &'static str> {
        let (mut decoder, mut buffer, mut data) =
            (Decoder::Chunked(Chunked::Size), BytesMut::new(), Vec::new());
        let mut rest = bytes;
        let mut pieces = pieces.iter().copied().cycle();
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::Data(d) => data.extend_from_slice(&d),
                Decoded::End => return Ok(Some((data, [&buffer[..], rest].concat()))),
                Decoded::More if rest.is_empty() => return Ok(None),
                Decoded::More => {
                    let n = pieces.next().unwrap_or(1).clamp(1, rest.len());
                    buffer.extend_from_slice(&rest[..n]);
                    rest = &rest[n..];
                }
            }
        }
    }

    #[test]
    fn chunks_extensions_and_trailers_are_understood() {
        let text = b"5;ext=1\r\nhello\r\n1 \r\n \r\n0\r\nX-Trailer: 1\r\n\r\nnext";
        assert_eq!(
            dechunk(text, &[1]),
            Ok(Some((b"hello ".to_vec(), b"next".to_vec())))
        );
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for bad in [
            "x\r\n",
            "\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\nhelloX\r\n",
            "11111111111111111\r\n",
            "-1\r\n",
        ] {
            assert!(dechunk(bad.as_bytes(), &[64]).is_err(), "{bad:?}");
        }
        assert!(dechunk(format!("5;{}", "a".repeat(MAX_LINE)).as_bytes(), &[64]).is_err());
        assert!(
            dechunk(
                format!("0\r\n{}", "a: b\r\n".repeat(MAX_TRAILERS)).as_bytes(),
                &[4096]
            )
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn any_body_in_any_chunks_cut_anywhere_is_the_same_body(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8), pieces in prop::collection::vec(1usize..40, 1..5)) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(dechunk(&wire, &pieces), Ok(Some((chunks.concat(), Vec::new()))));
        }
    }
}
