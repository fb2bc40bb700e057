//! PEM files to a rustls server configuration; and development certificates.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::{ConfigError, TlsVersion};

/// A configuration and what operators want to know of its certificate.
#[derive(Clone, Debug)]
pub struct Served {
    /// For the acceptor.
    pub config: Arc<ServerConfig>,
    /// When the certificate expires, Unix time.
    pub not_after: i64,
    /// Whether its names cover the base endpoint's host.
    pub covers_host: bool,
}

/// Reads and checks a pair; the key must be the certificate's.
pub fn load(
    certificate: &Path,
    key: &Path,
    min_version: TlsVersion,
    host: &str,
) -> Result<Served, ConfigError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|e| at("tls.certificate", certificate, e))?;
    let Some(leaf) = chain.first() else {
        return Err(at("tls.certificate", certificate, "no certificate in it"));
    };
    let (not_after, covers_host) =
        facts(leaf, host).map_err(|how| at("tls.certificate", certificate, how))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| at("tls.key", key, e))?;
    let provider = aws_lc_rs::default_provider();
    let signing = provider
        .key_provider
        .load_private_key(private)
        .map_err(|e| at("tls.key", key, e))?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => {
            return Err(at(
                "tls.key",
                key,
                format!(
                    "does not belong to the certificate in {}",
                    certificate.display()
                ),
            ));
        }
    }
    let versions: &[_] = match min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(versions)
        .map_err(|e| ConfigError(format!("tls: {e}")))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Tickets carry the session themselves: no table to share between workers or to fill up.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|e| ConfigError(format!("tls: {e}")))?;
    Ok(Served {
        config: Arc::new(config),
        not_after,
        covers_host,
    })
}

fn at(key: &str, file: &Path, how: impl fmt::Display) -> ConfigError {
    ConfigError(format!("{key} = {:?}: {how}", file.display().to_string()))
}

fn facts(leaf: &CertificateDer<'_>, host: &str) -> Result<(i64, bool), &'static str> {
    let (_, certificate) =
        X509Certificate::from_der(leaf).map_err(|_invalid| "not an X.509 certificate")?;
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map_or(&[][..], |names| &names.value.general_names);
    let address = host
        .trim_matches(['[', ']'])
        .parse::<std::net::IpAddr>()
        .ok();
    let covers = names.iter().any(|name| match (name, address) {
        (GeneralName::DNSName(pattern), None) => covers(pattern, host),
        (GeneralName::IPAddress(bytes), Some(std::net::IpAddr::V4(v4))) => *bytes == v4.octets(),
        (GeneralName::IPAddress(bytes), Some(std::net::IpAddr::V6(v6))) => *bytes == v6.octets(),
        _ => false,
    });
    Ok((certificate.validity().not_after.timestamp(), covers))
}

/// RFC 6125 section 6.4.3: a star stands for one whole label, the first.
fn covers(pattern: &str, host: &str) -> bool {
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((_, rest))) => domain.eq_ignore_ascii_case(rest),
        _ => pattern.eq_ignore_ascii_case(host),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_covers_exactly_one_label() {
        assert!(covers("*.acmetech.com", "support.acmetech.com"));
        assert!(covers("Support.Acmetech.com", "support.acmetech.com"));
        for host in ["acmetech.com", "a.b.acmetech.com", "support.acmetech.org"] {
            assert!(!covers("*.acmetech.com", host), "{host}");
        }
    }
}
