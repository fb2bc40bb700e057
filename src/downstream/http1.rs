//! HTTP/1.1 with a client: one request after the other, each answered before the next is looked at.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};

use super::answer::{self, Manner};
use super::head::{Bounds, Head};
use super::reuse::Spare;
use super::wire::Wire;
use crate::body::Inbound;
use crate::fields;
use crate::framing::Decoder;
use crate::pipeline::{self, Tunnel};
use crate::reject::Reject;

/// What may be left of a body and still be read away, bytes.
const SMALL_BODY: u64 = 4 << 10;

/// How a conversation ended.
pub(super) enum Ended {
    /// Nothing is on the connection any more.
    Clean,
    /// The client may still be sending what nobody will read.
    Unread,
    /// Somebody broke it off.
    Broken,
    /// Both sides agreed to a tunnel.
    Switched(Box<Tunnel>),
}

/// What an exchange begins with.
struct Read {
    wire: Rc<Wire>,
    /// The bytes of the request's head.
    head: Result<Bytes, Reject>,
    bounds: Bounds,
}

thread_local! {
    static SPARE: Spare<Read, Option<Ended>> = const { Spare::new() };
}

/// Answers requests until the connection is over.
pub(super) async fn converse(wire: &Rc<Wire>, bounds: Bounds) -> Ended {
    loop {
        let Some(head) = wire.head(bounds).await else {
            return Ended::Broken;
        };
        // In a place of its own, so that an idle connection is small.
        let wire = Rc::clone(wire);
        let read = Read { wire, head, bounds };
        if let Some(ended) = Spare::future(&SPARE, exchange, read).await {
            return ended;
        }
    }
}

/// Tells a client that its head did not come in time.
pub(super) async fn say_too_slow(wire: &Rc<Wire>, bounds: Bounds) {
    // Who is slow to send may be slow to read: no more than a second for it.
    let said = exchange(Read {
        wire: Rc::clone(wire),
        head: Err(Reject::RequestTimeout),
        bounds,
    });
    drop(tokio::time::timeout(Duration::from_secs(1), said).await);
}

/// What stands for a request that cannot be read.
fn unreadable(flaw: Reject) -> Head {
    let mut request = Request::new(()).into_parts().0;
    request.method = Method::from_bytes(b"-").unwrap_or_default();
    request.uri = http::Uri::from_static("*");
    Head {
        request,
        body: Decoder::UntilClose,
        persistent: false,
        expects_continue: false,
        flaw: Some(flaw),
    }
}

/// One request and its answer; `None`: another may follow.
async fn exchange(Read { wire, head, bounds }: Read) -> Option<Ended> {
    // Here, so that it need not move: it is large.
    let head = head.and_then(|bytes| Head::parse(&bytes, bounds));
    let mut head = head.unwrap_or_else(unreadable);
    let session = &wire.session;
    let mut manner = Manner {
        http_1_1: head.request.version == Version::HTTP_11,
        asked_head: head.request.method == Method::HEAD,
        persistent: head.persistent,
        read_ahead: bounds.bytes,
    };
    let body = if head.body.is_done() || head.flaw.is_some() {
        Inbound::None
    } else {
        Inbound::Stream(Rc::clone(&wire) as Rc<_>)
    };
    wire.begin(head.body, head.expects_continue);
    let mut response = None;
    {
        let mut handling = pin!(pipeline::handle(
            Rc::clone(session),
            &head.request,
            body,
            head.flaw
        ));
        poll_fn(|cx| {
            if let Poll::Ready(answered) = handling.as_mut().poll(cx) {
                response = Some(answered);
                return Poll::Ready(());
            }
            wire.poll_gone(cx, bounds.bytes)
        })
        .await;
    }
    // Nothing of it waits until the answer is taken.
    fields::give_back(std::mem::take(&mut head.request.headers));
    drop(head.request);
    let Some(response) = &mut response else {
        return Some(Ended::Broken);
    };
    manner.persistent &= may_go_on(&wire) && !session.worker.drain.is_stopping();
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    match answer::write(&wire, response, manner).await {
        Ok(_) if switches => session
            .tunnel
            .borrow_mut()
            .take()
            .map(|tunnel| Ended::Switched(Box::new(tunnel))),
        Ok(true) => None,
        Ok(false) if wire.has_unread() => Some(Ended::Unread),
        Ok(false) => Some(Ended::Clean),
        Err(_) => Some(Ended::Broken),
    }
}

/// Whether another request may follow on the connection: what is left of a body must be little
/// enough to be read away (RFC 9112 section 9.6), and wanted by nobody.
fn may_go_on(wire: &Rc<Wire>) -> bool {
    // An answer that came early may still be sending the body on.
    let wanted = Rc::strong_count(wire) > ITS_OWN;
    !wanted && wire.unread().is_some_and(|left| left <= SMALL_BODY)
}

/// The holds on its wire of the connection and of the exchange on it.
const ITS_OWN: usize = 2;
