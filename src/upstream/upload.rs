//! What goes to the backend: a head that is already bytes, and maybe a body that streams.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body as _;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::Failure;
use crate::body::Inbound;

/// The body of a client's request.
pub struct Upload {
    body: Inbound,
    chunked: bool,
    /// Bytes that may still come.
    allowance: Option<u64>,
    /// Longest wait for its next bytes.
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    /// `chunked`: the length is not known. `limit`: the most bytes that are sent on. `patience`:
    /// the longest wait for the next bytes, or, of a body under a limit, for all of it.
    pub fn new(body: Inbound, chunked: bool, limit: Option<u64>, patience: Duration) -> Self {
        Self {
            body,
            chunked,
            allowance: limit,
            patience,
            timer: None,
        }
    }

    /// The next frame. A timer only for clients that let us wait.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<http_body::Frame<Bytes>>, Failure>> {
        let patience = self.patience;
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                if self.allowance.is_none()
                    && let Some(timer) = &mut self.timer
                {
                    timer.as_mut().reset(Instant::now() + patience);
                }
                Poll::Ready(
                    frame
                        .transpose()
                        .map_err(|_unfinished| Failure::ClientBroken),
                )
            }
            Poll::Pending => {
                let timer = self
                    .timer
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                timer.as_mut().poll(cx).map(|()| Err(Failure::ClientSlow))
            }
        }
    }
}

/// A request being sent.
pub(super) struct Outgoing {
    head: Bytes,
    /// Unsent parts, in order: head, chunk size, data, end of chunk.
    parts: [Bytes; 4],
    body: Option<Upload>,
    had_body: bool,
    /// Whether the last thing waited for was the client.
    waits_for_client: bool,
    /// Bytes of it that the kernel has taken.
    pub(super) written: u64,
    /// Bytes of the client's body so far.
    pub(super) received: u64,
}

impl Outgoing {
    pub(super) fn new(head: Bytes, body: Option<Upload>) -> Self {
        let parts = [head.clone(), Bytes::new(), Bytes::new(), Bytes::new()];
        Self {
            head,
            parts,
            had_body: body.is_some(),
            body,
            waits_for_client: false,
            written: 0,
            received: 0,
        }
    }

    /// Waits for the first bytes of the body, so that they travel with the head, and a slow client
    /// holds no connection to the backend.
    pub(super) async fn prefetch(&mut self) -> Result<(), Failure> {
        poll_fn(|cx| self.poll_body(cx)).await?;
        if self.had_body {
            self.gather();
        }
        Ok(())
    }

    /// Makes what is small one part: sending one takes the kernel less time than sending several.
    fn gather(&mut self) {
        let length = self.parts.iter().map(Bytes::len).sum();
        if length <= SMALL {
            let mut whole = BytesMut::with_capacity(length);
            for part in &mut self.parts {
                whole.extend_from_slice(&std::mem::take(part));
            }
            self.parts[0] = whole.freeze();
        }
    }

    /// Whether all of it is there.
    pub(super) fn is_whole(&self) -> bool {
        self.body.is_none()
    }

    /// Makes it ready to be sent again from its beginning; `false`: that must not be.
    pub(super) fn rewind(&mut self, safe: bool) -> bool {
        if self.written == 0 {
            return true;
        }
        if self.had_body || !safe {
            return false;
        }
        self.parts[0] = self.head.clone();
        self.written = 0;
        true
    }

    pub(super) fn waits_for_client(&self) -> bool {
        self.waits_for_client
    }

    /// Sends until all is sent.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
    ) -> Poll<Result<(), Failure>> {
        loop {
            self.waits_for_client = false;
            while self.parts.iter().any(|part| !part.is_empty()) {
                let n = ready!(self.poll_write(cx, stream))
                    .map_err(|_io| Failure::Broken("the backend took no more of the request"))?;
                self.advance(n);
            }
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
            self.waits_for_client = true;
            ready!(self.poll_body(cx))?;
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, stream: &mut TcpStream) -> Poll<io::Result<usize>> {
        let mut full = self.parts.iter().filter(|part| !part.is_empty());
        let n = if let (Some(only), None) = (full.next(), full.next()) {
            ready!(Pin::new(stream).poll_write(cx, only))?
        } else {
            let slices = self.parts.each_ref().map(|part| IoSlice::new(part));
            ready!(Pin::new(stream).poll_write_vectored(cx, &slices))?
        };
        Poll::Ready(if n == 0 {
            Err(io::ErrorKind::WriteZero.into())
        } else {
            Ok(n)
        })
    }

    fn advance(&mut self, mut n: usize) {
        self.written += n as u64;
        for part in &mut self.parts {
            let step = n.min(part.len());
            part.advance(step);
            n -= step;
        }
    }

    /// Takes what is there of the body; at its end `body` is gone.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Some(upload) = &mut self.body else {
            return Poll::Ready(Ok(()));
        };
        let mut taken = Bytes::new();
        let mut ended = false;
        while taken.len() < SMALL {
            let data = match upload.poll_frame(cx) {
                // Trailers are dropped: nothing of them may be merged into the head.
                Poll::Ready(frame) => match frame?.map(http_body::Frame::into_data) {
                    Some(Ok(data)) => data,
                    Some(Err(_trailers)) => continue,
                    None => {
                        ended = true;
                        break;
                    }
                },
                Poll::Pending if taken.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            };
            if let Some(allowance) = &mut upload.allowance {
                *allowance = match allowance.checked_sub(data.len() as u64) {
                    Some(left) => left,
                    None => return Poll::Ready(Err(Failure::TooLarge)),
                };
            }
            self.received += data.len() as u64;
            taken = joined(taken, data);
            if !upload.chunked && upload.body.is_end_stream() {
                ended = true;
                break;
            }
        }
        if upload.chunked {
            if !taken.is_empty() {
                self.parts[1] = Bytes::from(format!("{:x}\r\n", taken.len()));
            }
            self.parts[3] = Bytes::from_static(match (taken.is_empty(), ended) {
                (false, false) => b"\r\n",
                (false, true) => b"\r\n0\r\n\r\n",
                (true, _) => b"0\r\n\r\n",
            });
        }
        self.parts[2] = taken;
        if ended {
            self.body = None;
        }
        Poll::Ready(Ok(()))
    }
}

/// Pieces below this wait for those that are there already, bytes: each send costs the same, and a client
/// may cut its body into as many as it likes.
const SMALL: usize = 4 << 10;

/// One after the other. Who comes alone is not copied.
fn joined(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() {
        return second;
    }
    let mut both = first.try_into_mut().unwrap_or_else(|shared| {
        let mut copy = BytesMut::with_capacity(2 * SMALL);
        copy.extend_from_slice(&shared);
        copy
    });
    both.extend_from_slice(&second);
    both.freeze()
}
