//! `[reload]` and `[drain]`: how a configuration comes into force, how the process ends.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::describe::LIVE;
use crate::config::units::{OrOff, Span};

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
