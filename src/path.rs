//! One canonical path: what is matched, authorised and forwarded is the same string.
//!
//! Escapes of unreserved characters are decoded once and dot segments resolved (RFC 3986 sections
//! 5.2.4 and 6.2.2); empty segments are merged. What could mean one thing here and another at the
//! backend is refused, or, where the configuration opens it, judged in every way it could be read.

use std::borrow::Cow;

use crate::reject::Reject;

/// What is let through although a backend could read it in more than one way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compat {
    /// `;` in a path.
    pub path_parameters: bool,
    /// `%2F` in a path.
    pub encoded_slashes: bool,
    /// `%25` in a path.
    pub encoded_percent: bool,
}

/// A canonical path.
#[derive(Debug, PartialEq, Eq)]
pub struct Canonical<'p> {
    /// The path; borrowed when it came so.
    pub path: Cow<'p, str>,
    /// It has something that only [`Compat`] lets through.
    pub opened: bool,
}

/// The canonical form of `raw`.
pub fn canonical(raw: &str, compat: Compat) -> Result<Canonical<'_>, Reject> {
    const NOT_A_PATH: Reject = Reject::BadRequest("The request's target must be a path.");
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(NOT_A_PATH);
    }
    let mut previous = b' ';
    for &byte in bytes {
        if !PLAIN[byte as usize] || previous == b'/' && matches!(byte, b'/' | b'.') {
            let (path, opened) = decode(bytes, compat)?;
            return Ok(Canonical {
                path: Cow::Owned(without_dots(&path)),
                opened,
            });
        }
        previous = byte;
    }
    Ok(Canonical {
        path: Cow::Borrowed(raw),
        opened: false,
    })
}

/// Decodes the escapes of unreserved characters, writes the others in upper case, and refuses
/// what is ambiguous.
fn decode(raw: &[u8], compat: Compat) -> Result<(String, bool), Reject> {
    const MALFORMED: Reject = Reject::BadRequest("The path has a malformed percent-escape.");
    const CHARACTER: Reject =
        Reject::BadRequest("The path has a character that must be percent-encoded.");
    const SEPARATOR: Reject = Reject::AmbiguousPath("The path has an encoded or reversed slash.");
    const CONTROL: Reject = Reject::AmbiguousPath("The path has a control character.");
    const TWICE: Reject = Reject::AmbiguousPath("The path is percent-encoded twice.");
    const PARAMETER: Reject = Reject::AmbiguousPath("The path has a parameter (;).");
    const ENCODING: Reject = Reject::AmbiguousPath("The path is not UTF-8.");

    let mut opened = false;
    let mut open = |by: bool, or: Reject| {
        opened |= by;
        if by { Ok(()) } else { Err(or) }
    };
    let mut path = String::with_capacity(raw.len());
    let mut meant = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let (Some(high), Some(low)) =
                    (bytes.next().and_then(hex), bytes.next().and_then(hex))
                else {
                    return Err(MALFORMED);
                };
                match high << 4 | low {
                    b'\\' => return Err(SEPARATOR),
                    0..=0x1f | 0x7f => return Err(CONTROL),
                    byte if UNRESERVED[byte as usize] => byte,
                    byte => {
                        match byte {
                            b'/' => open(compat.encoded_slashes, SEPARATOR)?,
                            b'%' => open(compat.encoded_percent, TWICE)?,
                            _ => {}
                        }
                        path.push('%');
                        path.push(char::from(b"0123456789ABCDEF"[usize::from(high)]));
                        path.push(char::from(b"0123456789ABCDEF"[usize::from(low)]));
                        meant.push(byte);
                        continue;
                    }
                }
            }
            b'\\' => return Err(SEPARATOR),
            b';' => {
                open(compat.path_parameters, PARAMETER)?;
                byte
            }
            0..=0x1f | 0x7f => return Err(CONTROL),
            byte if PLAIN[byte as usize] => byte,
            _ => return Err(CHARACTER),
        };
        path.push(char::from(byte));
        meant.push(byte);
    }
    std::str::from_utf8(&meant).map_err(|_invalid| ENCODING)?;
    Ok((path, opened))
}

/// Resolves `.` and `..` and merges empty segments.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut folder = false;
    for segment in path.split('/').skip(1) {
        folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if folder || kept.is_empty() {
        out.push('/');
    }
    out
}

/// Every way in which a lenient backend could read a path that [`Compat`] let through: escapes
/// decoded again and again, parameters cut off, either slash a separator, dots resolved or not.
pub fn readings(path: &str) -> Vec<String> {
    let mut readings = Vec::new();
    let mut decoded = path.as_bytes().to_vec();
    loop {
        let text = String::from_utf8_lossy(&decoded).replace('\\', "/");
        let plain: String = text
            .split('/')
            .map(|segment| segment.split(';').next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("/");
        for read in [text, plain] {
            readings.push(without_dots(&read));
            readings.push(read);
        }
        let again = decoded_once(&decoded);
        if again == decoded {
            return readings;
        }
        decoded = again;
    }
}

/// Each escape decoded; what is none stays.
pub fn decoded_once(raw: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((byte, after)) = rest.split_first() {
        match (byte, after) {
            (b'%', [high, low, after @ ..])
                if let (Some(high), Some(low)) = (hex(*high), hex(*low)) =>
            {
                decoded.push(high << 4 | low);
                rest = after;
            }
            _ => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
    decoded
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// RFC 3986 section 2.3.
const UNRESERVED: [bool; 256] = {
    let mut set = [false; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        set[i] = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        i += 1;
    }
    set
};

/// What stands for itself in a canonical path: RFC 3986 `pchar` but `;`, and what browsers leave
/// unencoded although it should be.
const PLAIN: [bool; 256] = {
    let mut set = UNRESERVED;
    let more = b"/!$&'()*+,=:@[]|^";
    let mut i = 0;
    while i < more.len() {
        set[more[i] as usize] = true;
        i += 1;
    }
    set
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strict(path: &str) -> Result<Cow<'_, str>, Reject> {
        canonical(path, Compat::default()).map(|canonical| canonical.path)
    }

    #[test]
    fn paths_that_pages_use_stay_as_they_are() {
        for path in [
            "/cobrowsing/a%20b.png",
            "/cobrowsing/%C3%A9t%C3%A9",
            "/cobrowsing/@scope/pkg:1",
            "/cobrowsing/a[1]|b",
            "/cobrowsing/%3Fx",
            "/cobrowsing/%23x",
        ] {
            assert_eq!(strict(path).as_deref(), Ok(path));
        }
    }

    #[test]
    fn what_is_opened_stays_as_it_came_and_is_marked() {
        let open = Compat {
            path_parameters: true,
            encoded_slashes: true,
            encoded_percent: true,
        };
        for path in ["/a;v=1/b", "/a%2Fb", "/100%25"] {
            assert!(strict(path).is_err());
            let canonical = canonical(path, open).unwrap();
            assert_eq!((&*canonical.path, canonical.opened), (path, true));
        }
        for path in ["/a\\b", "/a%5Cb", "/%00", "/%ff"] {
            assert!(canonical(path, open).is_err(), "{path}");
        }
    }

    #[test]
    fn an_opened_path_is_read_in_every_way() {
        for (path, reading) in [
            ("/x;/../api", "/api"),
            ("/api;x=1/a", "/api/a"),
            ("/x%2F..%2Fapi", "/api"),
            ("/x/%252e%252e/api", "/api"),
            ("/%252561pi", "/api"),
            ("/x%255c..%255capi", "/api"),
        ] {
            assert!(readings(path).iter().any(|r| r == reading), "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own_canonical_form(path in "/[a-zA-Z0-9/.%_~@: -]{0,40}") {
            if let Ok(once) = strict(&path) {
                let twice = strict(&once).unwrap();
                prop_assert_eq!(&once, &twice);
                prop_assert!(!once.contains("//"));
                prop_assert!(!once.split('/').any(|s| s == "." || s == ".."));
            }
        }

        #[test]
        fn readings_end(path in "/[%25eEfF/;.a]{0,60}") {
            prop_assert!(!readings(&path).is_empty());
        }
    }
}
