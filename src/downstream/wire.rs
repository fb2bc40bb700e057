//! The bytes of an HTTP/1.1 connection: what was read ahead, the body that is on it, and what the
//! client does not take. An idle connection holds no buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::poll_read_buf;

use super::head::{Bounds, Scan};
use super::turn::{Queue, Turns};
use crate::body::{self, Unfinished};
use crate::framing::{Decoded, Decoder};
use crate::pipeline::Session;
use crate::reject::Reject;
use crate::tls::ClientStream;

/// One read.
const READ: usize = 16 << 10;
/// Reads in a row: there may be thousands of records in each.
const READS: usize = 8;
/// As much of a body as is gathered where that much is there: each write to the backend wakes it.
const GATHERED: usize = 128 << 10;
/// A body that flows, and of which less than this was there, bytes, is left alone for a moment, so that more of
/// it comes together: until the clock's next tick but one. It is less than a socket takes before its window
/// has grown.
const ENOUGH: usize = 48 << 10;
const REST: Duration = Duration::from_millis(1);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// Gives `read` a place for bytes of which it is not known yet that there are any.
pub(super) fn with_scratch<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| read(scratch))
}

pub(super) struct Wire {
    inner: RefCell<Inner>,
    pub(super) session: Rc<Session>,
    queue: Queue,
    /// While a large body is on it.
    turns: RefCell<Option<Rc<Turns>>>,
}

struct Inner {
    stream: ClientStream,
    /// Read and not used yet.
    buffer: BytesMut,
    /// What is left of the last request's body.
    body: Decoder,
    /// The client waits for our word before it sends the body.
    owes_continue: bool,
    /// The last read of the body gave much.
    flows: bool,
    /// Until more of it has come together: it flows, and little was there.
    rest: Option<Pin<Box<Sleep>>>,
}

impl Inner {
    /// Reads ahead; 0 is the end.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with_scratch(|scratch| {
            let mut read = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            self.buffer.extend_from_slice(read.filled());
            Poll::Ready(Ok(read.filled().len()))
        })
    }

    /// Reads more of the body; 0 is the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.owes_continue {
            // Into an empty session it goes whole; the answer's flush, or this one, carries it.
            let word = b"HTTP/1.1 100 Continue\r\n\r\n";
            ready!(Pin::new(&mut self.stream).poll_write(cx, word))?;
            self.owes_continue = false;
        }
        let _blocked: Poll<io::Result<()>> = Pin::new(&mut self.stream).poll_flush(cx);
        if let Some(rest) = &mut self.rest {
            ready!(rest.as_mut().poll(cx));
            self.rest = None;
        }
        let left = self.body.left().and_then(|left| usize::try_from(left).ok());
        let most = if self.flows { GATHERED } else { READ };
        let before = self.buffer.len();
        self.buffer
            .reserve(left.map_or(most, |left| left.min(most)));
        // What is there together goes on together.
        let mut reads = 0;
        let read = loop {
            let read = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.buffer);
            let full = self.buffer.len() == self.buffer.capacity();
            reads += 1;
            if full || reads == READS || !matches!(read, Poll::Ready(Ok(1..))) {
                break read;
            }
        };
        let came = self.buffer.len() - before;
        self.flows = came >= READ;
        if self.flows && read.is_pending() && came < ENOUGH && left > Some(came + GATHERED) {
            self.rest = Some(Box::pin(sleep(REST)));
        }
        if came > 0 {
            return Poll::Ready(Ok(came));
        }
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        read
    }
}

impl Wire {
    pub(super) fn new(stream: ClientStream, session: Rc<Session>, queue: Queue) -> Self {
        Self {
            inner: RefCell::new(Inner {
                stream,
                buffer: BytesMut::new(),
                body: Decoder::Done,
                owes_continue: false,
                flows: false,
                rest: None,
            }),
            session,
            queue,
            turns: RefCell::default(),
        }
    }

    /// Ready when more of a large body may be moved.
    pub(super) fn poll_piece(&self, cx: &mut Context<'_>) -> Poll<()> {
        let enter = || Turns::enter(self.queue.clone());
        let turns = Rc::clone(self.turns.borrow_mut().get_or_insert_with(enter));
        turns.poll_enough(cx)
    }

    /// Polls what the connection does, in turns with others' while a large body is on it.
    pub(super) fn poll_in_turn<T>(
        &self,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let turns = self.turns.borrow().clone();
        let done = if let Some(turns) = turns {
            turns.poll(cx, work)
        } else {
            let done = work(cx);
            if let Some(entered) = &*self.turns.borrow() {
                entered.leave();
            }
            done
        };
        if self.session.is_quiet() {
            self.turns
                .borrow_mut()
                .take_if(|turns| !turns.are_waited_for());
        }
        done
    }

    /// The next request's head; what is left of the last one's body is read away first. `None`: the
    /// client has closed.
    pub(super) async fn head(&self, bounds: Bounds) -> Option<Result<Bytes, Reject>> {
        let mut scan = Scan::default();
        poll_fn(|cx| {
            let inner = &mut *self.inner.borrow_mut();
            loop {
                let waits = inner.buffer.is_empty() && inner.body.is_done();
                if waits {
                    inner.buffer = BytesMut::new();
                } else if self.session.head_since.get().is_none() {
                    self.session.head_since.set(Some(Instant::now()));
                }
                match inner.body.decode(&mut inner.buffer) {
                    Ok(Decoded::Data(_)) => continue,
                    Ok(Decoded::More) => {}
                    Err(_) => return Poll::Ready(None),
                    Ok(Decoded::End) if waits => {}
                    Ok(Decoded::End) => match scan.take(&mut inner.buffer, bounds) {
                        Ok(None) => {}
                        read => {
                            self.session.ahead.set(!inner.buffer.is_empty());
                            return Poll::Ready(read.transpose());
                        }
                    },
                }
                if !matches!(ready!(inner.poll_ahead(cx)), Ok(1..)) {
                    return Poll::Ready(None);
                }
            }
        })
        .await
    }

    /// A request with such a body begins.
    pub(super) fn begin(&self, body: Decoder, expects_continue: bool) {
        let inner = &mut *self.inner.borrow_mut();
        inner.body = body;
        inner.owes_continue = expects_continue;
        inner.rest = None;
    }

    /// What is left of the body and would have to be read away before the next request; `None`:
    /// nobody knows. Of what has come already it is read away here.
    pub(super) fn unread(&self) -> Option<u64> {
        let inner = &mut *self.inner.borrow_mut();
        while let Ok(Decoded::Data(_)) = inner.body.decode(&mut inner.buffer) {}
        // Who waits for our word may or may not send its body after our refusal.
        let left = inner.body.left();
        left.filter(|left| *left == 0 || !inner.owes_continue)
    }

    /// Whether bytes of the client's are unused.
    pub(super) fn has_unread(&self) -> bool {
        let inner = self.inner.borrow();
        !inner.buffer.is_empty() || !inner.body.is_done()
    }

    /// Resolves when the client has closed its side. What it sends instead is kept, up to `most`.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>, most: usize) -> Poll<()> {
        let inner = &mut *self.inner.borrow_mut();
        // While there is a body, who reads it sees the end.
        while inner.body.is_done() && inner.buffer.len() < most {
            if !matches!(ready!(inner.poll_ahead(cx)), Ok(1..)) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Writes some of `first` and `second`.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        first: &[u8],
        second: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = &mut self.inner.borrow_mut().stream;
        let wrote = if second.is_empty() {
            Pin::new(stream).poll_write(cx, first)
        } else {
            let both = [IoSlice::new(first), IoSlice::new(second)];
            Pin::new(stream).poll_write_vectored(cx, &both)
        };
        self.session.note_stall(wrote.is_pending());
        match wrote {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            wrote => wrote,
        }
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner.borrow_mut().stream).poll_flush(cx);
        self.session.note_stall(flushed.is_pending());
        flushed
    }

    /// Says that nothing more will come.
    pub(super) async fn close(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.inner.borrow_mut().stream).poll_shutdown(cx)).await
    }

    /// Reads on until the client closes, and forgets what comes.
    pub(super) async fn drain(&self) {
        poll_fn(|cx| {
            let inner = &mut *self.inner.borrow_mut();
            let socket = inner.stream.socket();
            with_scratch(|scratch| {
                loop {
                    let mut waste = ReadBuf::new(scratch);
                    let read = ready!(Pin::new(&mut *socket).poll_read(cx, &mut waste));
                    if read.is_err() || waste.filled().is_empty() {
                        return Poll::Ready(());
                    }
                }
            })
        })
        .await;
    }

    /// The stream and what was read ahead.
    pub(super) fn into_parts(self) -> (ClientStream, Bytes) {
        let inner = self.inner.into_inner();
        (inner.stream, inner.buffer.freeze())
    }
}

impl body::Wire for Wire {
    fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Unfinished>>> {
        let inner = &mut *self.inner.borrow_mut();
        loop {
            match inner.body.decode(&mut inner.buffer) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Err(_) => return Poll::Ready(Some(Err(Unfinished))),
                Ok(Decoded::More) => {}
            }
            if inner.flows {
                ready!(self.poll_piece(cx));
            }
            if !matches!(ready!(inner.poll_more(cx)), Ok(1..)) {
                return Poll::Ready(Some(Err(Unfinished)));
            }
        }
    }

    fn left(&self) -> Option<u64> {
        self.inner.borrow().body.left()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use rustls::CipherSuite;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_flows_is_left_alone_for_a_moment_but_not_its_end() {
        for (length, rests) in [(1 << 20, true), (140 << 10, false)] {
            let suite = CipherSuite::TLS13_AES_128_GCM_SHA256;
            let (stream, mut client) = crate::tls::connected(suite).await;
            let mut inner = Inner {
                stream,
                buffer: BytesMut::new(),
                body: Decoder::Length(length),
                owes_continue: false,
                flows: false,
                rest: None,
            };
            client.write_all(&[1; 40 << 10]).await.unwrap();
            client.flush().await.unwrap();
            let mut came = 0;
            while came < 40 << 10 {
                came += poll_fn(|cx| inner.poll_more(cx)).await.unwrap();
                inner.buffer.clear();
            }
            client.write_all(&[2; 20 << 10]).await.unwrap();
            client.flush().await.unwrap();
            assert_eq!(inner.rest.is_some(), rests, "{length}");
            if rests {
                let cx = &mut Context::from_waker(Waker::noop());
                assert!(inner.poll_more(cx).is_pending());
            }
            came = poll_fn(|cx| inner.poll_more(cx)).await.unwrap();
            assert!(came > 0);
        }
    }
}
