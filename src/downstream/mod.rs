//! The client's side: listeners, TLS handshakes, connections.

mod batch;
mod connection;
mod listener;

pub use listener::{Limits, bind, serve};
