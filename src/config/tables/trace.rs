//! `[trace]`: requests that are followed through gateway and backend.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::describe::{self, LIVE, RESTART};
use crate::config::secret::{self, Secret};
use crate::config::units::{OrOff, Ratio, Span};

/// `[trace]`: requests that are followed through gateway and backend, told to a receiver of OTLP.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Trace {
    /// The receiver of OTLP over HTTP, `http://host[:4318]` or `https://host[:4318]`, with or without
    /// `/v1/traces`. `off`: nothing is traced, and what clients send as `traceparent` passes.
    #[schemars(extend("x-applies" = RESTART))]
    pub endpoint: OrOff<String>,
    /// PEM file with the authorities of the receiver's certificate, for `https://`.
    #[schemars(with = "Option<describe::File>", extend("x-applies" = RESTART))]
    pub ca: Option<PathBuf>,
    /// Header fields that the receiver wants, by name, such as its key.
    #[serde(deserialize_with = "secret::named")]
    #[schemars(extend("x-applies" = RESTART))]
    pub headers: BTreeMap<String, Secret>,
    /// A file with more of them, `name: value` a line.
    #[schemars(with = "OrOff<describe::File>", extend("x-applies" = RESTART))]
    pub headers_file: OrOff<PathBuf>,
    /// What the receiver knows this gateway as.
    #[schemars(extend("x-applies" = RESTART))]
    pub service_name: String,
    /// What part of the requests is traced whose sender has not decided it.
    #[schemars(extend("x-applies" = LIVE))]
    pub ratio: Ratio,
    /// Whose `traceparent` decides that a request is traced: `proxies` (those of
    /// `public.trusted_proxies`) or `all`. Of others the trace goes on, and `ratio` decides.
    #[schemars(extend("x-applies" = LIVE))]
    pub believe: Believe,
    /// Longest time the receiver may take for what it is sent.
    #[schemars(extend("x-applies" = RESTART))]
    pub timeout: Span,
    /// How what the receiver is sent is compressed.
    #[schemars(extend("x-applies" = RESTART))]
    pub compression: Packing,
    /// Most traced requests that wait to be sent; more are dropped and counted.
    #[schemars(extend("x-applies" = RESTART))]
    pub queue: usize,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            endpoint: OrOff::Off,
            ca: None,
            headers: BTreeMap::new(),
            headers_file: OrOff::Off,
            service_name: "cobrowse-gateway".into(),
            ratio: Ratio::TENTH,
            believe: Believe::Proxies,
            timeout: Span::secs(10),
            compression: Packing::Gzip,
            queue: 8192,
        }
    }
}

/// Whose word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Believe {
    /// That of trusted proxies.
    Proxies,
    /// Everybody's.
    All,
}

/// How something is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// By gzip.
    Gzip,
    /// Not at all.
    None,
}
