//! What bounds the client's side, and the places under the bound on connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What bounds the client's side.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most open connections in all workers together.
    pub connections: usize,
    /// Open connections.
    pub open: Arc<AtomicUsize>,
    /// Largest head of a request, bytes.
    pub header_bytes: usize,
    /// Most header fields of a request.
    pub header_count: usize,
    /// Most concurrent streams of an HTTP/2 connection.
    pub h2_streams: u32,
    /// Longest time for a PROXY protocol header; none: connections have no such header.
    pub proxy_header: Option<Duration>,
    /// Longest TLS handshake.
    pub handshake: Duration,
    /// Longest time for the head of a request.
    pub header: Duration,
    /// Longest time in which a client takes nothing of what is written to it.
    pub write_stall: Duration,
    /// Longest time without a request.
    pub keep_alive: Duration,
}

/// One of the places under `limits.connections`.
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    pub(super) fn take(open: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(open));
        (open.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
