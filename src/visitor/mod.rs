//! The built-in visitor backend: the REST API of the contract (section 0) over visitors in
//! memory, a page that makes its reader a visitor, and a screen on which an agent watches one.
//!
//! It is reached through a socket like any other backend and imports nothing of the gateway.
//! The API and the `watch_url` follow the contract; sockets and pages are our own, as the
//! vendor's are not published.

mod api;
mod grant;
mod messages;
mod object;
mod pages;
mod record;
mod search;
mod seed;
mod sockets;
mod store;
mod token;
mod watch_url;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use axum::serve::{Listener, ListenerExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Least length of [`Options::secret_key`], in characters; the vendor's is 32 (contract section 4).
const MIN_SECRET: usize = 32;
/// How long requests and sockets may take to end after shutdown began.
const DRAIN: Duration = Duration::from_secs(1);

/// Judges the only line of `Authorization`, or that there is none: whether it is let in; `None`: the
/// REST API is disabled.
pub type Judge = Arc<dyn Fn(Option<&[u8]>) -> Option<bool> + Send + Sync>;

/// What the backend needs to know to run.
pub struct Options {
    /// Public URL under which visitors and agents reach this backend, e.g.
    /// `https://localhost:8443/cobrowsing`, with or without final slash. `watch_url` is built only
    /// from it, never from `Host`.
    pub base_endpoint: String,
    /// Accepted values of the `Authorization` header; empty: the REST API is disabled (contract
    /// section 0).
    pub rest_keys: Vec<String>,
    /// Judges the `Authorization` header in the place of `rest_keys`.
    pub judge: Option<Judge>,
    /// Signs tokens (HMAC-SHA256); at least 32 characters. `None`: a random one, valid until the
    /// process ends.
    pub secret_key: Option<String>,
    /// JSON file with an array of sample visitors to load at start.
    pub seed: Option<PathBuf>,
    /// Path prefix the backend's own tree is mounted at: `/` or e.g. `/up/tree`.
    pub mount: String,
    /// How long the token of a `watch_url` is valid; at least one second.
    pub token_ttl: Duration,
}

impl Default for Options {
    /// Mounted at `/` of `http://127.0.0.1:5002`, API disabled, no visitors, tokens valid for
    /// ten minutes.
    fn default() -> Self {
        Self {
            base_endpoint: "http://127.0.0.1:5002".to_owned(),
            rest_keys: Vec::new(),
            judge: None,
            secret_key: None,
            seed: None,
            mount: "/".to_owned(),
            token_ttl: Duration::from_secs(600),
        }
    }
}

/// What all requests share.
struct App {
    /// Without final slash.
    base_endpoint: String,
    keys: api::Keys,
    license: watch_url::LicenseCheck,
    signer: token::Signer,
    store: Arc<store::Store>,
    token_ttl: Duration,
    /// Ends all sockets.
    stop: CancellationToken,
    /// The open sockets: axum does not wait for them.
    sockets: TaskTracker,
}

/// A backend that is ready to serve: its options are checked, its seed is loaded.
pub struct Server {
    app: Arc<App>,
    mount: String,
}

impl Server {
    /// Checks `options` and loads the seed.
    ///
    /// # Errors
    ///
    /// Options that cannot be used ([`io::ErrorKind::InvalidInput`], naming the option, what was
    /// given unless it is a secret, and what is allowed), a seed file that cannot be read, or a
    /// system without random bytes.
    pub fn new(options: &Options) -> io::Result<Self> {
        Ok(Self {
            mount: mount_prefix(&options.mount)?,
            app: Arc::new(App::new(options)?),
        })
    }

    /// Serves until `shutdown` resolves; sockets that are open then end within a second.
    ///
    /// # Errors
    ///
    /// What accepting connections gives.
    pub async fn serve(
        self,
        listener: impl Listener<Io = TcpStream, Addr = SocketAddr>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let Self { app, mount } = self;
        let stop = app.stop.clone();
        let sockets = app.sockets.clone();
        let service = router(app, &mount).into_make_service_with_connect_info::<SocketAddr>();
        let listener = listener.tap_io(|stream| {
            // Pointers are small and late ones are useless; without it they are only later.
            stream.set_nodelay(true).ok();
        });

        let (ended, stopping) = (stop.clone(), stop.clone());
        let serving = axum::serve(listener, service).with_graceful_shutdown(async move {
            shutdown.await;
            stop.cancel();
        });
        let deadline = async move {
            stopping.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        let drained = async {
            let served = serving.await;
            // Also when accepting failed: nobody would end the sockets any more.
            ended.cancel();
            sockets.close();
            sockets.wait().await;
            served
        };
        tokio::select! {
            served = drained => served,
            () = deadline => {
                tracing::warn!("requests or sockets did not end in time and were cut");
                Ok(())
            }
        }
    }
}

impl App {
    fn new(options: &Options) -> io::Result<Self> {
        if let Some(index) = options
            .rest_keys
            .iter()
            .position(|key| key.trim().is_empty())
        {
            return Err(invalid(format!(
                "rest_keys: key {index} is empty; leave it out, or give no key to disable the API"
            )));
        }
        if let Some(secret) = &options.secret_key {
            let length = secret.chars().count();
            if length < MIN_SECRET {
                return Err(invalid(format!(
                    "secret_key: {length} characters; at least {MIN_SECRET} are required"
                )));
            }
        }
        if options.token_ttl < Duration::from_secs(1) {
            return Err(invalid(format!(
                "token_ttl: {:?}; at least 1s is required",
                options.token_ttl
            )));
        }
        let base_endpoint = base_endpoint(&options.base_endpoint)?;
        let store = Arc::new(store::Store::default());
        if let Some(path) = &options.seed {
            let count = seed::load(path, &store)?;
            tracing::info!(count, "sample visitors loaded");
        }
        if options.rest_keys.is_empty() && options.judge.is_none() {
            tracing::warn!("no REST key is given: the REST API is disabled");
        }
        Ok(Self {
            base_endpoint,
            keys: match &options.judge {
                Some(judge) => api::Keys::judged(judge),
                None => api::Keys::new(&options.rest_keys),
            },
            license: watch_url::license_is_not_empty,
            signer: token::Signer::new(options.secret_key.as_deref())?,
            store,
            token_ttl: options.token_ttl,
            stop: CancellationToken::new(),
            sockets: TaskTracker::new(),
        })
    }
}

fn router(app: Arc<App>, mount: &str) -> Router {
    Router::new()
        .route(&format!("{mount}/healthz"), get(async || "ok"))
        .merge(pages::routes(mount))
        .merge(sockets::routes(mount))
        .merge(api::routes(&app, mount))
        .with_state(app)
}

/// The base endpoint without its final slash.
fn base_endpoint(given: &str) -> io::Result<String> {
    let usable = watch_url::is_http_url(given) && !given.contains(['?', '#', '@', '"', '<', '>']);
    if !usable {
        return Err(invalid(format!(
            "base_endpoint: {given:?}; an http:// or https:// URL with a host and without user, \
             query and fragment is required, such as https://localhost:8443/cobrowsing"
        )));
    }
    Ok(given.trim_end_matches('/').to_owned())
}

/// The mount as a prefix of paths: empty for `/`, else without final slash.
fn mount_prefix(given: &str) -> io::Result<String> {
    let prefix = given.strip_suffix('/').unwrap_or(given);
    let plain = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    };
    match prefix.strip_prefix('/') {
        None if given == "/" => Ok(String::new()),
        Some(inner) if inner.split('/').all(plain) => Ok(prefix.to_owned()),
        _ => Err(invalid(format!(
            "mount: {given:?}; / or a path of segments of letters, digits, '-', '.', '_' and '~' \
             is required, such as /up/tree"
        ))),
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_a_plain_path() {
        assert_eq!(mount_prefix("/").unwrap(), "");
        assert_eq!(mount_prefix("/up/tree").unwrap(), "/up/tree");
        assert_eq!(mount_prefix("/up/tree/").unwrap(), "/up/tree");
        for bad in [
            "",
            "up",
            "//",
            "/up//tree",
            "/up/../x",
            "/{id}",
            "/a b",
            "/%2f",
        ] {
            let error = mount_prefix(bad).unwrap_err().to_string();
            assert!(error.starts_with("mount: "), "{error}");
        }
    }

    #[test]
    fn a_base_endpoint_is_a_url_and_loses_its_final_slash() {
        for given in ["https://a.example/c", "https://a.example/c/"] {
            assert_eq!(base_endpoint(given).unwrap(), "https://a.example/c");
        }
        for bad in [
            "",
            "a.example",
            "/c",
            "ftp://a.example",
            "https://",
            "https://a.example/?x",
        ] {
            let error = base_endpoint(bad).unwrap_err().to_string();
            assert!(error.starts_with("base_endpoint: "), "{error}");
        }
    }

    #[test]
    fn options_that_cannot_be_used_are_named_and_secrets_are_not_shown() {
        let short = Options {
            secret_key: Some("hush".into()),
            ..Options::default()
        };
        let empty = Options {
            rest_keys: vec!["key".into(), String::new()],
            ..Options::default()
        };
        let instant = Options {
            token_ttl: Duration::ZERO,
            ..Options::default()
        };
        for (options, name) in [
            (short, "secret_key"),
            (empty, "rest_keys"),
            (instant, "token_ttl"),
        ] {
            let error = App::new(&options).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().starts_with(name), "{error}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
