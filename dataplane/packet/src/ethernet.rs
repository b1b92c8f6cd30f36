//! Ethernet II frames, without the frame check sequence.

/// Length of the header, in bytes.
pub const HEADER: usize = 14;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// Everybody on the link.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A header.
#[must_use]
pub fn header(destination: [u8; 6], source: [u8; 6], ethertype: u16) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&source);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    header
}

/// The header that takes an answer back to where `frame` came from; none when it is too short.
#[must_use]
pub fn back(frame: &[u8]) -> Option<[u8; HEADER]> {
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *frame.first_chunk::<HEADER>()?;
    Some([s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5, t0, t1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_and_its_way_back() {
        let there = header([1; 6], [2; 6], ARP);
        assert_eq!(there, [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 6]);
        assert_eq!(back(&there), Some(header([2; 6], [1; 6], ARP)));
        assert_eq!(back(&there[..13]), None);
    }
}
