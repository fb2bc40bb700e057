//! The life of a reload: something changed -> settle -> read strictly -> compile with the files it
//! names -> swap; or keep what is in force and say why. Never half of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Digest, SHA256, digest};
use tokio::signal::unix::Signal;
use tokio::time::{Instant, sleep_until};

use super::watch::{Watch, is_a_mount};
use super::{Current, Snapshot};
use crate::config::{self, Applies, Change, Config, ConfigError, Source};
use crate::telemetry::{LogGuard, Metrics, Tracer, manager};

/// What was read and compiled in one go.
pub struct Loaded {
    /// As written.
    pub config: Config,
    /// As it is in force.
    pub snapshot: Snapshot,
    files: Files,
}

impl Loaded {
    /// Reads and compiles everything. `previous` is what is in force, if anything is.
    pub fn load(
        source: &Source,
        metrics: &Metrics,
        previous: Option<&Snapshot>,
    ) -> Result<Self, ConfigError> {
        // Looked at before they are read: what changes meanwhile is found to have changed.
        let files = Files::look(source.files(&source.read()?));
        let config = source.read()?;
        let snapshot = Snapshot::compile(&config, metrics, previous)?;
        Ok(Self {
            config,
            snapshot,
            files,
        })
    }
}

/// The files that everything depends on, and what was in them.
struct Files(Vec<(PathBuf, Option<Digest>)>);

impl Files {
    fn look(paths: Vec<PathBuf>) -> Self {
        let looked = paths.into_iter().map(|path| {
            let content = std::fs::read(&path).ok();
            let seen = content.map(|bytes| digest(&SHA256, &bytes));
            (path, seen)
        });
        Self(looked.collect())
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.0.iter().map(|(path, _)| path.clone()).collect()
    }

    /// Those that are not what they were.
    fn changed_since(&self, before: &Self) -> Vec<String> {
        let same = |(path, seen): &&(PathBuf, Option<Digest>)| {
            let known = before.0.iter().find(|(known, _)| known == path);
            known.is_some_and(|(_, known)| {
                known.as_ref().map(Digest::as_ref) == seen.as_ref().map(Digest::as_ref)
            })
        };
        let changed = self.0.iter().filter(|file| !same(file));
        changed
            .map(|(path, _)| path.display().to_string())
            .collect()
    }
}

/// Why it is looked for changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    /// Something happened in a watched folder.
    Watch,
    /// It was time to look.
    Poll,
    /// SIGHUP.
    Signal,
}

impl Trigger {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Poll => "poll",
            Self::Signal => "signal",
        }
    }
}

/// Keeps what is in force up to date.
pub struct Reloader {
    /// Where the configuration comes from.
    pub source: Arc<Source>,
    /// What is in force.
    pub current: Current,
    /// Told of every attempt.
    pub metrics: Arc<Metrics>,
    /// Its level follows the configuration.
    pub log: Arc<LogGuard>,
    /// Its ratio does, too.
    pub tracer: Option<Arc<Tracer>>,
    config: Config,
    /// The configuration of the start, for what is in force until a restart.
    started: Config,
    /// As of the last attempt, whatever became of it.
    files: Files,
    generation: i64,
}

impl Reloader {
    /// Puts what was loaded at the start into force.
    pub fn start(
        source: Arc<Source>,
        loaded: Loaded,
        metrics: Arc<Metrics>,
        log: Arc<LogGuard>,
        tracer: Option<Arc<Tracer>>,
    ) -> Self {
        let Loaded {
            config,
            snapshot,
            files,
        } = loaded;
        for file in files.paths().iter().filter(|file| is_a_mount(file)) {
            tracing::warn!(file = %file.display(), "this file is a mount of its own (subPath?) and will never change here: mount its folder instead");
        }
        if let Some(flaw) = snapshot.tls.flaw(unix_now()) {
            tracing::warn!("{flaw}: served for want of another");
        }
        let this = Self {
            source,
            current: Arc::new(arc_swap::ArcSwap::from_pointee(snapshot)),
            metrics,
            log,
            tracer,
            started: config.clone(),
            config,
            files,
            generation: 0,
        };
        this.show();
        this
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reloads for ever: on SIGHUP, when watched folders change, and when it is time to look.
    pub async fn run(mut self, mut hangup: Signal) {
        let mut watch = self.watch();
        loop {
            let poll = self.config.reload.poll.on().map(|span| span.0);
            let mut trigger = tokio::select! {
                _ = hangup.recv() => Trigger::Signal,
                () = changed(watch.as_ref()) => Trigger::Watch,
                () = after(poll) => Trigger::Poll,
            };
            if trigger == Trigger::Watch && self.settle(watch.as_ref(), &mut hangup).await {
                trigger = Trigger::Signal;
            }
            if trigger == Trigger::Signal {
                manager::reloading();
            }
            let loaded = self.attempt(trigger).await;
            let loaded = match loaded {
                // Half of a change may be all that is there yet: a certificate without its key.
                Some(Err(_)) if trigger != Trigger::Signal => {
                    let asked = tokio::select! {
                        () = changed(watch.as_ref()) => self.settle(watch.as_ref(), &mut hangup).await,
                        _ = hangup.recv() => true,
                        () = tokio::time::sleep(PATIENCE) => false,
                    };
                    if asked {
                        trigger = Trigger::Signal;
                        manager::reloading();
                    }
                    self.load().await
                }
                loaded => loaded,
            };
            if let Some(loaded) = loaded {
                self.conclude(trigger, loaded);
            }
            if trigger == Trigger::Signal {
                manager::reloaded();
            }
            match &mut watch {
                Some(watch) if self.config.reload.watch => watch.follow(&self.files.paths()),
                _ => watch = self.watch(),
            }
        }
    }

    fn watch(&self) -> Option<Watch> {
        if !self.config.reload.watch {
            return None;
        }
        match Watch::new() {
            Ok(mut watch) => {
                watch.follow(&self.files.paths());
                Some(watch)
            }
            Err(e) => {
                tracing::warn!(error = %e, "cannot watch folders: changes are found by reload.poll");
                None
            }
        }
    }

    /// Waits until nothing has happened for a while; not for ever, where something always happens. True
    /// where SIGHUP ended it: whoever asks for a reload says that what is there is all of it.
    async fn settle(&self, watch: Option<&Watch>, hangup: &mut Signal) -> bool {
        let quiet = self.config.reload.settle.0;
        let latest = Instant::now() + 4 * quiet;
        loop {
            let end = latest.min(Instant::now() + quiet);
            tokio::select! {
                _ = hangup.recv() => return true,
                () = changed(watch) => {}
                () = sleep_until(end) => return false,
            }
        }
    }

    /// Loads, if there is anything new to load.
    async fn attempt(&self, trigger: Trigger) -> Option<Result<Loaded, Box<Rejected>>> {
        let paths = self.files.paths();
        let now = blocking(move || Files::look(paths)).await?;
        if trigger != Trigger::Signal && now.changed_since(&self.files).is_empty() {
            return None;
        }
        self.load().await
    }

    async fn load(&self) -> Option<Result<Loaded, Box<Rejected>>> {
        let (source, metrics) = (Arc::clone(&self.source), Arc::clone(&self.metrics));
        let previous = self.current.load_full();
        let files = self.files.paths();
        let loaded = blocking(move || {
            let seen = Files::look(files);
            let loaded = Loaded::load(&source, &metrics, Some(&previous))
                .and_then(|loaded| is_better(loaded, &previous));
            loaded.map_err(|why| Box::new(Rejected { why, seen }))
        })
        .await;
        if loaded.is_none() {
            self.metrics.config_rejected();
            tracing::error!(
                generation = self.generation,
                "a reload panicked, which is a bug: what is in force stays"
            );
        }
        loaded
    }

    /// Swaps, or keeps; and says so.
    fn conclude(&mut self, trigger: Trigger, loaded: Result<Loaded, Box<Rejected>>) {
        let trigger = trigger.as_str();
        match loaded {
            Ok(Loaded {
                config,
                snapshot,
                files,
            }) => {
                let changed_files = files.changed_since(&self.files).join(", ");
                let changes = config::diff(&self.config, &config);
                // What waits for a restart goes on to be told until there is one.
                let waiting = config::diff(&self.started, &config);
                let waiting = waiting.iter().filter(|c| c.applies == Applies::Restart);
                self.current.store(Arc::new(snapshot));
                self.config = config;
                self.files = files;
                self.generation += 1;
                self.show();
                tracing::info!(
                    trigger,
                    generation = self.generation,
                    files = changed_files,
                    changed = keys(changes.iter()),
                    "reloaded"
                );
                let waiting = keys(waiting);
                if !waiting.is_empty() {
                    tracing::warn!(keys = waiting, "changed, and in force only after a restart");
                }
            }
            Err(rejected) => {
                let Rejected { why, seen } = *rejected;
                self.files = seen;
                self.metrics.config_rejected();
                tracing::error!(trigger, generation = self.generation, error = %why, "reload failed: what is in force stays");
            }
        }
    }

    fn show(&self) {
        self.current.load().show(&self.metrics);
        self.log.follow(&self.config.log);
        if let Some(tracer) = &self.tracer {
            tracer.follow(&self.config.trace);
        }
        self.metrics
            .config_loaded(&hash(&self.config), self.generation);
    }
}

/// How long is waited for the other half of a change.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a reload was rejected, and what the files were then.
struct Rejected {
    why: ConfigError,
    seen: Files,
}

/// Refuses what could be a start but is worse than what is in force.
fn is_better(loaded: Loaded, previous: &Snapshot) -> Result<Loaded, ConfigError> {
    let now = unix_now();
    if let Some(flaw) = loaded.snapshot.tls.flaw(now)
        && previous.tls.flaw(now).is_none()
    {
        return Err(ConfigError(flaw));
    }
    // At a start it closes the API; what runs keeps its keys. One that is there and empty closes it.
    if !loaded.snapshot.whole && previous.whole {
        return Err(ConfigError(loaded.snapshot.notes.join("; ")));
    }
    Ok(loaded)
}

/// Reading and compiling are not for a thread that answers health checks. `None`: it panicked, which
/// was told, and must not end a process that is well.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

async fn changed(watch: Option<&Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn after(span: Option<Duration>) {
    match span {
        Some(span) => tokio::time::sleep(span).await,
        None => std::future::pending().await,
    }
}

fn keys<'c>(changes: impl Iterator<Item = &'c Change>) -> String {
    let keys: Vec<_> = changes.map(|change| &*change.key).collect();
    keys.join(", ")
}

/// A word that differs when the configuration does; keys do not go into it.
fn hash(config: &Config) -> String {
    let entries = config.entries();
    let shown = entries.iter().map(|entry| (&entry.key, &entry.value));
    let text = format!("{:?}", shown.collect::<Vec<_>>());
    let digest = digest(&SHA256, text.as_bytes());
    let first = &digest.as_ref()[..6];
    first.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}
