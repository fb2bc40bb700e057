//! `dashboards`: the Grafana dashboard of this binary's metrics.

use super::{Wrong, say};

/// A dashboard as Grafana imports it: JSON, its data source a variable.
const DASHBOARD: &str = include_str!("../../deploy/grafana/cobrowse-gateway.json");

pub(super) fn print() -> Result<(), Wrong> {
    say(DASHBOARD)
}
