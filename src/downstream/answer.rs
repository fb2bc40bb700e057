//! Writing an answer over HTTP/1.1: head and small body in one TLS record, large bodies straight
//! from where they were read to.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::{HeaderMap, Response, StatusCode};
use http_body::Body as _;

use super::date;
use super::wire::Wire;
use crate::pipeline::AnswerBody;
use crate::{buffers, fields};

/// How an answer is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// The client understands chunks.
    pub(super) http_1_1: bool,
    /// It answers a HEAD.
    pub(super) asked_head: bool,
    /// The connection may be used again.
    pub(super) persistent: bool,
    /// How much is kept of what the client sends meanwhile.
    pub(super) read_ahead: usize,
}

/// At least as much of a body is written before the clock is looked at.
const PIECE: usize = 32 << 10;
/// Smaller pieces are gathered to as much, larger ones pass as they are.
const RECORD: usize = 16 << 10;

thread_local! {
    /// A buffer that nobody uses now.
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// Writes an answer whole; `Ok(true)`: the connection may be used again. On an error it ends in the
/// middle, so that nobody takes it for whole.
pub(super) async fn write(
    wire: &Wire,
    response: &mut Response<AnswerBody>,
    manner: Manner,
) -> io::Result<bool> {
    let status = response.status();
    let bodiless = manner.asked_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = response.body().size_hint().exact();
    let chunked = !bodiless && length.is_none() && manner.http_1_1;
    // Without chunks only the end of the connection tells the end of such a body.
    let persistent = manner.persistent && (bodiless || length.is_some() || chunked);

    let mut out = SPARE.take();
    out.clear();
    let headers = std::mem::take(response.headers_mut());
    head_lines(&mut out, status, &headers);
    if chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    } else if !bodiless
        && let Some(length) = length
        && !headers.contains_key(CONTENT_LENGTH)
    {
        out.extend_from_slice(b"content-length: ");
        out.extend_from_slice(length.to_string().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !headers.contains_key(CONNECTION) {
        if !persistent {
            out.extend_from_slice(b"connection: close\r\n");
        } else if !manner.http_1_1 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
    fields::give_back(headers);

    let body = response.body_mut();
    let mut whole = bodiless || body.is_end_stream();
    let mut large = Bytes::new();
    // Since it was looked at.
    let mut given = 0;
    let written = poll_fn(|cx| {
        loop {
            if given >= PIECE {
                ready!(wire.poll_piece(cx));
                given = 0;
            }
            // For a client that does not take what was read nothing more is. Gather …
            ready!(wire.poll_flush(cx))?;
            let mut waits = false;
            while !whole && !waits && large.is_empty() && out.len() < RECORD {
                let data = match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                    Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                    Poll::Ready(Some(Err(broken))) => {
                        return Poll::Ready(Err(io::Error::other(broken)));
                    }
                    Poll::Ready(None) => Bytes::new(),
                };
                whole = data.is_empty() || !chunked && body.is_end_stream();
                if chunked {
                    let size = format!("{:x}\r\n", data.len());
                    out.extend_from_slice(size.as_bytes());
                }
                if data.len() < RECORD {
                    out.extend_from_slice(&data);
                    if chunked {
                        out.extend_from_slice(b"\r\n");
                    }
                } else {
                    large = data;
                }
            }
            // … and write.
            if large.is_empty() && out.is_empty() {
                ready!(wire.poll_flush(cx))?;
                if whole {
                    return Poll::Ready(Ok(()));
                }
                debug_assert!(waits);
                return wire
                    .poll_gone(cx, manner.read_ahead)
                    .map(|()| Err(io::ErrorKind::ConnectionAborted.into()));
            }
            while !out.is_empty() || !large.is_empty() {
                let mut n = ready!(wire.poll_write(cx, &out, &large))?;
                given += n;
                let of_out = n.min(out.len());
                out.advance(of_out);
                n -= of_out;
                if n > 0 {
                    large.advance(n);
                    if large.is_empty() {
                        buffers::give_back_of(&mut large);
                        if chunked {
                            out.extend_from_slice(b"\r\n");
                        }
                    }
                }
            }
        }
    })
    .await;
    if out.capacity() <= 2 * RECORD {
        SPARE.set(out);
    }
    written.map(|()| persistent)
}

fn head_lines(out: &mut BytesMut, status: StatusCode, headers: &HeaderMap) {
    out.reserve(1 << 10);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !headers.contains_key(DATE) {
        date::with(|date| {
            out.extend_from_slice(b"date: ");
            out.extend_from_slice(date.as_bytes());
            out.extend_from_slice(b"\r\n");
        });
    }
}
