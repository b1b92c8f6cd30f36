//! [`FlowKey`]: the five-tuple of an IPv4 packet as one 128-bit word, laid out as it stands in the frame.
//!
//! Bytes 8..24 of an IPv4 header without options are TTL, protocol, checksum, source, destination and the first four bytes behind the
//! header: the ports. Read as one little-endian word with TTL and checksum cleared, they are the key.

use std::net::Ipv4Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Five-tuple of one direction of a flow. Zero is no key of any packet.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct FlowKey(u128);

/// Clears TTL (byte 0) and header checksum (bytes 2 and 3).
const TUPLE: u128 = !0xffff_00ff;

impl FlowKey {
    /// The key of bytes 8..24 of an IPv4 header without options.
    #[inline(always)]
    #[must_use]
    pub const fn from_header(bytes: u128) -> Self {
        Self(bytes & TUPLE)
    }

    /// A key from its parts; addresses and ports as numbers.
    #[inline]
    #[must_use]
    pub const fn new(
        protocol: u8,
        source: u32,
        destination: u32,
        source_port: u16,
        destination_port: u16,
    ) -> Self {
        Self(
            (protocol as u128) << 8
                | (source.swap_bytes() as u128) << 32
                | (destination.swap_bytes() as u128) << 64
                | (source_port.swap_bytes() as u128) << 96
                | (destination_port.swap_bytes() as u128) << 112,
        )
    }

    /// The word itself.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The key of a packet that goes the other way between the same two ends.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self(self.0 & 0xff00 | (self.addresses_back() as u128) << 32 | (self.ports_back() as u128) << 96)
    }

    /// Both addresses as they stand in a header that goes the other way, source in the low half.
    #[inline(always)]
    #[must_use]
    pub const fn addresses_back(self) -> u64 {
        ((self.0 >> 32) as u64).rotate_left(32)
    }

    /// Both ports as they stand in a header that goes the other way, source in the low half.
    #[inline(always)]
    #[must_use]
    pub const fn ports_back(self) -> u32 {
        ((self.0 >> 96) as u32).rotate_left(16)
    }

    /// IP protocol number.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Source address as a number.
    #[inline(always)]
    #[must_use]
    pub const fn source(self) -> u32 {
        ((self.0 >> 32) as u32).swap_bytes()
    }

    /// Destination address as a number.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> u32 {
        ((self.0 >> 64) as u32).swap_bytes()
    }

    /// Source port.
    #[inline(always)]
    #[must_use]
    pub const fn source_port(self) -> u16 {
        ((self.0 >> 96) as u16).swap_bytes()
    }

    /// Destination port.
    #[inline(always)]
    #[must_use]
    pub const fn destination_port(self) -> u16 {
        ((self.0 >> 112) as u16).swap_bytes()
    }
}

impl std::fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (source, destination) = (Ipv4Addr::from(self.source()), Ipv4Addr::from(self.destination()));
        write!(
            f,
            "{} {source}:{} > {destination}:{}",
            self.protocol(),
            self.source_port(),
            self.destination_port()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let key = FlowKey::new(17, 0xc633_6407, 0xcb00_7150, 40_000, 80);
        assert_eq!(format!("{key:?}"), "17 198.51.100.7:40000 > 203.0.113.80:80");
        assert_eq!(format!("{:?}", key.reversed()), "17 203.0.113.80:80 > 198.51.100.7:40000");
        assert_eq!(key.reversed().reversed(), key);
    }

    #[test]
    fn header_bytes_are_the_key() {
        let header: [u8; 16] = [64, 6, 0xab, 0xcd, 198, 51, 100, 7, 203, 0, 113, 80, 0x9c, 0x40, 0, 80];
        let key = FlowKey::from_header(u128::from_le_bytes(header));
        assert_eq!(key, FlowKey::new(6, 0xc633_6407, 0xcb00_7150, 40_000, 80));
    }
}
