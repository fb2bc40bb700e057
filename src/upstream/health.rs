//! Whether the backend accepts connections, tested now and then.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::Settings;
use crate::telemetry::Metrics;

/// What the last test said.
#[derive(Clone, Default)]
pub struct Health(Rc<Cell<bool>>);

impl Health {
    /// Whether the last test connection was accepted.
    pub fn is_up(&self) -> bool {
        self.0.get()
    }

    /// Tests for ever, as `now` says: each interval while the backend is up, each second while it is
    /// not.
    pub async fn watch(self, now: impl Fn() -> (Settings, Duration), metrics: Arc<Metrics>) {
        loop {
            let (settings, interval) = now();
            let opened = tokio::time::timeout(
                settings.connect_timeout,
                TcpStream::connect(&*settings.authority),
            )
            .await;
            let up = matches!(opened, Ok(Ok(_)));
            if up != self.0.replace(up) {
                tracing::info!(up, "backend health changed");
            }
            metrics.upstream.up.set(i64::from(up));
            tokio::time::sleep(if up {
                interval
            } else {
                interval.min(Duration::from_secs(1))
            })
            .await;
        }
    }
}
