//! What a process was started with: sockets of systemd or of the process whose successor it is.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;

use listenfd::ListenFd;
use rustix::net::SocketType;

use super::channel::{self, AsyncChannel, Channel};
use super::sockets::Purpose;
use super::{Failed, failed};

/// Sockets that were handed to this process, and by whom.
#[derive(Debug, Default)]
pub struct Handed {
    pub(super) sockets: Vec<(Purpose, TcpListener)>,
    /// The process that waits for this one to be ready.
    predecessor: Option<Channel>,
}

impl Handed {
    /// Takes what was handed over. To be called first of all in a process and once: numbers of
    /// descriptors are taken at their word (`sd_listen_fds(3)`), and systemd's variables are
    /// removed from the environment.
    ///
    /// # Errors
    ///
    /// Sockets with other names than `public`, `admin` and `visitor`, what is no TCP socket, or a
    /// predecessor that is not understood.
    pub fn take() -> Result<Self, Failed> {
        if let Some(channel) = of_a_predecessor().map_err(|e| failed("hand-over", e))? {
            let mut this = Self {
                sockets: Vec::new(),
                predecessor: Some(channel),
            };
            let taken = this.take_sockets();
            return match taken {
                Ok(()) => Ok(this),
                Err(e) => {
                    this.failed(&e);
                    Err(e)
                }
            };
        }
        Ok(Self {
            sockets: of_systemd()?,
            predecessor: None,
        })
    }

    /// Tells the predecessor, if there is one, that this process cannot take over.
    pub fn failed(&self, why: &impl std::fmt::Display) {
        if let Some(channel) = &self.predecessor {
            // It may have given up already, and knows by the end of this process, too.
            let _: io::Result<()> = channel.say(channel::FAILED, &why.to_string(), &[]);
        }
    }

    /// There is no predecessor any more.
    pub(super) fn done(&mut self) {
        self.predecessor = None;
    }

    /// Where a predecessor waits.
    pub(super) fn predecessor(&self) -> io::Result<Option<Predecessor>> {
        let Some(channel) = &self.predecessor else {
            return Ok(None);
        };
        let channel = Channel(channel.0.try_clone()?).into_async()?;
        Ok(Some(Predecessor { channel }))
    }

    fn take_sockets(&mut self) -> Result<(), Failed> {
        let version = std::env::var(channel::VARIABLE).unwrap_or_default();
        if version != channel::VERSION {
            let spoken = channel::VERSION;
            return Err(Failed(format!(
                "the old process hands over in version {version} of the protocol: expected {spoken}"
            )));
        }
        let Some(channel) = &self.predecessor else {
            return Ok(());
        };
        loop {
            let message = channel.receive().map_err(|e| failed("hand-over", e))?;
            let Some(message) = message else {
                return Err(Failed("the old process gave up the hand-over".into()));
            };
            match &*message.word {
                channel::ALL => return Ok(()),
                channel::SOCKETS => {
                    let names = message.rest.split(' ').map(Purpose::named);
                    for (name, socket) in names.zip(message.sockets) {
                        self.sockets.push((name?, socket));
                    }
                }
                _ => {}
            }
        }
    }
}

/// The process that this one takes over from.
pub(super) struct Predecessor {
    channel: AsyncChannel,
}

impl Predecessor {
    /// Tells why this process is not ready yet.
    pub(super) fn waiting(&self, why: &str) {
        // Only for its log.
        let _: io::Result<()> = self.channel.say(channel::WAITING, why, &[]);
    }

    /// Tells that this process is ready, and resolves when the predecessor has left the sockets to
    /// it.
    pub(super) async fn take_over(self) -> io::Result<()> {
        self.channel.say(channel::READY, "", &[])?;
        loop {
            match self.channel.next().await? {
                Some(message) if message.word == channel::GO => return Ok(()),
                Some(_) => {}
                None => {
                    // One that gives up ends this process before it closes the channel.
                    tracing::warn!("the old process is gone without a word: taking over");
                    return Ok(());
                }
            }
        }
    }
}

/// Standard input, where it is the end of a channel; nothing else is left of it.
fn of_a_predecessor() -> io::Result<Option<Channel>> {
    let input = io::stdin();
    if std::env::var_os(channel::VARIABLE).is_none()
        // The variable alone is what a process left behind that was itself a successor.
        || rustix::net::sockopt::socket_type(&input).ok() != Some(SocketType::SEQPACKET)
    {
        return Ok(None);
    }
    let end = input.as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(Some(Channel(end)))
}

/// Socket activation, `systemd.socket(5)`. Without names they are all public.
fn of_systemd() -> Result<Vec<(Purpose, TcpListener)>, Failed> {
    let names = std::env::var("LISTEN_FDNAMES").ok();
    let mut handed = ListenFd::from_env();
    let count = handed.len();
    let purposes = match &names {
        Some(names) if count > 0 => names
            .split(':')
            .map(Purpose::named)
            .collect::<Result<Vec<_>, _>>()?,
        _ => vec![Purpose::Public; count],
    };
    if purposes.len() != count {
        return Err(Failed(format!(
            "LISTEN_FDNAMES has {} names for the {count} sockets of LISTEN_FDS",
            purposes.len()
        )));
    }
    let mut sockets = Vec::with_capacity(count);
    for (i, purpose) in purposes.into_iter().enumerate() {
        let socket = handed
            .take_tcp_listener(i)
            .and_then(|socket| socket.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(|e| failed(&format!("the socket that was handed over as {purpose}"), e))?;
        sockets.push((purpose, socket));
    }
    Ok(sockets)
}
