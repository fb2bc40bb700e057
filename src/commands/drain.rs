//! `drain`: for images without a shell, whose `preStop` hook needs something that sends a signal.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::process::{Pid, Signal, kill_process};

use super::Wrong;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The gateway's process: the first one of a container.
    #[arg(long, default_value_t = 1, value_name = "PID")]
    pid: i32,
}

/// Asks the gateway to drain, and does not wait for its end: a container ends with it.
pub(super) fn ask(arguments: &Arguments) -> Result<(), Wrong> {
    let pid = arguments.pid;
    let process = Pid::from_raw(pid).ok_or_else(|| Wrong("a PID is a positive number".into()))?;
    // In a pod that shares its processes the first one is somebody else's.
    let program = |of: &str| fs::metadata(format!("/proc/{of}/exe")).map(|f| (f.dev(), f.ino()));
    let theirs = program(&pid.to_string())
        .map_err(|e| Wrong(format!("process {pid} cannot be looked at: {e}")))?;
    if theirs != program("self")? {
        return Err(Wrong(format!(
            "process {pid} runs another program: name the gateway's with --pid"
        )));
    }
    Ok(kill_process(process, Signal::TERM)?)
}
