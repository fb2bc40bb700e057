//! Instructions of the request's way, counted by callgrind in the real program and held against
//! `benches/baseline.toml`. `benches/run` builds what is counted and starts this.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::large_futures,
    unreachable_pub,
    reason = "what goes wrong here ends the run; its figures are its output"
)]

/// How long anything may take that should come at once: callgrind makes it fifty times slower.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

mod baseline;
mod counted;
mod gathered;
mod scenarios;
#[allow(
    unused_imports,
    reason = "the language of the tests has more words than are needed here"
)]
#[path = "../../tests/it/support/mod.rs"]
mod support;
mod trained;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use baseline::Baseline;
use scenarios::{Scenario, scenarios};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [train, folder, ..] = &*arguments
        && train == "--train"
    {
        each_of(&scenarios(), |scenario| {
            trained::by(scenario, folder.as_ref())
        });
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("COUNTED_BINARY").is_none() {
        eprintln!("benches/run builds what is counted, and starts this");
        return ExitCode::from(2);
    }
    let words: Vec<_> = arguments
        .into_iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(&**word));
    let wanted: Vec<_> = scenarios()
        .into_iter()
        .filter(|scenario| wanted(scenario.name))
        .collect();
    let baseline = Baseline::read();
    let mut counts = all(&wanted);
    // A wake-up more is chance, which only ever adds: what is too high is counted once more.
    let high = |name: &str| {
        counts
            .iter()
            .any(|(n, count)| *n == name && baseline.is_exceeded(name, *count))
    };
    let again: Vec<_> = wanted
        .into_iter()
        .filter(|scenario| high(scenario.name))
        .collect();
    for (name, count) in all(&again) {
        let before = counts.iter_mut().find(|(n, _)| *n == name).unwrap();
        before.1 = before.1.min(count);
    }

    baseline.warn_of_other_tools();
    baseline.print(&counts);
    if std::env::var_os("BLESS").is_some() {
        baseline.bless(&counts);
        return ExitCode::SUCCESS;
    }
    baseline.judge(&counts)
}

/// The count of each scenario.
fn all(wanted: &[Scenario]) -> Vec<(&'static str, u64)> {
    let counts = Mutex::new(Vec::new());
    each_of(wanted, async |scenario| {
        let count = counted::each(scenario).await;
        counts.lock().unwrap().push((scenario.name, count));
    });
    let mut counts = counts.into_inner().unwrap();
    counts.sort_by_key(|(name, _)| wanted.iter().position(|scenario| scenario.name == *name));
    counts
}

/// Does something with each scenario, with two of them at a time.
fn each_of<'s, F: Future<Output = ()>>(
    scenarios: &'s [Scenario],
    work: impl Fn(&'s Scenario) -> F + Sync,
) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build();
                    runtime.unwrap().block_on(work(scenario));
                }
            });
        }
    });
}
