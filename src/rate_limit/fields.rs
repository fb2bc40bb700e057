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
pub(super) struct Builder<'a> {
    /// The whole of `RateLimit-Policy`, where it is known beforehand: what is added is what it lists.
    ready: Option<&'a HeaderValue>,
    /// How much of it was added.
    listed: usize,
    policy: BytesMut,
    state: BytesMut,
}

impl<'a> Builder<'a> {
    /// For policies that are those of `ready`, in its order, or the first of them.
    pub(super) fn of(ready: Option<&'a HeaderValue>) -> Self {
        Self {
            ready,
            ..Self::default()
        }
    }

    /// One more policy, of which so many requests are `left`.
    pub(super) fn add(&mut self, item: &str, name: &str, left: u32, until: u32) {
        if self.state.is_empty() {
            self.state.reserve(ROOM);
        } else {
            self.state.put_slice(BETWEEN);
        }
        if self.ready.is_some() {
            let between = if self.listed > 0 { BETWEEN.len() } else { 0 };
            self.listed += between + item.len();
        } else {
            list(&mut self.policy, item);
        }
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
        if self.state.is_empty() {
            return None;
        }
        let policy = match self.ready {
            Some(ready) if ready.len() == self.listed => ready.clone(),
            Some(ready) => HeaderValue::from_bytes(ready.as_bytes().get(..self.listed)?).ok()?,
            None => HeaderValue::from_maybe_shared(self.policy.freeze()).ok()?,
        };
        Some(Fields {
            policy,
            state: HeaderValue::from_maybe_shared(self.state.freeze()).ok()?,
        })
    }
}

/// `RateLimit-Policy` of these items; `None`: there are none.
pub(super) fn policy<'i>(items: impl Iterator<Item = &'i str>) -> Option<HeaderValue> {
    let mut text = BytesMut::new();
    for item in items {
        list(&mut text, item);
    }
    if text.is_empty() {
        return None;
    }
    HeaderValue::from_maybe_shared(text.freeze()).ok()
}

fn list(text: &mut BytesMut, item: &str) {
    if text.is_empty() {
        text.reserve(ROOM);
    } else {
        text.put_slice(BETWEEN);
    }
    text.put_slice(item.as_bytes());
}

const BETWEEN: &[u8] = b", ";

/// Enough for the policies that usually hold.
const ROOM: usize = 96;
