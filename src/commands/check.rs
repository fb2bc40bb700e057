//! `check`: the configuration and the files it names.

use super::Wrong;
use crate::config::{Config, ConfigError};
use crate::snapshot::Snapshot;
use crate::telemetry::Metrics;

pub(super) fn check(config: impl FnOnce() -> Result<Config, ConfigError>) -> Result<(), Wrong> {
    let config = config()?;
    // The same compile as at start.
    let snapshot = Snapshot::compile(&config, &Metrics::new()?)?;
    println!("ok: {}", snapshot.endpoint.url());
    if snapshot.keys.is_empty() {
        println!("note: no API key is configured (REST_KEY): the REST API is closed");
    }
    Ok(())
}
