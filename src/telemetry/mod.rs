//! What operators see: metrics, log, and the record of each request that feeds both; and what
//! the service manager is told.

mod closed;
mod keys;
mod log;
pub mod manager;
mod metrics;
mod overload;
mod record;
mod store;

pub use closed::{CloseClass, Closed, ClosedBy};
pub use keys::KeySeries;
pub use log::{LogGuard, start_log};
pub use metrics::{Metrics, PolicyCounters, ProxyFailure, TimedOut};
pub use overload::{Cause, Kind, OverloadMetrics};
pub use record::{Record, Recorder};
pub use store::StoreMetrics;
