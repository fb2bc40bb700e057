//! Reaching the store: sockets and TLS are ours, login and protocol the library's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::address::{Address, Host, Way};
use super::script::{self, Asked};

/// Longest time to open and log in to one host.
const CONNECT: Duration = Duration::from_secs(2);
/// Calls that may wait to be written to one connection.
const QUEUE: usize = 1024;
/// Most hosts a cluster may send us to, one after the other.
const HOPS: usize = 5;

/// Why the store is of no use now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It did not answer in time.
    Slow,
    /// The connection failed.
    Io(std::io::ErrorKind),
    /// The server's certificate is not the one it should be, or TLS failed otherwise.
    Tls,
    /// The server refused, by its own word, such as `OOM` or `READONLY`.
    Said(Box<str>),
    /// Its keys are elsewhere.
    Moved(Host),
    /// The sentinels know no such master.
    NoMaster,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow => f.write_str("no answer in time"),
            Self::Io(kind) => write!(f, "{kind}"),
            Self::Tls => f.write_str("TLS failed; is redis_ca the server's authority?"),
            Self::Said(word) => write!(f, "it says {word}"),
            Self::Moved(host) => write!(f, "its keys are at {host}"),
            Self::NoMaster => f.write_str("no sentinel knows the master"),
        }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(e: std::io::Error) -> Self {
        if e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            return Self::Tls;
        }
        Self::Io(e.kind())
    }
}

impl From<RedisError> for Trouble {
    fn from(e: RedisError) -> Self {
        let moved = e.redirect_node().and_then(|(to, _)| Host::announced(to));
        match (moved, e.kind(), e.code()) {
            (Some(host), ..) => Self::Moved(host),
            // What stands behind the first word may quote anything.
            (None, _, Some(code)) => Self::Said(code.into()),
            (None, ErrorKind::AuthenticationFailed, None) => Self::Said("WRONGPASS".into()),
            (None, ErrorKind::Parse | ErrorKind::UnexpectedReturnType, None) => {
                Self::Said("what no Redis says".into())
            }
            (None, _, None) if e.is_timeout() => Self::Slow,
            (None, ..) => Self::Io(std::io::ErrorKind::ConnectionReset),
        }
    }
}

impl Trouble {
    /// Whether the same connection may come to its senses.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Slow => true,
            Self::Said(word) => !matches!(
                &**word,
                "READONLY" | "CLUSTERDOWN" | "MASTERDOWN" | "NOAUTH" | "WRONGPASS" | "NOPERM"
            ),
            Self::Io(_) | Self::Tls | Self::Moved(_) | Self::NoMaster => false,
        }
    }
}

/// A connection, with the task that moves its bytes.
pub(super) struct Connected {
    pub(super) calls: MultiplexedConnection,
    moves: AbortOnDropHandle<()>,
}

impl Connected {
    /// Waits until the connection is over.
    pub(super) async fn ended(&mut self) {
        // A panic in the library ends it, too.
        let _: Result<(), tokio::task::JoinError> = (&mut self.moves).await;
    }
}

/// How to reach the store.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) address: Address,
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl Store {
    /// Connects to the server that has our keys, and makes sure by `probe` that it takes them.
    pub(super) async fn connect(&self, probe: &Asked<'_>) -> Result<Connected, Trouble> {
        let mut last = Trouble::NoMaster;
        let login = &self.address.login;
        for host in &self.address.hosts {
            let found = match &self.address.way {
                Way::Direct => self.open(host, login).await,
                Way::Cluster => self.follow(host.clone(), probe).await,
                Way::Sentinel(master) => match self.master(host, master).await {
                    Ok(master) => self.open(&master, login).await,
                    Err(trouble) => Err(trouble),
                },
            };
            match found {
                Ok(connected) => return Ok(connected),
                Err(trouble) => last = trouble,
            }
        }
        Err(last)
    }

    /// From one host of a cluster to the one that has our slot.
    async fn follow(&self, mut host: Host, probe: &Asked<'_>) -> Result<Connected, Trouble> {
        for _ in 0..HOPS {
            let connected = self.open(&host, &self.address.login).await?;
            let asked = script::call(connected.calls.clone(), std::slice::from_ref(probe));
            let asked = tokio::time::timeout(CONNECT, asked).await;
            match asked.map_err(|_elapsed| Trouble::Slow)? {
                Ok(_) => return Ok(connected),
                Err(e) => match Trouble::from(e) {
                    Trouble::Moved(to) => host = to,
                    other => return Err(other),
                },
            }
        }
        Err(Trouble::Moved(host))
    }

    /// Asks one sentinel for the master's address.
    async fn master(&self, sentinel: &Host, name: &str) -> Result<Host, Trouble> {
        let ask = async |login: &RedisConnectionInfo| {
            let mut connected = self.open(sentinel, login).await?;
            let mut command = redis::cmd("SENTINEL");
            command.arg("get-master-addr-by-name").arg(name);
            let asked = command.query_async(&mut connected.calls);
            let asked = tokio::time::timeout(CONNECT, asked).await;
            let found: Option<(String, u16)> = asked.map_err(|_elapsed| Trouble::Slow)??;
            Ok(found)
        };
        // A sentinel has a password of its own, or none: then it would refuse one.
        let found = match ask(&RedisConnectionInfo::default()).await {
            Err(Trouble::Said(word)) if &*word == "NOAUTH" => {
                ask(&self.address.login.clone().set_db(0)).await
            }
            other => other,
        }?;
        let (host, port) = found.ok_or(Trouble::NoMaster)?;
        Ok(Host(host, port))
    }

    /// Opens a connection and logs in.
    async fn open(&self, host: &Host, login: &RedisConnectionInfo) -> Result<Connected, Trouble> {
        let opened = async {
            let Host(name, port) = host;
            let socket = TcpStream::connect((name.as_str(), *port)).await?;
            socket.set_nodelay(true)?;
            let Some(tls) = &self.tls else {
                return speak(socket, login).await;
            };
            let name = ServerName::try_from(name.clone()).map_err(|_no_name| Trouble::Tls)?;
            let stream = TlsConnector::from(Arc::clone(tls)).connect(name, socket);
            speak(stream.await?, login).await
        };
        let opened = tokio::time::timeout(CONNECT, opened).await;
        opened.unwrap_or(Err(Trouble::Slow))
    }
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    login: &RedisConnectionInfo,
) -> Result<Connected, Trouble> {
    // Who calls sees to the time.
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE);
    let (calls, moves) = MultiplexedConnection::new_with_config(login, stream, config).await?;
    Ok(Connected {
        calls,
        moves: AbortOnDropHandle::new(tokio::task::spawn_local(moves)),
    })
}
