//! What the service manager, such as systemd, is told: `sd_notify(3)`. Without `NOTIFY_SOCKET`
//! nothing happens.

use std::net::SocketAddr;

use sd_notify::NotifyState;

/// It serves.
pub fn ready(listen: SocketAddr) {
    let status = format!("Serving on {listen}");
    say(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// It begins to reload its configuration; [`reloaded`] is to follow, however that ends.
pub fn reloading() {
    // Type=notify-reload compares it with the time of its own signal.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(e) => tracing::warn!(error = %e, "no monotonic clock for the service manager"),
    }
}

/// The reload is over.
pub fn reloaded() {
    say(&[NotifyState::Ready]);
}

/// It drains and will end.
pub fn stopping() {
    say(&[NotifyState::Stopping, NotifyState::Status("Draining")]);
}

/// Another process is the service from now on.
pub fn main_process(pid: u32) {
    say(&[NotifyState::MainPid(pid)]);
}

fn say(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!(error = %e, "the service manager cannot be told (NOTIFY_SOCKET)");
    }
}
