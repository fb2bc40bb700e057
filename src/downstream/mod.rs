//! The client's side: listeners, PROXY protocol, TLS handshakes, connections.

mod answer;
mod clock;
mod connection;
mod date;
pub mod head;
mod http1;
pub mod http2;
mod limits;
mod listener;
pub mod proxy;
mod reuse;
mod turn;
mod wire;

pub use limits::Open;
pub use listener::{bind, serve, tune};
