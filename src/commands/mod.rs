//! The commands: what each takes, and which file does it.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "commands speak to the person who typed them"
)]

mod alerts;
mod cert;
mod check;
mod completions;
mod config;
mod dashboards;
#[cfg(feature = "visitor")]
mod demo_load;
mod doctor;
mod drain;
mod explain;
mod healthcheck;
mod man;
mod run;
#[cfg(feature = "visitor")]
mod visitor;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Source;

/// TLS, key, limit and base-path gateway in front of an on-premise cobrowsing service.
///
/// Without a command it runs the gateway. The service's own environment names work as they are:
/// BASE_ENDPOINT, REST_KEY (or REST_KEY_FILE); plus UPSTREAM_URL, TLS_CERT_FILE, TLS_KEY_FILE, and
/// every key of the file as GATEWAY__SECTION__KEY.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// Configuration file; without it ./gateway.toml if it is there, else defaults and environment.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway (the default).
    Run,
    /// Read the configuration and the files it names, and say what is wrong.
    Check,
    /// Show the configuration in force, its schema, or what a reload would change.
    Config(config::Arguments),
    /// Make a self-signed certificate for development.
    Cert(cert::Arguments),
    /// Ask the local gateway whether it is ready; exit code 0 or 1.
    Healthcheck,
    /// Ask the gateway of this container to drain (SIGTERM): for `preStop` hooks without a shell.
    Drain(drain::Arguments),
    /// Say what would become of a request, by the code that judges requests; nothing is sent.
    Explain(explain::Arguments),
    /// Look at what surrounds the gateway (backend, certificate, names, limits, file watching) and
    /// say what to change; exit code 0, or 1 where something does not work.
    Doctor(doctor::Arguments),
    /// Print the Grafana dashboard of this gateway's metrics.
    Dashboards,
    /// Print the Prometheus alerts on this gateway's metrics.
    Alerts(alerts::Arguments),
    /// Print what a shell can complete.
    Completions(completions::Arguments),
    /// Print the manual page.
    Man(man::Arguments),
    /// Run the built-in visitor backend by itself.
    #[cfg(feature = "visitor")]
    Visitor(visitor::Arguments),
    /// Send a running gateway traffic as it is met in practice, so that everything moves.
    #[cfg(feature = "visitor")]
    DemoLoad(demo_load::Arguments),
}

/// Does what the process was asked for. Exit codes: 0 done or drained, 1 configuration or start
/// failed, 2 wrong usage.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let source = || Source::of_process(cli.config.as_deref());
    let done = match &cli.command {
        None | Some(Command::Run) => run::run(source),
        Some(Command::Check) => check::check(source),
        Some(Command::Config(arguments)) => config::config(arguments, source),
        Some(Command::Explain(arguments)) => explain::explain(arguments, source),
        Some(Command::Doctor(arguments)) => doctor::look(arguments, source),
        Some(Command::Dashboards) => dashboards::print(),
        Some(Command::Alerts(arguments)) => alerts::print(arguments),
        Some(Command::Completions(arguments)) => completions::print(arguments),
        Some(Command::Man(arguments)) => man::print(arguments),
        Some(Command::Cert(arguments)) => cert::make(arguments),
        Some(Command::Healthcheck) => healthcheck::ask(source),
        Some(Command::Drain(arguments)) => drain::ask(arguments),
        #[cfg(feature = "visitor")]
        Some(Command::Visitor(arguments)) => visitor::run(arguments),
        #[cfg(feature = "visitor")]
        Some(Command::DemoLoad(arguments)) => demo_load::run(arguments, source),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Wrong(what)) => {
            for line in what.lines() {
                eprintln!("cobrowse-gateway: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output. Who reads it may stop reading when he has seen enough.
fn say(text: &str) -> Result<(), Wrong> {
    use std::io::{ErrorKind, Write};
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Why a command failed, as it is said.
struct Wrong(String);

impl<E: Display> From<E> for Wrong {
    fn from(e: E) -> Self {
        Self(e.to_string())
    }
}
