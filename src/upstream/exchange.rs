//! One exchange on one connection: the request goes out, the head of the answer comes in, both at
//! the same time.

use std::future::poll_fn;
use std::task::Poll;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::admission::Place;
use super::connection::Connection;
use super::download::Download;
use super::head::{self, Head};
use super::upload::Outgoing;
use super::{Ask, Failure, Settings};

/// Interim answers that are skipped before the backend is taken to speak nonsense.
const MAX_INTERIM: usize = 16;

/// An answer of the backend; connection-level headers are gone.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; for a 101 the connection.
    pub body: Download,
    /// Bytes of the request's body so far.
    pub received: u64,
    /// It came before all of the request was sent.
    pub early: bool,
    /// When its head was there.
    pub at: std::time::Instant,
}

/// An answer whose head is there.
pub(super) struct Begun {
    pub(super) head: Head,
    /// All of the request went out before.
    pub(super) sent: bool,
}

/// An exchange that gave no answer.
pub(super) struct Stopped {
    pub(super) failure: Failure,
    /// Not a byte of an answer came and the connection is closed.
    pub(super) stale: bool,
}

/// Sends the request, from `now` on, until the head of its answer is there.
pub(super) async fn exchange(
    settings: &Settings,
    connection: &mut Connection,
    ask: Ask,
    outgoing: &mut Outgoing,
    place: Option<&Place<'_>>,
    now: Instant,
) -> Result<Begun, Stopped> {
    let patience = settings.response_timeout;
    let (mut sent, mut refused, mut interim, mut stale) = (false, None, 0, false);
    let (mut written, mut streams, mut moved) = (outgoing.written, false, now);
    let begun = poll_fn(|cx| {
        if !sent && refused.is_none() {
            match outgoing.poll_send(cx, &mut connection.stream) {
                Poll::Ready(Ok(())) => {
                    sent = true;
                    // From here on it is the backend that works on it.
                    if let Some(place) = place {
                        let since = if streams { Instant::now() } else { now };
                        place.begin(since.into());
                    }
                }
                // The backend may have answered before it closed: read what there is.
                Poll::Ready(Err(failure @ Failure::Broken(_))) => refused = Some(failure),
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Pending => {}
            }
            streams |= !sent;
            if streams && outgoing.written > written {
                (written, moved) = (outgoing.written, Instant::now());
            }
        }
        loop {
            if !connection.buffer.is_empty() {
                match head::take(&mut connection.buffer, ask.head) {
                    Ok(None) => {}
                    Ok(Some(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                        return Poll::Ready(if ask.upgrade && head.upgrade {
                            Ok(Begun { head, sent })
                        } else {
                            Err(Failure::Broken(
                                "the backend switched to a protocol nobody asked for",
                            ))
                        });
                    }
                    Ok(Some(head)) if head.status.is_informational() => {
                        interim += 1;
                        if interim > MAX_INTERIM {
                            return Poll::Ready(Err(Failure::Broken(
                                "the backend sent too many interim answers",
                            )));
                        }
                        continue;
                    }
                    Ok(Some(head)) => return Poll::Ready(Ok(Begun { head, sent })),
                    Err(how) => return Poll::Ready(Err(Failure::Broken(how))),
                }
            }
            match connection.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(ended) => {
                    stale = interim == 0 && connection.buffer.is_empty();
                    let how = if ended.is_ok() {
                        "the backend closed the connection before its answer"
                    } else {
                        "the backend reset the connection"
                    };
                    return Poll::Ready(Err(refused
                        .take()
                        .filter(|_| !stale)
                        .unwrap_or(Failure::Broken(how))));
                }
                Poll::Pending => break,
            }
        }
        // Time counts from the last byte that went out: uploads may be long.
        while connection.alarm.poll(cx, moved + patience).is_ready() {
            // The client has a deadline of its own.
            if sent || !outgoing.waits_for_client() {
                return Poll::Ready(Err(Failure::Timeout));
            }
            moved = Instant::now();
        }
        Poll::Pending
    })
    .await;
    begun.map_err(|failure| Stopped { failure, stale })
}
