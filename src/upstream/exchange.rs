//! One exchange on one connection: the request goes out, the head of the answer comes in, both at
//! the same time.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::admission::Place;
use super::connection::Connection;
use super::download::Download;
use super::head::{self, Head};
use super::upload::Outgoing;
use super::{Ask, Failure, Settings, Upstream};

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
}

/// An exchange that gave no answer.
pub(super) struct Stopped {
    pub(super) failure: Failure,
    /// Not a byte of an answer came and the connection is closed.
    pub(super) stale: bool,
    pub(super) outgoing: Outgoing,
}

impl Upstream {
    pub(super) async fn exchange(
        &self,
        settings: &Settings,
        mut connection: Connection,
        ask: Ask,
        mut outgoing: Outgoing,
        place: Option<&Place<'_>>,
    ) -> Result<Answer, Stopped> {
        let mut stale = false;
        match self
            .head(
                settings,
                &mut connection,
                ask,
                (&mut outgoing, place),
                &mut stale,
            )
            .await
        {
            Ok((head, sent)) => {
                if let Some(seconds) = head.keep_alive {
                    connection.announce(seconds);
                }
                let received = outgoing.received;
                let keep = (head.persistent && head.status != StatusCode::SWITCHING_PROTOCOLS)
                    .then(|| (Rc::clone(&self.pool), settings.pool_size));
                let rest = (!sent).then(|| Box::new(outgoing));
                Ok(Answer {
                    status: head.status,
                    headers: head.headers,
                    body: Download::new(connection, head.framing, rest, keep, settings.silence),
                    received,
                    early: !sent,
                })
            }
            Err(failure) => Err(Stopped {
                failure,
                stale,
                outgoing,
            }),
        }
    }

    /// The head of the answer, and whether the request is sent whole.
    async fn head(
        &self,
        settings: &Settings,
        connection: &mut Connection,
        ask: Ask,
        (outgoing, place): (&mut Outgoing, Option<&Place<'_>>),
        stale: &mut bool,
    ) -> Result<(Head, bool), Failure> {
        let patience = settings.response_timeout;
        let mut deadline = pin!(tokio::time::sleep(patience));
        let (mut sent, mut refused, mut interim) = (false, None, 0);
        let (mut written, mut streams, mut moved) = (outgoing.written, false, None);
        poll_fn(|cx| {
            if !sent && refused.is_none() {
                match outgoing.poll_send(cx, &mut connection.stream) {
                    Poll::Ready(Ok(())) => {
                        sent = true;
                        // From here on it is the backend that works on it.
                        if let Some(place) = place {
                            place.begin();
                        }
                    }
                    // The backend may have answered before it closed: read what there is.
                    Poll::Ready(Err(failure @ Failure::Broken(_))) => refused = Some(failure),
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                    Poll::Pending => {}
                }
                streams |= !sent;
                if streams && outgoing.written > written {
                    (written, moved) = (outgoing.written, Some(Instant::now()));
                }
            }
            loop {
                if !connection.buffer.is_empty() {
                    match head::take(&mut connection.buffer, ask.head) {
                        Ok(None) => {}
                        Ok(Some(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                            return Poll::Ready(if ask.upgrade && head.upgrade {
                                Ok((head, sent))
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
                        Ok(Some(head)) => return Poll::Ready(Ok((head, sent))),
                        Err(how) => return Poll::Ready(Err(Failure::Broken(how))),
                    }
                }
                match connection.poll_fill(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(ended) => {
                        *stale = interim == 0 && connection.buffer.is_empty();
                        let how = if ended.is_ok() {
                            "the backend closed the connection before its answer"
                        } else {
                            "the backend reset the connection"
                        };
                        return Poll::Ready(Err(refused
                            .take()
                            .filter(|_| !*stale)
                            .unwrap_or(Failure::Broken(how))));
                    }
                    Poll::Pending => break,
                }
            }
            while deadline.as_mut().poll(cx).is_ready() {
                // Time counts from the last byte that went out: uploads may be long.
                match moved {
                    Some(at) if at + patience > Instant::now() => {
                        deadline.as_mut().reset(at + patience);
                    }
                    // The client has a deadline of its own.
                    _ if !sent && outgoing.waits_for_client() => {
                        deadline.as_mut().reset(Instant::now() + patience);
                    }
                    _ => return Poll::Ready(Err(Failure::Timeout)),
                }
            }
            Poll::Pending
        })
        .await
    }
}
