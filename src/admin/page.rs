//! The live page: one screen for whoever was woken by an alert. It works without script, loads
//! nothing, and holds no secret, no id and no client's address.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use base64::Engine;

use super::attention::{self, Level, Note};
use super::view::{Point, View, badge, duration, spark};
use super::words::{self, escaped};
use super::{passing, standing};

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/live.js");

/// The policy that lets this page's own style and script run, and nothing else.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| {
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        base64::engine::general_purpose::STANDARD.encode(hash)
    };
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// The whole page.
pub(super) fn whole(view: &View<'_>) -> String {
    let (main, title) = shown(view);
    format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width, initial-scale=1\"><title>{title}</title><link rel=icon href=\"data:,\"><noscript><meta http-equiv=refresh content=5></noscript><style>{STYLE}</style></head><body><div class=page>{main}<footer><span id=live>as of when it was loaded</span> · <a href=\"metrics\">metrics</a> · <a href=\"readyz\">readyz</a></footer></div><script>{SCRIPT}</script></body></html>\n"
    )
}

/// In a word, for the badge and the tab: what clients meet.
fn state(view: &View<'_>, notes: &[Note]) -> (&'static str, &'static str) {
    match () {
        () if view.draining => ("warn", "draining"),
        () if view.minute.gauge("gateway_upstream_up") == 0.0 => ("bad", "backend down"),
        () if notes.iter().any(|note| note.level == Level::Bad) => ("bad", "in trouble"),
        () => ("ok", "serving"),
    }
}

/// What changes from moment to moment.
pub(super) fn main(view: &View<'_>) -> String {
    shown(view).0
}

/// The same, and the page's title.
fn shown(view: &View<'_>) -> (String, String) {
    let notes = attention::notes(view);
    let (class, state) = state(view, &notes);
    let title = escaped(&format!("{state} – {}", view.snapshot.endpoint.authority));
    let version = view.minute.now.named("gateway_build_info").next();
    let version = version.map_or("", |s| s.label("version"));
    let (day, time) = words::day_and_time(view.now);
    let started = view.minute.gauge("process_start_time_seconds");
    let mut html = format!(
        "<main data-title=\"{}\"><header><h1>Cobrowse Gateway</h1>{}<span class=where>{}</span><span class=meta>version {} · up {} · {day} {time} UTC</span></header>",
        title,
        badge(class, state),
        escaped(&view.snapshot.endpoint.url()),
        escaped(version),
        words::span(view.now - started),
    );
    html += "<ul class=notes role=status>";
    for note in &notes {
        let (class, mark) = match note.level {
            Level::Bad => (note.level.class(), "✕"),
            Level::Warn => (note.level.class(), "!"),
        };
        html += &format!(
            "<li class={class}>{mark} <b>{}.</b> <span>{}</span></li>",
            escaped(&note.what),
            escaped(&note.why)
        );
    }
    if notes.is_empty() {
        html += "<li class=ok>✓ <b>Nothing needs attention.</b></li>";
    }
    html += "</ul>";
    html += &tiles(view);
    html += "<div class=grid><div>";
    for section in [
        passing::backend,
        passing::traffic,
        passing::refusals,
        passing::sockets,
    ] {
        html += &section(view);
    }
    html += "</div><div>";
    for section in [
        standing::keys,
        standing::limits,
        standing::certificates,
        standing::configuration,
        standing::process,
    ] {
        html += &section(view);
    }
    html += "</div></div></main>";
    (html, title)
}

/// The six numbers that are looked at first, and how they came to be.
fn tiles(view: &View<'_>) -> String {
    let (minute, moment) = (&view.minute, &view.moment);
    let (share, failed) = view.failures();
    let refused = minute.recent("gateway_rejected_requests_total", |_| true);
    let connections = minute.gauge("gateway_connections");
    let line = |least: f64, value: fn(&Point) -> f64| spark(view.trend, 24, least, value);
    let tile = |title: &str, class: &str, value: &str, unit: &str, sub: &str, line: &str| {
        format!(
            "<div class=tile><h2>{title}</h2><p class=\"{class}\">{}<small>{unit}</small></p><p class=sub>{}</p>{line}</div>",
            escaped(value),
            escaped(sub)
        )
    };
    let red = if share > 0.0144 && failed >= 5.0 {
        "hot"
    } else {
        ""
    };
    let half = duration(minute, 0.5, |_| true);
    let most = duration(minute, 0.99, |_| true);
    [
        "<div class=tiles>".to_owned(),
        tile(
            "Requests",
            "",
            &words::rate(moment.rate("gateway_requests_total", |_| true)),
            " /s",
            &format!(
                "{} in the last minute",
                words::count(minute.recent("gateway_requests_total", |_| true))
            ),
            &line(1.0, |p| p.requests),
        ),
        tile(
            "Failed (5xx)",
            red,
            &words::percent(share),
            "",
            &format!("{} in the last minute", words::count(failed)),
            &line(0.01, |p| p.failed),
        ),
        tile(
            "99 % faster than",
            "",
            &words::latency(most),
            "",
            &format!("half of them {}", words::latency(half)),
            &line(0.01, |p| p.slow),
        ),
        tile(
            "Open sockets",
            "",
            &words::count(minute.gauge("gateway_websocket_active")),
            "",
            &format!("{} connections", words::count(connections)),
            &line(1.0, |p| p.sockets),
        ),
        tile(
            "Refused",
            "",
            &words::rate(moment.rate("gateway_rejected_requests_total", |_| true)),
            " /s",
            &format!("{} in the last minute", words::count(refused)),
            &line(1.0, |p| p.refused),
        ),
        tile(
            "In flight",
            "",
            &words::count(minute.gauge("gateway_inflight_requests")),
            "",
            &format!(
                "{}, {} of a core",
                words::bytes(minute.gauge("process_resident_memory_bytes")),
                words::percent(minute.rate("process_cpu_seconds_total", |_| true))
            ),
            &line(1.0, |p| p.inflight),
        ),
        "</div>".to_owned(),
    ]
    .concat()
}
