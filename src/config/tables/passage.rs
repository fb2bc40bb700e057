//! `[rewrite]`, `[compat]`, `[websocket]`: what passes through, and how it is changed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::describe::{LIVE, NEW_CONNECTIONS};
use crate::config::units::{OrOff, Span};

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
