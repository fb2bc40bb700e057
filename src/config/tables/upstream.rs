//! `[upstream]`: the backend.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::describe::LIVE;
use crate::config::units::Span;

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
