//! HTTP/2 with a client (RFC 9113): all of a connection in one task, its requests too.
//!
//! Answers that are ready together leave in one TLS record and one system call. Nothing is read while
//! the client takes nothing, and nothing is asked of the backend that the client does not take. An idle
//! connection holds no buffer.

mod answer;
mod flood;
mod frame;
mod head;
mod hpack;
mod link;
mod receive;
mod replay;
mod stream;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

use self::answer::{Answering, Request, Shared, answer};
use self::frame::Code;
use self::link::{Fault, Link};
pub use self::replay::replay;
use super::clock::{Clock, Late};
use super::connection::{Held, LAST_CALL};
use super::head::Bounds;
use super::limits::Share;
use super::turn::{Queue, Turns};
use super::wire::with_scratch;
use crate::pipeline::Session;
use crate::snapshot::ConnectionLimits;
use crate::telemetry::TimedOut;
use crate::tls::ClientStream;

/// Serves a connection until it is over.
pub(super) fn serve(
    stream: ClientStream,
    session: Rc<Session>,
    limits: &Arc<ConnectionLimits>,
    share: Share,
    held: Held,
    queue: Queue,
) -> impl Future<Output = ()> + use<> {
    let shared = Rc::new(Shared {
        link: RefCell::new(Link::new(
            Bounds {
                bytes: limits.header_bytes,
                fields: limits.header_count,
            },
            limits.h2_streams,
            limits.h2_control_frames,
        )),
        session,
        patience: limits.write_stall,
    });
    let mut bytes = Bytes {
        stream,
        input: Vec::new(),
        half_head: None,
        turns: Turns::new(queue),
    };
    let limits = Arc::clone(limits);
    async move {
        let _held = held;
        let session = &*shared.session;
        let link = &shared.link;
        let turns = Rc::clone(&bytes.turns);
        let mut requests = FuturesUnordered::new();
        requests.push(Turn {
            work: None,
            turns: Rc::clone(&turns),
        });
        let mut clock = Clock::new(session, &limits);
        let mut stop = pin!(session.worker.drain.stopping());
        let mut cut = pin!(session.worker.drain.cutting());
        let mut leaving = false;
        let mut serve = |cx: &mut Context<'_>| {
            if !leaving && stop.as_mut().poll(cx).is_ready() {
                leaving = true;
                link.borrow_mut().say_farewell();
                // Browsers open connections ahead, and may be about to use them.
                clock.hasten(LAST_CALL);
            }
            loop {
                let received = bytes.poll_receive(cx, link);
                let begun = std::mem::take(&mut link.borrow_mut().begun);
                for begun in begun {
                    let (counted, too_many) = share.begin();
                    let shared = Rc::clone(&shared);
                    requests.push(Turn {
                        work: Some(answer(Request {
                            shared,
                            begun,
                            counted,
                            too_many,
                        })),
                        turns: Rc::clone(&turns),
                    });
                }
                while let Poll::Ready(Some(())) = requests.poll_next_unpin(cx) {}
                let wrote = bytes.poll_write(cx, link);
                session.note_stall(wrote.is_pending());
                match received {
                    Poll::Ready(Err(ended)) => return Poll::Ready(ended),
                    _ if link.borrow().is_over() => return Poll::Ready(Ended::Well),
                    _ if matches!(wrote, Poll::Ready(Err(_))) => return Poll::Ready(Ended::Broken),
                    _ => {}
                }
                let went_on = received.is_ready() || matches!(wrote, Poll::Ready(Ok(true)));
                if !went_on || turns.poll_enough(cx).is_pending() {
                    break;
                }
            }
            if cut.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ended::Broken);
            }
            session.head_since.set(bytes.half_head);
            match ready!(clock.poll(cx)) {
                Late::Write => {
                    session.count_stall();
                    return Poll::Ready(Ended::Broken);
                }
                Late::Head => {
                    session.worker.recorder.metrics.timed_out(TimedOut::Header);
                    return Poll::Ready(Ended::Calm);
                }
                Late::Quiet if leaving => return Poll::Ready(Ended::Well),
                Late::Quiet => session.count_quiet(),
            }
            leaving = true;
            link.borrow_mut().say_farewell();
            clock.said_farewell();
            cx.waker().wake_by_ref();
            Poll::Pending
        };
        let ended = poll_fn(|cx| turns.poll(cx, &mut serve)).await;
        // To close what a hundred requests hold takes longer than a turn.
        let mut rest = requests.into_iter();
        let mut give_up = |cx: &mut Context<'_>| {
            while rest.next().is_some() {
                ready!(turns.poll_enough(cx));
            }
            Poll::Ready(())
        };
        poll_fn(|cx| turns.poll(cx, &mut give_up)).await;
        Box::pin(bytes.end(link, ended, session)).await;
    }
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// All is answered, and both sides know.
    Well,
    /// Nobody is there to be told more.
    Broken,
    /// The client did what it may not do, and has not been told yet.
    Fault(Fault),
    /// It took too long for a head.
    Calm,
}

/// A request's task, which works while its connection has its turn.
struct Turn {
    // Closing a connection to the backend takes longer than most polls, and is done here too.
    /// `None`: never done. One of these is always there: who has polled all requests of a
    /// [`FuturesUnordered`] is woken by it to no purpose, which a lone request's connection would be
    /// each time.
    work: Option<Answering>,
    turns: Rc<Turns>,
}

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(work) = &mut this.work else {
            return Poll::Pending;
        };
        if this.turns.is_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(work).poll(cx)
    }
}

/// The socket of a connection, and what was read of it.
struct Bytes {
    stream: ClientStream,
    /// Read and not looked at yet.
    input: Vec<u8>,
    /// Since when a head lacks its end: until then nothing else may be sent.
    half_head: Option<Instant>,
    turns: Rc<Turns>,
}

impl Bytes {
    /// Looks at what came.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        link: &RefCell<Link>,
    ) -> Poll<Result<(), Ended>> {
        let link = &mut *link.borrow_mut();
        let turns = Rc::clone(&self.turns);
        let is_up = || turns.is_over();
        // What time was too short for.
        if !self.input.is_empty() {
            let newest = link.newest;
            let looked = link.receive(&self.input, is_up).map_err(Ended::Fault)?;
            self.input.drain(..looked.bytes);
            self.note_half_head(link, looked.stopped, newest);
            if looked.stopped {
                return Poll::Ready(Ok(()));
            }
        }
        if link.is_congested() {
            return Poll::Pending;
        }
        let newest = link.newest;
        with_scratch(|scratch| {
            let mut read = ReadBuf::new(scratch);
            let came = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read));
            let came = came.map(|()| read.filled()).map_err(|_io| Ended::Broken)?;
            if came.is_empty() {
                return Poll::Ready(Err(Ended::Broken));
            }
            let looked = if self.input.is_empty() {
                let looked = link.receive(came, is_up).map_err(Ended::Fault)?;
                self.input.extend_from_slice(&came[looked.bytes..]);
                looked
            } else {
                self.input.extend_from_slice(came);
                let looked = link.receive(&self.input, is_up).map_err(Ended::Fault)?;
                self.input.drain(..looked.bytes);
                looked
            };
            self.note_half_head(link, looked.stopped, newest);
            Poll::Ready(Ok(()))
        })
    }

    /// `stopped`: what is left was not looked at; `newest`: the newest stream before.
    fn note_half_head(&mut self, link: &Link, stopped: bool, newest: u32) {
        if stopped || !link.has_half_a_head(&self.input) {
            self.half_head = None;
        } else if self.half_head.is_none() || link.newest != newest {
            self.half_head = Some(Instant::now());
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
    }

    /// Writes what there is; `true`: somebody waited for that.
    fn poll_write(&mut self, cx: &mut Context<'_>, link: &RefCell<Link>) -> Poll<io::Result<bool>> {
        let link = &mut *link.borrow_mut();
        let stream = &mut Pin::new(&mut self.stream);
        let mut awaited = false;
        while !link.unwritten().is_empty() {
            match ready!(stream.as_mut().poll_write(cx, link.unwritten()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => awaited |= link.wrote(n),
            }
        }
        stream.as_mut().poll_flush(cx).map_ok(|()| awaited)
    }

    /// The last word, and a moment for the client to take it: closing a socket with unread bytes resets
    /// it, and the reset may overtake the word.
    async fn end(mut self, link: &RefCell<Link>, ended: Ended, session: &Session) {
        let connections = &session.worker.recorder.metrics.connections;
        let code = match ended {
            Ended::Broken => return,
            Ended::Well => Code::NoError,
            Ended::Calm => Code::Calm,
            Ended::Fault(fault) => {
                match fault {
                    Fault::Violation(_) => connections.violations.inc(),
                    Fault::Frames => connections.frame_floods.inc(),
                    Fault::Resets => connections.reset_floods.inc(),
                }
                fault.code()
            }
        };
        if ended != Ended::Well {
            link.borrow_mut().end(code);
        }
        let told = async {
            poll_fn(|cx| self.poll_write(cx, link)).await?;
            self.stream.shutdown().await?;
            let socket = self.stream.socket();
            let mut waste = vec![0; 16 << 10];
            let mut most = 64;
            while most > 0 && socket.read(&mut waste).await? > 0 {
                most -= 1;
            }
            io::Result::Ok(())
        };
        drop(tokio::time::timeout(Duration::from_secs(1), told).await);
    }
}
