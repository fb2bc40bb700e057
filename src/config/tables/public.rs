//! `[public]`: where clients reach the gateway.

use std::net::SocketAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::describe::{self, LIVE, NEW_CONNECTIONS, RESTART};

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
