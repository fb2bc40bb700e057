//! A backend over raw TCP that does exactly what it is told, a thread a connection, and remembers
//! what it got.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_tungstenite::tungstenite;
use tungstenite::handshake::derive_accept_key;

use super::{PATIENCE, until};

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection it came on, counted from 1.
    pub connection: usize,
}

impl Received {
    /// The values of a header, joined.
    pub fn header(&self, name: &str) -> Option<String> {
        let values = self.all(name);
        (!values.is_empty()).then(|| values.join(" | "))
    }

    /// The values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let of_name = |(n, v)| (n == name).then_some(v);
        self.headers
            .iter()
            .filter_map(|(n, v)| of_name((n.as_str(), v.as_str())))
            .collect()
    }

    pub fn names(&self) -> Vec<&str> {
        self.headers.iter().map(|(n, _)| n.as_str()).collect()
    }
}

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<Received>>,
    bytes: Mutex<Vec<u8>>,
    sent: AtomicUsize,
    stop: AtomicBool,
    /// Open ones, to close them with the backend.
    streams: Mutex<HashMap<RawFd, TcpStream>>,
}

/// A running backend; dropping it closes its connections.
pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

/// One connection of it.
pub struct Conn {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
    pub number: usize,
    broken: bool,
}

impl Backend {
    /// Each connection that says something is given to `script`, and closed after it.
    pub fn new(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    /// As [`Self::new`], on a listener that is there.
    pub fn on(listener: TcpListener, script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        // Many at once must not wait for a second SYN.
        socket2::SockRef::from(&listener).listen(4096).unwrap();
        let shared = Arc::<Shared>::default();
        let (script, owner) = (Arc::new(script), Arc::clone(&shared));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if owner.stop.load(Ordering::SeqCst) {
                    return;
                }
                let (script, shared) = (Arc::clone(&script), Arc::clone(&owner));
                std::thread::spawn(move || serve(stream, &shared, &*script));
            }
        });
        Self { address, shared }
    }

    /// Each request gets these bytes as its answer.
    pub fn answers(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::answers_by(move |_| bytes.clone())
    }

    /// Each request gets what `answer` makes of it.
    pub fn answers_by(answer: impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::new(move |conn| {
            while let Some(request) = conn.request() {
                let answer = answer(&request);
                if !conn.say(&answer) {
                    return;
                }
            }
        })
    }

    /// `200` with an empty JSON object.
    pub fn well() -> Self {
        Self::answers(ok("{}"))
    }

    /// The body comes back.
    pub fn echoes_the_request() -> Self {
        Self::answers_by(|request| {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                request.body.len()
            );
            [head.as_bytes(), &request.body].concat()
        })
    }

    pub fn never_answers() -> Self {
        Self::new(|conn| {
            conn.request();
            conn.read_to_end();
        })
    }

    pub fn closes_before_answering() -> Self {
        Self::new(|conn| drop(conn.request()))
    }

    pub fn resets() -> Self {
        Self::new(|conn| {
            conn.request();
            conn.reset();
        })
    }

    pub fn speaks_nonsense() -> Self {
        Self::answers("220 mail.example ESMTP ready\r\n\r\n")
    }

    pub fn answers_half_then_closes() -> Self {
        Self::new(|conn| {
            conn.request();
            conn.say(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of it");
        })
    }

    pub fn two_lengths() -> Self {
        Self::answers("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc")
    }

    pub fn length_and_chunks() -> Self {
        Self::answers(
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )
    }

    /// Each connection answers `n` requests and is closed when it is idle.
    pub fn closes_kept_connections_after(n: usize) -> Self {
        Self::new(move |conn| {
            for _ in 0..n {
                if conn.request().is_none() || !conn.say(ok("{}").as_bytes()) {
                    return;
                }
            }
        })
    }

    /// Answers as soon as the head is there, and reads no more.
    pub fn answers_early_without_reading_the_body() -> Self {
        Self::new(|conn| {
            if conn.head().is_some() {
                conn.say(
                    b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno",
                );
                conn.stream.shutdown(Shutdown::Write).ok();
                conn.wait_for_close();
            }
        })
    }

    /// Accepts WebSockets; then `script` has the connection.
    pub fn upgrades(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        Self::new(move |conn| {
            if let Some(request) = conn.request() {
                conn.say(accepting(&request).as_bytes());
                script(conn);
            }
        })
    }

    /// Accepts WebSockets and sends every byte back.
    pub fn upgrades_and_echoes_bytes() -> Self {
        Self::upgrades(|conn| {
            while let Some(bytes) = conn.read() {
                if !conn.say(&bytes) {
                    return;
                }
            }
        })
    }

    /// Accepts WebSockets and sends every message back; answers other requests with 200.
    pub fn upgrades_and_echoes_messages() -> Self {
        Self::new(|conn| {
            while let Some(request) = conn.request() {
                if request.header("upgrade").is_none() {
                    conn.say(ok("{}").as_bytes());
                    continue;
                }
                conn.upgrade_and_echo_messages(&request);
                return;
            }
        })
    }

    /// Accepts WebSockets with more header lines.
    pub fn upgrades_with(lines: &'static str) -> Self {
        Self::new(move |conn| {
            if let Some(request) = conn.request() {
                let more = format!("\r\n{lines}\r\n");
                conn.say(accepting(&request).replace("\r\n\r\n", &more).as_bytes());
                conn.read_to_end();
            }
        })
    }

    /// Answers 101 with the right accept, but without `Upgrade` and `Connection`.
    pub fn upgrades_without_naming_it() -> Self {
        Self::new(|conn| {
            if let Some(request) = conn.request() {
                let accepting = accepting(&request);
                let named = |line: &&str| {
                    let line = line.to_ascii_lowercase();
                    !line.starts_with("upgrade:") && !line.starts_with("connection:")
                };
                let kept: Vec<_> = accepting.split("\r\n").filter(named).collect();
                conn.say(kept.join("\r\n").as_bytes());
                conn.read_to_end();
            }
        })
    }

    pub fn upgrades_with_a_wrong_accept() -> Self {
        Self::new(|conn| {
            conn.request();
            conn.say(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n");
            conn.read_to_end();
        })
    }

    pub fn refuses_the_upgrade(status: &str) -> Self {
        Self::answers(format!(
            "HTTP/1.1 {status}\r\nx-why: because\r\ncontent-length: 2\r\n\r\nno"
        ))
    }

    /// Connections on which something was said.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Those of them that are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Bytes that were taken from it with [`Conn::say`].
    pub fn sent(&self) -> usize {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Whole requests so far.
    pub fn requests(&self) -> Vec<Received> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The only request.
    pub fn only(&self) -> Received {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// The last request.
    pub fn last(&self) -> Received {
        self.requests().pop().expect("no request came")
    }

    /// The first MiB of all that came.
    pub fn bytes(&self) -> Vec<u8> {
        self.shared.bytes.lock().unwrap().clone()
    }

    pub async fn until_requests(&self, n: usize) {
        until("requests at the backend", || self.requests().len() >= n).await;
    }

    /// Forgets what came.
    pub fn forget(&self) {
        self.shared.requests.lock().unwrap().clear();
        self.shared.bytes.lock().unwrap().clear();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).ok(); // ends the accepting thread
        for (_, stream) in self.shared.streams.lock().unwrap().drain() {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

fn serve(stream: TcpStream, shared: &Arc<Shared>, script: &dyn Fn(&mut Conn)) {
    stream.set_read_timeout(Some(3 * PATIENCE)).ok();
    stream.set_write_timeout(Some(3 * PATIENCE)).ok();
    stream.set_nodelay(true).ok();
    let Ok(clone) = stream.try_clone() else {
        return;
    };
    let held = clone.as_raw_fd();
    shared.streams.lock().unwrap().insert(held, clone);
    converse(stream, shared, script);
    shared.streams.lock().unwrap().remove(&held);
}

fn converse(stream: TcpStream, shared: &Arc<Shared>, script: &dyn Fn(&mut Conn)) {
    // Who says nothing only tests whether somebody is there.
    if !matches!(stream.peek(&mut [0]), Ok(1)) {
        stream.shutdown(Shutdown::Both).ok();
        return;
    }
    let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
    shared.open.fetch_add(1, Ordering::SeqCst);
    let mut conn = Conn {
        stream,
        buffer: Vec::new(),
        shared: Arc::clone(shared),
        number,
        broken: false,
    };
    script(&mut conn);
    if !conn.broken {
        conn.stream.shutdown(Shutdown::Both).ok();
    }
    drop(conn);
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

impl Conn {
    /// Accepts a WebSocket and sends every message back.
    pub fn upgrade_and_echo_messages(&mut self, request: &Received) {
        self.say(accepting(request).as_bytes());
        let stream = self.stream.try_clone().unwrap();
        let role = tungstenite::protocol::Role::Server;
        let ahead = std::mem::take(&mut self.buffer);
        let mut socket = tungstenite::WebSocket::from_partially_read(stream, ahead, role, None);
        while let Ok(message) = socket.read() {
            if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                break;
            }
        }
    }

    /// Some bytes; none: the other side has closed.
    pub fn read(&mut self) -> Option<Vec<u8>> {
        if !self.buffer.is_empty() {
            return Some(std::mem::take(&mut self.buffer));
        }
        let mut chunk = vec![0; 64 << 10];
        let n = self.stream.read(&mut chunk).ok()?;
        chunk.truncate(n);
        let mut bytes = self.shared.bytes.lock().unwrap();
        if bytes.len() < 1 << 20 {
            bytes.extend_from_slice(&chunk);
        }
        (n > 0).then_some(chunk)
    }

    fn fill(&mut self) -> bool {
        let before = std::mem::take(&mut self.buffer);
        let more = self.read();
        let some = more.is_some();
        self.buffer = before;
        self.buffer.extend(more.unwrap_or_default());
        some
    }

    /// All until the other side closes.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = self.read() {
            all.extend(bytes);
        }
        all
    }

    /// Waits for the other side's end without reading what is before it.
    pub fn wait_for_close(&mut self) {
        self.stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .ok();
        let mut chunk = [0; 4096];
        while matches!(self.stream.read(&mut chunk), Ok(1..)) {}
    }

    /// The head of the next request.
    pub fn head(&mut self) -> Option<Received> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 256];
            let mut parsed = httparse::Request::new(&mut fields);
            match parsed.parse(&self.buffer) {
                Ok(httparse::Status::Complete(length)) => {
                    let received = Received {
                        method: parsed.method.unwrap().into(),
                        target: parsed.path.unwrap().into(),
                        headers: parsed
                            .headers
                            .iter()
                            .map(|h| {
                                let value = String::from_utf8_lossy(h.value).into_owned();
                                (h.name.to_ascii_lowercase(), value)
                            })
                            .collect(),
                        body: Vec::new(),
                        connection: self.number,
                    };
                    self.buffer.drain(..length);
                    return Some(received);
                }
                Ok(httparse::Status::Partial) => {
                    if !self.fill() {
                        return None;
                    }
                }
                Err(e) => panic!("the gateway sent nonsense: {e}"),
            }
        }
    }

    /// The next request, its body included; remembered.
    pub fn request(&mut self) -> Option<Received> {
        let mut request = self.head()?;
        if request.header("transfer-encoding").as_deref() == Some("chunked") {
            loop {
                let size = self.line()?;
                let size = usize::from_str_radix(&size, 16).unwrap();
                request.body.extend(self.take(size)?);
                assert_eq!(self.line()?, "");
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = request.header("content-length") {
            request.body = self.take(length.parse().unwrap())?;
        }
        self.shared.requests.lock().unwrap().push(request.clone());
        Some(request)
    }

    fn take(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < n {
            if !self.fill() {
                return None;
            }
        }
        Some(self.buffer.drain(..n).collect())
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = super::find(&self.buffer, b"\r\n") {
                let line = self.buffer.drain(..end + 2).collect::<Vec<_>>();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Sends; `false`: the other side takes no more.
    pub fn say(&mut self, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(64 << 10) {
            if self.stream.write_all(piece).is_err() {
                return false;
            }
            self.shared.sent.fetch_add(piece.len(), Ordering::SeqCst);
        }
        true
    }

    /// Lets 200 ms pass: time is the subject of some tests.
    pub fn pause(&self) {
        std::thread::sleep(Duration::from_millis(200));
    }

    /// Ends the connection with RST.
    pub fn reset(&mut self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        // The list of open streams holds the other handle.
        self.shared.streams.lock().unwrap().clear();
        self.broken = true;
    }
}

/// An answer with a JSON body.
pub fn ok(json: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{json}",
        json.len()
    )
}

fn accepting(request: &Received) -> String {
    let key = request.header("sec-websocket-key").unwrap_or_default();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    )
}
