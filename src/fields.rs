//! Maps of header fields, used again by the next request: one takes two allocations, of more than the
//! allocator has at hand for a thread.

use std::cell::RefCell;

use http::HeaderMap;

/// Maps that nobody uses now, as many as are kept of a burst.
const MOST: usize = 64;
/// The room of a new map, and the largest that is kept.
const USUAL: usize = 12;
const LARGE: usize = 4 * USUAL;

thread_local! {
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map with room for `fields` fields at least.
pub fn empty(fields: usize) -> HeaderMap {
    let kept = SPARE.with(|spare| spare.borrow_mut().pop());
    let mut map = kept.unwrap_or_else(|| HeaderMap::with_capacity(USUAL.max(fields)));
    map.reserve(fields);
    map
}

/// Takes back a map whose fields nobody needs any more.
pub fn give_back(mut map: HeaderMap) {
    // Values of a name that is there already take room that its capacity does not tell.
    if map.len() <= LARGE && (USUAL..=LARGE).contains(&map.capacity()) {
        map.clear();
        SPARE.with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MOST {
                spare.push(map);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use http::header::{HOST, HeaderValue};

    use super::*;

    fn spared() -> usize {
        SPARE.with(|spare| spare.borrow().len())
    }

    #[test]
    fn a_map_is_used_again_and_what_was_in_it_is_gone() {
        let mut map = empty(1);
        map.insert(HOST, HeaderValue::from_static("a"));
        give_back(map);
        assert_eq!(spared(), 1);
        let map = empty(USUAL + 1);
        assert_eq!(spared(), 0);
        assert!(map.is_empty());
        assert!(map.capacity() > USUAL);
    }

    #[test]
    fn neither_large_maps_nor_all_of_a_burst_are_kept() {
        give_back(HeaderMap::new());
        give_back(HeaderMap::with_capacity(2 * LARGE));
        let mut repeated = empty(1);
        for _ in 0..=LARGE {
            repeated.append(HOST, HeaderValue::from_static("a"));
        }
        give_back(repeated);
        assert_eq!(spared(), 0);
        let all: Vec<_> = (0..2 * MOST).map(|_| empty(1)).collect();
        all.into_iter().for_each(give_back);
        assert_eq!(spared(), MOST);
    }
}
