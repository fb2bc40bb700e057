//! Whatever stands where a PROXY header should: an address, nothing or an error, and of what follows
//! a header not a byte is taken.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use cobrowse_gateway::downstream::proxy;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<(Runtime, TcpListener)> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a listener");
    (runtime, listener)
});

/// Marks what a client would send after the header.
const AFTER: &[u8] = b"\x16\x03\x01-after-";

fuzz_target!(|bytes: &[u8]| {
    let (runtime, listener) = &*RUNTIME;
    runtime.block_on(async {
        let address = listener.local_addr().expect("an address");
        let mut near = TcpStream::connect(address).await.expect("a connection");
        let (mut far, _) = listener.accept().await.expect("a connection");
        near.write_all(&[bytes, AFTER].concat()).await.expect("sent");
        near.shutdown().await.expect("sent");
        let read = tokio::time::timeout(Duration::from_secs(2), proxy::header(&mut far)).await;
        if read.expect("no waiting for what does not come").is_ok() {
            let mut rest = Vec::new();
            far.read_to_end(&mut rest).await.expect("read");
            assert!(rest.ends_with(AFTER) || AFTER.ends_with(&rest));
        }
        // No waiting for the port.
        drop(near.set_zero_linger());
    });
});
