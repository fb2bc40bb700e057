//! The text format of OpenMetrics 1.0, beside that of Prometheus 0.0.4.
//!
//! The library of the collectors writes the latter alone; the library that writes OpenMetrics writes
//! nothing else, and would take two sets of collectors. The difference is small enough to stand here:
//! counters are named without `_total` in their descriptions, bounds are written as floating point
//! numbers, buckets may have an exemplar, and the end is marked.

use std::fmt::{self, Write};

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::exemplars::Exemplars;

/// Writes `families`, and the exemplars of the one that has some.
pub(super) fn write(
    families: &[MetricFamily],
    exemplars: &Exemplars,
    out: &mut String,
) -> fmt::Result {
    for family in families {
        let kind = family.get_field_type();
        let name = match kind {
            MetricType::COUNTER => family.name().trim_end_matches("_total"),
            _ => family.name(),
        };
        let word = match kind {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY => "summary",
            MetricType::GAUGE => "gauge",
            MetricType::UNTYPED => "unknown",
        };
        writeln!(out, "# TYPE {name} {word}")?;
        write!(out, "# HELP {name} ")?;
        escaped(family.help(), out)?;
        out.push('\n');
        for metric in family.get_metric() {
            let labels = metric.get_label();
            match kind {
                MetricType::COUNTER => {
                    let value = metric.get_counter().get_value();
                    sample(out, (name, "_total"), labels, None, value)?;
                    out.push('\n');
                }
                MetricType::HISTOGRAM => {
                    let exemplars = (family.name() == Exemplars::FAMILY).then_some(exemplars);
                    histogram(name, metric, exemplars, out)?;
                }
                // Nothing here makes a summary.
                MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => {
                    let value = metric.get_gauge().get_value();
                    sample(out, (name, ""), labels, None, value)?;
                    out.push('\n');
                }
            }
        }
    }
    out.write_str("# EOF\n")
}

fn histogram(
    name: &str,
    metric: &Metric,
    exemplars: Option<&Exemplars>,
    out: &mut String,
) -> fmt::Result {
    let (labels, of) = (metric.get_label(), metric.get_histogram());
    let bounded = of
        .get_bucket()
        .iter()
        .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
        .filter(|(bound, _)| bound.is_finite());
    let all = (f64::INFINITY, of.get_sample_count());
    for (n, (bound, count)) in bounded.chain([all]).enumerate() {
        sample(out, (name, "_bucket"), labels, Some(bound), count as f64)?;
        let route = labels.first().map_or("", LabelPair::value);
        if let Some(exemplar) = exemplars.and_then(|exemplars| exemplars.get(route, n)) {
            let (trace, value, at) = (exemplar.trace_id, exemplar.value, exemplar.at);
            write!(out, " # {{trace_id=\"{trace:032x}\"}} {value} {at:.3}")?;
        }
        out.push('\n');
    }
    sample(out, (name, "_count"), labels, None, all.1 as f64)?;
    out.push('\n');
    sample(out, (name, "_sum"), labels, None, of.get_sample_sum())?;
    out.push('\n');
    Ok(())
}

/// A sample without the end of its line.
fn sample(
    out: &mut String,
    (name, suffix): (&str, &str),
    labels: &[LabelPair],
    bound: Option<f64>,
    value: f64,
) -> fmt::Result {
    write!(out, "{name}{suffix}")?;
    let mut open = "{";
    for label in labels {
        write!(out, "{open}{}=\"", label.name())?;
        escaped(label.value(), out)?;
        out.push('"');
        open = ",";
    }
    match bound {
        Some(f64::INFINITY) => write!(out, "{open}le=\"+Inf\"}}")?,
        // With a decimal point or an exponent, also where it is whole.
        Some(bound) => write!(out, "{open}le=\"{bound:?}\"}}")?,
        None if !labels.is_empty() => out.push('}'),
        None => {}
    }
    write!(out, " {value}")
}

fn escaped(text: &str, out: &mut String) -> fmt::Result {
    for c in text.chars() {
        match c {
            '\\' => out.write_str("\\\\")?,
            '"' => out.write_str("\\\"")?,
            '\n' => out.write_str("\\n")?,
            c => out.write_char(c)?,
        }
    }
    Ok(())
}
