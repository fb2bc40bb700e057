//! Who sends the load: each an endless loop with pauses, so that all of them together are a few
//! requests a second.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::link::{Line, Socket};
use super::{Demo, add};

impl Demo {
    /// A request whose end is counted; `None`: it had no answer.
    async fn call(
        &self,
        line: &mut Line,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> Option<(StatusCode, Bytes)> {
        match line.call(&self.target, method, path, key, body).await {
            Ok((status, body)) => {
                self.tally.answer(status);
                Some((status, body))
            }
            Err(_) => {
                add(&self.tally.lost);
                None
            }
        }
    }

    async fn get(&self, line: &mut Line, path: &str) -> Option<(StatusCode, Bytes)> {
        self.call(line, Method::GET, path, None, "").await
    }
}

/// A back office with the right key: lists, searches, looks up, and lets an agent watch.
pub(super) async fn office(demo: Rc<Demo>) {
    let Some(key) = demo.key.clone() else {
        return;
    };
    let mut line = Line::h2();
    let mut ids = Vec::<String>::new();
    while demo.goes_on_after(150, 400).await {
        let id = fastrand::choice(&ids).cloned();
        let (method, path, body) = match (fastrand::u8(0..10), &id) {
            (0..4, _) | (_, None) => (
                Method::GET,
                "/visitors/list/latest".to_owned(),
                String::new(),
            ),
            (4..6, _) => (
                Method::GET,
                "/visitors/list/search?q=%23customer".into(),
                String::new(),
            ),
            (6..9, Some(id)) => (Method::GET, format!("/visitors/{id}"), String::new()),
            (_, Some(id)) => {
                let body = json!({"licenseToken": "demo", "agent": {"id": "1", "name": "Ada"}});
                (
                    Method::POST,
                    format!("/visitors/{id}/watch_url"),
                    body.to_string(),
                )
            }
        };
        let path = demo.target.api(&path);
        let answer = demo.call(&mut line, method, &path, Some(&key), &body).await;
        let Some((StatusCode::OK, body)) = answer else {
            continue;
        };
        let Ok(answer) = serde_json::from_slice::<Value>(&body) else {
            continue;
        };
        if let Some(visitors) = answer["visitors"].as_array() {
            let named = visitors.iter().filter_map(|v| v["short_id"].as_str());
            ids = named.map(str::to_owned).collect();
        }
        if let Some(url) = answer["watch_url"].as_str() {
            drop(tokio::task::spawn_local(agent(
                Rc::clone(&demo),
                url.to_owned(),
            )));
        }
    }
}

/// An agent opens a watch URL, looks for a while, and leaves.
async fn agent(demo: Rc<Demo>, url: String) {
    // Wherever it leads: here only its path is asked for.
    let Some((path, query)) = url
        .splitn(4, '/')
        .nth(3)
        .and_then(|rest| rest.split_once('?'))
    else {
        return;
    };
    let mut line = Line::h1();
    demo.get(&mut line, &format!("/{path}?{query}")).await;
    let socket = format!("/{}/socket?{query}", path.trim_end_matches('/'));
    let Some(mut socket) = demo.target.socket(&socket, "").await else {
        return;
    };
    add(&demo.tally.sockets);
    for _ in 0..fastrand::u8(3..12) {
        let hint = json!({"type": "hint", "text": "Just below the picture."});
        if !say(&demo, &mut socket, &hint).await || !listen(&demo, &mut socket, 500, 1500).await {
            break;
        }
    }
    leave(&mut socket, CloseCode::Normal).await;
}

/// Somebody with a wrong key, too seldom to be locked out.
pub(super) async fn guesser(demo: Rc<Demo>) {
    let mut line = Line::h1();
    let path = demo.target.api("/visitors/list/latest");
    while demo.goes_on_after(5000, 8000).await {
        let key = fastrand::bool().then_some("a-wrong-key");
        demo.call(&mut line, Method::GET, &path, key, "").await;
    }
}

/// A caller that tries lookup codes faster than the policy for them admits.
pub(super) async fn code_hunter(demo: Rc<Demo>) {
    let Some(key) = demo.key.clone() else {
        return;
    };
    let mut line = Line::h2();
    while demo.goes_on_after(4000, 14000).await {
        for _ in 0..16 {
            let code = fastrand::u16(0..10_000);
            let path = format!("/visitors/list/search?q={code:04}");
            let path = demo.target.api(&path);
            demo.call(&mut line, Method::GET, &path, Some(&key), "")
                .await;
        }
    }
}

/// What the Internet sends to anything that listens.
pub(super) async fn stray(demo: Rc<Demo>) {
    let mut line = Line::h1();
    while demo.goes_on_after(2000, 5000).await {
        let (method, path) = match fastrand::u8(0..4) {
            0 => (Method::GET, "/wp-login.php".to_owned()),
            1 => (
                Method::GET,
                demo.target.path("/assets/..%2f..%2fetc/passwd"),
            ),
            2 => (Method::TRACE, demo.target.path("/")),
            _ => (Method::GET, demo.target.path("/favicon.ico")),
        };
        demo.call(&mut line, method, &path, None, "").await;
    }
}

/// A visitor: opens the page and what belongs to it, stays, says what it does, leaves, comes back.
pub(super) async fn visitor(demo: Rc<Demo>) {
    while demo.goes_on_after(0, 4000).await {
        let mut line = if fastrand::bool() {
            Line::h2()
        } else {
            Line::h1()
        };
        if let Some((StatusCode::OK, page)) = demo.get(&mut line, &demo.target.path("/")).await {
            for part in parts(&String::from_utf8_lossy(&page)) {
                demo.get(&mut line, &demo.target.path(&part)).await;
            }
        }
        drop(line);
        let path = demo.target.path("/visitor/socket");
        let Some(mut socket) = demo.target.socket(&path, "cobrowse.visitor").await else {
            add(&demo.tally.lost);
            continue;
        };
        add(&demo.tally.sockets);
        let mut here = true;
        for step in 0..fastrand::u8(4..20) {
            let url = format!("https://shop.example.com/shelf/{step}");
            here = say(&demo, &mut socket, &json!({"type": "page", "url": url})).await
                && listen(&demo, &mut socket, 800, 3000).await;
            if !here {
                break;
            }
        }
        match fastrand::u8(0..10) {
            // A laptop is closed, a tunnel entered: no goodbye.
            0 if here => {}
            1..3 => leave(&mut socket, CloseCode::Normal).await,
            _ => leave(&mut socket, CloseCode::Away).await,
        }
    }
}

/// The scripts and styles that a page names relative to itself, with a slash before them.
fn parts(page: &str) -> Vec<String> {
    let named = ["src=\"", "href=\""]
        .into_iter()
        .flat_map(|attribute| page.split(attribute).skip(1))
        .filter_map(|rest| rest.split_once('"'));
    named
        .map(|(link, _)| link)
        .filter(|link| !link.is_empty() && !link.starts_with(['/', '#']) && !link.contains(':'))
        .map(|link| format!("/{link}"))
        .take(8)
        .collect()
}

/// Sends a message; whether the socket is still there.
async fn say(demo: &Demo, socket: &mut Socket, message: &Value) -> bool {
    add(&demo.tally.messages);
    socket
        .send(Message::text(message.to_string()))
        .await
        .is_ok()
}

/// Reads for a time between the two, in milliseconds; whether to go on after it.
async fn listen(demo: &Demo, socket: &mut Socket, from: u64, to: u64) -> bool {
    let mut pause = std::pin::pin!(demo.goes_on_after(from, to));
    loop {
        tokio::select! {
            goes_on = pause.as_mut() => return goes_on,
            message = socket.next() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
                Some(Ok(_)) => add(&demo.tally.messages),
            },
        }
    }
}

/// Says goodbye, and waits a little for the answer.
async fn leave(socket: &mut Socket, code: CloseCode) {
    let goodbye = CloseFrame {
        code,
        reason: Default::default(),
    };
    if socket.send(Message::Close(Some(goodbye))).await.is_ok() {
        let answer = async { while let Some(Ok(_)) = socket.next().await {} };
        let _: Result<(), tokio::time::error::Elapsed> =
            tokio::time::timeout(Duration::from_secs(2), answer).await;
    }
}
