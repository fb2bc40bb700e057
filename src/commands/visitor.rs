//! `visitor`: the built-in backend by itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Wrong;
use crate::config::Log;
use crate::telemetry::start_log;
use crate::visitor::{Options, Server};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Address and port, plain HTTP.
    #[arg(long, default_value = "127.0.0.1:5002")]
    listen: SocketAddr,
    /// Public URL; watch URLs begin with it.
    #[arg(long, env = "BASE_ENDPOINT", default_value = "http://127.0.0.1:5002")]
    base_endpoint: String,
    /// Path its own tree begins at.
    #[arg(long, default_value = "/")]
    mount: String,
    /// Value of the Authorization header; none: the API is disabled.
    #[arg(long, env = "REST_KEY", hide_env_values = true)]
    rest_key: Option<String>,
    /// Signs tokens; at least 32 characters; none: a random one.
    #[arg(long, env = "SECRET_KEY", hide_env_values = true)]
    secret_key: Option<String>,
    /// JSON file with sample visitors.
    #[arg(long, value_name = "FILE")]
    seed: Option<PathBuf>,
    /// Where visitors are kept.
    #[arg(long, default_value = "memory", value_parser = ["memory"])]
    store: String,
    /// How long a watch URL is valid, in seconds.
    #[arg(long, default_value_t = 600)]
    token_ttl: u64,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Wrong> {
    let _log = start_log(&Log::default());
    let options = Options {
        base_endpoint: arguments.base_endpoint.clone(),
        rest_keys: arguments
            .rest_key
            .iter()
            .filter(|key| !key.is_empty())
            .cloned()
            .collect(),
        judge: None,
        secret_key: arguments.secret_key.clone().filter(|key| !key.is_empty()),
        seed: arguments.seed.clone(),
        mount: arguments.mount.clone(),
        token_ttl: Duration::from_secs(arguments.token_ttl),
    };
    let server = Server::new(&options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(arguments.listen)
            .await
            .map_err(|e| Wrong(format!("--listen {}: {e}", arguments.listen)))?;
        eprintln!(
            "visitor backend on http://{}{}",
            listener.local_addr()?,
            arguments.mount
        );
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        server.serve(listener, shutdown).await?;
        Ok(())
    })
}
