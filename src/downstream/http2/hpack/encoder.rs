//! Writing heads. What answers have in common is told once a connection.

use std::collections::VecDeque;

use http::{HeaderName, HeaderValue, StatusCode, header};

use super::ROOM;
use super::table::{OVERHEAD, well_known};

/// Where a field that was told may be found again.
const SLOTS: usize = 32;
/// The number of the first entry that is not known to everybody.
const FIRST: usize = 62;

/// Fields that were told, the newest first, as the client's table holds them.
#[derive(Debug)]
pub(in super::super) struct Encoder {
    told: VecDeque<(HeaderName, HeaderValue)>,
    size: usize,
    room: usize,
    /// The least and the last room since the last head, where it changed.
    changed: Option<(usize, usize)>,
    /// How many were ever told.
    count: u32,
    /// By a field's looks: the counts of the last two that look so.
    slots: Box<[[u32; 2]; SLOTS]>,
}

/// Whether a field is worth telling.
enum Worth {
    /// Other answers have the same.
    Often,
    /// Each has another; the number of its name among those that everybody knows, or 0.
    Once(usize),
    /// Nobody on the way may keep it (RFC 7541 section 7.1.3).
    Never,
}

impl Worth {
    fn of(name: &HeaderName) -> Self {
        match *name {
            header::SET_COOKIE => Self::Never,
            header::AGE => Self::Once(21),
            header::CONTENT_LENGTH => Self::Once(28),
            header::CONTENT_RANGE => Self::Once(30),
            header::ETAG => Self::Once(34),
            header::LAST_MODIFIED => Self::Once(44),
            header::LOCATION => Self::Once(46),
            header::RETRY_AFTER => Self::Once(53),
            _ => match name.as_str() {
                "x-request-id" | "ratelimit" => Self::Once(0),
                _ => Self::Often,
            },
        }
    }
}

fn looks(name: &str, value: &[u8]) -> usize {
    let (name, ends) = (name.as_bytes(), |bytes: &[u8]| {
        bytes.first().zip(bytes.last()).map_or(0, |(first, last)| {
            usize::from(*first) * 7 + usize::from(*last) * 3 + bytes.len()
        })
    });
    (ends(name) * 5 + ends(value)) % SLOTS
}

impl Encoder {
    pub(in super::super) fn new() -> Self {
        Self {
            told: VecDeque::new(),
            size: 0,
            room: ROOM,
            changed: None,
            count: 0,
            slots: Box::new([[0; 2]; SLOTS]),
        }
    }

    /// The client's table holds so much from now on.
    pub(in super::super) fn resize(&mut self, room: u32) {
        let room = ROOM.min(room as usize);
        let least = self.changed.map_or(room, |(least, _)| least.min(room));
        self.changed = Some((least, room));
    }

    /// Begins a head.
    pub(in super::super) fn status(&mut self, status: StatusCode, out: &mut Vec<u8>) {
        if let Some((least, last)) = self.changed.take() {
            // RFC 7541 section 4.2.
            for room in [Some(least).filter(|least| *least < last), Some(last)] {
                let Some(room) = room else { continue };
                integer(out, 0x20, 5, room);
                self.room = room;
                self.evict(room);
            }
        }
        let known = match status.as_u16() {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                integer(out, 0, 4, 8);
                string(out, status.as_str().as_bytes());
                return;
            }
        };
        integer(out, 0x80, 7, known);
    }

    /// The next field of it.
    pub(in super::super) fn field(
        &mut self,
        name: &HeaderName,
        value: &HeaderValue,
        out: &mut Vec<u8>,
    ) {
        let (pattern, prefix, known) = match Worth::of(name) {
            Worth::Once(known) => (0, 4, known),
            Worth::Never => (0x10, 4, 55),
            Worth::Often => {
                let slot = looks(name.as_str(), value.as_bytes());
                if let Some(ago) = self.find(slot, name, value) {
                    integer(out, 0x80, 7, FIRST + ago);
                    return;
                }
                let size = name.as_str().len() + value.len() + OVERHEAD;
                let known = well_known(name.as_str()).unwrap_or(0);
                if size > self.room / 4 {
                    (0, 4, known)
                } else {
                    self.tell(slot, size, name, value);
                    (0x40, 6, known)
                }
            }
        };
        integer(out, pattern, prefix, known);
        if known == 0 {
            string(out, name.as_str().as_bytes());
        }
        string(out, value.as_bytes());
    }

    /// How many were told since the field was, if it was and the client still has it.
    fn find(&self, slot: usize, name: &HeaderName, value: &HeaderValue) -> Option<usize> {
        let counts = self.slots[slot].iter().filter(|count| **count > 0);
        let mut agos = counts.map(|count| self.count.wrapping_sub(*count) as usize);
        agos.find(|ago| {
            let told = self.told.get(*ago);
            told.is_some_and(|(told_name, told)| told_name == name && told == value)
        })
    }

    fn tell(&mut self, slot: usize, size: usize, name: &HeaderName, value: &HeaderValue) {
        self.evict(self.room - size);
        self.size += size;
        // A copy, so that it does not hold all of the head it came in.
        let copy = HeaderValue::from_bytes(value.as_bytes());
        self.told
            .push_front((name.clone(), copy.unwrap_or(HeaderValue::from_static(""))));
        self.count = self.count.wrapping_add(1).max(1);
        let [last, before] = &mut self.slots[slot];
        *before = std::mem::replace(last, self.count);
    }

    fn evict(&mut self, most: usize) {
        while self.size > most
            && let Some((name, value)) = self.told.pop_back()
        {
            self.size -= name.as_str().len() + value.len() + OVERHEAD;
        }
    }
}

/// RFC 7541 section 5.1.
fn integer(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let most = (1usize << prefix) - 1;
    if value < most {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// As it is: folding it takes longer than sending it.
fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    integer(out, 0, 7, bytes.len());
    out.extend_from_slice(bytes);
}
