//! What operators look at, with real parts: Prometheus asks the dashboard's queries, a browser shows
//! the live page. With `PICTURES=1` the pictures of docs/ are made on the way.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

use super::dashboards_and_alerts::{dashboard, queries};
use super::panels;
use super::real_parts::{Browser, Part, free_port, reachable, reachable_gateway, until_open};
use super::support::{BINARY, Client, Folder, Gateway, KEY, Proto, Reply, eventually};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where pictures go, when they are wanted.
fn pictures() -> Option<PathBuf> {
    std::env::var_os("PICTURES").map(|_| root().join("docs/pictures"))
}

/// A load for a demonstration, of so many seconds.
fn demo_load(gateway: &Gateway, seconds: u32) -> Part {
    let load = Command::new(BINARY)
        .args(["demo-load", "--visitors", "20", "--seconds"])
        .arg(seconds.to_string())
        .current_dir(&gateway.folder.0)
        .env_clear()
        .env("REST_KEY", KEY)
        .stderr(Stdio::null())
        .spawn();
    Part(load.unwrap())
}

/// Prometheus itself, which scrapes the gateway each second and has its rules.
struct Prometheus {
    port: u16,
    _folder: Folder,
    _process: Part,
}

impl Prometheus {
    async fn of(gateway: &Gateway) -> Self {
        let (folder, port) = (Folder::new(), free_port());
        let rules = root().join("deploy/prometheus/cobrowse-gateway.rules.yaml");
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs: [{{job_name: cobrowse-gateway, static_configs: [{{targets: [\"{}\"]}}]}}]\n",
            rules.display(),
            gateway.admin
        );
        let file = folder.write("prometheus.yml", config);
        let process: Child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}/data", folder.0.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until_open(port).await;
        let this = Self {
            port,
            _folder: folder,
            _process: Part(process),
        };
        eventually("Prometheus", async || {
            (this.get("/-/ready").status == 200).then_some(())
        })
        .await;
        this
    }

    fn get(&self, path: &str) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        Reply::parse(&answer).unwrap()
    }

    /// An instant query, as the dashboard's variables are when all is chosen.
    fn ask(&self, query: &str) -> Value {
        let query = form(&[("query", &chosen(query))]);
        let answer = self.get(&format!("/api/v1/query?{query}")).json();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].clone()
    }

    /// A range of the last seconds.
    fn range(&self, query: &str, seconds: u64) -> Value {
        let now = self.ask("time()")[1]
            .as_str()
            .unwrap()
            .parse::<f64>()
            .unwrap();
        let (from, to) = ((now - seconds as f64).to_string(), now.to_string());
        let query = form(&[
            ("query", &chosen(query)),
            ("start", &from),
            ("end", &to),
            ("step", "1"),
        ]);
        self.get(&format!("/api/v1/query_range?{query}")).json()
    }
}

fn form(pairs: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(pairs).finish()
}

fn chosen(query: &str) -> String {
    query
        .replace("$job", ".+")
        .replace("$instance", ".+")
        .replace("$__rate_interval", "10s")
}

#[tokio::test]
#[ignore = "needs prometheus, chromium and chromedriver"]
async fn each_query_of_the_dashboard_has_an_answer_after_a_minute_of_traffic() {
    let setup = Gateway::with_visitors().with_default_limits();
    let (gateway, _) = reachable(setup).await;
    let load = demo_load(&gateway, 90);
    let prometheus = Prometheus::of(&gateway).await;
    let begun = Instant::now();
    loop {
        let scrapes = prometheus.ask("count_over_time(gateway_build_info[5m])");
        let scrapes = scrapes[0]["value"][1]
            .as_str()
            .unwrap_or("0")
            .parse::<u32>();
        if scrapes.unwrap() >= 60 {
            break;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "a minute of scrapes"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let dashboard = dashboard();
    for (title, query) in queries(&dashboard) {
        let result = prometheus.ask(&query);
        let series = result.as_array().unwrap();
        // A configuration that has not changed was not reloaded.
        if title == "Reloads" && query.starts_with("changes") {
            continue;
        }
        assert!(!series.is_empty(), "{title}: {query}");
        let numbers = series.iter().filter(|s| s["value"][1] != "NaN").count();
        // Without a shared store nothing took any time.
        let idle = query.contains("ratelimit_store_duration");
        assert!(numbers > 0 || idle, "{title}: {query}: {result}");
    }
    // Its rules have all been evaluated, and a gateway that is well raises no alert that wakes anybody.
    let groups = prometheus.get("/api/v1/rules").json();
    for rule in groups["data"]["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|g| g["rules"].as_array().unwrap())
    {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert!(rule["state"] != "firing", "{rule}");
    }
    if let Some(folder) = pictures() {
        std::fs::create_dir_all(&folder).unwrap();
        let ask = |query: &str, legend: &str| panels::lines(&prometheus.range(query, 60), legend);
        let drawn = Folder::new();
        let page = drawn.write("panels.html", panels::page(&dashboard, ask));
        let browser = Browser::open().await;
        browser.go(&format!("file://{}", page.display()));
        shoot(&browser, 1352, 1, "light", &folder.join("dashboard.png"));
        browser.go(&gateway.admin_url());
        for (width, scale, scheme, name) in [
            (1280, 1, "light", "live-light"),
            (1280, 1, "dark", "live-dark"),
            (390, 2, "light", "live-phone"),
        ] {
            browser.until_shown("live · metrics").await;
            shoot(
                &browser,
                width,
                scale,
                scheme,
                &folder.join(format!("{name}.png")),
            );
        }
    }
    drop(load);
}

fn cdp(browser: &Browser, command: &str, parameters: &Value) -> Value {
    let body = json!({"cmd": command, "params": parameters});
    browser.tell("/goog/cdp/execute", &body)
}

fn script(browser: &Browser, script: &str) -> Value {
    browser.tell("/execute/sync", &json!({"script": script, "args": []}))
}

/// The window from now on: its size, pixels a point, and colour scheme.
fn window(browser: &Browser, (width, height): (u32, u64), scale: u32, scheme: &str) {
    let metrics = json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500});
    cdp(browser, "Emulation.setDeviceMetricsOverride", &metrics);
    let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
    cdp(browser, "Emulation.setEmulatedMedia", &media);
}

/// Writes a picture of the whole page.
fn shoot(browser: &Browser, width: u32, scale: u32, scheme: &str, file: &Path) {
    window(browser, (width, 800), scale, scheme);
    let height = script(browser, "return document.documentElement.scrollHeight");
    let height = height.as_u64().unwrap();
    window(browser, (width, height), scale, scheme);
    let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
    let taken = cdp(
        browser,
        "Page.captureScreenshot",
        &json!({"captureBeyondViewport": true, "clip": clip}),
    );
    let png = base64::engine::general_purpose::STANDARD.decode(taken["data"].as_str().unwrap());
    std::fs::write(file, png.unwrap()).unwrap();
}

#[tokio::test]
#[ignore = "needs chromium and chromedriver"]
async fn the_live_page_moves_in_a_browser_and_fits_a_phone() {
    let (mut gateway, _) = reachable_gateway().await;
    let browser = Browser::open().await;
    window(&browser, (390, 800), 1, "dark");
    browser.go(&gateway.admin_url());
    browser.until_shown("Nothing needs attention.").await;
    browser.until_shown("live · metrics").await;
    script(&browser, "window.loaded = 'once'");
    let mut client = Client::connect(&gateway, Proto::H2).await;
    client.get("/cobrowsing/api/visitors/list/latest").await;
    client
        .api("GET", "/cobrowsing/api/visitors/list/latest", "")
        .await;
    browser.until_shown("invalid_api_key").await;
    browser.until_shown("visitors_latest").await;
    // The same page still, which has asked for nothing but its events, with its own style.
    assert_eq!(script(&browser, "return window.loaded"), "once");
    let asked = script(
        &browser,
        "return performance.getEntriesByType('resource').map(e => new URL(e.name).pathname)",
    );
    assert_eq!(asked, json!([]), "an open stream is no entry yet");
    assert_eq!(
        script(&browser, "return document.getElementById('live').className"),
        "live"
    );
    let title = script(&browser, "return document.title");
    assert!(
        title.as_str().unwrap().starts_with("serving – localhost"),
        "{title}"
    );
    assert_eq!(
        script(&browser, "return getComputedStyle(document.body).margin"),
        "0px"
    );
    assert_eq!(
        script(
            &browser,
            "return getComputedStyle(document.body).backgroundColor"
        ),
        "rgb(14, 19, 24)"
    );
    for width in [320, 390, 768, 1280, 1920] {
        window(&browser, (width, 800), 1, "light");
        let over = script(
            &browser,
            "return document.documentElement.scrollWidth - window.innerWidth",
        );
        assert!(over.as_i64().unwrap() <= 0, "{width}: {over} too wide");
    }
    assert_eq!(
        script(
            &browser,
            "return getComputedStyle(document.body).backgroundColor"
        ),
        "rgb(245, 246, 247)"
    );
    // It says when what it shows is old.
    gateway.signal(rustix::process::Signal::TERM);
    assert_eq!(gateway.left().await, Some(0));
    browser
        .until_shown("no answer: what stands here is old")
        .await;
    eventually("the state of the stream", async || {
        (script(&browser, "return document.getElementById('live').className") == "lost")
            .then_some(())
    })
    .await;
}
