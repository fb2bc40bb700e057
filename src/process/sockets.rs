//! The sockets that the process listens on: handed to it, or bound.
//!
//! A queue of connections that nobody has accepted yet belongs to an open file, not to a process.
//! So a handed socket is never bound anew: it is the same open file, with the queue as it is, and
//! each one is served by a worker.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};

use super::{Failed, failed};
use crate::config::Config;
use crate::{downstream, snapshot};

/// What a socket is for; `FileDescriptorName=` of a systemd socket unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// TLS from clients.
    Public,
    /// Health and metrics.
    Admin,
    /// The built-in backend.
    Visitor,
}

impl Purpose {
    /// The one of this name.
    pub(super) fn named(name: &str) -> Result<Self, Failed> {
        [Self::Public, Self::Admin, Self::Visitor]
            .into_iter()
            .find(|purpose| purpose.as_str() == name)
            .ok_or_else(|| {
                Failed(format!(
                    "a socket was handed over that is named {name:?}: expected public, admin or visitor (FileDescriptorName= of a systemd socket)"
                ))
            })
    }

    /// Its name.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Admin => "admin",
            Self::Visitor => "visitor",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Every listening socket of the process, each another open file. Workers serve copies of the
/// descriptors; these are what a successor gets. Dropped when nobody new is to be accepted.
pub(super) struct Listening {
    /// At least one.
    public: Vec<TcpListener>,
    admin: TcpListener,
    visitor: Option<TcpListener>,
}

impl Listening {
    /// Takes the sockets that were handed over, and binds what was not.
    pub(super) fn new(
        config: &Config,
        handed: Vec<(Purpose, TcpListener)>,
    ) -> Result<Self, Failed> {
        let (mut public, mut admin, mut visitor) = (Vec::new(), None, None);
        for (purpose, socket) in handed {
            let wanted = match purpose {
                Purpose::Public => config.public.listen,
                Purpose::Admin => config.admin.listen,
                Purpose::Visitor => config.visitor.listen,
            };
            let what = || format!("the socket that was handed over as {purpose}");
            adopt(&socket, purpose, wanted).map_err(|e| failed(&what(), e))?;
            let place = match purpose {
                Purpose::Public => {
                    public.push(socket);
                    continue;
                }
                Purpose::Admin => &mut admin,
                Purpose::Visitor => &mut visitor,
            };
            if place.replace(socket).is_some() {
                return Err(failed(&what(), "there are two: expected one"));
            }
        }
        if public.is_empty() {
            public = bind_public(config)?;
        }
        let admin = match admin {
            Some(socket) => socket,
            None => bind("admin.listen", config.admin.listen)?,
        };
        let built_in = snapshot::uses_built_in(config);
        let visitor = match visitor.filter(|_| built_in) {
            None if built_in => Some(bind("visitor.listen", config.visitor.listen)?),
            visitor => visitor,
        };
        Ok(Self {
            public,
            admin,
            visitor,
        })
    }

    /// Where the public and the admin socket listen; of several public ones the first.
    pub(super) fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        let public = self.public.first().ok_or(io::ErrorKind::NotFound)?;
        Ok((public.local_addr()?, self.admin.local_addr()?))
    }

    /// The public sockets for so many workers: each worker has at least one, and each socket at
    /// least one worker.
    pub(super) fn deal(&self, workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
        let mut hands: Vec<_> = std::iter::repeat_with(Vec::new).take(workers).collect();
        for i in 0..workers.max(self.public.len()) {
            let socket = &self.public[i % self.public.len()];
            hands[i % workers].push(socket.try_clone()?);
        }
        Ok(hands)
    }

    /// For the admin address.
    pub(super) fn admin(&self) -> io::Result<TcpListener> {
        self.admin.try_clone()
    }

    /// For the built-in backend, where there is one.
    pub(super) fn visitor(&self) -> io::Result<Option<TcpListener>> {
        self.visitor
            .as_ref()
            .map(TcpListener::try_clone)
            .transpose()
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<(Purpose, &TcpListener)> {
        let public = self.public.iter().map(|socket| (Purpose::Public, socket));
        let visitor = self.visitor.iter().map(|socket| (Purpose::Visitor, socket));
        public
            .chain([(Purpose::Admin, &self.admin)])
            .chain(visitor)
            .collect()
    }
}

/// Makes a handed socket as one of ours is.
fn adopt(socket: &TcpListener, purpose: Purpose, wanted: SocketAddr) -> io::Result<()> {
    if !rustix::net::sockopt::socket_acceptconn(socket)? {
        return Err(io::Error::other("it does not listen"));
    }
    socket.set_nonblocking(true)?;
    if purpose == Purpose::Public {
        downstream::tune(socket)?;
    }
    let is = socket.local_addr()?;
    if is != wanted && wanted.port() != 0 {
        tracing::warn!(configured = %wanted, listen = %is, "the {purpose} socket was handed over and listens elsewhere than {purpose}.listen says: it stays there");
    }
    Ok(())
}

fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, Failed> {
    TcpListener::bind(address)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .map_err(|e| failed(&format!("{key} = \"{address}\""), e))
}

/// A socket for each worker, all on one address.
fn bind_public(config: &Config) -> Result<Vec<TcpListener>, Failed> {
    let mut address = config.public.listen;
    let mut listeners = Vec::new();
    for _ in 0..snapshot::workers(config).get() {
        let bound = downstream::bind(address).and_then(|listener| {
            address = listener.local_addr()?; // the port, where 0 asked for any
            Ok(listener)
        });
        listeners.push(bound.map_err(|e| failed(&format!("public.listen = \"{address}\""), e))?);
    }
    Ok(listeners)
}
