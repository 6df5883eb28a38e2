//! IP networks, as `--trusted-proxies` names them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// One network, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Its first address; one of IPv4 is never written as one of IPv6.
    first: IpAddr,
    bits: u32,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no network; allowed: addresses and networks, comma-separated, as 127.0.0.1,10.0.0.0/8,fd00::/8"
)]
pub struct NetworkError(String);

/// The part of an address that is its network's.
fn masked(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(four) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(four.to_bits() & mask))
        }
        IpAddr::V6(six) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & mask))
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.chars().take(80).collect());
        let text = text.trim();
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| wrong())?;
        let all = if written.is_ipv4() { 32 } else { 128 };
        let bits = match length {
            // `parse` takes a plus sign, too.
            Some(length) if !length.bytes().all(|byte| byte.is_ascii_digit()) => None,
            Some(length) => length.parse().ok().filter(|bits| *bits <= all),
            None => Some(all),
        };
        let bits: u32 = bits.ok_or_else(wrong)?;
        let canonical = written.to_canonical();
        let (address, bits) = match (written.is_ipv6() && canonical.is_ipv4(), bits) {
            (true, 96..) => (canonical, bits - 96),
            _ => (written, bits),
        };
        Ok(Self {
            first: masked(address, bits),
            bits,
        })
    }
}

impl Network {
    /// Whether an address belongs to it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && masked(address, self.bits) == self.first
    }
}

/// Whether an address belongs to one of them.
pub fn any_contains(networks: &[Network], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_of_its_length() {
        for (network, inside, outside) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("172.17.0.1/16", "172.17.9.9", "172.18.0.1"),
            ("0.0.0.0/0", "8.8.8.8", "::1"),
            ("::/0", "::1", "8.8.8.8"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", "::ffff:11.1.1.1"),
            ("::ffff:10.0.0.0/104", "10.1.1.1", "11.1.1.1"),
            ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
            (" 192.0.2.0/31", "192.0.2.1", "192.0.2.2"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{network}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{network}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_by_name() {
        for wrong in [
            "",
            "/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "10.0.0/8",
            "::/129",
            "localhost",
            "10.0.0.1:80",
            "[::1]",
            "unix",
            "10.0.0.0/8/8",
        ] {
            let why = wrong.parse::<Network>().unwrap_err().to_string();
            assert!(
                why.contains(&format!("{wrong:?}")) && why.contains("allowed"),
                "{why}"
            );
        }
    }
}
