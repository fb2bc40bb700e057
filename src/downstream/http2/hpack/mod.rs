//! HPACK (RFC 7541): heads of requests are read, heads of answers are written.

mod encoder;
mod field;
mod huffman;
mod table;

use std::cell::RefCell;

pub(super) use encoder::Encoder;
pub(super) use field::{Field, Name};
use table::{Entry, OVERHEAD, Table};

/// As much as a table may hold, bytes: what both sides begin with.
const ROOM: usize = 4 << 10;

thread_local! {
    /// Where strings are unfolded to: name, value.
    static UNFOLDED: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// A block is not HPACK: the tables of both ends are not the same any more (COMPRESSION_ERROR).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// Reads heads.
#[derive(Debug)]
pub(super) struct Decoder {
    table: Table,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            table: Table::new(ROOM),
        }
    }

    /// Gives each field of `block` to `take`, with what it counts (RFC 9113 section 10.5.1).
    pub(super) fn decode(
        &mut self,
        block: &[u8],
        mut take: impl FnMut(&Field, usize),
    ) -> Result<(), Broken> {
        let mut rest = block;
        let mut began = false;
        while let Some(&first) = rest.first() {
            if first & 0xe0 == 0x20 {
                // Only before the first field (RFC 7541 section 4.2).
                let room = integer(&mut rest, 5)?;
                if began || room > ROOM {
                    return Err(Broken);
                }
                self.table.resize(room);
                continue;
            }
            began = true;
            if first & 0x80 > 0 {
                let index = integer(&mut rest, 7)?;
                let entry = self.table.get(index).ok_or(Broken)?;
                take(&entry.field, entry.size);
                continue;
            }
            let remember = first & 0x40 > 0;
            let entry = self.literal(&mut rest, if remember { 6 } else { 4 })?;
            take(&entry.field, entry.size);
            if remember {
                self.table.insert(entry);
            }
        }
        Ok(())
    }

    fn literal(&self, rest: &mut &[u8], prefix: u32) -> Result<Entry, Broken> {
        let index = integer(rest, prefix)?;
        UNFOLDED.with_borrow_mut(|(unfolded_name, unfolded_value)| {
            let (name, length) = if index == 0 {
                let name = string(rest, unfolded_name)?;
                (Name::of(name), name.len())
            } else {
                let entry = self.table.get(index).ok_or(Broken)?;
                (entry.field.name(), entry.name)
            };
            let value = string(rest, unfolded_value)?;
            Ok(Entry {
                field: name.with(value),
                size: length + value.len() + OVERHEAD,
                name: length,
            })
        })
    }
}

/// RFC 7541 section 5.1; numbers of more than 28 bits mean nothing here.
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, Broken> {
    let (&first, mut after) = rest.split_first().ok_or(Broken)?;
    let most = (1usize << prefix) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, left) = after.split_first().ok_or(Broken)?;
            after = left;
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 21 {
                return Err(Broken);
            }
        }
    }
    *rest = after;
    Ok(value)
}

/// RFC 7541 section 5.2.
fn string<'a, 'b: 'a>(rest: &mut &'b [u8], unfolded: &'a mut Vec<u8>) -> Result<&'a [u8], Broken> {
    let folded = rest.first().is_some_and(|first| first & 0x80 > 0);
    let length = integer(rest, 7)?;
    let (string, after) = rest.split_at_checked(length).ok_or(Broken)?;
    *rest = after;
    if !folded {
        return Ok(string);
    }
    unfolded.clear();
    huffman::decode(string, unfolded).ok_or(Broken)?;
    Ok(unfolded)
}

#[cfg(test)]
mod tests;
