//! The deadlines of a connection.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::pipeline::Session;
use crate::snapshot::ConnectionLimits;

/// What was awaited for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// The rest of a request's head.
    Head,
    /// The client, to take what is written to it.
    Write,
    /// A request.
    Quiet,
}

/// One alarm for all of them. The session tells when requests begin and end.
pub(super) struct Clock<'s> {
    session: &'s Session,
    header: Duration,
    write_stall: Duration,
    keep_alive: Duration,
    alarm: Alarm,
    begun: Instant,
}

impl<'s> Clock<'s> {
    pub(super) fn new(session: &'s Session, limits: &ConnectionLimits) -> Self {
        Self {
            session,
            header: limits.header,
            write_stall: limits.write_stall,
            keep_alive: limits.keep_alive,
            alarm: Alarm::new(limits.header),
            begun: Instant::now(),
        }
    }

    /// A quiet client was told farewell: it has as long to take that as for a head.
    pub(super) fn said_farewell(&mut self) {
        self.keep_alive = self.keep_alive.min(self.header);
        self.session.quiet_since.set(Some(Instant::now()));
    }

    /// Gives a connection on which nothing has come yet no more than `rest`.
    pub(super) fn hasten(&mut self, rest: Duration) {
        let end = (self.begun + self.header).min(Instant::now() + rest);
        self.begun = end.checked_sub(self.header).unwrap_or(self.begun);
    }

    fn deadline(&self) -> Option<(Instant, Late)> {
        let session = self.session;
        if let Some(since) = session.stalled_since.get() {
            return Some((since + self.write_stall, Late::Write));
        }
        if let Some(since) = session.head_since.get() {
            return Some((since + self.header, Late::Head));
        }
        if session.in_flight.get() > 0 {
            // However long a request takes: it has limits of its own.
            return None;
        }
        let end = match session.quiet_since.get() {
            Some(since) => since + self.keep_alive,
            None => self.begun + self.header,
        };
        Some((end, Late::Quiet))
    }

    /// Ready when the connection is to be closed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        match self.deadline() {
            Some((end, late)) => self.alarm.poll(cx, end).map(|()| late),
            None => Poll::Pending,
        }
    }
}
