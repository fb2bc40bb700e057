//! WebSocket frames by tungstenite, one by one, and tunnels that speak them: for tests that count
//! bytes, not messages.

use std::io::Cursor;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncReadExt;

use tokio_tungstenite::tungstenite::protocol::frame::{
    Frame, FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::{Backend, Conn, Gateway, Raw, until, within};

pub const CONTINUATION: OpCode = OpCode::Data(Data::Continue);
pub const TEXT: OpCode = OpCode::Data(Data::Text);
pub const BINARY: OpCode = OpCode::Data(Data::Binary);
pub const CLOSE: OpCode = OpCode::Control(Control::Close);
pub const PING: OpCode = OpCode::Control(Control::Ping);
pub const PONG: OpCode = OpCode::Control(Control::Pong);

/// Who sends it: a client's frames are masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Client,
    Server,
}

/// One frame as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub opcode: OpCode,
    pub fin: bool,
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl Read {
    /// The code of a Close frame; 0: it has none.
    pub fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk().copied();
        (self.opcode == CLOSE).then(|| code.map_or(0, u16::from_be_bytes))
    }
}

/// A frame as bytes.
pub fn frame(from: From, opcode: OpCode, fin: bool, payload: impl Into<Vec<u8>>) -> Vec<u8> {
    let header = FrameHeader {
        is_final: fin,
        opcode,
        mask: (from == From::Client).then(|| fastrand::u32(..).to_ne_bytes()),
        ..FrameHeader::default()
    };
    let mut bytes = Vec::new();
    Frame::from_payload(header, payload.into().into())
        .format(&mut bytes)
        .unwrap();
    bytes
}

/// A Close frame; code 0: without one.
pub fn close(from: From, code: u16) -> Vec<u8> {
    let payload = if code == 0 {
        Vec::new()
    } else {
        code.to_be_bytes().to_vec()
    };
    frame(from, CLOSE, true, payload)
}

/// What comes, as frames.
#[derive(Clone, Default)]
pub struct Reader {
    /// Whole frames so far.
    pub frames: Vec<Read>,
    /// What came of the next one.
    pub rest: Vec<u8>,
}

impl Reader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(frame) = self.next() {
            self.frames.push(frame);
        }
    }

    /// The code of the last frame, if that is a Close frame.
    pub fn close_code(&self) -> Option<u16> {
        self.frames.last()?.close_code()
    }

    fn next(&mut self) -> Option<Read> {
        let mut cursor = Cursor::new(&self.rest);
        let (header, length) = FrameHeader::parse(&mut cursor).unwrap()?;
        let (begin, length) = (cursor.position() as usize, length as usize);
        let mut payload = self.rest.get(begin..begin + length)?.to_vec();
        self.rest.drain(..begin + length);
        if let Some(mask) = header.mask {
            for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
                *byte ^= mask;
            }
        }
        Some(Read {
            opcode: header.opcode,
            fin: header.is_final,
            masked: header.mask.is_some(),
            payload,
        })
    }
}

pub const SOCKET: &str = "/cobrowsing/visitor/socket";

/// A raw connection after its 101.
pub async fn tunnel(gateway: &Gateway) -> Raw {
    let mut raw = Raw::connect(gateway).await;
    let handshake = format!(
        "GET {SOCKET} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    assert_eq!(raw.call(handshake).await.status, 101);
    raw
}

/// The series of tunnels that ended like this.
pub fn closed(by: &str, class: &str) -> String {
    format!("gateway_websocket_closed_total{{by=\"{by}\",code_class=\"{class}\"}}")
}

/// Reads on until the other side's Close frame is there, answers it, and reads to the end.
pub fn close_when_told(conn: &mut Conn) -> Reader {
    let mut heard = Reader::default();
    while heard.close_code().is_none() {
        let Some(bytes) = conn.read() else {
            return heard;
        };
        heard.push(&bytes);
    }
    conn.say(&close(From::Server, heard.close_code().unwrap_or(0)));
    conn.stream.shutdown(std::net::Shutdown::Write).ok();
    heard.push(&conn.read_to_end());
    heard
}

/// A backend that only answers the Close; what each of its connections heard.
pub fn quiet_backend() -> (Backend, Arc<Mutex<Vec<Reader>>>) {
    let heard = Arc::<Mutex<Vec<Reader>>>::default();
    let keep = Arc::clone(&heard);
    let backend = Backend::upgrades(move |conn| keep.lock().unwrap().push(close_when_told(conn)));
    (backend, heard)
}

/// What so many connections of a backend heard, once they have ended.
pub async fn heard_by(backend: &Mutex<Vec<Reader>>, connections: usize) -> Vec<Reader> {
    until("the backend's connections have ended", || {
        backend.lock().unwrap().len() >= connections
    })
    .await;
    let heard = backend.lock().unwrap().clone();
    assert!(
        heard.iter().all(|heard| heard.rest.is_empty()),
        "half a frame"
    );
    heard
}

/// Reads until a Close frame is there, answers it, and reads to the end of the connection, which
/// must be one that was said in TLS.
pub async fn end_well(mut raw: Raw) -> Reader {
    let mut heard = Reader::default();
    heard.push(&std::mem::take(&mut raw.buffer));
    while heard.close_code().is_none() {
        assert!(raw.fill().await, "closed without a Close");
        heard.push(&std::mem::take(&mut raw.buffer));
    }
    raw.say(close(From::Client, heard.close_code().unwrap()))
        .await;
    let mut more = Vec::new();
    let end = within(raw.stream.read_to_end(&mut more)).await;
    assert_eq!(end.expect("a farewell of TLS"), 0, "after the Close");
    assert_eq!(heard.rest, b"", "after the Close");
    heard
}
