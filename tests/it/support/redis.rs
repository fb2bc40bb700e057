//! A Redis of the test's own, from the Debian package.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Folder, eventually};

/// A running server; dropping it ends it.
pub struct Redis {
    child: Option<Child>,
    pub port: u16,
    arguments: Vec<String>,
    pub folder: Folder,
    /// For `redis-cli`.
    password: Option<String>,
}

pub fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

impl Redis {
    /// One that keeps nothing on disk.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With more arguments.
    pub async fn with(more: &[&str]) -> Self {
        let mut redis = Self::not_yet(more);
        redis.begin().await;
        redis
    }

    /// A port on which there will be one.
    pub fn not_yet(more: &[&str]) -> Self {
        let arguments: Vec<String> = more.iter().map(ToString::to_string).collect();
        let password = arguments.iter().position(|a| a == "--requirepass");
        Self {
            child: None,
            port: free_port(),
            password: password.map(|at| arguments[at + 1].clone()),
            arguments,
            folder: Folder::new(),
        }
    }

    /// Starts it, or starts it again, on its port.
    pub async fn begin(&mut self) {
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--enable-debug-command", "yes"])
            .args(&self.arguments);
        self.run(command).await;
    }

    /// Starts it as a sentinel that `file` describes.
    pub async fn begin_as_sentinel(&mut self, file: &Path) {
        let mut command = Command::new("redis-server");
        command.arg(file).arg("--sentinel");
        self.run(command).await;
    }

    async fn run(&mut self, mut command: Command) {
        let command = command.current_dir(&self.folder.0).stdout(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server is installed"));
        eventually("redis accepts", async || {
            TcpStream::connect(("127.0.0.1", self.port))
                .is_ok()
                .then_some(())
        })
        .await;
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// What `redis-cli` says to a command.
    pub fn say(&self, command: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &self.port.to_string()]).args(command);
        if let Some(password) = &self.password {
            cli.env("REDISCLI_AUTH", password);
        }
        let output = cli.output().expect("redis-cli is installed");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// How often a command was called.
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.say(&["info", "commandstats"]);
        let line = format!("cmdstat_{command}:calls=");
        let count = stats.lines().find_map(|l| l.strip_prefix(&line));
        count.map_or(0, |n| n.split(',').next().unwrap().parse().unwrap())
    }

    /// `redis://…`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
