//! The sections of the live page about what passes: backend, routes, refusals, sockets.

use super::scrape::Series;
use super::view::{Table, View, alarming, badge, cell, duration, is_failure, section, wide};
use super::words::{NOTHING, bytes, count, latency, rate};
use crate::names::Route;

/// The service behind.
pub(super) fn backend(view: &View<'_>) -> String {
    let mut table = Table::new(&["Backend", "", "~50 %", "99 %", "~connects", "failed"]);
    for up in view.minute.now.named("gateway_upstream_up") {
        let head = |q| {
            latency(
                view.minute
                    .quantile(q, "gateway_upstream_request_duration_seconds", |_| true),
            )
        };
        let connects = |result: &str| {
            view.minute.recent("gateway_upstream_connects_total", |s| {
                s.label("result") == result
            })
        };
        let failed = connects("failed");
        table.row(
            &view.snapshot.upstream.authority,
            &[
                format!(
                    "<td>{}</td>",
                    if up.value == 1.0 {
                        badge("ok", "up")
                    } else {
                        badge("bad", "down")
                    }
                ),
                wide(&head(0.5)),
                cell(&head(0.99)),
                wide(&count(connects("ok"))),
                alarming(failed, &count(failed), "hot"),
            ],
        );
    }
    section(
        "Backend",
        "its part of the time, and connects, of the last minute",
        &table.or(NOTHING),
    )
}

/// Requests and sockets by route.
pub(super) fn traffic(view: &View<'_>) -> String {
    let mut table = Table::new(&[
        "Route",
        "/s",
        "~50 %",
        "99 %",
        "4xx",
        "5xx",
        "sockets",
        "~since start",
    ]);
    for route in Route::ALL.map(Route::as_str) {
        let of = |s: &Series<'_>| s.label("route") == route;
        let total = view.minute.total("gateway_requests_total", of);
        if total == 0.0 {
            continue;
        }
        let refused = view.minute.recent("gateway_requests_total", |s| {
            of(s) && s.label("code").starts_with('4')
        });
        let failed = view
            .minute
            .recent("gateway_requests_total", |s| of(s) && is_failure(s));
        table.row(
            route,
            &[
                cell(&rate(view.moment.rate("gateway_requests_total", of))),
                wide(&latency(duration(&view.minute, 0.5, of))),
                cell(&latency(duration(&view.minute, 0.99, of))),
                cell(&count(refused)),
                alarming(failed, &count(failed), "hot"),
                cell(&count(view.minute.total("gateway_websocket_active", of))),
                wide(&count(total)),
            ],
        );
    }
    section(
        "Traffic",
        "times, 4xx and 5xx of the last minute",
        &table.or("No request yet."),
    )
}

/// What the gateway itself said no to.
pub(super) fn refusals(view: &View<'_>) -> String {
    let mut table = Table::new(&["Reason", "last minute", "since start"]);
    let mut refused: Vec<_> = view
        .minute
        .now
        .named("gateway_rejected_requests_total")
        .filter(|s| s.value > 0.0)
        .map(|s| (view.minute.grown(s), s.value, s.label("reason")))
        .collect();
    refused.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    for (recent, total, reason) in refused {
        table.row(reason, &[cell(&count(recent)), cell(&count(total))]);
    }
    section(
        "Refused by the gateway",
        "the word is also the log's <i>error</i>",
        &table.or("Nothing since the start."),
    )
}

/// How WebSockets come and go.
pub(super) fn sockets(view: &View<'_>) -> String {
    let mut table = Table::new(&["Closed by, with", "last minute", "since start"]);
    let mut closed: Vec<_> = view
        .minute
        .now
        .named("gateway_websocket_closed_total")
        .filter(|s| s.value > 0.0)
        .collect();
    closed.sort_by(|a, b| b.value.total_cmp(&a.value));
    for series in closed {
        table.row(
            &format!("{}, {}", series.label("by"), series.label("code_class")),
            &[
                cell(&count(view.minute.grown(series))),
                cell(&count(series.value)),
            ],
        );
    }
    let bytes_of = |direction: &str| {
        bytes(view.moment.rate("gateway_websocket_bytes_total", |s| {
            s.label("direction") == direction
        }))
    };
    let opened = view
        .minute
        .recent("gateway_requests_total", |s| s.label("code") == "101");
    let aside = format!(
        "{} opened in the last minute, {}/s from clients, {}/s to them",
        count(opened),
        bytes_of("received"),
        bytes_of("sent")
    );
    section("Sockets", &aside, &table.or("None has ended yet."))
}
