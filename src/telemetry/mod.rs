//! What operators see: metrics, log, and the record of each request that feeds both; and what
//! the service manager is told.

mod access;
mod closed;
mod log;
pub mod manager;
mod metrics;
mod record;
mod sampling;
mod trace;

pub use access::AccessLog;
pub use closed::{CloseClass, Closed, ClosedBy};
pub use log::{LogGuard, start_log};
pub use metrics::{
    Cause, Exposition, KeySeries, Kind, Metrics, OverloadMetrics, PolicyCounters, ProxyFailure,
    StoreMetrics, TimedOut, TraceMetrics,
};
pub use record::{Record, Recorder};
pub use trace::{Call, Context, Traced, Tracer};
