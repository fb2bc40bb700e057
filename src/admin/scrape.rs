//! The metrics as they are scraped, read back: the live page shows what `/metrics` says and nothing
//! else, so that the two never disagree.

use std::collections::HashMap;

/// One series and its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Series<'t> {
    /// As it is written: name and labels.
    key: &'t str,
    name: &'t str,
    pub(super) value: f64,
}

impl<'t> Series<'t> {
    /// The value of a label; empty: it has no such label. Labels are words of closed sets and plain
    /// names of the configuration: none has a quote in it.
    pub(super) fn label(&self, label: &str) -> &'t str {
        let labels = &self.key[self.name.len()..];
        labels
            .split(['{', ','])
            .find_map(|pair| pair.strip_prefix(label)?.strip_prefix("=\""))
            .and_then(|rest| rest.split_once('"'))
            .map_or("", |(value, _)| value)
    }
}

/// All series of one moment.
pub(super) struct Scrape<'t> {
    series: Vec<Series<'t>>,
}

impl<'t> Scrape<'t> {
    /// Reads the text format 0.0.4.
    pub(super) fn of(text: &'t str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            let name = key.split_once('{').map_or(key, |(name, _)| name);
            let value = value.parse().ok()?;
            Some(Series { key, name, value })
        });
        Self {
            series: series.collect(),
        }
    }

    /// The series of this name, in their order.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = &Series<'t>> {
        self.series.iter().filter(move |s| s.name == name)
    }

    /// What is kept of it to compare a later one with: everything that is not 0.
    pub(super) fn keep(&self) -> Past {
        let series = self.series.iter().filter(|s| s.value != 0.0);
        Past(series.map(|s| (s.key.into(), s.value)).collect())
    }
}

/// The values of an earlier moment.
#[derive(Debug, Default)]
pub(super) struct Past(HashMap<Box<str>, f64>);

/// A moment compared with an earlier one.
#[derive(Clone, Copy)]
pub(super) struct Reading<'r> {
    pub(super) now: &'r Scrape<'r>,
    pub(super) then: &'r Past,
    /// How much later it is, in seconds; more than 0.
    pub(super) seconds: f64,
}

impl<'r> Reading<'r> {
    /// The value of a gauge, all its series together.
    pub(super) fn gauge(&self, name: &str) -> f64 {
        self.total(name, |_| true)
    }

    /// What a counter has counted since the start, in those series.
    pub(super) fn total(&self, name: &str, which: impl Fn(&Series<'r>) -> bool) -> f64 {
        let series = self.now.named(name).filter(|s| which(s));
        // The sum of nothing is -0.
        series.map(|s| s.value).sum::<f64>() + 0.0
    }

    /// What it has counted meanwhile.
    pub(super) fn recent(&self, name: &str, which: impl Fn(&Series<'r>) -> bool) -> f64 {
        let series = self.now.named(name).filter(|s| which(s));
        series.map(|s| self.grown(s)).sum::<f64>() + 0.0
    }

    /// The same, a second.
    pub(super) fn rate(&self, name: &str, which: impl Fn(&Series<'r>) -> bool) -> f64 {
        self.recent(name, which) / self.seconds
    }

    /// By how much a series has grown. One that counts from 0 again has grown by what it is.
    pub(super) fn grown(&self, series: &Series<'_>) -> f64 {
        let before = self.then.0.get(series.key).copied().unwrap_or(0.0);
        if series.value < before {
            series.value
        } else {
            series.value - before
        }
    }

    /// Under what the fraction `q` of the recent observations of a histogram are.
    pub(super) fn quantile(
        &self,
        q: f64,
        histogram: &str,
        which: impl Fn(&Series<'r>) -> bool,
    ) -> Quantile {
        // Cumulative counts by upper bound, over all series.
        let mut buckets = Vec::<(f64, f64)>::new();
        let bucket = format!("{histogram}_bucket");
        for series in self.now.named(&bucket).filter(|s| which(s)) {
            let bound = series.label("le").parse().unwrap_or(f64::INFINITY);
            let grown = self.grown(series);
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += grown,
                None => buckets.push((bound, grown)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total = buckets.last().map_or(0.0, |(_, count)| *count);
        if total <= 0.0 {
            return Quantile::None;
        }
        let rank = q * total;
        let mut below = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= rank {
                return match (below.0 == 0.0, bound.is_finite()) {
                    (true, _) => Quantile::Under(bound),
                    (_, false) => Quantile::Over(below.0),
                    _ => {
                        let part = (rank - below.1) / (count - below.1);
                        Quantile::About(below.0 + (bound - below.0) * part)
                    }
                };
            }
            below = (bound, count);
        }
        Quantile::None
    }
}

/// What is known of a quantile, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Quantile {
    /// Nothing was observed.
    None,
    /// It is in the first bucket: under its bound.
    Under(f64),
    /// Between two bounds, as if what lies there lay evenly.
    About(f64),
    /// Over the last bound.
    Over(f64),
}

impl Quantile {
    /// A number to draw.
    pub(super) const fn seconds(self) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Under(s) | Self::About(s) | Self::Over(s) => s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "a_total{x=\"1\",y=\"2\"} 5\nb 3\n";
    const NOW: &str = "# HELP a_total text\n# TYPE a_total counter\na_total{x=\"1\",y=\"2\"} 8\na_total{x=\"2\",y=\"\"} 2\nb 1\n";

    #[test]
    fn a_scrape_is_compared_with_an_earlier_one() {
        let then = Scrape::of(THEN).keep();
        let now = Scrape::of(NOW);
        let reading = Reading {
            now: &now,
            then: &then,
            seconds: 2.0,
        };
        assert_eq!(reading.total("a_total", |_| true), 10.0);
        assert_eq!(reading.recent("a_total", |_| true), 5.0);
        assert_eq!(reading.rate("a_total", |s| s.label("y") == "2"), 1.5);
        assert_eq!(reading.total("a_total", |s| s.label("z") == "2"), 0.0);
        // Counted anew: what it is.
        assert_eq!(reading.recent("b", |_| true), 1.0);
        assert_eq!(reading.gauge("none"), 0.0);
    }

    #[test]
    fn quantiles_are_read_as_prometheus_does_and_bounds_are_told_as_bounds() {
        let text = |counts: [u32; 4]| {
            let bounds = ["0.005", "0.01", "1", "+Inf"].into_iter().zip(counts);
            let lines =
                bounds.map(|(le, n)| format!("d_bucket{{route=\"page\",le=\"{le}\"}} {n}\n"));
            lines.collect::<String>()
        };
        let of = |q, counts| {
            let text = text(counts);
            let now = Scrape::of(&text);
            let reading = Reading {
                now: &now,
                then: &Past::default(),
                seconds: 1.0,
            };
            reading.quantile(q, "d", |s| s.label("route") == "page")
        };
        assert_eq!(of(0.5, [0, 0, 0, 0]), Quantile::None);
        assert_eq!(of(0.5, [10, 10, 10, 10]), Quantile::Under(0.005));
        assert_eq!(of(0.5, [0, 10, 10, 10]), Quantile::About(0.0075));
        assert_eq!(of(0.99, [0, 0, 0, 10]), Quantile::Over(1.0));
    }
}
