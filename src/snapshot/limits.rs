//! What bounds a client's connection: fixed when it is accepted.

use std::time::Duration;

use crate::config::Config;

/// What bounds a client's connection. It keeps these for as long as it lives, and nothing else of
/// the snapshot it was accepted under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Most open connections in all workers together.
    pub connections: usize,
    /// Most of them of one client; none: no such cap.
    pub connections_per_client: Option<u32>,
    /// Most requests of one client at a time over HTTP/2; none: no such cap. Over HTTP/1.1 a connection
    /// has one at a time.
    pub requests_per_client: Option<u32>,
    /// Largest head of a request, bytes.
    pub header_bytes: usize,
    /// Most header fields of a request.
    pub header_count: usize,
    /// Most concurrent streams of an HTTP/2 connection.
    pub h2_streams: u32,
    /// Most control frames of an HTTP/2 connection in a second.
    pub h2_control_frames: u32,
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

impl ConnectionLimits {
    /// As `config` says.
    pub(super) fn of(config: &Config) -> Self {
        let (limits, timeouts) = (&config.limits, &config.timeouts);
        Self {
            connections: limits.connections,
            connections_per_client: limits
                .connections_per_client
                .on()
                .map(|count| count.0.get()),
            requests_per_client: limits.requests_per_client.on().map(|count| count.0.get()),
            header_bytes: usize::try_from(limits.header_bytes.0).unwrap_or(usize::MAX),
            header_count: limits.header_count,
            h2_streams: limits.h2_streams,
            h2_control_frames: limits.h2_control_frames,
            proxy_header: config
                .public
                .proxy_protocol
                .then_some(timeouts.proxy_header.0),
            handshake: timeouts.handshake.0,
            header: timeouts.header.0,
            write_stall: timeouts.write_stall.0,
            keep_alive: timeouts.keep_alive.0,
        }
    }
}
