//! The visitors, and who is connected to each of them now.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use time::OffsetDateTime;

use super::object::Visitor;
use super::record::{Inbox, Record, Side};
use super::search::Query;
use super::token;

/// Most visitors kept; the offline one seen longest ago makes room for a new one.
pub(super) const MAX_VISITORS: usize = 10_000;
/// Most visitors in one answer. The contract knows no paging.
pub(super) const MAX_LIST: usize = 100;

/// All visitors, in memory. Locked for the length of one call, never across an await.
#[derive(Default)]
pub(super) struct Store(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    records: HashMap<String, Record>,
    /// Lookup codes of all stored visitors: none names two of them, online or not.
    codes: HashSet<u16>,
    last_line: u64,
}

/// A socket's place at a visitor. Dropping it leaves, however the socket's task ended.
pub(super) struct Seat {
    store: Arc<Store>,
    short_id: String,
    side: Side,
    number: u64,
}

/// Why a visitor or socket was not taken in.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Too many visitors online or sockets on this visitor.
    Full,
    /// There is no visitor of this id (any more).
    Unknown,
    /// Another visitor has this id or lookup code.
    Taken(&'static str),
    /// The system gave no random bytes.
    Random(std::io::Error),
}

impl Store {
    /// The online visitors, newest first, at most [`MAX_LIST`].
    pub(super) fn latest(&self) -> Vec<Arc<Visitor>> {
        self.select(|record| record.visitor.is_online)
    }

    /// The visitors that match, newest first, at most [`MAX_LIST`].
    pub(super) fn search(&self, query: &Query) -> Vec<Arc<Visitor>> {
        self.select(|record| query.matches(&record.visitor, &record.text))
    }

    /// The visitor of this short id.
    pub(super) fn get(&self, short_id: &str) -> Option<Arc<Visitor>> {
        let inner = self.lock();
        Some(Arc::clone(&inner.records.get(short_id)?.visitor))
    }

    /// Takes in a visitor of the seed file; one without a lookup code gets a free one.
    pub(super) fn insert(&self, visitor: Visitor) -> Result<(), Refusal> {
        self.lock().insert(visitor)
    }

    /// A page of a visitor came online: of the one of `resume`, if it is still stored, or of a
    /// new one. `describe` writes down what is known of the browser now.
    pub(super) fn arrive(
        self: &Arc<Self>,
        resume: Option<&str>,
        describe: impl FnOnce(&mut Visitor),
    ) -> Result<(Seat, Inbox), Refusal> {
        let mut inner = self.lock();
        let short_id = match resume {
            Some(known) if inner.records.contains_key(known) => known.to_owned(),
            _ => inner.insert_new()?,
        };
        let (number, inbox, record) = inner.connect(&short_id, Side::Page, String::new())?;
        record.change(|visitor| {
            visitor.is_online = true;
            visitor.last_seen_at = OffsetDateTime::now_utc();
            describe(visitor);
        });
        // Another tab may have brought an agent along.
        record.tell_session();
        Ok((self.seat(short_id, Side::Page, number), inbox))
    }

    /// An agent opened the screen of a visitor, which is in session from now on.
    pub(super) fn attend(
        self: &Arc<Self>,
        short_id: &str,
        agent_name: &str,
    ) -> Result<(Seat, Inbox), Refusal> {
        let mut inner = self.lock();
        let name = agent_name.to_owned();
        let (number, inbox, record) = inner.connect(short_id, Side::Agent, name)?;
        record.change(|visitor| visitor.is_in_session = true);
        record.tell_session();
        Ok((self.seat(short_id.to_owned(), Side::Agent, number), inbox))
    }

    fn seat(self: &Arc<Self>, short_id: String, side: Side, number: u64) -> Seat {
        Seat {
            store: Arc::clone(self),
            short_id,
            side,
            number,
        }
    }

    fn select(&self, wanted: impl Fn(&Record) -> bool) -> Vec<Arc<Visitor>> {
        let inner = self.lock();
        let mut found: Vec<&Record> = inner.records.values().filter(|r| wanted(r)).collect();
        let newest_first = |a: &&Record, b: &&Record| {
            let (a, b) = (&a.visitor, &b.visitor);
            // The id makes the order of visitors seen at the same time the same every time.
            (b.last_seen_at, &a.short_id).cmp(&(a.last_seen_at, &b.short_id))
        };
        if found.len() > MAX_LIST {
            found.select_nth_unstable_by(MAX_LIST, newest_first);
            found.truncate(MAX_LIST);
        }
        found.sort_unstable_by(newest_first);
        found.iter().map(|r| Arc::clone(&r.visitor)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while locked leaves at worst one visitor half changed; the rest is still true.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn insert_new(&mut self) -> Result<String, Refusal> {
        loop {
            let short_id = token::short_id().map_err(Refusal::Random)?;
            if !self.records.contains_key(&short_id) {
                let nowhere = std::net::Ipv4Addr::UNSPECIFIED.into();
                let now = OffsetDateTime::now_utc();
                self.insert(Visitor::new(short_id.clone(), nowhere, now))?;
                return Ok(short_id);
            }
        }
    }

    fn insert(&mut self, mut visitor: Visitor) -> Result<(), Refusal> {
        if self.records.contains_key(&visitor.short_id) {
            return Err(Refusal::Taken("short_id"));
        }
        if self.records.len() >= MAX_VISITORS {
            self.evict()?;
        }
        let code = match &visitor.lookup_code {
            Some(code) => code
                .parse()
                .map_err(|_not_digits| Refusal::Taken("lookup_code"))?,
            None => self.free_code()?,
        };
        if !self.codes.insert(code) {
            return Err(Refusal::Taken("lookup_code"));
        }
        visitor.lookup_code = Some(format!("{code:04}"));
        let short_id = visitor.short_id.clone();
        self.records.insert(short_id, Record::new(visitor));
        Ok(())
    }

    /// A code no stored visitor has. There are as many codes as visitors may be stored.
    fn free_code(&self) -> Result<u16, Refusal> {
        let random = u16::from_be_bytes(token::random_bytes().map_err(Refusal::Random)?) % 10_000;
        (random..10_000)
            .chain(0..random)
            .find(|code| !self.codes.contains(code))
            .ok_or(Refusal::Full)
    }

    fn evict(&mut self) -> Result<(), Refusal> {
        let oldest = self
            .records
            .values()
            .filter(|r| r.is_idle())
            .min_by_key(|r| r.visitor.last_seen_at)
            .map(|r| r.visitor.short_id.clone())
            .ok_or(Refusal::Full)?;
        if let Some(record) = self.records.remove(&oldest)
            && let Some(code) = &record.visitor.lookup_code
            && let Ok(code) = code.parse()
        {
            self.codes.remove(&code);
        }
        Ok(())
    }

    fn connect(
        &mut self,
        short_id: &str,
        side: Side,
        name: String,
    ) -> Result<(u64, Inbox, &mut Record), Refusal> {
        let record = self.records.get_mut(short_id).ok_or(Refusal::Unknown)?;
        self.last_line += 1;
        let number = self.last_line;
        let inbox = record.join(side, number, name).ok_or(Refusal::Full)?;
        Ok((number, inbox, record))
    }

    fn disconnect(&mut self, short_id: &str, side: Side, number: u64) {
        let Some(record) = self.records.get_mut(short_id) else {
            return;
        };
        let nobody_left = record.leave(side, number);
        match side {
            Side::Page if nobody_left => record.change(|visitor| {
                visitor.is_online = false;
                visitor.last_seen_at = OffsetDateTime::now_utc();
            }),
            Side::Page => {}
            Side::Agent => {
                if nobody_left {
                    record.change(|visitor| visitor.is_in_session = false);
                }
                record.tell_session();
            }
        }
    }
}

impl Seat {
    /// The short id of the visitor.
    pub(super) fn short_id(&self) -> &str {
        &self.short_id
    }

    /// Changes the visitor and shows it to everybody connected.
    pub(super) fn change(&self, change: impl FnOnce(&mut Visitor)) {
        self.with_record(|record| record.change(change));
    }

    /// Notes that the visitor is there; silently, as it happens all the time.
    pub(super) fn seen(&self) {
        self.with_record(|record| {
            Arc::make_mut(&mut record.visitor).last_seen_at = OffsetDateTime::now_utc();
        });
    }

    /// Sends a message to the sockets of the other side that have room for it.
    pub(super) fn mention(&self, message: &Value) {
        let other = match self.side {
            Side::Page => Side::Agent,
            Side::Agent => Side::Page,
        };
        self.with_record(|record| record.mention(other, message));
    }

    fn with_record(&self, act: impl FnOnce(&mut Record)) {
        if let Some(record) = self.store.lock().records.get_mut(&self.short_id) {
            act(record);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.store
            .lock()
            .disconnect(&self.short_id, self.side, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(number: usize, online: bool) -> Visitor {
        let seen = OffsetDateTime::from_unix_timestamp(i64::try_from(number).unwrap()).unwrap();
        let mut visitor = Visitor::new(format!("V{number}"), [192, 0, 2, 1].into(), seen);
        visitor.is_online = online;
        visitor
    }

    #[test]
    fn latest_are_the_hundred_online_visitors_seen_last() {
        let store = Store::default();
        for number in 0..150 {
            store.insert(visitor(number, number != 148)).unwrap();
        }
        let latest = store.latest();
        assert_eq!(latest.len(), MAX_LIST);
        assert_eq!(latest[0].short_id, "V149");
        assert_eq!(latest[1].short_id, "V147");
        assert!(latest.is_sorted_by_key(|v| std::cmp::Reverse(v.last_seen_at)));
    }

    #[test]
    fn a_full_store_lets_go_of_the_offline_visitor_seen_longest_ago() {
        let store = Arc::new(Store::default());
        for number in 0..MAX_VISITORS {
            store
                .insert(visitor(number, number != 5 && number != 7))
                .unwrap();
        }
        let (_first, _inbox) = store.arrive(None, |_| {}).unwrap();
        assert!(store.get("V5").is_none());
        assert!(store.get("V7").is_some());
        let (_second, _inbox) = store.arrive(None, |_| {}).unwrap();
        assert!(store.get("V7").is_none());
        assert!(matches!(store.arrive(None, |_| {}), Err(Refusal::Full)));
    }

    #[test]
    fn lookup_codes_are_four_digits_and_never_shared() {
        let store = Store::default();
        for number in 0..MAX_VISITORS {
            store.insert(visitor(number, true)).unwrap();
        }
        let inner = store.lock();
        assert_eq!(inner.codes.len(), MAX_VISITORS);
        for record in inner.records.values() {
            assert_eq!(record.visitor.lookup_code.as_ref().unwrap().len(), 4);
        }
    }

    #[test]
    fn a_visitor_is_online_until_its_last_page_closed() {
        let store = Arc::new(Store::default());
        let (first, _inbox) = store.arrive(None, |_| {}).unwrap();
        let id = first.short_id().to_owned();
        let (second, _inbox) = store.arrive(Some(&id), |_| {}).unwrap();
        assert_eq!(second.short_id(), id);
        drop(first);
        assert!(store.get(&id).unwrap().is_online);
        drop(second);
        assert!(!store.get(&id).unwrap().is_online);
    }

    #[test]
    fn a_visitor_is_in_session_while_an_agent_is_there_and_is_told_who() {
        let store = Arc::new(Store::default());
        let (page, mut inbox) = store.arrive(None, |_| {}).unwrap();
        let (agent, _inbox) = store.attend(page.short_id(), "Ada").unwrap();
        assert!(store.get(page.short_id()).unwrap().is_in_session);
        drop(agent);
        assert!(!store.get(page.short_id()).unwrap().is_in_session);
        let told: Vec<_> = std::iter::from_fn(|| inbox.try_recv().ok()).collect();
        assert!(told.iter().any(|t| t.contains(r#""agents":["Ada"]"#)));
        assert!(told.last().unwrap().contains(r#""agents":[]"#));
    }
}
