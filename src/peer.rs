//! Who is connected: built once a connection.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// The other end of a client connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Address of the socket, or the one a PROXY protocol header named; IPv4-mapped
    /// addresses folded to IPv4.
    pub address: IpAddr,
    /// The address as text, as it goes into `X-Forwarded-For` and the log.
    pub text: Box<str>,
    /// Whether its `X-Forwarded-*` headers are believed.
    pub trusted: bool,
}

impl Peer {
    /// The peer at `address`, trusted when it lies in one of `trusted`.
    pub fn new(address: SocketAddr, trusted: &[IpNet]) -> Self {
        let address = address.ip().to_canonical();
        Self {
            address,
            text: address.to_string().into(),
            trusted: is_trusted(address, trusted),
        }
    }
}

/// Whether `address` lies in one of the networks.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// Whose limits hold for `address`: a client may own a whole /64 (RFC 6177), so its addresses are
/// one.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        let peer = Peer::new(
            "[::ffff:10.1.2.3]:5".parse().unwrap(),
            &["10.0.0.0/8".parse().unwrap()],
        );
        assert_eq!(&*peer.text, "10.1.2.3");
        assert!(peer.trusted);
    }

    #[test]
    fn an_empty_list_trusts_nobody() {
        assert!(!Peer::new("127.0.0.1:5".parse().unwrap(), &[]).trusted);
    }
}
