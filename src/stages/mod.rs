//! Pure decisions on heads: no sockets, no await, no metrics, and none knows another.

pub mod auth;
pub mod headers;
pub mod lookup;
pub mod rewrite;
pub mod route;
pub mod websocket;
