//! One request and its answer, in the time and the room that its connection has for it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Method, Response, StatusCode};
use http_body::Body as _;
use tokio::time::{Instant, Sleep};

use super::super::limits::Asked as Counted;
use super::super::reuse::{Lent, Spare};
use super::frame::Code;
use super::link::{Begun, Link};
use super::stream::Stream;
use crate::body::{self, Inbound, Unfinished};
use crate::pipeline::{self, AnswerBody, Session};
use crate::reject::Reject;
use crate::{buffers, fields};

/// As much of a body as is written before other streams have their turn, bytes.
const PIECE: usize = 16 << 10;

/// What the streams of a connection share.
pub(super) struct Shared {
    pub(super) link: RefCell<Link>,
    pub(super) session: Rc<Session>,
    /// Longest time in which a client takes nothing of an answer.
    pub(super) patience: Duration,
}

/// A request whose answer begins.
pub(super) struct Request {
    pub(super) shared: Rc<Shared>,
    pub(super) begun: Begun,
    pub(super) counted: Counted,
    /// Its client has more than it may have.
    pub(super) too_many: bool,
}

thread_local! {
    static SPARE: Spare<Request, ()> = const { Spare::new() };
}

/// A request's answer on its way.
pub(super) type Answering = Lent<Request, ()>;

/// Answers a request.
pub(super) fn answer(request: Request) -> Answering {
    Spare::future(&SPARE, give, request)
}

async fn give(
    Request {
        shared,
        begun,
        counted,
        too_many,
    }: Request,
) {
    let Begun {
        stream,
        mut asked,
        has_body,
    } = begun;
    let mut over = Over {
        shared: Rc::clone(&shared),
        stream: Rc::clone(&stream),
        done: false,
        _counted: counted,
    };
    let flaw = asked
        .flaw
        .or_else(|| too_many.then_some(Reject::Overloaded));
    let asked_head = asked.request.method == Method::HEAD;
    let body = if has_body && flaw.is_none() {
        let (shared, stream) = (Rc::clone(&shared), Rc::clone(&stream));
        Inbound::Stream(Rc::new(Upload { shared, stream }))
    } else {
        Inbound::None
    };
    let mut response = None;
    {
        let session = Rc::clone(&shared.session);
        let mut handling = pin!(pipeline::handle(session, &asked.request, body, flaw));
        poll_fn(|cx| {
            if stream.watch(cx) {
                return Poll::Ready(());
            }
            let answered = handling.as_mut().poll(cx);
            answered.map(|answered| response = Some(answered))
        })
        .await;
    }
    // Nothing of it waits until the answer is taken.
    fields::give_back(std::mem::take(&mut asked.request.headers));
    drop(asked.request);
    if let Some(response) = &mut response {
        write(&shared, &stream, response, asked_head).await;
    }
    over.done = true;
}

/// The end of a stream's task, whatever it was.
struct Over {
    shared: Rc<Shared>,
    stream: Rc<Stream>,
    /// It was not cut short by the end of its connection.
    done: bool,
    _counted: Counted,
}

impl Drop for Over {
    fn drop(&mut self) {
        self.shared
            .link
            .borrow_mut()
            .forget(&self.stream, self.done);
    }
}

/// Writes an answer, unless its stream ends before.
async fn write(
    shared: &Shared,
    stream: &Rc<Stream>,
    response: &mut Response<AnswerBody>,
    asked_head: bool,
) {
    let status = response.status();
    let bodiless =
        asked_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let headers = std::mem::take(response.headers_mut());
    let body = response.body_mut();
    let told = headers.contains_key(http::header::CONTENT_LENGTH);
    let length = body.size_hint().exact().filter(|_| !bodiless && !told);
    let ends = bodiless || body.is_end_stream();
    shared
        .link
        .borrow_mut()
        .head(stream.id, status, &headers, length, ends);
    fields::give_back(headers);
    if ends {
        return;
    }
    let mut writing = Writing {
        shared,
        stream,
        body,
        rest: Bytes::new(),
        stalled: None,
    };
    poll_fn(|cx| writing.poll(cx)).await;
}

/// The body of an answer, being written.
struct Writing<'s> {
    shared: &'s Shared,
    stream: &'s Rc<Stream>,
    body: &'s mut AnswerBody,
    /// What is left of the last piece.
    rest: Bytes,
    /// Runs while the client could take more and does not.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Writing<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stream.watch(cx) {
            return Poll::Ready(());
        }
        let link = &self.shared.link;
        let mut given = 0;
        loop {
            let (room, closed) = link.borrow().room(self.stream);
            // What the client does not take is not asked for.
            if closed {
                link.borrow_mut().wait_for_room(self.stream, given > 0);
                return self.poll_stall(cx);
            }
            self.stalled = None;
            if room == 0 || given >= PIECE {
                link.borrow_mut().wait_for_room(self.stream, given > 0);
                return Poll::Pending;
            }
            if self.rest.is_empty() {
                match ready!(Pin::new(&mut *self.body).poll_frame(cx)) {
                    Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                    Some(Err(_broken)) => {
                        link.borrow_mut().reset(self.stream.id, Code::Internal);
                        return Poll::Ready(());
                    }
                    None => {
                        link.borrow_mut().data(self.stream, &[], true);
                        return Poll::Ready(());
                    }
                }
            }
            let piece = room.min(self.rest.len()).min(PIECE - given);
            let whole = piece == self.rest.len() && self.body.is_end_stream();
            if piece > 0 || whole {
                link.borrow_mut()
                    .data(self.stream, &self.rest[..piece], whole);
            }
            self.rest.advance(piece);
            if self.rest.is_empty() {
                buffers::give_back_of(&mut self.rest);
            }
            given += piece;
            if whole {
                return Poll::Ready(());
            }
        }
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let patience = self.shared.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        let link = &self.shared.link;
        loop {
            ready!(stalled.as_mut().poll(cx));
            // What the client takes of others is no stall of this one.
            let until = link.borrow().opened + patience;
            if self.stream.takes.get() <= 0 || until <= Instant::now() {
                break;
            }
            stalled.as_mut().reset(until);
        }
        self.shared.session.count_stall();
        link.borrow_mut().reset(self.stream.id, Code::Cancel);
        Poll::Ready(())
    }
}

/// The body of a request.
struct Upload {
    shared: Rc<Shared>,
    stream: Rc<Stream>,
}

impl body::Wire for Upload {
    fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Unfinished>>> {
        let piece = {
            let body = &mut *self.stream.body.borrow_mut();
            if body.broken {
                return Poll::Ready(Some(Err(Unfinished)));
            }
            body.take()
        };
        if !piece.is_empty() {
            let link = &self.shared.link;
            link.borrow_mut()
                .taken(Some(&self.stream), piece.len() as u32);
            return Poll::Ready(Some(Ok(piece)));
        }
        if self.stream.body.borrow().ended {
            return Poll::Ready(None);
        }
        self.stream.watch(cx);
        Poll::Pending
    }

    fn left(&self) -> Option<u64> {
        self.stream.body.borrow().untaken()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let untaken = self.stream.body.borrow_mut().refuse();
        self.shared.link.borrow_mut().taken(None, untaken);
    }
}
