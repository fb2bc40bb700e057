//! A load to learn from, for a build that is guided by what is done most: `deploy/pgo`.

use std::path::Path;

use futures_util::future::join_all;
use rustix::process::Signal;

use super::scenarios::{Pace, Scenario};
use super::support::Gateway;

/// Clients of one gateway at a time.
const CLIENTS: usize = 8;

/// How many times as much each of them does as in a count.
const AS_MUCH: usize = 4;

/// Puts the gateway of `MEASURED_BINARY`, which has the log of requests on as it is by default, under the
/// scenario's load; it writes what it did into `folder` when it ends.
pub async fn by(scenario: &Scenario, folder: &Path) {
    let backend = (scenario.backend)();
    let file = folder.join(format!("{}.profraw", scenario.name));
    let mut gateway = Gateway::before(&backend)
        .toml(scenario.toml)
        .env("LLVM_PROFILE_FILE", file.to_str().unwrap())
        .start()
        .await;
    let load = (0..CLIENTS).map(|_| {
        scenario
            .load
            .run(&gateway, AS_MUCH * scenario.few, Pace::AtOnce)
    });
    join_all(load).await;
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.left().await, Some(0), "{}", scenario.name);
    let written = std::fs::metadata(&file).map(|file| file.len());
    assert!(
        written.is_ok_and(|size| size > 0),
        "{} was not written",
        file.display()
    );
}
