//! The head of the request to the backend, written straight from the client's: hop-by-hop headers
//! left out (RFC 9110 section 7.6.1), forwarded headers set.
//!
//! What depends only on the configuration is one ready-made block for each host; a request adds
//! the client's address and its id. Managed headers are left out of what the client sent and then
//! written, so that no `Connection` line can name them away.

mod client;
mod kind;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use bytes::BytesMut;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue, Method};

pub use client::client_behind;
use client::{MOST_HOPS, hops};
use kind::{Kind, is_named, kind, named_by_connection};

/// Ready-made lines for one of our hosts.
#[derive(Clone, Debug)]
pub struct Forwarded {
    authority: Box<[u8]>,
    port: Box<[u8]>,
    /// `Host` and `X-Forwarded-Prefix`.
    always: Box<[u8]>,
    /// The lines above, `X-Forwarded-Host`, `-Proto` and `-Port`.
    all: Box<[u8]>,
}

impl Forwarded {
    /// For requests to `authority` (`host[:port]`), public `port` and base path (empty: the root).
    pub fn new(authority: &str, port: u16, base: &str) -> Self {
        let prefix = if base.is_empty() { "/" } else { base };
        let always = format!("host: {authority}\r\nx-forwarded-prefix: {prefix}\r\n");
        let all = format!(
            "{always}x-forwarded-host: {authority}\r\nx-forwarded-proto: https\r\nx-forwarded-port: {port}\r\n"
        );
        Self {
            authority: authority.as_bytes().into(),
            port: port.to_string().into_bytes().into(),
            always: always.into_bytes().into(),
            all: all.into_bytes().into(),
        }
    }
}

/// What the backend gets as `Authorization`.
#[derive(Clone, Copy)]
pub enum Authorization<'a> {
    /// What the client sent, of a page: the service may have logins of its own.
    Own,
    /// This, or none: of an API request, whose key was judged.
    Judged(Option<&'a [u8]>),
}

/// How the body travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// The trace that a request belongs to (W3C Trace Context).
pub struct TraceContext {
    /// `traceparent`, which names our own span.
    pub parent: [u8; 55],
    /// Whether the client's `tracestate` belongs to it.
    pub keeps_state: bool,
}

/// What the head to the backend is made of.
pub struct Outgoing<'a> {
    /// The client's method.
    pub method: &'a Method,
    /// The backend's base path and the rest of the canonical path.
    pub path: [&'a str; 2],
    /// The query, byte for byte.
    pub query: Option<&'a str>,
    /// The client's headers.
    pub headers: &'a HeaderMap,
    /// What becomes of `Authorization`.
    pub authorization: Authorization<'a>,
    /// Whether the value of a header is a key of the gateway: such a line of `Authorization` or
    /// `X-Api-Key` is left out. Asked only where there is one.
    pub is_key: &'a dyn Fn(&[u8]) -> bool,
    /// The lines for the host that was asked for.
    pub forwarded: &'a Forwarded,
    /// Address of the peer.
    pub peer: &'a str,
    /// Whether forwarded headers of the peer are believed.
    pub trusted: bool,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// The trace it belongs to; none: what the client says of one is passed on.
    pub trace: Option<&'a TraceContext>,
    /// How the body travels.
    pub framing: Framing,
    /// Whether this is a WebSocket handshake.
    pub upgrade: bool,
    /// Whether the answer must come uncompressed.
    pub identity: bool,
}

impl Outgoing<'_> {
    /// Writes the head, empty line included.
    pub fn write(&self, out: &mut BytesMut) {
        for part in [self.method.as_str(), " ", self.path[0], self.path[1]] {
            out.extend_from_slice(part.as_bytes());
        }
        if let Some(query) = self.query {
            out.extend_from_slice(b"?");
            out.extend_from_slice(query.as_bytes());
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let named = named_by_connection(self.headers);
        let mut cookies = 0;
        for (name, value) in self.headers {
            let passes = match kind(name.as_str()) {
                Kind::EndToEnd => !is_named(&named, name),
                Kind::AcceptEncoding => !self.identity && !is_named(&named, name),
                Kind::HopByHop | Kind::Written => false,
                Kind::Forwarding => self.trusted,
                Kind::TraceParent => self.trace.is_none() && !is_named(&named, name),
                Kind::TraceState => {
                    self.trace.is_none_or(|trace| trace.keeps_state) && !is_named(&named, name)
                }
                Kind::Authorization => {
                    matches!(self.authorization, Authorization::Own)
                        && !(self.is_key)(value.as_bytes())
                }
                Kind::ApiKey => !is_named(&named, name) && !(self.is_key)(value.as_bytes()),
                // HTTP/2 splits cookies into crumbs, HTTP/1.1 has one line (RFC 9113 section 8.2.3).
                Kind::Cookie => {
                    cookies += 1;
                    false
                }
            };
            if passes {
                line(out, name.as_str(), value.as_bytes());
            }
        }
        if cookies > 0 {
            out.extend_from_slice(b"cookie: ");
            for (i, crumb) in self.headers.get_all(COOKIE).iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b"; ");
                }
                out.extend_from_slice(crumb.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
        self.write_managed(out);
        out.extend_from_slice(b"\r\n");
    }

    fn write_managed(&self, out: &mut BytesMut) {
        let f = self.forwarded;
        out.extend_from_slice(b"x-forwarded-for: ");
        if self.trusted {
            let mut list = [""; MOST_HOPS];
            let mut kept = 0;
            for (slot, (hop, _)) in list.iter_mut().zip(hops(self.headers)) {
                *slot = hop;
                kept += 1;
            }
            for hop in list[..kept].iter().rev() {
                out.extend_from_slice(hop.as_bytes());
                out.extend_from_slice(b", ");
            }
        }
        out.extend_from_slice(self.peer.as_bytes());
        out.extend_from_slice(b"\r\n");
        if self.trusted {
            out.extend_from_slice(&f.always);
            for (name, ours) in [
                ("x-forwarded-host", &*f.authority),
                ("x-forwarded-proto", b"https"),
                ("x-forwarded-port", &*f.port),
            ] {
                if !self.headers.contains_key(name) {
                    line(out, name, ours);
                }
            }
        } else {
            out.extend_from_slice(&f.all);
        }
        if let Authorization::Judged(Some(key)) = self.authorization {
            line(out, "authorization", key);
        }
        line(out, "x-request-id", self.request_id.as_bytes());
        if let Some(trace) = self.trace {
            line(out, "traceparent", &trace.parent);
        }
        match self.framing {
            Framing::None => {}
            Framing::Length(length) => {
                // Writing to memory cannot fail.
                let _: std::fmt::Result = write!(out, "content-length: {length}\r\n");
            }
            Framing::Chunked => line(out, "transfer-encoding", b"chunked"),
        }
        if self.upgrade {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
    }
}

fn line(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
