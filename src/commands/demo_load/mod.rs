//! `demo-load`: traffic as it is met in practice, so that a newcomer sees everything move. A few
//! requests a second whatever happens, and only to this host unless told otherwise.

mod link;
mod people;

use std::cell::Cell;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use http::StatusCode;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use self::link::Target;
use super::Wrong;
use crate::config::{Config, ConfigError, Source};
use crate::snapshot::Endpoint;
use crate::tls;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Public URL of the gateway; default: the one of the configuration, asked for on this host.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// For how long, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How many visitors are there at a time.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(0..=200))]
    visitors: u64,
    /// The API's key; none: nobody uses the API with one.
    #[arg(long, env = "REST_KEY", hide_env_values = true)]
    rest_key: Option<String>,
    /// PEM file with the authorities of the gateway's certificate; default: tls.certificate.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Also when the URL's host is not this one. Its visitors are real, and you answer for it.
    #[arg(long)]
    beyond_loopback: bool,
}

/// What everybody shares.
struct Demo {
    target: Target,
    /// The right key.
    key: Option<String>,
    over: CancellationToken,
    tally: Tally,
}

/// What was done so far.
#[derive(Default)]
struct Tally {
    answered: Cell<u64>,
    unauthorized: Cell<u64>,
    limited: Cell<u64>,
    failed: Cell<u64>,
    lost: Cell<u64>,
    sockets: Cell<u64>,
    messages: Cell<u64>,
}

impl Tally {
    fn answer(&self, status: StatusCode) {
        add(&self.answered);
        match status.as_u16() {
            401 => add(&self.unauthorized),
            429 => add(&self.limited),
            500.. => add(&self.failed),
            _ => {}
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        format!(
            "{:4} s  {} requests, of them {} without the right key, {} limited, {} failed; {} lost; {} sockets, {} messages\n",
            elapsed.as_secs(),
            self.answered.get(),
            self.unauthorized.get(),
            self.limited.get(),
            self.failed.get(),
            self.lost.get(),
            self.sockets.get(),
            self.messages.get(),
        )
    }
}

fn add(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

impl Demo {
    /// Waits for a time between the two, in milliseconds; whether there is something to do then.
    async fn goes_on_after(&self, from: u64, to: u64) -> bool {
        tokio::select! {
            () = sleep(Duration::from_millis(fastrand::u64(from..=to))) => true,
            () = self.over.cancelled() => false,
        }
    }
}

pub(super) fn run(
    arguments: &Arguments,
    source: impl FnOnce() -> Result<Source, ConfigError>,
) -> Result<(), Wrong> {
    let config = source()?.read()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(load(arguments, &config))
}

async fn load(arguments: &Arguments, config: &Config) -> Result<(), Wrong> {
    let target = target(arguments, config).await?;
    target.reach().await?;
    let key = arguments.rest_key.clone().filter(|key| !key.is_empty());
    say(&format!(
        "load on {} at {} for {} s; Ctrl-C ends it\n",
        target.url(),
        target.address,
        arguments.seconds
    ));
    if key.is_none() {
        say("REST_KEY is not set: nobody uses the API with a key\n");
    }
    let demo = Rc::new(Demo {
        target,
        key,
        over: CancellationToken::new(),
        tally: Tally::default(),
    });
    let mut people = JoinSet::new();
    people.spawn_local(people::office(Rc::clone(&demo)));
    people.spawn_local(people::guesser(Rc::clone(&demo)));
    people.spawn_local(people::code_hunter(Rc::clone(&demo)));
    people.spawn_local(people::stray(Rc::clone(&demo)));
    for _ in 0..arguments.visitors {
        people.spawn_local(people::visitor(Rc::clone(&demo)));
    }
    let begun = Instant::now();
    let end = begun + Duration::from_secs(arguments.seconds);
    let often = Duration::from_secs(5);
    let mut tick = interval_at(begun + often, often);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            _ = interrupted.as_mut() => break,
            () = tokio::time::sleep_until(end) => break,
            _ = tick.tick() => say(&demo.tally.line(begun.elapsed())),
        }
    }
    demo.over.cancel();
    let leaving = async { while people.join_next().await.is_some() {} };
    // Who has not said goodbye by then is cut off.
    let _: Result<(), tokio::time::error::Elapsed> =
        tokio::time::timeout(Duration::from_secs(5), leaving).await;
    say(&demo.tally.line(begun.elapsed()));
    match demo.tally.answered.get() {
        0 => Err(Wrong("no request was answered".into())),
        _ => Ok(()),
    }
}

/// Progress, for whoever reads it.
fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).ok();
}

/// Where the gateway is, and that it may be loaded.
async fn target(arguments: &Arguments, config: &Config) -> Result<Target, Wrong> {
    let (url, address) = match &arguments.url {
        Some(url) => {
            let endpoint = Endpoint::public(url).map_err(|_expected| {
                Wrong(format!(
                    "--url {url:?}: expected an https URL without query, e.g. https://localhost:8443/cobrowsing"
                ))
            })?;
            let host = endpoint.host.trim_matches(['[', ']']).to_owned();
            let found = tokio::net::lookup_host((host.as_str(), endpoint.port)).await;
            let mut found: Vec<_> = found.map_err(|e| Wrong(format!("{host}: {e}")))?.collect();
            // A gateway often listens on IPv4 alone.
            found.sort_by_key(SocketAddr::is_ipv6);
            let first = found.first().copied();
            let address = first.ok_or_else(|| Wrong(format!("{host} has no address")))?;
            (endpoint, address)
        }
        None => {
            let url = config.public.base_endpoint.as_deref().ok_or_else(|| {
                Wrong("no public.base_endpoint is configured: say --url https://localhost:8443/cobrowsing, or where it is".into())
            })?;
            (Endpoint::public(url)?, here(config.public.listen))
        }
    };
    if !address.ip().is_loopback() && !arguments.beyond_loopback {
        return Err(Wrong(format!(
            "{} ({}) is not this host: load belongs on what nobody else uses; --beyond-loopback if you mean it",
            url.authority,
            address.ip()
        )));
    }
    let Some(file) = arguments.ca.as_ref().or(config.tls.certificate.as_ref()) else {
        return Err(Wrong(
            "no certificate to trust: say --ca FILE, e.g. certs/dev.pem".into(),
        ));
    };
    let pem = std::fs::read(file).map_err(|e| Wrong(format!("{}: {e}", file.display())))?;
    Target::new(
        &url,
        address,
        &config.api.path,
        &tls::trusting("--ca", file, &pem)?,
    )
}

/// Listening everywhere is listening here, too.
fn here(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        // Which of the two it is there depends on the system; this one always is.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
