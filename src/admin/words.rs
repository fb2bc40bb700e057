//! Numbers as people read them at night: few digits, their unit, nothing to count.

use std::time::{Duration, UNIX_EPOCH};

use super::scrape::Quantile;

/// What is not known, or was not yet.
pub(super) const NOTHING: &str = "–";

/// How many, in groups of three.
pub(super) fn count(n: f64) -> String {
    let digits = format!("{:.0}", n.max(0.0));
    let mut text = String::with_capacity(digits.len() * 2);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            // Thin, and never broken.
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// How many a second.
pub(super) fn rate(n: f64) -> String {
    match n {
        n if n < 0.005 => "0".into(),
        n if n < 0.1 => format!("{n:.2}"),
        n if n < 99.95 => format!("{n:.1}"),
        n => count(n),
    }
}

/// A share of 1 as a percentage.
pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p <= 0.0 => "0 %".into(),
        p if p < 0.01 => "<0.01 %".into(),
        p if p < 1.0 => format!("{p:.2} %"),
        p if p < 10.0 => format!("{p:.1} %"),
        p => format!("{p:.0} %"),
    }
}

/// How long something took.
pub(super) fn latency(quantile: Quantile) -> String {
    let words = |s: f64| match s {
        s if s < 0.0995 => format!("{:.1} ms", s * 1e3).replace(".0 ", " "),
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.1} s").replace(".0 ", " "),
    };
    match quantile {
        Quantile::None => NOTHING.into(),
        Quantile::Under(s) => format!("<{}", words(s)),
        Quantile::About(s) => words(s),
        Quantile::Over(s) => format!(">{}", words(s)),
    }
}

/// A time of seconds to years, in its two largest units.
pub(super) fn span(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    let (m, h, d) = (s / 60, s / 3600, s / 86_400);
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{m} min {} s", s % 60),
        3600..86_400 => format!("{h} h {} min", m % 60),
        _ if d < 30 => format!("{d} d {} h", h % 24),
        _ => format!("{d} d"),
    }
}

/// Bytes, in units of 1024.
pub(super) fn bytes(n: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut n, mut unit) = (n.max(0.0), 0);
    while n >= 1023.5 && unit + 1 < units.len() {
        n /= 1024.0;
        unit += 1;
    }
    if unit == 0 || n >= 9.95 {
        format!("{n:.0} {}", units[unit])
    } else {
        format!("{n:.1} {}", units[unit])
    }
}

/// Day and time of a Unix time, UTC: `25 Nov 2026`, `02:04:47`.
pub(super) fn day_and_time(unix: f64) -> (String, String) {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(unix.max(0.0) as u64));
    let text = at.map(httpdate::fmt_http_date).unwrap_or_default();
    // "Wed, 25 Nov 2026 02:04:47 GMT"
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default().to_owned();
    (part(5, 16), part(17, 25))
}

/// A line of HTML text, or an attribute's value in double quotes.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_keep_their_size() {
        assert_eq!(count(0.0), "0");
        assert_eq!(count(1_234_567.0), "1\u{202f}234\u{202f}567");
        assert_eq!(count(123.4), "123");
        let rates = [0.0, 0.02, 0.5, 12.34, 99.96, 4321.0].map(rate);
        assert_eq!(rates, ["0", "0.02", "0.5", "12.3", "100", "4\u{202f}321"]);
        let shares = [0.0, 0.00001, 0.0012, 0.05, 0.5].map(percent);
        assert_eq!(shares, ["0 %", "<0.01 %", "0.12 %", "5.0 %", "50 %"]);
        let spans = [0.4, 61.0, 3_700.0, 90_000.0, 8_640_000.0].map(span);
        assert_eq!(spans, ["0 s", "1 min 1 s", "1 h 1 min", "1 d 1 h", "100 d"]);
        let sizes = [512.0, 2048.0, 20e6, 3e9].map(bytes);
        assert_eq!(sizes, ["512 B", "2.0 KiB", "19 MiB", "2.8 GiB"]);
        let quantiles = [
            Quantile::None,
            Quantile::Under(0.005),
            Quantile::About(0.0123),
            Quantile::About(0.25),
            Quantile::Over(10.0),
        ];
        assert_eq!(
            quantiles.map(latency),
            ["–", "<5 ms", "12.3 ms", "250 ms", ">10 s"]
        );
        let (day, time) = day_and_time(784_111_777.0);
        assert_eq!((&*day, &*time), ("06 Nov 1994", "08:49:37"));
    }
}
