//! A worker: one event loop on one thread.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio_util::sync::CancellationToken;

use super::{Failed, failed};
use crate::downstream;
use crate::drain::Drain;
use crate::pipeline::Worker;
use crate::snapshot::Current;
use crate::telemetry::{AccessLog, Metrics, Recorder, Tracer};
use crate::upstream::Admission;

/// What every worker is made of.
pub(super) struct Common {
    pub(super) current: Current,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tracer: Option<Arc<Tracer>>,
    pub(super) access: Arc<AccessLog>,
    pub(super) drain: Drain,
    pub(super) places: Arc<downstream::Open>,
    pub(super) admission: Arc<Admission>,
    /// Nothing is accepted before.
    pub(super) open: CancellationToken,
}

/// Starts a worker for each hand of listeners, and waits until all could accept.
pub(super) fn start(
    hands: Vec<Vec<TcpListener>>,
    common: &Common,
) -> Result<Vec<JoinHandle<()>>, Failed> {
    let mut workers = Vec::new();
    let (tell, told) = mpsc::channel();
    for (i, listeners) in hands.into_iter().enumerate() {
        let own = Common {
            current: Arc::clone(&common.current),
            metrics: Arc::clone(&common.metrics),
            tracer: common.tracer.clone(),
            access: Arc::clone(&common.access),
            drain: common.drain.for_worker(),
            places: Arc::clone(&common.places),
            admission: Arc::clone(&common.admission),
            open: common.open.clone(),
        };
        let tell = tell.clone();
        let thread = std::thread::Builder::new()
            .name(format!("worker-{i}"))
            .spawn(move || work(listeners, own, &tell));
        workers.push(thread.map_err(|e| failed("a worker thread", e))?);
    }
    for started in told.iter().take(workers.len()) {
        started?;
    }
    Ok(workers)
}

/// One worker: its own runtime, listeners and connections to the backend.
fn work(listeners: Vec<TcpListener>, common: Common, tell: &mpsc::Sender<Result<(), Failed>>) {
    let told = |outcome| drop(tell.send(outcome));
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(e) => return told(Err(e)),
    };
    let Common {
        current,
        metrics,
        tracer,
        access,
        drain,
        places,
        admission,
        open,
    } = common;
    runtime.block_on(async {
        let worker = Rc::new(Worker::new(
            current,
            Rc::new(Recorder::new(metrics, tracer, access)),
            drain.clone(),
            admission,
        ));
        let busy_poll = Rc::clone(&worker.upstream.busy_poll);
        drop(tokio::task::spawn_local(
            async move { busy_poll.run().await },
        ));
        let owner = Rc::clone(&worker);
        drop(tokio::task::spawn_local(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            loop {
                tick.tick().await;
                let snapshot = owner.snapshot();
                owner.upstream.close_idle(&snapshot.upstream);
                owner.store.follow(snapshot.rate_limits.shared());
            }
        }));
        let listeners: io::Result<Vec<_>> = listeners
            .into_iter()
            .map(tokio::net::TcpListener::from_std)
            .collect();
        let listeners = match listeners {
            Ok(listeners) => listeners,
            Err(e) => return told(Err(failed("a worker cannot listen", e))),
        };
        told(Ok(()));
        open.cancelled().await;
        let serving: Vec<_> = listeners
            .into_iter()
            .map(|listener| downstream::serve(listener, Rc::clone(&worker), Arc::clone(&places)))
            .map(tokio::task::spawn_local)
            .collect();
        for serving in serving {
            // It ends with the drain; a panic in it has been reported.
            drop(serving.await);
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

/// An event loop for this thread.
pub(super) fn runtime() -> Result<LocalRuntime, Failed> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(|e| failed("event loop", e))
}
