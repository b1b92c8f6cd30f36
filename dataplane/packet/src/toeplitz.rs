//! The Toeplitz hash of receive-side scaling (Microsoft, "RSS Hashing Functions"), in software.
//!
//! The hash of an input is the exclusive-or, over its one bits, of the 32 key bits that start at the bit's position. So it is linear: the
//! hash of a tuple is the exclusive-or of what each field contributes at its place, and each byte's contribution is one of 256.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The key that Microsoft's verification suite uses, and many drivers by default.
pub const MICROSOFT_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Bytes of an IPv4 tuple: addresses and ports.
const TUPLE: usize = 12;
/// Bytes of an IPv6 tuple. Its last window ends with the last bit of a key of 40 bytes.
const TUPLE6: usize = 36;

/// What every byte value contributes at each of the twelve places of an IPv4 tuple.
#[derive(Clone)]
pub struct ToeplitzTable {
    bytes: Box<[[u32; 256]; TUPLE]>,
}

impl std::fmt::Debug for ToeplitzTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ToeplitzTable(..)")
    }
}

impl ToeplitzTable {
    /// The table of a key; key bits beyond its end are zero.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self { bytes: contributions(key) }
    }

    /// What a source address contributes.
    #[inline]
    #[must_use]
    pub const fn source(&self, address: u32) -> u32 {
        self.address(0, address)
    }

    /// What a destination address contributes.
    #[inline]
    #[must_use]
    pub const fn destination(&self, address: u32) -> u32 {
        self.address(4, address)
    }

    /// What a source port contributes.
    #[inline]
    #[must_use]
    pub const fn source_port(&self, port: u16) -> u32 {
        self.port(8, port)
    }

    /// What a destination port contributes.
    #[inline]
    #[must_use]
    pub const fn destination_port(&self, port: u16) -> u32 {
        self.port(10, port)
    }

    /// The hash of a whole tuple.
    #[must_use]
    pub const fn hash(&self, source: u32, destination: u32, source_port: u16, destination_port: u16) -> u32 {
        self.source(source)
            ^ self.destination(destination)
            ^ self.source_port(source_port)
            ^ self.destination_port(destination_port)
    }

    const fn address(&self, place: usize, address: u32) -> u32 {
        let [a, b, c, d] = address.to_be_bytes();
        self.bytes[place][a as usize]
            ^ self.bytes[place + 1][b as usize]
            ^ self.bytes[place + 2][c as usize]
            ^ self.bytes[place + 3][d as usize]
    }

    const fn port(&self, place: usize, port: u16) -> u32 {
        let [a, b] = port.to_be_bytes();
        self.bytes[place][a as usize] ^ self.bytes[place + 1][b as usize]
    }
}

/// What every byte value contributes at each of the 36 places of an IPv6 tuple.
#[derive(Clone)]
pub struct ToeplitzTable6 {
    bytes: Box<[[u32; 256]; TUPLE6]>,
}

impl std::fmt::Debug for ToeplitzTable6 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ToeplitzTable6(..)")
    }
}

impl ToeplitzTable6 {
    /// The table of a key; key bits beyond its end are zero, so one of less than 40 bytes hashes otherwise than a NIC that repeats it.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self { bytes: contributions(key) }
    }

    /// What a source address contributes.
    #[inline]
    #[must_use]
    pub fn source(&self, address: u128) -> u32 {
        self.field(0, &address.to_be_bytes())
    }

    /// What a destination address contributes.
    #[inline]
    #[must_use]
    pub fn destination(&self, address: u128) -> u32 {
        self.field(16, &address.to_be_bytes())
    }

    /// What a source port contributes.
    #[inline]
    #[must_use]
    pub fn source_port(&self, port: u16) -> u32 {
        self.field(32, &port.to_be_bytes())
    }

    /// What a destination port contributes.
    #[inline]
    #[must_use]
    pub fn destination_port(&self, port: u16) -> u32 {
        self.field(34, &port.to_be_bytes())
    }

    /// The hash of a whole tuple.
    #[must_use]
    pub fn hash(&self, source: u128, destination: u128, source_port: u16, destination_port: u16) -> u32 {
        self.source(source)
            ^ self.destination(destination)
            ^ self.source_port(source_port)
            ^ self.destination_port(destination_port)
    }

    #[inline]
    fn field(&self, place: usize, bytes: &[u8]) -> u32 {
        self.bytes[place..]
            .iter()
            .zip(bytes)
            .fold(0, |hash, (values, &byte)| hash ^ values[usize::from(byte)])
    }
}

/// What every byte value contributes at each of the first `PLACES` places of an input.
fn contributions<const PLACES: usize>(key: &[u8]) -> Box<[[u32; 256]; PLACES]> {
    let mut bytes = Box::new([[0; 256]; PLACES]);
    for (place, values) in bytes.iter_mut().enumerate() {
        for (value, hash) in (0u8..=255).zip(values.iter_mut()) {
            *hash = (0..8)
                .filter(|bit| value & (0x80 >> bit) != 0)
                .fold(0, |h, bit| h ^ window(key, place * 8 + bit));
        }
    }
    bytes
}

/// The hash of a tuple, straight from the definition; slow.
#[must_use]
pub fn hash(
    key: &[u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    source_port: u16,
    destination_port: u16,
) -> u32 {
    let mut input = [0; TUPLE];
    input[..4].copy_from_slice(&source.octets());
    input[4..8].copy_from_slice(&destination.octets());
    input[8..10].copy_from_slice(&source_port.to_be_bytes());
    input[10..].copy_from_slice(&destination_port.to_be_bytes());
    of(key, &input)
}

/// The same of an IPv6 tuple.
#[must_use]
pub fn hash6(
    key: &[u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    source_port: u16,
    destination_port: u16,
) -> u32 {
    let mut input = [0; TUPLE6];
    input[..16].copy_from_slice(&source.octets());
    input[16..32].copy_from_slice(&destination.octets());
    input[32..34].copy_from_slice(&source_port.to_be_bytes());
    input[34..].copy_from_slice(&destination_port.to_be_bytes());
    of(key, &input)
}

fn of(key: &[u8], input: &[u8]) -> u32 {
    let is_one = |bit: &usize| input[bit / 8] & (0x80 >> (bit % 8)) != 0;
    (0..input.len() * 8).filter(is_one).fold(0, |hash, bit| hash ^ window(key, bit))
}

/// The 32 key bits from `bit` on.
fn window(key: &[u8], bit: usize) -> u32 {
    let byte = |at: usize| u64::from(key.get(at).copied().unwrap_or(0));
    let first = bit / 8;
    let bits = (0..5).fold(0, |bits, i| bits << 8 | byte(first + i));
    (bits >> (8 - bit % 8)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microsofts_verification_suite() {
        let rows = [
            ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x51cc_c178),
            ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xc626_b0ea),
            ("24.19.198.95", 12898, "12.22.207.184", 38024, 0x5c2b_394a),
            ("38.27.205.30", 48228, "209.142.163.6", 2217, 0xafc7_327f),
            ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x10e8_28a2),
        ];
        let table = ToeplitzTable::new(&MICROSOFT_KEY);
        for (source, source_port, destination, destination_port, want) in rows {
            let (source, destination): (Ipv4Addr, Ipv4Addr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            assert_eq!(
                hash(&MICROSOFT_KEY, source, destination, source_port, destination_port),
                want,
                "{source}"
            );
            assert_eq!(
                table.hash(source.into(), destination.into(), source_port, destination_port),
                want,
                "{source}"
            );
        }
    }

    #[test]
    fn microsofts_verification_suite_for_ipv6() {
        // Hashes of the addresses alone, and with the ports.
        let rows = [
            ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2cc1_8cd5, 0x4020_7d3d),
            ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0f0c_461c, 0xdde5_1bbf),
            (
                "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
                44251,
                "fe80::200:f8ff:fe21:67cf",
                38024,
                0x4b61_e985,
                0x02d1_feef,
            ),
        ];
        let table = ToeplitzTable6::new(&MICROSOFT_KEY);
        for (source, source_port, destination, destination_port, addresses, all) in rows {
            let (from, to): (Ipv6Addr, Ipv6Addr) = (source.parse().unwrap(), destination.parse().unwrap());
            assert_eq!(hash6(&MICROSOFT_KEY, from, to, source_port, destination_port), all, "{source}");
            assert_eq!(table.hash(from.into(), to.into(), source_port, destination_port), all, "{source}");
            assert_eq!(table.source(from.into()) ^ table.destination(to.into()), addresses, "{source}");
        }
    }
}
