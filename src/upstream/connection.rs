//! One connection to the backend, and the stack of idle ones.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use super::Settings;
use crate::alarm::Alarm;
use crate::buffers;

/// Smallest and largest read.
const READ: std::ops::RangeInclusive<usize> = 8 << 10..=buffers::ROOM;

/// Far below what any backend waits before it closes an idle connection.
const MOMENT: Duration = Duration::from_millis(50);

/// Within a machine no network is congested. Some of what the system may be set to (`bbr`) paces what it sends,
/// by a timer, there as well: an upload then costs 1.3 times as much.
const WITHIN_A_MACHINE: &[u8] = b"reno";

/// A connection and what was read of it ahead. In a box: it goes through many hands with each request.
pub struct Connection {
    pub(super) stream: TcpStream,
    pub(super) buffer: BytesMut,
    read_size: usize,
    authority: Arc<str>,
    idle_since: Instant,
    /// What the backend's `Keep-Alive: timeout=` allows, when it sent one.
    announced: Option<Duration>,
    /// For the backend's deadlines, one exchange after the other.
    pub(super) alarm: Alarm,
}

impl Connection {
    pub(super) async fn open(settings: &Settings) -> io::Result<Box<Self>> {
        let stream = connect(&settings.authority).await?;
        stream.set_nodelay(true)?;
        // A backend host that vanished is noticed although a tunnel may be silent for an hour.
        SockRef::from(&stream).set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(Duration::from_secs(60))
                .with_interval(Duration::from_secs(15)),
        )?;
        Ok(Box::new(Self {
            stream,
            buffer: BytesMut::new(),
            read_size: *READ.start(),
            authority: Arc::clone(&settings.authority),
            idle_since: Instant::now(),
            announced: None,
            alarm: Alarm::new(settings.response_timeout),
        }))
    }

    /// The socket and what was read of it ahead, for a tunnel.
    pub fn into_parts(self) -> (TcpStream, BytesMut) {
        (self.stream, self.buffer)
    }

    /// Reads more into the buffer; 0 is the end. Reads grow while they fill what they are given.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let shared = self.buffer.is_empty() && self.read_size == *READ.end();
        if shared {
            buffers::give_back(std::mem::take(&mut self.buffer));
            self.buffer = buffers::take();
        }
        self.buffer.reserve(self.read_size);
        let room = self.buffer.capacity() - self.buffer.len();
        let read = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.buffer);
        if shared && self.buffer.is_empty() {
            buffers::give_back(std::mem::take(&mut self.buffer));
        }
        let n = ready!(read)?;
        if n == room {
            self.read_size = (self.read_size * 2).min(*READ.end());
        } else if n < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(*READ.start());
        }
        Poll::Ready(Ok(n))
    }

    /// So much of the buffer was taken: if it is a large one, it is now the taker's.
    pub(super) fn hand_over(&mut self, taken: usize) {
        if self.buffer.is_empty() && taken > 2 * READ.start() {
            self.buffer = BytesMut::new();
        }
    }

    /// The backend closes idle connections after so many seconds: we do it a second earlier.
    pub(super) fn announce(&mut self, seconds: u64) {
        self.announced = Some(Duration::from_secs(seconds.saturating_sub(1)));
    }

    fn is_expired(&self, settings: &Settings, now: Instant) -> bool {
        let limit = self.announced.map_or(settings.pool_idle, |announced| {
            announced.min(settings.pool_idle)
        });
        now.duration_since(self.idle_since) > limit
    }

    /// Whether it was idle for so long that the backend may have closed it for that.
    fn rested(&self, now: Instant) -> bool {
        now.duration_since(self.idle_since) > MOMENT
    }

    /// Whether the backend has closed it, or said something nobody asked for. `thorough` asks the
    /// kernel; else only what the event loop has seen already is looked at, which costs no call.
    fn is_dead(&self, thorough: bool) -> bool {
        let peek = || {
            let mut byte = [std::mem::MaybeUninit::uninit()];
            SockRef::from(&self.stream).peek(&mut byte)
        };
        let seen = if thorough {
            peek()
        } else {
            self.stream.try_io(Interest::READABLE, peek)
        };
        !matches!(seen, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Connects to the first address of `authority` that lets us.
async fn connect(authority: &str) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in lookup_host(authority).await? {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        if address.ip().to_canonical().is_loopback() {
            // Without it the connection does as well, for more.
            drop(SockRef::from(&socket).set_tcp_congestion(WITHIN_A_MACHINE));
        }
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => failed = e,
        }
    }
    Err(failed)
}

/// Idle connections of one worker, the last used first.
#[derive(Default)]
pub(super) struct Pool {
    #[expect(
        clippy::vec_box,
        reason = "they are taken out and put back in their boxes"
    )]
    idle: RefCell<Vec<Box<Connection>>>,
}

impl Pool {
    /// A connection that is alive `now`, as far as can be seen.
    pub(super) fn take(
        &self,
        settings: &Settings,
        thorough: bool,
        now: Instant,
    ) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(connection) = idle.pop() {
            if connection.authority == settings.authority
                && !connection.is_expired(settings, now)
                && !connection.is_dead(thorough && connection.rested(now))
            {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose exchange is over and clean.
    pub(super) fn put(&self, mut connection: Box<Connection>, size: usize) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < size {
            if connection.buffer.capacity() > 2 * READ.start() {
                connection.buffer = BytesMut::new();
            }
            connection.idle_since = Instant::now();
            idle.push(connection);
        }
    }

    pub(super) fn close_idle(&self, settings: &Settings) {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        idle.retain(|connection| {
            !connection.is_expired(settings, now) && !connection.is_dead(false)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn nothing_paces_what_stays_within_a_machine() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost"] {
            let stream = connect(&format!("{host}:{port}")).await.unwrap();
            let control = SockRef::from(&stream).tcp_congestion().unwrap();
            assert!(control.starts_with(WITHIN_A_MACHINE), "{host}: {control:?}");
        }
    }

    #[tokio::test]
    async fn who_cannot_be_reached_is_told_by_what_the_system_says() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let refused = connect(&address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
