//! The live page of the admin address, as who was woken by an alert sees it.

use std::time::Duration;

use base64::Engine;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{
    Backend, Client, Gateway, KEY, Proto, Setup, eventually, find, websocket, within,
};

/// The text between tags.
fn words(html: &str) -> String {
    let (mut text, mut inside) = (String::new(), false);
    for c in html.chars() {
        match c {
            '<' => inside = true,
            '>' => {
                inside = false;
                text.push(' ');
            }
            c if !inside => text.push(c),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn main_of(html: &str) -> &str {
    let from = html.find("<main").unwrap();
    &html[from..html.find("</main>").unwrap()]
}

/// The page, once its text has all of these.
async fn until_it_shows(gateway: &Gateway, wanted: &[&str]) -> String {
    let mut seen = String::new();
    for _ in 0..1500 {
        seen = words(main_of(&gateway.ask("/").await.text()));
        if wanted.iter().all(|wanted| seen.contains(wanted)) {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not all of {wanted:?} in: {seen}");
}

fn with_policy(setup: Setup) -> Setup {
    setup.toml("[[rate_limit.policy]]\nname = 'twice'\nper = 'client'\nrate = '2/1h'\nburst = 2")
}

#[tokio::test]
async fn the_live_page_tells_what_happened() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = with_policy(Gateway::before(&backend)).start().await;
    let page = until_it_shows(&gateway, &["serving", "Nothing needs attention."]).await;
    for quiet in [
        "No request yet.",
        "Nothing since the start.",
        "None has ended yet.",
        "not yet",
    ] {
        assert!(page.contains(quiet), "{quiet}: {page}");
    }
    let mut client = Client::connect(&gateway, Proto::H2).await;
    client.get("/cobrowsing/api/visitors/list/latest").await;
    for _ in 0..3 {
        client
            .api("GET", "/cobrowsing/api/visitors/list/latest", "")
            .await;
    }
    let socket = websocket(&gateway, "/cobrowsing/socket", &[])
        .await
        .unwrap();
    let page = until_it_shows(
        &gateway,
        &[
            "invalid_api_key 1 1",
            "rate_limited 1 1",
            "no key, or a wrong one",
            "twice",
            "visitors_latest",
            "Open sockets 1",
            "rest_key",
        ],
    )
    .await;
    assert!(page.contains(&format!("version {}", env!("CARGO_PKG_VERSION"))));
    assert!(page.contains("https://localhost/cobrowsing/"), "{page}");
    drop(socket);
    until_it_shows(
        &gateway,
        &["Open sockets 0", "since start client, none 1 1"],
    )
    .await;
}

#[tokio::test]
async fn the_live_page_loads_nothing_and_holds_no_secret() {
    let backend = Backend::upgrades_and_echoes_messages();
    let gateway = Gateway::before(&backend)
        .base_endpoint("https://localhost/a-base")
        .start()
        .await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    let canary = [
        ("cookie", "c=canary"),
        ("user-agent", "canary"),
        ("x-forwarded-for", "192.0.2.77"),
    ];
    let got = client
        .call("GET", "/a-base/api/canary?canary", &canary, "")
        .await;
    let id = got.json()["request_id"].as_str().unwrap().to_owned();
    client.api("GET", "/a-base/api/visitors/canary", "").await;
    let answer = gateway.ask("/").await;
    let page = answer.text();
    for secret in [KEY, "canary", &id, "192.0.2.77"] {
        assert!(!page.contains(secret), "{secret}: {page}");
    }
    // But for the public URL, nothing leads out; the address of the backend is no client's.
    let page = page.replace("https://localhost/a-base/", "");
    for outside in [
        "http:",
        "https:",
        "//localhost",
        " src=",
        "url(",
        "@import",
        "style=",
    ] {
        assert!(!page.contains(outside), "{outside}: {page}");
    }
    assert_eq!(
        page.matches("127.0.0.1").count(),
        page.matches(&backend.address.to_string()).count() + 1,
        "the certificate's name alone: {page}"
    );
    // Its own style and script may run, nothing else may.
    let policy = answer.header("content-security-policy").unwrap();
    for what in ["style", "script"] {
        let (from, to) = (format!("<{what}>"), format!("</{what}>"));
        let text = page.split_once(&from).unwrap().1.split_once(&to).unwrap().0;
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        let hash = base64::engine::general_purpose::STANDARD.encode(hash);
        assert!(
            policy.contains(&format!("{what}-src 'sha256-{hash}';")),
            "{policy}"
        );
    }
    assert!(policy.starts_with("default-src 'none';"));
    assert!(!policy.contains("unsafe"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    // Without script it comes anew by itself.
    assert!(page.contains("<noscript><meta http-equiv=refresh"));
    assert_eq!(gateway.ask_with("HEAD", "/").await.body.len(), 0);
    assert_eq!(gateway.ask_with("POST", "/").await.status, 405);
}

#[tokio::test]
async fn the_live_page_begins_with_what_needs_attention() {
    let backend = Backend::well();
    let setup = Gateway::before(&backend)
        .without_key()
        .toml("upstream.health_interval = '100ms'\nreload.settle = '50ms'");
    let gateway = setup.start().await;
    until_it_shows(&gateway, &["serving", "! The API is closed."]).await;
    gateway.folder.write("gateway.toml", "nonsense");
    until_it_shows(
        &gateway,
        &["The last change is not in force", "rejected: see the log"],
    )
    .await;
    drop(backend);
    let page = until_it_shows(
        &gateway,
        &["backend down", "✕ The backend accepts no connections."],
    )
    .await;
    // The worst first.
    assert!(page.find('✕') < page.find('!'), "{page}");
}

/// A stream of events that is read bit by bit.
struct Events {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Events {
    async fn open(gateway: &Gateway) -> Self {
        let mut stream = TcpStream::connect(gateway.admin).await.unwrap();
        let request = b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let buffer = Vec::new();
        Self { stream, buffer }
    }

    /// Reads until there is `what`; what came until then.
    async fn until(&mut self, what: &str) -> Option<String> {
        within(async {
            loop {
                if let Some(at) = find(&self.buffer, what.as_bytes()) {
                    let seen: Vec<u8> = self.buffer.drain(..at + what.len()).collect();
                    return Some(String::from_utf8_lossy(&seen).into_owned());
                }
                if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn events_tell_of_changes_without_being_asked() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut events = Events::open(&gateway).await;
    let head = events.until("\r\n\r\n").await.unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"),
        "{head}"
    );
    let first = events.until("</main>\n\n").await.unwrap();
    assert!(
        first.contains("data: <main ") && first.contains("No request yet."),
        "{first}"
    );
    let mut client = Client::connect(&gateway, Proto::H1).await;
    client.get("/cobrowsing/x").await;
    assert!(events.until(">page<").await.is_some());
}

#[tokio::test]
async fn streams_of_events_are_bounded_and_who_leaves_makes_room() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut events = Events::open(&gateway).await;
        assert!(events.until("200 OK").await.is_some());
        open.push(events);
    }
    for _ in 0..3 {
        let refused = gateway.ask("/events").await;
        assert_eq!(refused.status, 503, "{}", refused.text());
    }
    // The page itself, health and metrics go on.
    for path in ["/", "/metrics", "/readyz"] {
        assert_eq!(gateway.ask(path).await.status, 200, "{path}");
    }
    open.truncate(15);
    eventually("a place for another", async || {
        let mut events = Events::open(&gateway).await;
        let head = events.until("\r\n").await.unwrap();
        head.contains(" 200 ").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_drain_is_told_and_ends_the_streams() {
    let backend = Backend::upgrades_and_echoes_messages();
    let setup = Gateway::before(&backend).toml("drain.delay = '1m'");
    let gateway = setup.start().await;
    let _socket = websocket(&gateway, "/cobrowsing/socket", &[])
        .await
        .unwrap();
    let mut events = Events::open(&gateway).await;
    assert!(events.until("</main>").await.unwrap().contains("serving"));
    gateway.signal(Signal::TERM);
    assert!(events.until("Draining.").await.is_some());
    assert!(events.until("</main>").await.is_some());
    // It ends as a whole answer does.
    let end = events.until("\r\n0\r\n\r\n").await.unwrap();
    assert!(!end.contains("<main"), "{end}");
    assert_eq!(gateway.ask("/events").await.status, 503);
    // Who asks is still told.
    until_it_shows(&gateway, &["draining", "! Draining."]).await;
    gateway.signal(Signal::TERM);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ended().await.code, Some(0));
}

#[tokio::test]
async fn the_live_page_is_not_on_the_public_listener() {
    let backend = Backend::well();
    let gateway = Gateway::before(&backend).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for path in ["/", "/events"] {
        let got = client.get(path).await;
        assert_eq!(got.status, 404, "{path}");
        assert!(!got.text().contains("<main"), "{path}");
    }
    // Below the base path it is the backend's.
    assert_eq!(client.get("/cobrowsing/events").await.text(), "{}");
}
