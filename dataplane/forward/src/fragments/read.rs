//! What a frame with a fragment says about its datagram.

use super::{DatagramKey, Piece};
use crate::address::Address;
use crate::parse::ETHERNET;
use crate::verdict::Verdict;
use turnpike_packet::tcp::flags;
use turnpike_packet::{checksum, ethernet, ipv4, ipv6, tcp};

/// Where the identification of IPv4 stands.
const IDENTIFICATION: usize = ETHERNET + 4;
/// Where the header checksum of IPv4 stands.
const CHECKSUM: usize = ETHERNET + 10;
/// Where the payload length of IPv6 stands.
const PAYLOAD_LENGTH: usize = ETHERNET + 4;
/// Length of a UDP header.
const UDP_HEADER: usize = 8;

/// A fragment as its frame has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Its datagram.
    pub datagram: DatagramKey,
    /// What it brings.
    pub piece: Piece,
    /// What a first fragment says about its flow.
    pub start: Option<Start>,
    /// Where the identification stands in the frame.
    id_at: usize,
}

/// The transport header that a first fragment begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// TCP or UDP.
    pub protocol: u8,
    /// Source and destination port.
    pub ports: (u16, u16),
    /// Where it starts in the frame.
    pub l4: usize,
    /// TCP flags; of UDP those that [`crate::parse::Packet`] gives it.
    pub tcp_flags: u8,
}

impl Read {
    /// Reads a frame with a fragment, whose IP header has been checked. `head` is its first segment. What is no fragment of TCP or UDP, or none
    /// that a datagram can have, gets its verdict.
    pub fn of(head: &[u8]) -> Result<Self, Verdict> {
        let ethertype = head.get(12..ETHERNET).ok_or(Verdict::Truncated)?;
        match u16::from_be_bytes([ethertype[0], ethertype[1]]) {
            ethernet::IPV4 => v4(head),
            ethernet::IPV6 => v6(head),
            _ => Err(Verdict::Fragment),
        }
    }

    /// Gives the fragment another identification: the frame is that which was read, translated or not.
    pub fn identify(&self, frame: &mut [u8], id: u32) {
        if self.id_at != IDENTIFICATION {
            if let Some(place) = frame.get_mut(self.id_at..self.id_at + 4) {
                place.copy_from_slice(&id.to_be_bytes());
            }
            return;
        }
        let Some(header) = frame.first_chunk_mut::<{ ETHERNET + ipv4::HEADER }>() else { return };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let sum = checksum::updated(word(CHECKSUM), word(IDENTIFICATION), id as u16);
        header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
        header[IDENTIFICATION..IDENTIFICATION + 2].copy_from_slice(&(id as u16).to_be_bytes());
    }
}

fn v4(head: &[u8]) -> Result<Read, Verdict> {
    let fixed = head.first_chunk::<{ ETHERNET + ipv4::HEADER }>().ok_or(Verdict::Truncated)?;
    let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let address = |at: usize| {
        let address = [fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]];
        Address::v4(u32::from_be_bytes(address))
    };
    let header_len = usize::from(fixed[ETHERNET] & 0x0f) * 4;
    let (length, id, place, protocol) = (word(16), word(IDENTIFICATION), word(20), fixed[23]);
    if !matches!(protocol, ipv4::TCP | ipv4::UDP) {
        return Err(Verdict::Fragment);
    }
    let datagram = DatagramKey { source: address(26), destination: address(30), id: id.into(), protocol };
    let bytes = usize::from(length).saturating_sub(header_len);
    let (offset, more) = (usize::from(place & 0x1fff) * 8, place & 0x2000 != 0);
    // All of it and the header together are one packet in the end.
    let piece = piece(offset, bytes, more, usize::from(u16::MAX).saturating_sub(header_len), protocol)?;
    let start = if offset == 0 { Some(start(head, ETHERNET + header_len, bytes, protocol)?) } else { None };
    Ok(Read { datagram, piece, start, id_at: IDENTIFICATION })
}

fn v6(head: &[u8]) -> Result<Read, Verdict> {
    const L4: usize = ETHERNET + ipv6::HEADER;
    let fixed = head.first_chunk::<L4>().ok_or(Verdict::Truncated)?;
    let payload_len = usize::from(u16::from_be_bytes([fixed[PAYLOAD_LENGTH], fixed[PAYLOAD_LENGTH + 1]]));
    let payload = &head[L4..head.len().min(L4 + payload_len)];
    let walk = ipv6::walk(fixed[ETHERNET + 6], payload, payload_len).map_err(|_| Verdict::FragmentBad)?;
    let fragment = walk.fragment.ok_or(Verdict::Fragment)?;
    // Of a later fragment this may be any header that the first one continues with; only the first one counts (RFC 8200 section 4.5).
    if fragment.offset == 0 && !matches!(walk.protocol, ipv4::TCP | ipv4::UDP) {
        return Err(Verdict::Fragment);
    }
    let address = |at: usize| {
        Address::v6(fixed[at..at + 16].iter().fold(0, |bits, &byte| bits << 8 | u128::from(byte)))
    };
    let datagram = DatagramKey {
        source: address(ETHERNET + 8),
        destination: address(ETHERNET + 24),
        id: fragment.id,
        protocol: 0,
    };
    const FRAGMENT_HEADER: usize = 8;
    let behind = fragment.at + FRAGMENT_HEADER;
    let bytes = payload_len.saturating_sub(behind);
    let most = usize::from(u16::MAX).saturating_sub(fragment.at);
    let piece = piece(fragment.offset.into(), bytes, fragment.more, most, walk.protocol)?;
    let start = if fragment.offset == 0 {
        let start = start(head, L4 + walk.offset, payload_len.saturating_sub(walk.offset), walk.protocol)?;
        // RFC 8200 section 8.1: a UDP checksum must be there.
        let has_none = start.protocol == ipv4::UDP && head.get(start.l4 + 6..start.l4 + 8) == Some(&[0, 0]);
        if has_none {
            return Err(Verdict::BadL4);
        }
        Some(start)
    } else {
        None
    };
    Ok(Read { datagram, piece, start, id_at: L4 + fragment.at + 4 })
}

/// What a fragment brings, if that can be a part of a datagram of at most `most` bytes: something, in units of eight bytes unless it is the last,
/// and no part of a TCP header that its first fragment has, or the flags that somebody let pass would not be those that arrive (RFC 3128).
fn piece(offset: usize, bytes: usize, more: bool, most: usize, protocol: u8) -> Result<Piece, Verdict> {
    let end = offset + bytes;
    let is_cut_badly = bytes == 0 || more && !bytes.is_multiple_of(8) || end > most;
    let rewrites_flags = protocol == ipv4::TCP && (1..tcp::HEADER).contains(&offset);
    match (u16::try_from(offset), u16::try_from(end)) {
        (Ok(start), Ok(end)) if !is_cut_badly && !rewrites_flags => Ok(Piece { start, end, more }),
        _ => Err(Verdict::FragmentBad),
    }
}

/// The transport header at `l4` of a first fragment with `bytes` from there on. All of it must be there (RFC 1858, RFC 7112).
fn start(head: &[u8], l4: usize, bytes: usize, protocol: u8) -> Result<Start, Verdict> {
    let least = if protocol == ipv4::TCP { tcp::HEADER } else { UDP_HEADER };
    if bytes < least {
        return Err(Verdict::FragmentBad);
    }
    let header = head.get(l4..l4 + least).ok_or(Verdict::HeaderSplit)?;
    let tcp_flags = if protocol == ipv4::TCP {
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < least {
            return Err(Verdict::BadL4);
        }
        if header_len > bytes {
            return Err(Verdict::FragmentBad);
        }
        header[13]
    } else {
        if usize::from(u16::from_be_bytes([header[4], header[5]])) < least {
            return Err(Verdict::BadL4);
        }
        flags::ACK
    };
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    Ok(Start { protocol, ports: (port(0), port(2)), l4, tcp_flags })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use turnpike_packet::flight::{self, Flight};
    use turnpike_packet::udp;

    type Change = fn(&mut Vec<u8>);
    /// What it is, offset, whether more follow, what is changed, what comes of it.
    type Row = (&'static str, u16, bool, Change, Result<(), Verdict>);

    /// A datagram over IPv4 or IPv6 as a fragment.
    fn fragment(source: &str, destination: &str, offset: u16, more: bool) -> Vec<u8> {
        let flight = Flight {
            source_mac: [2; 6],
            destination_mac: [4; 6],
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        let mut frame = udp::datagram(&flight, &[7; 40]);
        let word = if flight.source.is_ipv4() {
            (offset / 8) | (u16::from(more) << 13)
        } else {
            offset | u16::from(more)
        };
        if flight.source.is_ipv4() {
            frame[18..20].copy_from_slice(&0xabcd_u16.to_be_bytes());
            frame[20..22].copy_from_slice(&word.to_be_bytes());
            frame[24..26].fill(0);
            let sum = checksum::checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            frame[18..20].copy_from_slice(&56u16.to_be_bytes());
            frame[20] = 44;
            let header = [&[17, 0][..], &word.to_be_bytes(), &0xdead_beef_u32.to_be_bytes()].concat();
            frame.splice(54..54, header);
        }
        frame
    }

    const V4: (&str, &str) = ("198.51.100.7:40000", "203.0.113.80:53");
    const V6: (&str, &str) = ("[2001:db8::7]:40000", "[2001:db8:1::80]:53");

    #[test]
    fn fragments_of_both_families_are_read() {
        for ((source, destination), id, l4, protocol) in [(V4, 0xabcd, 34, 17), (V6, 0xdead_beef, 62, 0)] {
            let first = Read::of(&fragment(source, destination, 0, true)).unwrap();
            let last = Read::of(&fragment(source, destination, 1_480, false)).unwrap();
            assert_eq!(first.datagram, last.datagram);
            assert_eq!((first.datagram.id, first.datagram.protocol), (id, protocol));
            assert_eq!(
                (first.piece, last.piece),
                (Piece { start: 0, end: 48, more: true }, Piece { start: 1_480, end: 1_528, more: false },)
            );
            let start = Start { protocol: 17, ports: (40_000, 53), l4, tcp_flags: flags::ACK };
            assert_eq!((first.start, last.start), (Some(start), None));
        }
        assert_eq!(
            Read::of(&fragment(V4.0, V4.1, 8, true)).unwrap().datagram.source,
            Address::v4(0xc633_6407)
        );
    }

    #[test]
    fn another_identification_leaves_right_checksums() {
        for ((source, destination), id) in [(V4, 0), (V4, 0xffff), (V4, 0x1234), (V6, 0x1234_5678)] {
            let frame = fragment(source, destination, 0, true);
            let (mut other, read) = (frame.clone(), Read::of(&frame).unwrap());
            read.identify(&mut other, id);
            assert_eq!(flight::check(&other), Ok(()));
            let datagram = DatagramKey { id, ..read.datagram };
            assert_eq!(Read::of(&other), Ok(Read { datagram, ..read }));
            read.identify(&mut other, read.datagram.id);
            assert_eq!(other, frame, "nothing else has changed");
        }
    }

    #[test]
    fn rfc1858_rfc3128_what_no_datagram_has_is_refused() {
        let tcp: Change = |f| {
            f[23] = 6;
            f[46] = 0x50;
        };
        let rows: [Row; 17] = [
            ("a first one", 0, true, |_| {}, Ok(())),
            ("a middle one", 800, true, |_| {}, Ok(())),
            ("not in units of eight", 800, true, |f| f[17] -= 4, Err(Verdict::FragmentBad)),
            ("the last one may be", 800, false, |f| f[17] -= 4, Ok(())),
            ("nothing in it", 800, true, |f| f[17] = 20, Err(Verdict::FragmentBad)),
            ("too short for UDP", 0, true, |f| f[17] = 20, Err(Verdict::FragmentBad)),
            ("a UDP length that is none", 0, true, |f| f[38..40].fill(0), Err(Verdict::BadL4)),
            ("up to the end", 65_464, false, |_| {}, Ok(())),
            ("behind the end", 65_472, false, |_| {}, Err(Verdict::FragmentBad)),
            ("far behind it", 65_528, true, |_| {}, Err(Verdict::FragmentBad)),
            ("TCP", 0, true, tcp, Ok(())),
            ("TCP without its flags", 0, true, |f| (f[23], f[17]) = (6, 36), Err(Verdict::FragmentBad)),
            ("TCP without its options", 0, true, |f| (f[23], f[46]) = (6, 0xf0), Err(Verdict::FragmentBad)),
            ("TCP with a length that is none", 0, true, |f| (f[23], f[46]) = (6, 0x40), Err(Verdict::BadL4)),
            ("TCP from byte 8 on", 8, true, |f| f[23] = 6, Err(Verdict::FragmentBad)),
            ("UDP from byte 8 on", 8, true, |_| {}, Ok(())),
            ("ICMP", 0, true, |f| f[23] = 1, Err(Verdict::Fragment)),
        ];
        for (what, offset, more, change, wanted) in rows {
            let mut frame = fragment(V4.0, V4.1, offset, more);
            change(&mut frame);
            assert_eq!(Read::of(&frame).map(drop), wanted, "{what}");
        }
        let split = fragment(V4.0, V4.1, 0, true);
        assert_eq!(Read::of(&split[..40]), Err(Verdict::HeaderSplit));
    }

    #[test]
    fn rfc8200_what_no_packet_has_is_refused() {
        let rows: [Row; 6] = [
            ("a first one", 0, true, |_| {}, Ok(())),
            ("not in units of eight", 8, true, |f| f[19] -= 4, Err(Verdict::FragmentBad)),
            ("behind the end", 65_528, false, |_| {}, Err(Verdict::FragmentBad)),
            ("without a UDP checksum", 0, true, |f| f[68..70].fill(0), Err(Verdict::BadL4)),
            ("another protocol first", 0, true, |f| f[54] = 58, Err(Verdict::Fragment)),
            ("another header later", 800, true, |f| f[54] = 60, Ok(())),
        ];
        for (what, offset, more, change, wanted) in rows {
            let mut frame = fragment(V6.0, V6.1, offset, more);
            change(&mut frame);
            assert_eq!(Read::of(&frame).map(drop), wanted, "{what}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut frame in prop::collection::vec(any::<u8>(), 0..120), is_v6: bool, id: u32) {
            if frame.len() > 54 {
                frame[12..14].copy_from_slice(if is_v6 { &[0x86, 0xdd] } else { &[8, 0] });
                frame[20] = if is_v6 { 44 } else { frame[20] };
            }
            if let Ok(read) = Read::of(&frame) {
                prop_assert!(read.piece.start < read.piece.end);
                prop_assert_eq!(read.start.is_some(), read.piece.start == 0);
                read.identify(&mut frame, id);
            }
        }
    }
}
