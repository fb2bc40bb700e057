//! The wiring: start in this order, drain in that.

mod built_in;
mod signals;
mod sockets;
mod worker;

use std::cell::Cell;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use self::signals::Signals;
use crate::admin::{self, Admin};
use crate::config::{self, Config, LimitStore, Source};
use crate::drain::{Drain, Leaving};
use crate::snapshot::{Current, Loaded, Reloader, Snapshot};
use crate::telemetry::{self, Metrics};
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
pub fn run(source: Source, ready: impl FnOnce(Bound, &Config, &Snapshot)) -> Result<(), Failed> {
    let source = Arc::new(source);
    // What follows is logged, and how, is written there.
    let written = source.read().map_err(|e| Failed(e.to_string()))?;
    let log = Arc::new(telemetry::start_log(&written.log));
    raise_file_limit();
    let metrics = Arc::new(Metrics::new().map_err(|e| failed("metrics", e))?);
    let loaded = Loaded::load(&source, &metrics, None).map_err(|e| failed("configuration", e))?;
    let reloader = Reloader::start(source, loaded, Arc::clone(&metrics), Arc::clone(&log));
    let config = &reloader.config().clone();
    let current = Arc::clone(&reloader.current);
    let drain = Drain::default();

    let listeners = sockets::bind(config)?;
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
    let built_in = built_in::start(config, &current, &drain)?;

    let runtime = worker::runtime()?;
    // Before anybody is told that it runs: from then on a signal means a drain.
    let (mut signals, hangup) = runtime
        .block_on(async { Ok((Signals::new()?, signal(SignalKind::hangup())?)) })
        .map_err(|e: std::io::Error| failed("signals", e))?;

    let places = Arc::default();
    let workers: Vec<_> = listeners
        .into_iter()
        .enumerate()
        .map(|(i, listener)| {
            let (current, metrics, drain, places) = (
                Arc::clone(&current),
                Arc::clone(&metrics),
                drain.for_worker(),
                Arc::clone(&places),
            );
            std::thread::Builder::new()
                .name(format!("worker-{i}"))
                .spawn(move || worker::work(listener, current, metrics, &drain, places))
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
    match (config.rate_limit.store, config.rate_limit.replicas.get()) {
        (LimitStore::Local, 2..) => {
            tracing::warn!(
                "rate_limit.replicas is more than 1 and rate_limit.store is \"local\": each replica admits the whole limit"
            );
        }
        (LimitStore::Redis, 1) => {
            tracing::warn!(
                "rate_limit.replicas is 1: while the shared store does not answer this replica admits the whole limit"
            );
        }
        _ => {}
    }
    ready(
        Bound {
            public: address,
            admin: admin_address,
        },
        config,
        &current.load(),
    );

    runtime.block_on(async {
        let health = Health::default();
        let now = {
            let current = Arc::clone(&current);
            move || {
                let snapshot = current.load();
                (snapshot.upstream.clone(), snapshot.health_interval)
            }
        };
        let watch = health.clone().watch(now, Arc::clone(&metrics));
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
        drop(tokio::task::spawn_local(tell_of_store(Arc::clone(
            &current,
        ))));
        drop(tokio::task::spawn_local(reloader.run(hangup)));
        signals.next().await;
        let drain = current.load().drain.clone();
        drain_all(&drain, Leaving::Shutdown, &admin, &mut signals).await;
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
async fn drain_all(drain: &config::Drain, leaving: Leaving, admin: &Admin, signals: &mut Signals) {
    admin.draining.set(true);
    admin.metrics.draining.set(1);
    tracing::info!(delay = %drain.delay, budget = %drain.budget, connections = admin.drain.remaining(), "draining");
    tokio::select! {
        () = tokio::time::sleep(drain.delay.0) => {}
        () = signals.next() => tracing::info!("second signal: no delay"),
    }
    admin.drain.stop(leaving, drain.budget.0);
    let begun = Instant::now();
    let deadline = begun + drain.budget.0;
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
    let cut = admin.drain.remaining();
    admin.drain.cut();
    let _: Result<(), tokio::time::error::Elapsed> =
        tokio::time::timeout(Duration::from_secs(2), admin.drain.finished()).await;
    tracing::info!(cut, took_ms = begun.elapsed().as_millis() as u64, "drained");
}

/// Forgets clients whose limits are full again.
async fn tidy(current: Current) {
    let mut tick = tokio::time::interval(Duration::from_secs(60));
    loop {
        tick.tick().await;
        current.load().rate_limits.forget_quiet_clients();
    }
}

/// Says when the store of limits that replicas share begins and ceases to answer.
async fn tell_of_store(current: Current) {
    const OFTEN: Duration = Duration::from_secs(1);
    let mut tick = tokio::time::interval_at(Instant::now() + OFTEN, OFTEN);
    loop {
        tick.tick().await;
        if let Some(shared) = current.load().rate_limits.shared() {
            shared.reach.tell();
        }
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
