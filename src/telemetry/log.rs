//! The log: one line an event, written by a thread of its own so that a slow reader of standard
//! output never holds a request; lines that do not fit its queue are dropped and counted.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat, LogLevel};

/// Keeps the writing thread; dropping it writes what is queued.
pub struct LogGuard {
    _worker: WorkerGuard,
    dropped: ErrorCounter,
}

impl LogGuard {
    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.dropped_lines() as u64
    }
}

/// Starts the process' log. A second call (tests) changes nothing.
pub fn start_log(log: &Log) -> LogGuard {
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .finish(std::io::stdout());
    let dropped = writer.error_counter();
    let level = match log.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    // Libraries say at `debug` what clients sent: never more of them than warnings.
    let filter = EnvFilter::new(format!(
        "warn,cobrowse_gateway={level},access={}",
        if log.access { "info" } else { "off" }
    ));
    let terminal = std::io::stdout().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let started = if json {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init()
    } else {
        builder.with_ansi(terminal).try_init()
    };
    drop(started);
    LogGuard {
        _worker: worker,
        dropped,
    }
}
