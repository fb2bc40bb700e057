//! The environment over the file: the service's own names, and `GATEWAY__SECTION__KEY`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use toml::{Table, Value};

use super::entries::{REST_KEY, join};
use super::mistakes::{UNKNOWN, said};
use super::{Config, ConfigError, Origin, Origins, RestKey, Secret};

/// The part of the environment that is ours, read once.
#[derive(Default)]
pub struct Environment(BTreeMap<String, String>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names alone: a value may be a key.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The service's names and the key each stands for.
const NAMES: [(&str, &str, &str); 4] = [
    ("BASE_ENDPOINT", "public", "base_endpoint"),
    ("UPSTREAM_URL", "upstream", "url"),
    ("TLS_CERT_FILE", "tls", "certificate"),
    ("TLS_KEY_FILE", "tls", "key"),
];
const PREFIX: &str = "GATEWAY__";

impl Environment {
    /// Takes the process' environment.
    pub fn of_process() -> Result<Self, ConfigError> {
        let mut ours = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            if !is_ours(name) {
                continue;
            }
            let value = value
                .into_string()
                .map_err(|_invalid| ConfigError(format!("{name}: the value is not UTF-8")))?;
            ours.insert(name.to_owned(), value);
        }
        Ok(Self(ours))
    }

    /// Takes these pairs; names that are not ours are left out.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(
            pairs
                .into_iter()
                .filter(|(name, _)| is_ours(name))
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .collect(),
        )
    }

    /// `table`, whose values come from `origins`, with the environment laid over it, read
    /// strictly. An error names its variable.
    pub(super) fn lay_over(
        &self,
        mut table: Table,
        mut origins: Origins,
    ) -> Result<Config, ConfigError> {
        for (name, value) in self.of_keys() {
            let (section, key) = key_of(name)?;
            set(&mut table, &section, &key, value, name)?;
            origins.set(&join(&section, &key), Origin::Variable(name.clone()));
        }
        let mut config = read(table).map_err(ConfigError)?;
        config.api.rest_key = self.rest_key()?;
        let names = ["REST_KEY", "REST_KEY_FILE"];
        if let Some(name) = names.into_iter().find(|name| self.0.contains_key(*name)) {
            origins.set(REST_KEY, Origin::Variable(name.into()));
        }
        Ok(Config { origins, ..config })
    }

    /// Everything that is wrong with it.
    pub(super) fn mistakes(&self) -> Vec<ConfigError> {
        let wrong = |(name, value): (&String, &String)| {
            let (section, key) = key_of(name)?;
            set(&mut Table::new(), &section, &key, value, name)
        };
        let mut found: Vec<_> = self
            .of_keys()
            .filter_map(|pair| wrong(pair).err())
            .collect();
        found.extend(self.rest_key().err());
        found
    }

    /// The variables that each stand for one key.
    fn of_keys(&self) -> impl Iterator<Item = (&String, &String)> {
        let own = |name: &str| matches!(name, "REST_KEY" | "REST_KEY_FILE");
        self.0.iter().filter(move |(name, _)| !own(name))
    }

    /// `REST_KEY`, unless it is empty (then the service has none either, contract section 0), or
    /// the file that `REST_KEY_FILE` names.
    fn rest_key(&self) -> Result<RestKey, ConfigError> {
        match (self.0.get("REST_KEY"), self.0.get("REST_KEY_FILE")) {
            (Some(_), Some(_)) => Err(ConfigError(
                "REST_KEY and REST_KEY_FILE are both set: expected one of them".into(),
            )),
            (Some(key), None) if !key.is_empty() => Ok(RestKey::Value(Secret::new(key.clone()))),
            (None, Some(file)) => Ok(RestKey::File(file.into())),
            (Some(_) | None, None) => Ok(RestKey::None),
        }
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
        || matches!(name, "REST_KEY" | "REST_KEY_FILE")
        || NAMES.iter().any(|(known, ..)| *known == name)
}

/// Section and key that a variable stands for.
fn key_of(name: &str) -> Result<(String, String), ConfigError> {
    if let Some((_, section, key)) = NAMES.iter().find(|(known, ..)| *known == name) {
        return Ok(((*section).to_owned(), (*key).to_owned()));
    }
    let wrong = || {
        ConfigError(format!(
            "{name}: expected {PREFIX}SECTION__KEY, e.g. GATEWAY__UPSTREAM__CONNECT_TIMEOUT"
        ))
    };
    let (section, key) = name[PREFIX.len()..].split_once("__").ok_or_else(wrong)?;
    if section.is_empty() || key.is_empty() {
        return Err(wrong());
    }
    Ok((section.to_ascii_lowercase(), key.to_ascii_lowercase()))
}

/// Sets one key and reads the whole again, so that an error can name the variable.
fn set(
    table: &mut Table,
    name: &str,
    key: &str,
    value: &str,
    variable: &str,
) -> Result<(), ConfigError> {
    // A list, a number or a boolean is written as in the file; anything else is text.
    let literal = toml::from_str::<Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut t| t.remove("v"));
    let mut last = None;
    for candidate in [Some(Value::String(value.to_owned())), literal]
        .into_iter()
        .flatten()
    {
        let mut attempt = table.clone();
        section(&mut attempt, name).insert(key.to_owned(), candidate);
        match read(attempt.clone()) {
            Ok(_) => {
                *table = attempt;
                return Ok(());
            }
            Err(e) => last = Some(e),
        }
    }
    let why = last.unwrap_or_default();
    // Under a name we do not know, or in the tables of keys, the value may be a key.
    if matches!(name, "api" | "trace") || why.starts_with(UNKNOWN) {
        return Err(ConfigError(format!("{variable}: {why}")));
    }
    Err(ConfigError(format!("{variable} = {value:?}: {why}")))
}

fn section<'t>(table: &'t mut Table, name: &str) -> &'t mut Table {
    let entry = table
        .entry(name)
        .or_insert_with(|| Value::Table(Table::new()));
    if !entry.is_table() {
        *entry = Value::Table(Table::new());
    }
    match entry {
        Value::Table(table) => table,
        _ => unreachable!("made a table above"),
    }
}

fn read(table: Table) -> Result<Config, String> {
    Config::deserialize(Value::Table(table)).map_err(|e| said(e.message()))
}
