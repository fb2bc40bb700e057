//! The wiring: start in this order, drain in that.

use std::cell::Cell;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::admin::{self, Admin};
use crate::config::Config;
use crate::downstream;
use crate::drain::{Drain, Leaving};
use crate::pipeline::Worker;
use crate::snapshot::{self, Current, Snapshot};
use crate::telemetry::{self, ClosedBy, Metrics, Recorder};
use crate::upstream::health::Health;

/// Why the gateway did not start or had to end.
#[derive(Debug)]
pub struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

fn failed(what: &str, e: impl fmt::Display) -> Failed {
    Failed(format!("{what}: {e}"))
}

/// Where the gateway listens.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The TLS listener.
    pub public: SocketAddr,
    /// Health and metrics.
    pub admin: SocketAddr,
}

/// Runs the gateway until it has drained. `ready` is told where it listens once everything is
/// bound.
pub fn run(config: &Config, ready: impl FnOnce(Bound, &Snapshot)) -> Result<(), Failed> {
    let log = telemetry::start_log(&config.log);
    raise_file_limit();
    let metrics = Arc::new(Metrics::new().map_err(|e| failed("metrics", e))?);
    let snapshot = Snapshot::compile(config, &metrics).map_err(|e| failed("configuration", e))?;
    snapshot.show(&metrics);
    metrics.config_loaded(&digest(config));
    let current: Current = Arc::new(ArcSwap::from_pointee(snapshot));
    let drain = Drain::default();

    let listeners = bind(config)?;
    let address = listeners
        .first()
        .map_or(Ok(config.public.listen), TcpListener::local_addr)
        .map_err(|e| failed("public.listen", e))?;
    let admin_listener = TcpListener::bind(config.admin.listen)
        .and_then(|l| l.set_nonblocking(true).map(|()| l))
        .map_err(|e| failed(&format!("admin.listen = \"{}\"", config.admin.listen), e))?;
    let admin_address = admin_listener
        .local_addr()
        .map_err(|e| failed("admin.listen", e))?;
    let built_in = start_built_in(config, &current, &drain)?;

    let runtime = runtime()?;
    // Before anybody is told that it runs: from then on a signal means a drain.
    let mut signals = runtime
        .block_on(async { Signals::new() })
        .map_err(|e| failed("signals", e))?;

    let limits = limits(config);
    let workers: Vec<_> = listeners
        .into_iter()
        .enumerate()
        .map(|(i, listener)| {
            let (current, metrics, drain, limits) = (
                Arc::clone(&current),
                Arc::clone(&metrics),
                drain.for_worker(),
                limits.clone(),
            );
            std::thread::Builder::new()
                .name(format!("worker-{i}"))
                .spawn(move || work(listener, current, metrics, &drain, limits))
                .map_err(|e| failed("a worker thread", e))
        })
        .collect::<Result<_, _>>()?;

    tracing::info!(listen = %address, admin = %admin_address, base_endpoint = current.load().endpoint.url(), workers = workers.len(), version = env!("CARGO_PKG_VERSION"), "started");
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    if current.load().keys.is_empty() {
        tracing::warn!("no API key is configured (REST_KEY): the REST API is closed");
    }
    ready(
        Bound {
            public: address,
            admin: admin_address,
        },
        &current.load(),
    );

    runtime.block_on(async {
        let health = Health::default();
        let watch = health.clone().watch(
            current.load().upstream.clone(),
            config.upstream.health_interval.0,
            Arc::clone(&metrics),
        );
        drop(tokio::task::spawn_local(watch));
        let admin = Rc::new(Admin {
            metrics: Arc::clone(&metrics),
            started: Cell::new(true),
            draining: Cell::new(false),
            health,
            drain: drain.clone(),
            log,
        });
        let listener = tokio::net::TcpListener::from_std(admin_listener)
            .map_err(|e| failed("admin.listen", e))?;
        drop(tokio::task::spawn_local(admin::serve(
            listener,
            Rc::clone(&admin),
        )));
        drop(tokio::task::spawn_local(tidy(Arc::clone(&current))));
        signals.next().await;
        drain_all(config, Leaving::Shutdown, &admin, &mut signals).await;
        Ok(())
    })?;
    for worker in workers {
        // A worker catches the panics of its tasks; one that died has said so.
        worker
            .join()
            .map_err(|_panic| Failed("a worker thread died".into()))?;
    }
    if let Some(built_in) = built_in {
        built_in
            .join()
            .map_err(|_panic| Failed("the built-in backend died".into()))?;
    }
    Ok(())
}

/// SIGTERM -> readiness fails -> delay -> no new connection, finish what is there -> at the
/// deadline the rest is cut and counted.
async fn drain_all(config: &Config, leaving: Leaving, admin: &Admin, signals: &mut Signals) {
    admin.draining.set(true);
    admin.metrics.draining.set(1);
    tracing::info!(delay = %config.drain.delay, budget = %config.drain.budget, connections = admin.drain.remaining(), "draining");
    tokio::select! {
        () = tokio::time::sleep(config.drain.delay.0) => {}
        () = signals.next() => tracing::info!("second signal: no delay"),
    }
    admin.drain.stop(leaving, config.drain.budget.0);
    let begun = Instant::now();
    let deadline = begun + config.drain.budget.0;
    tokio::select! {
        () = admin.drain.finished() => {}
        () = tokio::time::sleep_until(deadline) => {}
        () = signals.next() => {
            tracing::info!("second signal: two seconds left");
            admin.drain.hurry();
            let deadline = deadline.min(Instant::now() + Duration::from_secs(2));
            let finished = tokio::time::timeout_at(deadline, admin.drain.finished());
            let _: Result<(), tokio::time::error::Elapsed> = finished.await;
        }
    }
    let took = begun.elapsed();
    let metrics = &admin.metrics;
    let remaining = admin.drain.remaining() as u64;
    let connections_cut = remaining.saturating_sub(metrics.websockets_open());
    metrics.drain_cut_connections.inc_by(connections_cut);
    admin.drain.cut();
    let _: Result<(), tokio::time::error::Elapsed> =
        tokio::time::timeout(Duration::from_secs(2), admin.drain.finished()).await;
    let tunnels_cut = metrics.drain_cut_tunnels.get();
    let tunnels_closed = metrics
        .websockets_closed(ClosedBy::Drain)
        .saturating_sub(tunnels_cut);
    tracing::info!(budget = %config.drain.budget, tunnels_closed, tunnels_cut, connections_cut, cut = tunnels_cut + connections_cut, took_ms = took.as_millis() as u64, "drained");
}

/// SIGTERM and Ctrl-C.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// One worker: its own runtime, listener and connections to the backend.
fn work(
    listener: TcpListener,
    current: Current,
    metrics: Arc<Metrics>,
    drain: &Drain,
    limits: downstream::Limits,
) {
    let Ok(runtime) = runtime() else {
        tracing::error!("a worker has no event loop");
        return;
    };
    runtime.block_on(async {
        let worker = Rc::new(Worker::new(
            current,
            Rc::new(Recorder::new(metrics)),
            drain.clone(),
        ));
        let owner = Rc::clone(&worker);
        drop(tokio::task::spawn_local(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            loop {
                tick.tick().await;
                owner.upstream.close_idle(&owner.snapshot().upstream);
            }
        }));
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => downstream::serve(listener, worker, Rc::new(limits)).await,
            Err(e) => tracing::error!(error = %e, "a worker cannot listen"),
        }
        tokio::select! {
            () = drain.finished() => {}
            () = async {
                drain.cutting().await;
                // Cut tasks end at their next turn; one that does not must not hold the process.
                tokio::time::sleep(Duration::from_secs(2)).await;
            } => {}
        }
    });
}

fn runtime() -> Result<LocalRuntime, Failed> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(|e| failed("event loop", e))
}

/// A word that differs when the configuration does; keys do not go into it.
fn digest(config: &Config) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    let digest = digest(&SHA256, format!("{config:?}").as_bytes());
    digest.as_ref()[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A listener for each worker, all on one address.
fn bind(config: &Config) -> Result<Vec<TcpListener>, Failed> {
    let mut address = config.public.listen;
    let mut listeners = Vec::new();
    for _ in 0..snapshot::workers(config).get() {
        let bound = downstream::bind(address).and_then(|listener| {
            address = listener.local_addr()?; // the port, where 0 asked for any
            Ok(listener)
        });
        listeners.push(bound.map_err(|e| failed(&format!("public.listen = \"{address}\""), e))?);
    }
    Ok(listeners)
}

fn limits(config: &Config) -> downstream::Limits {
    downstream::Limits {
        connections: config.limits.connections,
        connections_per_client: config
            .limits
            .connections_per_client
            .on()
            .map(|count| count.0.get()),
        open: Arc::default(),
        header_bytes: usize::try_from(config.limits.header_bytes.0).unwrap_or(usize::MAX),
        header_count: config.limits.header_count,
        h2_streams: config.limits.h2_streams,
        proxy_header: config
            .public
            .proxy_protocol
            .then_some(config.timeouts.proxy_header.0),
        handshake: config.timeouts.handshake.0,
        header: config.timeouts.header.0,
        write_stall: config.timeouts.write_stall.0,
        keep_alive: config.timeouts.keep_alive.0,
    }
}

/// Forgets clients whose limits are full again.
async fn tidy(current: Current) {
    let mut tick = tokio::time::interval(Duration::from_secs(60));
    loop {
        tick.tick().await;
        current.load().rate_limits.forget_quiet_clients();
    }
}

/// Each tunnel takes two files; the usual soft limit is 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(error = %e, "cannot raise the limit of open files");
    }
}

/// The built-in backend on a thread of its own, reached through its socket like any other.
#[cfg(feature = "visitor")]
fn start_built_in(
    config: &Config,
    current: &Current,
    drain: &Drain,
) -> Result<Option<std::thread::JoinHandle<()>>, Failed> {
    if !snapshot::uses_built_in(config) {
        return Ok(None);
    }
    let at = config.visitor.listen;
    let listener = TcpListener::bind(at)
        .and_then(|l| l.set_nonblocking(true).map(|()| l))
        .map_err(|e| failed(&format!("visitor.listen = \"{at}\""), e))?;
    let snapshot = current.load();
    let options = crate::visitor::Options {
        base_endpoint: snapshot.endpoint.url(),
        rest_keys: config
            .api
            .keys
            .values()
            .map(|key| key.reveal().to_owned())
            .collect(),
        seed: config.visitor.seed.clone(),
        mount: if snapshot.upstream_base.is_empty() {
            "/".into()
        } else {
            snapshot.upstream_base.to_string()
        },
        ..Default::default()
    };
    let server =
        crate::visitor::Server::new(&options).map_err(|e| failed("the built-in backend", e))?;
    let drain = drain.clone();
    let thread = std::thread::Builder::new()
        .name("visitor".into())
        .spawn(move || {
            let Ok(runtime) = Builder::new_current_thread().enable_all().build() else {
                return;
            };
            let ended = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                // It serves until the last request is through.
                server
                    .serve(listener, async move { drain.finished().await })
                    .await
            });
            if let Err(e) = ended {
                tracing::error!(error = %e, "the built-in backend ended");
            }
        });
    let thread = thread.map_err(|e| failed("the built-in backend", e))?;
    Ok(Some(thread))
}

#[cfg(not(feature = "visitor"))]
fn start_built_in(
    config: &Config,
    _: &Current,
    _: &Drain,
) -> Result<Option<std::thread::JoinHandle<()>>, Failed> {
    if snapshot::uses_built_in(config) {
        return Err(Failed("upstream.url = \"visitor\": this binary was built without the built-in backend: expected http://host[:port]".into()));
    }
    Ok(None)
}
