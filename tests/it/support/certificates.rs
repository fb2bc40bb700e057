//! Certificates made for a test, and which one is served.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::client::TlsStreamOf;
use super::{Gateway, within};

/// A certificate and its key, PEM and DER.
#[derive(Clone)]
pub struct Made {
    pub pem: String,
    pub key: String,
    pub der: Vec<u8>,
}

/// A self-signed certificate for these names; `change` may make it odd.
pub fn made_with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Made {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    Made {
        pem: made.pem(),
        key: key.serialize_pem(),
        der: made.der().to_vec(),
    }
}

/// A self-signed certificate for these names.
pub fn made(names: &[&str]) -> Made {
    made_with(names, |_| {})
}

/// An authority of its own.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        Self {
            pem: made.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate it has signed.
    pub fn signs(&self, names: &[&str]) -> Made {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        Made {
            pem: made.pem(),
            key: key.serialize_pem(),
            der: made.der().to_vec(),
        }
    }
}

/// Takes any certificate: who is served which is what is looked at.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A client that takes any certificate and shows `own`, if there is one.
pub fn careless(own: Option<&Made>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any));
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let chain = vec![CertificateDer::from_pem_slice(own.pem.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// A connection of such a client, that asks for `name`.
pub async fn connect_as(
    gateway: &Gateway,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStreamOf> {
    connect_at(gateway.listen, name, config).await
}

/// As [`connect_as`], to an address.
pub async fn connect_at(
    address: std::net::SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStreamOf> {
    within(async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(config).connect(name, stream).await
    })
    .await
}

/// The certificate that is served to who asks for `name`, DER.
pub async fn served(gateway: &Gateway, name: &str) -> Vec<u8> {
    let stream = connect_as(gateway, name, careless(None)).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Whether a connection is one that the gateway goes on with: a refused client certificate is told
/// after the client's side of the handshake (TLS 1.3).
pub async fn is_admitted(gateway: &Gateway, config: Arc<ClientConfig>) -> bool {
    let Ok(mut stream) = connect_as(gateway, "localhost", config).await else {
        return false;
    };
    use tokio::io::AsyncWriteExt;
    let request = b"GET /cobrowsing/x HTTP/1.1\r\nhost: localhost\r\n\r\n";
    if stream.write_all(request).await.is_err() {
        return false;
    }
    let mut begin = [0; 12];
    let read = within(stream.read_exact(&mut begin)).await;
    read.is_ok() && &begin == b"HTTP/1.1 200"
}
