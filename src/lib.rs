//! Cobrowse Gateway: the way from a visitor's browser, an agent or a back-office system to an
//! on-premise cobrowsing service, and back.
//!
//! The map, from the top floor down; a file imports only from floors below it or from its own
//! folder, and a test holds that:
//!
//! - [`commands`]: one file a command. `process`: the wiring.
//! - [`downstream`]: the client's side: listeners, TLS, connections. [`admin`]: health, metrics, the live
//!   page.
//! - [`pipeline`]: the life of a request, top to bottom.
//! - [`snapshot`]: everything in force now.
//! - [`stages`]: pure decisions on heads. [`rate_limit`]. [`tls`]. [`upstream`]: the backend's side.
//!   [`otlp`]: traces to their receiver.
//! - [`telemetry`]: metrics, log, traces, the record of a request. [`path`]: the canonical path.
//! - [`config`], [`names`], [`reject`], [`body`], [`buffers`], [`fields`], [`framing`], [`peer`],
//!   [`drain`]: words everyone may use.
//!
//! Beside the house stands `visitor`, the built-in backend: it imports nothing of the gateway and
//! is reached only through a socket.

pub mod admin;
pub mod alarm;
pub mod body;
pub mod buffers;
pub mod config;
pub mod downstream;
pub mod drain;
pub mod fields;
pub mod framing;
pub mod names;
pub mod otlp;
pub mod path;
pub mod peer;
pub mod pipeline;
pub mod rate_limit;
pub mod reject;
pub mod snapshot;
pub mod stages;
pub mod telemetry;
pub mod tls;
pub mod upstream;
#[cfg(feature = "visitor")]
pub mod visitor;

pub mod commands;
pub mod process;
