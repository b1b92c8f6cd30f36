//! Five-tuples: [`FlowKey`] of IPv4 packets, [`FlowKey6`] of IPv6 packets, and [`Key`], what both are.
//!
//! Bytes 8..24 of an IPv4 header without options are TTL, protocol, checksum, source, destination and the first four bytes behind the
//! header: the ports. Read as one little-endian word with TTL and checksum cleared, they are the key. Bytes 8..44 of an IPv6 header without
//! extensions are source, destination and the ports; the protocol stands behind them in the key.

use crate::address::{Address, Family};
use crate::flow_table::{Entry, Session, Session6};
use crate::hash::Secret;
use std::fmt;
use std::net::Ipv4Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A five-tuple of one direction of a flow, of one of the families.
pub trait Key: Copy + Eq + Default + fmt::Debug + Send + 'static {
    /// Whose packets have it.
    const FAMILY: Family;

    /// A flow between two such keys.
    type Session: Entry<Key = Self>;

    /// A key from its parts; none when an address is of the other family.
    fn of(
        protocol: u8,
        source: Address,
        destination: Address,
        source_port: u16,
        destination_port: u16,
    ) -> Option<Self>;

    /// 64 bits of a keyed hash.
    fn hash(self, secret: &Secret) -> u64;

    /// The key of a packet that goes the other way between the same two ends.
    #[must_use]
    fn reversed(self) -> Self;

    /// IP protocol number.
    fn protocol(self) -> u8;

    /// Source address.
    fn source_address(self) -> Address;

    /// Destination address.
    fn destination_address(self) -> Address;

    /// Source port.
    fn source_port(self) -> u16;

    /// Destination port.
    fn destination_port(self) -> u16;
}

/// Five-tuple of one direction of a flow. Zero is no key of any packet.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct FlowKey(u128);

/// Clears TTL (byte 0) and header checksum (bytes 2 and 3).
const TUPLE: u64 = !0xffff_00ff;

impl FlowKey {
    /// The key of bytes 8..16 and 16..24 of an IPv4 header without options, both read little-endian.
    #[inline(always)]
    #[must_use]
    pub const fn from_header(low: u64, high: u64) -> Self {
        Self((low & TUPLE) as u128 | (high as u128) << 64)
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

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

impl Key for FlowKey {
    const FAMILY: Family = Family::V4;
    type Session = Session;

    #[inline]
    fn of(
        protocol: u8,
        source: Address,
        destination: Address,
        source_port: u16,
        destination_port: u16,
    ) -> Option<Self> {
        Some(Self::new(protocol, source.as_v4()?, destination.as_v4()?, source_port, destination_port))
    }

    #[inline(always)]
    fn hash(self, secret: &Secret) -> u64 {
        secret.words(self.0 as u64, (self.0 >> 64) as u64)
    }

    #[inline(always)]
    fn reversed(self) -> Self {
        self.reversed()
    }

    #[inline(always)]
    fn protocol(self) -> u8 {
        self.protocol()
    }

    #[inline]
    fn source_address(self) -> Address {
        Address::v4(self.source())
    }

    #[inline]
    fn destination_address(self) -> Address {
        Address::v4(self.destination())
    }

    #[inline]
    fn source_port(self) -> u16 {
        self.source_port()
    }

    #[inline]
    fn destination_port(self) -> u16 {
        self.destination_port()
    }
}

/// Five-tuple of one direction of a flow over IPv6: 40 bytes. Zero is no key of any packet.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowKey6 {
    /// Source and destination address and both ports as they stand in the frame, as far as they fill whole words.
    addresses: [u64; 4],
    /// Ports in the low half, above them the protocol.
    ports: u64,
}

impl FlowKey6 {
    /// The key of bytes 8..44 of an IPv6 header and what follows it, of this protocol.
    #[inline(always)]
    #[must_use]
    pub fn from_header(bytes: &[u8; 36], protocol: u8) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let ports = u32::from_le_bytes([bytes[32], bytes[33], bytes[34], bytes[35]]);
        Self {
            addresses: [word(0), word(8), word(16), word(24)],
            ports: u64::from(ports) | u64::from(protocol) << 32,
        }
    }

    /// A key from its parts; addresses and ports as numbers.
    #[must_use]
    pub const fn new(
        protocol: u8,
        source: u128,
        destination: u128,
        source_port: u16,
        destination_port: u16,
    ) -> Self {
        let ([a, b], [c, d]) = (halves(source), halves(destination));
        let ports = source_port.swap_bytes() as u64 | (destination_port.swap_bytes() as u64) << 16;
        Self { addresses: [a, b, c, d], ports: ports | (protocol as u64) << 32 }
    }

    /// Both addresses as they stand in a header that goes the other way, source first.
    #[inline(always)]
    #[must_use]
    pub const fn addresses_back(&self) -> [u64; 4] {
        let [a, b, c, d] = self.addresses;
        [c, d, a, b]
    }

    /// Both addresses as they stand in the header, source first.
    #[inline(always)]
    #[must_use]
    pub const fn addresses(&self) -> [u64; 4] {
        self.addresses
    }

    /// Both ports as they stand in the header, source in the low half.
    #[inline(always)]
    #[must_use]
    pub const fn ports(&self) -> u32 {
        self.ports as u32
    }

    /// Both ports as they stand in a header that goes the other way, source in the low half.
    #[inline(always)]
    #[must_use]
    pub const fn ports_back(&self) -> u32 {
        (self.ports as u32).rotate_left(16)
    }
}

/// An address as the two words that stand in a frame.
const fn halves(address: u128) -> [u64; 2] {
    [((address >> 64) as u64).swap_bytes(), (address as u64).swap_bytes()]
}

const fn joined(high: u64, low: u64) -> Address {
    Address::v6((high.swap_bytes() as u128) << 64 | low.swap_bytes() as u128)
}

impl Key for FlowKey6 {
    const FAMILY: Family = Family::V6;
    type Session = Session6;

    #[inline]
    fn of(
        protocol: u8,
        source: Address,
        destination: Address,
        source_port: u16,
        destination_port: u16,
    ) -> Option<Self> {
        Some(Self::new(protocol, source.as_v6()?, destination.as_v6()?, source_port, destination_port))
    }

    #[inline(always)]
    fn hash(self, secret: &Secret) -> u64 {
        let [a, b, c, d] = self.addresses;
        secret.five_words([a, b, c, d, self.ports])
    }

    #[inline(always)]
    fn reversed(self) -> Self {
        Self {
            addresses: self.addresses_back(),
            ports: self.ports & !0xffff_ffff | u64::from(self.ports_back()),
        }
    }

    #[inline(always)]
    fn protocol(self) -> u8 {
        (self.ports >> 32) as u8
    }

    #[inline]
    fn source_address(self) -> Address {
        joined(self.addresses[0], self.addresses[1])
    }

    #[inline]
    fn destination_address(self) -> Address {
        joined(self.addresses[2], self.addresses[3])
    }

    #[inline]
    fn source_port(self) -> u16 {
        (self.ports as u16).swap_bytes()
    }

    #[inline]
    fn destination_port(self) -> u16 {
        ((self.ports >> 16) as u16).swap_bytes()
    }
}

impl fmt::Debug for FlowKey6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, destination) = (self.source_address(), self.destination_address());
        write!(
            f,
            "{} [{source}]:{} > [{destination}]:{}",
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
        let low = u64::from_le_bytes([64, 6, 0xab, 0xcd, 198, 51, 100, 7]);
        let key = FlowKey::from_header(low, u64::from_le_bytes([203, 0, 113, 80, 0x9c, 0x40, 0, 80]));
        assert_eq!(key, FlowKey::new(6, 0xc633_6407, 0xcb00_7150, 40_000, 80));
    }

    #[test]
    fn parts_of_ipv6_come_back_and_header_bytes_are_the_key() {
        let number = |a: &str| a.parse::<std::net::Ipv6Addr>().unwrap().to_bits();
        let key = FlowKey6::new(17, number("2001:db8::7"), number("2001:db8:1::80"), 40_000, 53);
        assert_eq!(format!("{key:?}"), "17 [2001:db8::7]:40000 > [2001:db8:1::80]:53");
        assert_eq!(format!("{:?}", key.reversed()), "17 [2001:db8:1::80]:53 > [2001:db8::7]:40000");
        assert_eq!(key.reversed().reversed(), key);
        let mut header = [0; 36];
        header[..16].copy_from_slice(&number("2001:db8::7").to_be_bytes());
        header[16..32].copy_from_slice(&number("2001:db8:1::80").to_be_bytes());
        header[32..].copy_from_slice(&[0x9c, 0x40, 0, 53]);
        assert_eq!(FlowKey6::from_header(&header, 17), key);
        assert_eq!(FlowKey6::of(17, key.source_address(), key.destination_address(), 40_000, 53), Some(key));
        assert_eq!(FlowKey6::of(17, key.source_address(), Address::v4(1), 40_000, 53), None);
    }
}
