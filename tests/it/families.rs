//! Every family of metrics has a test that moves it and sees it move.

use std::collections::BTreeSet;

/// What moves each family: a test that causes it and sees it.
const CAUSES: &[(&str, &str)] = &[
    (
        "gateway_accept_errors_total",
        "limits::who_has_no_files_left_goes_on_accepting_when_there_are_some",
    ),
    (
        "gateway_api_enabled",
        "reload::a_key_file_that_is_emptied_closes_the_api",
    ),
    (
        "gateway_auth_total",
        "series::each_cause_moves_its_own_series_and_no_other",
    ),
    (
        "gateway_build_info",
        "series::a_reload_moves_the_digest_and_the_times_and_the_version_stays",
    ),
    (
        "gateway_config_generation",
        "series::a_reload_moves_the_digest_and_the_times_and_the_version_stays",
    ),
    (
        "gateway_config_info",
        "series::a_reload_moves_the_digest_and_the_times_and_the_version_stays",
    ),
    (
        "gateway_config_last_reload_attempt_timestamp_seconds",
        "reload::what_is_wrong_is_told_and_what_is_in_force_stays",
    ),
    (
        "gateway_config_last_reload_successful",
        "reload::what_is_wrong_is_told_and_what_is_in_force_stays",
    ),
    (
        "gateway_config_last_reload_timestamp_seconds",
        "series::a_reload_moves_the_digest_and_the_times_and_the_version_stays",
    ),
    (
        "gateway_config_reloads_total",
        "reload::what_is_wrong_is_told_and_what_is_in_force_stays",
    ),
    (
        "gateway_connection_timeouts_total",
        "hostile::floods::half_a_head_is_late_over_http_2_too_whatever_else_is_under_way",
    ),
    (
        "gateway_connections",
        "series::each_cause_moves_its_own_series_and_no_other",
    ),
    (
        "gateway_connections_refused_total",
        "limits::one_client_can_take_no_more_than_its_share_of_connections",
    ),
    (
        "gateway_drain_cut_total",
        "drain::what_was_cut_is_in_the_metrics",
    ),
    (
        "gateway_drain_remaining_connections",
        "drain::what_was_cut_is_in_the_metrics",
    ),
    (
        "gateway_draining",
        "operators::sigterm_fails_readiness_first_then_refuses_then_finishes_what_is_there",
    ),
    (
        "gateway_h2_frame_floods_total",
        "hostile::floods::who_floods_with_frames_that_cost_it_nothing_is_told_to_calm_down",
    ),
    (
        "gateway_h2_reset_floods_total",
        "hostile::floods::who_gives_up_hundreds_of_requests_is_told_to_calm_down",
    ),
    (
        "gateway_h2_violations_total",
        "hostile::floods::connections_that_the_framing_ends_are_counted",
    ),
    (
        "gateway_handovers_total",
        "handover::one_hand_over_at_a_time",
    ),
    (
        "gateway_inflight_requests",
        "forwarding::a_client_that_goes_away_takes_its_request_with_it",
    ),
    (
        "gateway_key_last_used_timestamp_seconds",
        "keys::keys_of_every_place_are_let_in_at_once_and_counted_by_their_names",
    ),
    (
        "gateway_key_retire_timestamp_seconds",
        "retired_keys::a_key_has_a_day_from_which_on_its_use_is_told_and_it_is_accepted",
    ),
    (
        "gateway_log_lines_dropped_total",
        "series::lines_that_nobody_reads_hold_up_no_request_and_are_counted",
    ),
    (
        "gateway_metrics_dropped_total",
        "series::a_backend_that_answers_with_every_status_there_is_cannot_fill_a_monitoring_system",
    ),
    (
        "gateway_overload_refused_total",
        "overload::pages_are_refused_before_the_api_and_sockets_first_or_last_as_is_wished",
    ),
    (
        "gateway_proxy_protocol_failures_total",
        "proxy_protocol::what_is_no_header_is_closed_unread",
    ),
    (
        "gateway_ratelimit_store_duration_seconds",
        "series::the_shared_store_is_timed",
    ),
    (
        "gateway_ratelimit_store_requests_total",
        "shared_store::a_flood_of_one_client_is_no_flood_of_the_store",
    ),
    (
        "gateway_ratelimit_store_up",
        "shared_limits::a_store_that_dies_and_comes_back_fails_no_request_and_opens_no_gate",
    ),
    (
        "gateway_ratelimit_total",
        "series::each_cause_moves_its_own_series_and_no_other",
    ),
    (
        "gateway_rejected_requests_total",
        "backend_trouble::each_trouble_has_its_answer_and_the_connection_goes_on",
    ),
    (
        "gateway_request_duration_seconds",
        "series::each_cause_moves_its_own_series_and_no_other",
    ),
    (
        "gateway_request_header_bytes",
        "series::the_size_of_heads_is_told_in_the_terms_of_its_limits",
    ),
    (
        "gateway_request_header_fields",
        "series::the_size_of_heads_is_told_in_the_terms_of_its_limits",
    ),
    (
        "gateway_requests_total",
        "series::each_cause_moves_its_own_series_and_no_other",
    ),
    (
        "gateway_tls_cert_not_after_timestamp_seconds",
        "reload::a_client_is_served_the_certificate_of_the_name_it_asks_for",
    ),
    (
        "gateway_tls_handshake_failures_total",
        "limits::a_handshake_that_takes_too_long_is_ended",
    ),
    (
        "gateway_traced_requests_total",
        "traces::a_receiver_that_is_slow_wrong_or_away_costs_no_request_anything",
    ),
    (
        "gateway_upstream_connects_total",
        "series::each_cause_moves_its_own_series_and_no_other",
    ),
    (
        "gateway_upstream_inflight_limit",
        "overload::at_four_times_its_capacity_the_backend_is_busy_and_who_is_admitted_waits_shortly",
    ),
    (
        "gateway_upstream_inflight_requests",
        "overload::places_come_back_however_a_request_ends",
    ),
    (
        "gateway_upstream_request_duration_seconds",
        "series::each_cause_moves_its_own_series_and_no_other",
    ),
    (
        "gateway_upstream_reused_reset_total",
        "backend_trouble::a_get_is_sent_again_once_on_a_fresh_connection_and_not_more",
    ),
    (
        "gateway_upstream_up",
        "operators::readiness_follows_the_backend_and_liveness_does_not",
    ),
    (
        "gateway_websocket_active",
        "websocket::tunnels_are_counted_while_open_and_when_closed",
    ),
    (
        "gateway_websocket_bytes_total",
        "websocket::tunnels_are_counted_while_open_and_when_closed",
    ),
    (
        "gateway_websocket_closed_total",
        "series::each_cause_moves_its_own_series_and_no_other",
    ),
    (
        "gateway_websocket_session_duration_seconds",
        "series::each_cause_moves_its_own_series_and_no_other",
    ),
    (
        "gateway_write_stalls_total",
        "deadlines::a_client_that_takes_nothing_of_its_answer_is_left",
    ),
];

/// The families of the golden file.
fn families() -> BTreeSet<String> {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/golden/metrics.txt");
    let golden = std::fs::read_to_string(golden).unwrap();
    let typed = golden.lines().filter(|line| line.contains(" type "));
    typed
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

/// The items of a source file, functions and constants, and what is written in each.
fn items(source: &str) -> Vec<(&str, &str)> {
    let mut starts: Vec<_> = [
        "\nfn ",
        "\npub fn ",
        "\nasync fn ",
        "\npub async fn ",
        "\nconst ",
        "\npub const ",
    ]
    .iter()
    .flat_map(|word| {
        source
            .match_indices(word)
            .map(|(at, word)| (at, at + word.len()))
    })
    .collect();
    starts.sort_unstable();
    let ends = starts
        .iter()
        .skip(1)
        .map(|(at, _)| *at)
        .chain([source.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|((_, from), to)| {
            let text = &source[*from..to];
            let name = text
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap();
            (name, text)
        })
        .collect()
}

/// Whether a text has this word, and not only one that begins or ends like it.
fn names(text: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let rest = &text[at + word.len()..];
        let suffixes = ["_bucket", "_sum", "_count"];
        let rest = suffixes
            .iter()
            .find_map(|s| rest.strip_prefix(s))
            .unwrap_or(rest);
        !rest.starts_with(is_word) && !text[..at].ends_with(is_word)
    })
}

#[test]
fn every_family_is_moved_by_its_cause_in_some_test() {
    let listed: BTreeSet<_> = CAUSES
        .iter()
        .map(|(family, _)| (*family).to_owned())
        .collect();
    assert_eq!(
        listed,
        families(),
        "each family of the golden file needs a cause here"
    );
    let mut wrong = Vec::new();
    for (family, test) in CAUSES {
        let (file, name) = test.rsplit_once("::").unwrap();
        let path = format!(
            "{}/tests/it/{}.rs",
            env!("CARGO_MANIFEST_DIR"),
            file.replace("::", "/")
        );
        let source = std::fs::read_to_string(&path).expect(&path);
        let items: Vec<_> = items(&source).into_iter().collect();
        let Some((_, body)) = items.iter().find(|(item, _)| item == &name) else {
            wrong.push(format!("there is no {test}"));
            continue;
        };
        // By itself, or by the functions and constants of its file that it names, and these name.
        let mut reached = vec![*body];
        for at in 0.. {
            let Some(text) = reached.get(at).copied() else {
                break;
            };
            for (item, more) in &items {
                if names(text, item) && !reached.contains(more) {
                    reached.push(more);
                }
            }
        }
        if !reached.iter().any(|text| names(text, family)) {
            wrong.push(format!("{test} says nothing of {family}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The table of metrics in the documentation, made from the golden file.
#[test]
fn the_documentation_tells_every_metric() {
    const MARKS: [&str; 2] = [
        "<!-- metrics: made from tests/it/golden/metrics.txt -->\n",
        "<!-- end of metrics -->",
    ];
    let root = env!("CARGO_MANIFEST_DIR");
    let golden = std::fs::read_to_string(format!("{root}/tests/it/golden/metrics.txt")).unwrap();
    let mut table = "| Metric | Is | Labels | Tells |\n|---|---|---|---|\n".to_owned();
    for family in families() {
        let said = |what: &str| {
            let begins = format!("{family} {what} ");
            let line = golden.lines().find_map(|line| line.strip_prefix(&begins));
            line.unwrap_or_default().to_owned()
        };
        let labels: Vec<_> = said("labels")
            .split(',')
            .filter(|label| !label.is_empty())
            .map(|label| format!("`{label}`"))
            .collect();
        let (kind, labels, help) = (said("type"), labels.join(", "), said("help"));
        table += &format!("| `{family}` | {kind} | {labels} | {help} |\n");
    }
    let file = format!("{root}/docs/observability.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (_, after) = rest.split_once(MARKS[1]).unwrap();
    let expected = [before, MARKS[0], &table, MARKS[1], after].concat();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &expected).unwrap();
        return;
    }
    assert!(text == expected, "BLESS=1 writes it anew");
}
