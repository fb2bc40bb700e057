//! The gateway's process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Backend, KEY, PATIENCE, Reply, eventually, within};

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_cobrowse-gateway");

/// The run's certificate for `localhost`, and its key, as PEM.
pub fn certificate() -> &'static (String, String) {
    static MADE: OnceLock<(String, String)> = OnceLock::new();
    MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()]);
        let made = made.unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    })
}

/// A folder of its own, gone with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "it-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The run's certificate and key.
    pub fn with_certificate(self) -> Self {
        let (certificate, key) = certificate();
        self.write("cert.pem", certificate);
        self.write("cert.key", key);
        self
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// What a gateway is started with.
#[derive(Clone)]
pub struct Setup {
    table: toml::Table,
    environment: Vec<(String, String)>,
    files: Vec<(String, String)>,
    ready: bool,
    visitors: bool,
    /// Runs a copy of the binary in its folder.
    copied: bool,
    /// Sockets it is handed as a service manager does, by name.
    handed: Vec<(String, Arc<OwnedFd>)>,
}

impl Setup {
    /// More of the configuration file: merged into what is there.
    pub fn toml(mut self, text: &str) -> Self {
        merge(&mut self.table, toml::from_str(text).expect(text));
        self
    }

    /// One more environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// One more file beside the configuration file.
    pub fn beside(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.into(), text.into()));
        self
    }

    /// The public URL, `https://localhost/…`.
    pub fn base_endpoint(self, url: &str) -> Self {
        self.toml(&format!("public.base_endpoint = {url:?}"))
    }

    /// Where the backend's tree begins.
    pub fn base_path(self, path: &str) -> Self {
        self.toml(&format!("upstream.base_path = {path:?}"))
    }

    /// No key: the API is closed.
    pub fn without_key(mut self) -> Self {
        self.environment.retain(|(name, _)| name != "REST_KEY");
        self
    }

    /// The limits that the gateway has without any in its file.
    pub fn with_default_limits(mut self) -> Self {
        self.table.remove("rate_limit");
        self
    }

    /// Do not wait until it is ready, only until it has started.
    pub fn unready(mut self) -> Self {
        self.ready = false;
        self
    }

    /// Runs a copy of the binary, [`Gateway::program`], that a test may replace.
    pub fn copied(mut self) -> Self {
        self.copied = true;
        self
    }

    /// Hands it a socket as `systemd.socket(5)` does.
    pub fn handed(mut self, name: &str, socket: impl Into<OwnedFd>) -> Self {
        self.handed.push((name.into(), Arc::new(socket.into())));
        self
    }

    /// The command that starts it in `folder`.
    fn command(&self, folder: &Folder) -> Command {
        // Measurements are of another build.
        let measured = std::env::var_os("MEASURED_BINARY");
        let mut program = measured.map_or_else(|| PathBuf::from(BINARY), PathBuf::from);
        if self.copied {
            program = folder.0.join("gateway");
            std::fs::hard_link(BINARY, &program).unwrap();
        }
        let mut command = if self.handed.is_empty() {
            Command::new(program)
        } else {
            // LISTEN_PID is known to the process alone.
            let mut command = Command::new("/bin/sh");
            command
                .args(["-c", "export LISTEN_PID=$$; exec \"$@\"", "sh"])
                .arg(program);
            command
        };
        let file = folder.write("gateway.toml", self.file());
        command
            .args(["run", "--config"])
            .arg(file)
            .current_dir(&folder.0)
            .env_clear()
            .envs(self.environment.iter().cloned());
        if !self.handed.is_empty() {
            let names: Vec<_> = self.handed.iter().map(|(name, _)| name.as_str()).collect();
            let sockets = self.handed.iter().zip(3..);
            let mapped = sockets.map(|((_, socket), child_fd)| FdMapping {
                parent_fd: socket.try_clone().unwrap(),
                child_fd,
            });
            command
                .env("LISTEN_FDS", names.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"))
                .fd_mappings(mapped.collect())
                .unwrap();
        }
        command
    }

    /// The file as it will be written.
    pub fn file(&self) -> String {
        toml::to_string(&self.table).unwrap()
    }

    /// Starts it.
    pub async fn start(mut self) -> Gateway {
        for _ in 0..3 {
            if self.visitors {
                self = self.on_a_free_port();
            }
            match Gateway::try_start(&self).await {
                Ok(gateway) => return gateway,
                // Somebody else took the port meanwhile.
                Err(why) if self.visitors && why.contains("visitor.listen") => {}
                Err(why) => panic!("the gateway did not start: {why}"),
            }
        }
        panic!("no port for the built-in backend");
    }

    fn on_a_free_port(self) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = free.local_addr().unwrap().to_string();
        self.toml(&format!("visitor.listen = {at:?}"))
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// A running gateway; dropping it ends it.
pub struct Gateway {
    child: Child,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    errors: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    pub folder: Folder,
}

/// While this is there nobody reads a gateway's log.
pub struct Unread<'g>(MutexGuard<'g, Vec<String>>);

/// What was left of a gateway.
pub struct Ended {
    /// Exit code; none: ended by a signal.
    pub code: Option<i32>,
    pub log: Vec<String>,
    pub errors: String,
}

impl Gateway {
    /// In front of `backend`, at `https://localhost/cobrowsing`, with [`KEY`].
    pub fn before(backend: &Backend) -> Setup {
        Self::on(backend.address.port())
    }

    /// In front of whatever listens on `port`.
    pub fn on(port: u16) -> Setup {
        let text = format!(
            r#"
            [public]
            base_endpoint = "https://localhost/cobrowsing"
            listen = "127.0.0.1:0"
            [tls]
            certificate = "cert.pem"
            key = "cert.key"
            [upstream]
            url = "http://127.0.0.1:{port}"
            [rate_limit]
            policy = []
            [limits]
            workers = 1
            [drain]
            delay = "0s"
            budget = "2s"
            [log]
            format = "json"
            [admin]
            listen = "127.0.0.1:0"
            "#
        );
        Setup {
            table: toml::from_str(&text).unwrap(),
            environment: vec![("REST_KEY".into(), KEY.into())],
            files: Vec::new(),
            ready: true,
            visitors: false,
            copied: false,
            handed: Vec::new(),
        }
    }

    /// With the built-in visitor backend and its sample visitors.
    pub fn with_visitors() -> Setup {
        let seed = concat!(env!("CARGO_MANIFEST_DIR"), "/samples/visitors.json");
        let mut setup = Self::on(1).toml(&format!(
            "upstream.url = 'visitor'\nvisitor.seed = {seed:?}"
        ));
        setup.visitors = true;
        setup
    }

    async fn try_start(setup: &Setup) -> Result<Self, String> {
        let folder = Folder::new().with_certificate();
        for (name, text) in &setup.files {
            folder.write(name, text);
        }
        let mut child = setup
            .command(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (log, errors) = (
            Arc::<Mutex<Vec<String>>>::default(),
            Arc::<Mutex<String>>::default(),
        );
        let readers = vec![
            {
                let (out, log) = (child.stdout.take().unwrap(), Arc::clone(&log));
                std::thread::spawn(move || {
                    for line in BufReader::new(out).lines().map_while(Result::ok) {
                        log.lock().unwrap().push(line);
                    }
                })
            },
            {
                let (mut err, errors) = (child.stderr.take().unwrap(), Arc::clone(&errors));
                std::thread::spawn(move || {
                    let mut chunk = [0; 4096];
                    while let Ok(n @ 1..) = err.read(&mut chunk) {
                        let text = String::from_utf8_lossy(&chunk[..n]);
                        errors.lock().unwrap().push_str(&text);
                    }
                })
            },
        ];
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut this = Self {
            child,
            listen: nowhere,
            admin: nowhere,
            log,
            errors,
            readers,
            folder,
        };
        let started = Instant::now();
        loop {
            if let Some((listen, admin)) = this.addresses() {
                (this.listen, this.admin) = (listen, admin);
                break;
            }
            if this.child.try_wait().unwrap().is_some() {
                this.read_to_end();
                return Err(format!("{}{:?}", this.errors(), this.log()));
            }
            assert!(
                started.elapsed() < PATIENCE,
                "not started: {}",
                this.errors()
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        if setup.ready {
            this.until_ready().await;
        }
        Ok(this)
    }

    /// Where it listens, once it says so in either format of its log.
    fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        if let Some(line) = self.events("started").first() {
            let address = |field: &str| line[field].as_str().unwrap().parse().unwrap();
            return Some((address("listen"), address("admin")));
        }
        let lines = self.log();
        let line = lines
            .iter()
            .find(|line| line.contains(" started listen="))?;
        let address = |name: &str| {
            line.split(' ')
                .find_map(|w| w.strip_prefix(name)?.parse().ok())
        };
        Some((address("listen=")?, address("admin=")?))
    }

    /// Waits until `/readyz` says so.
    pub async fn until_ready(&self) {
        eventually("readyz", async || {
            (self.ask("/readyz").await.status == 200).then_some(())
        })
        .await;
    }

    /// `https://localhost:port`
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.listen.port())
    }

    /// `http://127.0.0.1:port`
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An answer of the admin address.
    pub async fn ask(&self, path: &str) -> Reply {
        self.ask_with("GET", path).await
    }

    pub async fn ask_with(&self, method: &str, path: &str) -> Reply {
        within(async {
            let mut stream = TcpStream::connect(self.admin).await.unwrap();
            let request =
                format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            Reply::parse(&answer).expect("an answer of the admin address")
        })
        .await
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        self.ask("/metrics").await.text()
    }

    /// The value of one series as it is written (`name{label="…"}`); 0 when it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        self.metrics()
            .await
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or(0.0)
    }

    /// Waits until a series has a value.
    pub async fn until_metric(&self, series: &str, value: f64) {
        let started = Instant::now();
        loop {
            let now = self.metric(series).await;
            if now == value {
                return;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{series} is {now}, not {value}"
            );
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Every line of the log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// From now on, until what is returned is dropped, nobody reads its log.
    pub fn without_reading_its_log(&self) -> Unread<'_> {
        Unread(self.log.lock().unwrap())
    }

    /// Log lines with this message.
    pub fn events(&self, message: &str) -> Vec<Value> {
        self.lines()
            .into_iter()
            .filter(|line| line["message"] == message)
            .collect()
    }

    /// The lines of requests.
    pub fn requests(&self) -> Vec<Value> {
        self.lines()
            .into_iter()
            .filter(|line| line["target"] == "access")
            .collect()
    }

    fn lines(&self) -> Vec<Value> {
        let log = self.log.lock().unwrap();
        log.iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// What it wrote to standard error.
    pub fn errors(&self) -> String {
        self.errors.lock().unwrap().clone()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The binary of [`Setup::copied`].
    pub fn program(&self) -> PathBuf {
        self.folder.0.join("gateway")
    }

    /// Waits until its process has ended, whoever else still writes to its log: the exit code.
    pub async fn left(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let ended = || {
            let status = child.try_wait().unwrap();
            async move { status }
        };
        eventually("the end of the process", ended).await.code()
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Ended {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < 2 * PATIENCE, "the gateway does not end");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        self.read_to_end();
        Ended {
            code: status.code(),
            log: self.log(),
            errors: self.errors(),
        }
    }

    /// SIGTERM, and its end.
    pub async fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.ended().await
    }

    fn read_to_end(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().ok();
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            for line in self.log() {
                eprintln!("{line}");
            }
            eprintln!("{}", self.errors());
        }
    }
}
