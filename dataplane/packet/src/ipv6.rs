//! IPv6 headers (RFC 8200): those of packets that are made here, and the walk over the extension headers of received ones.

/// Length of the fixed header, in bytes.
pub const HEADER: usize = 40;
/// Next header number of ICMPv6.
pub const ICMP: u8 = 58;
/// Hop limit of packets that are made here (RFC 1700).
pub const HOP_LIMIT: u8 = 64;
/// Least MTU of a link (RFC 8200 section 5), in bytes.
pub const MTU_MIN: u16 = 1_280;
/// Extension headers that are walked over. Eight are more than one of every kind that is walked over.
pub const EXTENSIONS_MAX: usize = 8;
/// Longest chain of extension headers that is walked over, in bytes: a transport header behind it still starts within 255 bytes of a frame.
pub const EXTENSIONS_BYTES_MAX: usize = 192;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// A fixed header with hop limit [`HOP_LIMIT`], for `payload_len` bytes; none when that is too long for one packet.
#[must_use]
pub fn header(next: u8, source: u128, destination: u128, payload_len: usize) -> Option<[u8; HEADER]> {
    let payload_len = u16::try_from(payload_len).ok()?;
    let mut header = [0; HEADER];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&payload_len.to_be_bytes());
    header[6] = next;
    header[7] = HOP_LIMIT;
    header[8..24].copy_from_slice(&source.to_be_bytes());
    header[24..].copy_from_slice(&destination.to_be_bytes());
    Some(header)
}

/// What a fragment header says (RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The same for all fragments of a packet between two addresses.
    pub id: u32,
    /// Where its bytes belong in the packet, in bytes.
    pub offset: u16,
    /// Whether others follow.
    pub more: bool,
    /// Where the fragment header starts behind the fixed header.
    pub at: usize,
}

/// Where a chain of extension headers ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The protocol behind it. Of a later fragment this is what the fragment header names, whatever that is.
    pub protocol: u8,
    /// Where it starts behind the fixed header, in bytes.
    pub offset: usize,
    /// What the fragment header says, if there is one.
    pub fragment: Option<Fragment>,
}

/// Why a chain of extension headers was not walked to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwalkable {
    /// It goes on behind the bytes there are.
    CutOff,
    /// A header is longer than the packet, or where it must not be.
    Bad,
    /// More than [`EXTENSIONS_MAX`] headers or [`EXTENSIONS_BYTES_MAX`] bytes.
    TooLong,
    /// A routing header wants the packet to go on elsewhere: type 0 is deprecated (RFC 5095), and no other is followed here.
    SourceRoute,
}

/// Walks over the extension headers in `payload`, what follows a fixed header that names `next`. `payload_len` is the length that the fixed
/// header states, of which `payload` may be the beginning.
pub fn walk(next: u8, payload: &[u8], payload_len: usize) -> Result<Walk, Unwalkable> {
    let mut walk = Walk { protocol: next, offset: 0, fragment: None };
    for seen in 0..=EXTENSIONS_MAX {
        let at = walk.offset;
        let (HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HOST_IDENTITY
        | SHIM6) = walk.protocol
        else {
            return Ok(walk);
        };
        if seen == EXTENSIONS_MAX {
            break;
        }
        if walk.protocol == HOP_BY_HOP && seen > 0 {
            return Err(Unwalkable::Bad);
        }
        if at + 8 > payload_len {
            return Err(Unwalkable::Bad);
        }
        let Some(header) = payload.get(at..).and_then(<[u8]>::first_chunk::<8>) else {
            return Err(Unwalkable::CutOff);
        };
        let length = match walk.protocol {
            FRAGMENT => 8,
            // In units of four bytes, two less than it is (RFC 4302 section 2.2).
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if at + length > payload_len {
            return Err(Unwalkable::Bad);
        }
        if at + length > EXTENSIONS_BYTES_MAX {
            break;
        }
        match walk.protocol {
            ROUTING if header[3] > 0 || header[2] == 0 => return Err(Unwalkable::SourceRoute),
            FRAGMENT if walk.fragment.is_some() => return Err(Unwalkable::Bad),
            FRAGMENT => {
                let word = u16::from_be_bytes([header[2], header[3]]);
                let fragment = Fragment {
                    id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                    offset: word & !7,
                    more: word & 1 != 0,
                    at,
                };
                walk = Walk { protocol: header[0], offset: at + length, fragment: Some(fragment) };
                if fragment.offset > 0 {
                    return Ok(walk);
                }
                continue;
            }
            _ => {}
        }
        walk = Walk { protocol: header[0], offset: at + length, ..walk };
    }
    Err(Unwalkable::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv4::{TCP, UDP};
    use proptest::prelude::*;

    /// Options of padding, or a routing header without segments left of type 4: `length` bytes that name the next header.
    fn extension(next: u8, length: usize) -> Vec<u8> {
        let mut header = vec![0; length];
        header[0] = next;
        header[1] = (length / 8 - 1) as u8;
        header[2] = 4;
        header
    }

    fn fragment(next: u8, offset: u16, more: bool, id: u32) -> Vec<u8> {
        let mut header = vec![next, 0];
        header.extend((offset | u16::from(more)).to_be_bytes());
        header.extend(id.to_be_bytes());
        header
    }

    #[test]
    fn golden_header() {
        let header = header(UDP, 0x2001_0db8 << 96 | 1, 0x2001_0db8 << 96 | 2, 13).unwrap();
        let mut golden = vec![0x60, 0, 0, 0, 0, 13, 17, 64];
        golden.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        golden.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(header[..], golden);
        assert_eq!(super::header(TCP, 1, 2, 65_536), None);
    }

    #[test]
    fn chains_end_at_a_transport_header_or_with_a_reason() {
        let plain = |protocol, offset| Ok(Walk { protocol, offset, fragment: None });
        let tcp = [0; 20].to_vec();
        let chain = |parts: &[Vec<u8>]| parts.concat();
        let routing = |next, kind, left| vec![next, 0, kind, left, 0, 0, 0, 0];
        let fragmented = |offset, more, at, end| {
            let fragment = Some(Fragment { id: 77, offset, more, at });
            Ok(Walk { protocol: TCP, offset: end, fragment })
        };
        let many = |n| std::iter::repeat_n(extension(DESTINATION, 8), n).collect::<Vec<_>>().concat();
        type Row<'a> = (&'a str, u8, Vec<u8>, Result<Walk, Unwalkable>);
        let rows: Vec<Row<'_>> = vec![
            ("none", TCP, tcp.clone(), plain(TCP, 0)),
            ("a protocol that is not known", 50, tcp.clone(), plain(50, 0)),
            ("no next header", 59, vec![], plain(59, 0)),
            (
                "one of each",
                HOP_BY_HOP,
                chain(&[
                    extension(DESTINATION, 8),
                    extension(ROUTING, 16),
                    routing(AUTHENTICATION, 4, 0),
                    extension(TCP, 8),
                    tcp.clone(),
                ]),
                // The last one is read as an authentication header: 8 bytes are length 0.
                plain(TCP, 40),
            ),
            (
                "hop-by-hop only first",
                DESTINATION,
                chain(&[extension(HOP_BY_HOP, 8), extension(TCP, 8)]),
                Err(Unwalkable::Bad),
            ),
            ("type 0", ROUTING, chain(&[routing(TCP, 0, 0), tcp.clone()]), Err(Unwalkable::SourceRoute)),
            (
                "segments left",
                ROUTING,
                chain(&[routing(TCP, 4, 1), tcp.clone()]),
                Err(Unwalkable::SourceRoute),
            ),
            (
                "first fragment",
                FRAGMENT,
                chain(&[fragment(TCP, 0, true, 77), tcp.clone()]),
                fragmented(0, true, 0, 8),
            ),
            (
                "the only fragment",
                FRAGMENT,
                chain(&[fragment(TCP, 0, false, 77), tcp.clone()]),
                fragmented(0, false, 0, 8),
            ),
            (
                "later fragment",
                DESTINATION,
                chain(&[extension(FRAGMENT, 16), fragment(TCP, 1_448, false, 77), tcp.clone()]),
                fragmented(1_448, false, 16, 24),
            ),
            (
                "fragmented twice",
                FRAGMENT,
                chain(&[fragment(FRAGMENT, 0, true, 1), fragment(TCP, 0, true, 2)]),
                Err(Unwalkable::Bad),
            ),
            ("longer than the packet", DESTINATION, vec![TCP, 9, 0, 0, 0, 0, 0, 0], Err(Unwalkable::Bad)),
            ("not even a header", DESTINATION, vec![TCP, 0], Err(Unwalkable::Bad)),
            ("too many", DESTINATION, many(EXTENSIONS_MAX + 1), Err(Unwalkable::TooLong)),
            (
                "as many as there may be",
                DESTINATION,
                chain(&[many(7), extension(TCP, 8), tcp]),
                plain(TCP, 64),
            ),
            ("too long", DESTINATION, extension(TCP, EXTENSIONS_BYTES_MAX + 8), Err(Unwalkable::TooLong)),
        ];
        for (what, next, payload, wanted) in rows {
            assert_eq!(walk(next, &payload, payload.len()), wanted, "{what}");
        }
        assert_eq!(walk(DESTINATION, &[TCP, 0], 8), Err(Unwalkable::CutOff));
    }

    proptest! {
        #[test]
        fn any_bytes_are_walked_within_the_bounds(next: u8, payload in prop::collection::vec(any::<u8>(), 0..300), more in 0usize..100) {
            if let Ok(walk) = walk(next, &payload, payload.len() + more) {
                prop_assert!(walk.offset <= EXTENSIONS_BYTES_MAX && walk.offset <= payload.len() + more);
                prop_assert!(walk.fragment.is_none_or(|f| f.offset % 8 == 0 && f.at + 8 <= walk.offset));
            }
        }
    }
}
