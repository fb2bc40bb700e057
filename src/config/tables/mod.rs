//! The tables of `gateway.toml`, each with its keys, their meaning, their defaults, and from when on a
//! change of them holds.

mod api;
mod life;
mod limits;
mod log;
mod overload;
mod own;
mod passage;
mod public;
mod rate_limit;
mod tls;
mod trace;
mod upstream;

pub use api::{Accept, Api, ForwardAuthorization, RestKey};
pub use life::{Drain, Reload};
pub use limits::{Limits, Timeouts, Workers};
pub use log::{Log, LogFormat, LogLevel, Sample};
pub use overload::{Overload, Turn};
pub use own::{Admin, Visitor};
pub use passage::{Compat, Rewrite, Websocket};
pub use public::Public;
pub use rate_limit::{LimitStore, Match, Per, Policy, RateLimit};
pub use tls::{AdditionalCertificate, Tls, TlsVersion};
pub use trace::{Believe, Packing, Trace};
pub use upstream::Upstream;
