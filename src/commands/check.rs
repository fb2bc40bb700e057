//! `check`: the configuration and the files it names.

use super::Wrong;
use crate::config::{ConfigError, Source};
use crate::snapshot::Snapshot;
use crate::telemetry::Metrics;

pub(super) fn check(source: impl FnOnce() -> Result<Source, ConfigError>) -> Result<(), Wrong> {
    let source = source()?;
    let mistakes = source.mistakes();
    if !mistakes.is_empty() {
        let said: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        return Err(Wrong(said.join("\n")));
    }
    let config = source.read()?;
    // The same compile as at start.
    let snapshot = Snapshot::compile(&config, &Metrics::new()?, None)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    if let Some(flaw) = snapshot.tls.flaw(now.as_secs() as i64) {
        return Err(Wrong(flaw));
    }
    println!("ok: {}", snapshot.endpoint.url());
    for note in &snapshot.notes {
        println!("note: {note}");
    }
    if snapshot.keys.is_empty() {
        println!(
            "note: no API key is configured (REST_KEY, api.keys, api.keys_file): the REST API is closed"
        );
    }
    Ok(())
}
