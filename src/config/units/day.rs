//! A day.

use std::fmt;

use time::{Date, Month};

/// A day, written as `2026-12-31`; it begins at midnight UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day(Date);

impl Day {
    pub(super) const ALLOWED: &str = r#"a day as year, month and day, e.g. "2026-12-31""#;

    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<_> = text.split('-').collect();
        let [year, month, day] = parts[..] else {
            return None;
        };
        if (year.len(), month.len(), day.len()) != (4, 2, 2) || !parts.into_iter().all(digits) {
            return None;
        }
        let month = Month::try_from(month.parse::<u8>().ok()?).ok()?;
        let day = day.parse().ok()?;
        let date = Date::from_calendar_date(year.parse().ok()?, month, day);
        date.ok().map(Self)
    }

    /// When it begins, Unix time in seconds.
    pub fn begins(self) -> i64 {
        self.0.midnight().assume_utc().unix_timestamp()
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
