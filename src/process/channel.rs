//! What two processes of the gateway say to each other while one takes over from the other: whole
//! messages, each a line of text, some with sockets (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The environment variable that tells a process that its standard input is the end of a channel;
/// its value is [`VERSION`].
pub(super) const VARIABLE: &str = "GATEWAY_HANDOVER";
/// Of what is said here.
pub(super) const VERSION: &str = "1";

/// The old process: here are sockets, one for each of the purposes that follow.
pub(super) const SOCKETS: &str = "sockets";
/// The old process: that was the last of them.
pub(super) const ALL: &str = "all";
/// The new process: not ready yet, because of what follows.
pub(super) const WAITING: &str = "waiting";
/// The new process: it will not become ready, because of what follows.
pub(super) const FAILED: &str = "failed";
/// The new process: ready to accept.
pub(super) const READY: &str = "ready";
/// The old process: accept from now on.
pub(super) const GO: &str = "go";

/// Most sockets in one message; the kernel takes 253.
pub(super) const AT_ONCE: usize = 64;
/// Longest message, bytes; what is over it is cut off.
const LONGEST: usize = 4096;
const SPACE: usize = rustix::cmsg_space!(ScmRights(AT_ONCE));

/// One end.
#[derive(Debug)]
pub(super) struct Channel<F = OwnedFd>(pub(super) F);

/// One end in an event loop.
pub(super) type AsyncChannel = Channel<UnixStream>;

/// A message: its first word, the rest, and its sockets.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) word: String,
    pub(super) rest: String,
    pub(super) sockets: Vec<TcpListener>,
}

impl Channel {
    /// Two ends; neither is inherited by a process that is started.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(one), Self(other)))
    }

    /// For use in an event loop.
    pub(super) fn into_async(self) -> io::Result<AsyncChannel> {
        // Of a stream it has nothing but the event loop's interest in it.
        let end = std::os::unix::net::UnixStream::from(self.0);
        end.set_nonblocking(true)?;
        UnixStream::from_std(end).map(Channel)
    }

    /// Waits for the next message; `None`: the other end is closed.
    pub(super) fn receive(&self) -> io::Result<Option<Message>> {
        receive(&self.0, RecvFlags::empty())
    }
}

impl AsyncChannel {
    /// Resolves with the next message; `None`: the other end is closed. Nothing is lost when it is
    /// dropped before.
    pub(super) async fn next(&self) -> io::Result<Option<Message>> {
        self.0
            .async_io(Interest::READABLE, || receive(&self.0, RecvFlags::DONTWAIT))
            .await
    }
}

impl<F: AsFd> Channel<F> {
    /// Says something; fails rather than waits when the other end reads nothing.
    pub(super) fn say(&self, word: &str, rest: &str, sockets: &[&TcpListener]) -> io::Result<()> {
        let text = format!("{word} {rest}");
        let text = &text.as_bytes()[..text.len().min(LONGEST)];
        let fds: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("too many sockets at once"));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.0, &[IoSlice::new(text)], &mut control, flags)?;
        Ok(())
    }
}

fn receive(fd: impl AsFd, flags: RecvFlags) -> io::Result<Option<Message>> {
    let mut text = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut text = [IoSliceMut::new(&mut text)];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        match recvmsg(&fd, &mut text, &mut control, flags) {
            // Said once of an end that closed before it had read all; what it said comes after it.
            Err(Errno::CONNRESET) => {}
            received => break received?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("sockets were lost: too many open files?"));
    }
    let sockets = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .map(TcpListener::from)
        .collect();
    let text = String::from_utf8_lossy(&text[..received.bytes]);
    let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
    Ok(Some(Message {
        word: word.to_owned(),
        rest: rest.to_owned(),
        sockets,
    }))
}
