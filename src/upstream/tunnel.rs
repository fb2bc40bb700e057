//! After a 101: bytes pass both ways until both sides have closed.
//!
//! An idle tunnel holds two sockets and this future, no buffer. Where it has to end before its
//! sides want to, both are told by a Close frame, and each has answered it before its connection
//! is closed (RFC 6455 section 7.1).

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::BusyPoll;
use super::direction::{Direction, Side};
use super::pulse::{Due, Ping, Pulse};
use crate::alarm::Alarm;
use crate::drain::{Drain, Leaving};
use crate::telemetry::{CloseClass, Closed, ClosedBy, Metrics};

/// How long a tunnel may be open.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Longest time without a byte.
    pub idle: Option<Duration>,
    /// Longest time at all.
    pub max_age: Option<Duration>,
    /// How the client is asked whether it is there.
    pub ping: Option<Ping>,
}

/// Close codes (RFC 6455 section 7.4 and its registry).
const GOING_AWAY: u16 = 1001;
const SERVICE_RESTART: u16 = 1012;

/// How long both sides may take to answer a Close frame, where no drain limits it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a side may take to close its connection when all is said.
const LINGER: Duration = Duration::from_secs(2);
/// A deadline for tunnels that have none.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Carries bytes between `client` and `backend`, counting them as they pass, and tells `ended` how
/// it went. `early` and `first` are what each side sent ahead.
///
/// One future that holds each socket once: an async function would hold its arguments beside the
/// variables they are moved to, for as long as the tunnel lives.
pub fn run<C: AsyncRead + AsyncWrite + Unpin>(
    (client, early): (C, Bytes),
    (backend, first): (TcpStream, Bytes),
    terms: Arc<Terms>,
    drain: Drain,
    busy_poll: Rc<BusyPoll>,
    metrics: Arc<Metrics>,
    ended: impl FnOnce(Closed),
) -> impl Future<Output = ()> {
    let mut tunnel = Tunnel::new((client, &early), (backend, &first), terms);
    drop((early, first));
    metrics.tunnels.received.inc_by(tunnel.up.moved);
    metrics.tunnels.sent.inc_by(tunnel.down.moved);
    async move {
        let mut alarm = Alarm::new(tunnel.due().duration_since(Instant::now()));
        let mut signal = pin!(drain.stopping());
        let mut asked = Asked::Nothing;
        let end = poll_fn(|cx| {
            while signal.as_mut().poll(cx).is_ready() {
                match asked {
                    Asked::Nothing => {
                        asked = Asked::ToLeave;
                        tunnel.leave_at(drain.moment(), drain.leaving());
                        signal.set(drain.hurrying());
                    }
                    Asked::ToLeave => {
                        asked = Asked::ToHurry;
                        tunnel.leave_at(Instant::now(), drain.leaving());
                        signal.set(drain.cutting());
                    }
                    Asked::ToHurry => return Poll::Ready(End::Cut),
                }
            }
            loop {
                let mut due = tunnel.due();
                while alarm.poll(cx, due).is_ready() {
                    if let Some(by) = tunnel.look_at_time(Instant::now()) {
                        return Poll::Ready(End::By(by));
                    }
                    due = tunnel.due();
                }
                let before = (tunnel.up.moved, tunnel.down.moved);
                let over = tunnel.poll(cx);
                let moved = (tunnel.up.moved - before.0, tunnel.down.moved - before.1);
                if moved != (0, 0) {
                    tunnel.moved_at = Instant::now();
                    if moved.1 > 0 {
                        busy_poll.came();
                    }
                    if moved.0 > 0 {
                        busy_poll.sent(tunnel.moved_at.into());
                    }
                    metrics.tunnels.received.inc_by(moved.0);
                    metrics.tunnels.sent.inc_by(moved.1);
                }
                if let Poll::Ready(by) = over {
                    return Poll::Ready(End::By(by));
                }
                if tunnel.due() >= due {
                    return Poll::Pending;
                }
            }
        })
        .await;
        ended(tunnel.closed(end));
    }
}

/// What the process has asked a tunnel for.
enum Asked {
    Nothing,
    ToLeave,
    ToHurry,
}

#[derive(Clone, Copy)]
enum End {
    By(ClosedBy),
    /// At the end of the process' budget.
    Cut,
}

struct Tunnel<C> {
    client: C,
    backend: TcpStream,
    up: Direction,
    down: Direction,
    terms: Arc<Terms>,
    /// Only where pings are on.
    pulse: Option<Box<Pulse>>,
    moved_at: Instant,
    /// When both sides are told to end; from then on, when it ends without their consent.
    at: Instant,
    /// Why then.
    reason: ClosedBy,
    /// What is said then.
    code: u16,
    told: bool,
    /// Both connections were told that there will be no more.
    lingers: bool,
    /// Who ended it, once somebody has.
    by: Option<ClosedBy>,
    /// The code of the first Close frame.
    first_code: Option<u16>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Tunnel<C> {
    fn new(
        (client, early): (C, &[u8]),
        (backend, first): (TcpStream, &[u8]),
        terms: Arc<Terms>,
    ) -> Self {
        let now = Instant::now();
        Self {
            client,
            backend,
            up: Direction::new(early, true),
            down: Direction::new(first, false),
            pulse: terms.ping.map(|ping| Box::new(Pulse::new(ping, now))),
            moved_at: now,
            at: now + terms.max_age.unwrap_or(NEVER),
            terms,
            reason: ClosedBy::MaxAge,
            code: GOING_AWAY,
            told: false,
            lingers: false,
            by: None,
            first_code: None,
        }
    }

    /// When time has to be looked at.
    fn due(&self) -> Instant {
        if self.told {
            return self.at;
        }
        let idle = self.terms.idle.map(|idle| self.moved_at + idle);
        let pulse = self.pulse.as_ref().and_then(|pulse| pulse.due());
        [idle, pulse].into_iter().flatten().fold(self.at, Ord::min)
    }

    /// The process leaves; this tunnel at `at`, if not sooner.
    fn leave_at(&mut self, at: Instant, leaving: Option<Leaving>) {
        if !self.told && at < self.at {
            self.at = at;
            self.reason = ClosedBy::Drain;
            if leaving == Some(Leaving::Handover) {
                self.code = SERVICE_RESTART;
            }
        }
    }

    /// Does what `now` is the time for; some: it is over.
    fn look_at_time(&mut self, now: Instant) -> Option<ClosedBy> {
        if self.told {
            return (self.at <= now).then_some(self.reason);
        }
        if self.at > now {
            self.reason = self.overdue(now)?;
        }
        // The process itself cuts what is left of a drain.
        let drains = self.reason == ClosedBy::Drain;
        self.at = now + if drains { NEVER } else { PATIENCE };
        if self.speaks_frames() {
            self.by.get_or_insert(self.reason);
            self.tell();
            return None;
        }
        (!drains).then_some(self.reason)
    }

    /// Has a Close frame said to who has got none, and lets nothing pass after one.
    fn tell(&mut self) {
        self.told = true;
        self.up.say_close(self.code);
        self.down.say_close(self.code);
    }

    /// Why it has to end before its time, if it has to; asks the client whether it is there, if
    /// that is due.
    fn overdue(&mut self, now: Instant) -> Option<ClosedBy> {
        if let Some(pulse) = &mut self.pulse {
            match pulse.look_at_time(now) {
                Due::Nothing => {}
                Due::Ping => self.down.say_ping(pulse),
                Due::HalfOpen => return Some(ClosedBy::HalfOpen),
            }
        }
        let idle = self.terms.idle?;
        (self.moved_at + idle <= now).then_some(ClosedBy::Idle)
    }

    /// Whether there can be a Close frame at all.
    fn speaks_frames(&self) -> bool {
        !self.up.frames.is_lost() && !self.down.frames.is_lost()
    }

    /// Moves what can be moved and closes what can be closed; ready: it is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ClosedBy> {
        let (client, backend) = (&mut self.client, &mut self.backend);
        let mut pulse = self.pulse.as_deref_mut();
        let up = self.up.poll_move(cx, client, backend, pulse.as_deref_mut());
        let down = self.down.poll_move(cx, backend, client, pulse);
        self.note_first();
        let client_broke = matches!(up, Err(Side::Reader)) || matches!(down, Err(Side::Writer));
        let backend_broke = matches!(up, Err(Side::Writer)) || matches!(down, Err(Side::Reader));
        if !self.told {
            // Who breaks takes the other with it.
            if client_broke {
                return Poll::Ready(ClosedBy::Client);
            }
            if backend_broke {
                return Poll::Ready(ClosedBy::Upstream);
            }
        }
        if !self.told && self.up.frames.close().is_some() && self.down.frames.close().is_some() {
            // All is said. Neither has to wait for the other to close its connection first.
            self.tell();
            self.at = self.at.min(Instant::now() + 6 * PATIENCE);
        }
        if client_broke {
            self.up.lose_reader();
            self.down.lose_writer();
        }
        if backend_broke {
            self.down.lose_reader();
            self.up.lose_writer();
        }
        if self.up.may_close(self.down.is_answered()) {
            self.up.poll_close(cx, &mut self.backend);
        }
        if self.down.may_close(self.up.is_answered()) {
            self.down.poll_close(cx, &mut self.client);
        }
        if !self.up.closed || !self.down.closed {
            return Poll::Pending;
        }
        if self.up.ended && self.down.ended {
            return Poll::Ready(self.by.unwrap_or(ClosedBy::Client));
        }
        // Both have said their last word. Who closed before they have closed, too, could reset
        // a connection on which that word is not read yet.
        if !self.lingers {
            self.lingers = true;
            self.at = self.at.min(Instant::now() + LINGER);
        }
        Poll::Pending
    }

    /// Notes who was the first to end it, and with what word.
    fn note_first(&mut self) {
        if self.by.is_none() {
            self.by = match () {
                () if self.up.is_answered() => Some(ClosedBy::Client),
                () if self.down.is_answered() => Some(ClosedBy::Upstream),
                () => None,
            };
        }
        if self.first_code.is_none() {
            let ours = self.up.said_close() || self.down.said_close();
            self.first_code = if ours {
                Some(self.code)
            } else {
                let theirs = self.up.frames.close();
                theirs.or_else(|| self.down.frames.close())
            };
        }
    }

    /// How it went.
    fn closed(&self, end: End) -> Closed {
        let cut = matches!(end, End::Cut) && !self.lingers;
        Closed {
            by: match end {
                End::By(by) => self.by.unwrap_or(by),
                End::Cut if cut => ClosedBy::Drain,
                End::Cut => self.by.unwrap_or(ClosedBy::Drain),
            },
            class: match self.first_code {
                Some(code) => CloseClass::of(code),
                None if self.speaks_frames() => CloseClass::None,
                None => CloseClass::Invalid,
            },
            cut,
            received: self.up.moved,
            sent: self.down.moved,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::net::TcpListener;

    use super::*;

    /// A tunnel, its two ends, and how it went.
    async fn tunnel(
        terms: Terms,
        drain: &Drain,
    ) -> (
        impl Future<Output = ()>,
        DuplexStream,
        TcpStream,
        tokio::sync::oneshot::Receiver<Closed>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (client, gateway) = tokio::io::duplex(1 << 10);
        let (tell, told) = tokio::sync::oneshot::channel();
        let metrics = Arc::new(Metrics::new().unwrap());
        let running = run(
            (gateway, Bytes::new()),
            (near.unwrap(), Bytes::new()),
            Arc::new(terms),
            drain.clone(),
            Rc::default(),
            metrics,
            |closed| tell.send(closed).unwrap(),
        );
        (running, client, far.unwrap().0, told)
    }

    const FOR_EVER: Terms = Terms {
        idle: None,
        max_age: None,
        ping: None,
    };

    #[tokio::test]
    async fn who_comes_back_at_once_is_told_so() {
        for (leaving, code, class) in [
            (Leaving::Handover, 1012, CloseClass::Restart),
            (Leaving::Shutdown, 1001, CloseClass::GoingAway),
        ] {
            let drain = Drain::default();
            let (running, mut client, mut backend, closed) = tunnel(FOR_EVER, &drain).await;
            drain.stop(leaving, Duration::from_millis(100));
            let sides = async {
                let mut heard = [0; 4];
                client.read_exact(&mut heard).await.unwrap();
                assert_eq!(heard[..2], [0x88, 2]);
                assert_eq!(u16::from_be_bytes([heard[2], heard[3]]), code);
                client.write_all(&[0x88, 0x80, 1, 2, 3, 4]).await.unwrap();
                assert_eq!(client.read(&mut heard).await.unwrap(), 0);
                drop(client);
                let mut heard = [0; 8];
                backend.read_exact(&mut heard).await.unwrap();
                assert_eq!(heard[..2], [0x88, 0x82]);
                let unmasked = [heard[6] ^ heard[2], heard[7] ^ heard[3]];
                assert_eq!(u16::from_be_bytes(unmasked), code);
                backend.write_all(&[0x88, 0]).await.unwrap();
                assert_eq!(backend.read(&mut heard).await.unwrap(), 0);
                drop(backend);
            };
            tokio::join!(running, sides);
            let closed = closed.await.unwrap();
            assert_eq!((closed.by, closed.class), (ClosedBy::Drain, class));
            // Nothing of the Close frames went through.
            assert_eq!((closed.cut, closed.sent, closed.received), (false, 0, 0));
        }
    }

    #[tokio::test]
    async fn an_idle_tunnel_is_small() {
        let drain = Drain::default();
        let (running, ..) = tunnel(FOR_EVER, &drain).await;
        let pipe = size_of::<DuplexStream>();
        assert!(size_of_val(&running) - pipe < 500);
    }
}
