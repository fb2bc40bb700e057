//! The one type for bodies of requests, wherever they come from, and the one for bodies of answers:
//! that one streams, counts, and knows when it ended.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// A request's body.
pub enum Inbound {
    /// There is none.
    None,
    /// It comes on the client's connection.
    Stream(Rc<dyn Wire>),
}

/// Where one request's body comes from.
pub trait Wire {
    /// The next piece; trailers are dropped.
    fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Unfinished>>>;
    /// Bytes that are left, where that is known.
    fn left(&self) -> Option<u64>;
}

/// The client broke its body off, or sent it malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished;

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's body broke off or is malformed")
    }
}

impl std::error::Error for Unfinished {}

impl HttpBody for Inbound {
    type Data = Bytes;
    type Error = Unfinished;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unfinished>>> {
        match self.get_mut() {
            Self::None => Poll::Ready(None),
            Self::Stream(wire) => wire
                .poll_body(cx)
                .map(|piece| piece.map(|data| data.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Stream(wire) => wire.left() == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Stream(wire) => wire
                .left()
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// Told once when a body is over.
pub trait End {
    /// `sent` bytes of the body were handed on; `complete` says whether that was all of it.
    fn ended(self, sent: u64, complete: bool);
}

/// A body in memory, or one that streams from `S`; `E` learns when it ended.
pub struct Body<S: HttpBody<Data = Bytes> + Unpin, E: End + Unpin> {
    source: Source<S>,
    end: Option<E>,
    sent: u64,
}

enum Source<S> {
    Full(Bytes),
    Stream(S),
}

impl<S: HttpBody<Data = Bytes> + Unpin, E: End + Unpin> Body<S, E> {
    /// A body in memory, maybe empty.
    pub fn full(bytes: Bytes, end: Option<E>) -> Self {
        Self {
            source: Source::Full(bytes),
            end,
            sent: 0,
        }
    }

    /// A body that streams.
    pub fn stream(stream: S, end: E) -> Self {
        Self {
            source: Source::Stream(stream),
            end: Some(end),
            sent: 0,
        }
    }

    fn finish(&mut self, complete: bool) {
        if let Some(end) = self.end.take() {
            end.ended(self.sent, complete);
        }
    }
}

impl<S: HttpBody<Data = Bytes> + Unpin, E: End + Unpin> HttpBody for Body<S, E> {
    type Data = Bytes;
    type Error = S::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, S::Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::Full(bytes) if bytes.is_empty() => None,
            Source::Full(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Source::Stream(stream) => ready!(Pin::new(stream).poll_frame(cx)),
        };
        match &frame {
            Some(Ok(frame)) => {
                this.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                // A server does not ask again after the last announced byte.
                if this.is_end_stream() {
                    this.finish(true);
                }
            }
            Some(Err(_)) => this.finish(false),
            None => this.finish(true),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Full(bytes) => bytes.is_empty(),
            Source::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Stream(stream) => stream.size_hint(),
        }
    }
}

impl<S: HttpBody<Data = Bytes> + Unpin, E: End + Unpin> Drop for Body<S, E> {
    fn drop(&mut self) {
        // An empty body, as after HEAD, is never asked for: dropping it whole is its end.
        self.finish(self.is_end_stream());
    }
}
