//! Everything in force now: compiled from the configuration and the files it names, immutable.
//! Requests take it from one `ArcSwap`, each anew, so that a change holds from the next request on.

mod endpoint;
mod keys;
mod limits;
mod reload;
mod store;
mod trace;
mod watch;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::config::{self, Config, ConfigError, Match, Per, Policy, Turn, Workers};
use crate::otlp;
use crate::path::Compat;
use crate::rate_limit::{self, RateLimits};
use crate::stages::auth::Keys;
use crate::stages::headers::Forwarded;
use crate::stages::rewrite::{Rewrite, Tree};
use crate::stages::route::Routes;
use crate::telemetry::{KeySeries, Metrics};
use crate::tls::{self, Pair, Served};
use crate::upstream::{self, Ping, tunnel};

pub use endpoint::Endpoint;
pub use limits::ConnectionLimits;
pub use reload::{Loaded, Reloader};
pub use watch::{Watched, file_system, is_a_mount, try_watch};

/// The word for the built-in backend in `upstream.url`.
const BUILT_IN: &str = "visitor";

/// Where requests find what is in force.
pub type Current = Arc<ArcSwap<Snapshot>>;

/// What is in force.
pub struct Snapshot {
    /// The public URL.
    pub endpoint: Endpoint,
    /// Paths and hosts.
    pub routes: Routes,
    /// Ready-made header lines, one entry a host, in the order of `routes`' hosts.
    pub forwarded: Box<[Forwarded]>,
    /// The backend's base path: empty for its root, else without final slash.
    pub upstream_base: Box<str>,
    /// Whether the base path without slash is sent to the one with it: where it is stripped, the
    /// backend cannot tell one from the other and relative links would break.
    pub add_slash: bool,
    /// The backend.
    pub upstream: upstream::Settings,
    /// Who may use the API.
    pub keys: Keys,
    /// What the use of each key counts, at the key's position.
    pub key_series: Box<[KeySeries]>,
    /// When some keys are to be used no more, by name: Unix time.
    pub retire: Box<[(Arc<str>, i64)]>,
    /// How often.
    pub rate_limits: RateLimits,
    /// The way back.
    pub rewrite: Rewrite,
    /// Largest body of an API request, bytes.
    pub api_max_body: u64,
    /// Longest wait for the next bytes of a request's body; an API request's whole body.
    pub body_timeout: Duration,
    /// Networks whose forwarded headers are believed.
    pub trusted_proxies: Box<[IpNet]>,
    /// How long tunnels may be open, from the next one on.
    pub websocket: Arc<tunnel::Terms>,
    /// What bounds connections from clients.
    pub connection_limits: Arc<ConnectionLimits>,
    /// How often it is tested whether the backend accepts connections.
    pub health_interval: Duration,
    /// How the process ends.
    pub drain: config::Drain,
    /// Where traces go, if they go anywhere; in force from the start on.
    pub trace: Option<otlp::Settings>,
    /// The certificates that are served.
    pub tls: Served,
    /// What was noticed while compiling that is no error, for the log.
    pub notes: Vec<String>,
    /// Whether every key file that is named could be read. At start the API is closed to the keys
    /// of one that could not; a reload should rather keep what is in force.
    pub whole: bool,
}

impl Snapshot {
    /// Compiles `config`, reads the files it names, and registers the policies' and keys' series.
    /// What has not changed since `previous` goes on: what its limits have counted, its TLS sessions.
    pub fn compile(
        config: &Config,
        metrics: &Metrics,
        previous: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        let public = &config.public;
        let text = public.base_endpoint.as_deref().ok_or_else(|| {
            ConfigError("public.base_endpoint is not set: set it, or BASE_ENDPOINT, to the public URL, e.g. https://support.acmetech.com/cobrowsing".into())
        })?;
        let endpoint = Endpoint::public(text)?;
        if public.proxy_protocol && public.trusted_proxies.is_empty() {
            return Err(ConfigError(
                "public.proxy_protocol is on and public.trusted_proxies is empty: nobody could connect; name the networks of the load balancers, e.g. [\"10.0.0.0/8\"]".into(),
            ));
        }
        check_spans(config)?;
        let backend = if uses_built_in(config) {
            format!("http://{}", config.visitor.listen)
        } else {
            config.upstream.url.clone()
        };
        let backend = Endpoint::upstream(&backend)?;
        let upstream_base = match config.upstream.base_path.as_str() {
            "same" => endpoint.base.clone(),
            path => endpoint::base_path("upstream.base_path", path)?,
        };
        let api = endpoint::base_path("api.path", &config.api.path)?;
        if api.is_empty() {
            return Err(ConfigError::new(
                "api.path",
                &config.api.path,
                "a path below the base endpoint, e.g. \"/api\"",
            ));
        }
        let hosts: Vec<Endpoint> = std::iter::once(Ok(endpoint.clone()))
            .chain(
                public
                    .extra_hosts
                    .iter()
                    .map(|h| Endpoint::host("public.extra_hosts", h)),
            )
            .collect::<Result<_, _>>()?;
        let keys::Read {
            keys,
            notes,
            retire,
            whole,
        } = keys::read(&config.api)?;
        let tls = tls(config, &endpoint.host, previous.map(|p| &p.tls))?;
        let policies = policies(config, &keys, metrics, previous.map(|p| &p.rate_limits))?;
        let limits = ConnectionLimits::of(config);
        Ok(Self {
            routes: Routes::new(
                &endpoint.base,
                &api,
                hosts.iter().map(|h| h.host.to_string()),
                Compat {
                    path_parameters: config.compat.path_parameters,
                    encoded_slashes: config.compat.encoded_slashes,
                    encoded_percent: config.compat.encoded_percent,
                },
            ),
            forwarded: hosts
                .iter()
                .map(|h| Forwarded::new(&h.authority, h.port, &endpoint.base))
                .collect(),
            add_slash: upstream_base.is_empty() && !endpoint.base.is_empty(),
            rewrite: Rewrite::new(
                Tree {
                    authority: &endpoint.authority,
                    host: &endpoint.host,
                    base: &endpoint.base,
                },
                Tree {
                    authority: &backend.authority,
                    host: &backend.host,
                    base: &upstream_base,
                },
                config.rewrite.headers,
                &config.rewrite.json_fields,
            ),
            upstream: upstream::Settings {
                authority: backend.connect().into(),
                connect_timeout: config.upstream.connect_timeout.0,
                response_timeout: config.upstream.response_timeout.0,
                silence: config.upstream.silence.0,
                pool_idle: config.upstream.pool_idle.0,
                pool_size: config.upstream.pool_size,
                admission: admission(config)?,
            },
            upstream_base,
            endpoint,
            key_series: keys.names().map(|name| metrics.key(name)).collect(),
            keys,
            retire: retire.into(),
            rate_limits: policies,
            api_max_body: config.api.max_body.0,
            body_timeout: config.timeouts.body.0,
            trusted_proxies: public.trusted_proxies.clone().into(),
            websocket: Arc::new(tunnel::Terms {
                idle: config.websocket.idle.on().map(|span| span.0),
                max_age: config.websocket.max_age.on().map(|span| span.0),
                ping: config.websocket.ping.on().map(|span| Ping::new(span.0)),
            }),
            connection_limits: previous
                .map(|p| Arc::clone(&p.connection_limits))
                .filter(|same| **same == limits)
                .unwrap_or_else(|| Arc::new(limits)),
            drain: config.drain.clone(),
            health_interval: config.upstream.health_interval.0,
            trace: trace::settings(&config.trace)?,
            tls,
            notes,
            whole,
        })
    }

    /// Tells the metrics what is in force.
    pub fn show(&self, metrics: &Metrics) {
        metrics
            .configuration
            .api_enabled
            .set(i64::from(!self.keys.is_empty()));
        metrics.configuration.certificate_not_after.reset();
        for certificate in &self.tls.certificates {
            metrics
                .configuration
                .certificate_not_after
                .with_label_values(&[&*certificate.name])
                .set(certificate.not_after as f64);
        }
        metrics.keep_keys(self.keys.names());
        metrics.retire_keys(&self.retire);
    }
}

fn admission(config: &Config) -> Result<upstream::Rules, ConfigError> {
    let overload = &config.overload;
    let spared = |path: &String| match endpoint::base_path("overload.except", path)? {
        root if root.is_empty() => Err(ConfigError::new(
            "overload.except",
            path,
            "a path below the base path, e.g. \"/poll\"; to spare everything: adaptive = false and limits.requests = \"off\"",
        )),
        path => Ok(path),
    };
    Ok(upstream::Rules {
        most: config
            .limits
            .requests
            .on()
            .map_or(u32::MAX, |most| most.0.get()),
        adaptive: overload.adaptive,
        least: overload.least.0.get(),
        sockets_last: overload.sockets == Turn::Last,
        except: overload
            .except
            .iter()
            .map(spared)
            .collect::<Result<_, _>>()?,
    })
}

/// Whether the built-in backend is the backend.
pub fn uses_built_in(config: &Config) -> bool {
    config.upstream.url == BUILT_IN
}

/// How many worker threads.
pub fn workers(config: &Config) -> NonZeroUsize {
    match config.limits.workers {
        Workers::Count(count) => count,
        Workers::Auto => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    }
}

/// Times in which something is to happen again and again, or a tunnel to end.
fn check_spans(config: &Config) -> Result<(), ConfigError> {
    let websocket = &config.websocket;
    for (key, span) in [
        (
            "upstream.health_interval",
            Some(config.upstream.health_interval),
        ),
        ("websocket.idle", websocket.idle.on()),
        ("websocket.max_age", websocket.max_age.on()),
        ("websocket.ping", websocket.ping.on()),
        ("reload.poll", config.reload.poll.on()),
    ] {
        if span.is_some_and(|span| span.0.is_zero()) {
            return Err(ConfigError::new(key, "0s", "a time that is not 0"));
        }
    }
    Ok(())
}

/// Names become labels of metrics: plain, and each once.
fn check_names(key: &str, names: &[&str]) -> Result<(), ConfigError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    for (i, name) in names.iter().enumerate() {
        let wrong = |allowed| Err(ConfigError::new(key, name, allowed));
        if name.is_empty() || !name.bytes().all(plain) {
            return wrong("lower-case letters, digits, _ and -");
        }
        if names[..i].contains(name) {
            return wrong("a name that is not used twice");
        }
    }
    Ok(())
}

fn policies(
    config: &Config,
    keys: &Keys,
    metrics: &Metrics,
    previous: Option<&RateLimits>,
) -> Result<RateLimits, ConfigError> {
    let policies = &config.rate_limit.policy;
    let named: Vec<_> = policies.iter().map(|policy| &*policy.name).collect();
    check_names("rate_limit.policy.name", &named)?;
    if policies.len() > rate_limit::MOST {
        return Err(ConfigError(format!(
            "rate_limit.policy: {} policies: expected {} at most",
            policies.len(),
            rate_limit::MOST
        )));
    }
    for policy in policies {
        let keyless = match policy.matches {
            Match::FailedAuth => "failed_auth",
            Match::Websocket => "websocket",
            Match::Connection => "connection",
            _ => continue,
        };
        if matches!(policy.per, Per::Key | Per::KeyAndClient) {
            return Err(ConfigError(format!(
                "rate_limit.policy.per of {:?}: expected \"client\" or \"global\" where match = {keyless:?}: there is no key",
                policy.name
            )));
        }
    }
    let names: Vec<_> = keys.names().cloned().collect();
    let counters = |policy: &Policy| metrics.policy(&policy.name, policy.enforce);
    let known = previous.and_then(RateLimits::shared);
    let shared = store::shared(&config.rate_limit, metrics, known)?;
    let shared = shared.map(|shared| (shared, config.rate_limit.replicas));
    Ok(RateLimits::new(
        policies, &names, counters, shared, previous,
    ))
}

fn tls(config: &Config, host: &str, previous: Option<&Served>) -> Result<Served, ConfigError> {
    // "default" is tls.certificate's.
    let names = config.tls.additional.iter().map(|more| &*more.name);
    let names: Vec<_> = std::iter::once("default").chain(names).collect();
    check_names("tls.additional.name", &names)?;
    if let (Some(certificate), Some(key)) = (&config.tls.certificate, &config.tls.key)
        && config.tls.development
        && !certificate.exists()
        && !key.exists()
    {
        let mut hosts = vec![
            host.trim_matches(['[', ']']).to_owned(),
            "localhost".into(),
            "127.0.0.1".into(),
        ];
        hosts.dedup();
        Pair {
            certificate: certificate.clone(),
            key: key.clone(),
        }
        .make(&hosts)?;
        tracing::info!(certificate = %certificate.display(), "made a self-signed development certificate");
    }
    tls::load(&config.tls, host, previous)
}
