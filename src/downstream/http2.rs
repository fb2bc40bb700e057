//! HTTP/2 with a client: hyper's, every limit set, and no stream that waits for a client for ever.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::batch::{Flusher, batched};
use super::clock::{Clock, Late};
use super::connection::{Held, LAST_CALL};
use super::limits::{Asked, Share};
use super::turn::{Queue, Turns, Waiting};
use crate::body::Inbound;
use crate::pipeline::{self, AnswerBody, Session};
use crate::reject::Reject;
use crate::snapshot::ConnectionLimits;
use crate::telemetry::TimedOut;

/// Serves a connection until it is over.
pub(super) fn serve(
    stream: TlsStream<TcpStream>,
    session: Rc<Session>,
    limits: &Arc<ConnectionLimits>,
    share: Share,
    held: Held,
    queue: Queue,
) -> impl Future<Output = ()> + use<> {
    let turns = Turns::new(queue);
    let (io, flusher) = batched(stream, limits.h2_control_frames, Rc::clone(&turns));
    let newest: Rc<Cell<Option<Rc<Pace>>>> = Rc::default();
    let streams = Streams {
        session: Rc::clone(&session),
        newest: Rc::clone(&newest),
        turns: Rc::clone(&turns),
        patience: limits.write_stall,
    };
    let fields = limits.header_count;
    let abandoned: Rc<Abandoned> = Rc::default();
    let service = {
        let abandoned = Rc::clone(&abandoned);
        let session = Rc::clone(&session);
        service_fn(move |request: http::Request<_>| {
            let pace = Rc::new(Pace::default());
            newest.set(Some(Rc::clone(&pace)));
            let (asked, too_many) = share.begin();
            // Each cookie crumb and each repetition counts.
            let flaw = if request.headers().len() > fields {
                Some(Reject::HeaderFieldsTooLarge)
            } else {
                too_many.then_some(Reject::Overloaded)
            };
            let unfinished = Unfinished::new(&abandoned, asked);
            let session = Rc::clone(&session);
            // Made in place: a future that is made first and moved in would be held twice.
            async move {
                let request = request.map(Inbound::Http2);
                let answer = pipeline::handle(session, request, flaw).await;
                Ok::<_, Infallible>(answer.map(|body| Paced::new(body, pace, unfinished)))
            }
        })
    };
    let mut connection = http2::Builder::new(streams)
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .header_table_size(4 << 10)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .adaptive_window(false)
        .max_frame_size(16 << 10)
        .max_send_buf_size(32 << 10)
        .max_local_error_reset_streams(256)
        .max_pending_accept_reset_streams(20)
        .serve_connection(TokioIo::new(io), service);
    let limits = Arc::clone(limits);
    async move {
        let _held = held;
        let mut clock = pin!(Clock::new(&session, &limits));
        let mut stop = pin!(session.worker.drain.stopping());
        let mut cut = pin!(session.worker.drain.cutting());
        let mut leaving = false;
        let mut waiting = Waiting::default();
        let metrics = &session.worker.recorder.metrics;
        let mut serve = |cx: &mut Context<'_>| {
            if !leaving && stop.as_mut().poll(cx).is_ready() {
                leaving = true;
                Pin::new(&mut connection).graceful_shutdown();
                // Browsers open connections ahead: GOAWAY waits for a first word on them.
                clock.hasten(LAST_CALL);
            }
            let done = Pin::new(&mut connection).poll(cx);
            if flusher.flooded() {
                metrics.connections.frame_floods.inc();
                return Poll::Ready(Ended::Flood);
            }
            // A blocked flush wakes this task when the socket takes more.
            let flushed = flusher.poll_flush(cx);
            session.note_stall(flushed.is_pending());
            if let Poll::Ready(Err(e)) = &done
                && is_violation(e)
            {
                metrics.connections.violations.inc();
            }
            if done.is_ready()
                || matches!(flushed, Poll::Ready(Err(_)))
                || cut.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Ended::Over);
            }
            if abandoned.too_many() {
                metrics.connections.reset_floods.inc();
                return Poll::Ready(Ended::Flood);
            }
            session.head_since.set(flusher.half_head_since());
            match ready!(clock.as_mut().poll(cx)) {
                Late::Write => {
                    session.count_stall();
                    return Poll::Ready(Ended::Over);
                }
                Late::Head => {
                    metrics.timed_out(TimedOut::Header);
                    return Poll::Ready(Ended::Flood);
                }
                Late::Quiet if leaving => return Poll::Ready(Ended::Over),
                Late::Quiet => session.count_quiet(),
            }
            // A farewell (GOAWAY), and a moment for the client to take it.
            leaving = true;
            Pin::new(&mut connection).graceful_shutdown();
            clock.said_farewell();
            cx.waker().wake_by_ref();
            Poll::Pending
        };
        let ended = poll_fn(|cx| turns.poll(&mut waiting, cx, &mut serve)).await;
        drop(connection);
        if ended == Ended::Flood {
            Box::pin(dismiss(flusher)).await;
        }
    }
}

/// How a connection ended.
#[derive(PartialEq, Eq)]
enum Ended {
    /// Nobody is there to be told more.
    Over,
    /// The client does what only attackers do, and has not been told yet.
    Flood,
}

/// Whether the library ended the connection for what the client sent.
fn is_violation(e: &hyper::Error) -> bool {
    std::error::Error::source(e)
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .is_some_and(h2::Error::is_library)
}

/// Tells a client to calm down, and reads on for a moment: closing a socket with unread bytes resets
/// it, and the reset may overtake the word.
async fn dismiss(flusher: Flusher<TlsStream<TcpStream>>) {
    let told = async {
        poll_fn(|cx| flusher.poll_farewell(cx)).await?;
        if let Some(mut stream) = flusher.into_stream() {
            let socket = stream.get_mut().0;
            let mut waste = vec![0; 16 << 10];
            let mut most = 64;
            while most > 0 && socket.read(&mut waste).await? > 0 {
                most -= 1;
            }
        }
        std::io::Result::Ok(())
    };
    drop(tokio::time::timeout(Duration::from_secs(1), told).await);
}

/// Requests of a connection, and how many of them the client gave up. The library counts those it
/// had not seen yet when they were reset; these had reached the backend.
#[derive(Default)]
struct Abandoned {
    requests: Cell<u32>,
    given_up: Cell<u32>,
}

impl Abandoned {
    /// People leave pages; nobody leaves most of hundreds (CVE-2023-44487).
    fn too_many(&self) -> bool {
        self.given_up.get() > 300 && self.given_up.get() > self.requests.get() / 2
    }
}

/// One request of them; dropped before its answer is through, it was given up.
struct Unfinished {
    of: Rc<Abandoned>,
    answered: bool,
    _asked: Asked,
}

impl Unfinished {
    fn new(of: &Rc<Abandoned>, asked: Asked) -> Self {
        of.requests.set(of.requests.get().saturating_add(1));
        Self {
            of: Rc::clone(of),
            answered: false,
            _asked: asked,
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.answered {
            let count = &self.of.given_up;
            count.set(count.get().saturating_add(1));
        }
    }
}

/// Since when the client could take more of an answer and does not: what its stream's window does
/// not admit is not asked for.
type Pace = Cell<Option<Instant>>;

/// The largest piece that is given to a stream: what is given waits in memory until the client
/// takes it, whatever becomes of the answer.
const PIECE: usize = 16 << 10;

/// An answer's body that notes when it is not asked for.
struct Paced {
    body: AnswerBody,
    pace: Rc<Pace>,
    /// What is left of the last piece.
    rest: Bytes,
    request: Unfinished,
}

impl Paced {
    fn new(body: AnswerBody, pace: Rc<Pace>, request: Unfinished) -> Self {
        pace.set(Some(Instant::now()));
        let mut this = Self {
            body,
            pace,
            rest: Bytes::new(),
            request,
        };
        this.request.answered = this.is_end_stream();
        this
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = <AnswerBody as Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        this.pace.set(None);
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => this.rest = frame.into_data().unwrap_or_default(),
                ended => {
                    // Broken off by the backend, or whole: neither is the client's doing.
                    this.request.answered = true;
                    return Poll::Ready(ended);
                }
            }
        }
        this.pace.set(Some(Instant::now()));
        let piece = this.rest.split_to(PIECE.min(this.rest.len()));
        this.request.answered = this.is_end_stream();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        if let Some(exact) = hint.exact() {
            hint.set_exact(exact + self.rest.len() as u64);
        }
        hint
    }
}

/// Spawns the streams of a connection beside it.
#[derive(Clone)]
struct Streams {
    session: Rc<Session>,
    /// The pace of the stream that is about to be spawned.
    newest: Rc<Cell<Option<Rc<Pace>>>>,
    turns: Rc<Turns>,
    patience: Duration,
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let Some(pace) = self.newest.take() else {
            drop(tokio::task::spawn_local(stream));
            return;
        };
        drop(tokio::task::spawn_local(Stream {
            stream: Some(stream),
            pace,
            timer: None,
            patience: self.patience,
            turns: Rc::clone(&self.turns),
            waiting: Waiting::default(),
            session: Rc::clone(&self.session),
        }));
    }
}

pin_project! {
    /// One stream, until it is answered or its client takes nothing for too long. By hand, not an async
    /// block, which would hold what it is given twice.
    struct Stream<F> {
        // Dropped within its turn: closing a connection to the backend takes longer than most polls.
        #[pin]
        stream: Option<F>,
        pace: Rc<Pace>,
        timer: Option<Pin<Box<Sleep>>>,
        patience: Duration,
        turns: Rc<Turns>,
        waiting: Waiting,
        session: Rc<Session>,
    }
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let ended = this.turns.poll(this.waiting, cx, |cx| {
            if let Some(stream) = this.stream.as_mut().as_pin_mut() {
                ready!(stream.poll(cx));
                this.stream.set(None);
            }
            Poll::Ready(())
        });
        if ended.is_ready() {
            return Poll::Ready(());
        }
        while let Some(since) = this.pace.get() {
            let at = since + *this.patience;
            let timer = this
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if timer.deadline() < at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
            if at <= Instant::now() {
                // Dropping the stream resets it.
                this.session.count_stall();
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}
