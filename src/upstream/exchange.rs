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
///
/// Who else is ready goes first: so all requests that came together are read before the first of them is
/// sent, and they reach the backend together. Sent one by one, each would wake it anew.
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
    let mut others_went = false;
    let begun = poll_fn(|cx| {
        if !std::mem::replace(&mut others_went, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::pin::pin;
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::admission::Rules;
    use super::*;
    use crate::names::Route;

    #[tokio::test]
    async fn a_request_is_sent_when_who_else_is_ready_has_had_a_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = Settings {
            authority: listener.local_addr().unwrap().to_string().into(),
            connect_timeout: Duration::from_secs(9),
            response_timeout: Duration::from_secs(9),
            silence: Duration::from_secs(9),
            pool_idle: Duration::from_secs(9),
            pool_size: 9,
            admission: Rules {
                most: 9,
                adaptive: false,
                least: 9,
                sockets_last: false,
                except: Box::default(),
            },
        };
        let ask = Ask {
            head: false,
            safe: true,
            upgrade: false,
            route: Route::VisitorsLatest,
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            spared: true,
        };
        let mut connection = Connection::open(&settings).await.unwrap();
        let mut backend = listener.accept().await.unwrap().0;
        let mut outgoing = Outgoing::new(Bytes::from_static(b"GET"), None);
        let now = Instant::now();
        let exchange = exchange(&settings, &mut connection, ask, &mut outgoing, None, now);
        let mut exchange = pin!(exchange);
        let mut polls = 0;
        let other = async {
            // Joined after the exchange: it has been polled once by now.
            let mut byte = [std::mem::MaybeUninit::uninit()];
            let seen = socket2::SockRef::from(&backend).peek(&mut byte);
            assert_eq!(seen.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            let mut head = [0; 3];
            backend.read_exact(&mut head).await.unwrap();
            let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
            backend.write_all(answer).await.unwrap();
        };
        let exchange = poll_fn(|cx| {
            polls += 1;
            exchange.as_mut().poll(cx)
        });
        let (begun, ()) = tokio::join!(biased; exchange, other);
        assert!(begun.is_ok_and(|begun| begun.head.status == StatusCode::NO_CONTENT));
        assert!(polls > 1);
    }
}
