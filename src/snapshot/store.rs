//! The store of limits that replicas share, from the configuration and the files it names.

use std::path::Path;
use std::sync::Arc;

use crate::config::{ConfigError, LimitStore, RateLimit};
use crate::rate_limit::shared::{Settings, Shared};
use crate::telemetry::Metrics;
use crate::tls;

/// The store, if there is one; where nothing has changed since `previous`, that goes on, and with it
/// its connections.
pub(super) fn shared(
    config: &RateLimit,
    metrics: &Metrics,
    previous: Option<&Arc<Shared>>,
) -> Result<Option<Arc<Shared>>, ConfigError> {
    if config.store == LimitStore::Local {
        return Ok(None);
    }
    let Some(url) = &config.redis_url else {
        return Err(ConfigError(
            "rate_limit.store = \"redis\" and rate_limit.redis_url is not set: set it to where the store is, e.g. redis://10.0.0.5:6379".into(),
        ));
    };
    // Nothing of the URL is quoted: it may hold a password.
    let wrong = |expected| ConfigError(format!("rate_limit.redis_url: expected {expected}"));
    let wants_tls = Shared::wants_tls(url.reveal()).map_err(wrong)?;
    let ca = match (&config.redis_ca, wants_tls) {
        (Some(file), true) => Some((file, read("rate_limit.redis_ca", file)?)),
        (None, false) => None,
        (Some(_), false) => {
            return Err(wrong("rediss:// where rate_limit.redis_ca is set"));
        }
        (None, true) => {
            return Err(ConfigError(
                "rate_limit.redis_ca is not set: rediss:// needs a PEM file with the authorities of the store's certificate, e.g. /etc/ssl/certs/ca-certificates.crt".into(),
            ));
        }
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':' | b'/');
    let prefix = &config.redis_prefix;
    if prefix.is_empty() || !prefix.bytes().all(plain) {
        let allowed = "letters, digits, _, -, ., : and /";
        return Err(ConfigError::new("rate_limit.redis_prefix", prefix, allowed));
    }
    if config.redis_timeout.0.is_zero() {
        let shown = config.redis_timeout.to_string();
        let allowed = "a time that is not 0, e.g. \"5ms\"";
        return Err(ConfigError::new("rate_limit.redis_timeout", shown, allowed));
    }
    let password = config.redis_password_file.as_deref().map(password);
    let settings = Settings {
        url: url.reveal().to_owned(),
        password: password.transpose()?,
        ca: ca.as_ref().map(|(_, pem)| pem.clone()),
        prefix: prefix.clone(),
        timeout: config.redis_timeout.0,
        salt: config.redis_salt.as_ref().map(|s| s.reveal().to_owned()),
    };
    if let Some(same) = previous.filter(|p| p.is(&settings)) {
        return Ok(Some(Arc::clone(same)));
    }
    let tls = ca.map(|(file, pem)| tls::trusting("rate_limit.redis_ca", file, &pem));
    let shared = Shared::new(settings, tls.transpose()?, metrics.store.clone());
    shared.map(|shared| Some(Arc::new(shared))).map_err(wrong)
}

/// A password and perhaps the end of its line.
fn password(file: &Path) -> Result<String, ConfigError> {
    const KEY: &str = "rate_limit.redis_password_file";
    let wrong = |how: &str| ConfigError(format!("{KEY} = {:?}: {how}", file.display().to_string()));
    let text = String::from_utf8(read(KEY, file)?).map_err(|_quotes| wrong("is not UTF-8"))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err(wrong("is empty"));
    }
    Ok(password.into())
}

fn read(key: &str, file: &Path) -> Result<Vec<u8>, ConfigError> {
    let named = |e| ConfigError(format!("{key} = {:?}: {e}", file.display().to_string()));
    std::fs::read(file).map_err(named)
}
