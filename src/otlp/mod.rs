//! Traces to a receiver of OTLP (HTTP, protobuf, gzip), by a thread of its own. It looks into the
//! queue now and then rather than being woken, so that telling it of a request costs no system call;
//! nothing that the receiver does or does not do reaches a request.

mod client;
mod spans;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use http::uri::Authority;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{
    Compression, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::SpanExporter as _;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::client::Client;
use crate::config::Secret;
use crate::telemetry::{Metrics, TraceMetrics, Traced};

/// How often it is looked into the queue.
const OFTEN: Duration = Duration::from_millis(200);
/// Most requests sent at once.
const BATCH: usize = 1000;
/// After a batch that was not taken, before it is tried again, and again.
const AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// How long the end of the process waits for the receiver.
const LAST: Duration = Duration::from_secs(3);

/// Where the receiver is, and what it wants.
#[derive(Clone)]
pub struct Settings {
    /// Its host and port, as they are written.
    pub authority: Authority,
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Where it takes traces.
    pub path: String,
    /// Whom to trust, and the name it must have; `None`: plain HTTP.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// Header fields that it wants.
    pub headers: HashMap<String, Secret>,
    /// What it knows us as.
    pub service_name: String,
    /// Longest time it may take for a batch; not 0.
    pub timeout: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

/// The thread that sends traces.
pub struct Sender {
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Sender {
    /// Sends what comes out of the queue.
    pub fn start(
        settings: &Settings,
        queue: Receiver<Traced>,
        metrics: &Metrics,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let exporter = exporter(settings).map_err(std::io::Error::other)?;
        let stop = CancellationToken::new();
        let sending = Sending {
            exporter,
            queue,
            metrics: metrics.traces.clone(),
            scope: InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            stop: stop.clone(),
            works: true,
        };
        let thread = std::thread::Builder::new()
            .name("traces".into())
            .spawn(move || runtime.block_on(sending.run()))?;
        Ok(Self { stop, thread })
    }

    /// Sends what is left, for three seconds at most.
    pub fn finish(self) {
        self.stop.cancel();
        if self.thread.join().is_err() {
            tracing::error!("the thread that sends traces died");
        }
    }
}

fn exporter(settings: &Settings) -> Result<SpanExporter, opentelemetry_otlp::ExporterBuildError> {
    let scheme = if settings.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let headers = settings.headers.iter();
    let mut exporter = SpanExporter::builder()
        .with_http()
        // All of it, so that no variable of the environment changes what stands in the file.
        .with_endpoint(format!(
            "{scheme}://{}{}",
            settings.authority, settings.path
        ))
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(settings.timeout)
        .with_compression(Compression::Gzip)
        .with_headers(
            headers
                .map(|(name, value)| (name.clone(), value.reveal().to_owned()))
                .collect(),
        )
        // The library's own blocks the thread.
        .with_retry_policy(RetryPolicy::disabled())
        .with_http_client(Client(settings.clone()))
        .build()?;
    // Without the library's detectors: they read more of the environment.
    let resource = Resource::builder_empty()
        .with_service_name(settings.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    exporter.set_resource(&resource);
    Ok(exporter)
}

/// What the thread has.
struct Sending {
    exporter: SpanExporter,
    queue: Receiver<Traced>,
    metrics: TraceMetrics,
    scope: InstrumentationScope,
    stop: CancellationToken,
    /// Whether the last batch was taken.
    works: bool,
}

impl Sending {
    async fn run(mut self) {
        let stop = self.stop.clone();
        let mut tick = tokio::time::interval(OFTEN);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        while !stop.is_cancelled() {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => break,
            }
            loop {
                batch.extend(self.queue.try_iter().take(BATCH - batch.len()));
                if batch.is_empty() {
                    break;
                }
                tokio::select! {
                    () = self.send(&batch) => batch.clear(),
                    // What was under way is sent again: better twice than not at all.
                    () = stop.cancelled() => break,
                }
            }
        }
        let last = async {
            loop {
                batch.extend(self.queue.try_iter().take(BATCH - batch.len()));
                if batch.is_empty() {
                    return;
                }
                let taken = self.try_send(&batch).await;
                self.note(taken, batch.len());
                batch.clear();
            }
        };
        if tokio::time::timeout(LAST, last).await.is_err() {
            let left = batch.len() + self.queue.try_iter().count();
            self.metrics.failed.inc_by(left as u64);
            tracing::warn!(
                requests = left,
                "the receiver of traces did not take the last ones in time"
            );
        }
    }

    /// Sends a batch, and again when it was not taken.
    async fn send(&mut self, batch: &[Traced]) {
        let mut taken = self.try_send(batch).await;
        for pause in AGAIN {
            if taken.is_ok() {
                break;
            }
            tokio::time::sleep(pause).await;
            taken = self.try_send(batch).await;
        }
        self.note(taken, batch.len());
    }

    async fn try_send(&self, batch: &[Traced]) -> OTelSdkResult {
        let mut all = Vec::with_capacity(2 * batch.len());
        for traced in batch {
            spans::spans(traced, &self.scope, &mut all);
        }
        self.exporter.export(all).await
    }

    fn note(&mut self, taken: OTelSdkResult, requests: usize) {
        let works = taken.is_ok();
        match taken {
            Ok(()) => self.metrics.exported.inc_by(requests as u64),
            Err(_) => self.metrics.failed.inc_by(requests as u64),
        }
        // Told when it changes, not for each batch.
        if self.works != works {
            match taken {
                Ok(()) => tracing::info!("the receiver of traces takes them again"),
                Err(e) => {
                    tracing::warn!(error = %e, "the receiver of traces does not take them: they are lost and counted until it does");
                }
            }
        }
        self.works = works;
    }
}
