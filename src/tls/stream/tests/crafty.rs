//! A client of TLS that can say anything, and one of rustls'.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundPlainMessage,
};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{
    CipherSuite, ClientConfig, ContentType, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedCipherSuite,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::stream::records::{self, HEADER};
use crate::tls::stream::{ClientStream, accept};

pub(super) const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
pub(super) const KEY_UPDATE_ASKED: [u8; 5] = [24, 0, 0, 1, 1];

/// Both sides' configuration with this cipher suite alone.
pub(super) fn configurations(suite: CipherSuite) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|s| s.suite() == suite);
    let provider: Arc<CryptoProvider> = provider.into();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    server.enable_secret_extraction = true;
    server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    (server.into(), client.into())
}

pub(super) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let (client, server) = (client.unwrap(), accepted.unwrap().0);
    client.set_nodelay(true).unwrap();
    (client, server)
}

pub(super) fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// A stream, and its client by rustls.
pub(crate) async fn connected(suite: CipherSuite) -> (ClientStream, TlsStream<TcpStream>) {
    let (ours, theirs) = configurations(suite);
    let (client, server) = sockets().await;
    let connector = TlsConnector::from(theirs);
    let (client, server) =
        tokio::join!(connector.connect(localhost(), client), accept(server, ours));
    (server.unwrap(), client.unwrap())
}

/// A client that can say anything.
pub(super) struct Crafty {
    pub(super) socket: TcpStream,
    pub(super) suite: SupportedCipherSuite,
    pub(super) sealing: (Box<dyn MessageEncrypter>, u64),
    pub(super) opening: (Box<dyn MessageDecrypter>, u64),
    pub(super) schedule: KernelConnection<ClientConnectionData>,
    pub(super) came: Vec<u8>,
    /// The last flight of its handshake, to be sent.
    pub(super) flight: Vec<u8>,
}

impl Crafty {
    pub(super) async fn shake(mut socket: TcpStream, config: Arc<ClientConfig>) -> Self {
        let mut session = UnbufferedClientConnection::new(config, localhost()).unwrap();
        let (mut came, mut flight) = (Vec::new(), Vec::new());
        loop {
            let (mut waits, mut speaks, mut done) = (false, false, false);
            let UnbufferedStatus { discard, state } = session.process_tls_records(&mut came);
            match state.unwrap() {
                ConnectionState::EncodeTlsData(mut message) => {
                    let mut out = vec![0; 8192];
                    let n = message.encode(&mut out).unwrap();
                    flight.extend_from_slice(&out[..n]);
                }
                ConnectionState::TransmitTlsData(mut message) => {
                    speaks = message.may_encrypt_app_data().is_none();
                    message.done();
                }
                ConnectionState::BlockedHandshake => waits = true,
                ConnectionState::WriteTraffic(_) => done = true,
                other => panic!("{other:?}"),
            }
            came.drain(..discard);
            if speaks {
                socket.write_all(&flight).await.unwrap();
                flight.clear();
            }
            if waits {
                assert!(socket.read_buf(&mut came).await.unwrap() > 0);
            }
            if done {
                break;
            }
        }
        let (secrets, schedule) = session.dangerous_into_kernel_connection().unwrap();
        let suite = schedule.negotiated_cipher_suite();
        Self {
            socket,
            suite,
            sealing: records::sealing(suite, secrets.tx).unwrap(),
            opening: records::opening(suite, secrets.rx).unwrap(),
            schedule,
            came,
            flight,
        }
    }

    /// What it says as a record.
    pub(super) fn record(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let message = OutboundPlainMessage {
            typ,
            version: ProtocolVersion::TLSv1_2,
            payload: payload.into(),
        };
        let record = self.sealing.0.encrypt(message, self.sealing.1).unwrap();
        self.sealing.1 += 1;
        record.encode()
    }

    pub(super) async fn say(&mut self, typ: ContentType, payload: &[u8]) {
        let record = self.record(typ, payload);
        self.socket.write_all(&record).await.unwrap();
    }

    pub(super) async fn renew(&mut self, word: [u8; 5]) {
        self.say(ContentType::Handshake, &word).await;
        let secrets = self.schedule.update_tx_secret().unwrap();
        self.sealing = records::sealing(self.suite, secrets).unwrap();
    }

    /// What it hears next; `None`: the end of the connection.
    pub(super) async fn hear(&mut self) -> Option<(ContentType, Vec<u8>)> {
        let length = loop {
            match records::length(&self.came).unwrap() {
                Some(length) if length <= self.came.len() => break length,
                _ => {}
            }
            // A socket that was closed with something unread is reset.
            if !matches!(self.socket.read_buf(&mut self.came).await, Ok(1..)) {
                return None;
            }
        };
        let mut record: Vec<u8> = self.came.drain(..length).collect();
        let kind = ContentType::from(record[0]);
        let sealed = &mut record[HEADER..];
        let message = InboundOpaqueMessage::new(kind, ProtocolVersion::TLSv1_2, sealed);
        let plain = self.opening.0.decrypt(message, self.opening.1).unwrap();
        self.opening.1 += 1;
        let heard = (plain.typ, plain.payload.to_vec());
        if heard == (ContentType::Handshake, KEY_UPDATE.to_vec()) {
            let secrets = self.schedule.update_rx_secret().unwrap();
            self.opening = records::opening(self.suite, secrets).unwrap();
        }
        Some(heard)
    }

    /// As [`Self::hear`], past tickets.
    pub(super) async fn hear_more(&mut self) -> Option<(ContentType, Vec<u8>)> {
        loop {
            match self.hear().await {
                Some((ContentType::Handshake, message)) if message[0] == 4 => {}
                heard => return heard,
            }
        }
    }
}

/// A stream and a client that has sent the last flight of its handshake, and with it what `more` gives.
pub(super) async fn shaken(
    suite: CipherSuite,
    more: impl AsyncFnOnce(&mut Crafty),
) -> (ClientStream, Crafty) {
    let (ours, theirs) = configurations(suite);
    let (client, server) = sockets().await;
    let shaking = async {
        let mut client = Crafty::shake(client, theirs).await;
        more(&mut client).await;
        let flight = std::mem::take(&mut client.flight);
        client.socket.write_all(&flight).await.unwrap();
        client
    };
    let (server, client) = tokio::join!(accept(server, ours), shaking);
    (server.unwrap(), client)
}

pub(super) async fn pair(suite: CipherSuite) -> (ClientStream, Crafty) {
    shaken(suite, async |_: &mut Crafty| {}).await
}
