//! The language of the tests: a [`Gateway`] process, a [`Backend`] that does what it is told, and
//! clients of several kinds.

#![allow(dead_code, reason = "words are there before every test uses them")]

mod backend;
pub mod certificates;
mod client;
pub mod frames;
mod gateway;
pub mod h2_raw;
mod heir;
pub mod load;
pub mod receiver;
pub mod redis;
mod traffic;

use std::time::{Duration, Instant};

#[allow(unused_imports, reason = "named in signatures of helpers to come")]
pub use backend::{Backend, Conn, Received, ok};
#[allow(unused_imports, reason = "named in signatures of helpers to come")]
pub use client::{
    Client, Proto, Raw, Reply, Requested, TlsStreamOf, full, stream, tls, tls_to, websocket,
};
#[allow(unused_imports, reason = "named in signatures of helpers to come")]
pub use gateway::{BINARY, Ended, Folder, Gateway, Setup, certificate};

pub use heir::Heir;
#[allow(unused_imports, reason = "named in signatures of helpers to come")]
pub use traffic::{Figures, Traffic};

/// The key the tests' gateways are given.
pub const KEY: &str = "key-of-the-tests";

/// How long anything may take that should come at once.
pub use crate::PATIENCE;

/// The result of `what`, which must come in time.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("something that should come at once did not come")
}

/// Asks until there is an answer.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until `is_so`.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually(what, || {
        let answer = is_so().then_some(());
        async move { answer }
    })
    .await;
}

/// Where `needle` begins in `hay`.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(hay, needle)
}
