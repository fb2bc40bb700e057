//! What tokens grant.

use serde::{Deserialize, Serialize};

/// The right of one agent to watch one visitor, carried by `/screen?id=…&token=…`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WatchGrant {
    pub(super) short_id: String,
    pub(super) agent: Agent,
    pub(super) permissions: Permissions,
    pub(super) branding: Branding,
    /// Two calls never give the same URL.
    pub(super) nonce: String,
}

/// The right of a browser to be the visitor it was before the page was loaded again.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ResumeGrant {
    pub(super) short_id: String,
}

/// Who watches.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Agent {
    pub(super) id: String,
    pub(super) name: String,
}

/// How the agent's page looks and where it leads.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Branding {
    pub(super) naked: Naked,
    pub(super) on_end_url: Option<String>,
    pub(super) retry_url: Option<String>,
}

/// What the agent's page leaves out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Naked {
    /// `false`: nothing.
    #[default]
    No,
    /// `true`: the logo.
    Logo,
    /// `"page_only"`: everything but the visitor's page; orders come by `postMessage`.
    PageOnly,
}

/// What the agent may do. Each was true or false in the body or has the contract's default.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Permissions {
    pub(super) allow_agent_redirect: bool,
    pub(super) allow_audio: bool,
    pub(super) allow_click: bool,
    pub(super) allow_console: bool,
    pub(super) allow_draw: bool,
    pub(super) allow_scroll: bool,
    pub(super) allow_type: bool,
}

impl Default for Permissions {
    fn default() -> Self {
        Self {
            allow_agent_redirect: true,
            allow_audio: true,
            allow_click: true,
            allow_console: false,
            allow_draw: true,
            allow_scroll: true,
            allow_type: true,
        }
    }
}
