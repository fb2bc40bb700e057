//! The table of fields that both ends know (RFC 7541 sections 2.3 and 4, appendix A).

use std::collections::VecDeque;
use std::sync::LazyLock;

use super::field::{Field, Name};

/// What each entry counts beside its name and its value.
pub(super) const OVERHEAD: usize = 32;

#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""),
    ("cache-control", ""), ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""),
    ("content-length", ""), ("content-location", ""), ("content-range", ""), ("content-type", ""),
    ("cookie", ""), ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""),
    ("via", ""), ("www-authenticate", ""),
];

static PARSED: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let entry = |(name, value): &(&str, &str)| Entry {
        field: Name::of(name.as_bytes()).with(value.as_bytes()),
        size: name.len() + value.len() + OVERHEAD,
        name: name.len(),
    };
    STATIC.iter().map(entry).collect()
});

/// The number of a name among the fields that everybody knows.
pub(super) fn well_known(name: &str) -> Option<usize> {
    // By alphabet from `accept-charset` on, but for one.
    let by_name = STATIC[14..].iter().position(|(known, _)| *known == name)?;
    Some(by_name + 15)
}

/// A field, and what it counts.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) field: Field,
    pub(super) size: usize,
    /// The length of its name.
    pub(super) name: usize,
}

/// What a client has told, the newest first.
#[derive(Debug)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    /// As much as the client wants it to hold.
    room: usize,
}

impl Table {
    pub(super) fn new(room: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            room,
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        let at = index.checked_sub(1)?;
        match at.checked_sub(STATIC.len()) {
            None => PARSED.get(at),
            Some(at) => self.entries.get(at),
        }
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        self.evict(self.room.saturating_sub(entry.size));
        // One that is larger than the table empties it (RFC 7541 section 4.4).
        if entry.size <= self.room {
            self.size += entry.size;
            self.entries.push_front(entry);
        }
    }

    pub(super) fn resize(&mut self, room: usize) {
        self.room = room;
        self.evict(room);
    }

    fn evict(&mut self, most: usize) {
        while self.size > most
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size;
        }
    }
}
