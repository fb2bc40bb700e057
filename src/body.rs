//! The one response-body type: it streams, counts, and knows when it ended.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

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
