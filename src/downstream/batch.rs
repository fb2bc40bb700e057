//! HTTP/2 frames of many streams in one TLS record.
//!
//! The framing library hands each DATA frame to the socket by itself. This buffer above TLS takes
//! them, and what it holds is written when the connection has been polled: one record and one
//! system call for all answers that were ready. Large writes pass straight through, and while a
//! flush is blocked so is the writer, so that backpressure stays. What is read is looked at, and after
//! a flood nothing more is read.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::{Frames, calm_down};
use super::turn::Turns;

const CAPACITY: usize = 16 << 10;
/// What is read at a time, except of a frame that is larger. The framing library begins all requests of
/// what it has read before anybody can stop it, and a request may be a dozen bytes.
const FEW: usize = 1 << 10;

struct Inner<S> {
    stream: S,
    buffer: BytesMut,
    /// The stream would not take all of the buffer.
    blocked: bool,
    frames: Frames,
    turns: Rc<Turns>,
    said_farewell: bool,
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            ready!(self.turns.poll_enough(cx));
            match Pin::new(&mut self.stream).poll_write(cx, &self.buffer) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.buffer.advance(n),
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    self.blocked = true;
                    return Poll::Pending;
                }
            }
        }
        self.blocked = false;
        // An idle connection holds no buffer.
        self.buffer = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

/// The half that the HTTP/2 connection writes to.
pub(super) struct Batched<S>(Rc<RefCell<Inner<S>>>);

/// The half that writes the batch.
pub(super) struct Flusher<S>(Rc<RefCell<Inner<S>>>);

/// Splits `stream` into the two; it may bring so many control frames a second, and be read and written
/// for one of the connection's `turns` at a time.
pub(super) fn batched<S>(
    stream: S,
    control_frames: u32,
    turns: Rc<Turns>,
) -> (Batched<S>, Flusher<S>) {
    let inner = Rc::new(RefCell::new(Inner {
        stream,
        buffer: BytesMut::new(),
        blocked: false,
        frames: Frames::new(control_frames),
        turns,
        said_farewell: false,
    }));
    (Batched(Rc::clone(&inner)), Flusher(inner))
}

impl<S: AsyncWrite + Unpin> Flusher<S> {
    /// To be called after each poll of the connection.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.stream).poll_flush(cx)
    }

    /// Whether the client sent more control frames than it may.
    pub(super) fn flooded(&self) -> bool {
        self.0.borrow().frames.flooded()
    }

    /// Since when the head of a request is half there.
    pub(super) fn half_head_since(&self) -> Option<Instant> {
        self.0.borrow().frames.half_head_since()
    }

    /// Tells the client to calm down, and that nothing more will come. For when the connection's half
    /// is not used any more.
    pub(super) fn poll_farewell(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if !std::mem::replace(&mut inner.said_farewell, true) {
            let word = calm_down(inner.frames.newest());
            inner.buffer.extend_from_slice(&word);
        }
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }

    /// The stream, once the connection's half is gone.
    pub(super) fn into_stream(self) -> Option<S> {
        Some(Rc::into_inner(self.0)?.into_inner().stream)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Batched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.frames.flooded() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        ready!(inner.turns.poll_enough(cx));
        let before = out.filled().len();
        let stream = Pin::new(&mut inner.stream);
        if inner.frames.left() > FEW {
            ready!(stream.poll_read(cx, out))?;
        } else {
            let few = out.initialize_unfilled_to(FEW.min(out.remaining()));
            let mut few = ReadBuf::new(few);
            ready!(stream.poll_read(cx, &mut few))?;
            let n = few.filled().len();
            out.advance(n);
        }
        let came = &out.filled()[before..];
        if !came.is_empty() {
            inner.frames.saw(came, Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Batched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.blocked || inner.buffer.len() + data.len() > CAPACITY {
            ready!(inner.poll_drain(cx))?;
        }
        if data.len() > CAPACITY {
            return Pin::new(&mut inner.stream).poll_write(cx, data);
        }
        inner.buffer.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|s| s.len()).sum();
        let inner = &mut *self.0.borrow_mut();
        if inner.blocked || inner.buffer.len() + total > CAPACITY {
            ready!(inner.poll_drain(cx))?;
        }
        if total > CAPACITY {
            return Pin::new(&mut inner.stream).poll_write_vectored(cx, slices);
        }
        for slice in slices {
            inner.buffer.extend_from_slice(slice);
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.blocked {
            inner.poll_drain(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::turn::Queue;
    use super::*;

    #[tokio::test]
    async fn small_writes_wait_for_the_flusher_and_arrive_in_order() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut batched, flusher) = batched(near, 100, Turns::new(Queue::default()));
        batched.write_all(b"one ").await.unwrap();
        batched.flush().await.unwrap();
        batched.write_all(b"two").await.unwrap();
        let mut got = [0; 7];
        assert!(
            poll_fn(|cx| Poll::Ready(
                Pin::new(&mut far).poll_read(cx, &mut ReadBuf::new(&mut got))
            ))
            .await
            .is_pending()
        );
        poll_fn(|cx| flusher.poll_flush(cx)).await.unwrap();
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"one two");
    }

    #[tokio::test]
    async fn a_blocked_flush_blocks_the_writer_and_nothing_is_lost() {
        let (near, mut far) = tokio::io::duplex(8);
        let (mut batched, flusher) = batched(near, 100, Turns::new(Queue::default()));
        batched.write_all(b"0123456789abcdef").await.unwrap();
        assert!(
            poll_fn(|cx| Poll::Ready(flusher.poll_flush(cx)))
                .await
                .is_pending()
        );
        assert!(
            poll_fn(|cx| Poll::Ready(Pin::new(&mut batched).poll_write(cx, b"more")))
                .await
                .is_pending()
        );
        let mut got = [0; 16];
        let (read, flushed) = tokio::join!(
            far.read_exact(&mut got),
            poll_fn(|cx| flusher.poll_flush(cx))
        );
        read.unwrap();
        flushed.unwrap();
        assert_eq!(&got, b"0123456789abcdef");
    }

    #[tokio::test]
    async fn large_writes_follow_what_was_held() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut batched, _flusher) = batched(near, 100, Turns::new(Queue::default()));
        batched.write_all(b"first").await.unwrap();
        batched.write_all(&vec![b'x'; CAPACITY + 1]).await.unwrap();
        let mut got = vec![0; 5 + CAPACITY + 1];
        far.read_exact(&mut got).await.unwrap();
        assert!(got.starts_with(b"firstx"));
    }
}
