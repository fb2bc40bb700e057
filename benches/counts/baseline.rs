//! What was counted before, and how far a count may be from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};

/// A count further above the baseline than this share of it fails, one further below it is told.
const TOLERANCE: f64 = 0.05;

const HEAD: &str = "\
# Instructions of one request, message, connection or MiB: benches/README.md. Written by
# `BLESS=1 benches/run`; a change of it is a change somebody has looked at.

";

/// `benches/baseline.toml`.
#[derive(Default, Deserialize, Serialize)]
pub struct Baseline {
    /// `rustc --version` of what was counted.
    compiler: String,
    /// `valgrind --version`.
    valgrind: String,
    /// Scenario and instructions.
    counts: BTreeMap<String, u64>,
}

/// By which share of `before` it is more now.
fn change(before: u64, now: u64) -> f64 {
    now as f64 / before as f64 - 1.0
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/baseline.toml")
}

/// What `program --version` says.
fn version(program: &str) -> String {
    let said = Command::new(program).arg("--version").output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

impl Baseline {
    /// The one that is committed; none yet: an empty one.
    pub fn read() -> Self {
        match std::fs::read_to_string(file()) {
            Ok(text) => toml::from_str(&text).unwrap(),
            Err(_) => Self::default(),
        }
    }

    /// Other tools count otherwise, which is nobody's fault.
    pub fn warn_of_other_tools(&self) {
        for (theirs, ours) in [
            (&self.compiler, version("rustc")),
            (&self.valgrind, version("valgrind")),
        ] {
            if *theirs != ours {
                println!("the baseline is of {theirs:?}, this is {ours}: bless what differs");
            }
        }
    }

    /// Whether a count is further above the baseline than it may be.
    pub fn is_exceeded(&self, name: &str, count: u64) -> bool {
        let before = self.counts.get(name);
        before.is_some_and(|before| change(*before, count) > TOLERANCE)
    }

    /// Prints each count next to the baseline's.
    pub fn print(&self, counts: &[(&str, u64)]) {
        println!(
            "{:<28} {:>12} {:>12}",
            "instructions", "baseline", "counted"
        );
        for (name, count) in counts {
            match self.counts.get(*name) {
                Some(before) => println!(
                    "{name:<28} {before:>12} {count:>12} {:>+7.1} %",
                    100.0 * change(*before, *count)
                ),
                None => println!("{name:<28} {:>12} {count:>12}", "none"),
            }
        }
    }

    /// Fails with a count that is too high or is not in the baseline; says which ones are lower.
    pub fn judge(&self, counts: &[(&str, u64)]) -> ExitCode {
        let named = |is_so: &dyn Fn(Option<f64>) -> bool| {
            let changed = |name: &str, count| Some(change(*self.counts.get(name)?, count));
            let named = counts
                .iter()
                .filter(|(name, count)| is_so(changed(name, *count)));
            named.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        };
        let better = named(&|change| change.is_some_and(|change| change < -TOLERANCE));
        let worse = named(&|change| change.is_none_or(|change| change > TOLERANCE));
        if !better.is_empty() {
            println!("fewer than before, bless it: {better}");
        }
        if worse.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!(
            "more than 5 % above the baseline, or not in it: {worse}\n\
             where they are: callgrind_annotate target/tmp/counts/NAME.counted-03; \
             meant and worth it: BLESS=1 benches/run"
        );
        ExitCode::FAILURE
    }

    /// Writes the counts to the baseline; what was not counted stays.
    pub fn bless(mut self, counts: &[(&str, u64)]) {
        self.compiler = version("rustc");
        self.valgrind = version("valgrind");
        let counts = counts.iter().map(|(name, count)| ((*name).into(), *count));
        self.counts.extend(counts);
        let names: Vec<_> = super::scenarios()
            .iter()
            .map(|scenario| scenario.name)
            .collect();
        self.counts.retain(|name, _| names.contains(&&**name));
        let text = toml::to_string(&self).unwrap();
        std::fs::write(file(), format!("{HEAD}{text}")).unwrap();
        println!("blessed: {}", file().display());
    }
}
