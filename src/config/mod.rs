//! `gateway.toml` as written: strict, defaulted, unit-typed. No work is done here: nothing is
//! opened but the file itself and the key file, nothing is resolved or compiled.
//!
//! Order: defaults, then the file, then the environment. An unknown key is an error.

mod environment;
mod load;
mod secret;
pub mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

pub use environment::Environment;
pub use load::ConfigError;
pub use secret::Secret;
use units::{Bytes, Count, OrOff, Rate, Span};

/// The whole file, each table with its defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "each table documents itself")]
pub struct Config {
    pub public: Public,
    pub tls: Tls,
    pub upstream: Upstream,
    pub api: Api,
    pub rate_limit: RateLimit,
    pub rewrite: Rewrite,
    pub compat: Compat,
    pub websocket: Websocket,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub drain: Drain,
    pub log: Log,
    pub admin: Admin,
    pub visitor: Visitor,
    /// What was noticed while reading that is no error, for the log.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// `[public]`: where clients reach the gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Public {
    /// The public URL of the service, `https://host[:port][/path]`, with or without final slash.
    pub base_endpoint: Option<String>,
    /// Address and port of the TLS listener.
    pub listen: SocketAddr,
    /// Networks whose `X-Forwarded-*` headers are believed; empty: nobody's.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections begin with a PROXY protocol header (v1 or v2) that names the client; only those
    /// of `trusted_proxies` are accepted.
    pub proxy_protocol: bool,
    /// Further host names (`host` or `host:port`) that are answered beside the base endpoint's.
    pub extra_hosts: Vec<String>,
}

impl Default for Public {
    fn default() -> Self {
        Self {
            base_endpoint: None,
            listen: SocketAddr::from(([0, 0, 0, 0], 8443)),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            extra_hosts: Vec::new(),
        }
    }
}

/// `[tls]`: the certificate that is served.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file with the certificate and its chain, the certificate first.
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key.
    pub key: Option<PathBuf>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Make a self-signed certificate when neither file is there. For development only.
    pub development: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 only.
    #[serde(rename = "1.3")]
    V1_3,
}

/// `[upstream]`: the backend.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// `http://host[:port]`, or `visitor` for the built-in backend.
    pub url: String,
    /// Where the public base path's tree begins at the backend: `/` (the base path is
    /// stripped), `same` (it is kept), or another path.
    pub base_path: String,
    /// Longest time to open a connection.
    pub connect_timeout: Span,
    /// Longest time without progress until the head of the answer is there.
    pub response_timeout: Span,
    /// Longest silence within an answer, once its head is there.
    pub silence: Span,
    /// How long a kept connection may lie idle; keep it below the backend's own limit. A
    /// `Keep-Alive: timeout=` of the backend shortens it further.
    pub pool_idle: Span,
    /// Most idle connections kept, for each worker.
    pub pool_size: usize,
    /// How often it is tested whether the backend accepts connections.
    pub health_interval: Span,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:5002".into(),
            base_path: "/".into(),
            connect_timeout: Span::secs(2),
            response_timeout: Span::secs(30),
            silence: Span::secs(300),
            pool_idle: Span::secs(4),
            pool_size: 512,
            health_interval: Span::secs(5),
        }
    }
}

/// `[api]`: the REST API and its keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// Where the API lies below the base endpoint.
    pub path: String,
    /// Accepted values of `Authorization`, by name. `REST_KEY` adds one named `rest_key`. None at
    /// all: the API is closed.
    #[serde(deserialize_with = "secret::named")]
    pub keys: BTreeMap<String, Secret>,
    /// Largest body of an API request.
    pub max_body: Bytes,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            path: "/api".into(),
            keys: BTreeMap::new(),
            max_body: Bytes(64 << 10),
        }
    }
}

/// `[rate_limit]`: policies on API requests. A list in the file replaces the default list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// `[[rate_limit.policy]]`
    pub policy: Vec<Policy>,
}

impl Default for RateLimit {
    fn default() -> Self {
        let policy = |name: &str, matches, per, count, burst| Policy {
            name: name.into(),
            matches,
            per,
            rate: Rate {
                count: std::num::NonZeroU32::new(count).unwrap_or(std::num::NonZeroU32::MIN),
                per: Span::secs(60).0,
            },
            burst: std::num::NonZeroU32::new(burst),
            except: Vec::new(),
            enforce: true,
        };
        Self {
            policy: vec![
                policy("key", Match::Api, Per::Key, 1200, 200),
                policy("client", Match::Api, Per::Client, 600, 100),
                policy("failed_auth", Match::FailedAuth, Per::Client, 30, 10),
            ],
        }
    }
}

/// One `[[rate_limit.policy]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Name in metrics, logs and answers: lower-case letters, digits, `_` and `-`.
    pub name: String,
    /// What is counted.
    #[serde(rename = "match", default)]
    pub matches: Match,
    /// Whose requests are counted together.
    pub per: Per,
    /// How many in how long.
    pub rate: Rate,
    /// How many at once after a quiet time; default: the rate's count.
    pub burst: Option<std::num::NonZeroU32>,
    /// Networks of clients that the policy does not hold for.
    #[serde(default)]
    pub except: Vec<IpNet>,
    /// `false`: count what would be refused, refuse nothing.
    #[serde(default = "yes")]
    pub enforce: bool,
}

fn yes() -> bool {
    true
}

/// What a policy counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// Requests to the API with a right key.
    #[default]
    Api,
    /// Those without one. A client that has no token left is refused before its key is looked at.
    FailedAuth,
}

/// Whose requests a policy counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// One bucket a key.
    Key,
    /// One bucket a client address (IPv6: a /64 network).
    Client,
}

/// `[rewrite]`: what in answers is mapped back to the public URL.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    /// Map `Location`, `Content-Location`, `Refresh`, `Link` and `Set-Cookie`.
    pub headers: bool,
    /// Top-level string fields mapped in JSON answers to `…/watch_url`.
    pub json_fields: Vec<String>,
}

impl Default for Rewrite {
    fn default() -> Self {
        Self {
            headers: true,
            json_fields: vec!["watch_url".into()],
        }
    }
}

/// `[compat]`: what is let through for pages although a backend could read it in more than one way.
/// What could be read as the API, or as a path outside the base path, stays refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compat {
    /// `;` in a path.
    pub path_parameters: bool,
    /// `%2F` in a path.
    pub encoded_slashes: bool,
    /// `%25` in a path.
    pub encoded_percent: bool,
}

/// `[websocket]`: tunnels.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Websocket {
    /// A tunnel in which no byte passed for so long is closed.
    pub idle: OrOff<Span>,
    /// A tunnel that is older is closed.
    pub max_age: OrOff<Span>,
    /// A client that sent nothing for so long gets a Ping, and has as long again to send something.
    pub ping: OrOff<Span>,
}

impl Default for Websocket {
    fn default() -> Self {
        Self {
            idle: OrOff::On(Span::secs(3600)),
            max_age: OrOff::Off,
            ping: OrOff::Off,
        }
    }
}

const PER_CLIENT: std::num::NonZeroU32 = std::num::NonZeroU32::new(1000).unwrap();

/// `[limits]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Worker threads, each with its own listener and upstream pool; `auto`: one a core.
    pub workers: Workers,
    /// Most connections from clients, tunnels included.
    pub connections: usize,
    /// Most of them from one client address (IPv6: a /64 network); those of trusted proxies are
    /// not counted.
    pub connections_per_client: OrOff<Count>,
    /// Largest head of a request.
    pub header_bytes: Bytes,
    /// Most header fields of a request.
    pub header_count: usize,
    /// Most concurrent streams of one HTTP/2 connection.
    pub h2_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            workers: Workers::Auto,
            connections: 20_000,
            connections_per_client: OrOff::On(Count(PER_CLIENT)),
            header_bytes: Bytes(32 << 10),
            header_count: 100,
            h2_streams: 128,
        }
    }
}

/// How many worker threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WorkersAsWritten")]
pub enum Workers {
    /// One for each core this process may use.
    Auto,
    /// So many.
    Count(std::num::NonZeroUsize),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = r#""auto" or a whole number from 1 to 256"#)]
enum WorkersAsWritten {
    Word(String),
    Count(usize),
}

impl TryFrom<WorkersAsWritten> for Workers {
    type Error = &'static str;

    fn try_from(written: WorkersAsWritten) -> Result<Self, Self::Error> {
        const ALLOWED: &str = r#"expected "auto" or a whole number from 1 to 256"#;
        let count = match written {
            WorkersAsWritten::Word(word) if word == "auto" => return Ok(Self::Auto),
            WorkersAsWritten::Word(word) => word.parse().unwrap_or(0),
            WorkersAsWritten::Count(count) => count,
        };
        match std::num::NonZeroUsize::new(count) {
            Some(count) if count.get() <= 256 => Ok(Self::Count(count)),
            Some(_) | None => Err(ALLOWED),
        }
    }
}

/// `[timeouts]`: the client's side. None of them touches an open tunnel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// The PROXY protocol header, where `public.proxy_protocol` asks for one.
    pub proxy_header: Span,
    /// The TLS handshake.
    pub handshake: Span,
    /// From the first byte of a request's head to its last; also until the first byte of a new
    /// connection.
    pub header: Span,
    /// The next bytes of a request's body; an API request's body must be whole within it.
    pub body: Span,
    /// A client that takes nothing of its answer.
    pub write_stall: Span,
    /// A connection without a request.
    pub keep_alive: Span,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            proxy_header: Span::secs(5),
            handshake: Span::secs(10),
            header: Span::secs(10),
            body: Span::secs(30),
            write_stall: Span::secs(30),
            keep_alive: Span::secs(75),
        }
    }
}

/// `[drain]`: what happens between SIGTERM and the end.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// How long new connections are still accepted after readiness has failed.
    pub delay: Span,
    /// How long requests and tunnels may go on after that.
    pub budget: Span,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            delay: Span::secs(5),
            budget: Span::secs(25),
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `json`, `text`, or `auto`: text on a terminal, else JSON.
    pub format: LogFormat,
    /// `error`, `warn`, `info` or `debug`.
    pub level: LogLevel,
    /// One line for each request.
    pub access: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Auto,
            level: LogLevel::Info,
            access: true,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// The least important lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the usual four")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// `[admin]`: health and metrics, on an address of their own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address and port, plain HTTP.
    pub listen: SocketAddr,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9180)),
        }
    }
}

/// `[visitor]`: the built-in backend; used when `upstream.url = "visitor"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Visitor {
    /// Address and port, plain HTTP.
    pub listen: SocketAddr,
    /// JSON file with sample visitors.
    pub seed: Option<PathBuf>,
}

impl Default for Visitor {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 5002)),
            seed: None,
        }
    }
}
