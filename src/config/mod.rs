//! `gateway.toml` as written: strict, defaulted, unit-typed. No work is done here: nothing is
//! opened but the file itself, nothing is resolved or compiled.
//!
//! Order: defaults, then the file, then the environment. An unknown key is an error.

mod api;
mod describe;
mod diff;
mod entries;
mod environment;
mod keys;
mod load;
mod mistakes;
mod origin;
mod secret;
mod trace;
pub mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use api::{Accept, Api, ForwardAuthorization, RestKey};
pub use describe::{Applies, schema};
use describe::{LIVE, NEW_CONNECTIONS, RESTART};
pub use diff::{Change, diff};
pub use entries::Entry;
pub use environment::Environment;
pub use keys::{Key, keys};
pub use load::{ConfigError, Source};
pub use origin::{Origin, Origins};
pub use secret::Secret;
pub use trace::{Believe, Trace};
use units::{Bytes, Count, OrOff, Rate, Ratio, Span};

/// The whole file, each table with its defaults.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
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
    pub overload: Overload,
    pub timeouts: Timeouts,
    pub reload: Reload,
    pub drain: Drain,
    pub log: Log,
    pub trace: Trace,
    pub admin: Admin,
    pub visitor: Visitor,
    /// Where each value comes from.
    #[serde(skip)]
    pub origins: Origins,
}

/// `[public]`: where clients reach the gateway.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Public {
    /// The public URL of the service, `https://host[:port][/path]`, with or without final slash.
    #[schemars(extend("x-applies" = LIVE))]
    pub base_endpoint: Option<String>,
    /// Address and port of the TLS listener.
    #[schemars(with = "describe::Address", extend("x-applies" = RESTART))]
    pub listen: SocketAddr,
    /// Networks whose `X-Forwarded-*` headers are believed; empty: nobody's.
    #[schemars(with = "Vec<describe::Network>", extend("x-applies" = NEW_CONNECTIONS))]
    pub trusted_proxies: Vec<IpNet>,
    /// Connections begin with a PROXY protocol header (v1 or v2) that names the client; only those
    /// of `trusted_proxies` are accepted.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub proxy_protocol: bool,
    /// Further host names (`host` or `host:port`) that are answered beside the base endpoint's.
    #[schemars(extend("x-applies" = LIVE))]
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

/// `[tls]`: the certificates that are served.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file with the certificate and its chain, the certificate first.
    #[schemars(with = "Option<describe::File>", extend("x-applies" = NEW_CONNECTIONS))]
    pub certificate: Option<PathBuf>,
    /// PEM file with the private key.
    #[schemars(with = "Option<describe::File>", extend("x-applies" = NEW_CONNECTIONS))]
    pub key: Option<PathBuf>,
    /// Further certificates, for clients that ask for one of their names (SNI).
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub additional: Vec<AdditionalCertificate>,
    /// PEM file with certificate authorities: every client, visitors' browsers included, must show
    /// a certificate that one of them has signed. Not set: clients need none.
    #[schemars(with = "Option<describe::File>", extend("x-applies" = NEW_CONNECTIONS))]
    pub client_ca: Option<PathBuf>,
    /// The oldest version that is spoken.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub min_version: TlsVersion,
    /// Make a self-signed certificate when neither file is there. For development only.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub development: bool,
}

/// One `[[tls.additional]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdditionalCertificate {
    /// Name in metrics and errors: lower-case letters, digits, `_` and `-`; not `default`.
    pub name: String,
    /// PEM file with the certificate and its chain, the certificate first.
    #[schemars(with = "describe::File")]
    pub certificate: PathBuf,
    /// PEM file with the private key.
    #[schemars(with = "describe::File")]
    pub key: PathBuf,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
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
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// `http://host[:port]`, or `visitor` for the built-in backend.
    #[schemars(extend("x-applies" = LIVE))]
    pub url: String,
    /// Where the public base path's tree begins at the backend: `/` (the base path is
    /// stripped), `same` (it is kept), or another path.
    #[schemars(extend("x-applies" = LIVE))]
    pub base_path: String,
    /// Longest time to open a connection.
    #[schemars(extend("x-applies" = LIVE))]
    pub connect_timeout: Span,
    /// Longest time without progress until the head of the answer is there.
    #[schemars(extend("x-applies" = LIVE))]
    pub response_timeout: Span,
    /// Longest silence within an answer, once its head is there.
    #[schemars(extend("x-applies" = LIVE))]
    pub silence: Span,
    /// How long a kept connection may lie idle; keep it below the backend's own limit. A
    /// `Keep-Alive: timeout=` of the backend shortens it further.
    #[schemars(extend("x-applies" = LIVE))]
    pub pool_idle: Span,
    /// Most idle connections kept, for each worker.
    #[schemars(extend("x-applies" = LIVE))]
    pub pool_size: usize,
    /// How often it is tested whether the backend accepts connections.
    #[schemars(extend("x-applies" = LIVE))]
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

/// `[rate_limit]`: policies on API requests. A list in the file replaces the default list.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// Where requests are counted.
    #[schemars(extend("x-applies" = LIVE))]
    pub store: LimitStore,
    /// Where the store is, for `store = "redis"`: `redis://[user:password@]host[:6379][/database]`,
    /// `rediss://` for TLS, `redis+cluster://host:port,host:port`, or
    /// `redis+sentinel://host:port,host:port/master-name[/database]`.
    #[schemars(extend("x-applies" = LIVE))]
    pub redis_url: Option<Secret>,
    /// File with the store's password, in place of one in the URL.
    #[schemars(with = "Option<describe::File>", extend("x-applies" = LIVE))]
    pub redis_password_file: Option<PathBuf>,
    /// PEM file with the authorities of the store's certificate, for `rediss://`.
    #[schemars(with = "Option<describe::File>", extend("x-applies" = LIVE))]
    pub redis_ca: Option<PathBuf>,
    /// Begins every key in the store: replicas with the same prefix count together.
    #[schemars(extend("x-applies" = LIVE))]
    pub redis_prefix: String,
    /// Longest time a request waits for the store; after that its replica decides alone.
    #[schemars(extend("x-applies" = LIVE))]
    pub redis_timeout: Span,
    /// What clients are hashed with in the store, the same for all replicas. Not set: the store's
    /// password.
    #[schemars(extend("x-applies" = LIVE))]
    pub redis_salt: Option<Secret>,
    /// How many replicas there are about: a replica that has to decide alone admits this part of each
    /// limit.
    #[schemars(extend("x-applies" = LIVE))]
    pub replicas: std::num::NonZeroU32,
    /// `[[rate_limit.policy]]`
    #[schemars(extend("x-applies" = LIVE))]
    pub policy: Vec<Policy>,
}

impl Default for RateLimit {
    fn default() -> Self {
        let policy = |name: &str, matches, per, (count, seconds), burst| Policy {
            name: name.into(),
            matches,
            per,
            rate: Rate {
                count: std::num::NonZeroU32::new(count).unwrap_or(std::num::NonZeroU32::MIN),
                per: Span::secs(seconds).0,
            },
            burst: std::num::NonZeroU32::new(burst),
            except: Vec::new(),
            enforce: true,
        };
        Self {
            store: LimitStore::Local,
            redis_url: None,
            redis_password_file: None,
            redis_ca: None,
            redis_prefix: "cobrowse-gateway".into(),
            redis_timeout: Span(Duration::from_millis(5)),
            redis_salt: None,
            replicas: std::num::NonZeroU32::MIN,
            policy: vec![
                policy("key", Match::Api, Per::Key, (1200, 60), 200),
                policy("client", Match::Api, Per::Client, (600, 60), 100),
                policy("lookup", Match::LookupCode, Per::KeyAndClient, (30, 60), 10),
                policy("failed_auth", Match::FailedAuth, Per::Client, (30, 60), 10),
                policy("sockets", Match::Websocket, Per::Global, (500, 1), 2000),
            ],
        }
    }
}

/// Where requests are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LimitStore {
    /// Each replica counts for itself.
    #[default]
    Local,
    /// All count together, in a Redis or Valkey.
    Redis,
}

/// One `[[rate_limit.policy]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
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
    #[schemars(with = "Vec<describe::Network>")]
    pub except: Vec<IpNet>,
    /// `false`: count what would be refused, refuse nothing.
    #[serde(default = "yes")]
    pub enforce: bool,
}

fn yes() -> bool {
    true
}

/// What a policy counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// Requests to the API with a right key.
    #[default]
    Api,
    /// Of those, `GET …/visitors/list/latest`.
    VisitorsLatest,
    /// `GET …/visitors/list/search`.
    VisitorsSearch,
    /// `GET …/visitors/{id}`.
    Visitor,
    /// `POST …/visitors/{id}/watch_url`.
    WatchUrl,
    /// Any other request of the API.
    ApiOther,
    /// Searches for a four-digit lookup code, of which there are few enough to try them all.
    LookupCode,
    /// Requests to the API without a right key. A client that has no token left is refused before
    /// its key is looked at.
    FailedAuth,
    /// New WebSockets, of any path.
    Websocket,
    /// New connections.
    Connection,
}

/// Whose requests a policy counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// One bucket a key.
    Key,
    /// One bucket a client address (IPv6: a /64 network).
    Client,
    /// One bucket for each key and client address.
    KeyAndClient,
    /// One bucket for all.
    Global,
}

/// `[rewrite]`: what in answers is mapped back to the public URL.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    /// Map `Location`, `Content-Location`, `Refresh`, `Link` and `Set-Cookie`.
    #[schemars(extend("x-applies" = LIVE))]
    pub headers: bool,
    /// Top-level string fields mapped in JSON answers to `…/watch_url`.
    #[schemars(extend("x-applies" = LIVE))]
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
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Compat {
    /// `;` in a path.
    #[schemars(extend("x-applies" = LIVE))]
    pub path_parameters: bool,
    /// `%2F` in a path.
    #[schemars(extend("x-applies" = LIVE))]
    pub encoded_slashes: bool,
    /// `%25` in a path.
    #[schemars(extend("x-applies" = LIVE))]
    pub encoded_percent: bool,
}

/// `[websocket]`: tunnels.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Websocket {
    /// A tunnel in which no byte passed for so long is closed.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub idle: OrOff<Span>,
    /// A tunnel that is older is closed.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub max_age: OrOff<Span>,
    /// A client that sent nothing for so long gets a Ping, and has as long again to send something.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
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
const REQUESTS: std::num::NonZeroU32 = std::num::NonZeroU32::new(10_000).unwrap();
const LEAST: std::num::NonZeroU32 = std::num::NonZeroU32::new(32).unwrap();

/// `[limits]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Worker threads, each with its own listener and upstream pool; `auto`: one a core.
    #[schemars(extend("x-applies" = RESTART))]
    pub workers: Workers,
    /// Most connections from clients, tunnels included.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub connections: usize,
    /// Most of them from one client address (IPv6: a /64 network); those of trusted proxies are
    /// not counted.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub connections_per_client: OrOff<Count>,
    /// Most requests of one client address at a time over HTTP/2, where a connection has many; those
    /// of trusted proxies are not counted.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub requests_per_client: OrOff<Count>,
    /// Largest head of a request.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub header_bytes: Bytes,
    /// Most header fields of a request.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub header_count: usize,
    /// Most concurrent streams of one HTTP/2 connection.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub h2_streams: u32,
    /// Most control frames of one HTTP/2 connection in a second: PING, SETTINGS, PRIORITY, RST_STREAM,
    /// empty DATA, window updates of less than 1 KiB, and unknown ones.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub h2_control_frames: u32,
    /// Most requests that wait for the backend's answer to begin; tunnels are none.
    #[schemars(extend("x-applies" = LIVE))]
    pub requests: OrOff<Count>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            workers: Workers::Auto,
            connections: 20_000,
            connections_per_client: OrOff::On(Count(PER_CLIENT)),
            requests_per_client: OrOff::On(Count(PER_CLIENT)),
            header_bytes: Bytes(32 << 10),
            header_count: 100,
            h2_streams: 128,
            h2_control_frames: 1000,
            requests: OrOff::On(Count(REQUESTS)),
        }
    }
}

/// `[overload]`: who waits and who is refused when the backend has more to do than it can.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Overload {
    /// Let fewer requests than `limits.requests` in when the backend's answers become slow.
    #[schemars(extend("x-applies" = LIVE))]
    pub adaptive: bool,
    /// So many in flight make places no fewer, however slow answers are; there are never fewer than
    /// these, but for moments of looking how fast the backend is without load.
    #[schemars(extend("x-applies" = LIVE))]
    pub least: Count,
    /// When new WebSockets are refused: `last`, after pages and the API, or `first`.
    #[schemars(extend("x-applies" = LIVE))]
    pub sockets: Turn,
    /// Paths below the base path that are neither counted nor measured, with what lies below them:
    /// those where the backend holds its answer back (long polling), e.g. `["/poll", "/api/wait"]`.
    #[schemars(extend("x-applies" = LIVE))]
    pub except: Vec<String>,
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            adaptive: true,
            least: Count(LEAST),
            sockets: Turn::Last,
            except: Vec::new(),
        }
    }
}

/// When something is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Turn {
    /// Before everything else.
    First,
    /// After everything else.
    Last,
}

/// How many worker threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "WorkersAsWritten", into = "WorkersAsWritten")]
pub enum Workers {
    /// One for each core this process may use.
    Auto,
    /// So many.
    Count(std::num::NonZeroUsize),
}

#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = r#""auto" or a whole number from 1 to 256"#)]
enum WorkersAsWritten {
    Word(String),
    Count(usize),
}

impl From<Workers> for WorkersAsWritten {
    fn from(workers: Workers) -> Self {
        match workers {
            Workers::Auto => Self::Word("auto".into()),
            Workers::Count(count) => Self::Count(count.get()),
        }
    }
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
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// The PROXY protocol header, where `public.proxy_protocol` asks for one.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub proxy_header: Span,
    /// The TLS handshake.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub handshake: Span,
    /// From the first byte of a request's head to its last; also until the first byte of a new
    /// connection.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub header: Span,
    /// The next bytes of a request's body; an API request's body must be whole within it.
    #[schemars(extend("x-applies" = LIVE))]
    pub body: Span,
    /// A client that takes nothing of its answer.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub write_stall: Span,
    /// A connection without a request.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
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

/// `[reload]`: how changed files come into force. SIGHUP reads them at once, whatever stands here.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reload {
    /// Watch the folders of the configuration and of the files it names.
    #[schemars(extend("x-applies" = LIVE))]
    pub watch: bool,
    /// How long nothing must change before changed files are read.
    #[schemars(extend("x-applies" = LIVE))]
    pub settle: Span,
    /// How often the files' contents are compared, for file systems that tell of no change.
    #[schemars(extend("x-applies" = LIVE))]
    pub poll: OrOff<Span>,
}

impl Default for Reload {
    fn default() -> Self {
        Self {
            watch: true,
            settle: Span(Duration::from_millis(500)),
            poll: OrOff::On(Span::secs(60)),
        }
    }
}

/// `[drain]`: what happens between SIGTERM, or SIGUSR2, and the end.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// How long new connections are still accepted after readiness has failed.
    #[schemars(extend("x-applies" = LIVE))]
    pub delay: Span,
    /// How long requests and tunnels may go on after that.
    #[schemars(extend("x-applies" = LIVE))]
    pub budget: Span,
    /// After SIGUSR2: how long the new process may take until it is ready to take over.
    #[schemars(extend("x-applies" = LIVE))]
    pub takeover: Span,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            delay: Span::secs(5),
            budget: Span::secs(25),
            takeover: Span::secs(30),
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `json`, `text`, or `auto`: text on a terminal, else JSON.
    #[schemars(extend("x-applies" = RESTART))]
    pub format: LogFormat,
    /// `error`, `warn`, `info` or `debug`.
    #[schemars(extend("x-applies" = LIVE))]
    pub level: LogLevel,
    /// One line for each request.
    #[schemars(extend("x-applies" = LIVE))]
    pub access: bool,
    /// What part of these lines is written, by class of the status.
    pub sample: Sample,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Auto,
            level: LogLevel::Info,
            access: true,
            sample: Sample::default(),
        }
    }
}

/// `[log.sample]`: what part of the lines of requests is written. Those of requests that are traced or
/// whose answer broke off are always written.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sample {
    /// Of those answered with 1xx (WebSockets) and 2xx.
    #[schemars(extend("x-applies" = LIVE))]
    pub success: Ratio,
    /// Of those answered with 3xx.
    #[schemars(extend("x-applies" = LIVE))]
    pub redirect: Ratio,
    /// Of those answered with 4xx.
    #[schemars(extend("x-applies" = LIVE))]
    pub client_error: Ratio,
    /// Of those answered with 5xx.
    #[schemars(extend("x-applies" = LIVE))]
    pub server_error: Ratio,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            success: Ratio::ALL,
            redirect: Ratio::ALL,
            client_error: Ratio::ALL,
            server_error: Ratio::ALL,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the usual four")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// `[admin]`: health and metrics, on an address of their own.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Address and port, plain HTTP.
    #[schemars(with = "describe::Address", extend("x-applies" = RESTART))]
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
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Visitor {
    /// Address and port, plain HTTP.
    #[schemars(with = "describe::Address", extend("x-applies" = RESTART))]
    pub listen: SocketAddr,
    /// JSON file with sample visitors.
    #[schemars(with = "Option<describe::File>", extend("x-applies" = RESTART))]
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
