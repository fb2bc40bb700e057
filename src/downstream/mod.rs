//! The client's side: listeners, PROXY protocol, TLS handshakes, connections.

mod answer;
mod batch;
mod clock;
mod connection;
pub mod frames;
pub mod head;
mod http1;
mod http2;
mod limits;
mod listener;
pub mod proxy;
mod turn;
mod wire;

pub use limits::Open;
pub use listener::{bind, serve, tune};
