//! `[log]`: what is written of requests and of the gateway itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::describe::{LIVE, RESTART};
use crate::config::units::Ratio;

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
