//! What needs somebody, the worst first: the live page begins with it. The thresholds are those of
//! the alerts, over a minute: an alert takes longer, to be sure.

use super::view::View;
use super::words;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Clients notice now, or soon.
    Bad,
    /// Somebody should look.
    Warn,
}

impl Level {
    /// The class of its colours.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warn => "warn",
        }
    }
}

/// One thing: a few words, and what it means or what to do.
pub(super) struct Note {
    pub(super) level: Level,
    pub(super) what: String,
    pub(super) why: String,
}

const DAY: f64 = 86_400.0;

/// Everything that needs attention.
pub(super) fn notes(view: &View<'_>) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut note = |level, what: &str, why: String| {
        notes.push(Note {
            level,
            what: what.to_owned(),
            why,
        });
    };
    let minute = &view.minute;
    if minute.gauge("gateway_upstream_up") == 0.0 {
        note(
            Level::Bad,
            "The backend accepts no connections",
            format!(
                "Requests get 502. It is expected at {}.",
                view.snapshot.upstream.authority
            ),
        );
    }
    let (share, failed) = view.failures();
    if share > 0.0144 && failed >= 5.0 {
        note(
            Level::Bad,
            "Requests fail",
            format!(
                "{} of the last minute's were answered with 5xx.",
                words::percent(share)
            ),
        );
    }
    for certificate in &view.snapshot.tls.certificates {
        let left = certificate.not_after as f64 - view.now;
        let what = format!("Certificate {}", certificate.name);
        match left {
            _ if left <= 0.0 => note(
                Level::Bad,
                &format!("{what} has expired"),
                "Browsers refuse to connect.".into(),
            ),
            _ if left < 14.0 * DAY => {
                let level = if left < 3.0 * DAY {
                    Level::Bad
                } else {
                    Level::Warn
                };
                note(
                    level,
                    &format!("{what} expires in {}", words::span(left)),
                    "Whatever renews it has not done so, or the new one was not taken.".into(),
                );
            }
            _ => {}
        }
    }
    let overload = minute.recent("gateway_overload_refused_total", |_| true);
    if overload / minute.seconds > 0.2 {
        note(
            Level::Bad,
            "Requests are refused for overload",
            format!(
                "{} in the last minute: more wait for the backend than it takes.",
                words::count(overload)
            ),
        );
    }
    let open = minute.gauge("process_open_fds") / minute.gauge("process_max_fds");
    if open > 0.85 {
        note(
            Level::Bad,
            "File descriptors run out",
            format!(
                "{} of them are open; without one no connection is accepted.",
                words::percent(open)
            ),
        );
    }
    if view.draining {
        note(
            Level::Warn,
            "Draining",
            format!(
                "It ends when its connections have: {} are left. Readiness fails already.",
                words::count(minute.gauge("gateway_drain_remaining_connections"))
            ),
        );
    }
    if minute.gauge("gateway_config_last_reload_successful") == 0.0 {
        let tried = minute.gauge("gateway_config_last_reload_attempt_timestamp_seconds");
        note(
            Level::Warn,
            "The last change is not in force",
            format!(
                "Configuration, certificates or keys changed {} and were rejected; the log says why. What was in force stays.",
                view.ago(tried)
            ),
        );
    }
    if view.snapshot.keys.is_empty() {
        note(
            Level::Warn,
            "The API is closed",
            "No key is configured. Pages and sockets go on.".into(),
        );
    }
    if view.snapshot.rate_limits.shared().is_some()
        && minute.gauge("gateway_ratelimit_store_up") == 0.0
    {
        note(
            Level::Warn,
            "The shared store of limits does not answer",
            "Each replica admits its share of each limit until it does.".into(),
        );
    }
    let refused = minute.recent("gateway_connections_refused_total", |_| true);
    if refused > 0.0 {
        note(
            Level::Warn,
            "Connections are refused",
            format!(
                "{} of the last minute, at a cap of connections.",
                words::count(refused)
            ),
        );
    }
    let wrong =
        |s: &super::scrape::Series<'_>| matches!(s.label("result"), "invalid" | "duplicate");
    let unauthorized = minute.recent("gateway_auth_total", wrong);
    let asked = minute.recent("gateway_auth_total", |_| true);
    if unauthorized / minute.seconds > 0.2 && unauthorized > 0.2 * asked {
        note(
            Level::Warn,
            "Many API requests have no right key",
            format!(
                "{} of the last minute's: a caller with an old key, or somebody who guesses.",
                words::percent(unauthorized / asked)
            ),
        );
    }
    for (name, begins) in &view.snapshot.retire {
        let used = minute.total("gateway_key_last_used_timestamp_seconds", |s| {
            s.label("key_id") == &**name
        });
        if used > *begins as f64 && view.now - used < DAY {
            note(
                Level::Warn,
                &format!("The key {name} is used after its day"),
                format!(
                    "Last {}; the log says by whom. It is accepted until it is removed.",
                    view.ago(used)
                ),
            );
        }
    }
    let dropped = minute.recent("gateway_log_lines_dropped_total", |_| true);
    if dropped > 0.0 {
        note(
            Level::Warn,
            "Log lines are dropped",
            "Who reads standard output is too slow.".into(),
        );
    }
    notes.sort_by_key(|note| note.level);
    notes
}
