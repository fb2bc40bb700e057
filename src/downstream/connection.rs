//! One client connection, from the end of its handshake to its last byte: HTTP/1.1 or HTTP/2 as
//! ALPN said, deadlines, drain, and what becomes of it after a 101.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::batch::batched;
use super::limits::{Limits, Place};
use crate::peer::Peer;
use crate::pipeline::{self, Session, Tunnel, Worker};
use crate::reject::{Form, Reject};
use crate::upstream::tunnel;

/// Serves a connection whose handshake is done, in a task of its own.
///
/// What HTTP needs is made here and moved into the task as it is: an async function would hold it
/// twice, once as argument, for as long as the connection lives.
pub(super) fn serve(
    stream: TlsStream<TcpStream>,
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    limits: &Rc<Limits>,
    place: Place,
) {
    let metrics = &worker.recorder.metrics;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let gauge = if h2 {
        metrics.connections_h2.clone()
    } else {
        metrics.connections_h1.clone()
    };
    gauge.inc();
    let held = Held {
        gauge,
        _place: place,
    };
    let drain = worker.drain.clone();
    let session = Rc::new(Session {
        worker,
        peer,
        in_flight: Cell::new(0),
        quiet_since: Cell::new(None),
        head_since: Cell::new(None),
        sent_body: Cell::new(false),
        tunnel: RefCell::new(None),
    });
    if h2 {
        drain.spawn(serve_h2(stream, session, limits, held));
    } else {
        drain.spawn(serve_h1(stream, session, limits, held));
    }
}

/// What a connection counts for as long as it is open.
struct Held {
    gauge: prometheus::IntGauge,
    _place: Place,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

fn serve_h1(
    stream: TlsStream<TcpStream>,
    session: Rc<Session>,
    limits: &Rc<Limits>,
    held: Held,
) -> impl Future<Output = ()> + use<> {
    let service = {
        let session = Rc::clone(&session);
        service_fn(move |request| pipeline::handle(Rc::clone(&session), request))
    };
    let mut builder = http1::Builder::new();
    builder.max_header_size(limits.header_bytes);
    if limits.header_count != DEFAULT_HEADER_COUNT {
        builder.max_headers(limits.header_count);
    }
    let mut connection = builder.serve_connection(
        TokioIo::new(Watched {
            stream,
            session: Rc::clone(&session),
        }),
        service,
    );
    let limits = Rc::clone(limits);
    async move {
        let ended = {
            let mut clock = pin!(Clock::new(&session, &limits));
            let mut stop = pin!(session.worker.drain.stopping());
            let mut cut = pin!(session.worker.drain.cutting());
            let mut stopping = false;
            poll_fn(|cx| {
                if !stopping && stop.as_mut().poll(cx).is_ready() {
                    stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                if Pin::new(&mut connection).poll(cx).is_ready() {
                    return Poll::Ready(Ended::Done);
                }
                if cut.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ended::Cut);
                }
                clock
                    .as_mut()
                    .poll(cx)
                    .map(|late| if late { Ended::Slow } else { Ended::Idle })
            })
            .await
        };
        match ended {
            Ended::Done => {
                let agreed = session.tunnel.borrow_mut().take();
                if let Some(agreed) = agreed {
                    let parts = connection.into_parts();
                    let stream = parts.io.into_inner().stream;
                    // A task of its own: what HTTP needed is freed with this one.
                    session.worker.drain.spawn(carry(
                        stream,
                        parts.read_buf,
                        agreed,
                        &session,
                        held,
                    ));
                } else if session.sent_body.get() {
                    let stream = connection.into_parts().io.into_inner().stream;
                    Box::pin(linger(stream.into_inner().0)).await;
                }
            }
            Ended::Slow => {
                session.worker.recorder.metrics.rejected[Reject::RequestTimeout.index()].inc();
                Box::pin(say_too_slow(connection.into_parts().io.into_inner().stream)).await;
            }
            Ended::Idle | Ended::Cut => {}
        }
    }
}

/// hyper's own default, which needs no allocation for each request.
const DEFAULT_HEADER_COUNT: usize = 100;

enum Ended {
    Done,
    /// A request's head did not arrive in time.
    Slow,
    Idle,
    Cut,
}

/// Carries the bytes of a tunnel until it ends.
fn carry(
    stream: TlsStream<TcpStream>,
    ahead: bytes::Bytes,
    agreed: Tunnel,
    session: &Session,
    held: Held,
) -> impl Future<Output = ()> + use<> {
    let Tunnel { backend, record } = agreed;
    let (backend, first) = backend.into_parts();
    let worker = &session.worker;
    let idle = worker.snapshot().websocket_idle;
    let metrics = Arc::clone(&worker.recorder.metrics);
    tunnel::run(
        (stream, ahead),
        (backend, first.freeze()),
        idle,
        worker.drain.clone(),
        metrics,
        move |closed| {
            record.tunnel_ended(closed.by, closed.received, closed.sent);
            drop(held);
        },
    )
}

/// Reads on for a moment what a client still sends after its last answer: closing a socket with
/// unread bytes resets it, and the reset may overtake the answer.
async fn linger(mut stream: TcpStream) {
    let read_on = async {
        stream.shutdown().await?;
        let mut waste = [0; 4 << 10];
        while stream.read(&mut waste).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    let _: Result<_, tokio::time::error::Elapsed> =
        tokio::time::timeout(Duration::from_secs(2), read_on).await;
}

/// A last answer to a client that sent half a head.
async fn say_too_slow(mut stream: TlsStream<TcpStream>) {
    let answer = Reject::RequestTimeout.answer(Form::Text, "-");
    let text = format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        answer.body().len()
    );
    let say = async {
        stream.write_all(text.as_bytes()).await?;
        stream.write_all(answer.body()).await?;
        stream.shutdown().await
    };
    // Who is slow to send may be slow to read: no more than a second for it.
    let _: Result<_, tokio::time::error::Elapsed> =
        tokio::time::timeout(Duration::from_secs(1), say).await;
}

fn serve_h2(
    stream: TlsStream<TcpStream>,
    session: Rc<Session>,
    limits: &Rc<Limits>,
    held: Held,
) -> impl Future<Output = ()> + use<> {
    let (io, flusher) = batched(stream);
    let service = {
        let session = Rc::clone(&session);
        service_fn(move |request| pipeline::handle(Rc::clone(&session), request))
    };
    let mut connection = http2::Builder::new(OnThisThread)
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .max_frame_size(16 << 10)
        .max_send_buf_size(256 << 10)
        .max_local_error_reset_streams(256)
        .max_pending_accept_reset_streams(20)
        .serve_connection(TokioIo::new(io), service);
    let limits = Rc::clone(limits);
    async move {
        let _held = held;
        let mut clock = pin!(Clock::new(&session, &limits));
        let mut stop = pin!(session.worker.drain.stopping());
        let mut cut = pin!(session.worker.drain.cutting());
        let mut stopping = false;
        poll_fn(|cx| {
            if !stopping && stop.as_mut().poll(cx).is_ready() {
                stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            let done = Pin::new(&mut connection).poll(cx).is_ready();
            // A blocked flush wakes this task when the socket takes more.
            let flushed = flusher.poll_flush(cx);
            if done || matches!(flushed, Poll::Ready(Err(_))) || cut.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if clock.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if stopping {
                return Poll::Ready(());
            }
            // Idle: a farewell (GOAWAY), and once more as long for the client to take it.
            stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
            clock.restart();
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

/// Spawns the streams of an HTTP/2 connection beside it.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, stream: F) {
        drop(tokio::task::spawn_local(stream));
    }
}

/// The deadlines of a connection: one timer, looked at when it runs out, not moved with every
/// request. The session tells when requests begin and end.
struct Clock<'s> {
    session: &'s Session,
    header: Duration,
    keep_alive: Duration,
    timer: Pin<Box<Sleep>>,
    begun: Instant,
}

impl<'s> Clock<'s> {
    fn new(session: &'s Session, limits: &Limits) -> Self {
        Self {
            session,
            header: limits.header,
            keep_alive: limits.keep_alive,
            timer: Box::pin(tokio::time::sleep(limits.header)),
            begun: Instant::now(),
        }
    }

    /// Gives the connection as long again as a quiet one has.
    fn restart(&self) {
        self.session.quiet_since.set(Some(Instant::now()));
    }

    /// Ready when the connection is to be closed; `true`: half a head had come.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let half_a_head = self.session.head_since.get();
        let deadline = match (half_a_head, self.session.quiet_since.get()) {
            // However long a request takes: it has limits of its own.
            _ if self.session.in_flight.get() > 0 => None,
            (Some(since), _) => Some(since + self.header),
            (None, Some(since)) => Some(since + self.keep_alive),
            (None, None) => Some(self.begun + self.header),
        };
        if let Some(at) = deadline
            && at < self.timer.deadline()
        {
            self.timer.as_mut().reset(at);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            match deadline {
                Some(at) if at <= now => return Poll::Ready(half_a_head.is_some()),
                deadline => {
                    let next = deadline.unwrap_or(now + self.keep_alive);
                    self.timer.as_mut().reset(next);
                }
            }
        }
        Poll::Pending
    }
}

/// Notes when the first byte of a request came.
struct Watched {
    stream: TlsStream<TcpStream>,
    session: Rc<Session>,
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, out);
        let session = &this.session;
        // Only between requests, and not after one with a body: what comes then may be the rest
        // of that body, and no head.
        if out.filled().len() > before
            && session.in_flight.get() == 0
            && !session.sent_body.get()
            && session.head_since.get().is_none()
        {
            session.head_since.set(Some(Instant::now()));
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
