//! The built-in backend.

#[cfg(feature = "visitor")]
use std::io;
#[cfg(feature = "visitor")]
use std::net::SocketAddr;
use std::net::TcpListener;

#[cfg(feature = "visitor")]
use tokio::net::TcpStream;
#[cfg(feature = "visitor")]
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use super::Failed;
#[cfg(feature = "visitor")]
use super::failed;
use crate::config::Config;
use crate::drain::Drain;
#[cfg(not(feature = "visitor"))]
use crate::snapshot;
use crate::snapshot::Current;

/// When the built-in backend accepts connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Accepting {
    /// From then on.
    pub(super) from: CancellationToken,
    /// Until then: its successor does.
    pub(super) until: CancellationToken,
}

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
    listener: Option<TcpListener>,
    accepting: Accepting,
) -> Result<Option<std::thread::JoinHandle<()>>, Failed> {
    let Some(listener) = listener else {
        return Ok(None);
    };
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
                tokio::select! {
                    () = accepting.from.cancelled() => {}
                    () = drain.finished() => return Ok(()),
                }
                let listener = Shared {
                    listener: Some(tokio::net::TcpListener::from_std(listener)?),
                    until: accepting.until,
                };
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

/// A listener that a successor has, too, and alone from some moment on.
#[cfg(feature = "visitor")]
struct Shared {
    listener: Option<tokio::net::TcpListener>,
    until: CancellationToken,
}

#[cfg(feature = "visitor")]
impl axum::serve::Listener for Shared {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        if let Some(listener) = &mut self.listener {
            tokio::select! {
                biased;
                () = self.until.cancelled() => {}
                accepted = axum::serve::Listener::accept(listener) => return accepted,
            }
        }
        self.listener = None;
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let listener = self.listener.as_ref();
        listener.map_or_else(
            || Err(io::ErrorKind::NotConnected.into()),
            tokio::net::TcpListener::local_addr,
        )
    }
}

#[cfg(not(feature = "visitor"))]
pub(super) fn start(
    config: &Config,
    _: &Current,
    _: &Drain,
    _: Option<TcpListener>,
    _: Accepting,
) -> Result<Option<std::thread::JoinHandle<()>>, Failed> {
    if snapshot::uses_built_in(config) {
        return Err(Failed("upstream.url = \"visitor\": this binary was built without the built-in backend: expected http://host[:port]".into()));
    }
    Ok(None)
}
