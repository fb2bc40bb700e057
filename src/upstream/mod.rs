//! The backend's side: connections kept by each worker, one HTTP/1.1 exchange at a time on each.
//!
//! The client is our own: a head that is already bytes is written with the first of its body in
//! one call, nothing is copied to be able to send it again, and a connection needs no task.

mod adaptive;
mod admission;
mod busy_poll;
mod connection;
mod direction;
mod download;
mod exchange;
mod frames;
mod head;
pub mod health;
mod pace;
mod pulse;
pub mod tunnel;
mod upload;

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use adaptive::SLOWER;
pub use admission::{Admission, Rules};
use admission::{Asker, Place};
pub use busy_poll::BusyPoll;
pub use connection::Connection;
use connection::Pool;
pub use download::Download;
pub use exchange::Answer;
use exchange::{Begun, exchange};
pub use pulse::Ping;
use upload::Outgoing;
pub use upload::Upload;

use crate::names::Route;
use crate::reject::Reject;
use crate::telemetry::{Kind, Metrics};

/// How the backend is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port`; a name is resolved for each new connection.
    pub authority: Arc<str>,
    /// Longest time to open a connection.
    pub connect_timeout: Duration,
    /// Longest time without progress until the head of the answer is there.
    pub response_timeout: Duration,
    /// Longest silence within an answer.
    pub silence: Duration,
    /// How long a kept connection may lie idle.
    pub pool_idle: Duration,
    /// Most idle connections kept.
    pub pool_size: usize,
    /// How many requests may be in flight.
    pub admission: Rules,
}

/// What there is to know of a request before it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The answer to HEAD has no body.
    pub head: bool,
    /// It asks for no effect (RFC 9110 section 9.2.1), so that it may be sent twice.
    pub safe: bool,
    /// A WebSocket handshake: only then a 101 is an answer.
    pub upgrade: bool,
    /// What it is for.
    pub route: Route,
    /// Who asks.
    pub client: IpAddr,
    /// It is neither counted among those in flight nor measured.
    pub spared: bool,
}

impl Ask {
    /// What it is where there is not room for all.
    pub fn kind(&self) -> Kind {
        match () {
            () if self.upgrade => Kind::Socket,
            () if self.route.is_api() => Kind::Api,
            () => Kind::Page,
        }
    }

    fn asker(&self) -> Asker {
        Asker {
            kind: self.kind(),
            route: self.route,
            client: self.client,
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// There are as many in flight as may be.
    Overloaded,
    /// No connection could be opened.
    Unreachable(std::io::Error),
    /// No head of an answer in time.
    Timeout,
    /// The connection broke or the backend broke the protocol; how.
    Broken(&'static str),
    /// The client's body is over the limit.
    TooLarge,
    /// The client's body broke off or was malformed.
    ClientBroken,
    /// The client's body made no progress.
    ClientSlow,
}

impl Failure {
    /// What the client is told.
    pub fn reject(&self) -> Reject {
        match self {
            Self::Overloaded => Reject::Overloaded,
            Self::Unreachable(_) => Reject::UpstreamUnreachable,
            Self::Timeout => Reject::UpstreamTimeout,
            Self::Broken(_) => Reject::UpstreamFailed,
            Self::TooLarge => Reject::PayloadTooLarge,
            Self::ClientBroken => {
                Reject::BadRequest("The request's body broke off or is malformed.")
            }
            Self::ClientSlow => Reject::RequestTimeout,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overloaded => f.write_str("too many requests in flight"),
            Self::Unreachable(e) => write!(f, "cannot connect: {e}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Broken(how) => f.write_str(how),
            Self::TooLarge => f.write_str("request body over the limit"),
            Self::ClientBroken => f.write_str("request body broke off"),
            Self::ClientSlow => f.write_str("request body made no progress"),
        }
    }
}

/// One worker's connections to the backend.
pub struct Upstream {
    pool: Rc<Pool>,
    /// Held by each request that has no answer yet.
    waiting: Rc<()>,
    /// Looks for what the backend answers at once.
    pub busy_poll: Rc<BusyPoll>,
    admission: Arc<Admission>,
    metrics: Arc<Metrics>,
}

impl Upstream {
    /// No connection yet; `admission` is all workers'.
    pub fn new(admission: Arc<Admission>, metrics: Arc<Metrics>) -> Self {
        Self {
            pool: Rc::new(Pool::default()),
            waiting: Rc::default(),
            busy_poll: Rc::default(),
            admission,
            metrics,
        }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// A kept connection that turns out to be closed is replaced once by a fresh one, provided
    /// that nothing of the request was written, or that it has no body and is safe: a
    /// request that may have had an effect is never sent twice.
    ///
    /// Who else is ready goes first, where requests are under way already: so those that came together are
    /// read before they are sent, and reach the backend together. Sent one by one, each would wake it anew.
    pub async fn send(
        &self,
        settings: &Settings,
        ask: Ask,
        head: Bytes,
        body: Option<Upload>,
    ) -> Result<Answer, Failure> {
        let mut outgoing = Outgoing::new(head, body);
        outgoing.prefetch().await?;
        let ready = Instant::now();
        let waiting = Rc::clone(&self.waiting);
        let alone = Rc::strong_count(&waiting) == 2;
        if !alone {
            tokio::task::yield_now().await;
        }
        // After that: a client that does not send holds no place.
        let now = Instant::now();
        let mut busy = now - ready >= SLOWER;
        let place = self.admit(settings, ask, outgoing.is_whole(), now)?;
        self.busy_poll.sent(now);
        let answered = self
            .exchange_on_any(settings, ask, &mut outgoing, place.as_ref(), now)
            .await;
        self.busy_poll.came();
        drop(waiting);
        let at = Instant::now();
        if let Some(place) = place {
            if alone && at - now >= SLOWER {
                // Who was alone has not seen yet how long who is ready waits here.
                tokio::task::yield_now().await;
                busy = at.elapsed() >= SLOWER;
            }
            // What fails may fail quickly; and while who is ready waits here as long as for a slow answer,
            // it is not the backend that is slow.
            let telling = |(_, begun): &(_, Begun)| !busy && !begun.head.status.is_server_error();
            place.answered(answered.as_ref().is_ok_and(telling), at);
        }
        let (connection, begun) = answered?;
        Ok(self.answer(settings, connection, begun, outgoing, at))
    }

    fn admit<'a>(
        &'a self,
        settings: &'a Settings,
        ask: Ask,
        whole: bool,
        now: Instant,
    ) -> Result<Option<Place<'a>>, Failure> {
        if ask.spared {
            return Ok(None);
        }
        let asker = ask.asker();
        self.admission
            .admit(&settings.admission, asker, whole.then_some(now))
            .map(Some)
            .map_err(|cause| {
                self.metrics.overload.refused(asker.kind, cause);
                Failure::Overloaded
            })
    }

    /// On a kept connection or a new one.
    async fn exchange_on_any(
        &self,
        settings: &Settings,
        ask: Ask,
        outgoing: &mut Outgoing,
        place: Option<&Place<'_>>,
        now: Instant,
    ) -> Result<(Box<Connection>, Begun), Failure> {
        let kept = if ask.upgrade {
            None
        } else {
            self.pool.take(settings, !ask.safe, now.into())
        };
        if let Some(mut connection) = kept {
            let begun = exchange(settings, &mut connection, ask, outgoing, place, now.into());
            match begun.await {
                Ok(begun) => return Ok((connection, begun)),
                Err(stopped) if !stopped.stale || !outgoing.rewind(ask.safe) => {
                    return Err(stopped.failure);
                }
                Err(_stale) => self.metrics.upstream.reused_reset.inc(),
            }
        }
        let mut connection = self.connect(settings).await?;
        let now = Instant::now().into();
        match exchange(settings, &mut connection, ask, outgoing, place, now).await {
            Ok(begun) => Ok((connection, begun)),
            Err(stopped) => Err(stopped.failure),
        }
    }

    /// What is left of an exchange once the head of its answer is there.
    fn answer(
        &self,
        settings: &Settings,
        mut connection: Box<Connection>,
        Begun { head, sent }: Begun,
        outgoing: Outgoing,
        at: Instant,
    ) -> Answer {
        if let Some(seconds) = head.keep_alive {
            connection.announce(seconds);
        }
        let keep = (head.persistent && head.status != StatusCode::SWITCHING_PROTOCOLS)
            .then(|| (Rc::clone(&self.pool), settings.pool_size));
        let received = outgoing.received;
        let rest = (!sent).then(|| Box::new(outgoing));
        Answer {
            status: head.status,
            headers: head.headers,
            body: Download::new(connection, head.framing, rest, keep, settings.silence),
            received,
            early: !sent,
            at,
        }
    }

    /// Closes kept connections that have lain idle too long; to be called about once a second.
    pub fn close_idle(&self, settings: &Settings) {
        self.pool.close_idle(settings);
    }

    async fn connect(&self, settings: &Settings) -> Result<Box<Connection>, Failure> {
        let opened =
            tokio::time::timeout(settings.connect_timeout, Connection::open(settings)).await;
        match opened.unwrap_or_else(|_elapsed| Err(std::io::ErrorKind::TimedOut.into())) {
            Ok(connection) => {
                self.metrics.upstream.connects.inc();
                Ok(connection)
            }
            Err(e) => {
                self.metrics.upstream.connect_failures.inc();
                Err(Failure::Unreachable(e))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;
    use std::net::Ipv4Addr;

    use http_body_util::BodyExt;
    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::pace::Pace;
    use super::*;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    const ASK: Ask = Ask {
        head: false,
        safe: true,
        upgrade: false,
        route: Route::Page,
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        spared: false,
    };

    /// An upstream that keeps a connection to the backend.
    async fn kept() -> (Upstream, Settings, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wait = Duration::from_secs(9);
        let settings = Settings {
            authority: listener.local_addr().unwrap().to_string().into(),
            connect_timeout: wait,
            response_timeout: wait,
            silence: wait,
            pool_idle: wait,
            pool_size: 9,
            admission: Rules {
                most: 9,
                adaptive: true,
                least: 9,
                sockets_last: false,
                except: Box::default(),
            },
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        let upstream = Upstream::new(Arc::default(), metrics);
        let first = async {
            let mut backend = listener.accept().await.unwrap().0;
            answer(&mut backend).await;
            backend
        };
        let spared = Ask {
            spared: true,
            ..ASK
        };
        let ((), backend) = tokio::join!(send(&upstream, &settings, spared), first);
        (upstream, settings, backend)
    }

    async fn send(upstream: &Upstream, settings: &Settings, ask: Ask) {
        let sent = upstream.send(settings, ask, Bytes::from_static(HEAD), None);
        sent.await.unwrap().body.collect().await.unwrap();
    }

    async fn answer(backend: &mut TcpStream) {
        let mut head = [0; HEAD.len()];
        backend.read_exact(&mut head).await.unwrap();
        let said = backend.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
        said.await.unwrap();
    }

    #[tokio::test]
    async fn who_is_not_alone_is_sent_when_who_else_is_ready_has_had_a_turn() {
        let (upstream, settings, mut backend) = kept().await;
        for alone in [true, false] {
            let other = (!alone).then(|| Rc::clone(&upstream.waiting));
            let next = async {
                let mut byte = [MaybeUninit::uninit()];
                let seen = SockRef::from(&backend).peek(&mut byte).is_ok();
                assert_eq!(seen, alone);
                answer(&mut backend).await;
            };
            tokio::join!(biased; send(&upstream, &settings, ASK), next);
            drop(other);
        }
    }

    #[tokio::test]
    async fn an_answer_tells_nothing_of_the_backend_while_the_gateway_is_what_is_slow() {
        let (upstream, settings, mut backend) = kept().await;
        let mut tells = async |alone: bool, busy: bool| {
            let other = (!alone).then(|| Rc::clone(&upstream.waiting));
            let work = async {
                loop {
                    let began = Instant::now();
                    while busy && began.elapsed() < SLOWER {
                        std::hint::spin_loop();
                    }
                    tokio::task::yield_now().await;
                }
            };
            let exchange =
                async { tokio::join!(send(&upstream, &settings, ASK), answer(&mut backend)) };
            tokio::select! { biased; _ = exchange => {}, () = work => {} }
            drop(other);
            let seen = &upstream.admission.seen[Route::Page.index()];
            let pace = seen.take();
            seen.forget();
            matches!(pace, Pace::Few(_))
        };
        for alone in [true, false] {
            assert!(!tells(alone, true).await, "alone: {alone}");
            // Others may keep this machine busy, too, but not for ever.
            let mut told = false;
            for _ in 0..100 {
                told = told || tells(alone, false).await;
            }
            assert!(told, "alone: {alone}");
        }
    }
}
