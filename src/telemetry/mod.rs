//! What operators see: metrics, log, and the record of each request that feeds both.

mod log;
mod metrics;
mod record;
mod store;

pub use log::{LogGuard, start_log};
pub use metrics::{ClosedBy, Metrics, PolicyCounters, ProxyFailure};
pub use record::{Record, Recorder};
pub use store::StoreMetrics;
