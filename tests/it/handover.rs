//! The binary is upgraded while it runs: SIGUSR2, a new process, the same listening sockets.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;
use tokio_tungstenite::tungstenite::Message;

use super::support::{
    BINARY, Backend, Client, Gateway, Heir, Proto, Traffic, eventually, until, websocket,
};

/// Puts another program where the binary is, as an installation does: by rename.
fn replace(program: &Path, script: &str) {
    let beside = program.with_extension("new");
    std::fs::write(&beside, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(beside, program).unwrap();
}

/// A new version of the program, which is the same and leaves a trace.
fn new_version() -> String {
    format!("echo new \"$@\" >>trace; exec {BINARY} \"$@\"")
}

/// The messages and reasons of failed hand-overs.
fn failures(gateway: &Gateway) -> Vec<String> {
    let events = gateway.events("no hand-over: this process goes on");
    let why = events.iter().map(|line| line["why"].as_str());
    why.map(|why| why.unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_program_that_is_there_now_takes_over_and_the_old_process_ends_with_0() {
    let backend = Backend::well();
    let mut gateway = Gateway::before(&backend).copied().start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    assert_eq!(client.get("/cobrowsing/x").await.status, 200);
    replace(&gateway.program(), &new_version());
    let heir = Heir::of(&gateway, |signal| gateway.signal(signal)).await;
    let trace = std::fs::read_to_string(gateway.folder.0.join("trace")).unwrap();
    let file = gateway.folder.0.join("gateway.toml");
    assert_eq!(trace, format!("new run --config {}\n", file.display()));
    // Every answer from here on is the new process'.
    gateway.until_ready().await;
    let taken = "gateway_handovers_total{result=\"taken\"}";
    assert_eq!(gateway.metric(taken).await, 1.0);
    assert_eq!(gateway.metric("gateway_draining").await, 0.0);
    // A kept connection is not broken: its next answer is the last.
    let last = client.get("/cobrowsing/x").await;
    assert_eq!(
        (last.status.as_u16(), last.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(gateway.left().await, Some(0));
    assert_eq!(gateway.events("drained")[0]["cut"], 0);
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let next = client.get("/cobrowsing/x").await;
    assert_eq!(
        (next.status.as_u16(), next.header("connection")),
        (200, None)
    );
    // And once more, from the new one.
    let mut heir = heir;
    let next = Heir::of(&gateway, |signal| heir.signal(signal)).await;
    assert_eq!(heir.left().await, Some(0));
    gateway.until_ready().await;
    assert_eq!(next.stop().await, Some(0));
}

#[tokio::test]
async fn under_load_upgrades_lose_no_request_and_refuse_no_connection() {
    let backend = Backend::upgrades_and_echoes_messages();
    let setup = Gateway::before(&backend).toml("limits.workers = 2\nlog.access = false");
    let mut gateway = setup.start().await;
    let load = Traffic::on(gateway.listen);
    load.goes_on(100).await;
    let begun = Instant::now();
    let mut heir = Heir::of(&gateway, |signal| gateway.signal(signal)).await;
    load.goes_on(100).await;
    assert_eq!(gateway.left().await, Some(0));
    for _ in 0..2 {
        let next = Heir::of(&gateway, |signal| heir.signal(signal)).await;
        load.goes_on(100).await;
        assert_eq!(heir.left().await, Some(0));
        heir = next;
    }
    // And two in a row, the first old process still having its tunnels.
    let mut brief = Heir::of(&gateway, |signal| heir.signal(signal)).await;
    let last = Heir::of(&gateway, |signal| brief.signal(signal)).await;
    brief.gone().await;
    assert_eq!(heir.left().await, Some(0));
    load.goes_on(100).await;
    let took = begun.elapsed();
    let figures = load.stop().await;
    eprintln!("5 upgrades in {took:?}: {figures}");
    figures.assert_nothing_lost("1012");
    assert_eq!(last.stop().await, Some(0));
}

#[tokio::test]
async fn a_new_process_that_fails_leaves_the_old_one_as_it_was() {
    let backend = Backend::upgrades_and_echoes_messages();
    let setup = Gateway::before(&backend).toml("drain.takeover = '3s'");
    let mut gateway = setup.copied().start().await;
    let program = gateway.program();
    let mut socket = websocket(&gateway, "/cobrowsing/socket", &[])
        .await
        .unwrap();
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let good = std::fs::read_to_string(gateway.folder.0.join("gateway.toml")).unwrap();
    let bad = format!("{good}\n[nonsense]\n");
    let real = format!("exec {BINARY} \"$@\"");
    let cases: [(&str, &str, &[&str]); 5] = [
        (&good, "exit 3", &["ended before it was ready", "3"]),
        (&good, "kill -9 $$", &["ended before it was ready", "9"]),
        (&bad, &real, &["it failed: ", "nonsense"]),
        (&good, "exec sleep 60", &["not ready in 3s"]),
        (&good, "", &["No such file"]),
    ];
    for (n, (file, script, said)) in cases.into_iter().enumerate() {
        gateway.folder.write("gateway.toml", file);
        replace(&program, script);
        if script.is_empty() {
            std::fs::remove_file(&program).unwrap();
        }
        gateway.signal(Signal::USR2);
        until("it is told", || failures(&gateway).len() == n + 1).await;
        let why = &failures(&gateway)[n];
        assert!(
            said.iter().all(|word| why.contains(word)),
            "{script}: {why}"
        );
        let failed = "gateway_handovers_total{result=\"failed\"}";
        assert_eq!(gateway.metric(failed).await, (n + 1) as f64);
        // On the same connections as before.
        let reply = client.get("/cobrowsing/x").await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("connection")),
            (200, None)
        );
        socket.send(Message::text("still")).await.unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap(),
            Message::text("still")
        );
        gateway.until_ready().await;
    }
    gateway.folder.write("gateway.toml", good);
    replace(&program, &new_version());
    let heir = Heir::of(&gateway, |signal| gateway.signal(signal)).await;
    drop(socket);
    assert_eq!(gateway.left().await, Some(0));
    assert_eq!(heir.stop().await, Some(0));
}

#[tokio::test]
async fn a_new_process_without_a_backend_is_not_ready_and_says_so() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("drain.takeover = '3s'\nreload.watch = false");
    let gateway = setup.start().await;
    let file = gateway.folder.0.join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let port = format!(":{}\"", backend.address.port());
    assert!(text.contains(&port));
    // Nobody listens there.
    std::fs::write(&file, text.replace(&port, ":1\"")).unwrap();
    gateway.signal(Signal::USR2);
    until("it is told", || failures(&gateway).len() == 1).await;
    let why = &failures(&gateway)[0];
    assert!(why.contains("the backend accepts no connections"), "{why}");
    let mut client = Client::connect(&gateway, Proto::H2).await;
    assert_eq!(client.get("/cobrowsing/x").await.status, 200);
}

/// A program that waits for a file before it becomes the gateway.
fn slow() -> String {
    format!("echo $$ >pid; while ! [ -e go ]; do sleep 0.02; done; exec {BINARY} \"$@\"")
}

#[tokio::test]
async fn one_hand_over_at_a_time() {
    let backend = Backend::well();
    let mut gateway = Gateway::before(&backend).copied().start().await;
    replace(&gateway.program(), &slow());
    gateway.signal(Signal::USR2);
    let begun = "a new process is to take over";
    until(begun, || gateway.events(begun).len() == 1).await;
    gateway.signal(Signal::USR2);
    let refused = "SIGUSR2 during a hand-over: one at a time";
    until(refused, || gateway.events(refused).len() == 1).await;
    let metric = "gateway_handovers_total{result=\"refused\"}";
    assert_eq!(gateway.metric(metric).await, 1.0);
    let heir = Heir::of(&gateway, |_| drop(gateway.folder.write("go", ""))).await;
    assert_eq!(gateway.left().await, Some(0));
    assert_eq!(gateway.events(begun).len(), 1);
    assert_eq!(heir.stop().await, Some(0));
}

#[tokio::test]
async fn who_is_to_end_during_a_hand_over_ends_the_new_process_and_drains() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).copied().start().await;
    replace(&gateway.program(), &slow());
    gateway.signal(Signal::USR2);
    let begun = gateway.folder.0.join("pid");
    let started = eventually("the new process", async || {
        let text = std::fs::read_to_string(&begun).ok()?;
        text.trim().parse::<u32>().ok()
    })
    .await;
    let (code, log) = {
        let ended = gateway.stop().await;
        (ended.code, ended.log)
    };
    assert_eq!(code, Some(0));
    assert!(
        log.iter().any(|line| line.contains("\"drained\"")),
        "{log:?}"
    );
    until("the new process is gone", || {
        let state = std::fs::read_to_string(format!("/proc/{started}/stat"));
        state.map_or(true, |state| state.contains(") Z "))
    })
    .await;
}

/// The inodes of a process' sockets.
fn sockets(pid: u32) -> BTreeSet<String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    files
        .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
        .filter_map(|to| Some(to.to_str()?.strip_prefix("socket:")?.to_owned()))
        .collect()
}

#[tokio::test]
async fn the_new_process_has_the_listening_sockets_and_nothing_else_of_the_old_one() {
    let backend = Backend::upgrades_and_echoes_messages();
    let setup = Gateway::before(&backend).toml("limits.workers = 3\ndrain.budget = '60s'");
    let gateway = setup.start().await;
    let socket = websocket(&gateway, "/cobrowsing/socket", &[])
        .await
        .unwrap();
    let before = sockets(gateway.pid());
    let heir = Heir::of(&gateway, |signal| gateway.signal(signal)).await;
    let both = before.intersection(&sockets(heir.pid())).count();
    // Three public ones, one for the admin address; more than these were open.
    assert_eq!(both, 4, "{before:?} {:?}", sockets(heir.pid()));
    assert!(before.len() > 5);
    drop(socket);
}

#[tokio::test]
async fn every_socket_is_served_whatever_number_of_workers_comes_next() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend).toml("limits.workers = 3");
    let mut gateway = setup.start().await;
    let file = gateway.folder.0.join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut last: Option<Heir> = None;
    for workers in [1, 5, 2, 3] {
        let now = text.replace("workers = 3", &format!("workers = {workers}"));
        std::fs::write(&file, now).unwrap();
        let heir = match &last {
            None => Heir::of(&gateway, |signal| gateway.signal(signal)).await,
            Some(last) => Heir::of(&gateway, |signal| last.signal(signal)).await,
        };
        match &mut last {
            None => assert_eq!(gateway.left().await, Some(0)),
            Some(last) => assert_eq!(last.left().await, Some(0)),
        }
        last = Some(heir);
        let started = gateway.events("started");
        assert_eq!(started.last().unwrap()["workers"], workers);
        // The kernel spreads connections over all three sockets.
        for _ in 0..40 {
            let mut client = Client::connect(&gateway, Proto::H1).await;
            assert_eq!(client.get("/cobrowsing/x").await.status, 200);
        }
    }
    assert_eq!(last.unwrap().stop().await, Some(0));
}

#[tokio::test]
async fn the_built_in_backend_is_handed_over_too() {
    let mut gateway = Gateway::with_visitors().start().await;
    let list = "/cobrowsing/api/visitors/list/latest";
    let mut client = Client::connect(&gateway, Proto::H2).await;
    assert_eq!(client.api("GET", list, "").await.status, 200);
    let heir = Heir::of(&gateway, |signal| gateway.signal(signal)).await;
    assert_eq!(gateway.left().await, Some(0));
    let mut client = Client::connect(&gateway, Proto::H2).await;
    assert_eq!(client.api("GET", list, "").await.status, 200);
    assert_eq!(heir.stop().await, Some(0));
}
