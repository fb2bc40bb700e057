//! The log: one line an event, written by a thread of its own so that a slow reader of standard
//! output never holds a request; lines that do not fit its queue are dropped and counted.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::access::AccessLog;
use crate::config::{Log, LogFormat, LogLevel};

/// Keeps the writing thread; dropping it writes what is queued.
pub struct LogGuard {
    _worker: WorkerGuard,
    dropped: ErrorCounter,
    set_filter: Box<dyn Fn(EnvFilter) + Send + Sync>,
    access: Arc<AccessLog>,
}

impl LogGuard {
    /// Lines dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.dropped_lines() as u64
    }

    /// The lines of requests.
    pub fn access(&self) -> Arc<AccessLog> {
        Arc::clone(&self.access)
    }

    /// Writes from now on what `log` says; its format stays.
    pub fn follow(&self, log: &Log) {
        (self.set_filter)(filter(log));
        self.access.follow(log);
    }
}

/// Most lines that wait for the reader of standard output, about 10 MiB.
const MOST_WAITING: usize = 1 << 15;

/// Starts the process' log. A second call (tests) changes nothing.
pub fn start_log(log: &Log) -> LogGuard {
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MOST_WAITING)
        .finish(standard_output());
    let dropped = writer.error_counter();
    let terminal = std::io::stdout().is_terminal();
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let access = Arc::new(AccessLog::new(log, json.then(|| writer.clone())));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(log))
        .with_writer(writer);
    // Two types of subscriber, and so two of handles to their filters.
    let set_filter: Box<dyn Fn(EnvFilter) + Send + Sync> = if json {
        let builder = builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_filter_reloading();
        let handle = builder.reload_handle();
        drop(builder.finish().try_init());
        Box::new(move |filter| drop(handle.reload(filter)))
    } else {
        let builder = builder.with_ansi(terminal).with_filter_reloading();
        let handle = builder.reload_handle();
        drop(builder.finish().try_init());
        Box::new(move |filter| drop(handle.reload(filter)))
    };
    LogGuard {
        _worker: worker,
        dropped,
        set_filter,
        access,
    }
}

/// Standard output without the standard library's own buffer, which makes a system call of each line: the
/// thread that writes flushes when nothing more waits.
fn standard_output() -> Box<dyn Write + Send> {
    let own = std::io::stdout().as_fd().try_clone_to_owned();
    match own {
        Ok(own) => Box::new(BufWriter::with_capacity(64 << 10, File::from(own))),
        Err(_) => Box::new(std::io::stdout()),
    }
}

fn filter(log: &Log) -> EnvFilter {
    let level = match log.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    // Libraries say at `debug` what clients sent: never more of them than warnings.
    EnvFilter::new(format!(
        "warn,cobrowse_gateway={level},access={}",
        if log.access { "info" } else { "off" }
    ))
}
