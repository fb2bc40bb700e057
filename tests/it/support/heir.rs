//! A process that took over from a gateway, and is nobody's child any more when that has ended.

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, test_kill_process, waitpid,
};
use serde_json::Value;

use super::{Gateway, eventually, until};

/// It is ended with the test.
pub struct Heir {
    pid: Pid,
    ended: bool,
}

impl Heir {
    /// The process that takes over from that of `gateway` when `asked` to, or from the heir that was
    /// asked. Waits until it serves.
    pub async fn of(gateway: &Gateway, asked: impl FnOnce(Signal)) -> Self {
        // Whoever outlives its parent becomes a child of the tests: they hear its exit code.
        set_child_subreaper(Some(getpid())).unwrap();
        let before = gateway.events("handed over").len();
        let served = gateway.events("started").len();
        asked(Signal::USR2);
        until("a hand-over", || {
            gateway.events("handed over").len() > before
        })
        .await;
        until("the heir serves", || {
            gateway.events("started").len() > served
        })
        .await;
        let told = &gateway.events("handed over")[before];
        Self {
            pid: pid(told),
            ended: false,
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Waits for its end: the exit code.
    pub async fn left(&mut self) -> Option<i32> {
        let pid = self.pid;
        let status = eventually("the end of the heir", async || {
            // Not a child of the tests before its own parent has ended.
            waitpid(Some(pid), WaitOptions::NOHANG).ok().flatten()
        })
        .await;
        self.ended = true;
        status.1.exit_status()
    }

    /// Waits until it is gone, whether its parent hears the exit code or the tests do.
    pub async fn gone(&mut self) {
        let pid = self.pid;
        until("the heir is gone", || {
            let ended = waitpid(Some(pid), WaitOptions::NOHANG);
            matches!(ended, Ok(Some(_))) || test_kill_process(pid).is_err()
        })
        .await;
        self.ended = true;
    }

    /// SIGTERM, and its end.
    pub async fn stop(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.left().await
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        if !self.ended {
            kill_process(self.pid, Signal::KILL).ok();
            waitpid(Some(self.pid), WaitOptions::empty()).ok();
        }
    }
}

/// The process that a log line is about.
fn pid(line: &Value) -> Pid {
    let pid = line["pid"].as_i64().unwrap();
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}
