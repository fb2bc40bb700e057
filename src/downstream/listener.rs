//! One listener a worker (`SO_REUSEPORT`): the kernel spreads connections, and a connection stays
//! on its core.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use super::limits::{Open, Place};
use super::turn::Queue;
use super::{connection, proxy};
use crate::peer::Peer;
use crate::pipeline::Worker;
use crate::snapshot::Snapshot;
use crate::telemetry::{Metrics, ProxyFailure};
use crate::tls::{self, ClientStream};

/// Binds `address`, which other workers may bind too.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    tune(&socket)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Sets what sockets from clients need; a listening socket's accepted ones inherit it.
pub fn tune(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(15)),
    )?;
    // Data that nobody acknowledges for so long: the client is gone without a word.
    socket.set_tcp_user_timeout(Some(Duration::from_secs(60)))
}

/// Connections in a row that are accepted before what else is ready has its turn.
const AT_ONCE: u32 = 4;

/// Accepts until the process drains. `places`: the connections of all workers.
pub async fn serve(listener: TcpListener, worker: Rc<Worker>, places: Arc<Open>) {
    let mut pause = Duration::ZERO;
    let mut in_a_row = 0;
    let queue = Queue::default();
    loop {
        if in_a_row == AT_ONCE {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
        in_a_row += 1;
        let accepted = tokio::select! {
            biased;
            () = worker.drain.stopping() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                pause = Duration::ZERO;
                accept(stream, address, &worker, &places, &queue);
            }
            Err(e) if is_about_one_client(&e) => {}
            Err(e) => {
                // Out of files or memory: try again soon, and never give up.
                worker.recorder.metrics.connections.accept_errors.inc();
                tracing::warn!(error = %e, "cannot accept");
                pause = (pause * 2).clamp(Duration::from_millis(5), Duration::from_secs(1));
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn is_about_one_client(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn accept(
    stream: TcpStream,
    address: SocketAddr,
    worker: &Rc<Worker>,
    places: &Arc<Open>,
    queue: &Queue,
) {
    let metrics = &worker.recorder.metrics;
    let snapshot = worker.snapshot();
    let limits = &snapshot.connection_limits;
    let Some(mut place) = Place::take(places, limits.connections) else {
        metrics.connections.refused.inc();
        return;
    };
    let peer = Peer::new(address, &snapshot.trusted_proxies);
    if limits.proxy_header.is_some() && !peer.trusted {
        metrics.proxy_protocol_failed(ProxyFailure::Untrusted);
        return;
    }
    if !admit(&mut place, &peer, &snapshot, metrics) {
        return;
    }
    let (owner, queue) = (Rc::clone(worker), queue.clone());
    worker.drain.spawn(async move {
        let limits = Arc::clone(&snapshot.connection_limits);
        let opened = tokio::select! {
            opened = open(stream, peer, &mut place, &snapshot, &owner) => opened,
            () = owner.drain.cutting() => return,
        };
        // In a task of its own: the state of the handshake is freed with this one.
        if let Some((stream, peer)) = opened {
            connection::serve(stream, owner, Rc::new(peer), &limits, place, &queue);
        }
    });
}

/// Whether this client may have one more connection. A trusted proxy may: it has many clients.
fn admit(place: &mut Place, peer: &Peer, snapshot: &Snapshot, metrics: &Metrics) -> bool {
    if !peer.trusted && snapshot.rate_limits.check_connection(peer.address).is_err() {
        metrics.connections.refused_rate.inc();
        return false;
    }
    let limits = &snapshot.connection_limits;
    let most = match (limits.connections_per_client, limits.requests_per_client) {
        (Some(most), _) => most,
        // Its requests are counted by its place.
        (None, Some(_)) => u32::MAX,
        (None, None) => return true,
    };
    let admitted = peer.trusted || place.count(peer.address, most);
    if !admitted {
        metrics.connections.refused_client.inc();
    }
    admitted
}

/// What comes before HTTP: the PROXY protocol header, where one is expected, and the handshake.
/// `None`: it failed, and was counted.
async fn open(
    mut stream: TcpStream,
    mut peer: Peer,
    place: &mut Place,
    snapshot: &Snapshot,
    worker: &Worker,
) -> Option<(ClientStream, Peer)> {
    let (limits, metrics) = (&snapshot.connection_limits, &worker.recorder.metrics);
    if let Some(longest) = limits.proxy_header {
        let told = tokio::time::timeout(longest, proxy::header(&mut stream)).await;
        match told.unwrap_or(Err(ProxyFailure::Timeout)) {
            Ok(Some(client)) => {
                peer = Peer::new(client, &snapshot.trusted_proxies);
                if !admit(place, &peer, snapshot, metrics) {
                    return None;
                }
            }
            Ok(None) => {}
            Err(why) => {
                metrics.proxy_protocol_failed(why);
                return None;
            }
        }
    }
    let limited = !peer.trusted
        && snapshot
            .rate_limits
            .judge_connection(peer.address, &worker.store)
            .await
            .is_err();
    if limited {
        metrics.connections.refused_rate.inc();
        return None;
    }
    let shaking = tls::accept(stream, Arc::clone(&snapshot.tls.config));
    let shaken = tokio::time::timeout(limits.handshake, shaking).await;
    let failed = match shaken {
        Ok(Ok(stream)) => return Some((stream, peer)),
        Ok(Err(e)) if e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => "tls",
        Ok(Err(_)) => "io",
        Err(_) => "timeout",
    };
    metrics
        .connections
        .handshake_failures
        .with_label_values(&[failed])
        .inc();
    None
}
