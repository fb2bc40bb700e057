//! Text that must not be shown.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// A key. Neither `Debug` nor an error shows it.
#[derive(Clone, PartialEq, Eq)]
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

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // The library's own error would quote what it found.
        String::deserialize(from)
            .map(Self)
            .map_err(|_quotes| D::Error::custom("expected text in quotes"))
    }
}

/// Reads `name = "key"` pairs; an error quotes no value.
pub(super) fn named<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, Secret>, D::Error> {
    struct Named;

    impl<'de> Visitor<'de> for Named {
        type Value = BTreeMap<String, Secret>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("names with a key each")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut keys = BTreeMap::new();
            while let Some((name, key)) = map.next_entry()? {
                keys.insert(name, key);
            }
            Ok(keys)
        }

        fn visit_str<E: Error>(self, _text: &str) -> Result<Self::Value, E> {
            Err(E::custom("expected a table: name = \"key\""))
        }
    }

    from.deserialize_any(Named)
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Environment};

    #[test]
    fn no_error_quotes_a_key() {
        let folder = std::env::temp_dir().join(format!("secret-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("gateway.toml");
        for text in [
            "[api]\nkeys = \"canary\"",
            "[api.keys]\na = 424242",
            "[api.keys]\na = \"canary",
            "[api.keys]\na = \"canary\"\nb = [\"canary\"]",
            "[api]\nkeys = [\"canary\"]",
        ] {
            std::fs::write(&file, text).unwrap();
            let error = Config::load(Some(&file), &Environment::default())
                .unwrap_err()
                .to_string();
            assert!(
                !error.contains("canary") && !error.contains("424242"),
                "{error}"
            );
            assert!(error.contains("gateway.toml:"), "{error}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", super::Secret::new("canary".into())), "***");
    }
}
