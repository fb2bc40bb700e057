//! The dashboard and the alerts that the binary prints fit its metrics and the runbook.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cobrowse_gateway::names::Route;
use cobrowse_gateway::reject::Reject;
use serde_json::Value;

use super::commands::{good, run};
use super::support::Folder;

fn file(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// What is there to be asked for: each metric with its labels.
struct Known(BTreeMap<String, BTreeSet<String>>);

impl Known {
    /// The golden file's metrics, the process' own, and what Prometheus adds.
    fn new(rules: &[Rule]) -> Self {
        let mut known = BTreeMap::<String, BTreeSet<String>>::new();
        for line in file("tests/it/golden/metrics.txt").lines() {
            let [name, what, rest] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            let labels = known.entry(name.to_owned()).or_default();
            match (what, rest) {
                ("labels", names) => labels.extend(names.split(',').map(str::to_owned)),
                ("type", "histogram") => {
                    for part in ["_bucket", "_sum", "_count"] {
                        known.entry(format!("{name}{part}")).or_default();
                    }
                }
                _ => {}
            }
        }
        // The labels stand before the type: a histogram's parts have them, too.
        for part in ["_bucket", "_sum", "_count"] {
            let parts: Vec<_> = known
                .keys()
                .filter_map(|name| Some((name.clone(), name.strip_suffix(part)?.to_owned())))
                .collect();
            for (name, whole) in parts {
                let mut labels = known.get(&whole).cloned().unwrap_or_default();
                if part == "_bucket" {
                    labels.insert("le".into());
                }
                known.insert(name, labels);
            }
        }
        for name in [
            "process_cpu_seconds_total",
            "process_max_fds",
            "process_open_fds",
            "process_resident_memory_bytes",
        ] {
            known.entry(name.into()).or_default();
        }
        for rule in rules.iter().filter(|rule| !rule.is_alert) {
            known.entry(rule.name.clone()).or_default();
        }
        for labels in known.values_mut() {
            labels.extend(["job", "instance", "namespace"].map(str::to_owned));
        }
        Self(known)
    }

    /// Panics where `query` asks for what is not there; the labels its result may have.
    fn check(&self, query: &str) -> BTreeSet<String> {
        let asked = Asked::of(query);
        assert!(!asked.metrics.is_empty(), "{query}: asks for nothing");
        let mut labels = BTreeSet::new();
        for (metric, matchers) in &asked.metrics {
            let has = self.0.get(metric);
            let has = has.unwrap_or_else(|| panic!("{query}: no metric {metric}"));
            for (label, value) in matchers {
                assert!(has.contains(label), "{query}: {metric} has no {label}");
                let closed: &[&str] = match (metric.as_str(), label.as_str()) {
                    (_, "route") => &Route::ALL.map(Route::as_str),
                    ("gateway_rejected_requests_total", "reason") => &Reject::CODES,
                    _ => continue,
                };
                for word in value.split('|') {
                    assert!(closed.contains(&word), "{query}: no {label} {word}");
                }
            }
            labels.extend(has.iter().cloned());
        }
        for label in &asked.groups {
            assert!(labels.contains(label), "{query}: nothing has {label}");
        }
        labels
    }
}

/// What a PromQL expression names.
#[derive(Debug, Default)]
struct Asked {
    /// Metrics, with the labels that are matched and with what.
    metrics: Vec<(String, Vec<(String, String)>)>,
    /// Labels after `by`, `on` and their like.
    groups: Vec<String>,
}

impl Asked {
    fn of(query: &str) -> Self {
        let mut asked = Self::default();
        let mut rest = query;
        while let Some(c) = rest.chars().next() {
            match c {
                // A range, such as [5m].
                '[' => rest = rest.split_once(']').unwrap().1,
                '"' => rest = string(rest).1,
                c if c.is_ascii_digit() => {
                    rest = rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '.');
                }
                c if c.is_alphabetic() || matches!(c, '_' | ':') => {
                    let (name, after) = word(rest);
                    rest = after.trim_start();
                    match name {
                        "by" | "without" | "on" | "ignoring" | "group_left" | "group_right" => {
                            if let Some(list) = rest.strip_prefix('(') {
                                let (labels, after) = list.split_once(')').unwrap();
                                let labels = labels.split(',').map(|l| l.trim().to_owned());
                                asked
                                    .groups
                                    .extend(labels.filter(|label| !label.is_empty()));
                                rest = after;
                            }
                        }
                        "and" | "or" | "unless" | "bool" | "offset" => {}
                        _ if rest.starts_with('(') => {}
                        // An aggregation whose labels come first.
                        "sum" | "min" | "max" | "avg" | "count" => {}
                        metric => {
                            let mut matchers = Vec::new();
                            if let Some(mut inside) = rest.strip_prefix('{') {
                                while !inside.starts_with('}') {
                                    let (label, after) = word(inside);
                                    let quoted = after.trim_start_matches(['=', '!', '~']);
                                    assert!(quoted.len() < after.len(), "{query}: {inside}");
                                    let (value, after) = string(quoted);
                                    matchers.push((label.to_owned(), value.to_owned()));
                                    inside = after.trim_start_matches([',', ' ']);
                                }
                                rest = &inside[1..];
                            }
                            asked.metrics.push((metric.to_owned(), matchers));
                        }
                    }
                }
                c => rest = &rest[c.len_utf8()..],
            }
        }
        asked
    }
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':')));
    text.split_at(end.unwrap_or(text.len()))
}

/// A string in quotes, none of which are inside.
fn string(text: &str) -> (&str, &str) {
    let inside = text.strip_prefix('"').unwrap_or_else(|| panic!("{text}"));
    inside.split_once('"').unwrap()
}

/// One rule of the file.
#[derive(Debug)]
pub(super) struct Rule {
    is_alert: bool,
    name: String,
    expr: String,
    text: String,
}

/// The rules, of the shape in which they are written: a key a line, expressions in blocks.
fn rules(text: &str) -> Vec<Rule> {
    let mut rules = Vec::<Rule>::new();
    let mut in_expr = false;
    for line in text.lines() {
        let begun = ["      - alert: ", "      - record: "].map(|begin| line.strip_prefix(begin));
        if let Some(name) = begun[0].or(begun[1]) {
            rules.push(Rule {
                is_alert: begun[0].is_some(),
                name: name.to_owned(),
                expr: String::new(),
                text: String::new(),
            });
        }
        let Some(rule) = rules.last_mut() else {
            continue;
        };
        in_expr = match line.strip_prefix("        expr: ") {
            Some(block) => {
                assert_eq!(block, "|-", "{line}");
                true
            }
            None => in_expr && line.starts_with("          "),
        };
        if in_expr && !line.ends_with("|-") {
            rule.expr += line;
            rule.expr += "\n";
        }
        rule.text += line;
        rule.text += "\n";
    }
    rules
}

/// Title and expression of each query of the dashboard, annotations included.
pub(super) fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((
                title.to_owned(),
                target["expr"].as_str().unwrap().to_owned(),
            ));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        let query = annotation["expr"].as_str().unwrap().to_owned();
        found.push((annotation["name"].as_str().unwrap().to_owned(), query));
    }
    found
}

/// The dashboard, as the binary prints it.
pub(super) fn dashboard() -> Value {
    let printed = good(&Folder::new(), &["dashboards"], &[]);
    serde_json::from_str(&printed).unwrap()
}

fn printed_rules() -> String {
    good(&Folder::new(), &["alerts"], &[])
}

#[test]
fn what_is_printed_is_what_is_kept() {
    let printed = good(&Folder::new(), &["dashboards"], &[]);
    assert_eq!(printed, file("deploy/grafana/cobrowse-gateway.json"));
    let rules = file("deploy/prometheus/cobrowse-gateway.rules.yaml");
    assert_eq!(printed_rules(), rules);
    let elsewhere = "https://wiki.acmetech.com/runbook";
    let moved = good(&Folder::new(), &["alerts", "--runbook", elsewhere], &[]);
    let alerts = rules.matches("runbook_url: docs/runbook.md#").count();
    assert!(alerts > 10);
    let led = format!("runbook_url: {elsewhere}#");
    assert_eq!(moved.matches(&led).count(), alerts);
    for wrong in ["", "a b", "https://x/#y", "x:", "'", "a\nb"] {
        let ran = run(&Folder::new(), &["alerts", "--runbook", wrong], &[]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{wrong:?}");
    }
}

#[test]
fn every_metric_and_label_of_the_dashboard_is_there() {
    let dashboard = dashboard();
    let known = Known::new(&[]);
    let queries = queries(&dashboard);
    assert!(queries.len() > 60);
    for (title, query) in &queries {
        let labels = known.check(query);
        // Two variables choose among gateways in every one of them.
        for (metric, matchers) in Asked::of(query).metrics {
            for variable in ["job", "instance"] {
                let chosen = (variable.to_owned(), format!("${variable}"));
                assert!(matchers.contains(&chosen), "{title}: {metric}: {query}");
            }
        }
        assert!(labels.contains("instance"));
    }
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
            let (legend, expr) = (&target["legendFormat"], &target["expr"]);
            for label in named(legend.as_str().unwrap()) {
                let groups = Asked::of(expr.as_str().unwrap()).groups;
                let kept = groups.is_empty() && label == "instance";
                assert!(kept || groups.contains(&label), "{legend} of {expr}");
            }
        }
    }
}

/// The labels of `{{label}}` and `{{ $labels.label }}`.
fn named(text: &str) -> Vec<String> {
    let parts = text.split("{{").skip(1);
    let inside = parts.map(|part| part.split_once("}}").unwrap().0.trim());
    let labels = inside.filter(|inside| !inside.starts_with("$value"));
    labels
        .map(|label| label.trim_start_matches("$labels.").to_owned())
        .collect()
}

#[test]
fn every_metric_and_label_of_the_alerts_is_there() {
    let rules = rules(&printed_rules());
    let known = Known::new(&rules);
    for rule in &rules {
        let labels = known.check(&rule.expr);
        for label in named(&rule.text) {
            assert!(labels.contains(&label), "{}: {label}", rule.name);
        }
    }
}

#[test]
fn what_is_misspelt_in_a_query_is_found() {
    let known = Known::new(&[]);
    for wrong in [
        "sum(rate(gateway_request_total[5m]))",
        "gateway_requests_total{status=\"200\"}",
        "gateway_requests_total{route=\"pages\"}",
        "gateway_rejected_requests_total{reason=\"unauthorised\"}",
        "sum by (policy) (gateway_auth_total)",
        "sum(gateway_auth_total) by (policy)",
        "histogram_quantile(0.9, gateway_auth_total_bucket)",
        "time() - 3",
    ] {
        let found = std::panic::catch_unwind(|| known.check(wrong));
        assert!(found.is_err(), "{wrong}");
    }
    known.check("sum by (le, route) (rate(gateway_request_duration_seconds_bucket{route=\"page\"}[5m])) > 1e3 and on () gateway_draining");
}

#[test]
fn every_alert_says_what_is_wrong_and_where_to_read_on() {
    let rules = rules(&printed_rules());
    let alerts: Vec<_> = rules.iter().filter(|rule| rule.is_alert).collect();
    let runbook = file("docs/runbook.md");
    let sections: BTreeSet<_> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    let cases = file("deploy/prometheus/cobrowse-gateway.test.yaml")
        + &file("deploy/prometheus/cobrowse-gateway.budget.test.yaml");
    for Rule { name, text, .. } in &alerts {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(key));
            line.unwrap_or_else(|| panic!("{name} has no {key}")).trim()
        };
        assert!(["critical", "warning"].contains(&value("severity:")));
        assert!(value("summary:").len() > 10, "{name}");
        assert_eq!(value("description:"), ">-", "{name}");
        let section = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(value("runbook_url:"), section);
        assert!(sections.contains(name.as_str()), "no section ### {name}");
        // A case in which it fires, and one in which it does not.
        let mut outcomes = BTreeSet::new();
        let mut lines = cases.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if line.strip_prefix("alertname: ") == Some(name) {
                outcomes.insert(lines.next().unwrap());
            }
        }
        let both = ["exp_alerts:", "exp_alerts: []"].into_iter().collect();
        assert_eq!(outcomes, both, "cases of {name}");
    }
    assert_eq!(sections.len(), alerts.len(), "a section without its alert");
}

fn promtool(arguments: &[&str]) {
    let said = Command::new("promtool")
        .args(arguments)
        .current_dir(root().join("deploy/prometheus"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{arguments:?}: {text}");
}

#[test]
#[ignore = "needs promtool"]
fn promtool_accepts_the_alerts() {
    promtool(&["check", "rules", "cobrowse-gateway.rules.yaml"]);
}

#[test]
#[ignore = "needs promtool"]
fn every_alert_fires_when_it_should_and_is_quiet_when_it_should_not() {
    promtool(&[
        "test",
        "rules",
        "cobrowse-gateway.test.yaml",
        "cobrowse-gateway.budget.test.yaml",
    ]);
}
