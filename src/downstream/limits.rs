//! The places under the bounds on connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::peer::network;

/// Open connections of all workers.
#[derive(Debug, Default)]
pub struct Open {
    total: AtomicUsize,
    /// What each client has; clients without a connection are not in it. Touched once a connection.
    clients: Mutex<HashMap<IpAddr, Arc<Client>>>,
}

/// What one client has.
#[derive(Debug, Default)]
struct Client {
    /// Its connections; changed under the lock alone.
    connections: AtomicU32,
    /// Its requests over HTTP/2.
    requests: AtomicU32,
}

impl Open {
    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the places under `limits.connections`, and under its client's cap.
pub(super) struct Place {
    open: Arc<Open>,
    client: Option<(IpAddr, Arc<Client>)>,
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
        let network = network(address);
        let mut clients = self.open.clients();
        let client = clients.entry(network).or_default();
        let open = client.connections.load(Ordering::Relaxed);
        if open >= most {
            return false;
        }
        client.connections.store(open + 1, Ordering::Relaxed);
        self.client = Some((network, Arc::clone(client)));
        true
    }

    /// The client's share of requests: `most` at a time.
    pub(super) fn share(&self, most: Option<u32>) -> Share {
        Share {
            client: self.client.as_ref().map(|(_, client)| Arc::clone(client)),
            most: most.unwrap_or(u32::MAX),
        }
    }
}

/// How many requests a client may have at a time; one that was not counted has as many as it likes.
pub(super) struct Share {
    client: Option<Arc<Client>>,
    most: u32,
}

impl Share {
    /// Begins a request; the flag tells whether it is one too many.
    pub(super) fn begin(&self) -> (Asked, bool) {
        let asked = Asked(self.client.clone());
        let before = self
            .client
            .as_ref()
            .map_or(0, |client| client.requests.fetch_add(1, Ordering::Relaxed));
        (asked, before >= self.most)
    }
}

/// A request of a client, counted until it is dropped.
pub(super) struct Asked(Option<Arc<Client>>);

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(client) = &self.0 {
            client.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.total.fetch_sub(1, Ordering::Relaxed);
        let Some((network, client)) = self.client.take() else {
            return;
        };
        let mut clients = self.open.clients();
        if client.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            clients.remove(&network);
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
        let clients = open.clients();
        let client = &clients[&"2001:db8::".parse::<IpAddr>().unwrap()];
        assert_eq!(client.connections.load(Ordering::Relaxed), 2);
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
