//! With real parts from outside: a browser, nginx as backend, Prometheus' linter, curl. They are
//! ignored where only Rust is there; `.ci/run` installs the parts and runs them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use super::series::{KINDS, odd, pipelined};
use super::support::{Client, Folder, Gateway, KEY, PATIENCE, Proto, Reply, Setup, eventually};

/// A process of ours; dropping it ends it.
pub(super) struct Part(pub(super) Child);

impl Drop for Part {
    fn drop(&mut self) {
        // TERM first: chromedriver then ends its browser.
        drop(Command::new("kill").arg(self.0.id().to_string()).status());
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::yield_now();
        }
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub(super) async fn until_open(port: u16) {
    eventually("a port that accepts", async || {
        TcpStream::connect(("127.0.0.1", port))
            .is_ok()
            .then_some(())
    })
    .await;
}

/// A session of a headless browser, told what to do in the WebDriver protocol.
pub(super) struct Browser {
    port: u16,
    session: String,
    _folder: Folder,
    _driver: Part,
}

impl Browser {
    pub(super) async fn open() -> Self {
        let (port, folder) = (free_port(), Folder::new());
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut this = Self {
            port,
            session: String::new(),
            _folder: folder,
            _driver: Part(driver),
        };
        until_open(port).await;
        let profile = format!("--user-data-dir={}", this._folder.0.display());
        let options = json!({"args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", profile,
        ]});
        let wanted = json!({"capabilities": {"alwaysMatch": {"acceptInsecureCerts": true, "goog:chromeOptions": options}}});
        let made = this.call("POST", "/session", &wanted);
        this.session = format!("/session/{}", made["sessionId"].as_str().unwrap());
        this
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" {
            body.to_string()
        } else {
            String::new()
        };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE * 3)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        )
        .unwrap();
        // It keeps the connection whatever it is told: the answer ends with its length.
        let (mut bytes, mut chunk) = (Vec::new(), [0; 16 << 10]);
        let answer = loop {
            let read = stream.read(&mut chunk).unwrap();
            assert!(read > 0, "{method} {path}: no answer");
            bytes.extend_from_slice(&chunk[..read]);
            if let Some(answer) = Reply::parse(&bytes)
                && answer.header("content-length") == Some(&*answer.body.len().to_string())
            {
                break answer;
            }
        };
        let value = answer.json()["value"].take();
        assert!(value["error"].is_null(), "{method} {path}: {value}");
        value
    }

    fn ask(&self, path: &str) -> Value {
        self.call("GET", &format!("{}{path}", self.session), &Value::Null)
    }

    pub(super) fn tell(&self, path: &str, body: &Value) -> Value {
        self.call("POST", &format!("{}{path}", self.session), body)
    }

    pub(super) fn go(&self, url: &str) {
        self.tell("/url", &json!({ "url": url }));
    }

    fn text(&self) -> String {
        let script = json!({"script": "return document.body.innerText", "args": []});
        self.tell("/execute/sync", &script)
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(super) async fn until_shown(&self, text: &str) {
        eventually(text, async || self.text().contains(text).then_some(())).await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.call("DELETE", &self.session, &Value::Null);
        }
    }
}

/// The built-in backend behind a gateway whose base endpoint has the port it listens on.
pub(super) async fn reachable_gateway() -> (Gateway, String) {
    reachable(Gateway::with_visitors()).await
}

/// The same of any gateway.
pub(super) async fn reachable(setup: Setup) -> (Gateway, String) {
    let port = free_port();
    let base = format!("https://localhost:{port}/cobrowsing");
    let gateway = setup
        .toml(&format!("public.listen = '127.0.0.1:{port}'"))
        .base_endpoint(&base)
        .start()
        .await;
    (gateway, base)
}

#[tokio::test]
#[ignore = "needs chromium and chromedriver"]
async fn a_browser_becomes_a_visitor_and_an_agent_watches_it_through_the_gateway() {
    let (gateway, base) = reachable_gateway().await;
    let browser = Browser::open().await;
    let mut api = Client::connect(&gateway, Proto::H2).await;

    browser.go(&base);
    assert_eq!(browser.ask("/url"), format!("{base}/"));
    browser.until_shown("You are online").await;
    let latest = api
        .api("GET", "/cobrowsing/api/visitors/list/latest", "")
        .await
        .json();
    let visitor = &latest["visitors"][0];
    assert_eq!(visitor["is_online"], true);
    assert_eq!(visitor["last_url"], format!("{base}/"));
    let id = visitor["short_id"].as_str().unwrap();
    browser.until_shown(id).await;

    let body = r#"{"licenseToken":"t","agent":{"id":"1","name":"Ada Lovelace"}}"#;
    let minted = api
        .api(
            "POST",
            &format!("/cobrowsing/api/visitors/{id}/watch_url"),
            body,
        )
        .await
        .json();
    let visitors_page = browser.ask("/window");
    let tab = browser.tell("/window/new", &json!({"type": "tab"}));
    browser.tell("/window", &json!({"handle": tab["handle"]}));
    browser.go(minted["watch_url"].as_str().unwrap());
    browser.until_shown("Watching").await;
    browser.until_shown("Ada Lovelace").await;
    browser.tell("/window", &json!({ "handle": visitors_page }));
    browser.until_shown("Ada Lovelace can see this page").await;

    let one = format!("/cobrowsing/api/visitors/{id}");
    let shown = api.api("GET", &one, "").await.json();
    assert_eq!(shown["visitor"]["is_in_session"], true);
    drop(browser);
    eventually("an offline visitor", async || {
        let shown = api_of(&gateway, &one).await;
        (shown["visitor"]["is_online"] == false).then_some(())
    })
    .await;
    // Both pages held their sockets through the gateway, and nothing else was refused.
    gateway
        .until_metric(r#"gateway_websocket_active{route="page"}"#, 0.0)
        .await;
}

async fn api_of(gateway: &Gateway, path: &str) -> Value {
    let mut client = Client::connect(gateway, Proto::H1).await;
    client.api("GET", path, "").await.json()
}

/// nginx as the backend, with `server` in its server block.
pub(super) async fn nginx(server: &str) -> (Part, Folder, u16) {
    let (folder, port) = (Folder::new(), free_port());
    let home = folder.0.display();
    let conf = format!(
        "daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log; user root;
         events {{ worker_connections 20000; }}
         http {{ access_log off; client_body_temp_path {home}/a; proxy_temp_path {home}/b; fastcgi_temp_path {home}/c;
           uwsgi_temp_path {home}/d; scgi_temp_path {home}/e; default_type text/plain;
           server {{ listen 127.0.0.1:{port}; root {home}/www; {server} }} }}"
    );
    let file = folder.write("nginx.conf", conf);
    std::fs::create_dir_all(folder.0.join("www/folder")).unwrap();
    let process = Command::new("nginx")
        .arg("-c")
        .arg(file)
        .arg("-p")
        .arg(&folder.0)
        .arg("-e")
        .arg(folder.0.join("error.log"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until_open(port).await;
    (Part(process), folder, port)
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn files_ranges_compression_and_redirects_of_nginx_pass_as_they_are() {
    let (_nginx, folder, port) = nginx(
        "gzip on; gzip_min_length 1; gzip_types *; absolute_redirect off; location = /absolute { absolute_redirect on; return 302 /folder/; }",
    )
    .await;
    let text = "0123456789abcdef".repeat(64 << 10);
    folder.write("www/large.txt", &text);
    let gateway = Gateway::on(port).start().await;
    for proto in [Proto::H1, Proto::H2] {
        let mut client = Client::connect(&gateway, proto).await;
        let whole = client.get("/cobrowsing/large.txt").await;
        assert_eq!(whole.text(), text);
        assert_eq!(whole.header("accept-ranges"), Some("bytes"));
        let part = client
            .call(
                "GET",
                "/cobrowsing/large.txt",
                &[("range", "bytes=16-31")],
                "",
            )
            .await;
        assert_eq!(
            (part.status.as_u16(), part.text().as_str()),
            (206, "0123456789abcdef")
        );
        let etag = whole.header("etag").unwrap();
        let same = client
            .call(
                "GET",
                "/cobrowsing/large.txt",
                &[("if-none-match", etag)],
                "",
            )
            .await;
        assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
        let packed = client
            .call(
                "GET",
                "/cobrowsing/large.txt",
                &[("accept-encoding", "gzip")],
                "",
            )
            .await;
        assert_eq!(packed.header("content-encoding"), Some("gzip"));
        let mut plain = String::new();
        flate2::read::GzDecoder::new(&packed.body[..])
            .read_to_string(&mut plain)
            .unwrap();
        assert_eq!(plain, text);
        let moved = client.get("/cobrowsing/folder").await;
        assert_eq!(moved.header("location"), Some("/cobrowsing/folder/"));
        let head = client.call("HEAD", "/cobrowsing/large.txt", &[], "").await;
        assert_eq!(
            head.header("content-length"),
            Some(&*text.len().to_string())
        );
        assert_eq!(client.get("/cobrowsing/none").await.status, 404);
    }
}

#[tokio::test]
#[ignore = "needs nginx"]
async fn a_backend_that_closes_kept_connections_and_reloads_costs_no_client_an_error() {
    let (nginx, _folder, port) = nginx(
        "keepalive_requests 3; keepalive_timeout 1s; location / { return 200 'fine'; } location /api/ { client_max_body_size 1m; return 200 'fine'; }",
    )
    .await;
    let gateway = Gateway::on(port).start().await;
    let mut client = Client::connect(&gateway, Proto::H1).await;
    for round in 0..200 {
        let got = if round % 2 == 0 {
            client.get("/cobrowsing/x").await
        } else {
            client.api("POST", "/cobrowsing/api/x", "{}").await
        };
        assert_eq!(
            (got.status.as_u16(), got.text().as_str()),
            (200, "fine"),
            "request {round}"
        );
        if round % 50 == 49 {
            // nginx's reload closes its idle connections.
            let pid = nginx.0.id().to_string();
            assert!(
                Command::new("kill")
                    .args(["-HUP", &pid])
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }
}

#[tokio::test]
#[ignore = "needs promtool"]
async fn prometheus_finds_nothing_to_say_about_the_metrics() {
    let (gateway, _) = reachable_gateway().await;
    // Of one that has done nothing yet.
    lint(&gateway).await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    client.get("/cobrowsing/").await;
    client
        .api("GET", "/cobrowsing/api/visitors/list/latest", "")
        .await;
    // And of a busy one.
    pipelined(&gateway, (0..KINDS).map(odd)).await;
    lint(&gateway).await;
}

/// What Prometheus' linter says of the metrics.
async fn lint(gateway: &Gateway) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let metrics = gateway.metrics().await;
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(metrics.as_bytes())
        .unwrap();
    let said = promtool.wait_with_output().unwrap();
    let said = (
        said.status.success(),
        String::from_utf8_lossy(&said.stdout).into_owned(),
        String::from_utf8_lossy(&said.stderr).into_owned(),
    );
    assert_eq!(said, (true, String::new(), String::new()));
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_gets_the_same_answer_over_each_protocol_and_version_of_tls() {
    let (gateway, base) = reachable_gateway().await;
    let certificate = gateway.folder.0.join("cert.pem");
    let ask = |arguments: &[&str]| {
        let said = Command::new("curl")
            .args(["-s", "-m", "10", "--cacert"])
            .arg(&certificate)
            .args(["-H", &format!("Authorization: {KEY}")])
            .args(arguments)
            .args(["-w", "\n%{http_code} %{http_version}"])
            .arg(format!("{base}/api/visitors/list/search?q=%23customer"))
            .output()
            .unwrap();
        String::from_utf8(said.stdout).unwrap()
    };
    for (arguments, version) in [
        (["--http2", "--tlsv1.3"], "200 2"),
        (["--http1.1", "--tlsv1.3"], "200 1.1"),
        (["--http2", "--tls-max=1.2"], "200 2"),
        (["--http1.1", "--tls-max=1.2"], "200 1.1"),
    ] {
        let arguments: Vec<&str> = arguments.iter().flat_map(|a| a.split('=')).collect();
        let said = ask(&arguments);
        let (body, end) = said.rsplit_once('\n').unwrap();
        assert_eq!(end, version, "{arguments:?}");
        let found = serde_json::from_str::<Value>(body).unwrap();
        assert!(!found["visitors"].as_array().unwrap().is_empty());
    }
}
