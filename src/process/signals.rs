//! The signals that the process takes.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and Ctrl-C, and SIGUSR2.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    upgrade: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The end: SIGTERM, Ctrl-C.
    End,
    /// A new process of the binary that is there now: SIGUSR2.
    Upgrade,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    /// Resolves with the next one.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.upgrade.recv() => Asked::Upgrade,
        }
    }

    /// Resolves when the end is asked for; an upgrade is refused meanwhile.
    pub(super) async fn end(&mut self) {
        while self.next().await == Asked::Upgrade {
            tracing::warn!("SIGUSR2 is ignored: this process does not serve, or not for long");
        }
    }
}
