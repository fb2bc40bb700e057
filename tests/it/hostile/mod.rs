//! What clients and backends do on purpose. Tables of attacks, each sent in every way there is, and
//! the proof that what is honest and looks like them still passes.

mod answers;
mod framing;
mod headers;
mod http2;
mod keys;
mod logs;
mod paths;

use super::support::h2_raw::{Answer, Field, H2, request};
use super::support::{Backend, Gateway, KEY, Raw, Reply};

/// What makes a request over HTTP/1.1 a WebSocket handshake.
const HANDSHAKE: &[u8] = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    H1,
    H2,
    /// As WebSocket handshake.
    Upgrade,
}

impl Way {
    const ALL: [Self; 3] = [Self::H1, Self::H2, Self::Upgrade];
}

/// A request, any byte of it.
#[derive(Clone, Copy, Debug)]
struct Sent<'s> {
    method: &'s [u8],
    target: &'s [u8],
    /// `Host`, or `:authority`.
    host: &'s [u8],
    fields: &'s [Field<'s>],
}

/// A GET to our host.
fn get<'s>(target: &'s [u8], fields: &'s [Field<'s>]) -> Sent<'s> {
    Sent {
        method: b"GET",
        target,
        host: b"localhost",
        fields,
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    /// None: the stream was reset, or the connection closed without an answer.
    status: Option<u16>,
    body: String,
    location: Option<String>,
}

impl Outcome {
    /// Whether it is a refusal with this status; where there is a body, with this code.
    fn refuses(&self, status: u16, code: &str) -> bool {
        let named = self.body.is_empty() || self.body.contains(code);
        self.status == Some(status) && named
    }

    fn nothing() -> Self {
        Self {
            status: None,
            body: String::new(),
            location: None,
        }
    }
}

/// A head over HTTP/1.1.
fn head(sent: &Sent, more: &[u8]) -> Vec<u8> {
    let mut head = [
        sent.method,
        b" ",
        sent.target,
        b" HTTP/1.1\r\nhost: ",
        sent.host,
        b"\r\n",
        more,
    ]
    .concat();
    for (name, value) in sent.fields {
        head.extend([name, &b": "[..], value, b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    head
}

/// Sends a request on a connection of its own.
async fn send(gateway: &Gateway, way: Way, sent: &Sent<'_>) -> Outcome {
    let upgrade = match way {
        Way::H1 => &b""[..],
        Way::Upgrade => HANDSHAKE,
        Way::H2 => {
            let mut fields = request(sent.method, sent.target, sent.fields);
            fields[2].1 = sent.host;
            if sent.method == b"CONNECT" {
                fields.retain(|(name, _)| *name != b":scheme" && *name != b":path");
            }
            let answer = H2::connect(gateway).await.call(&fields).await;
            let Answer::Status(status, body) = answer else {
                return Outcome::nothing();
            };
            return Outcome {
                status: Some(status),
                body: String::from_utf8_lossy(&body).into_owned(),
                location: None,
            };
        }
    };
    let mut raw = Raw::connect(gateway).await;
    raw.say(head(sent, upgrade)).await;
    match first_of(&mut raw).await {
        None => Outcome::nothing(),
        Some(reply) => Outcome {
            status: Some(reply.status.as_u16()),
            location: reply.header("location").map(str::to_owned),
            body: reply.text(),
        },
    }
}

/// The next answer; `None`: the connection was closed instead.
async fn first_of(raw: &mut Raw) -> Option<Reply> {
    while raw.buffer.is_empty() {
        if !raw.fill().await {
            return None;
        }
    }
    Some(raw.answer().await)
}

/// Counts what a backend gets.
struct Watch<'b> {
    backend: &'b Backend,
    requests: usize,
    bytes: usize,
}

impl<'b> Watch<'b> {
    fn new(backend: &'b Backend) -> Self {
        Self {
            backend,
            requests: backend.requests().len(),
            bytes: backend.bytes().len(),
        }
    }

    /// Not a byte more came.
    fn nothing_came(&mut self) -> Held {
        let came = self.backend.bytes();
        let new = came[self.bytes..].escape_ascii().to_string();
        *self = Self::new(self.backend);
        if new.is_empty() {
            return Ok(());
        }
        Err(format!("came upstream: {new}"))
    }

    /// Not a request more came whole.
    fn no_request_came(&mut self) -> Held {
        let new = self.backend.requests().split_off(self.requests);
        *self = Self::new(self.backend);
        so(new.is_empty(), || format!("came upstream: {new:?}"))
    }

    /// One request more came, with this target.
    fn one_came_as(&mut self, target: &str) -> Held {
        let requests = self.backend.requests();
        let new: Vec<_> = requests[self.requests..]
            .iter()
            .map(|r| &*r.target)
            .collect();
        let held = so(new == [target], || format!("{new:?} came upstream"));
        *self = Self::new(self.backend);
        held
    }
}

/// Whether a case is held, or what was seen instead.
type Held = Result<(), String>;

fn so(is_so: bool, what: impl FnOnce() -> String) -> Held {
    if is_so { Ok(()) } else { Err(what()) }
}

/// Cases that were not held: all of them are told at the end.
#[derive(Default)]
struct Broken(Vec<String>);

impl Broken {
    fn note(&mut self, case: impl FnOnce() -> String, held: Held) {
        if let Err(seen) = held {
            self.0.push(format!("{}: {seen}", case()));
        }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{:#?}", self.0);
        }
    }
}

/// A name for a case.
fn show(number: &str, way: Way, sent: &Sent) -> String {
    let text = format!(
        "{number} {way:?} {} {} {}",
        sent.method.escape_ascii(),
        sent.target.escape_ascii(),
        sent.host.escape_ascii(),
    );
    text.chars().take(120).collect()
}

/// The key as a header.
const WITH_KEY: Field = (b"authorization", KEY.as_bytes());
