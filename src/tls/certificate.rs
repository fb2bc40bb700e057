//! One certificate with its chain and key: read, checked, and chosen by the name a client asks for.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Files, at};
use crate::config::ConfigError;

/// A certificate that can be served.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) names: Names,
    /// Unix times between which it is valid.
    pub(super) valid: std::ops::RangeInclusive<i64>,
    /// Whether it is its own issuer.
    pub(super) self_signed: bool,
}

impl Certificate {
    /// Checks what `files` hold: a chain in order, and the key of its first certificate.
    pub(super) fn read(files: &Files<'_>, provider: &CryptoProvider) -> Result<Self, ConfigError> {
        let wrong = |how: String| at(&files.certificate_key, files.certificate, how);
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&files.certificate_pem)
                .collect::<Result<_, _>>()
                .map_err(|e| wrong(e.to_string()))?;
        let parsed = chain
            .iter()
            .map(|der| X509Certificate::from_der(der).map(|(_, parsed)| parsed))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_invalid| wrong("not an X.509 certificate".into()))?;
        let Some(leaf) = parsed.first() else {
            return Err(wrong("no certificate in it".into()));
        };
        for (i, two) in parsed.windows(2).enumerate() {
            if two[0].issuer().as_raw() != two[1].subject().as_raw() {
                return Err(wrong(format!(
                    "certificate {} in it is not the issuer of certificate {}: expected the server's certificate first, then each one's issuer",
                    i + 2,
                    i + 1
                )));
            }
        }
        let (names, valid) = (Names::of(leaf), {
            let validity = leaf.validity();
            validity.not_before.timestamp()..=validity.not_after.timestamp()
        });
        let self_signed = leaf.issuer().as_raw() == leaf.subject().as_raw();
        drop(parsed);
        let private = PrivateKeyDer::from_pem_slice(&files.key_pem)
            .map_err(|e| at(&files.key_key, files.key, e))?;
        let signing = provider
            .key_provider
            .load_private_key(private)
            .map_err(|e| at(&files.key_key, files.key, e))?;
        let certified = CertifiedKey::new(chain, signing);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => {
                return Err(at(
                    &files.key_key,
                    files.key,
                    format!(
                        "does not belong to the certificate in {}",
                        files.certificate.display()
                    ),
                ));
            }
        }
        Ok(Self {
            certified: Arc::new(certified),
            names,
            valid,
            self_signed,
        })
    }
}

/// Whom a certificate is for (subject alternative names; the common name is no name any more).
#[derive(Debug)]
pub(super) struct Names {
    dns: Box<[Box<str>]>,
    addresses: Box<[IpAddr]>,
}

impl Names {
    fn of(leaf: &X509Certificate<'_>) -> Self {
        let names = leaf
            .subject_alternative_name()
            .ok()
            .flatten()
            .map_or(&[][..], |names| &names.value.general_names);
        let dns = names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).into()),
            _ => None,
        });
        let addresses = names.iter().filter_map(|name| match name {
            GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
                .map(IpAddr::from)
                .or_else(|_v6| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                .ok(),
            _ => None,
        });
        Self {
            dns: dns.collect(),
            addresses: addresses.collect(),
        }
    }

    /// Whether `host` (IPv6 in brackets or not) is one of them.
    pub(super) fn cover(&self, host: &str) -> bool {
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => self.addresses.contains(&address),
            Err(_) => self.dns.iter().any(|pattern| covers(pattern, host)),
        }
    }

    /// As text, for errors.
    pub(super) fn shown(&self) -> String {
        let dns = self.dns.iter().map(ToString::to_string);
        let addresses = self.addresses.iter().map(ToString::to_string);
        let all: Vec<_> = dns.chain(addresses).collect();
        if all.is_empty() {
            "none".into()
        } else {
            all.join(", ")
        }
    }
}

/// RFC 6125 section 6.4.3: a star stands for one whole label, the first.
fn covers(pattern: &str, host: &str) -> bool {
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((_, rest))) => domain.eq_ignore_ascii_case(rest),
        _ => pattern.eq_ignore_ascii_case(host),
    }
}

/// The certificate for the name a client asks for (SNI); the first for any other name and for none.
#[derive(Debug)]
pub(super) struct ByName(pub(super) Box<[Certificate]>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name();
        // Of several for one name (ECDSA beside RSA), one that this client can check.
        let checkable = |c: &&Certificate| {
            let signing = &c.certified.key;
            signing.choose_scheme(hello.signature_schemes()).is_some()
        };
        let fits = |c: &&Certificate| asked.is_some_and(|name| c.names.cover(name));
        let found = self.0.iter().filter(fits).find(checkable);
        let found = found.or_else(|| self.0.iter().find(fits));
        found
            .or_else(|| self.0.first())
            .map(|c| Arc::clone(&c.certified))
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
