//! The built-in backend.

#[cfg(feature = "visitor")]
use std::net::TcpListener;

#[cfg(feature = "visitor")]
use tokio::runtime::Builder;

use super::Failed;
#[cfg(feature = "visitor")]
use super::failed;
use crate::config::Config;
use crate::drain::Drain;
use crate::snapshot::{self, Current};

/// What the built-in backend's keys are: whatever is in force here.
#[cfg(feature = "visitor")]
fn judge(current: &Current) -> crate::visitor::Judge {
    let current = std::sync::Arc::clone(current);
    std::sync::Arc::new(move |authorization| current.load().keys.backend_admits(authorization))
}

/// The built-in backend on a thread of its own, reached through its socket like any other.
#[cfg(feature = "visitor")]
pub(super) fn start(
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
        judge: Some(judge(current)),
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
pub(super) fn start(
    config: &Config,
    _: &Current,
    _: &Drain,
) -> Result<Option<std::thread::JoinHandle<()>>, Failed> {
    if snapshot::uses_built_in(config) {
        return Err(Failed("upstream.url = \"visitor\": this binary was built without the built-in backend: expected http://host[:port]".into()));
    }
    Ok(None)
}
