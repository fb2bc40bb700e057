//! `[trace]`, with the files it names.

use std::collections::HashMap;
use std::path::Path;

use http::header::{HeaderName, HeaderValue};
use http::uri::Scheme;
use rustls::pki_types::ServerName;

use crate::config::units::OrOff;
use crate::config::{ConfigError, Packing, Secret, Trace};
use crate::otlp::Settings;
use crate::tls;

/// Where a receiver of OTLP takes traces.
const PATH: &str = "/v1/traces";
const PORT: u16 = 4318;

/// As `trace` says; `None`: nothing is traced. Errors name the key and quote no secret.
pub(super) fn settings(trace: &Trace) -> Result<Option<Settings>, ConfigError> {
    let OrOff::On(endpoint) = &trace.endpoint else {
        return Ok(None);
    };
    let wrong = |expected: &str| {
        // It may hold a password, where none belongs.
        ConfigError(format!("trace.endpoint: expected {expected}"))
    };
    const URL: &str =
        "http://host[:4318] or https://host[:4318], credentials go into trace.headers";
    let url: http::Uri = endpoint.parse().map_err(|_invalid| wrong(URL))?;
    let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else {
        return Err(wrong(URL));
    };
    let plain = *scheme == Scheme::HTTP;
    if !plain && *scheme != Scheme::HTTPS
        || authority.as_str().contains('@')
        || url.query().is_some()
    {
        return Err(wrong(URL));
    }
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let tls = match (&trace.ca, plain) {
        (None, true) => None,
        (Some(_), true) => return Err(wrong("https:// where trace.ca is set")),
        (None, false) => {
            return Err(ConfigError(
                    "trace.ca is not set: https:// needs a PEM file with the authorities of the receiver's certificate, e.g. /etc/ssl/certs/ca-certificates.crt".into(),
                ));
        }
        (Some(file), false) => {
            let config = tls::trusting("trace.ca", file, &read("trace.ca", file)?)?;
            let name = ServerName::try_from(host.to_owned());
            Some((config, name.map_err(|_no_name| wrong(URL))?))
        }
    };
    let path = url.path().trim_end_matches('/');
    let path = if path.ends_with(PATH) {
        path.to_owned()
    } else {
        format!("{path}{PATH}")
    };
    if trace.timeout.0.is_zero() {
        return Err(ConfigError::new(
            "trace.timeout",
            "0s",
            "a time that is not 0, e.g. \"10s\"",
        ));
    }
    if !(1..=MOST_QUEUED).contains(&trace.queue) {
        return Err(ConfigError::new(
            "trace.queue",
            trace.queue,
            "a number from 1 to 1000000",
        ));
    }
    if trace.service_name.is_empty() {
        return Err(ConfigError::new("trace.service_name", "", "a name"));
    }
    Ok(Some(Settings {
        host: host.to_owned(),
        port: authority.port_u16().unwrap_or(PORT),
        authority: authority.clone(),
        path,
        tls,
        headers: headers(trace)?,
        gzip: trace.compression == Packing::Gzip,
        service_name: trace.service_name.clone(),
        timeout: trace.timeout.0,
    }))
}

/// Some hundred MiB.
const MOST_QUEUED: usize = 1_000_000;

/// Those of the file and those of the configuration; one that is in both is an error.
fn headers(trace: &Trace) -> Result<HashMap<String, Secret>, ConfigError> {
    let mut headers = HashMap::new();
    let mut add = |place: String, name: &str, value: &str| {
        let wrong = |what| ConfigError(format!("{place}: {what}"));
        let name = HeaderName::try_from(name.trim())
            .map_err(|_invalid| wrong("expected the name of a header field"))?;
        let value = value.trim();
        HeaderValue::from_str(value)
            .map_err(|_invalid| wrong("expected printable characters as value"))?;
        match headers.insert(name.to_string(), Secret::new(value.to_owned())) {
            None => Ok(()),
            Some(_) => Err(wrong("this header field is given twice")),
        }
    };
    for (name, value) in &trace.headers {
        add(format!("trace.headers.{name}"), name, value.reveal())?;
    }
    if let OrOff::On(file) = &trace.headers_file {
        let text = String::from_utf8(read("trace.headers_file", file)?).map_err(|_quotes| {
            ConfigError(format!(
                "trace.headers_file = {:?}: is not UTF-8",
                file.display().to_string()
            ))
        })?;
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let place = format!("{}:{}", file.display(), n + 1);
            let Some((name, value)) = line.split_once(':') else {
                return Err(ConfigError(format!("{place}: expected \"name: value\"")));
            };
            add(place, name, value)?;
        }
    }
    Ok(headers)
}

fn read(key: &str, file: &Path) -> Result<Vec<u8>, ConfigError> {
    let named = |e| ConfigError(format!("{key} = {:?}: {e}", file.display().to_string()));
    std::fs::read(file).map_err(named)
}
