//! `gateway.toml` as written: strict, defaulted, unit-typed. No work is done here: nothing is
//! opened but the file itself, nothing is resolved or compiled.
//!
//! Order: defaults, then the file, then the environment. An unknown key is an error.

mod describe;
mod diff;
mod entries;
mod environment;
mod keys;
mod load;
mod mistakes;
mod origin;
mod secret;
mod tables;
pub mod units;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use describe::{Applies, schema};
pub use diff::{Change, diff};
pub use entries::Entry;
pub use environment::Environment;
pub use keys::{Key, keys};
pub use load::{ConfigError, Source};
pub use origin::{Origin, Origins};
pub use secret::Secret;
pub use tables::*;

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
