//! Traces to a receiver of OTLP (HTTP, protobuf), by a thread of its own. It looks into the
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
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use prost::Message;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::client::Client;
pub use self::client::{Failure, Taken};
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
    /// Header fields that it wants; names and values are such as can be sent.
    pub headers: HashMap<String, Secret>,
    /// Whether what it is sent is compressed.
    pub gzip: bool,
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
        let stop = CancellationToken::new();
        let sending = Sending {
            client: Client::new(settings.clone()),
            resource: resource(settings),
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

/// What the receiver says to an export without spans: whether it would take any.
pub async fn try_out(settings: &Settings) -> Result<Taken, Failure> {
    let export = ExportTraceServiceRequest::default();
    Client::new(settings.clone())
        .send(export.encode_to_vec())
        .await
}

/// Without the library's detectors: they read more of the environment.
fn resource(settings: &Settings) -> ResourceAttributesWithSchema {
    let resource = Resource::builder_empty()
        .with_service_name(settings.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    (&resource).into()
}

/// What the thread has.
struct Sending {
    client: Client,
    /// Who tells all this.
    resource: ResourceAttributesWithSchema,
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

    /// Sends a batch, and again when it was not taken and may be.
    async fn send(&mut self, batch: &[Traced]) {
        let mut taken = self.try_send(batch).await;
        for pause in AGAIN {
            if taken.as_ref().err().is_none_or(|e| !e.may_pass()) {
                break;
            }
            tokio::time::sleep(pause).await;
            taken = self.try_send(batch).await;
        }
        self.note(taken, batch.len());
    }

    async fn try_send(&mut self, batch: &[Traced]) -> Result<(), Failure> {
        let mut all = Vec::with_capacity(2 * batch.len());
        for traced in batch {
            spans::spans(traced, &self.scope, &mut all);
        }
        let export = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(all, &self.resource),
        };
        self.client.send(export.encode_to_vec()).await.map(|_| ())
    }

    fn note(&mut self, taken: Result<(), Failure>, requests: usize) {
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
