//! What operators see: metrics, log, and the record of each request that feeds both.

mod keys;
mod log;
mod metrics;
mod record;

pub use keys::KeySeries;
pub use log::{LogGuard, start_log};
pub use metrics::{ClosedBy, Metrics, PolicyCounters, ProxyFailure, TimedOut};
pub use record::{Record, Recorder};
