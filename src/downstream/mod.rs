//! The client's side: listeners, TLS handshakes, connections.

mod batch;
mod connection;
mod limits;
mod listener;

pub use limits::Limits;
pub use listener::{bind, serve};
