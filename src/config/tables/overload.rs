//! `[overload]`: a backend that has more to do than it can.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::describe::LIVE;
use crate::config::units::Count;

const LEAST: NonZeroU32 = NonZeroU32::new(32).unwrap();

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
