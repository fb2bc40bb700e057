//! `[rate_limit]`: how often somebody may ask.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::describe::{self, LIVE};
use crate::config::secret::Secret;
use crate::config::units::{Rate, Span};

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
    pub replicas: NonZeroU32,
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
                count: NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN),
                per: Span::secs(seconds).0,
            },
            burst: NonZeroU32::new(burst),
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
            replicas: NonZeroU32::MIN,
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
    pub burst: Option<NonZeroU32>,
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
