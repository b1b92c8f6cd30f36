//! Cutting a packet over IPv4 for a link that it does not fit (RFC 791 section 3.2, RFC 1812 section 5.2.7). Over IPv6 only its sender does that.

use crate::{checksum, ipv4};

/// Offsets count in this many bytes.
const UNIT: usize = 8;
/// The bit of the flags and offset field that says that more fragments follow.
const MORE: u16 = 0x2000;
/// The bit that forbids all this.
const WHOLE: u16 = 0x4000;
const OFFSET: u16 = 0x1fff;
/// Options of one byte: the end of them, and nothing.
const END: u8 = 0;
const NOTHING: u8 = 1;
/// The bit of an option's kind that has it copied to every fragment.
const COPIED: u8 = 0x80;

/// One fragment of a packet that is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where its bytes start in the packet, behind the header.
    pub start: usize,
    /// Where they end.
    pub end: usize,
    /// Its flags and offset field.
    flags_and_offset: u16,
}

/// The fragments of `packet`, which is whole from its IPv4 header on and may be a fragment itself: none is longer than `mtu` bytes with a header
/// as long as the packet's. None when it must not be fragmented, is no packet, or the link takes nothing.
#[must_use]
pub fn pieces(packet: &[u8], mtu: u16) -> Option<impl Iterator<Item = Piece>> {
    let header_len = header_len(packet)?;
    let field = word(packet, 6);
    let total = usize::from(word(packet, 2));
    let step = usize::from(mtu).checked_sub(header_len)? / UNIT * UNIT;
    if field & WHOLE != 0 || total < header_len || total > packet.len() || step == 0 {
        return None;
    }
    let piece = move |start: usize| {
        let end = total.min(start + step);
        let offset = (field & OFFSET) + ((start - header_len) / UNIT) as u16;
        let more = if end < total { MORE } else { field & MORE };
        Piece { start, end, flags_and_offset: offset & OFFSET | more }
    };
    Some((header_len..total.max(header_len + 1)).step_by(step).map(piece))
}

/// Length of the header at the front of a packet, options included; none when there is none.
#[must_use]
pub fn header_len(packet: &[u8]) -> Option<usize> {
    let length = usize::from(packet.first()? & 0x0f) * 4;
    (packet[0] >> 4 == 4 && length >= ipv4::HEADER && length <= packet.len()).then_some(length)
}

impl Piece {
    /// Makes the packet's header at the front of `into` the one of this fragment. Options that are not for every fragment are blanked in all but
    /// the first.
    pub fn finish(&self, into: &mut [u8]) {
        let Some(header_len) = header_len(into) else { return };
        let header = &mut into[..header_len];
        if self.start != header_len {
            blank(&mut header[ipv4::HEADER..]);
        }
        let total = (header_len + self.end - self.start) as u16;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[6..8].copy_from_slice(&self.flags_and_offset.to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum::checksum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn blank(options: &mut [u8]) {
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let length = match kind {
            END => return,
            NOTHING => 1,
            _ => usize::from(options.get(at + 1).copied().unwrap_or(0)).max(2),
        };
        let end = options.len().min(at + length);
        if kind & COPIED == 0 {
            options[at..end].fill(NOTHING);
        }
        at = end;
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A packet with options, this field, and bytes that all differ from their neighbours.
    fn packet(options: &[u8], field: u16, payload: usize) -> Vec<u8> {
        let header_len = ipv4::HEADER + options.len();
        let mut packet = ipv4::header(ipv4::UDP, 1, 2, options.len() + payload).unwrap().to_vec();
        packet[0] = 0x40 | (header_len / 4) as u8;
        packet[4..6].copy_from_slice(&[0xab, 0xcd]);
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        packet.extend(options);
        packet.extend((0..payload).map(|n| (n % 251) as u8));
        packet
    }

    /// The fragments as packets.
    fn cut(packet: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let length = header_len(packet).unwrap();
        let make = |piece: Piece| {
            let mut made = [&packet[..length], &packet[piece.start..piece.end]].concat();
            piece.finish(&mut made);
            made
        };
        pieces(packet, mtu).unwrap().map(make).collect()
    }

    #[test]
    fn rfc791_a_datagram_is_cut_at_units_of_eight_bytes() {
        let made = cut(&packet(&[], 0, 2_000), 1_480);
        let shape: Vec<_> = made.iter().map(|p| (p.len(), word(p, 2), word(p, 6))).collect();
        assert_eq!(shape, [(1_476, 1_476, 0x2000), (564, 564, 182)]);
        assert!(
            made.iter().all(|p| checksum::ones_complement_sum(&p[..20]) == 0xffff && word(p, 4) == 0xabcd)
        );
    }

    #[test]
    fn rfc791_a_fragment_is_cut_again() {
        // A last one and one in the middle.
        for (field, last) in [(100, 0), (MORE | 100, MORE)] {
            let made = cut(&packet(&[], field, 1_480), 1_000);
            let fields: Vec<_> = made.iter().map(|p| word(p, 6)).collect();
            assert_eq!(fields, [MORE | 100, last | (100 + 122)]);
        }
    }

    #[test]
    fn rfc791_options_that_are_not_copied_stay_in_the_first_fragment() {
        // A record of the route, a stream identifier that is copied, and the end.
        let options = [7, 3, 4, 0x88, 4, 0, 9, 0];
        let made = cut(&packet(&options, 0, 1_000), 600);
        assert_eq!(made[0][20..28], options);
        assert_eq!(made[1][20..28], [1, 1, 1, 0x88, 4, 0, 9, 0]);
        assert!(made.iter().all(|p| checksum::ones_complement_sum(&p[..28]) == 0xffff));
    }

    #[test]
    fn what_cannot_be_cut_is_not() {
        let good = packet(&[], 0, 100);
        assert!(pieces(&packet(&[], WHOLE, 100), 60).is_none(), "it must stay whole");
        assert!(pieces(&good, 27).is_none(), "no room for eight bytes");
        assert!(pieces(&good[..119], 60).is_none(), "it is not all here");
        assert!(pieces(&[0x60; 60], 60).is_none() && pieces(&[], 60).is_none());
        assert_eq!(cut(&packet(&[], 0, 0), 60).len(), 1);
    }

    proptest! {
        #[test]
        fn fragments_make_the_packet_again(payload in 1usize..3_000, offset in 0u16..1_000, mtu in 68u16..1_500) {
            let packet = packet(&[], offset, payload);
            let mut next = usize::from(offset) * UNIT;
            let mut bytes: Vec<u8> = Vec::new();
            let made = cut(&packet, mtu);
            for (n, fragment) in made.iter().enumerate() {
                prop_assert!(fragment.len() <= usize::from(mtu));
                prop_assert_eq!(usize::from(word(fragment, 6) & OFFSET) * UNIT, next);
                prop_assert_eq!(word(fragment, 6) & MORE != 0, n + 1 < made.len());
                next += fragment.len() - ipv4::HEADER;
                bytes.extend(&fragment[ipv4::HEADER..]);
            }
            prop_assert_eq!(&bytes[..], &packet[ipv4::HEADER..]);
        }

        #[test]
        fn anything_is_cut_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), mtu in any::<u16>()) {
            for piece in pieces(&bytes, mtu).into_iter().flatten() {
                let mut head = bytes[..header_len(&bytes).unwrap()].to_vec();
                prop_assert!(piece.start <= piece.end && piece.end <= bytes.len());
                piece.finish(&mut head);
            }
        }
    }
}
