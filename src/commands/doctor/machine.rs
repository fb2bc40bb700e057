//! Addresses, names, limits, time: what the machine has to say.

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};

use super::Findings;
use crate::config::Config;
use crate::config::units::Span;
use crate::snapshot::{self, Snapshot};

/// Whether the public name leads somewhere, and its port to where the gateway listens.
pub(super) fn names(config: &Config, snapshot: &Snapshot, found: &mut Findings) {
    let endpoint = &snapshot.endpoint;
    let (to, port, listen) = (
        endpoint.connect(),
        endpoint.port,
        config.public.listen.port(),
    );
    let addresses: Vec<SocketAddr> = match to.to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(e) => {
            found.warning(format!("name: {} does not resolve here ({e}): clients must be able to resolve the host of public.base_endpoint", endpoint.host));
            return;
        }
    };
    let shown: Vec<_> = addresses.iter().map(|a| a.ip().to_string()).collect();
    let resolved = format!("name: {} is {}", endpoint.host, shown.join(", "));
    if port == listen {
        found.ok(format!("{resolved}, port {port} as public.listen"));
        return;
    }
    // An address that can be bound to is this machine's: nothing else stands in front.
    let here = addresses
        .iter()
        .any(|a| UdpSocket::bind((a.ip(), 0)).is_ok());
    let answers = addresses
        .iter()
        .any(|a| TcpStream::connect_timeout(a, Duration::from_secs(2)).is_ok());
    match (answers, here) {
        (true, _) => found.ok(format!("{resolved}; something accepts connections on port {port}, in front of public.listen's {listen}")),
        (false, true) => found.warning(format!("{resolved}, which is this machine, and nothing listens on port {port}: clients come there; public.listen has port {listen}: make them agree, or map one to the other")),
        (false, false) => found.warning(format!("{resolved}, and nothing there accepts connections on port {port}: clients come there; a load balancer or a port mapping must lead them to port {listen} of public.listen")),
    }
}

/// Whether the listeners can be bound.
pub(super) fn addresses(config: &Config, found: &mut Findings) {
    let mut listeners = vec![
        ("public.listen", config.public.listen),
        ("admin.listen", config.admin.listen),
    ];
    if snapshot::uses_built_in(config) {
        listeners.push(("visitor.listen", config.visitor.listen));
    }
    for (key, address) in listeners {
        match TcpListener::bind(address).map_err(|e| (e.kind(), e)) {
            Ok(_) => found.ok(format!("{key}: {address} is free")),
            Err((std::io::ErrorKind::AddrInUse, _)) => found.ok(format!(
                "{key}: {address} is in use: by the running gateway, if one runs"
            )),
            Err((std::io::ErrorKind::PermissionDenied, _)) => found.problem(format!("{key}: {address}: this user may not listen on port {}: choose one from 1024 up, or grant CAP_NET_BIND_SERVICE", address.port())),
            Err((_, e)) => found.problem(format!("{key}: {address}: {e}: choose an address of this machine, or 0.0.0.0")),
        }
    }
}

/// What the process needs after the budget to cut what is left and to end.
const TO_END: Duration = Duration::from_secs(2);

/// Whether a drain is over before the process is killed.
pub(super) fn grace(config: &Config, given: Option<Span>, found: &mut Findings) {
    let drain = &config.drain;
    let needed = drain.delay.0.saturating_add(drain.budget.0);
    let (needed, safe) = (Span(needed), Span(needed.saturating_add(TO_END)));
    let sum = format!(
        "drain: drain.delay {} and drain.budget {} are {needed}",
        drain.delay, drain.budget
    );
    let in_a_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let grace = given.or_else(|| in_a_pod.then_some(Span::secs(30)));
    match grace {
        None => found.ok(format!("{sum}: give the process at least {safe} to end (terminationGracePeriodSeconds, TimeoutStopSec); --grace compares")),
        Some(grace) if grace.0 < needed.0 => found.problem(format!("{sum}, the grace period is {grace}: the process would be killed in the middle; allow {safe}, or shorten drain.budget")),
        Some(grace) if grace.0 < safe.0 => found.warning(format!("{sum}, the grace period is {grace}: the last words and the exit code may be lost; allow {safe}, or shorten drain.budget")),
        Some(grace) => found.ok(format!("{sum}, the grace period is {grace}")),
    }
}

/// Files beside those of connections: listeners, logs, event queues, configuration.
const OTHER_FILES: u64 = 64;

/// Whether so many connections can be open as are allowed. The gateway raises the soft limit itself.
pub(super) fn files(config: &Config, found: &mut Findings) {
    let workers = snapshot::workers(config).get() as u64;
    let (clients, kept) = (
        config.limits.connections as u64,
        config.upstream.pool_size as u64,
    );
    // Each connection may become a tunnel, with one of its own to the backend.
    let needed = 2 * clients + workers * kept + OTHER_FILES;
    let what = format!("open files: limits.connections = {clients} may need {needed}");
    match getrlimit(Resource::Nofile).maximum {
        None => found.ok(format!("{what}, there is no limit")),
        Some(limit) if limit < needed => found.warning(format!("{what}, the limit is {limit}: raise it (ulimit -Hn, LimitNOFILE), or set limits.connections to {} at most", limit.saturating_sub(workers * kept + OTHER_FILES) / 2)),
        Some(limit) => found.ok(format!("{what}, the limit is {limit}")),
    }
}

/// Whether anything bounds the requests that wait for the backend.
pub(super) fn overload(config: &Config, found: &mut Findings) {
    let (most, overload) = (config.limits.requests, &config.overload);
    let places = format!("overload: limits.requests = {most}");
    match most.on() {
        None if !overload.adaptive => found.warning(format!("{places} and overload.adaptive = false: nothing bounds how many requests wait for a slow backend; set one of them")),
        Some(most) if overload.adaptive && most.0 <= overload.least.0 => found.warning(format!("{places} is not more than overload.least = {}: overload.adaptive does nothing", overload.least)),
        _ if overload.adaptive => found.ok(format!("{places}, fewer while the backend's answers are slow; name paths whose answers are held back (long polling) in overload.except")),
        _ => found.ok(places),
    }
}

/// No gateway of this version ran before: 2025-01-01T00:00:00Z, seconds after the epoch.
const EARLIEST: u64 = 1_735_689_600;

/// Whether the clock can be right: certificates and tokens hang on it.
pub(super) fn clock(found: &mut Findings) {
    let now = SystemTime::now();
    let shown = httpdate::fmt_http_date(now);
    match now.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since.as_secs() >= EARLIEST => found.ok(format!("clock: {shown}")),
        Ok(_) | Err(_) => found.problem(format!(
            "clock: {shown} is in the past: set it, or let it be set (NTP)"
        )),
    }
}
