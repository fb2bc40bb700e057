//! Whatever stands where a TLS handshake should: an error, and never a connection.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cobrowse_gateway::tls;
use libfuzzer_sys::fuzz_target;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<(Runtime, TcpListener)> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a listener");
    (runtime, listener)
});

static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("a pair");
    config.enable_secret_extraction = true;
    config.into()
});

fuzz_target!(|bytes: &[u8]| {
    let (runtime, listener) = &*RUNTIME;
    runtime.block_on(async {
        let address = listener.local_addr().expect("an address");
        let mut near = TcpStream::connect(address).await.expect("a connection");
        let (far, _) = listener.accept().await.expect("a connection");
        near.write_all(bytes).await.expect("sent");
        near.shutdown().await.expect("sent");
        let shaken = tokio::time::timeout(Duration::from_secs(2), tls::accept(far, CONFIG.clone()));
        assert!(shaken.await.expect("no waiting for what does not come").is_err());
        // No waiting for the port.
        drop(near.set_zero_linger());
    });
});
