//! One visitor with the sockets that are connected to it.

use std::sync::Arc;

use axum::extract::ws::Utf8Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::object::Visitor;
use super::search;

/// Messages that wait for one slow socket.
const LINE_LENGTH: usize = 32;
/// Most sockets that share one visitor (tabs) or watch one visitor (agents).
const MAX_LINES: usize = 16;

/// Messages for one socket. When it ends, the socket was too slow and must be closed.
pub(super) type Inbox = mpsc::Receiver<Utf8Bytes>;

/// Which side of a visitor a socket is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The visitor's own page.
    Page,
    /// An agent's screen.
    Agent,
}

/// A stored visitor.
pub(super) struct Record {
    /// Shared with answers being written; changed by [`Arc::make_mut`].
    pub(super) visitor: Arc<Visitor>,
    /// See [`search::text`].
    pub(super) text: String,
    pages: Vec<Line>,
    agents: Vec<Line>,
}

/// One connected socket.
struct Line {
    number: u64,
    /// The agent's name; empty for a visitor's page.
    name: String,
    to: mpsc::Sender<Utf8Bytes>,
}

impl Record {
    /// A visitor nobody is connected to.
    pub(super) fn new(visitor: Visitor) -> Self {
        Self {
            text: search::text(&visitor),
            visitor: Arc::new(visitor),
            pages: Vec::new(),
            agents: Vec::new(),
        }
    }

    /// Whether nobody would miss this visitor.
    pub(super) fn is_idle(&self) -> bool {
        !self.visitor.is_online && self.agents.is_empty()
    }

    /// Connects a socket; `None` when there are too many of them.
    pub(super) fn join(&mut self, side: Side, number: u64, name: String) -> Option<Inbox> {
        let lines = self.lines(side);
        if lines.len() >= MAX_LINES {
            return None;
        }
        let (to, inbox) = mpsc::channel(LINE_LENGTH);
        lines.push(Line { number, name, to });
        Some(inbox)
    }

    /// Disconnects a socket; whether it was the last one of its side.
    pub(super) fn leave(&mut self, side: Side, number: u64) -> bool {
        let lines = self.lines(side);
        lines.retain(|line| line.number != number);
        lines.is_empty()
    }

    /// Changes the visitor and shows the new state to its pages and agents.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Visitor)) {
        let visitor = Arc::make_mut(&mut self.visitor);
        change(visitor);
        self.text = search::text(visitor);
        let state = json!({"type": "state", "visitor": visitor});
        self.tell(Side::Page, &state);
        self.tell(Side::Agent, &state);
    }

    /// Tells the visitor's pages who watches.
    pub(super) fn tell_session(&mut self) {
        let names: Vec<&str> = self.agents.iter().map(|a| a.name.as_str()).collect();
        let session = json!({"type": "session", "agents": names});
        self.tell(Side::Page, &session);
    }

    /// Sends what must arrive. A socket that has no room for it is let go of: it comes back and
    /// then sees the newest state.
    fn tell(&mut self, side: Side, message: &Value) {
        let message = Utf8Bytes::from(message.to_string());
        self.lines(side)
            .retain(|line| line.to.try_send(message.clone()).is_ok());
    }

    /// Sends what is soon out of date, such as a pointer or a hint; a socket without room goes without.
    pub(super) fn mention(&mut self, side: Side, message: &Value) {
        let message = Utf8Bytes::from(message.to_string());
        for line in self.lines(side) {
            line.to.try_send(message.clone()).ok();
        }
    }

    fn lines(&mut self, side: Side) -> &mut Vec<Line> {
        match side {
            Side::Page => &mut self.pages,
            Side::Agent => &mut self.agents,
        }
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn a_socket_too_slow_misses_pointers_but_never_silently_a_state() {
        let nowhere = [192, 0, 2, 1].into();
        let visitor = Visitor::new("ABCD1234".into(), nowhere, OffsetDateTime::UNIX_EPOCH);
        let mut record = Record::new(visitor);
        let mut inbox = record.join(Side::Agent, 1, "Ada".into()).unwrap();
        for _ in 0..LINE_LENGTH + 1 {
            record.mention(Side::Agent, &json!("pointer"));
        }
        assert_eq!(record.agents.len(), 1);
        record.change(|visitor| visitor.is_online = true);
        assert!(record.agents.is_empty());
        while inbox.try_recv().is_ok() {}
        assert!(inbox.is_closed());
    }

    #[test]
    fn the_sockets_of_one_visitor_are_bounded() {
        let nowhere = [192, 0, 2, 1].into();
        let visitor = Visitor::new("ABCD1234".into(), nowhere, OffsetDateTime::UNIX_EPOCH);
        let mut record = Record::new(visitor);
        for number in 0..MAX_LINES as u64 {
            assert!(record.join(Side::Page, number, String::new()).is_some());
        }
        assert!(record.join(Side::Page, 99, String::new()).is_none());
        assert!(!record.leave(Side::Page, 0));
        assert!(record.join(Side::Page, 99, String::new()).is_some());
    }
}
