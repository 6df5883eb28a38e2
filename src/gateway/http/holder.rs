//! Who holds a place or a session, as strangers are counted.

use std::net::{IpAddr, Ipv6Addr};

/// Whom an address stands for: an IPv6 client has its whole /64 (RFC 6177).
pub fn holder_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        four => four,
    }
}

/// Who holds places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Holder {
    /// One connection of a trusted proxy, by its number: of those that hold as many the last to lose one.
    Alone(u64),
    Address(IpAddr),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u16) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last))
    }

    #[test]
    fn an_address_stands_for_its_network() {
        assert_eq!(holder_of(address(1)), holder_of(address(2)));
        let other = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1));
        assert_ne!(holder_of(address(1)), holder_of(other));
        let four: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(holder_of("::ffff:192.0.2.1".parse().unwrap()), four);
        assert_ne!(holder_of(four), holder_of("192.0.2.2".parse().unwrap()));
    }
}
