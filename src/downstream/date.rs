//! The `Date` of answers, formatted once a second.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

thread_local! {
    static DATE: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// Gives it to `write`.
pub(super) fn with(write: impl FnOnce(&HeaderValue)) {
    let now = SystemTime::now();
    let second = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(at, date)| {
        if *at != second {
            *at = second;
            let text = httpdate::fmt_http_date(now);
            *date = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        }
        write(date);
    });
}
