//! The Toeplitz hash of receive-side scaling (Microsoft, "RSS Hashing Functions"), in software.
//!
//! The hash of an input is the exclusive-or, over its one bits, of the 32 key bits that start at the bit's position. So it is linear: the
//! hash of a tuple is the exclusive-or of what each field contributes at its place, and each byte's contribution is one of 256.

use std::net::Ipv4Addr;

/// The key that Microsoft's verification suite uses, and many drivers by default.
pub const MICROSOFT_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Bytes of an IPv4 tuple: addresses and ports.
const TUPLE: usize = 12;

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
        let mut bytes = Box::new([[0; 256]; TUPLE]);
        for (place, values) in bytes.iter_mut().enumerate() {
            for (value, hash) in (0u8..=255).zip(values.iter_mut()) {
                *hash = (0..8)
                    .filter(|bit| value & (0x80 >> bit) != 0)
                    .fold(0, |h, bit| h ^ window(key, place * 8 + bit));
            }
        }
        Self { bytes }
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
    let is_one = |bit: &usize| input[bit / 8] & (0x80 >> (bit % 8)) != 0;
    (0..TUPLE * 8).filter(is_one).fold(0, |hash, bit| hash ^ window(key, bit))
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
}
