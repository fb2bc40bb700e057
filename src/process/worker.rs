//! A worker: one event loop on one thread.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

use super::{Failed, failed};
use crate::downstream;
use crate::drain::Drain;
use crate::pipeline::Worker;
use crate::snapshot::Current;
use crate::telemetry::{Metrics, Recorder};

/// One worker: its own runtime, listener and connections to the backend.
pub(super) fn work(
    listener: TcpListener,
    current: Current,
    metrics: Arc<Metrics>,
    drain: &Drain,
    places: Arc<downstream::Open>,
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
                let snapshot = owner.snapshot();
                owner.upstream.close_idle(&snapshot.upstream);
                owner.store.follow(snapshot.rate_limits.shared());
            }
        }));
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => downstream::serve(listener, worker, places).await,
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

/// An event loop for this thread.
pub(super) fn runtime() -> Result<LocalRuntime, Failed> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(|e| failed("event loop", e))
}
