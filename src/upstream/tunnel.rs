//! After a 101: bytes pass both ways until both sides have closed.
//!
//! An idle tunnel holds two sockets and this future, no buffer: each read goes into a buffer of
//! the worker's and on into the other socket at once. Only what that socket would not take is
//! kept, and then nothing more is read: that is the backpressure.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::drain::Drain;
use crate::telemetry::{ClosedBy, Metrics};

/// How a tunnel went.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// Who ended it.
    pub by: ClosedBy,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
}

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; 32 << 10].into());
}

/// Carries bytes between `client` and `backend`, counting them as they pass, and tells `ended` how
/// it went. `early` and `first` are what each side sent ahead.
///
/// One future that holds each socket once: an async function would hold its arguments beside the
/// variables they are moved to, for as long as the tunnel lives.
pub fn run<C: AsyncRead + AsyncWrite + Unpin>(
    (mut client, early): (C, Bytes),
    (mut backend, first): (TcpStream, Bytes),
    idle: Option<Duration>,
    drain: Drain,
    metrics: Arc<Metrics>,
    ended: impl FnOnce(Closed),
) -> impl Future<Output = ()> {
    let mut up = Direction::new(&early);
    let mut down = Direction::new(&first);
    drop((early, first));
    metrics.websocket_received.inc_by(up.moved);
    metrics.websocket_sent.inc_by(down.moved);
    async move {
        // Looked at when it runs out, not moved with every byte.
        let mut deadline = pin!(tokio::time::sleep(idle.unwrap_or(NEVER)));
        let mut moved_at = Instant::now();
        let mut cut = pin!(drain.cutting());
        let by = poll_fn(|cx| {
            let before = (up.moved, down.moved);
            let up_state = up.poll(cx, &mut client, &mut backend);
            let down_state = down.poll(cx, &mut backend, &mut client);
            if (up.moved, down.moved) != before {
                moved_at = Instant::now();
                metrics.websocket_received.inc_by(up.moved - before.0);
                metrics.websocket_sent.inc_by(down.moved - before.1);
            }
            match (up_state, down_state) {
                (Err(Side::Reader), _) | (_, Err(Side::Writer)) => {
                    return Poll::Ready(ClosedBy::Client);
                }
                (Err(Side::Writer), _) | (_, Err(Side::Reader)) => {
                    return Poll::Ready(ClosedBy::Upstream);
                }
                (Ok(true), Ok(true)) => {
                    let client_first = up.ended_at <= down.ended_at;
                    return Poll::Ready(if client_first {
                        ClosedBy::Client
                    } else {
                        ClosedBy::Upstream
                    });
                }
                (Ok(_), Ok(_)) => {}
            }
            if cut.as_mut().poll(cx).is_ready() {
                return Poll::Ready(ClosedBy::Drain);
            }
            while deadline.as_mut().poll(cx).is_ready() {
                let patience = idle.unwrap_or(NEVER);
                if moved_at + patience <= Instant::now() {
                    return Poll::Ready(ClosedBy::Idle);
                }
                deadline.as_mut().reset(moved_at + patience);
            }
            Poll::Pending
        })
        .await;
        ended(Closed {
            by,
            received: up.moved,
            sent: down.moved,
        });
    }
}

/// A deadline for tunnels that have none.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

enum Side {
    Reader,
    Writer,
}

/// One way of a tunnel.
struct Direction {
    /// What the writer has not taken yet.
    unsent: Bytes,
    moved: u64,
    /// When the reader said it was its last byte.
    ended_at: Option<Instant>,
    flush: bool,
    closed: bool,
}

impl Direction {
    fn new(unsent: &[u8]) -> Self {
        Self {
            moved: unsent.len() as u64,
            // A copy: even an empty slice would hold the buffer that HTTP had read into.
            unsent: Bytes::copy_from_slice(unsent),
            ended_at: None,
            flush: false,
            closed: false,
        }
    }

    /// Moves what can be moved; `true`: this way is over.
    fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Result<bool, Side> {
        loop {
            while !self.unsent.is_empty() {
                match Pin::new(&mut *writer).poll_write(cx, &self.unsent) {
                    Poll::Ready(Ok(n)) if n > 0 => self.unsent.advance(n),
                    Poll::Ready(_) => return Err(Side::Writer),
                    Poll::Pending => return Ok(false),
                }
                self.flush = true;
                if self.unsent.is_empty() {
                    self.unsent = Bytes::new(); // gives the memory back
                }
            }
            if self.ended_at.is_some() {
                if !self.closed {
                    match Pin::new(&mut *writer).poll_shutdown(cx) {
                        // A peer that is gone already is as closed as can be.
                        Poll::Ready(_) => self.closed = true,
                        Poll::Pending => return Ok(false),
                    }
                }
                return Ok(true);
            }
            match self.poll_pass(cx, reader, writer) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(side)) => return Err(side),
                Poll::Pending => {
                    if self.flush {
                        match Pin::new(&mut *writer).poll_flush(cx) {
                            Poll::Ready(Ok(())) => self.flush = false,
                            Poll::Ready(Err(_)) => return Err(Side::Writer),
                            Poll::Pending => {}
                        }
                    }
                    return Ok(false);
                }
            }
        }
    }

    /// One read, and one write of what it gave.
    fn poll_pass<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), Side>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            match Pin::new(reader).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => {
                    // TLS without a farewell: the connection is gone.
                    debug_assert!(e.kind() != io::ErrorKind::WouldBlock);
                    return Poll::Ready(Err(Side::Reader));
                }
                Poll::Pending => return Poll::Pending,
            }
            let data = read.filled();
            if data.is_empty() {
                self.ended_at = Some(Instant::now());
                return Poll::Ready(Ok(()));
            }
            self.moved += data.len() as u64;
            let taken = match Pin::new(writer).poll_write(cx, data) {
                Poll::Ready(Ok(n)) if n > 0 => n,
                Poll::Ready(_) => return Poll::Ready(Err(Side::Writer)),
                Poll::Pending => 0,
            };
            self.flush = true;
            self.unsent = Bytes::copy_from_slice(&data[taken..]);
            Poll::Ready(Ok(()))
        })
    }
}
