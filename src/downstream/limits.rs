//! The places under the bounds on connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::peer::network;

/// Open connections of all workers.
#[derive(Debug, Default)]
pub struct Open {
    total: AtomicUsize,
    /// How many of each client; clients without one are not in it. Touched once a connection.
    clients: Mutex<HashMap<IpAddr, u32>>,
}

impl Open {
    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the places under `limits.connections`, and under its client's cap.
pub(super) struct Place {
    open: Arc<Open>,
    client: Option<IpAddr>,
}

impl Place {
    pub(super) fn take(open: &Arc<Open>, most: usize) -> Option<Self> {
        let place = Self {
            open: Arc::clone(open),
            client: None,
        };
        (open.total.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }

    /// Counts it as one of at most so many of the client at `address`; `false`: it has them all.
    pub(super) fn count(&mut self, address: IpAddr, most: u32) -> bool {
        let client = network(address);
        let mut clients = self.open.clients();
        let open = clients.entry(client).or_default();
        if *open >= most {
            return false;
        }
        *open += 1;
        self.client = Some(client);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.total.fetch_sub(1, Ordering::Relaxed);
        let Some(client) = self.client else { return };
        let mut clients = self.open.clients();
        if let Some(open) = clients.get_mut(&client) {
            *open -= 1;
            if *open == 0 {
                clients.remove(&client);
            }
        }
        // Given back by halves, so that it is seldom moved.
        if clients.len() < clients.capacity() / 4 {
            let room = clients.len() * 2;
            clients.shrink_to(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let open = Arc::default();
        let mut places = Vec::new();
        let mut count = |address: &str| {
            let mut place = Place::take(&open, 100).unwrap();
            let counted = place.count(address.parse().unwrap(), 2);
            places.push(place);
            counted
        };
        for (address, counted) in [
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::ffff:ffff:ffff:ffff", false),
            ("2001:db8:0:1::1", true),
            ("192.0.2.1", true),
            ("192.0.2.2", true),
            ("192.0.2.1", true),
            ("192.0.2.1", false),
        ] {
            assert_eq!(count(address), counted, "{address}");
        }
        // One that was not counted takes nothing from its client when it goes.
        places.remove(2);
        assert_eq!(open.clients()[&"2001:db8::".parse::<IpAddr>().unwrap()], 2);
    }

    #[test]
    fn nothing_is_left_of_clients_that_are_gone() {
        let open = Arc::<Open>::default();
        let place = |n: u32| {
            let mut place = Place::take(&open, usize::MAX).unwrap();
            assert!(place.count(IpAddr::from(n.to_be_bytes()), 1));
            place
        };
        let mut places: Vec<_> = (0..10_000).map(place).collect();
        assert_eq!(open.clients().len(), 10_000);
        places.truncate(100);
        assert!(open.clients().capacity() < 1_000);
        places.clear();
        assert_eq!(open.clients().capacity(), 0);
        assert_eq!(open.total.load(Ordering::Relaxed), 0);
    }
}
