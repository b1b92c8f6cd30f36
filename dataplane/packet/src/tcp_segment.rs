//! A TCP header as values (RFC 9293 section 3.1), with the window scale that a SYN offers (RFC 7323 section 2).

use crate::flight::Flight;
use crate::ipv4;
use crate::tcp::{HEADER, flags};

/// Largest shift of a window; a larger one counts as this (RFC 7323 section 2.3).
pub const SCALE_MAX: u8 = 14;
/// Kind and length of the window scale option.
const SCALE: [u8; 2] = [3, 3];

/// What a TCP header says, beside its ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number; it counts with [`flags::ACK`] only.
    pub acknowledgement: u32,
    /// Its flags.
    pub flags: u8,
    /// The window as it stands in the header.
    pub window: u16,
    /// The window scale that a SYN offers, at most [`SCALE_MAX`]; none of other segments.
    pub scale: Option<u8>,
}

impl Segment {
    /// Reads a header; `bytes` start with it. None when less than a header without options is there.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.first_chunk::<HEADER>()?;
        let word = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let is_syn = fixed[13] & flags::SYN != 0;
        let options = bytes.get(HEADER..usize::from(fixed[12] >> 4) * 4).unwrap_or_default();
        Some(Self {
            sequence: word(4),
            acknowledgement: word(8),
            flags: fixed[13],
            window: u16::from_be_bytes([fixed[14], fixed[15]]),
            scale: if is_syn { scale(options) } else { None },
        })
    }

    /// Whether all these flags are set.
    #[must_use]
    pub const fn has(&self, wanted: u8) -> bool {
        self.flags & wanted == wanted
    }

    /// The frame with this segment.
    #[must_use]
    pub fn frame(&self, flight: &Flight, payload: &[u8]) -> Vec<u8> {
        let options = self.scale.map_or_else(Vec::new, |scale| vec![SCALE[0], SCALE[1], scale, 0]);
        let mut segment = Vec::with_capacity(HEADER + options.len() + payload.len());
        segment.extend(flight.source.port().to_be_bytes());
        segment.extend(flight.destination.port().to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledgement.to_be_bytes());
        segment.extend([((HEADER + options.len()) as u8 / 4) << 4, self.flags]);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(options);
        segment.extend(payload);
        let sum = !flight.transport_sum(ipv4::TCP, &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        flight.frame(ipv4::TCP, &segment)
    }
}

/// The window scale among a SYN's options. None when it is not there, or when what stands before it does not add up.
fn scale(mut options: &[u8]) -> Option<u8> {
    loop {
        match options {
            [] | [0, ..] => return None,
            [1, rest @ ..] => options = rest,
            [kind, length, shift, ..] if [*kind, *length] == SCALE => return Some((*shift).min(SCALE_MAX)),
            [_, length, ..] if *length >= 2 => options = options.get(usize::from(*length)..)?,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flight() -> Flight {
        Flight {
            source_mac: [2, 0, 0, 0, 0, 9],
            destination_mac: [2, 0, 0, 0, 0, 1],
            source: "198.51.100.7:40000".parse().unwrap(),
            destination: "203.0.113.80:80".parse().unwrap(),
        }
    }

    #[test]
    fn the_scale_is_found_among_options() {
        let rows: [(&[u8], Option<u8>); 9] = [
            (&[], None),
            (&[3, 3, 7, 0], Some(7)),
            (&[2, 4, 5, 180, 1, 3, 3, 0], Some(0)),
            (&[1, 1, 4, 2, 3, 3, 200, 0], Some(14)),
            (&[0, 3, 3, 7], None),
            (&[2, 0, 3, 3, 7, 0, 0, 0], None),
            (&[2, 60, 3, 3], None),
            (&[1, 1, 1, 3], None),
            (&[3, 2, 3, 3, 7, 0, 0, 0], Some(7)),
        ];
        for (i, (options, want)) in rows.into_iter().enumerate() {
            assert_eq!(scale(options), want, "row {i}");
        }
    }

    #[test]
    fn a_scale_counts_on_a_syn_alone() {
        let ack = Segment { flags: flags::ACK, scale: Some(7), ..Segment::default() };
        let frame = ack.frame(&flight(), b"");
        assert_eq!(Segment::read(&frame[34..]), Some(Segment { scale: None, ..ack }));
        assert_eq!(Segment::read(&frame[34..50]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            sequence: u32, acknowledgement: u32, bits: u8, window: u16, shift in prop::option::of(0u8..15), payload: [u8; 3],
        ) {
            let scale = shift.filter(|_| bits & flags::SYN != 0);
            let segment = Segment { sequence, acknowledgement, flags: bits, window, scale };
            let frame = segment.frame(&flight(), &payload);
            prop_assert_eq!(crate::flight::check(&frame), Ok(()));
            prop_assert_eq!(Segment::read(&frame[34..]), Some(segment));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let segment = Segment::read(&bytes);
            prop_assert_eq!(segment.is_some(), bytes.len() >= HEADER);
            prop_assert!(segment.is_none_or(|s| s.scale.is_none_or(|scale| scale <= SCALE_MAX)));
        }
    }
}
