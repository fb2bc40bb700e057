//! Values with units, as people write them: `"30s"`, `"64KiB"`, `"100/60s"`, `"off"`.
//!
//! Bare numbers are refused: a reader should never have to guess a unit.

mod day;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

pub use day::Day;

/// A span of time: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    const ALLOWED: &str = r#"a whole number with a unit (ms, s, m, h, d), e.g. "30s""#;

    /// Seconds, for defaults.
    pub const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split_unit(text)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        Some(Self(Duration::from_millis(number.checked_mul(millis)?)))
    }
}

impl std::str::FromStr for Span {
    type Err = &'static str;

    /// The error says what is allowed.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or(Self::ALLOWED)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match ms {
            0 => f.write_str("0s"),
            ms if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1_000 == 0 => write!(f, "{}s", ms / 1_000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// A number of bytes: a whole number and one of `B`, `KiB`, `MiB`, `GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Bytes {
    const ALLOWED: &str = r#"a whole number with a unit (B, KiB, MiB, GiB), e.g. "64KiB""#;

    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split_unit(text)?;
        let factor = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.checked_mul(factor).map(Self)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, unit) = match self.0 {
            n if n == 0 || n % (1 << 10) != 0 => (n, "B"),
            n if n % (1 << 20) != 0 => (n >> 10, "KiB"),
            n if n % (1 << 30) != 0 => (n >> 20, "MiB"),
            n => (n >> 30, "GiB"),
        };
        write!(f, "{n}{unit}")
    }
}

/// So many per span of time: `"100/60s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many are admitted within `per`; never 0.
    pub count: NonZeroU32,
    /// The span; never 0.
    pub per: Duration,
}

impl Rate {
    const ALLOWED: &str = r#"a count, a slash and a span, neither of them 0, e.g. "100/60s""#;

    fn parse(text: &str) -> Option<Self> {
        let (count, per) = text.split_once('/')?;
        let per = Span::parse(per)?.0;
        let count = count.parse().ok()?;
        (!per.is_zero()).then_some(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, Span(self.per))
    }
}

/// How many of something: a whole number, not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count(pub NonZeroU32);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromText for Count {
    const ALLOWED: &'static str = "a whole number from 1";
    fn from_text(_: &str) -> Option<Self> {
        None
    }
    fn from_number(number: i64) -> Option<Self> {
        NonZeroU32::new(number.try_into().ok()?).map(Self)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Text::<Self>(std::marker::PhantomData))
    }
}

/// A part of a whole, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Ratio(f64);

impl Ratio {
    /// The whole.
    pub const ALL: Self = Self(1.0);
    /// One of ten.
    pub const TENTH: Self = Self(0.1);

    /// The number.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Ratio {
    type Error = &'static str;

    fn try_from(number: f64) -> Result<Self, Self::Error> {
        if (0.0..=1.0).contains(&number) {
            Ok(Self(number))
        } else {
            Err("expected a number from 0 to 1")
        }
    }
}

impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> Self {
        ratio.0
    }
}

impl FromText for String {
    const ALLOWED: &'static str = "text";
    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }
}

impl FromText for PathBuf {
    const ALLOWED: &'static str = "a path";
    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }
}

/// A value that can be switched off by the word `"off"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrOff<T> {
    /// `"off"`
    Off,
    /// The value.
    On(T),
}

impl<T> OrOff<T> {
    /// The value, unless it is off.
    pub fn on(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::On(value) => Some(value),
        }
    }
}

impl<T: fmt::Display> fmt::Display for OrOff<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On(value) => value.fmt(f),
        }
    }
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

/// What can be read from one word of text, or from a number.
trait FromText: Sized {
    const ALLOWED: &'static str;
    fn from_text(text: &str) -> Option<Self>;
    fn from_number(_: i64) -> Option<Self> {
        None
    }
    fn expecting(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALLOWED)
    }
}

macro_rules! from_text {
    ($($type:ty),+) => {$(
        impl FromText for $type {
            const ALLOWED: &'static str = Self::ALLOWED;
            fn from_text(text: &str) -> Option<Self> {
                Self::parse(text)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(Text::<Self>(std::marker::PhantomData))
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    )+};
}

from_text!(Bytes, Day, Rate, Span);

impl<T: FromText> FromText for OrOff<T> {
    const ALLOWED: &'static str = T::ALLOWED;
    fn from_text(text: &str) -> Option<Self> {
        if text == "off" {
            Some(Self::Off)
        } else {
            T::from_text(text).map(Self::On)
        }
    }
    fn from_number(number: i64) -> Option<Self> {
        T::from_number(number).map(Self::On)
    }
    fn expecting(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::expecting(f)?;
        f.write_str(", or \"off\"")
    }
}

impl<'de, T: FromText> Deserialize<'de> for OrOff<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Text::<Self>(std::marker::PhantomData))
    }
}

impl<T: Serialize> Serialize for OrOff<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => to.serialize_str("off"),
            Self::On(value) => value.serialize(to),
        }
    }
}

struct Text<T>(std::marker::PhantomData<T>);

impl<T: FromText> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::expecting(f)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        T::from_number(number)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }
}
