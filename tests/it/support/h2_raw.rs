//! HTTP/2 by the frame (RFC 9113): whatever bytes a test wants, and what comes back, told apart.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Gateway, TlsStreamOf, tls, within};

/// Frame types.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const PADDED: u8 = 8;

/// Error codes.
pub const NO_ERROR: u32 = 0;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A header field: any bytes.
pub type Field<'f> = (&'f [u8], &'f [u8]);

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HEADERS with a whole block.
pub fn headers(stream: u32, end_stream: bool, block: &[u8]) -> Vec<u8> {
    let end = if end_stream { END_STREAM } else { 0 };
    frame(kind::HEADERS, END_HEADERS | end, stream, block)
}

pub fn data(stream: u32, end_stream: bool, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, u8::from(end_stream), stream, bytes)
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in values {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(kind::SETTINGS, 0, 0, &payload)
}

pub fn ping(number: u64) -> Vec<u8> {
    frame(kind::PING, 0, 0, &number.to_be_bytes())
}

/// Fields as HPACK literals without indexing and without Huffman coding (RFC 7541 section 6.2.2).
pub fn block(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(&mut out, name);
        string(&mut out, value);
    }
    out
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    integer(out, 0, 7, bytes.len());
    out.extend_from_slice(bytes);
}

/// RFC 7541 section 5.1.
pub fn integer(out: &mut Vec<u8>, pattern: u8, prefix: u8, value: usize) {
    let most = (1 << prefix) - 1;
    if value < most {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        out.push(rest as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// The head of a GET.
pub fn get<'f>(path: &'f [u8], more: &[Field<'f>]) -> Vec<Field<'f>> {
    request(b"GET", path, more)
}

pub fn request<'f>(method: &'f [u8], path: &'f [u8], more: &[Field<'f>]) -> Vec<Field<'f>> {
    let mut fields: Vec<Field> = vec![
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", path),
    ];
    fields.extend_from_slice(more);
    fields
}

/// What came back on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An answer, whole.
    Status(u16, Vec<u8>),
    /// RST_STREAM before an answer was whole.
    Reset(u32),
    /// GOAWAY that says an error, or an end.
    GoAway(u32),
    /// The connection ended without either.
    Closed,
}

impl Answer {
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status, _) => Some(*status),
            _ => None,
        }
    }
}

/// A frame that came.
#[derive(Clone, Debug)]
pub struct Came {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// One connection.
pub struct H2 {
    stream: TlsStreamOf,
    buffer: Vec<u8>,
    came: VecDeque<Came>,
    next: u32,
    /// The code of a GOAWAY that came.
    pub goaway: Option<u32>,
    /// Whether what came is answered for: SETTINGS and PING acknowledged, windows opened.
    pub polite: bool,
}

impl H2 {
    /// With its settings sent.
    pub async fn connect(gateway: &Gateway) -> Self {
        Self::with(gateway, &[]).await
    }

    /// With more settings.
    pub async fn with(gateway: &Gateway, more: &[(u16, u32)]) -> Self {
        let stream = tls(gateway, &["h2"], rustls::DEFAULT_VERSIONS)
            .await
            .unwrap();
        let mut this = Self {
            stream,
            buffer: Vec::new(),
            came: VecDeque::new(),
            next: 1,
            goaway: None,
            polite: true,
        };
        // No dynamic table: each answer is read by itself.
        let mut all = vec![(1, 0)];
        all.extend_from_slice(more);
        let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*settings(&all)].concat();
        assert!(this.say(&preface).await);
        this
    }

    /// Makes the room for what comes and is not read small.
    pub fn shrink(&self) {
        let socket = socket2::SockRef::from(self.stream.get_ref().0);
        socket.set_recv_buffer_size(64 << 10).unwrap();
    }

    /// The id of the next stream.
    pub fn stream(&mut self) -> u32 {
        let id = self.next;
        self.next += 2;
        id
    }

    /// Writes all of it while taking what comes; `false`: the other side takes no more.
    pub async fn say(&mut self, bytes: &[u8]) -> bool {
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let buffer = &mut self.buffer;
        let write = async {
            writer.write_all(bytes).await?;
            writer.flush().await
        };
        let read = async { while reader.read_buf(buffer).await.unwrap_or(0) > 0 {} };
        let took = within(async {
            tokio::select! {
                biased;
                wrote = write => wrote.is_ok(),
                () = read => false,
            }
        });
        took.await
    }

    /// Writes as much as the other side takes without reading anything; how much that was.
    pub async fn force(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            let end = bytes.len().min(written + (16 << 10));
            let write = self.stream.write(&bytes[written..end]);
            // What is not taken for so long is not taken at all.
            match tokio::time::timeout(Duration::from_millis(300), write).await {
                Ok(Ok(n)) => written += n,
                _ => break,
            }
        }
        let flush = self.stream.flush();
        drop(tokio::time::timeout(Duration::from_millis(300), flush).await);
        written
    }

    /// The next frame; `None`: the end.
    pub async fn frame(&mut self) -> Option<Came> {
        let came = match self.came.pop_front() {
            Some(came) => came,
            None => self.read_frame().await?,
        };
        Some(came)
    }

    async fn read_frame(&mut self) -> Option<Came> {
        while !self.is_whole() {
            let read = within(self.stream.read_buf(&mut self.buffer)).await;
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
        let length = self.length();
        let bytes: Vec<u8> = self.buffer.drain(..9 + length).collect();
        let came = Came {
            kind: bytes[3],
            flags: bytes[4],
            stream: u32::from_be_bytes(bytes[5..9].try_into().unwrap()) & !(1 << 31),
            payload: bytes[9..].to_vec(),
        };
        if came.kind == kind::GOAWAY {
            self.goaway = Some(u32::from_be_bytes(came.payload[4..8].try_into().unwrap()));
        }
        if self.polite {
            self.acknowledge(&came).await;
        }
        Some(came)
    }

    async fn acknowledge(&mut self, came: &Came) {
        let answer = match came.kind {
            kind::SETTINGS if came.flags & ACK == 0 => frame(kind::SETTINGS, ACK, 0, &[]),
            kind::PING if came.flags & ACK == 0 => frame(kind::PING, ACK, 0, &came.payload),
            kind::DATA if !came.payload.is_empty() => {
                let by = u32::try_from(came.payload.len()).unwrap();
                let mut both = window_update(0, by);
                if came.flags & END_STREAM == 0 {
                    both.extend(window_update(came.stream, by));
                }
                both
            }
            _ => return,
        };
        self.say(&answer).await;
    }

    fn length(&self) -> usize {
        let b = &self.buffer;
        usize::from(b[0]) << 16 | usize::from(b[1]) << 8 | usize::from(b[2])
    }

    fn is_whole(&self) -> bool {
        self.buffer.len() >= 9 && self.buffer.len() >= 9 + self.length()
    }

    /// What becomes of a stream. Frames of other streams are kept for their turn.
    pub async fn answer(&mut self, stream: u32) -> Answer {
        let (mut status, mut body) = (None, Vec::new());
        let mut others = std::mem::take(&mut self.came);
        let answer = loop {
            let at = others
                .iter()
                .position(|f| f.stream == stream || f.kind == kind::GOAWAY);
            let came = match at.and_then(|at| others.remove(at)) {
                Some(came) => came,
                None => match self.read_frame().await {
                    Some(came) => came,
                    None => break self.goaway.map_or(Answer::Closed, Answer::GoAway),
                },
            };
            match came.kind {
                kind::GOAWAY if self.goaway != Some(NO_ERROR) => {
                    break Answer::GoAway(self.goaway.unwrap_or_default());
                }
                kind::RST_STREAM if came.stream == stream => {
                    break Answer::Reset(u32::from_be_bytes(came.payload[..4].try_into().unwrap()));
                }
                kind::HEADERS if came.stream == stream => {
                    assert_eq!(came.flags & (END_HEADERS | PADDED), END_HEADERS);
                    // Trailers have no status.
                    status = status.or_else(|| Some(status_of(&came.payload)));
                }
                kind::DATA if came.stream == stream => body.extend_from_slice(&came.payload),
                _ => {
                    if came.stream != 0 {
                        others.push_back(came);
                    }
                    continue;
                }
            }
            if came.flags & END_STREAM != 0
                && let Some(status) = status
            {
                break Answer::Status(status, body);
            }
        };
        self.came = others;
        answer
    }

    /// Sends a request without a body and reads what becomes of it.
    pub async fn call(&mut self, fields: &[Field<'_>]) -> Answer {
        let stream = self.stream();
        // A closed connection shows in the answer.
        self.say(&headers(stream, true, &block(fields))).await;
        self.answer(stream).await
    }

    /// Begins a POST whose body is to come; its stream.
    pub async fn upload(&mut self, path: &[u8]) -> u32 {
        let stream = self.stream();
        let head = block(&request(b"POST", path, &[]));
        assert!(self.say(&headers(stream, false, &head)).await);
        stream
    }

    /// Waits for the answer to a PING: all that was said before it has been looked at. `false`:
    /// the connection ended instead.
    pub async fn has_been_heard(&mut self) -> bool {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1 << 32);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.say(&ping(number)).await;
        loop {
            match self.read_frame().await {
                None => return false,
                Some(came) if came.kind == kind::PING && came.payload == number.to_be_bytes() => {
                    return true;
                }
                Some(came) => self.came.push_back(came),
            }
        }
    }

    /// The code with which the connection is ended; `None`: without one.
    pub async fn ending(&mut self) -> Option<u32> {
        while self.frame().await.is_some() {}
        self.goaway
    }
}

/// The status in a block that was made without a dynamic table.
fn status_of(block: &[u8]) -> u16 {
    let mut at = 0;
    while block[at] >> 5 == 1 {
        // A change of the table's size.
        at += 1 + usize::from(block[at] & 31 == 31);
    }
    let field = block[at];
    if field & 128 != 0 {
        return [200, 204, 206, 304, 400, 404, 500][usize::from(field & 127) - 8];
    }
    // A literal with the name `:status`, whose indices are 8 to 14.
    let index = if field & 64 != 0 {
        field & 63
    } else {
        field & 15
    };
    assert!((8..=14).contains(&index), "no status first: {block:?}");
    let length = usize::from(block[at + 1] & 127);
    let value = &block[at + 2..at + 2 + length];
    if block[at + 1] & 128 == 0 {
        return std::str::from_utf8(value).unwrap().parse().unwrap();
    }
    // Huffman codes of digits: five bits for 0 to 2, six for 3 to 9 (RFC 7541 appendix B).
    let bits = value
        .iter()
        .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
    let (mut left, mut status) = (8 * length, 0);
    for _ in 0..3 {
        let five = bits >> (left - 5) & 31;
        if five < 3 {
            left -= 5;
            status = status * 10 + five;
        } else {
            left -= 6;
            status = status * 10 + (bits >> left & 63) - 0b01_1001 + 3;
        }
    }
    u16::try_from(status).unwrap()
}

#[test]
fn the_status_of_an_answer_is_read_in_each_coding() {
    for (block, status) in [
        (&[0x88][..], 200),
        (&[0x20, 0x8d], 404),
        (&[0x48, 3, b'4', b'2', b'1'], 421),
        // RFC 7541 appendix C.6.
        (&[0x48, 0x82, 0x64, 0x02], 302),
        (&[0x48, 0x83, 0x64, 0x0e, 0xff], 307),
        (&[0x08, 0x82, 0x68, 0x01], 401),
    ] {
        assert_eq!(status_of(block), status, "{block:x?}");
    }
}
