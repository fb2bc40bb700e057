//! A real Prometheus scrapes the gateway. Ignored where there is none; `.ci/run` installs it.

use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::real_parts::{Part, free_port, until_open};
use super::series::{KINDS, odd, pipelined};
use super::support::receiver::Receiver;
use super::support::{Backend, Client, Folder, Gateway, Proto, Reply, eventually, within};

/// A Prometheus that scrapes one gateway.
pub(super) struct Prometheus {
    port: u16,
    _folder: Folder,
    _process: Part,
}

impl Prometheus {
    async fn scraping(gateway: &Gateway) -> Self {
        Self::told(&format!(
            "global:\n  scrape_interval: 100ms\n  scrape_timeout: 100ms\nscrape_configs:\n- job_name: gateway\n  static_configs:\n  - targets: ['{}']\n",
            gateway.admin
        ))
        .await
    }

    /// One with this configuration.
    pub(super) async fn told(text: &str) -> Self {
        let (folder, port) = (Folder::new(), free_port());
        let file = folder.write("prometheus.yml", text);
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.0.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--enable-feature=exemplar-storage")
            .current_dir(&folder.0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let this = Self {
            port,
            _folder: folder,
            _process: Part(process),
        };
        until_open(port).await;
        this
    }

    /// What one of its addresses answers; `query` is encoded here.
    pub(super) async fn ask(&self, path: &str, name: &str, query: &str) -> Option<Value> {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let request =
            format!("GET /api/v1/{path}{name}{query} HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.ok()?;
        let reply = Reply::parse(&answer)?;
        (reply.status == 200).then(|| reply.json()["data"].take())
    }

    /// The value of an expression, once it has one.
    pub(super) async fn value(&self, query: &str) -> Option<f64> {
        let data = self.ask("query", "?query=", query).await?;
        data["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

#[tokio::test]
#[ignore = "needs prometheus"]
async fn a_real_prometheus_takes_every_series_and_the_exemplars() {
    let (backend, receiver) = (Backend::well(), Receiver::start());
    let gateway = receiver.told_by(Gateway::before(&backend)).start().await;
    let prometheus = Prometheus::scraping(&gateway).await;
    pipelined(&gateway, (0..KINDS).map(odd)).await;
    let mut client = Client::connect(&gateway, Proto::H2).await;
    client.get("/cobrowsing/x").await;
    eventually("a scrape", async || {
        prometheus.value("up").await.filter(|up| *up == 1.0)
    })
    .await;
    let requests = "sum(gateway_requests_total)";
    eventually("all requests", async || {
        let seen = prometheus.value(requests).await?;
        (seen == (KINDS + 1) as f64).then_some(())
    })
    .await;
    // As many series as the gateway tells, of either format.
    let told = gateway.metrics().await;
    let told = told
        .lines()
        .filter(|line| line.starts_with("gateway_"))
        .count();
    let taken = prometheus.value("count({__name__=~\"gateway_.+\"})").await;
    assert_eq!(taken, Some(told as f64));
    // Quantiles can be reckoned, and a slow request leads to its trace.
    let quantile = "histogram_quantile(0.9, sum by (le) (gateway_request_duration_seconds_bucket))";
    let quantile = prometheus.value(quantile).await.unwrap();
    assert!(quantile > 0.0 && quantile < 10.0, "{quantile}");
    let traces: Vec<String> = receiver
        .spans()
        .into_iter()
        .map(|span| span.trace_id)
        .collect();
    eventually("exemplars", async || {
        let range = "query_exemplars?start=0&end=9999999999";
        let name = "&query=";
        let family = "gateway_request_duration_seconds_bucket";
        let data = prometheus.ask(range, name, family).await?;
        let first = data[0]["exemplars"][0]["labels"]["trace_id"]
            .as_str()?
            .to_owned();
        assert!(traces.contains(&first), "{first}");
        Some(())
    })
    .await;
    // Its types are those that were meant; a counter is named without its suffix.
    let metadata = prometheus.ask("metadata", "", "").await.unwrap();
    assert_eq!(metadata["gateway_requests"][0]["type"], "counter");
    assert_eq!(metadata["gateway_upstream_up"][0]["type"], "gauge");
}
