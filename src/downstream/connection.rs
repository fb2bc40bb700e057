//! One client connection, from the end of its handshake to its last byte: HTTP/1.1 or HTTP/2 as
//! ALPN said, deadlines, drain, and what becomes of it after a 101.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::clock::{Clock, Late};
use super::head::Bounds;
use super::http1::{self, Ended};
use super::http2;
use super::limits::Place;
use super::turn::Queue;
use super::wire::Wire;
use crate::peer::Peer;
use crate::pipeline::{Session, Tunnel, Worker};
use crate::snapshot::ConnectionLimits;
use crate::telemetry::TimedOut;
use crate::tls::ClientStream;
use crate::upstream::tunnel;

/// Serves a connection whose handshake is done, in a task of its own.
///
/// What HTTP needs is made here and moved into the task as it is: an async function would hold it
/// twice, once as argument, for as long as the connection lives.
pub(super) fn serve(
    stream: ClientStream,
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    limits: &Arc<ConnectionLimits>,
    place: Place,
    queue: &Queue,
) {
    let metrics = &worker.recorder.metrics;
    let h2 = stream.is_h2();
    let gauge = if h2 {
        metrics.connections.h2.clone()
    } else {
        metrics.connections.h1.clone()
    };
    gauge.inc();
    let share = place.share(limits.requests_per_client);
    let held = Held {
        gauge,
        _place: place,
    };
    let drain = worker.drain.clone();
    let session = Rc::new(Session::new(worker, peer));
    if h2 {
        drain.spawn(http2::serve(
            stream,
            session,
            limits,
            share,
            held,
            queue.clone(),
        ));
    } else {
        drain.spawn(serve_h1(stream, session, limits, held, queue.clone()));
    }
}

/// How long a quiet connection is kept when the process leaves. Its client may be sending a request
/// just now, or be about to, right after its handshake or its last answer: closed at once, that one
/// would be lost without an answer. So it is still answered, and told that it was the last.
pub(super) const LAST_CALL: Duration = Duration::from_secs(1);

/// What a connection counts for as long as it is open.
pub(super) struct Held {
    gauge: prometheus::IntGauge,
    _place: Place,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

fn serve_h1(
    stream: ClientStream,
    session: Rc<Session>,
    limits: &Arc<ConnectionLimits>,
    held: Held,
    queue: Queue,
) -> impl Future<Output = ()> + use<> {
    let limits = Arc::clone(limits);
    let wire = Rc::new(Wire::new(stream, session, queue));
    async move {
        let bounds = Bounds {
            bytes: limits.header_bytes,
            fields: limits.header_count,
        };
        let session = &wire.session;
        let ended = {
            let mut conversation = pin!(http1::converse(&wire, bounds));
            let mut clock = Clock::new(session, &limits);
            let mut stop = pin!(session.worker.drain.stopping());
            let mut cut = pin!(session.worker.drain.cutting());
            let mut stopping = false;
            let mut last_call = None;
            poll_fn(|cx| {
                let conversed = wire.poll_in_turn(cx, |cx| conversation.as_mut().poll(cx));
                if let Poll::Ready(ended) = conversed {
                    return Poll::Ready(Ok(ended));
                }
                stopping |= stop.as_mut().poll(cx).is_ready();
                // A request that has begun is still answered, and that answer is the last.
                if stopping && session.is_quiet() {
                    let wait = || Box::pin(tokio::time::sleep(LAST_CALL));
                    if last_call
                        .get_or_insert_with(wait)
                        .as_mut()
                        .poll(cx)
                        .is_ready()
                    {
                        return Poll::Ready(Ok(Ended::Clean));
                    }
                } else {
                    last_call = None;
                }
                if cut.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(Ended::Broken));
                }
                clock.poll(cx).map(Err)
            })
            .await
        };
        match ended {
            Ok(Ended::Broken) => {}
            Err(Late::Write) => session.count_stall(),
            Ok(Ended::Clean) => drop(briefly(wire.close()).await),
            Err(Late::Quiet) => {
                session.count_quiet();
                drop(briefly(wire.close()).await);
            }
            Ok(Ended::Unread) => Box::pin(linger(&wire)).await,
            Err(Late::Head) => {
                session.worker.recorder.metrics.timed_out(TimedOut::Header);
                Box::pin(http1::say_too_slow(&wire, bounds)).await;
                Box::pin(linger(&wire)).await;
            }
            Ok(Ended::Switched(agreed)) => {
                let session = Rc::clone(session);
                if let Some(wire) = Rc::into_inner(wire) {
                    let (stream, ahead) = wire.into_parts();
                    // A task of its own: what HTTP needed is freed with this one.
                    session
                        .worker
                        .drain
                        .spawn(carry(stream, ahead, *agreed, &session, held));
                }
            }
        }
    }
}

/// Carries the bytes of a tunnel until it ends.
fn carry(
    stream: ClientStream,
    ahead: bytes::Bytes,
    agreed: Tunnel,
    session: &Session,
    held: Held,
) -> impl Future<Output = ()> + use<> {
    let Tunnel { backend, record } = agreed;
    let (backend, first) = backend.into_parts();
    let worker = &session.worker;
    let terms = Arc::clone(&worker.snapshot().websocket);
    let metrics = Arc::clone(&worker.recorder.metrics);
    tunnel::run(
        (stream, ahead),
        (backend, first.freeze()),
        terms,
        worker.drain.clone(),
        Rc::clone(&worker.upstream.busy_poll),
        metrics,
        move |closed| {
            record.tunnel_ended(closed);
            drop(held);
        },
    )
}

/// Says farewell and reads on for a moment what a client still sends after its last answer: closing
/// a socket with unread bytes resets it, and the reset may overtake the answer.
async fn linger(wire: &Wire) {
    let read_on = async {
        if wire.close().await.is_ok() {
            wire.drain().await;
        }
    };
    drop(briefly(read_on).await);
}

/// No client holds a connection that is over for longer.
fn briefly<F: Future>(farewell: F) -> tokio::time::Timeout<F> {
    tokio::time::timeout(Duration::from_secs(2), farewell)
}
