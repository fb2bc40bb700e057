//! `alerts`: the Prometheus rules on this binary's metrics.

use clap::Args;

use super::{Wrong, say};

/// A rule file of Prometheus, YAML.
const RULES: &str = include_str!("../../deploy/prometheus/cobrowse-gateway.rules.yaml");

/// Where the sections are that `runbook_url` leads to, in [`RULES`].
const RUNBOOK: &str = "docs/runbook.md";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Where you keep docs/runbook.md: each alert's runbook_url is URL#alert.
    #[arg(long, value_name = "URL")]
    runbook: Option<String>,
}

pub(super) fn print(arguments: &Arguments) -> Result<(), Wrong> {
    let Some(url) = &arguments.runbook else {
        return say(RULES);
    };
    // It becomes a plain scalar of YAML.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:?&=%+@".contains(&b);
    if url.is_empty() || !url.bytes().all(plain) || url.ends_with(':') {
        return Err(Wrong(format!(
            "--runbook {url:?}: expected a URL without fragment, e.g. https://wiki.acmetech.com/gateway/runbook"
        )));
    }
    say(&RULES.replace(
        &format!("runbook_url: {RUNBOOK}#"),
        &format!("runbook_url: {url}#"),
    ))
}
