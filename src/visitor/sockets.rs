//! The WebSockets of visitors' pages and agents' screens.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{ConnectInfo, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use super::grant::{ResumeGrant, WatchGrant};
use super::messages::{self, FromAgent, FromPage};
use super::object::Browser;
use super::pages::{self, ScreenParameters};
use super::record::Inbox;
use super::store::{Refusal, Seat};
use super::token::Purpose;
use super::{App, api};

/// Largest message, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;
/// A socket is asked for a sign of life this often ...
const PING: Duration = Duration::from_secs(25);
/// ... and dropped when there was none for this long.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a message may take to leave for a stalled peer.
const SEND: Duration = Duration::from_secs(10);
/// How long a goodbye may take: shutdown waits for it.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long a browser may come back as the visitor it was.
const RESUME_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The subprotocol of visitors' pages.
const PROTOCOL: &str = "cobrowse.visitor";
/// Before a resume token offered as a second subprotocol: a browser cannot send headers with a
/// WebSocket, and in the URL the token would end up in logs.
const RESUME_PREFIX: &str = "resume.";

/// The two sockets below `mount`.
pub(super) fn routes(mount: &str) -> Router<Arc<App>> {
    Router::new()
        .route(&format!("{mount}/visitor/socket"), get(page_socket))
        .route(&format!("{mount}/screen/socket"), get(screen_socket))
}

async fn page_socket(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok());
    let browser = Browser::from_user_agent(agent.unwrap_or_default());
    let ip_address = client_address(&headers, peer);
    let known = resume_token(&headers)
        .and_then(|token| app.signer.open(Purpose::Resume, token, SystemTime::now()));
    let known = known.map(|ResumeGrant { short_id }| short_id);
    // Taken in before the answer: who sees the socket open finds the visitor online.
    let arrived = app.store.arrive(known.as_deref(), |visitor| {
        visitor.ip_address = ip_address;
        visitor.apply_browser(browser);
    });
    let (seat, inbox) = match arrived {
        Ok(arrived) => arrived,
        Err(refusal) => return refused(&refusal),
    };
    tracing::info!(visitor = seat.short_id(), "visitor page opened");
    bounded(upgrade)
        .protocols([PROTOCOL])
        .on_upgrade(move |socket| async move {
            let _counted = app.sockets.token();
            let Some(hello) = welcome(&app, &seat) else {
                return;
            };
            let react = |text: &str| react_to_page(&seat, text);
            converse(socket, inbox, &app.stop, hello, react, || seat.seen()).await;
            tracing::info!(visitor = seat.short_id(), "visitor page closed");
        })
}

async fn screen_socket(
    State(app): State<Arc<App>>,
    Query(parameters): Query<ScreenParameters>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let Some(grant) = pages::grant(&app, &parameters) else {
        return api::error(StatusCode::FORBIDDEN, "forbidden", pages::NOT_VALID);
    };
    let (seat, inbox) = match app.store.attend(&grant.short_id, &grant.agent.name) {
        Ok(attending) => attending,
        Err(Refusal::Unknown) => {
            return api::error(StatusCode::FORBIDDEN, "forbidden", pages::NOT_VALID);
        }
        Err(refusal) => return refused(&refusal),
    };
    tracing::info!(visitor = seat.short_id(), "screen opened");
    bounded(upgrade).on_upgrade(move |socket| async move {
        let _counted = app.sockets.token();
        let hello = json!({"type": "welcome", "permissions": grant.permissions});
        let react = |text: &str| react_to_agent(&seat, &grant, text);
        converse(socket, inbox, &app.stop, hello, react, || {}).await;
        tracing::info!(visitor = seat.short_id(), "screen closed");
    })
}

/// Limits on what a peer may make us hold. An idle socket keeps 4 KiB, not the usual 128.
fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_MESSAGE)
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
}

fn refused(refusal: &Refusal) -> Response {
    tracing::warn!(?refusal, "socket refused");
    let message = "too many visitors or sockets at the moment; try again later";
    let mut response = api::error(StatusCode::SERVICE_UNAVAILABLE, "full", message);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("30"));
    response.into_response()
}

/// The first message to a visitor's page: who it is and how to be it again.
fn welcome(app: &App, seat: &Seat) -> Option<Value> {
    let grant = ResumeGrant {
        short_id: seat.short_id().to_owned(),
    };
    let resume = app
        .signer
        .seal(Purpose::Resume, grant, SystemTime::now(), RESUME_TTL)
        .inspect_err(|error| tracing::error!(%error, "resume token not signed"))
        .ok()?;
    let visitor = app.store.get(seat.short_id())?;
    Some(json!({"type": "welcome", "resume": resume, "visitor": *visitor}))
}

/// What follows from a message.
enum Reaction {
    Nothing,
    /// Answer the sender.
    Answer(Value),
    /// The sender wants to end.
    End,
}

fn react_to_page(seat: &Seat, text: &str) -> Reaction {
    let done = match serde_json::from_str(text) {
        Ok(FromPage::Identify(identify)) => identify
            .checked()
            .map(|identify| seat.change(|visitor| identify.apply(visitor))),
        Ok(FromPage::Page { url }) => {
            messages::check_url(&url).map(|()| seat.change(|visitor| visitor.last_url = Some(url)))
        }
        Ok(FromPage::Pointer { x, y }) => messages::check_place(x, y)
            .map(|()| seat.mention(&json!({"type": "pointer", "x": x, "y": y}))),
        Err(error) => Err(error.to_string()),
    };
    done.map_or_else(invalid, |()| Reaction::Nothing)
}

fn react_to_agent(seat: &Seat, grant: &WatchGrant, text: &str) -> Reaction {
    let agent = &grant.agent.name;
    let done = match serde_json::from_str(text) {
        Ok(FromAgent::Hint { text }) => messages::check_hint(&text)
            .map(|()| seat.mention(&json!({"type": "hint", "agent": agent, "text": text}))),
        Ok(FromAgent::Pointer { .. }) if !grant.permissions.allow_draw => {
            let message = "pointing needs the permission allow_draw";
            let error = json!({"type": "error", "error": "not_allowed", "message": message});
            return Reaction::Answer(error);
        }
        Ok(FromAgent::Pointer { x, y }) => messages::check_place(x, y).map(|()| {
            seat.mention(&json!({"type": "pointer", "agent": agent, "x": x, "y": y}));
        }),
        Ok(FromAgent::End) => return Reaction::End,
        Err(error) => Err(error.to_string()),
    };
    done.map_or_else(invalid, |()| Reaction::Nothing)
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the error is at its end here"
)]
fn invalid(message: String) -> Reaction {
    let error = json!({"type": "error", "error": "invalid_message", "message": message});
    Reaction::Answer(error)
}

/// Runs a socket until it ends, is silent for too long, or the backend stops. `alive` is called
/// on each sign of life.
async fn converse(
    mut socket: WebSocket,
    mut inbox: Inbox,
    stop: &CancellationToken,
    hello: Value,
    react: impl Fn(&str) -> Reaction,
    alive: impl Fn(),
) {
    let mut ping = interval_at(Instant::now() + PING, PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let mut next = Some(Message::Text(hello.to_string().into()));
    let goodbye = loop {
        if let Some(message) = next.take() {
            tokio::select! {
                sent = timeout(SEND, socket.send(message)) => {
                    if !matches!(sent, Ok(Ok(()))) {
                        return;
                    }
                }
                () = stop.cancelled() => break close_code::AWAY,
            }
        }
        tokio::select! {
            () = stop.cancelled() => break close_code::AWAY,
            message = inbox.recv() => match message {
                Some(message) => next = Some(Message::Text(message)),
                None => break close_code::AGAIN,
            },
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE {
                    tracing::debug!("socket silent for too long");
                    return;
                }
                next = Some(Message::Ping(bytes::Bytes::new()));
            }
            received = socket.recv() => {
                heard = Instant::now();
                alive();
                match received {
                    Some(Ok(Message::Text(text))) => match react(&text) {
                        Reaction::Nothing => {}
                        Reaction::Answer(answer) => {
                            next = Some(Message::Text(answer.to_string().into()));
                        }
                        Reaction::End => break close_code::NORMAL,
                    },
                    // tungstenite itself answers pings.
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Binary(_))) => break close_code::UNSUPPORTED,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                }
            }
        }
    };
    let close = Message::Close(Some(CloseFrame {
        code: goodbye,
        reason: "".into(),
    }));
    // Either way the socket is dropped now.
    timeout(GOODBYE, socket.send(close)).await.ok();
}

fn resume_token(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(RESUME_PREFIX))
}

/// Where the visitor connects from: the first `X-Forwarded-For` entry, else the peer. The first
/// may be trusted only because the gateway in front has dropped what its clients claimed.
fn client_address(headers: &HeaderMap, peer: SocketAddr) -> IpAddr {
    headers
        .get("x-forwarded-for")
        .and_then(|line| line.to_str().ok())
        .and_then(|line| {
            let first = line.split(',').next()?.trim();
            let with_port = || first.parse().ok().map(|address: SocketAddr| address.ip());
            first.parse().ok().or_else(with_port)
        })
        .unwrap_or_else(|| peer.ip())
        .to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_visitor_comes_from_the_first_forwarded_address_or_the_peer() {
        let peer = "127.0.0.1:999".parse().unwrap();
        for (line, address) in [
            ("203.0.113.7", "203.0.113.7"),
            ("2001:db8::1, 10.0.0.1", "2001:db8::1"),
            ("203.0.113.7:4711, 10.0.0.1", "203.0.113.7"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("unknown", "127.0.0.1"),
            ("", "127.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", HeaderValue::from_static(line));
            let expected: IpAddr = address.parse().unwrap();
            assert_eq!(client_address(&headers, peer), expected, "{line}");
        }
        let expected: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(client_address(&HeaderMap::new(), peer), expected);
    }

    #[test]
    fn the_resume_token_stands_among_the_subprotocols() {
        let mut headers = HeaderMap::new();
        assert_eq!(resume_token(&headers), None);
        let line = HeaderValue::from_static("cobrowse.visitor, resume.abc.def");
        headers.insert(SEC_WEBSOCKET_PROTOCOL, line);
        assert_eq!(resume_token(&headers), Some("abc.def"));
    }
}
