//! The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B).
//!
//! Codes are numbered by their length, then by their symbol, so that the lengths say all.

use std::sync::LazyLock;

/// The end of a string: its first bits fill the last byte, and it is never written whole.
const END: u16 = 256;
const LONGEST: usize = 30;
/// Codes of so many bits are looked up at once.
const SHORT: usize = 8;

/// The length of each symbol's code, bits.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

struct Codes {
    /// By the next bits: a symbol and its length; length 0: its code is longer.
    short: [(u8, u8); 1 << SHORT],
    /// Symbols in the order of their codes.
    symbols: [u16; 257],
    /// Of each length: where its symbols begin, and the first code that is longer, left-aligned in 32 bits.
    lengths: [(usize, u64); LONGEST + 1],
    /// Of each length its first code.
    first: [u32; LONGEST + 1],
}

static CODES: LazyLock<Codes> = LazyLock::new(Codes::new);

impl Codes {
    fn new() -> Self {
        let mut codes = Self {
            short: [(0, 0); 1 << SHORT],
            symbols: [0; 257],
            lengths: [(0, 0); LONGEST + 1],
            first: [0; LONGEST + 1],
        };
        let (mut code, mut at) = (0u32, 0);
        for length in 1..=LONGEST {
            code <<= 1;
            codes.first[length] = code;
            codes.lengths[length].0 = at;
            for symbol in 0..=END {
                if usize::from(LENGTHS[usize::from(symbol)]) != length {
                    continue;
                }
                codes.symbols[at] = symbol;
                if length <= SHORT {
                    let begin = (code as usize) << (SHORT - length);
                    let entry = (symbol as u8, length as u8);
                    codes.short[begin..begin + (1 << (SHORT - length))].fill(entry);
                }
                (code, at) = (code + 1, at + 1);
            }
            codes.lengths[length].1 = u64::from(code) << (32 - length);
        }
        codes
    }
}

/// Appends what `coded` stands for; `None`: it is no string of this code.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let codes = &*CODES;
    out.reserve(coded.len() * 8 / 5);
    // The next bits, left-aligned, and how many of them there are.
    let (mut bits, mut count) = (0u64, 0usize);
    let mut rest = coded.iter();
    loop {
        while count <= 56
            && let Some(byte) = rest.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        let (symbol, length) = codes.short[(bits >> (64 - SHORT)) as usize];
        let length = usize::from(length);
        if length != 0 && length <= count {
            out.push(symbol);
            bits <<= length;
            count -= length;
            continue;
        }
        // A last piece of less than a byte is of ones only.
        if count < 8 && bits == !(u64::MAX >> count) {
            return Some(());
        }
        let next = bits >> 32;
        let length = (SHORT + 1..=LONGEST).find(|length| next < codes.lengths[*length].1)?;
        let nth = ((next >> (32 - length)) as u32).checked_sub(codes.first[length])?;
        let symbol = codes.symbols[codes.lengths[length].0 + nth as usize];
        if length > count {
            return None;
        }
        out.push(u8::try_from(symbol).ok()?);
        bits <<= length;
        count -= length;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(text: &[u8]) -> Vec<u8> {
        let codes = &*CODES;
        let mut bits = String::new();
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let begin = codes.lengths[length].0;
            let nth = codes.symbols[begin..]
                .iter()
                .position(|s| *s == u16::from(*byte));
            let code = codes.first[length] + nth.unwrap() as u32;
            bits += &format!("{code:0length$b}");
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let byte = |at: usize| u8::from_str_radix(&bits[at..at + 8], 2).unwrap();
        (0..bits.len()).step_by(8).map(byte).collect()
    }

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    fn hex(text: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(byte).collect()
    }

    /// RFC 7541 appendix C.4 and C.6.
    #[test]
    fn the_examples_of_the_standard_are_read() {
        for (coded, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            (
                "d07abe941054d444a8200595040b8166e082a62d1bff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            (
                "9d29ad171863c78f0b97c8e9ae82ae43d3",
                "https://www.example.com",
            ),
            ("640eff", "307"),
            ("", ""),
        ] {
            assert_eq!(decoded(&hex(coded)).unwrap(), text.as_bytes(), "{text}");
        }
    }

    #[test]
    fn what_is_no_string_of_the_code_is_told() {
        for bad in [
            "ff",
            "1fff",
            "00",
            "fffffffc",
            "ffffffff",
            "f1e3c2e5f23a6ba0ab90f4ffff",
        ] {
            assert_eq!(decoded(&hex(bad)), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(text in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decoded(&encode(&text)).unwrap(), text);
        }

        #[test]
        fn no_bytes_make_it_panic(coded in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(text) = decoded(&coded) {
                prop_assert_eq!(encode(&text), coded);
            }
        }
    }
}
