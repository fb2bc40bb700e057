//! PEM files to a rustls server configuration, checked as a set; and development certificates.

mod certificate;
mod client;
mod development;
mod stream;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use rustls::crypto::aws_lc_rs as crypto;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig};

use crate::config::{ConfigError, Tls, TlsVersion};
use certificate::{ByName, Certificate};
pub use client::trusting;
pub use development::Pair;
#[cfg(test)]
pub(crate) use stream::tests::connected;
pub use stream::{ClientStream, accept};

/// A configuration and what operators want to know of its certificates.
#[derive(Clone, Debug)]
pub struct Served {
    /// For the acceptor.
    pub config: Arc<ServerConfig>,
    /// Each certificate; the first is `tls.certificate`.
    pub certificates: Box<[Facts]>,
    /// Of everything that went into `config`.
    digest: Digest,
}

/// What operators want to know of a certificate.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `default`, or the name of a `tls.additional`.
    pub name: Box<str>,
    /// From when it is valid, Unix time.
    pub not_before: i64,
    /// When it expires, Unix time.
    pub not_after: i64,
    /// Whom it is for, as text.
    pub names: Box<str>,
    /// How many certificates its file holds, itself and its issuers.
    pub chain: usize,
    /// Whether it is its own issuer.
    pub self_signed: bool,
}

impl Served {
    /// The first certificate that is not valid at `now` (Unix time), and why.
    pub fn flaw(&self, now: i64) -> Option<String> {
        self.certificates.iter().find_map(|c| {
            let (how, at) = match () {
                () if now < c.not_before => ("is not valid before", c.not_before),
                () if now > c.not_after => ("has expired on", c.not_after),
                () => return None,
            };
            let at = std::time::UNIX_EPOCH
                + std::time::Duration::from_secs(u64::try_from(at).unwrap_or_default());
            let name = match &*c.name {
                DEFAULT => "tls.certificate".to_owned(),
                name => format!("tls.additional {name:?}"),
            };
            Some(format!("{name} {how} {}", httpdate::fmt_http_date(at)))
        })
    }
}

/// The name of `tls.certificate` among certificates.
const DEFAULT: &str = "default";

/// A pair of files as read, and the keys that name them.
struct Files<'a> {
    name: &'a str,
    certificate_key: String,
    certificate: &'a Path,
    certificate_pem: Vec<u8>,
    key_key: String,
    key: &'a Path,
    key_pem: Vec<u8>,
}

impl<'a> Files<'a> {
    fn read(
        name: &'a str,
        (certificate_key, certificate): (String, &'a Path),
        (key_key, key): (String, &'a Path),
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            name,
            certificate_pem: read(&certificate_key, certificate)?,
            certificate_key,
            certificate,
            key_pem: read(&key_key, key)?,
            key_key,
            key,
        })
    }
}

/// Reads and checks the certificates and keys that `tls` names. One of them must cover `host`. Where
/// nothing has changed since `previous`, its configuration goes on, and with it its sessions.
///
/// Whether certificates are valid *now* is for [`Served::flaw`]: what that means depends on what
/// could be served instead.
pub fn load(tls: &Tls, host: &str, previous: Option<&Served>) -> Result<Served, ConfigError> {
    const BOTH: &str = "tls.certificate and tls.key are both needed: set them, or TLS_CERT_FILE and TLS_KEY_FILE, to PEM files (cobrowse-gateway cert makes a pair for development)";
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
        return Err(ConfigError(BOTH.into()));
    };
    let mut files = vec![Files::read(
        DEFAULT,
        ("tls.certificate".into(), certificate),
        ("tls.key".into(), key),
    )?];
    for more in &tls.additional {
        let key_of = |what: &str| format!("tls.additional.{} {what}", more.name);
        files.push(Files::read(
            &more.name,
            (key_of("certificate"), &more.certificate),
            (key_of("key"), &more.key),
        )?);
    }
    let client_ca = tls.client_ca.as_deref();
    let client_ca = client_ca
        .map(|file| read("tls.client_ca", file).map(|pem| (file, pem)))
        .transpose()?;

    let provider = Arc::new(crypto::default_provider());
    let certificates: Box<[Certificate]> = files
        .iter()
        .map(|files| Certificate::read(files, &provider))
        .collect::<Result<_, _>>()?;
    if !certificates.iter().any(|c| c.names.cover(host)) {
        let named: Vec<_> = certificates.iter().map(|c| c.names.shown()).collect();
        return Err(at(
            "tls.certificate",
            certificate,
            format!(
                "its names do not cover {host}, the host of public.base_endpoint; they are: {}",
                named.join("; ")
            ),
        ));
    }
    let facts = files.iter().zip(&certificates).map(|(files, c)| Facts {
        name: files.name.into(),
        not_before: *c.valid.start(),
        not_after: *c.valid.end(),
        names: c.names.shown().into(),
        chain: c.certified.cert.len(),
        self_signed: c.self_signed,
    });
    let facts = facts.collect();
    let digest = digest(
        tls.min_version,
        &files,
        client_ca.as_ref().map(|(_, pem)| &**pem),
    );
    if let Some(same) = previous.filter(|p| p.digest.as_ref() == digest.as_ref()) {
        return Ok(Served {
            config: Arc::clone(&same.config),
            certificates: facts,
            digest,
        });
    }

    let versions: &[_] = match tls.min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let verifier = match &client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some((file, pem)) => client_verifier(file, pem, &provider)?,
    };
    let resolver: Arc<dyn ResolvesServerCert> = match &*certificates {
        [only] => Arc::new(SingleCertAndKey::from(Arc::clone(&only.certified))),
        _ => Arc::new(ByName(certificates)),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|e| ConfigError(format!("tls: {e}")))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    // Our order of cipher suites, not the client's: auditors ask for one, and all of them are strong.
    config.ignore_client_order = true;
    // Nothing may come before the handshake is over: it could be sent twice.
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // `stream` applies the ciphers to records itself.
    config.enable_secret_extraction = true;
    // Tickets carry the session themselves: no table to share between workers or to fill up.
    config.ticketer = crypto::Ticketer::new().map_err(|e| ConfigError(format!("tls: {e}")))?;
    Ok(Served {
        config: Arc::new(config),
        certificates: facts,
        digest,
    })
}

/// Clients must show a certificate that one of these authorities has signed.
fn client_verifier(
    file: &Path,
    pem: &[u8],
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, ConfigError> {
    let roots = authorities("tls.client_ca", file, pem)?;
    WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(provider))
        .build()
        .map_err(|e| at("tls.client_ca", file, e))
}

/// The authorities in `pem`, which stands in `file`; one at least.
fn authorities(key: &str, file: &Path, pem: &[u8]) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(pem) {
        let authority = authority.map_err(|e| at(key, file, e))?;
        roots.add(authority).map_err(|e| at(key, file, e))?;
    }
    if roots.is_empty() {
        return Err(at(key, file, "no certificate in it"));
    }
    Ok(roots)
}

fn digest(version: TlsVersion, files: &[Files<'_>], client_ca: Option<&[u8]>) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(&[u8::from(version == TlsVersion::V1_3)]);
    let pems = files
        .iter()
        .flat_map(|f| [&*f.certificate_pem, &*f.key_pem]);
    for pem in pems.chain(client_ca) {
        context.update(&(pem.len() as u64).to_be_bytes());
        context.update(pem);
    }
    context.finish()
}

fn read(key: &str, file: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(file).map_err(|e| at(key, file, e))
}

fn at(key: &str, file: &Path, how: impl fmt::Display) -> ConfigError {
    ConfigError(format!("{key} = {:?}: {how}", file.display().to_string()))
}
