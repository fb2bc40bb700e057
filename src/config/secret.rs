//! Text that must not be shown.

use std::fmt;

use serde::Deserialize;

/// A key. Neither `Debug` nor an error shows it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes `text` as it is.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself. Each use is a place where it could leak.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
