//! How a body is framed in HTTP/1.1, strictly, on either side (RFC 9112 sections 6 and 7): what
//! could be read in two ways is an error. No byte is copied.

use bytes::{Buf, Bytes, BytesMut};

/// What is left of a body.
#[derive(Debug)]
pub enum Decoder {
    /// So many bytes; not 0.
    Length(u64),
    /// Chunks, extensions and trailers of which are dropped.
    Chunked(Chunked),
    /// All that comes until the connection is closed.
    UntilClose,
    /// Nothing.
    Done,
    /// Nobody knows: it was malformed.
    Broken,
}

/// What could be decoded.
#[derive(Debug)]
pub enum Decoded {
    /// Some of the body.
    Data(Bytes),
    /// More must be read first.
    More,
    /// The body is over.
    End,
}

impl Decoder {
    /// At the beginning of a chunked body.
    pub const fn chunked() -> Self {
        Self::Chunked(Chunked {
            state: State::Size,
            waste: 0,
        })
    }

    /// Whether the body is over.
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Bytes that are left, where that is known.
    pub const fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Done => Some(0),
            Self::Chunked(_) | Self::UntilClose | Self::Broken => None,
        }
    }

    /// Takes what there is of the body from the front of `buffer`; an error says what is wrong.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, &'static str> {
        match self {
            Self::Done => Ok(Decoded::End),
            Self::Broken => Err("the body was malformed"),
            _ if buffer.is_empty() => Ok(Decoded::More),
            Self::Length(left) => {
                let data = take_data(buffer, left);
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Decoded::Data(data))
            }
            Self::UntilClose => Ok(Decoded::Data(buffer.split().freeze())),
            Self::Chunked(chunked) => {
                let decoded = chunked.decode(buffer);
                match decoded {
                    Ok(Decoded::End) => *self = Self::Done,
                    Ok(_) => {}
                    Err(_) => *self = Self::Broken,
                }
                decoded
            }
        }
    }
}

/// Where in a chunked body we are (RFC 9112 section 7.1).
#[derive(Debug)]
pub struct Chunked {
    state: State,
    /// Bytes of extensions and trailers so far.
    waste: usize,
}

#[derive(Debug)]
enum State {
    /// A size line is next.
    Size,
    Data(u64),
    DataEnd,
    Trailers,
}

/// The longest size line, extensions included, and most extensions and trailers of one body.
const MAX_LINE: usize = 1 << 10;
const MAX_WASTE: usize = 16 << 10;

impl Chunked {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, &'static str> {
        loop {
            match &mut self.state {
                State::Size => {
                    let Some(line) = take_line(buffer, MAX_LINE)? else {
                        return Ok(Decoded::More);
                    };
                    let digits = line.iter().position(|b| *b == b';').unwrap_or(line.len());
                    self.waste(line.len() - digits)?;
                    self.state = match size(&line[..digits])? {
                        0 => State::Trailers,
                        size => State::Data(size),
                    };
                }
                State::Data(_) if buffer.is_empty() => return Ok(Decoded::More),
                State::Data(left) => {
                    let data = take_data(buffer, left);
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::DataEnd => {
                    if buffer.len() < 2 {
                        return Ok(Decoded::More);
                    }
                    if buffer[..2] != *b"\r\n" {
                        return Err("a chunk does not end where it should");
                    }
                    buffer.advance(2);
                    self.state = State::Size;
                }
                State::Trailers => {
                    let Some(line) = take_line(buffer, MAX_WASTE)? else {
                        return Ok(Decoded::More);
                    };
                    if line.is_empty() {
                        return Ok(Decoded::End);
                    }
                    self.waste(line.len())?;
                    if !is_field(&line) {
                        return Err("a trailer is malformed");
                    }
                }
            }
        }
    }

    fn waste(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.waste += bytes;
        if self.waste > MAX_WASTE {
            return Err("the chunks' extensions or trailers are too large");
        }
        Ok(())
    }
}

/// Up to `left` bytes from the front of `buffer`.
fn take_data(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let n = usize::try_from(*left)
        .unwrap_or(usize::MAX)
        .min(buffer.len());
    *left -= n as u64;
    buffer.split_to(n).freeze()
}

/// A line without its CRLF; a bare LF ends none.
fn take_line(buffer: &mut BytesMut, max: usize) -> Result<Option<BytesMut>, &'static str> {
    match memchr::memchr(b'\n', buffer) {
        Some(end) if end > max => Err("a line of the chunks is too long"),
        Some(end) if end > 0 && buffer[end - 1] == b'\r' => {
            let mut line = buffer.split_to(end + 1);
            line.truncate(end - 1);
            Ok(Some(line))
        }
        Some(_) => Err("a line of the chunks ends without CR"),
        None if buffer.len() > max => Err("a line of the chunks is too long"),
        None => Ok(None),
    }
}

/// Whether a method or a field's name may have this character (RFC 9110 section 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a line could be a header field (RFC 9112 section 5).
fn is_field(line: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', line) else {
        return false;
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let visible = |b: &u8| matches!(b, b'\t' | 0x20..=0x7e | 0x80..);
    !name.is_empty() && name.iter().all(|b| is_token(*b)) && value.iter().all(visible)
}

fn size(digits: &[u8]) -> Result<u64, &'static str> {
    const BAD: &str = "a chunk's size is invalid";
    // `from_str_radix` alone would take a sign.
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(BAD);
    }
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or(BAD)
}

/// A `Content-Length`: digits and nothing else (RFC 9110 section 8.6).
pub fn length(value: &[u8]) -> Option<u64> {
    // `parse` alone would take a sign.
    let text = std::str::from_utf8(value).ok()?;
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of a whole body, and what is left over.
    type Dechunked = Option<(Vec<u8>, Vec<u8>)>;

    /// Feeds `bytes` in pieces of the given sizes.
    fn dechunk(bytes: &[u8], pieces: &[usize]) -> Result<Dechunked, &'static str> {
        let (mut decoder, mut buffer, mut data) = (Decoder::chunked(), BytesMut::new(), Vec::new());
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
        let text = b"5;ext=1\r\nhello\r\n1\r\n \r\n0\r\nX-Trailer: 1\r\n\r\nnext";
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
            "5 \r\nhello\r\n",
            " 5\r\nhello\r\n",
            "5;ext=\"\n\"\r\nhello\r\n",
            "5\r\nhelloX\r\n",
            "11111111111111111\r\n",
            "-1\r\n",
            "0\r\nno field\r\n\r\n",
            "0\r\nx y: 1\r\n\r\n",
            "0\r\nx: \0\r\n\r\n",
            "0\r\n folded\r\n\r\n",
        ] {
            assert!(dechunk(bad.as_bytes(), &[64]).is_err(), "{bad:?}");
        }
        assert!(dechunk(format!("5;{}", "a".repeat(MAX_LINE)).as_bytes(), &[64]).is_err());
        assert!(
            dechunk(
                format!("0\r\n{}", "a: b\r\n".repeat(MAX_WASTE)).as_bytes(),
                &[4096]
            )
            .is_err()
        );
    }

    #[test]
    fn what_was_malformed_stays_so() {
        let (mut decoder, mut buffer) = (Decoder::chunked(), BytesMut::from("x\r\n0\r\n\r\n"));
        for _ in 0..2 {
            assert!(decoder.decode(&mut buffer).is_err());
            assert_eq!(decoder.left(), None);
        }
    }

    #[test]
    fn extensions_of_many_small_chunks_are_bounded_together() {
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1000));
        assert!(dechunk(chunk.repeat(10).as_bytes(), &[512]).is_ok());
        assert!(dechunk(chunk.repeat(20).as_bytes(), &[512]).is_err());
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
