//! `[limits]` and `[timeouts]`: how much and how long.

use std::num::{NonZeroU32, NonZeroUsize};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::describe::{LIVE, NEW_CONNECTIONS, RESTART};
use crate::config::units::{Bytes, Count, OrOff, Span};

const PER_CLIENT: NonZeroU32 = NonZeroU32::new(1000).unwrap();
const REQUESTS: NonZeroU32 = NonZeroU32::new(10_000).unwrap();

/// `[limits]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Worker threads, each with its own listener and upstream pool; `auto`: one a core.
    #[schemars(extend("x-applies" = RESTART))]
    pub workers: Workers,
    /// Most connections from clients, tunnels included.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub connections: usize,
    /// Most of them from one client address (IPv6: a /64 network); those of trusted proxies are
    /// not counted.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub connections_per_client: OrOff<Count>,
    /// Most requests of one client address at a time over HTTP/2, where a connection has many; those
    /// of trusted proxies are not counted.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub requests_per_client: OrOff<Count>,
    /// Largest head of a request.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub header_bytes: Bytes,
    /// Most header fields of a request.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub header_count: usize,
    /// Most concurrent streams of one HTTP/2 connection.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub h2_streams: u32,
    /// Most control frames of one HTTP/2 connection in a second: PING, SETTINGS, PRIORITY, RST_STREAM,
    /// empty DATA, window updates of less than 1 KiB, and unknown ones.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub h2_control_frames: u32,
    /// Most requests that wait for the backend's answer to begin; tunnels are none.
    #[schemars(extend("x-applies" = LIVE))]
    pub requests: OrOff<Count>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            workers: Workers::Auto,
            connections: 20_000,
            connections_per_client: OrOff::On(Count(PER_CLIENT)),
            requests_per_client: OrOff::On(Count(PER_CLIENT)),
            header_bytes: Bytes(32 << 10),
            header_count: 100,
            h2_streams: 128,
            h2_control_frames: 1000,
            requests: OrOff::On(Count(REQUESTS)),
        }
    }
}

/// How many worker threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "WorkersAsWritten", into = "WorkersAsWritten")]
pub enum Workers {
    /// One for each core this process may use.
    Auto,
    /// So many.
    Count(NonZeroUsize),
}

#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = r#""auto" or a whole number from 1 to 256"#)]
enum WorkersAsWritten {
    Word(String),
    Count(usize),
}

impl From<Workers> for WorkersAsWritten {
    fn from(workers: Workers) -> Self {
        match workers {
            Workers::Auto => Self::Word("auto".into()),
            Workers::Count(count) => Self::Count(count.get()),
        }
    }
}

impl TryFrom<WorkersAsWritten> for Workers {
    type Error = &'static str;

    fn try_from(written: WorkersAsWritten) -> Result<Self, Self::Error> {
        const ALLOWED: &str = r#"expected "auto" or a whole number from 1 to 256"#;
        let count = match written {
            WorkersAsWritten::Word(word) if word == "auto" => return Ok(Self::Auto),
            WorkersAsWritten::Word(word) => word.parse().unwrap_or(0),
            WorkersAsWritten::Count(count) => count,
        };
        match NonZeroUsize::new(count) {
            Some(count) if count.get() <= 256 => Ok(Self::Count(count)),
            Some(_) | None => Err(ALLOWED),
        }
    }
}

/// `[timeouts]`: the client's side. None of them touches an open tunnel.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// The PROXY protocol header, where `public.proxy_protocol` asks for one.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub proxy_header: Span,
    /// The TLS handshake.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub handshake: Span,
    /// From the first byte of a request's head to its last; also until the first byte of a new
    /// connection.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub header: Span,
    /// The next bytes of a request's body; an API request's body must be whole within it.
    #[schemars(extend("x-applies" = LIVE))]
    pub body: Span,
    /// A client that takes nothing of its answer.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub write_stall: Span,
    /// A connection without a request.
    #[schemars(extend("x-applies" = NEW_CONNECTIONS))]
    pub keep_alive: Span,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            proxy_header: Span::secs(5),
            handshake: Span::secs(10),
            header: Span::secs(10),
            body: Span::secs(30),
            write_stall: Span::secs(30),
            keep_alive: Span::secs(75),
        }
    }
}
