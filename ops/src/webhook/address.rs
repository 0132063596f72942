//! Which addresses a webhook may be at. (A05)
//!
//! Whoever can write the name of a receiver into DNS decides where the server connects to. So an
//! address is judged after the name was resolved, and connected to as it was judged.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix_bits: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("is no network: write it as 10.1.0.0/16, with zeros after the prefix, or as one address")]
pub struct NetworkError;

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| NetworkError)?;
        // One form for each network: who allows ::ffff:10.0.0.0/104 means 10.0.0.0/8.
        if first != first.to_canonical() {
            return Err(NetworkError);
        }
        let longest = if first.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => longest,
            Some(digits) => {
                let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
                let bits = digits.parse().ok().filter(|_| is_plain);
                bits.filter(|bits| *bits <= longest).ok_or(NetworkError)?
            }
        };
        let network = Self { first, prefix_bits };
        let has_rest = match first {
            IpAddr::V4(v4) => v4.to_bits() & !mask4(prefix_bits) != 0,
            IpAddr::V6(v6) => v6.to_bits() & !mask6(prefix_bits) != 0,
        };
        if has_rest {
            return Err(NetworkError);
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_bits)
    }
}

fn mask4(bits: u8) -> u32 {
    u32::MAX
        .checked_shl(u32::from(32_u8.saturating_sub(bits)))
        .unwrap_or(0)
}

fn mask6(bits: u8) -> u128 {
    u128::MAX
        .checked_shl(u32::from(128_u8.saturating_sub(bits)))
        .unwrap_or(0)
}

impl Network {
    /// Whether it has this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                address.to_bits() & mask4(self.prefix_bits) == first.to_bits()
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                address.to_bits() & mask6(self.prefix_bits) == first.to_bits()
            }
            _ => false,
        }
    }
}

/// IPv4 networks that are not the public Internet, by their first address and prefix.
///
/// Source: IANA IPv4 Special-Purpose Address Registry; the last is where Azure's machines find what
/// their platform tells them alone.
const SPECIAL_V4: [(Ipv4Addr, u8); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
];

/// The IPv6 addresses of the public Internet, and what within them is not of it.
///
/// Source: IANA IPv6 Special-Purpose Address Registry. 2001::/23 has Teredo in it and 2002::/16 is
/// 6to4: both carry an IPv4 address that somebody else would connect to.
const PUBLIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const SPECIAL_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

fn has4(network: (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    let (first, prefix_bits) = network;
    address.to_bits() & mask4(prefix_bits) == first.to_bits()
}

fn has6(network: (Ipv6Addr, u8), address: Ipv6Addr) -> bool {
    let (first, prefix_bits) = network;
    address.to_bits() & mask6(prefix_bits) == first.to_bits()
}

/// Whether an address is one of the public Internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !SPECIAL_V4.into_iter().any(|network| has4(network, v4)),
        IpAddr::V6(v6) => {
            has6(PUBLIC_V6, v6) && !SPECIAL_V6.into_iter().any(|network| has6(network, v6))
        }
    }
}

/// The address to connect to in place of this one, if it may be connected to: public, or of a
/// network that the operator allows. Several or no receivers (multicast, unspecified) are never
/// one.
///
/// # Security
/// An IPv4-mapped address is judged as the IPv4 address that the system would connect to, and
/// connected to as that.
pub(super) fn permitted(address: IpAddr, allowed: &[Network]) -> Option<IpAddr> {
    let address = address.to_canonical();
    if address.is_multicast() || address.is_unspecified() {
        return None;
    }
    let is_allowed = allowed.iter().any(|network| network.contains(address));
    (is_allowed || is_public(address)).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const REFUSED: &str = "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200
        127.0.0.1 127.255.255.254 168.63.129.16 169.254.169.254 172.16.0.1 172.31.255.255
        192.0.0.192 192.0.2.1 192.168.1.1 198.18.0.1 198.19.255.255 224.0.0.1 239.255.255.255
        240.0.0.1 255.255.255.255 :: ::1 ::2 ::127.0.0.1 ::ffff:0.0.0.0 ::ffff:10.0.0.1
        ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:192.168.0.1 ::ffff:0:127.0.0.1
        64:ff9b::169.254.169.254 64:ff9b:1::10.0.0.1 100::1 2001::1 2001:db8::1 2002:7f00:1::1
        2002:a9fe:a9fe::1 3fff::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1 ff0e::1";
    const TAKEN: &str = "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255
        128.0.0.0 168.63.129.17 169.253.255.255 172.15.255.255 172.32.0.0 192.167.255.255
        198.20.0.0 223.255.255.255 2001:200::1 2606:4700::1111 2a00::1";

    #[test]
    fn a05_addresses_that_are_not_of_the_internet_are_refused() {
        for refused in REFUSED.split_whitespace() {
            assert_eq!(permitted(ip(refused), &[]), None, "{refused}");
        }
        for taken in TAKEN.split_whitespace() {
            assert_eq!(permitted(ip(taken), &[]), Some(ip(taken)), "{taken}");
        }
        let mapped = permitted(ip("::ffff:1.1.1.1"), &[]);
        assert_eq!(mapped, Some(ip("1.1.1.1")));
    }

    #[test]
    fn a05_what_is_allowed_is_what_the_operator_wrote() {
        let allowed: Vec<Network> = ["10.1.0.0/16", "127.0.0.1", "fd00::/8"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        for (address, connects_to) in [
            ("10.1.0.0", Some("10.1.0.0")),
            ("10.1.255.255", Some("10.1.255.255")),
            ("::ffff:10.1.2.3", Some("10.1.2.3")),
            ("10.0.255.255", None),
            ("10.2.0.0", None),
            ("127.0.0.1", Some("127.0.0.1")),
            ("127.0.0.2", None),
            ("fd12::1", Some("fd12::1")),
            ("fe80::1", None),
        ] {
            let expected = connects_to.map(ip);
            assert_eq!(permitted(ip(address), &allowed), expected, "{address}");
        }
        // Not even by whoever allows everything.
        let everything: Vec<Network> = ["0.0.0.0/0", "::/0"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        for never in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:0.0.0.0"] {
            assert_eq!(permitted(ip(never), &everything), None, "{never}");
        }
        assert!(permitted(ip("169.254.1.1"), &everything).is_some());
    }

    #[test]
    fn networks_have_one_form() {
        for text in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "192.168.1.1/32",
            "::/0",
            "fd00::/8",
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        assert_eq!("::1".parse::<Network>().unwrap().to_string(), "::1/128");
        for other in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0/8",
            "::/129",
            "fd00::1/8",
            "::ffff:10.0.0.0/104",
            "example.com",
            "10.0.0.0/8 ",
        ] {
            assert_eq!(other.parse::<Network>(), Err(NetworkError), "{other:?}");
        }
    }
}
