//! Sockets that a service manager hands over, and what it is told.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use socket2::SockRef;

use super::support::{
    BINARY, Backend, Client, Folder, Gateway, Heir, KEY, PATIENCE, Proto, Reply, Traffic,
    eventually, until,
};

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).listen(4096).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn the_sockets_of_a_service_manager_are_served_and_their_queues_with_them() {
    let backend = Backend::well();
    let ((one, first), (two, second), (admin, told)) = (listener(), listener(), listener());
    // In the queue before there is anybody to accept.
    let early = tokio::net::TcpStream::connect(second).await.unwrap();
    let setup = Gateway::before(&backend)
        .toml("public.listen = '127.0.0.1:9'\nlimits.workers = 1")
        .handed("public", one.try_clone().unwrap())
        .handed("admin", admin)
        .handed("public", two);
    let gateway = setup.start().await;
    assert_eq!((gateway.listen, gateway.admin), (first, told));
    let mut early = Client::over_tcp(early, Proto::H1).await;
    assert_eq!(early.get("/cobrowsing/x").await.status, 200);
    for address in [first, second] {
        let mut client = Client::connect_to(address, Proto::H2).await.unwrap();
        assert_eq!(client.get("/cobrowsing/x").await.status, 200);
    }
    let elsewhere = "the public socket was handed over and listens elsewhere than public.listen says: it stays there";
    assert_eq!(gateway.events(elsewhere).len(), 2);
    // It is one open file: what the gateway set on it shows here.
    let socket = SockRef::from(&one);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    let patience = Some(Duration::from_secs(60));
    assert_eq!(socket.tcp_user_timeout().unwrap(), patience);
    // And it is handed on.
    let mut gateway = gateway;
    let heir = Heir::of(&gateway, |signal| gateway.signal(signal)).await;
    assert_eq!(gateway.left().await, Some(0));
    for address in [first, second] {
        let mut client = Client::connect_to(address, Proto::H1).await.unwrap();
        assert_eq!(client.get("/cobrowsing/x").await.status, 200);
    }
    assert_eq!(heir.stop().await, Some(0));
}

/// What a gateway says that does not start.
fn complaint(arguments: &str, environment: &[(&str, &str)], socket: impl Into<Stdio>) -> String {
    let folder = Folder::new().with_certificate();
    let output = Command::new("/bin/sh")
        .args(["-c", arguments, "sh", BINARY])
        .current_dir(&folder.0)
        .env_clear()
        .envs(environment.iter().copied())
        .env("BASE_ENDPOINT", "https://localhost/cobrowsing")
        .env("TLS_CERT_FILE", "cert.pem")
        .env("TLS_KEY_FILE", "cert.key")
        .stdin(socket)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_cannot_be_served_is_named() {
    // The shell gives its standard input on as the first handed descriptor.
    let third = "exec 3<&0 </dev/null; export LISTEN_PID=$$; exec \"$1\"";
    let stdio = |socket: std::os::fd::OwnedFd| Stdio::from(socket);
    let tcp = || stdio(listener().0.into());
    let udp = || stdio(UdpSocket::bind("127.0.0.1:0").unwrap().into());
    let mute = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        stdio(socket.unwrap().into())
    };
    for (names, count, socket, said) in [
        (
            "web",
            "1",
            tcp(),
            "named \"web\": expected public, admin or visitor",
        ),
        ("public", "1", udp(), "handed over as public"),
        ("public", "1", mute(), "it does not listen"),
        ("public:admin", "1", tcp(), "2 names for the 1 sockets"),
        ("public:admin", "2", tcp(), "handed over as admin"),
    ] {
        let environment = [("LISTEN_FDS", count), ("LISTEN_FDNAMES", names)];
        let complaint = complaint(third, &environment, socket);
        assert!(complaint.contains(said), "{names}: {complaint}");
    }
}

#[tokio::test]
async fn two_instances_on_one_socket_are_restarted_in_turn_and_no_request_fails() {
    const ROUNDS: usize = 2;
    let backend = Backend::upgrades_and_echoes_messages();
    let (socket, address) = listener();
    let setup = Gateway::before(&backend)
        .toml("limits.workers = 2\nlog.access = false")
        .handed("public", socket);
    let mut instances = [setup.clone().start().await, setup.clone().start().await];
    let load = Traffic::on(address);
    load.goes_on(100).await;
    for _ in 0..ROUNDS {
        for instance in &mut instances {
            instance.signal(Signal::TERM);
            assert_eq!(instance.left().await, Some(0));
            load.goes_on(50).await;
            *instance = setup.clone().start().await;
            load.goes_on(50).await;
        }
    }
    let figures = load.stop().await;
    eprintln!("{} restarts: {figures}", 2 * ROUNDS);
    figures.assert_nothing_lost("1001");
    // Both of them had their part.
    for instance in instances {
        assert_eq!(instance.stop().await.code, Some(0));
    }
}

/// Where a service manager listens to its services.
struct Manager {
    socket: UnixDatagram,
    path: String,
    _folder: Folder,
}

impl Manager {
    fn new() -> Self {
        let folder = Folder::new();
        // A path of a socket has 107 bytes at most.
        let path = folder.0.join("n").to_str().unwrap().to_owned();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            path,
            _folder: folder,
        }
    }

    /// The next message, its lines.
    fn hears(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("a message");
        let text = std::str::from_utf8(&message[..length]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn assert_nothing_more(&self) {
        self.socket.set_nonblocking(true).unwrap();
        let said = self.socket.recv(&mut [0; 1]).map_err(|e| e.kind());
        assert_eq!(said, Err(std::io::ErrorKind::WouldBlock));
    }
}

#[tokio::test]
async fn the_service_manager_is_told_who_serves_and_when_it_stops() {
    let backend = Backend::well();
    let manager = Manager::new();
    let setup = Gateway::before(&backend).env("NOTIFY_SOCKET", &manager.path);
    let mut gateway = setup.start().await;
    let serving = format!("STATUS=Serving on {}", gateway.listen);
    assert_eq!(manager.hears(), ["READY=1", &serving]);
    let heir = Heir::of(&gateway, |signal| gateway.signal(signal)).await;
    assert_eq!(manager.hears(), [format!("MAINPID={}", heir.pid())]);
    assert_eq!(manager.hears(), ["READY=1", &serving]);
    // The old process is not the service any more: its end is nobody's business.
    assert_eq!(gateway.left().await, Some(0));
    assert_eq!(heir.stop().await, Some(0));
    assert_eq!(manager.hears(), ["STOPPING=1", "STATUS=Draining"]);
    manager.assert_nothing_more();
}

#[tokio::test]
async fn the_service_manager_is_told_of_a_reload_however_it_ends() {
    let backend = Backend::well();
    let manager = Manager::new();
    let setup = Gateway::before(&backend).env("NOTIFY_SOCKET", &manager.path);
    let gateway = setup.toml("reload.watch = false").start().await;
    assert_eq!(manager.hears()[0], "READY=1");
    for file in [setup_file(&gateway), "nonsense".into()] {
        gateway.folder.write("gateway.toml", file);
        let asked = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        gateway.signal(Signal::HUP);
        let said = manager.hears();
        assert_eq!(said[0], "RELOADING=1");
        // Which signal it answers, systemd knows by the time.
        let since: i64 = said[1]
            .strip_prefix("MONOTONIC_USEC=")
            .unwrap()
            .parse()
            .unwrap();
        assert!(since >= asked.tv_sec * 1_000_000 + asked.tv_nsec / 1000);
        assert_eq!(manager.hears(), ["READY=1"]);
    }
    manager.assert_nothing_more();
}

fn setup_file(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.folder.0.join("gateway.toml")).unwrap()
}

#[tokio::test]
async fn a_failed_hand_over_changes_nothing_for_the_service_manager() {
    let backend = Backend::well();
    let manager = Manager::new();
    let setup = Gateway::before(&backend).env("NOTIFY_SOCKET", &manager.path);
    let gateway = setup.start().await;
    assert_eq!(manager.hears()[0], "READY=1");
    gateway.folder.write("gateway.toml", "nonsense");
    gateway.signal(Signal::USR2);
    let failed = "no hand-over: this process goes on";
    until(failed, || !gateway.events(failed).is_empty()).await;
    manager.assert_nothing_more();
}

/// Of the Debian package `systemd`.
#[tokio::test]
#[ignore = "needs systemd-socket-activate"]
async fn systemd_socket_activate_starts_it_with_the_first_connection() {
    let backend = Backend::well();
    let folder = Folder::new().with_certificate();
    let addresses: Vec<_> = [listener(), listener()].map(|(_, address)| address).into();
    let file = folder.write(
        "gateway.toml",
        Gateway::before(&backend).toml("drain.budget = '1s'").file(),
    );
    let mut command = Command::new("systemd-socket-activate");
    for address in &addresses {
        command.arg(format!("--listen={address}"));
    }
    let mut child = command
        .arg("--fdname=public:admin")
        .arg(format!("--setenv=REST_KEY={KEY}"))
        .args([BINARY, "run", "--config"])
        .arg(file)
        .current_dir(&folder.0)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut client = eventually("a connection", async || {
        Client::connect_to(addresses[0], Proto::H1).await.ok()
    })
    .await;
    assert_eq!(client.get("/cobrowsing/x").await.status, 200);
    let ready = tokio::task::spawn_blocking(move || ask(addresses[1], "/readyz"));
    assert_eq!(ready.await.unwrap().status, 200);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// An answer of the admin address.
fn ask(address: SocketAddr, path: &str) -> Reply {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    Reply::parse(&answer).unwrap()
}
