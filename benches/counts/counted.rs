//! A gateway under callgrind, and what it took for one request.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::scenarios::{Pace, Scenario};
use super::support::Gateway;

/// Instructions for one of what the scenario does: it is done `few` times and three times as often,
/// each with a gateway of its own, and the difference is what only the requests can have taken.
pub async fn each(scenario: &Scenario) -> u64 {
    let few = in_all(scenario, scenario.few).await;
    let many = in_all(scenario, 3 * scenario.few).await;
    (many - few) / (2 * scenario.few as u64)
}

/// Instructions of a gateway that does it `times` times.
async fn in_all(scenario: &Scenario, times: usize) -> u64 {
    let backend = (scenario.backend)();
    let binary = std::env::var("COUNTED_BINARY").unwrap();
    let setup = Gateway::before(&backend)
        .toml("log.access = false\nreload.poll = 'off'")
        .toml(scenario.toml)
        .env("COUNTED_BINARY", &binary);
    let mut gateway = setup.start().await;
    scenario.load.run(&gateway, times, Pace::Calm).await;
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.left().await, Some(0), "{}", scenario.name);
    let files = threads(&gateway.folder.0);
    assert!(files.len() > 1, "callgrind wrote {files:?}");
    keep(scenario.name, &files);
    files.iter().map(|file| total(file)).sum()
}

/// What callgrind wrote of each thread but the main one, which has all that takes time without a
/// request: the start, health, the live page's minutes, the end.
fn threads(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let of_a_thread = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("counted-") && name != "counted-01"
    };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(of_a_thread)
        .collect()
}

/// Instructions of one thread.
fn total(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
    totals.unwrap().trim().parse().unwrap()
}

/// Keeps what `callgrind_annotate` reads.
fn keep(name: &str, files: &[PathBuf]) {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("counts");
    fs::create_dir_all(&kept).unwrap();
    for file in files {
        let thread = file.file_name().unwrap().to_str().unwrap();
        fs::copy(file, kept.join(format!("{name}.{thread}"))).unwrap();
    }
}
