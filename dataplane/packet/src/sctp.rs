//! SCTP (RFC 9260): the common header, chunks, the CRC32c checksum, and the answer to a packet of no association.
//!
//! The checksum is a CRC over the whole SCTP packet with the field itself as zero (section 6.8), without a pseudo header, so a change of
//! addresses leaves it alone. Appendix A transmits it with its least significant byte first, unlike every other field.

use crate::flight::Flight;
use crate::{ethernet, ip, ipv4};
use arrayvec::ArrayVec;

/// Length of the common header, in bytes.
pub const HEADER: usize = 12;
/// Length of the header of a chunk, in bytes.
pub const CHUNK_HEADER: usize = 4;
/// Length of an INIT or INIT ACK chunk without parameters, in bytes (sections 3.3.2 and 3.3.3).
pub const INIT: usize = 20;
/// Where the checksum stands in the common header.
pub const CHECKSUM: std::ops::Range<usize> = 8..12;

/// Chunk types (RFC 9260 section 3.2) that matter on the way.
pub mod chunk {
    /// User data.
    pub const DATA: u8 = 0;
    /// Asks for an association.
    pub const INIT: u8 = 1;
    /// Answers an INIT.
    pub const INIT_ACK: u8 = 2;
    /// Acknowledges data.
    pub const SACK: u8 = 3;
    /// Asks whether the peer is there.
    pub const HEARTBEAT: u8 = 4;
    /// Answers a heartbeat.
    pub const HEARTBEAT_ACK: u8 = 5;
    /// Ends an association at once.
    pub const ABORT: u8 = 6;
    /// Asks for an orderly end.
    pub const SHUTDOWN: u8 = 7;
    /// Answers a shutdown.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Reports an error.
    pub const ERROR: u8 = 9;
    /// Gives the cookie of an INIT ACK back.
    pub const COOKIE_ECHO: u8 = 10;
    /// Accepts the cookie: the association stands.
    pub const COOKIE_ACK: u8 = 11;
    /// Answers a shutdown's answer.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
    /// Flag of ABORT and SHUTDOWN COMPLETE: the verification tag is the one the receiver sends, not the one it expects (section 8.5.1).
    pub const REFLECTED: u8 = 1;
}

/// The verification tag of a packet. None when the header is not there.
#[must_use]
pub fn verification_tag(packet: &[u8]) -> Option<u32> {
    packet.get(4..8)?.first_chunk().map(|&tag| u32::from_be_bytes(tag))
}

/// The initiate tag of a packet whose first chunk is an INIT or INIT ACK. None when it is not there.
#[must_use]
pub fn initiate_tag(packet: &[u8]) -> Option<u32> {
    const AT: usize = HEADER + CHUNK_HEADER;
    packet.get(AT..AT + 4)?.first_chunk().map(|&tag| u32::from_be_bytes(tag))
}

/// The header of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its length in bytes, header included and padding not.
    pub length: u16,
}

/// The chunks of an SCTP packet of `packet_len` bytes, of which `head` is the beginning. Ends where a header is not in `head`, and at a chunk
/// that is shorter than its header or reaches past the packet: nothing can be told of what follows (section 6.10 drops partial chunks).
pub fn chunks(head: &[u8], packet_len: usize) -> impl Iterator<Item = Chunk> + '_ {
    let mut at = HEADER;
    std::iter::from_fn(move || {
        let &[kind, flags, a, b] = head.get(at..)?.first_chunk::<CHUNK_HEADER>()?;
        let length = u16::from_be_bytes([a, b]);
        let end = at + usize::from(length);
        if usize::from(length) < CHUNK_HEADER || end > packet_len {
            return None;
        }
        at = end.next_multiple_of(4);
        Some(Chunk { kind, flags, length })
    })
}

/// The checksum of a packet, as a number; it stands in the packet in little-endian order. None when the header is not there.
#[must_use]
pub fn checksum(packet: &[u8]) -> Option<u32> {
    let (before, rest) = packet.split_at_checked(CHECKSUM.start)?;
    let (field, after) = rest.split_at_checked(CHECKSUM.len())?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(before), &ZEROS[..field.len()]);
    Some(crc32c::crc32c_append(crc, after))
}

/// Zeros to move a CRC over. As long as most packets.
static ZEROS: [u8; 2048] = [0; 2048];

/// The checksum of a packet of `packet_len` bytes whose ports change from `old` to `new`, its first four bytes, and nothing else does.
///
/// A CRC is linear: those of two packets of one length differ by that of their difference, the ports' bits followed by zeros, whatever the
/// rest is. So the rest is not read and may lie in other segments, and a checksum that was wrong stays wrong by as much.
#[must_use]
pub fn updated(checksum: u32, old: [u8; 4], new: [u8; 4], packet_len: usize) -> u32 {
    let difference = (u32::from_ne_bytes(old) ^ u32::from_ne_bytes(new)).to_ne_bytes();
    // Initial value and final complement of the CRC cancel out between two packets; the complements here take them out of a single one.
    let mut moved = crc32c::crc32c_append(!0, &difference);
    let mut left = packet_len.saturating_sub(difference.len());
    while left > 0 {
        let step = left.min(ZEROS.len());
        moved = crc32c::crc32c_append(moved, &ZEROS[..step]);
        left -= step;
    }
    checksum ^ !moved
}

/// Gives a packet, of which `head` is the beginning and `packet_len` the length, other ports and the checksum that belongs to them. Too short:
/// no effect.
pub fn translate(head: &mut [u8], ports: [u8; 4], packet_len: usize) {
    let Some(header) = head.first_chunk_mut::<HEADER>() else { return };
    let [a, b, c, d, .., e, f, g, h] = *header;
    let sum = updated(u32::from_le_bytes([e, f, g, h]), [a, b, c, d], ports, packet_len);
    header[..4].copy_from_slice(&ports);
    header[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
}

/// A frame with an ABORT or a SHUTDOWN COMPLETE.
pub type AnswerFrame = ArrayVec<u8, { ethernet::HEADER + ip::HEADER_MAX + HEADER + CHUNK_HEADER }>;

/// What a packet of no association gets from the address it was sent to (section 8.4): an ABORT, or a SHUTDOWN COMPLETE if it acknowledges a
/// shutdown, with its own tag reflected. `frame` holds an IP packet whose SCTP header, at `sctp`, has been checked, and `kind` is the type
/// of the chunk that decides about it. None when the headers are not there, or when the packet is not answered: what ends, reports or would be
/// judged by its cookie.
#[must_use]
pub fn answer(frame: &[u8], sctp: usize, kind: u8) -> Option<AnswerFrame> {
    let answer_kind = match kind {
        chunk::INIT | chunk::COOKIE_ECHO | chunk::COOKIE_ACK => return None,
        chunk::ABORT | chunk::SHUTDOWN_COMPLETE | chunk::ERROR => return None,
        chunk::SHUTDOWN_ACK => chunk::SHUTDOWN_COMPLETE,
        _ => chunk::ABORT,
    };
    let header = frame.get(sctp..)?.first_chunk::<HEADER>()?;
    let mut answer = [0; HEADER + CHUNK_HEADER];
    answer[..2].copy_from_slice(&header[2..4]);
    answer[2..4].copy_from_slice(&header[..2]);
    answer[4..8].copy_from_slice(&header[4..8]);
    answer[12..].copy_from_slice(&[answer_kind, chunk::REFLECTED, 0, 4]);
    let sum = checksum(&answer)?;
    answer[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    ip::answer(frame, ipv4::SCTP, &answer)
}

/// A frame with a packet: verification tag, and chunks as type, flags and value; each is padded to a multiple of four bytes.
#[must_use]
pub fn packet(flight: &Flight, verification_tag: u32, chunks: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER);
    packet.extend(flight.source.port().to_be_bytes());
    packet.extend(flight.destination.port().to_be_bytes());
    packet.extend(verification_tag.to_be_bytes());
    packet.extend([0; 4]);
    for &(kind, flags, value) in chunks {
        packet.extend([kind, flags]);
        packet.extend(((CHUNK_HEADER + value.len()) as u16).to_be_bytes());
        packet.extend(value);
        packet.resize(packet.len().next_multiple_of(4), 0);
    }
    if let Some(sum) = checksum(&packet) {
        packet[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    }
    flight.frame(ipv4::SCTP, &packet)
}

/// The value of an INIT or INIT ACK chunk without parameters: initiate tag, window, one stream each way, first transmission number.
#[must_use]
pub fn init(initiate_tag: u32, first_number: u32) -> [u8; INIT - CHUNK_HEADER] {
    let mut value = [0; INIT - CHUNK_HEADER];
    value[..4].copy_from_slice(&initiate_tag.to_be_bytes());
    value[4..8].copy_from_slice(&0x1_0000_u32.to_be_bytes());
    value[8..12].copy_from_slice(&[0, 1, 0, 1]);
    value[12..].copy_from_slice(&first_number.to_be_bytes());
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The CRC one bit at a time, straight from the polynomial 0x1edc6f41 of Appendix A, reflected.
    fn bit_by_bit(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for &byte in bytes {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            }
        }
        !crc
    }

    fn flight() -> Flight {
        Flight {
            source_mac: [2, 0, 0, 0, 0, 9],
            destination_mac: [2, 0, 0, 0, 0, 1],
            source: "198.51.100.7:40000".parse().unwrap(),
            destination: "203.0.113.80:80".parse().unwrap(),
        }
    }

    #[test]
    fn golden_packets() {
        let cookie_ack = packet(&flight(), 0x0102_0304, &[(chunk::COOKIE_ACK, 0, b"")]);
        let golden = [0x9c, 0x40, 0, 0x50, 1, 2, 3, 4, 0xa9, 0xfa, 0x61, 0xfd, 11, 0, 0, 4];
        assert_eq!(cookie_ack[34..], golden);
        let data = packet(&flight(), 1, &[(chunk::SACK, 0, &[9; 12]), (chunk::DATA, 3, b"odd")]);
        assert_eq!((data.len(), data[50..58].to_vec()), (34 + 12 + 16 + 8, vec![9; 8]));
        assert_eq!(data[62..], [0, 3, 0, 7, b'o', b'd', b'd', 0]);
    }

    #[test]
    fn tags_and_chunks_are_read() {
        let frame = packet(&flight(), 0, &[(chunk::INIT, 0, &init(0xdead_beef, 1))]);
        assert_eq!(
            (verification_tag(&frame[34..]), initiate_tag(&frame[34..])),
            (Some(0), Some(0xdead_beef))
        );
        assert_eq!((verification_tag(&frame[34..41]), initiate_tag(&frame[34..53])), (None, None));
        let frame = packet(&flight(), 5, &[(chunk::ERROR, 0, b"1"), (chunk::ABORT, 1, b"")]);
        let all: Vec<_> = chunks(&frame[34..], frame.len() - 34).collect();
        let want = [Chunk { kind: 9, flags: 0, length: 5 }, Chunk { kind: 6, flags: 1, length: 4 }];
        assert_eq!(all, want);
        assert_eq!(chunks(&frame[34..46], frame.len() - 34).count(), 0, "no chunk header in the segment");
        assert_eq!(chunks(&frame[34..50], frame.len() - 34).count(), 1, "the second is elsewhere");
    }

    #[test]
    fn packets_without_association_are_answered_by_the_rules() {
        let rows = [
            (chunk::DATA, Some(chunk::ABORT)),
            (chunk::HEARTBEAT, Some(chunk::ABORT)),
            (chunk::INIT_ACK, Some(chunk::ABORT)),
            (chunk::COOKIE_ECHO, None),
            (chunk::ERROR, None),
            (chunk::SHUTDOWN_ACK, Some(chunk::SHUTDOWN_COMPLETE)),
            (chunk::SHUTDOWN_COMPLETE, None),
            (chunk::COOKIE_ACK, None),
            (chunk::ABORT, None),
        ];
        for (kind, want) in rows {
            let frame = packet(&flight(), 0x0a0b_0c0d, &[(kind, 0, b"")]);
            let got = answer(&frame, 34, kind);
            assert_eq!(got.as_ref().map(|a| a[46]), want, "chunk type {kind}");
            let Some(got) = got else { continue };
            let expected = packet(&flight().back(), 0x0a0b_0c0d, &[(got[46], chunk::REFLECTED, b"")]);
            assert_eq!(got[..], expected[..]);
        }
        let whole = packet(&flight(), 1, &[(chunk::DATA, 0, b"")]);
        for len in 0..46 {
            assert_eq!(answer(&whole[..len], 34, chunk::DATA), None);
        }
    }

    proptest! {
        #[test]
        fn the_checksum_is_the_crc_of_the_rfc(mut bytes in prop::collection::vec(any::<u8>(), 12..3_000)) {
            let sum = checksum(&bytes);
            bytes[CHECKSUM].fill(0);
            prop_assert_eq!(sum, Some(bit_by_bit(&bytes)));
        }

        #[test]
        fn updating_is_computing_anew(mut bytes in prop::collection::vec(any::<u8>(), 12..5_000), new: [u8; 4]) {
            let before = checksum(&bytes).unwrap();
            let old = *bytes.first_chunk::<4>().unwrap();
            bytes[..4].copy_from_slice(&new);
            prop_assert_eq!(Some(updated(before, old, new, bytes.len())), checksum(&bytes));
        }

        #[test]
        fn a_wrong_checksum_stays_wrong_by_as_much(
            mut bytes in prop::collection::vec(any::<u8>(), 12..100),
            new: [u8; 4],
            error in 1..=u32::MAX,
        ) {
            let wrong = checksum(&bytes).unwrap() ^ error;
            let old = *bytes.first_chunk::<4>().unwrap();
            bytes[..4].copy_from_slice(&new);
            prop_assert_eq!(updated(wrong, old, new, bytes.len()) ^ error, checksum(&bytes).unwrap());
        }

        /// However a packet is cut or damaged, every chunk lies in it, and the walk ends.
        #[test]
        fn chunks_lie_in_the_packet(bytes in prop::collection::vec(any::<u8>(), 0..200), more in 0usize..200) {
            let len = bytes.len() + more;
            let total: usize = chunks(&bytes, len).map(|c| usize::from(c.length)).sum();
            prop_assert!(total <= len);
            prop_assert!(chunks(&bytes, len).all(|c| usize::from(c.length) >= CHUNK_HEADER));
        }
    }
}
