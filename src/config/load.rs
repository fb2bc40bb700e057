//! Reading the file, strictly, with errors that say where and what is allowed.

use std::fmt;
use std::path::{Path, PathBuf};

use super::mistakes;
use super::units::OrOff;
use super::{Config, Environment, Origins};

/// What is wrong with the configuration: where it stands, what it is, what is allowed.
#[derive(Debug)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// `key = value` is not allowed; `allowed` says what is.
    pub fn new(key: &str, value: impl fmt::Debug, allowed: &str) -> Self {
        Self(format!("{key} = {value:?}: expected {allowed}"))
    }
}

/// Where the configuration comes from, to be read again at each reload. The environment is the
/// process' own and does not change; the file that `REST_KEY_FILE` names may.
#[derive(Debug)]
pub struct Source {
    /// The configuration file; none: defaults and environment.
    pub file: Option<PathBuf>,
    /// Laid over it.
    pub environment: Environment,
}

impl Source {
    /// The file that was named, else `./gateway.toml` if it is there, and this process' environment.
    pub fn of_process(named: Option<&Path>) -> Result<Self, ConfigError> {
        let beside = Path::new("gateway.toml");
        let file = named.or_else(|| beside.exists().then_some(beside));
        Ok(Self {
            file: file.map(Path::to_owned),
            environment: Environment::of_process()?,
        })
    }

    /// Reads it.
    pub fn read(&self) -> Result<Config, ConfigError> {
        Config::load(self.file.as_deref(), &self.environment)
    }

    /// Everything that is wrong with what is written, in the file and then in the environment.
    pub fn mistakes(&self) -> Vec<ConfigError> {
        let mut found = match &self.file {
            None => Vec::new(),
            Some(file) => match read(file) {
                Ok(text) => mistakes::in_text(file, &text),
                Err(unreadable) => vec![unreadable],
            },
        };
        found.extend(self.environment.mistakes());
        found
    }

    /// Every file that `config` depends on, itself included.
    pub fn files(&self, config: &Config) -> Vec<PathBuf> {
        let tls = &config.tls;
        let named = [&tls.certificate, &tls.key, &tls.client_ca];
        let more = tls.additional.iter().flat_map(|m| [&m.certificate, &m.key]);
        let limits = &config.rate_limit;
        let store = [&limits.redis_password_file, &limits.redis_ca];
        let headers = match &config.trace.headers_file {
            OrOff::On(file) => Some(file),
            OrOff::Off => None,
        };
        let trace = config.trace.ca.iter().chain(headers);
        self.file
            .iter()
            .chain(named.into_iter().flatten())
            .chain(store.into_iter().flatten())
            .chain(more)
            .chain(config.api.files())
            .chain(trace)
            .cloned()
            .collect()
    }
}

impl Config {
    /// Reads `file` (none: defaults) and lays the environment over it.
    pub fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let Some(path) = file else {
            return environment.lay_over(toml::Table::new(), Origins::default());
        };
        Self::read(path, &read(path)?, environment)
    }

    /// Reads `text`, which stands in `file`, and lays the environment over it.
    pub fn read(file: &Path, text: &str, environment: &Environment) -> Result<Self, ConfigError> {
        // Read once for itself: only then errors know their line.
        let parsed = toml::from_str::<Self>(text).and_then(|_good| toml::from_str(text));
        let mut table: toml::Table = parsed.map_err(|e| {
            let first = mistakes::in_text(file, text).into_iter().next();
            first.unwrap_or_else(|| ConfigError(format!("{}: {}", file.display(), e.message())))
        })?;
        relative_to(file.parent().unwrap_or_else(|| Path::new("")), &mut table);
        environment.lay_over(table, Origins::in_file(file, text))
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|e| {
        let name = file.display();
        ConfigError(format!("{name}: {e}; --config names the file to read"))
    })
}

/// Paths in the file are meant from where the file lies.
fn relative_to(folder: &Path, table: &mut toml::Table) {
    let join = |table: &mut toml::Table, key: &str| {
        if let Some(toml::Value::String(path)) = table.get_mut(key)
            && path != "off"
        {
            *path = folder.join(&*path).to_string_lossy().into_owned();
        }
    };
    for (section, key) in [
        ("tls", "certificate"),
        ("tls", "key"),
        ("tls", "client_ca"),
        ("api", "keys_file"),
        ("api", "upstream_key_file"),
        ("rate_limit", "redis_password_file"),
        ("rate_limit", "redis_ca"),
        ("trace", "ca"),
        ("trace", "headers_file"),
        ("visitor", "seed"),
    ] {
        if let Some(toml::Value::Table(section)) = table.get_mut(section) {
            join(section, key);
        }
    }
    if let Some(toml::Value::Array(more)) =
        table.get_mut("tls").and_then(|t| t.get_mut("additional"))
    {
        for more in more.iter_mut().filter_map(toml::Value::as_table_mut) {
            join(more, "certificate");
            join(more, "key");
        }
    }
}
