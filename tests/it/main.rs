//! The gateway as its clients, its backend and its operators see it: the real binary, real sockets.
//!
//! Each test is a sentence about behaviour. `support` is the language they are written in.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::large_futures,
    reason = "tests say what they expect by failing; their tasks and threads end with them"
)]

/// How long anything may take that should come at once.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

mod support;

mod activation;
mod backend_trouble;
mod base_path;
mod commands;
mod comparison;
mod configuration;
mod contract;
mod dashboards_and_alerts;
mod deadlines;
mod demo_load;
mod deploy;
mod doctor;
mod drain;
mod explain;
mod expositions;
mod failed_auth;
mod families;
mod forwarding;
mod handover;
mod hostile;
mod house;
mod key;
mod keys;
mod last_call;
mod limits;
mod live_page;
mod log_lines;
mod monitoring;
mod operators;
mod overload;
mod panels;
mod pictures;
mod ping;
mod policies;
mod prometheus;
mod proxy_protocol;
mod real_parts;
mod receivers;
mod reload;
mod reload_at_once;
mod retired_keys;
mod rewrite;
mod rotation;
mod series;
mod shared_figures;
mod shared_limits;
mod shared_script;
mod shared_store;
mod slow_answers;
mod traces;
mod tunnel_ends;
mod visitor;
mod websocket;
