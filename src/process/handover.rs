//! The upgrade of the binary while it runs: this process starts the one that is at its own path now,
//! gives it every listening socket, and leaves when the new one is ready.
//!
//! The sockets are the very same open files, so that no connection in their queues is lost. The new
//! process gets them through its standard input, inherits nothing else, and accepts nothing before
//! this one says so: until then it can be ended without anybody noticing.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::channel::{self, AsyncChannel, Channel};
use super::sockets::Listening;
use crate::telemetry::manager;

/// How this process was started.
#[derive(Clone, Debug)]
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// To be asked before the file can have been replaced: then the system no longer knows its name.
    pub(super) fn of_process() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let name = PathBuf::from(arguments.next().unwrap_or_default());
        let itself = std::env::current_exe()?;
        Ok(Self {
            // The name it was called by, for that may be a link that will lead elsewhere.
            path: called(&name, &itself).unwrap_or(itself),
            arguments: arguments.collect(),
        })
    }
}

/// The path that `name` stands for, where that leads to `itself`.
fn called(name: &Path, itself: &Path) -> Option<PathBuf> {
    let candidates = if name.components().count() > 1 {
        vec![std::path::absolute(name).ok()?]
    } else {
        let folders = std::env::var_os("PATH")?;
        std::env::split_paths(&folders)
            .map(|folder| folder.join(name))
            .collect()
    };
    let itself = itself.canonicalize().ok()?;
    candidates
        .into_iter()
        .find(|path| path.canonicalize().is_ok_and(|path| path == itself))
}

/// A started process that is ended again unless it was trusted with everything.
struct Successor {
    child: Child,
    trusted: bool,
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.trusted {
            // It has accepted nothing. That it ended already is no error; the runtime reaps it.
            let _: io::Result<()> = self.child.start_kill();
        }
    }
}

/// Starts the program, hands over `sockets` and resolves when the new process serves. Dropped
/// before, it ends that again.
///
/// # Errors
///
/// Why there is no new process, in its own words where it said something. Nothing has changed then.
pub(super) async fn hand_over(
    program: &Program,
    sockets: &Listening,
    patience: Duration,
) -> Result<(), String> {
    let begun = Instant::now();
    if std::process::id() == 1 {
        return Err(
            "the first process of a container cannot be replaced: its end is the container's"
                .into(),
        );
    }
    let told = |e| format!("cannot hand over the sockets: {e}");
    let (ours, theirs) = Channel::pair().map_err(told)?;
    let channel = ours.into_async().map_err(told)?;
    let mut successor = start(program, theirs)?;
    let pid = successor.child.id().unwrap_or_default();
    tracing::info!(pid, program = %program.path.display(), "a new process is to take over");

    let mut waits_for = None;
    let readiness = async {
        match give(&channel, sockets) {
            // It ended already: what it said of it is still to be read.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
            given => given.map_err(told)?,
        }
        loop {
            match channel.next().await.map_err(told)? {
                Some(message) => match &*message.word {
                    channel::READY => return Ok(()),
                    channel::FAILED => return Err(format!("it failed: {}", message.rest)),
                    channel::WAITING => waits_for = Some(message.rest),
                    _ => {}
                },
                None => return Err(String::new()),
            }
        }
    };
    match tokio::time::timeout_at(begun + patience, readiness).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => {
            let ended = tokio::time::timeout(Duration::from_secs(1), successor.child.wait()).await;
            return Err(match ended {
                _ if !why.is_empty() => why,
                Ok(Ok(status)) => format!("it ended before it was ready: {status}"),
                Ok(Err(_)) | Err(_) => "it closed its standard input".into(),
            });
        }
        Err(_) => {
            let why = waits_for.map(|why| format!(": {why}")).unwrap_or_default();
            return Err(format!("it was not ready in {patience:?}{why}"));
        }
    }
    // First the service manager: it hears the new process only once that is the main one.
    manager::main_process(pid);
    if let Err(e) = channel.say(channel::GO, "", &[]) {
        manager::main_process(std::process::id());
        return Err(told(e));
    }
    successor.trusted = true;
    tracing::info!(
        pid,
        took_ms = begun.elapsed().as_millis() as u64,
        "handed over"
    );
    Ok(())
}

fn start(program: &Program, channel: Channel) -> Result<Successor, String> {
    let child = Command::new(&program.path)
        .args(&program.arguments)
        .env(channel::VARIABLE, channel::VERSION)
        // Of this process alone.
        .env_remove("LISTEN_FDNAMES")
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::from(channel.0))
        .spawn()
        .map_err(|e| format!("{}: {e}", program.path.display()))?;
    Ok(Successor {
        child,
        trusted: false,
    })
}

fn give(channel: &AsyncChannel, sockets: &Listening) -> io::Result<()> {
    for some in sockets.all().chunks(channel::AT_ONCE) {
        let names: Vec<_> = some.iter().map(|(purpose, _)| purpose.as_str()).collect();
        let sockets: Vec<&TcpListener> = some.iter().map(|(_, socket)| *socket).collect();
        channel.say(channel::SOCKETS, &names.join(" "), &sockets)?;
    }
    channel.say(channel::ALL, "", &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_led_to_the_program_is_the_path_that_is_started_again() {
        let folder = std::env::temp_dir().join(format!("called-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (program, link, other) = (folder.join("v1"), folder.join("link"), folder.join("x"));
        std::fs::write(&program, "").unwrap();
        std::fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&program, &link).unwrap();
        assert_eq!(called(&link, &program), Some(link));
        assert_eq!(called(&program, &program), Some(program.clone()));
        // A name that is not the program's own, as of `exec -a`.
        assert_eq!(called(&other, &program), None);
        assert_eq!(called(Path::new("no-such-program"), &program), None);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
