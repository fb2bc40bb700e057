//! Self-signed certificates for development.

use std::fs;
use std::path::{Path, PathBuf};

use super::at;
use crate::config::ConfigError;

/// The files of a development certificate.
#[derive(Clone, Debug)]
pub struct Pair {
    /// PEM, the certificate.
    pub certificate: PathBuf,
    /// PEM, the key.
    pub key: PathBuf,
}

impl Pair {
    /// Where a pair lies in `folder`.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            certificate: folder.join("dev.pem"),
            key: folder.join("dev.key"),
        }
    }

    /// Makes a self-signed certificate for `hosts`; the key is readable by its owner alone. Files
    /// that are there are not touched: then it is an error.
    pub fn make(&self, hosts: &[String]) -> Result<(), ConfigError> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;

        let made = rcgen::generate_simple_self_signed(hosts.to_vec())
            .map_err(|e| ConfigError(format!("certificate for {hosts:?}: {e}")))?;
        for (path, text, mode) in [
            (&self.key, made.signing_key.serialize_pem(), 0o600),
            (&self.certificate, made.cert.pem(), 0o644),
        ] {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(|e| at("tls", folder, e))?;
            }
            let file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(|e| at("tls", path, e))?;
        }
        Ok(())
    }
}
