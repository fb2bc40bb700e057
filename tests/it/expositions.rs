//! The formats in which metrics are told, and what it costs to tell them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::series::{KINDS, odd, pipelined, resident};
use super::support::{Backend, Client, Gateway, Proto, Reply, within};

/// An answer of the admin address to who accepts `accept`.
pub(super) async fn scrape(gateway: &Gateway, accept: &str) -> Reply {
    let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
    let request = format!(
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    Reply::parse(&answer).unwrap()
}

pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

#[tokio::test]
async fn who_wants_openmetrics_gets_it_and_everybody_else_the_text_format() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let (open, text) = (
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "text/plain; version=0.0.4; charset=utf-8",
    );
    for (accept, expected) in [
        ("*/*", text),
        ("", text),
        ("text/plain", text),
        ("text/html,application/xhtml+xml,*/*;q=0.8", text),
        ("application/openmetrics-text", open),
        (OPENMETRICS, open),
        ("Application/OpenMetrics-Text;Version=\"1.0.0\"", open),
        ("application/openmetrics-text;version=0.0.1", text),
        (
            "application/openmetrics-text;version=2.0.0,text/plain",
            text,
        ),
        ("application/openmetrics-text;q=0", text),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", text),
        // As Prometheus 2 and 3 ask.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            open,
        ),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            open,
        ),
    ] {
        let reply = scrape(&gateway, accept).await;
        assert_eq!(reply.header("content-type"), Some(expected), "{accept}");
        assert_eq!(reply.header("vary"), Some("accept"));
        assert_eq!(
            reply.text().ends_with("# EOF\n"),
            expected == open,
            "{accept}"
        );
    }
}

#[tokio::test]
async fn both_formats_tell_the_same_series() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    client.get("/outside").await;
    let text = gateway.metrics().await;
    let open = scrape(&gateway, OPENMETRICS).await.text();
    let samples = |text: &str| -> BTreeSet<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        // Numbers are floating point numbers in OpenMetrics: le="1.0" is le="1".
        samples
            .map(|line| line.rsplit_once(' ').unwrap().0.replace(".0\"}", "\"}"))
            .collect()
    };
    assert_eq!(samples(&text), samples(&open));
    let mut kinds = BTreeMap::new();
    for line in open.lines() {
        assert!(!line.is_empty());
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap();
            assert!(
                kinds.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{name} twice"
            );
            assert!(!name.ends_with("_total"), "{name}");
        }
    }
    for sample in samples(&open) {
        let name = sample.split('{').next().unwrap();
        let is_of = |suffix: &str, kind: &str| {
            let family = name.strip_suffix(suffix);
            family.is_some_and(|f| kinds.get(f).is_some_and(|k| k == kind))
        };
        let known = is_of("_total", "counter")
            || is_of("", "gauge")
            || ["_bucket", "_sum", "_count"]
                .iter()
                .any(|s| is_of(s, "histogram"));
        assert!(known, "{sample}");
    }
}

#[tokio::test]
async fn a_scrape_of_a_busy_gateway_takes_less_than_five_milliseconds_and_leaves_nothing() {
    const SCRAPES: usize = 300;
    let backend = Backend::well();
    let gateway = Gateway::before(&backend)
        .toml("log.access = false")
        .start()
        .await;
    pipelined(&gateway, (0..10 * KINDS).map(odd)).await;
    let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
    let mut ask = async |accept: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\n\r\n");
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut answer, mut chunk) = (Vec::new(), vec![0; 256 << 10]);
        loop {
            let n = within(stream.read(&mut chunk)).await.unwrap();
            answer.extend_from_slice(&chunk[..n]);
            let reply = Reply::parse(&answer);
            let whole = |reply: &Reply| {
                reply.header("content-length") == Some(&*reply.body.len().to_string())
            };
            if reply.as_ref().is_some_and(whole) {
                return begun.elapsed();
            }
        }
    };
    for accept in ["*/*", OPENMETRICS] {
        ask(accept).await;
        let memory = resident(&gateway);
        let mut took = Vec::new();
        for _ in 0..SCRAPES {
            // Requests go on meanwhile.
            pipelined(&gateway, (0..20).map(odd)).await;
            took.push(ask(accept).await);
        }
        took.sort();
        let (quick, median) = (took[SCRAPES / 10], took[SCRAPES / 2]);
        eprintln!("{accept}: {quick:?} at best, {median:?} usually");
        // Other work of the machine may make one slow, but not nine of ten.
        assert!(quick < Duration::from_millis(5), "{quick:?}");
        let grown = resident(&gateway).saturating_sub(memory);
        assert!(grown < 2 << 10, "{grown} KiB more after {SCRAPES} scrapes");
    }
}
