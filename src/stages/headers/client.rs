//! Who the client is, where proxies that are trusted stand before us: the hops of
//! `X-Forwarded-For`.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::HeaderName;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address: from the right of `X-Forwarded-For` past the trusted proxies, when the
/// peer itself is one. `None`: the peer is the client.
pub fn client_behind(headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut client = None;
    for (_, address) in hops(headers) {
        client = Some(address);
        if !trusted(address) {
            break;
        }
    }
    client
}

/// Hops of `X-Forwarded-For` that are passed on and walked past.
pub(super) const MOST_HOPS: usize = 32;

/// The hops of `X-Forwarded-For` as they are written, and their addresses, from the one nearest to
/// us. What is no address ends them: who wrote it did not know its client, so that nobody vouches
/// for what stands beyond. If only the hop itself were left out, the next one, which anybody may
/// have sent, would be taken for the client.
pub(super) fn hops(headers: &HeaderMap) -> impl Iterator<Item = (&str, IpAddr)> {
    headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .rev()
        .flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        // Empty elements of a list mean nothing (RFC 9110 section 5.6.1).
        .filter(|hop| !hop.is_empty())
        .map_while(|hop| {
            let hop = str::from_utf8(hop).ok()?;
            Some((hop, address(hop)?))
        })
        .take(MOST_HOPS)
}

/// The address of a hop: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or
/// `[2001:db8::1]:80`. One with a zone means something on one host alone, and is none.
fn address(hop: &str) -> Option<IpAddr> {
    let (host, port) = match hop.strip_prefix('[') {
        Some(bracketed) => {
            let (inside, after) = bracketed.split_once(']')?;
            (IpAddr::V6(inside.parse().ok()?), after)
        }
        None => match hop.parse() {
            Ok(address) => (address, ""),
            Err(_) => {
                let colon = hop.find(':')?;
                (IpAddr::V4(hop[..colon].parse().ok()?), &hop[colon..])
            }
        },
    };
    let number =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let whole = port.is_empty() || port.strip_prefix(':').is_some_and(number);
    whole.then(|| host.to_canonical())
}
