//! IPv4 headers of packets that are made here (RFC 791). Received ones are read in one go by the packet path.

use crate::checksum;

/// Length of a header without options, in bytes.
pub const HEADER: usize = 20;
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of SCTP.
pub const SCTP: u8 = 132;
/// Time to live of packets that are made here (RFC 1700).
pub const TTL: u8 = 64;

/// A header without options, with don't-fragment set, for `payload_len` bytes; none when that is too long for one packet.
#[must_use]
pub fn header(protocol: u8, source: u32, destination: u32, payload_len: usize) -> Option<[u8; HEADER]> {
    let total_len = u16::try_from(HEADER + payload_len).ok()?;
    let mut header = [0; HEADER];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&total_len.to_be_bytes());
    header[6] = 0x40;
    header[8] = TTL;
    header[9] = protocol;
    header[12..16].copy_from_slice(&source.to_be_bytes());
    header[16..].copy_from_slice(&destination.to_be_bytes());
    let sum = checksum::checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_header() {
        let header = header(UDP, 0xc0a8_0001, 0xc0a8_00c7, 95).unwrap();
        let golden =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(header, golden);
        assert_eq!(super::header(TCP, 1, 2, 65_516), None);
    }
}
