//! The script that judges, and how it is called.

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind};

const SOURCE: &str = include_str!("gcra.lua");
const SETTLE: &str = include_str!("settle.lua");

/// By what the server knows it.
static NAME: LazyLock<String> = LazyLock::new(|| {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, SOURCE.as_bytes());
    super::hex(digest.as_ref())
});

/// A policy as the script takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    /// Microseconds in which a token comes back.
    one: Box<str>,
    burst: u32,
    interval: Duration,
}

impl Quota {
    /// `burst` tokens, of which one comes back every `interval`. Never faster than one a
    /// microsecond: that is what the server's clock can tell.
    pub(super) fn new(interval: Duration, burst: u32) -> Self {
        let nanos = interval.as_nanos().max(1_000);
        let one = format!("{}.{:03}", nanos / 1_000, nanos % 1_000);
        Self {
            one: one.into(),
            burst,
            interval: Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX)),
        }
    }

    /// How long an empty bucket takes to fill; never 0.
    pub(super) fn fills_in(&self) -> Duration {
        self.interval.saturating_mul(self.burst.max(1))
    }
}

/// One bucket that is asked.
pub(super) struct Asked<'a> {
    pub(super) bucket: &'a str,
    pub(super) quota: &'a Quota,
    /// Whether a token is taken when all admit.
    pub(super) takes: bool,
    /// Whether nothing is taken of any when this one refuses.
    pub(super) binds: bool,
}

/// What a bucket said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it has, or had, a token.
    pub admitted: bool,
    /// Tokens left.
    pub left: u32,
    /// Until it has a token; 0 where it admitted.
    pub wait: Duration,
    /// Until it has all of them.
    pub full: Duration,
}

/// Asks the server; one round trip, more when it has lost its scripts. What is returned borrows
/// nothing, so that it can be waited for when whoever asked no longer does.
pub(super) fn call(
    mut connection: MultiplexedConnection,
    asked: &[Asked<'_>],
) -> impl Future<Output = RedisResult<Vec<Verdict>>> + use<> {
    let known = command("EVALSHA", &NAME, asked);
    let buckets = asked.len();
    async move {
        let answer: RedisResult<Vec<i64>> = known.query_async(&mut connection).await;
        let answer = match answer {
            Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let load = redis::cmd("SCRIPT").arg("LOAD").arg(SOURCE).take();
                load.exec_async(&mut connection).await?;
                known.query_async(&mut connection).await?
            }
            other => other?,
        };
        read(&answer, buckets)
    }
}

/// Takes of each bucket so many more tokens, or gives them back where that is below 0.
pub(super) async fn settle(
    connection: &mut MultiplexedConnection,
    missing: &[(Box<str>, Quota, i32)],
) -> RedisResult<()> {
    let mut command = redis::cmd("EVAL");
    command.arg(SETTLE).arg(missing.len());
    for (bucket, ..) in missing {
        command.arg(&**bucket);
    }
    for (_, quota, missing) in missing {
        command.arg(&*quota.one).arg(quota.burst).arg(*missing);
    }
    command.exec_async(connection).await
}

fn command(how: &str, script: &str, asked: &[Asked<'_>]) -> Cmd {
    let bytes: usize = asked.iter().map(|a| a.bucket.len() + 32).sum();
    let mut command = Cmd::with_capacity(3 + 5 * asked.len(), script.len() + 32 + bytes);
    command.arg(how).arg(script).arg(asked.len());
    for asked in asked {
        command.arg(asked.bucket);
    }
    for asked in asked {
        let (quota, flag) = (asked.quota, |on| if on { "1" } else { "0" });
        command.arg(&*quota.one).arg(quota.burst);
        command.arg(flag(asked.takes)).arg(flag(asked.binds));
    }
    command
}

fn read(answer: &[i64], asked: usize) -> RedisResult<Vec<Verdict>> {
    let (verdicts, []) = answer.as_chunks() else {
        return Err(strange());
    };
    if verdicts.len() != asked {
        return Err(strange());
    }
    let micros = |n: i64| Duration::from_micros(n.try_into().unwrap_or_default());
    let verdict = |&[admitted, left, wait, full]: &[i64; 4]| Verdict {
        admitted: admitted == 1,
        left: left.clamp(0, u32::MAX.into()) as u32,
        wait: micros(wait),
        full: micros(full),
    };
    Ok(verdicts.iter().map(verdict).collect())
}

fn strange() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "not the script's answer").into()
}
