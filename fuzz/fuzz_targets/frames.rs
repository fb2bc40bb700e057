//! Frames of HTTP/2 are the same frames however the bytes are cut, and what is counted is what a
//! plain reading counts.
#![no_main]

use std::time::Duration;

use cobrowse_gateway::downstream::frames::Frames;
use libfuzzer_sys::fuzz_target;
use tokio::time::Instant;

const MOST: u32 = 3;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let now = Instant::now();
    let (mut whole, mut cut) = (Frames::new(MOST), Frames::new(MOST));
    whole.saw(bytes, now);
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        cut.saw(piece, now + Duration::from_millis(1));
    }
    let told = |f: &Frames| (f.flooded(), f.half_head_since().is_some(), f.newest());
    assert_eq!(told(&whole), told(&cut));
    assert_eq!(whole.flooded(), counted(bytes.get(24..).unwrap_or_default()) > MOST);
});

/// Control frames whose heads, and increments, are there.
fn counted(mut bytes: &[u8]) -> u32 {
    let mut count = 0;
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let control = match head[3] {
            0 => length == 0 && head[4] & 1 == 0,
            1 | 9 => false,
            8 if length == 4 => match rest.get(..4) {
                Some(by) => by[0] == 0 && by[1] == 0 && by[2] < 4,
                None => break,
            },
            _ => true,
        };
        count += u32::from(control);
        bytes = rest.get(length..).unwrap_or_default();
    }
    count
}
