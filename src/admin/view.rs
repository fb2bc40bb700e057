//! What the live page is made of: the numbers of one moment, and pieces of HTML.

use std::collections::VecDeque;

use super::scrape::{Quantile, Reading, Series};
use super::words::{self, NOTHING, escaped};
use crate::snapshot::Snapshot;

/// One moment, compared with about a minute before it.
pub(super) struct View<'v> {
    /// The last minute.
    pub(super) minute: Reading<'v>,
    /// The last few seconds: for what is told a second.
    pub(super) moment: Reading<'v>,
    /// The last minutes, the newest last.
    pub(super) trend: &'v VecDeque<Point>,
    /// What is in force.
    pub(super) snapshot: &'v Snapshot,
    /// Unix time.
    pub(super) now: f64,
    pub(super) draining: bool,
}

/// A point of the lines that are drawn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Point {
    /// Requests a second.
    pub(super) requests: f64,
    /// The share of them that was answered with 5xx.
    pub(super) failed: f64,
    /// Under what 99 % of them were, in seconds.
    pub(super) slow: f64,
    /// Open tunnels.
    pub(super) sockets: f64,
    /// Refusals a second.
    pub(super) refused: f64,
    /// Requests in flight.
    pub(super) inflight: f64,
}

impl Point {
    /// What happened in the time of `reading`.
    pub(super) fn of(reading: &Reading<'_>) -> Self {
        let all = reading.recent("gateway_requests_total", |_| true);
        let failed = reading.recent("gateway_requests_total", is_failure);
        Self {
            requests: all / reading.seconds,
            failed: if all > 0.0 { failed / all } else { 0.0 },
            slow: duration(reading, 0.99, |_| true).seconds(),
            sockets: reading.gauge("gateway_websocket_active"),
            refused: reading.rate("gateway_rejected_requests_total", |_| true),
            inflight: reading.gauge("gateway_inflight_requests"),
        }
    }
}

/// Whether requests of this series were answered with 5xx.
pub(super) fn is_failure(series: &Series<'_>) -> bool {
    series.label("code").starts_with('5')
}

/// A quantile of what requests took.
pub(super) fn duration<'r>(
    reading: &Reading<'r>,
    q: f64,
    which: impl Fn(&Series<'r>) -> bool,
) -> Quantile {
    reading.quantile(q, "gateway_request_duration_seconds", which)
}

impl View<'_> {
    /// The share of recent requests that was answered with 5xx, and how many those were.
    pub(super) fn failures(&self) -> (f64, f64) {
        let all = self.minute.recent("gateway_requests_total", |_| true);
        let failed = self.minute.recent("gateway_requests_total", is_failure);
        (if all > 0.0 { failed / all } else { 0.0 }, failed)
    }

    /// A Unix time as "12 s ago".
    pub(super) fn ago(&self, unix: f64) -> String {
        if unix <= 0.0 {
            NOTHING.into()
        } else {
            format!("{} ago", words::span(self.now - unix))
        }
    }
}

/// A table: the first column is text, the others are numbers.
pub(super) struct Table {
    html: String,
    rows: usize,
}

impl Table {
    /// With these heads; one that begins with `~` is left out on narrow screens, and so are its
    /// cells.
    pub(super) fn new(heads: &[&str]) -> Self {
        let mut html = String::from("<table><thead><tr>");
        for head in heads {
            match head.strip_prefix('~') {
                Some(head) => html += &format!("<th class=wide scope=col>{head}</th>"),
                None => html += &format!("<th scope=col>{head}</th>"),
            }
        }
        html += "</tr></thead><tbody>";
        Self { html, rows: 0 }
    }

    /// Without heads: each row is a word and what it is.
    pub(super) fn plain() -> Self {
        Self {
            html: "<table class=plain><tbody>".into(),
            rows: 0,
        }
    }

    /// Another row: what it is about, as text, and its cells, as HTML of [`cell`] and its like.
    pub(super) fn row(&mut self, about: &str, cells: &[String]) {
        self.rows += 1;
        self.html += &format!("<tr><th scope=row>{}</th>", escaped(about));
        for cell in cells {
            self.html += cell;
        }
        self.html += "</tr>";
    }

    /// The table, or what is said when it has no row.
    pub(super) fn or(self, nothing: &str) -> String {
        if self.rows == 0 {
            format!("<p>{nothing}</p>")
        } else {
            self.html + "</tbody></table>"
        }
    }
}

/// What is pale, so that everything else stands out.
fn is_nothing(text: &str) -> bool {
    matches!(text, "0" | "0 %" | NOTHING)
}

/// A cell.
pub(super) fn cell(text: &str) -> String {
    let class = if is_nothing(text) { " class=zero" } else { "" };
    format!("<td{class}>{}</td>", escaped(text))
}

/// A cell that is left out on narrow screens.
pub(super) fn wide(text: &str) -> String {
    let zero = if is_nothing(text) { " zero" } else { "" };
    format!("<td class=\"wide{zero}\">{}</td>", escaped(text))
}

/// A cell whose number should be 0.
pub(super) fn alarming(n: f64, text: &str, class: &str) -> String {
    if n > 0.0 {
        format!("<td class={class}>{}</td>", escaped(text))
    } else {
        cell(text)
    }
}

/// A word whose colour says no more than itself.
pub(super) fn badge(class: &str, word: &str) -> String {
    format!("<span class=\"badge {class}\">{}</span>", escaped(word))
}

/// A section of the page. `aside` is small text beside its title.
pub(super) fn section(title: &str, aside: &str, inside: &str) -> String {
    let aside = if aside.is_empty() {
        String::new()
    } else {
        format!("<small>{aside}</small>")
    };
    format!("<section><h2>{title}{aside}</h2>{inside}</section>")
}

/// A line of the last minutes, as tall as its largest value, or `least`; it begins at the left once
/// there are `fewest` points.
pub(super) fn spark(
    trend: &VecDeque<Point>,
    fewest: usize,
    least: f64,
    value: impl Fn(&Point) -> f64,
) -> String {
    const HEIGHT: f64 = 36.0;
    let top = trend.iter().map(&value).fold(least, f64::max);
    let length = trend.len().max(fewest);
    let first = length - trend.len();
    let points: Vec<_> = trend
        .iter()
        .enumerate()
        .map(|(i, point)| {
            let y = HEIGHT - value(point) / top * (HEIGHT - 3.0) + 1.0;
            format!("{},{y:.1}", first + i)
        })
        .collect();
    let (width, points) = (length.saturating_sub(1), points.join(" "));
    let bottom = HEIGHT + 2.0;
    format!(
        "<svg viewBox=\"0 0 {width} {bottom}\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><path d=\"M{first},{bottom} L{points} L{width},{bottom} Z\"/><polyline points=\"{points}\"/></svg>"
    )
}
