//! The sections of the live page about what is in force: keys, limits, certificates,
//! configuration, the process.

use super::scrape::Series;
use super::view::{Table, View, alarming, badge, cell, section, wide};
use super::words::{NOTHING, bytes, count, day_and_time, escaped, latency, percent, rate, span};

/// Who uses the API.
pub(super) fn keys(view: &View<'_>) -> String {
    let mut heads = vec!["Key", "/s", "since start", "last used"];
    let have_days = !view.snapshot.retire.is_empty();
    heads.extend(have_days.then_some("~until"));
    let mut table = Table::new(&heads);
    for key in view
        .minute
        .now
        .named("gateway_key_last_used_timestamp_seconds")
    {
        let id = key.label("key_id");
        let of = |s: &Series<'_>| s.label("key_id") == id && s.label("result") == "ok";
        let mut cells = vec![
            cell(&rate(view.moment.rate("gateway_auth_total", of))),
            cell(&count(view.minute.total("gateway_auth_total", of))),
            cell(&if key.value > 0.0 {
                view.ago(key.value)
            } else {
                "not yet".into()
            }),
        ];
        cells.extend(have_days.then(|| until(view, id, key.value)));
        table.row(id, &cells);
    }
    for (result, words) in [
        ("invalid", "no key, or a wrong one"),
        ("duplicate", "two keys at once"),
        ("closed", "any, and none is configured"),
    ] {
        let of = |s: &Series<'_>| s.label("result") == result;
        let total = view.minute.total("gateway_auth_total", of);
        if total > 0.0 {
            let mut cells = vec![
                cell(&rate(view.moment.rate("gateway_auth_total", of))),
                cell(&count(total)),
                cell(NOTHING),
            ];
            cells.extend(have_days.then(|| wide(NOTHING)));
            table.row(words, &cells);
        }
    }
    section(
        "Keys",
        "by name",
        &table.or("No key is configured: the API is closed."),
    )
}

/// The day from which on a key should not be used.
fn until(view: &View<'_>, id: &str, last_used: f64) -> String {
    let mut retire = view.snapshot.retire.iter();
    let Some((_, begins)) = retire.find(|(name, _)| **name == *id) else {
        return wide(NOTHING);
    };
    let begins = *begins as f64;
    let class = if last_used > begins {
        "wide warm"
    } else {
        "wide"
    };
    format!(
        "<td class=\"{class}\">{}</td>",
        escaped(&day_and_time(begins).0)
    )
}

/// How often which limit was reached.
pub(super) fn limits(view: &View<'_>) -> String {
    let mut table = Table::new(&[
        "Policy",
        "admitted /s",
        "limited, last minute",
        "~since start",
    ]);
    for admitted in view
        .minute
        .now
        .named("gateway_ratelimit_total")
        .filter(|s| s.label("result") == "admitted")
    {
        let (policy, enforced) = (admitted.label("policy"), admitted.label("enforced"));
        let of = |s: &Series<'_>| s.label("policy") == policy && s.label("enforced") == enforced;
        let limited = |s: &Series<'_>| of(s) && s.label("result") == "limited";
        let recent = view.minute.recent("gateway_ratelimit_total", limited);
        let about = if enforced == "true" {
            policy.to_owned()
        } else {
            format!("{policy} (only counts)")
        };
        table.row(
            &about,
            &[
                cell(&rate(view.moment.rate("gateway_ratelimit_total", |s| {
                    of(s) && s.label("result") == "admitted"
                }))),
                alarming(recent, &count(recent), "warm"),
                wide(&count(
                    view.minute.total("gateway_ratelimit_total", limited),
                )),
            ],
        );
    }
    let store = view.snapshot.rate_limits.shared().is_some().then(|| {
        let ask = view
            .moment
            .rate("gateway_ratelimit_store_requests_total", |_| true);
        let late = view
            .minute
            .quantile(0.99, "gateway_ratelimit_store_duration_seconds", |_| true);
        let up = view.minute.gauge("gateway_ratelimit_store_up") == 1.0;
        let state = if up {
            badge("ok", "answers")
        } else {
            badge("bad", "does not answer")
        };
        format!(
            "<p>Shared store {state} {} judgements a second, 99 % in {}</p>",
            rate(ask),
            escaped(&latency(late))
        )
    });
    section(
        "Limits",
        "",
        &(table.or("No policy is configured.") + &store.unwrap_or_default()),
    )
}

/// What is served under which name, and how long still.
pub(super) fn certificates(view: &View<'_>) -> String {
    let mut table = Table::new(&["Certificate", "days left", "until", "~for"]);
    for certificate in &view.snapshot.tls.certificates {
        let days = ((certificate.not_after as f64 - view.now) / 86_400.0).floor();
        let class = match days {
            d if d < 3.0 => "hot",
            d if d < 14.0 => "warm",
            _ => "",
        };
        table.row(
            &certificate.name,
            &[
                format!(
                    "<td class=\"{class}\">{}</td>",
                    if days < 0.0 {
                        "expired".into()
                    } else {
                        count(days)
                    }
                ),
                cell(&day_and_time(certificate.not_after as f64).0),
                wide(&certificate.names),
            ],
        );
    }
    section("Certificates", "", &table.or(NOTHING))
}

/// When what was changed, and whether it is in force.
pub(super) fn configuration(view: &View<'_>) -> String {
    let gauge = |name| view.minute.gauge(name);
    let reloads = |result: &str| {
        view.minute.total("gateway_config_reloads_total", |s| {
            s.label("result") == result
        })
    };
    let info = view.minute.now.named("gateway_config_info").next();
    let in_force = gauge("gateway_config_last_reload_successful") == 1.0;
    let mut table = Table::plain();
    let state = if in_force {
        badge("ok", "in force")
    } else {
        badge("bad", "rejected: see the log")
    };
    table.row("last change", &[format!("<td>{state}</td>")]);
    table.row(
        "in force since",
        &[cell(&view.ago(gauge(
            "gateway_config_last_reload_timestamp_seconds",
        )))],
    );
    table.row(
        "reloads, rejected",
        &[cell(&format!(
            "{}, {}",
            count(reloads("ok")),
            count(reloads("failed"))
        ))],
    );
    table.row(
        "digest",
        &[cell(
            info.map_or(NOTHING, |s| s.label("hash"))
                .get(..12)
                .unwrap_or(NOTHING),
        )],
    );
    table.row(
        "drain",
        &[cell(&format!(
            "{} delay, {} budget",
            view.snapshot.drain.delay, view.snapshot.drain.budget
        ))],
    );
    section("Configuration", "", &table.or(NOTHING))
}

/// The process and its connections.
pub(super) fn process(view: &View<'_>) -> String {
    let gauge = |name| view.minute.gauge(name);
    let recent = |name| view.minute.recent(name, |_| true);
    let proto = |proto: &str| {
        view.minute
            .total("gateway_connections", |s| s.label("proto") == proto)
    };
    let mut table = Table::plain();
    table.row(
        "up",
        &[cell(&span(view.now - gauge("process_start_time_seconds")))],
    );
    table.row(
        "connections, HTTP/1.1 and HTTP/2",
        &[cell(&format!(
            "{}, {}",
            count(proto("h1")),
            count(proto("h2"))
        ))],
    );
    table.row(
        "memory",
        &[cell(&bytes(gauge("process_resident_memory_bytes")))],
    );
    table.row(
        "CPU",
        &[cell(&percent(
            view.minute.rate("process_cpu_seconds_total", |_| true),
        ))],
    );
    let (open, most) = (gauge("process_open_fds"), gauge("process_max_fds"));
    table.row(
        "file descriptors",
        &[cell(&format!("{} of {}", count(open), count(most)))],
    );
    for (words, name) in [
        (
            "TLS handshakes that failed",
            "gateway_tls_handshake_failures_total",
        ),
        (
            "connections that said nothing in time",
            "gateway_connection_timeouts_total",
        ),
        (
            "clients that took nothing of an answer",
            "gateway_write_stalls_total",
        ),
        ("log lines dropped", "gateway_log_lines_dropped_total"),
    ] {
        let total = view.minute.total(name, |_| true);
        if total > 0.0 {
            let told = format!(
                "{} in the last minute, {} since start",
                count(recent(name)),
                count(total)
            );
            table.row(words, &[cell(&told)]);
        }
    }
    section("Process", "", &table.or(NOTHING))
}
