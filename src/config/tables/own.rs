//! `[admin]` and `[visitor]`: addresses beside the public one.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::describe::{self, RESTART};

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
