//! What is shipped beside the program: it fits the program, and its parts fit each other. What the
//! real tools say of it is looked at by `deploy/validate`.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::support::{BINARY, Backend, Folder, Gateway};

fn shipped(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(shipped(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn drain(pid: &str) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["drain", "--pid", pid]).output().unwrap()
}

#[tokio::test]
async fn drain_asks_the_gateway_and_no_other_process() {
    let backend = Backend::well();
    let mut gateway = Gateway::before(&backend).start().await;
    let mut other = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    for pid in [&*other.id().to_string(), "0", "2147483647"] {
        let refused = drain(pid);
        assert_eq!(refused.status.code(), Some(1), "{pid}: {refused:?}");
    }
    let said = String::from_utf8(drain(&other.id().to_string()).stderr).unwrap();
    assert!(said.contains("runs another program"), "{said}");
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(gateway.events("draining").is_empty());
    let asked = drain(&gateway.pid().to_string());
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    assert_eq!(gateway.left().await, Some(0));
    assert_eq!(gateway.events("draining").len(), 1);
}

/// The part of a file from a line that is `line`, what comes after it included.
fn from_line<'a>(text: &'a str, line: &str) -> (&'a str, &'a str) {
    let at = text.find(&format!("\n{line}\n")).unwrap() + line.len() + 2;
    text.split_at(at)
}

#[test]
fn the_alerts_of_kubernetes_and_helm_are_those_of_prometheus() {
    let alerts = read("deploy/prometheus/cobrowse-gateway.rules.yaml");
    let rule = "deploy/kubernetes/components/monitoring/prometheusrule.yaml";
    let before = read(rule);
    let indented: Vec<String> = alerts
        .lines()
        .map(|line| {
            if line.is_empty() {
                String::new()
            } else {
                format!("  {line}")
            }
        })
        .collect();
    let expected = format!("{}{}\n", from_line(&before, "spec:").0, indented.join("\n"));
    for (path, expected) in [
        (rule, &expected),
        ("deploy/helm/cobrowse-gateway/files/alerts.yaml", &alerts),
    ] {
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(shipped(path), expected).unwrap();
        }
        let found = read(path);
        assert!(found == *expected, "{path}: write it anew with BLESS=1");
    }
}

#[test]
fn every_piece_names_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    for (path, line) in [
        ("Dockerfile", format!("ARG VERSION=\"{version}\"")),
        (
            "deploy/helm/cobrowse-gateway/Chart.yaml",
            format!("version: {version}"),
        ),
        (
            "deploy/helm/cobrowse-gateway/Chart.yaml",
            format!("appVersion: {version}"),
        ),
        (
            "deploy/kubernetes/base/deployment.yaml",
            format!("image: cobrowse-gateway:{version}"),
        ),
        (
            "deploy/kubernetes/components/built-in/kustomization.yaml",
            format!("value: cobrowse-gateway:{version}"),
        ),
        (
            "deploy/compose/compose.yaml",
            format!("image: cobrowse-gateway:{version}"),
        ),
        (
            "deploy/compose/compose.built-in.yaml",
            format!("image: cobrowse-gateway:{version}"),
        ),
    ] {
        let said = read(path);
        let found = said.lines().any(|found| found.trim() == line);
        assert!(found, "{path} has no line {line}");
    }
}

#[test]
fn the_configuration_of_the_package_is_right() {
    let folder = Folder::new().with_certificate();
    let text = read("deploy/debian/gateway.toml").replace("support.acmetech.com", "localhost");
    let file = folder.write("gateway.toml", text);
    for (name, here) in [("tls.crt", "cert.pem"), ("tls.key", "cert.key")] {
        std::fs::copy(folder.0.join(here), folder.0.join(name)).unwrap();
    }
    folder.write("keys", "back-office: a key\n");
    let checked = Command::new(BINARY)
        .args(["check", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
}

#[test]
fn links_of_the_documentation_lead_to_files() {
    let mut pages: Vec<_> = std::fs::read_dir(shipped("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    for page in [
        "README.md",
        "RELEASING.md",
        "SECURITY.md",
        "ARCHITECTURE.md",
    ] {
        pages.push(shipped(page));
    }
    let mut links = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
        {
            let file = link.0.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let to = page.parent().unwrap().join(file);
            assert!(to.exists(), "{} leads to {}", page.display(), link.0);
            links += 1;
        }
    }
    assert!(links > 20, "{links}");
}
