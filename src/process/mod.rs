//! The wiring: start in this order, drain in that.

mod built_in;
mod channel;
mod handed;
mod handover;

mod signals;
mod sockets;
mod worker;

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use self::built_in::Accepting;
pub use self::handed::Handed;
use self::handed::Predecessor;
use self::handover::{Program, hand_over};
use self::signals::{Asked, Signals};
use self::sockets::Listening;
use crate::admin::{self, Admin};
use crate::config::units::Span;
use crate::config::{self, Config, LimitStore, Source};
use crate::drain::{Drain, Leaving};
use crate::otlp;
use crate::snapshot::{self, Current, Loaded, Reloader, Snapshot};
use crate::telemetry::{self, ClosedBy, Metrics, Tracer, manager};
use crate::upstream::Admission;
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

/// Runs the gateway until it has drained, on the sockets that were handed to it where there are
/// some. `ready` is told where it listens once it serves.
pub fn run(
    source: Source,
    handed: &mut Handed,
    ready: impl FnOnce(Bound, &Config, &Snapshot),
) -> Result<(), Failed> {
    let program = Program::of_process().map_err(|e| failed("the path of this program", e))?;
    let runtime = worker::runtime()?;
    // First of all: one that comes early is to wait, not to end the process.
    let (mut signals, hangup) = runtime
        .block_on(async { Ok((Signals::new()?, signal(SignalKind::hangup())?)) })
        .map_err(|e: std::io::Error| failed("signals", e))?;
    let source = Arc::new(source);
    // What follows is logged, and how, is written there.
    let written = source.read().map_err(|e| Failed(e.to_string()))?;
    let files = make_room_for_files(written.limits.connections);
    let log = Arc::new(telemetry::start_log(&written.log));
    // Written to the very end.
    let _log = Arc::clone(&log);
    if let Err(e) = files {
        tracing::warn!(error = %e, "cannot raise the limit of open files");
    }
    let metrics = Arc::new(Metrics::new().map_err(|e| failed("metrics", e))?);
    let loaded = Loaded::load(&source, &metrics, None).map_err(|e| failed("configuration", e))?;
    let (tracer, traces) = traces(&loaded, &metrics)?;
    let reloader = Reloader::start(
        source,
        loaded,
        Arc::clone(&metrics),
        Arc::clone(&log),
        tracer.clone(),
    );
    let config = &reloader.config().clone();
    let current = Arc::clone(&reloader.current);
    let drain = Drain::default();

    let listening = Listening::new(config, std::mem::take(&mut handed.sockets))?;
    let cannot_listen = |e| failed("the listening sockets", e);
    let (public, admin) = listening.addresses().map_err(cannot_listen)?;
    let accepting = Accepting::default();
    let visitor = listening.visitor().map_err(cannot_listen)?;
    let built_in = built_in::start(config, &current, &drain, visitor, accepting.clone())?;

    let admission = Arc::<Admission>::default();
    let hands = listening.deal(snapshot::workers(config).get());
    let workers = worker::start(
        hands.map_err(cannot_listen)?,
        &worker::Common {
            current: Arc::clone(&current),
            metrics: Arc::clone(&metrics),
            tracer,
            access: log.access(),
            drain: drain.clone(),
            places: Arc::default(),
            admission: Arc::clone(&admission),
            open: accepting.from.clone(),
        },
    )?;

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
        if let Some(predecessor) = handed.predecessor().map_err(|e| failed("hand-over", e))? {
            take_over(predecessor, &health, &mut signals).await?;
            handed.done();
            metrics.process.handovers_taken.inc();
        }
        accepting.from.cancel();

        tracing::info!(listen = %public, admin = %admin, base_endpoint = current.load().endpoint.url(), workers = workers.len(), version = env!("CARGO_PKG_VERSION"), "started");
        for note in &current.load().notes {
            tracing::warn!("{note}");
        }
        if current.load().keys.is_empty() {
            tracing::warn!(
                "no API key is configured (REST_KEY, api.keys, api.keys_file): the REST API is closed"
            );
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
        manager::ready(public);
        ready(Bound { public, admin }, config, &current.load());

        let listener = listening.admin().and_then(tokio::net::TcpListener::from_std);
        let listener = listener.map_err(|e| failed("admin.listen", e))?;
        let admin = Rc::new(Admin {
            metrics: Arc::clone(&metrics),
            current: Arc::clone(&current),
            admission,
            started: Cell::new(true),
            draining: Cell::new(false),
            health,
            drain: drain.clone(),
            log,
            live: admin::Live::default(),
        });
        let serving = admin::serve(listener, Rc::clone(&admin), accepting.until.clone());
        drop(tokio::task::spawn_local(serving));
        drop(tokio::task::spawn_local(tidy(Arc::clone(&current))));
        drop(tokio::task::spawn_local(tell_of_store(Arc::clone(
            &current,
        ))));
        drop(tokio::task::spawn_local(reloader.run(hangup)));

        let leaving = until_leaving(&current, &program, &listening, &metrics, &mut signals).await;
        if leaving == Leaving::Handover {
            // The successor answers from now on.
            accepting.until.cancel();
        }
        let drain = current.load().drain.clone();
        drain_all(&drain, leaving, &admin, listening, &mut signals).await;
        Ok(())
    })?;
    for worker in workers {
        // A worker catches the panics of its tasks; one that died has said so.
        worker
            .join()
            .map_err(|_panic| Failed("a worker thread died".into()))?;
    }
    if let Some(traces) = traces {
        traces.finish();
    }
    if let Some(built_in) = built_in {
        built_in
            .join()
            .map_err(|_panic| Failed("the built-in backend died".into()))?;
    }
    Ok(())
}

/// Traces, and the thread that sends them; neither where they are off.
fn traces(
    loaded: &Loaded,
    metrics: &Metrics,
) -> Result<(Option<Arc<Tracer>>, Option<otlp::Sender>), Failed> {
    let Some(settings) = &loaded.snapshot.trace else {
        return Ok((None, None));
    };
    let (tracer, queue) = Tracer::new(&loaded.config.trace, metrics);
    let sender = otlp::Sender::start(settings, queue, metrics);
    let sender = sender.map_err(|e| failed("trace", e))?;
    Ok((Some(tracer), Some(sender)))
}

/// Takes over from the process that started this one, once `/readyz` would say ok.
async fn take_over(
    predecessor: Predecessor,
    health: &Health,
    signals: &mut Signals,
) -> Result<(), Failed> {
    let taken = async {
        if !health.is_up() {
            predecessor.waiting("the backend accepts no connections");
        }
        let mut look = tokio::time::interval(Duration::from_millis(10));
        while !health.is_up() {
            look.tick().await;
        }
        predecessor.take_over().await
    };
    tokio::select! {
        taken = taken => taken.map_err(|e| failed("hand-over", e)),
        () = signals.end() => Err(Failed("ended before it took over".into())),
    }
}

/// Serves until there is a reason to leave.
async fn until_leaving(
    current: &Current,
    program: &Program,
    listening: &Listening,
    metrics: &Metrics,
    signals: &mut Signals,
) -> Leaving {
    loop {
        if signals.next().await == Asked::End {
            return Leaving::Shutdown;
        }
        let patience = current.load().drain.takeover.0;
        let mut upgrade = pin!(hand_over(program, listening, patience));
        let outcome = loop {
            tokio::select! {
                outcome = upgrade.as_mut() => break outcome,
                asked = signals.next() => match asked {
                    // Dropped, the new process is ended: it has accepted nothing yet.
                    Asked::End => return Leaving::Shutdown,
                    Asked::Upgrade => {
                        metrics.process.handovers_refused.inc();
                        tracing::warn!("SIGUSR2 during a hand-over: one at a time");
                    }
                },
            }
        };
        match outcome {
            Ok(()) => return Leaving::Handover,
            Err(why) => {
                metrics.process.handovers_failed.inc();
                tracing::error!(why, "no hand-over: this process goes on");
            }
        }
    }
}

/// SIGTERM -> readiness fails -> delay -> no new connection, finish what is there -> at the
/// deadline the rest is cut and counted. Where a successor serves already, there is nothing to fail
/// and nothing to wait for.
async fn drain_all(
    drain: &config::Drain,
    leaving: Leaving,
    admin: &Admin,
    listening: Listening,
    signals: &mut Signals,
) {
    admin.draining.set(true);
    admin.metrics.process.draining.set(1);
    let delay = match leaving {
        Leaving::Shutdown => {
            manager::stopping();
            drain.delay
        }
        Leaving::Handover => Span::secs(0),
    };
    tracing::info!(%delay, budget = %drain.budget, connections = admin.drain.remaining(), "draining");
    tokio::select! {
        () = tokio::time::sleep(delay.0) => {}
        () = signals.end() => tracing::info!("second signal: no delay"),
    }
    drop(listening);
    admin.drain.stop(leaving, drain.budget.0);
    let begun = Instant::now();
    let deadline = begun + drain.budget.0;
    tokio::select! {
        () = admin.drain.finished() => {}
        () = tokio::time::sleep_until(deadline) => {}
        () = signals.end() => {
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
    metrics
        .process
        .drain_cut_connections
        .inc_by(connections_cut);
    admin.drain.cut();
    let _: Result<(), tokio::time::error::Elapsed> =
        tokio::time::timeout(Duration::from_secs(2), admin.drain.finished()).await;
    let tunnels_cut = metrics.process.drain_cut_tunnels.get();
    let tunnels_closed = metrics
        .websockets_closed(ClosedBy::Drain)
        .saturating_sub(tunnels_cut);
    tracing::info!(budget = %drain.budget, tunnels_closed, tunnels_cut, connections_cut, cut = tunnels_cut + connections_cut, took_ms = took.as_millis() as u64, "drained");
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

/// Each tunnel takes two files; the usual soft limit is 1,024. The kernel's table of a process' files
/// grows by doubling, and each time a process with threads waits for milliseconds in which no request
/// is served: it is made as large as so many connections need while there is one thread.
fn make_room_for_files(connections: usize) -> std::io::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let most = limit
        .maximum
        .map_or(i32::MAX, |most| i32::try_from(most).unwrap_or(i32::MAX));
    let needed = connections.saturating_mul(2).saturating_add(64);
    let needed = i32::try_from(needed).unwrap_or(i32::MAX);
    // A number as high as that, taken and given back. Where it cannot be had, the table grows later.
    drop(rustix::io::fcntl_dupfd_cloexec(
        std::io::stdin(),
        needed.min(most - 1),
    ));
    Ok(())
}
