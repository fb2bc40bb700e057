//! Families are made and registered here, each with its name and help: public API.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, Result,
};

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

pub(super) fn counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter> {
    register(r, IntCounter::new(name, help)?)
}

pub(super) fn counters(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec> {
    register(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}

/// A family with one label of a closed set, all of its series at once.
pub(super) fn counters_of<const N: usize>(
    r: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: [&str; N],
) -> Result<[IntCounter; N]> {
    let family = counters(r, name, help, &[label])?;
    Ok(values.map(|value| family.with_label_values(&[value])))
}

pub(super) fn gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge> {
    register(r, IntGauge::new(name, help)?)
}

/// A gauge of a time, seconds since 1970.
pub(super) fn timestamp(r: &Registry, name: &str, help: &str) -> Result<Gauge> {
    register(r, Gauge::new(name, help)?)
}

pub(super) fn gauges(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
    register(r, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn timestamps(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec> {
    register(r, GaugeVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn histogram(r: &Registry, name: &str, help: &str, bounds: &[f64]) -> Result<Histogram> {
    let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
    register(r, Histogram::with_opts(options)?)
}

pub(super) fn histograms(
    r: &Registry,
    name: &str,
    help: &str,
    bounds: &[f64],
    label: &str,
) -> Result<HistogramVec> {
    let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
    register(r, HistogramVec::new(options, &[label])?)
}
