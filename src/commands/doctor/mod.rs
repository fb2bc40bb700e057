//! `doctor`: looks at what really surrounds the gateway, and says what to change. It changes
//! nothing: it asks the backend for pages and the latest visitors, without a key and with what it
//! would be sent, sends the receiver of traces, where there is one, none, and makes one small file in
//! each writable folder that is watched, to see whether that is noticed.

mod backend;
mod certificate;
mod machine;
mod traces;
mod watching;

use std::path::Path;

use clap::Args;

use super::{Wrong, say};
use crate::config::units::Span;
use crate::config::{Config, ConfigError, Source};
use crate::snapshot::Snapshot;
use crate::telemetry::Metrics;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// How long the process is given to end before it is killed: terminationGracePeriodSeconds of
    /// a pod, TimeoutStopSec of a systemd unit. In a pod without this it is taken to be 30s.
    #[arg(long, env = "TERMINATION_GRACE_PERIOD", value_name = "TIME", value_parser = str::parse::<Span>)]
    grace: Option<Span>,
}

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    /// It works, and may not in the way that is wanted.
    Warning,
    /// It does not work.
    Problem,
}

/// Everything found so far.
#[derive(Default)]
struct Findings(Vec<(Level, String)>);

impl Findings {
    fn ok(&mut self, what: impl Into<String>) {
        self.0.push((Level::Ok, what.into()));
    }

    fn warning(&mut self, what: impl Into<String>) {
        self.0.push((Level::Warning, what.into()));
    }

    fn problem(&mut self, what: impl Into<String>) {
        self.0.push((Level::Problem, what.into()));
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|(of, _)| *of == level).count()
    }

    fn text(&self) -> String {
        let lines = self.0.iter().map(|(level, what)| {
            let word = match level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Problem => "problem",
            };
            format!("{word:<8} {what}\n")
        });
        let counts = [(Level::Problem, "problem"), (Level::Warning, "warning")];
        let counts = counts.map(|(level, word)| match self.count(level) {
            1 => format!("1 {word}"),
            n => format!("{n} {word}s"),
        });
        lines
            .chain([format!("\n{}\n", counts.join(", "))])
            .collect()
    }
}

/// Looks; exit code 0, or 1 where there is a problem.
pub(super) fn look(
    arguments: &Arguments,
    source: impl FnOnce() -> Result<Source, ConfigError>,
) -> Result<(), Wrong> {
    let source = source()?;
    let mut found = Findings::default();
    match source.read() {
        Ok(config) => surroundings(arguments, &source, &config, &mut found)?,
        Err(_) => {
            for mistake in source.mistakes() {
                found.problem(format!("configuration: {mistake}"));
            }
        }
    }
    say(&found.text())?;
    match found.count(Level::Problem) {
        0 => Ok(()),
        _ => Err(Wrong("there are problems".into())),
    }
}

fn surroundings(
    arguments: &Arguments,
    source: &Source,
    config: &Config,
    found: &mut Findings,
) -> Result<(), Wrong> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let metrics = Metrics::new()?;
    let missing = |file: &Option<_>| file.as_deref().is_some_and(|file: &Path| !file.exists());
    let tls = &config.tls;
    if tls.development && missing(&tls.certificate) && missing(&tls.key) {
        // Compiling would make it.
        found.warning("certificate: there is none yet; the start will make a self-signed one (tls.development = true), which browsers warn of");
    } else {
        // The same compile as at start.
        match Snapshot::compile(config, &metrics, None) {
            Err(e) => found.problem(format!("configuration: {e}")),
            Ok(snapshot) => {
                found.ok(format!("configuration: {}", snapshot.endpoint.url()));
                if snapshot.keys.is_empty() {
                    found.warning("keys: none is configured: the REST API is closed; set REST_KEY or api.keys to open it");
                }
                for note in &snapshot.notes {
                    found.warning(format!("keys: {note}"));
                }
                certificate::look(config, &snapshot, found);
                machine::names(config, &snapshot, found);
                runtime.block_on(backend::look(config, &snapshot, metrics.into(), found));
                runtime.block_on(traces::look(config, snapshot.trace.as_ref(), found));
            }
        }
    }
    machine::addresses(config, found);
    machine::grace(config, arguments.grace, found);
    machine::files(config, found);
    machine::overload(config, found);
    machine::clock(found);
    runtime.block_on(watching::look(config, &source.files(config), found));
    Ok(())
}
