//! What is shipped for Prometheus and Grafana beside the alerts and the dashboard: where to scrape, where to
//! ask, and copies that are what they are copies of.

use std::path::PathBuf;

use serde_json::Value;

use super::prometheus::Prometheus;
use super::support::{Backend, Gateway, eventually};

fn shipped(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(shipped(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn the_dashboard_of_kubernetes_and_helm_is_that_of_grafana() {
    let dashboard: Value =
        serde_json::from_str(&read("deploy/grafana/cobrowse-gateway.json")).unwrap();
    // On one line it is half as long: an object of Kubernetes may not be of any length.
    let expected = format!("{dashboard}\n");
    for path in [
        "deploy/kubernetes/components/monitoring/cobrowse-gateway.json",
        "deploy/helm/cobrowse-gateway/files/cobrowse-gateway.json",
    ] {
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(shipped(path), &expected).unwrap();
        }
        assert!(read(path) == expected, "{path}: write it anew with BLESS=1");
    }
}

/// The value of the only line of `text` that begins with `key`.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let mut found = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
    let value = found.next().unwrap_or_else(|| panic!("no {key}: {text}"));
    assert_eq!(found.next(), None, "more than one {key}");
    value
}

#[test]
fn grafana_is_told_where_its_dashboard_is_and_whom_to_ask() {
    let source = read("deploy/grafana/provisioning/datasources/prometheus.yaml");
    let provider = read("deploy/grafana/provisioning/dashboards/cobrowse-gateway.yaml");
    let compose = read("deploy/compose/monitoring.yaml");
    for text in [&source, &provider] {
        assert_eq!(value(text, "apiVersion"), "1");
    }
    assert_eq!(value(&source, "type"), "prometheus");
    assert_eq!(value(&source, "url"), "$PROMETHEUS_URL");
    assert_eq!(value(&compose, "PROMETHEUS_URL"), "http://prometheus:9090");
    // The interval of the data source is what rates of the dashboard are reckoned by.
    let scraping = read("deploy/compose/prometheus.yaml");
    assert_eq!(
        value(&source, "timeInterval"),
        value(&scraping, "scrape_interval")
    );
    let folder = value(&provider, "path");
    let mounted = format!("- ../grafana/cobrowse-gateway.json:{folder}/cobrowse-gateway.json:ro");
    assert!(compose.contains(&mounted), "{mounted}");
    let rules = "- ../prometheus/cobrowse-gateway.rules.yaml:/etc/prometheus/rules/cobrowse-gateway.rules.yaml:ro";
    assert!(compose.contains(rules) && scraping.contains("- /etc/prometheus/rules/*.yaml"));
}

#[tokio::test]
#[ignore = "needs prometheus"]
async fn the_prometheus_of_the_compose_file_scrapes_the_gateway_and_knows_every_alert() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    // Names and folders are those of its container.
    let text = read("deploy/compose/prometheus.yaml");
    let rules = shipped("deploy/prometheus/cobrowse-gateway.rules.yaml");
    for there in ["\"gateway:9180\"", "/etc/prometheus/rules/*.yaml", ": 15s"] {
        assert!(text.contains(there), "{there}");
    }
    let text = text
        .replace("gateway:9180", &gateway.admin.to_string())
        .replace("/etc/prometheus/rules/*.yaml", rules.to_str().unwrap())
        .replace(": 15s", ": 1s");
    let prometheus = Prometheus::told(&text).await;
    let up = "up{job=\"cobrowse-gateway\"}";
    eventually("a scrape", async || {
        prometheus.value(up).await.filter(|up| *up == 1.0)
    })
    .await;
    let written = std::fs::read_to_string(rules).unwrap();
    let written = written.matches("- alert: ").count() + written.matches("- record: ").count();
    // Each has been evaluated, and none is wrong.
    eventually("every rule", async || {
        let groups = prometheus.ask("rules", "", "").await?;
        let groups = groups["groups"].as_array()?;
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        let well = rules.flatten().filter(|rule| rule["health"] == "ok");
        (well.count() == written).then_some(())
    })
    .await;
}
