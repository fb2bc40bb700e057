//! What a client is told of its limits: `RateLimit-Policy` and `RateLimit` as in
//! draft-ietf-httpapi-ratelimit-headers-11 (structured fields, RFC 9651; lists of named policies).

use bytes::{BufMut, BytesMut};
use governor::Quota;
use http::HeaderValue;

/// The two fields of one answer.
#[derive(Clone, Debug)]
pub struct Fields {
    /// `RateLimit-Policy`: for each policy that holds, `q`, the size of its bucket, and `w`, the
    /// seconds in which an empty one fills.
    pub policy: HeaderValue,
    /// `RateLimit`: for each `r`, the requests that are left, and `t`, the seconds until the bucket
    /// is full; of a policy that refuses, until the next request is admitted.
    pub state: HeaderValue,
}

/// A policy's part of `RateLimit-Policy`. Names are plain: nothing in them is to be escaped.
pub(super) fn item(name: &str, quota: Quota) -> Box<str> {
    let size = quota.burst_size();
    let window = super::seconds(quota.burst_size_replenished_in());
    format!("\"{name}\";q={size};w={window}").into()
}

/// Gathers the fields policy by policy.
#[derive(Default)]
pub(super) struct Builder {
    policy: BytesMut,
    state: BytesMut,
}

impl Builder {
    /// One more policy, of which so many requests are `left`.
    pub(super) fn add(&mut self, item: &str, name: &str, left: u32, until: u32) {
        if self.policy.is_empty() {
            self.policy.reserve(ROOM);
            self.state.reserve(ROOM);
        } else {
            self.policy.put_slice(b", ");
            self.state.put_slice(b", ");
        }
        self.policy.put_slice(item.as_bytes());
        let mut digits = itoa::Buffer::new();
        self.state.put_u8(b'"');
        self.state.put_slice(name.as_bytes());
        self.state.put_slice(b"\";r=");
        self.state.put_slice(digits.format(left).as_bytes());
        self.state.put_slice(b";t=");
        self.state.put_slice(digits.format(until).as_bytes());
    }

    /// `None`: nothing limits.
    pub(super) fn build(self) -> Option<Fields> {
        if self.policy.is_empty() {
            return None;
        }
        Some(Fields {
            policy: HeaderValue::from_maybe_shared(self.policy.freeze()).ok()?,
            state: HeaderValue::from_maybe_shared(self.state.freeze()).ok()?,
        })
    }
}

/// Enough for the policies that usually hold.
const ROOM: usize = 96;
