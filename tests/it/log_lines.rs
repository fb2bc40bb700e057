//! The log: what part of it is written, in which form, and the id that leads to a line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::support::{BINARY, Backend, Client, Folder, Gateway, PATIENCE, Proto, until, websocket};

/// Answers with the status that the path ends with.
fn backend() -> Backend {
    Backend::answers_by(|request| {
        let status = request.target.rsplit('/').next().unwrap();
        format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").into_bytes()
    })
}

/// How many lines there are of each status.
fn lines(gateway: &Gateway) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for line in gateway.requests() {
        *counts.entry(line["status"].as_u64().unwrap()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn a_part_of_the_lines_is_written_by_class_of_status_and_errors_are_all_of_them() {
    const EACH: usize = 300;
    let backend = backend();
    let gateway = Gateway::before(&backend)
        .toml("reload.watch = false\n[log.sample]\nsuccess = 0.2\nredirect = 0")
        .start()
        .await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for _ in 0..EACH {
        for status in ["200", "302", "404", "500"] {
            client.get(&format!("/cobrowsing/{status}")).await;
        }
    }
    client.get("/outside").await;
    until("the last line", || {
        lines(&gateway).get(&404) == Some(&(EACH + 1))
    })
    .await;
    let written = lines(&gateway);
    assert_eq!((written.get(&500), written.get(&302)), (Some(&EACH), None));
    // 60 of 300; less than 20 or more than 110 comes in one of a thousand million runs.
    assert!((20..110).contains(&written[&200]), "{written:?}");
    for line in gateway.requests() {
        let told = if line["status"] == 200 {
            Some(0.2)
        } else {
            None
        };
        assert_eq!(line["sample"].as_f64(), told, "{line}");
    }
    // The metrics count all of them.
    let all = "gateway_requests_total{code=\"302\",method=\"GET\",route=\"page\"}";
    assert_eq!(gateway.metric(all).await, EACH as f64);
    // While it runs.
    let file = std::fs::read_to_string(gateway.folder.0.join("gateway.toml")).unwrap();
    gateway
        .folder
        .write("gateway.toml", file.replace("redirect = 0", "redirect = 1"));
    gateway.signal(Signal::HUP);
    gateway.until_metric("gateway_config_generation", 1.0).await;
    client.get("/cobrowsing/302").await;
    until("a redirect", || lines(&gateway).get(&302) == Some(&1)).await;
}

#[tokio::test]
async fn what_broke_off_is_written_whatever_part_is() {
    let backend = Backend::answers_half_then_closes();
    let gateway = Gateway::before(&backend)
        .toml("log.sample.success = 0")
        .start()
        .await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    client.try_call("GET", "/cobrowsing/x", &[], "").await.ok();
    until("its line", || gateway.requests().len() == 1).await;
    assert_eq!(gateway.requests()[0]["aborted"], true);
}

#[tokio::test]
async fn the_level_and_the_lines_of_requests_change_while_it_runs() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("reload.watch = false")
        .start()
        .await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    client.get("/cobrowsing/x").await;
    until("a line", || gateway.requests().len() == 1).await;
    let file = std::fs::read_to_string(gateway.folder.0.join("gateway.toml")).unwrap();
    let off = file.replace("[log]", "[log]\naccess = false\nlevel = 'error'");
    for (generation, text, lines) in [(1.0, off, 1), (2.0, file, 2)] {
        gateway.folder.write("gateway.toml", text);
        gateway.signal(Signal::HUP);
        gateway
            .until_metric("gateway_config_generation", generation)
            .await;
        client.get("/cobrowsing/x").await;
        // Lines come in order: what was to be written is there when the next one is.
        if lines == 2 {
            until("a line", || gateway.requests().len() == lines).await;
        }
    }
    // Of the second reload it was told, of the first it was not.
    until("the reload", || gateway.events("reloaded").len() == 1).await;
    assert_eq!(gateway.requests().len(), 2);
}

#[tokio::test]
async fn the_id_of_the_line_is_that_of_the_answer_and_of_the_request_to_the_backend() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    for (n, proto) in Proto::BOTH.into_iter().enumerate() {
        let mut client = Client::connect(&gateway, proto).await;
        let reply = client.get("/cobrowsing/x").await;
        let id = reply.header("x-request-id").unwrap();
        assert_eq!(backend.last().header("x-request-id").as_deref(), Some(id));
        until("the line", || gateway.requests().len() == n + 1).await;
        assert_eq!(gateway.requests()[n]["request_id"], id);
    }
    drop(
        websocket(&gateway, "/cobrowsing/socket", &[])
            .await
            .unwrap(),
    );
    let id = backend.last().header("x-request-id").unwrap();
    until("the line", || gateway.requests().len() == 3).await;
    assert_eq!(gateway.requests()[2]["request_id"], id);
}

/// The names in a line, in their order.
fn names(line: &str) -> Vec<String> {
    let parts = line.split("\"").collect::<Vec<_>>();
    let named = parts.windows(2).filter(|two| two[1].starts_with(':'));
    named.map(|two| two[0].to_owned()).collect()
}

#[tokio::test]
async fn lines_of_requests_have_the_form_of_all_others() {
    let backend = backend();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    client.get("/cobrowsing/api/visitors/list/latest").await;
    client
        .call(
            "GET",
            "/cobrowsing/200",
            &[("x-forwarded-for", "192.0.2.7")],
            "",
        )
        .await;
    until("its lines", || gateway.requests().len() == 2).await;
    let log = gateway.log();
    let line = |what: &str| log.iter().find(|line| line.contains(what)).unwrap();
    let (event, refused, page) = (
        line("\"started\""),
        line("\"status\":401"),
        line("\"status\":200"),
    );
    for line in [event, refused, page] {
        assert_eq!(names(line)[..2], ["timestamp", "level"], "{line}");
        assert_eq!(names(line).last().unwrap(), "target", "{line}");
        let told: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(told["level"], "INFO");
        // To the microsecond, in UTC.
        let time = told["timestamp"].as_str().unwrap();
        let shape: String = time
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000Z", "{line}");
    }
    assert_eq!(
        names(refused)[2..],
        [
            "request_id",
            "peer",
            "proto",
            "method",
            "route",
            "status",
            "error",
            "duration_ms",
            "bytes_received",
            "bytes_sent",
            "target"
        ]
    );
    assert!(names(page).contains(&"upstream_ms".to_owned()), "{page}");
    assert!(refused.ends_with(r#""target":"access"}"#), "{refused}");
}

/// A terminal of its own: what the gateway writes to it, by line.
#[tokio::test]
async fn on_a_terminal_it_is_text_for_people_and_elsewhere_json() {
    let folder = Folder::new().with_certificate();
    let text = "[public]\nbase_endpoint = 'https://localhost/x'\nlisten = '127.0.0.1:0'\n[tls]\ncertificate = 'cert.pem'\n\
                key = 'cert.key'\n[admin]\nlisten = '127.0.0.1:0'\n";
    let file = folder.write("gateway.toml", text);
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = std::fs::File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let command = || {
        let mut command = Command::new(BINARY);
        command.args(["run", "--config"]).arg(&file).env_clear();
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    };
    let (tell, told) = std::sync::mpsc::channel();
    let mut on_terminal = command().stdout(terminal).spawn().unwrap();
    let mut in_a_pipe = command().stdout(Stdio::piped()).spawn().unwrap();
    let pipe = in_a_pipe.stdout.take().unwrap();
    let first = |from: Box<dyn std::io::Read + Send>, is_terminal: bool| {
        let tell = tell.clone();
        std::thread::spawn(move || {
            let lines = BufReader::new(from).lines().map_while(Result::ok);
            let started = lines.into_iter().find(|line| line.contains("started"));
            tell.send((is_terminal, started)).ok();
        });
    };
    first(Box::new(std::fs::File::from(master)), true);
    first(Box::new(pipe), false);
    for _ in 0..2 {
        let (is_terminal, line) = told.recv_timeout(PATIENCE).unwrap();
        let line = line.expect("a line that it has started");
        let json = serde_json::from_str::<serde_json::Value>(&line).is_ok();
        assert_eq!(json, !is_terminal, "{line}");
        if is_terminal {
            // With colours, which only a terminal gets.
            assert!(
                line.contains("\u{1b}[") && line.contains("started"),
                "{line}"
            );
        }
    }
    for child in [&mut on_terminal, &mut in_a_pipe] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
