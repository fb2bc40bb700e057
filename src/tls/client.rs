//! TLS to servers of ours.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs as crypto;

use super::{at, authorities};
use crate::config::ConfigError;

/// A client's configuration that trusts the authorities in `pem` and nobody else; `key` names the
/// `file` that it was read from.
pub fn trusting(key: &str, file: &Path, pem: &[u8]) -> Result<Arc<ClientConfig>, ConfigError> {
    let roots = authorities(key, file, pem)?;
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| at(key, file, e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
