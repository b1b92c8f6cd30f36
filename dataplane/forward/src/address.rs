//! [`Address`]: an IP address of either family as one number, for everything that is not looked at per packet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use turnpike_packet::ip::Pair;

/// An IPv6 address, or an IPv4 address as IPv6 writes it (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2). No packet of IPv6 carries an address of
/// the second kind: parsing refuses it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address(u128);

/// What stands in front of an IPv4 address.
const MAPPED: u128 = 0xffff << 32;

/// Which of the two it is, as the place of what there is one of for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Address {
    /// An IPv4 address as a number.
    #[must_use]
    pub const fn v4(address: u32) -> Self {
        Self(MAPPED | address as u128)
    }

    /// An IPv6 address as a number.
    #[must_use]
    pub const fn v6(address: u128) -> Self {
        Self(address)
    }

    /// Its family.
    #[must_use]
    pub const fn family(self) -> Family {
        if self.0 >> 32 == 0xffff { Family::V4 } else { Family::V6 }
    }

    /// Source and destination of the packet in a frame; none when it holds none.
    #[must_use]
    pub fn ends_of(frame: &[u8]) -> Option<[Self; 2]> {
        Some(match Pair::of(frame)? {
            Pair::V4 { source, destination } => [Self::v4(source), Self::v4(destination)],
            Pair::V6 { source, destination } => [Self::v6(source), Self::v6(destination)],
        })
    }

    /// All 128 bits.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The number of an IPv4 address.
    #[must_use]
    pub const fn as_v4(self) -> Option<u32> {
        match self.family() {
            Family::V4 => Some(self.0 as u32),
            Family::V6 => None,
        }
    }

    /// The number of an IPv6 address.
    #[must_use]
    pub const fn as_v6(self) -> Option<u128> {
        match self.family() {
            Family::V4 => None,
            Family::V6 => Some(self.0),
        }
    }

    /// The same as the standard library has it.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        match self.as_v4() {
            Some(address) => IpAddr::V4(Ipv4Addr::from_bits(address)),
            None => IpAddr::V6(Ipv6Addr::from_bits(self.0)),
        }
    }

    /// Its network: what is left with a prefix of so many bits, counted as its family does. None when its family has no such length.
    #[must_use]
    pub const fn network(self, length: u8) -> Option<Self> {
        match mask(self.family(), length) {
            Some(mask) => Some(Self(self.0 & mask)),
            None => None,
        }
    }

    /// Whether no host can have it as its own: this network, loopback, groups and what is reserved (RFC 1122 section 3.2.1.3, RFC 1812
    /// section 5.3.7; RFC 4291 sections 2.5.2, 2.5.3 and 2.7).
    #[must_use]
    pub const fn is_no_host(self) -> bool {
        match self.as_v4() {
            Some(address) => matches!(address >> 24, 0 | 127 | 224..),
            None => self.0 <= 1 || self.0 >> 120 == 0xff,
        }
    }
}

/// The mask of a prefix of so many bits, over all 128; none when the family has no such length.
#[must_use]
pub const fn mask(family: Family, length: u8) -> Option<u128> {
    let length = match family {
        Family::V4 if length <= 32 => length + 96,
        Family::V6 if length <= 128 => length,
        _ => return None,
    };
    Some(if length == 0 { 0 } else { u128::MAX << (128 - length) })
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address.to_bits())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        Self::v6(address.to_bits())
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn both_families_come_back() {
        for (text, family) in
            [("192.0.2.1", Family::V4), ("0.0.0.0", Family::V4), ("2001:db8::1", Family::V6)]
        {
            assert_eq!((address(text).to_string().as_str(), address(text).family()), (text, family));
        }
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"), "one number, one address");
    }

    #[test]
    fn networks_are_counted_in_the_bits_of_their_family() {
        let rows = [
            ("192.0.2.77", 24, Some("192.0.2.0")),
            ("192.0.2.77", 0, Some("0.0.0.0")),
            ("192.0.2.77", 32, Some("192.0.2.77")),
            ("192.0.2.77", 33, None),
            ("2001:db8:1:2::3", 64, Some("2001:db8:1:2::")),
            ("2001:db8::3", 0, Some("::")),
            ("2001:db8::3", 128, Some("2001:db8::3")),
            ("2001:db8::3", 129, None),
        ];
        for (of, length, wanted) in rows {
            assert_eq!(address(of).network(length), wanted.map(address), "{of}/{length}");
        }
    }

    #[test]
    fn addresses_that_no_host_has() {
        let none =
            ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"];
        assert!(none.into_iter().all(|a| address(a).is_no_host()));
        let some = [
            "1.0.0.1",
            "126.1.1.1",
            "128.0.0.1",
            "223.255.255.255",
            "::2",
            "fe80::1",
            "fd00::1",
            "2001:db8::1",
        ];
        assert!(some.into_iter().all(|a| !address(a).is_no_host()));
    }
}
