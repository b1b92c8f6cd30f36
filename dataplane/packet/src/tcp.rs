//! TCP (RFC 9293): flags, and the reset for a segment of no connection.

use crate::flight::Flight;
use crate::{ethernet, ip, ipv4};
use arrayvec::ArrayVec;

/// Length of a header without options, in bytes.
pub const HEADER: usize = 20;

/// Flag bits (RFC 9293 section 3.1).
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Open.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Hand the data on at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// Flags that open, close or reset a connection.
    pub const STATEFUL: u8 = FIN | SYN | RST;
}

/// A frame with a reset.
pub type ResetFrame = ArrayVec<u8, { ethernet::HEADER + ip::HEADER_MAX + HEADER }>;

/// The reset that a segment without connection gets (RFC 9293 section 3.10.7.1), from the address it was sent to. `frame` holds an IP packet
/// whose TCP header, at `tcp`, has been checked. None when the headers are not there, or when the segment is a reset itself.
#[must_use]
pub fn reset(frame: &[u8], tcp: usize) -> Option<ResetFrame> {
    let segment = frame.get(tcp..)?.first_chunk::<HEADER>()?;
    let word =
        |at: usize| u32::from_be_bytes([segment[at], segment[at + 1], segment[at + 2], segment[at + 3]]);
    let seen = segment[13];
    if seen & flags::RST != 0 {
        return None;
    }
    let (sequence, acknowledgement, bits) = if seen & flags::ACK != 0 {
        (word(8), 0, flags::RST)
    } else {
        let data = ip::end(frame)?.saturating_sub(tcp + usize::from(segment[12] >> 4) * 4) as u32;
        let controls = u32::from(seen & flags::SYN != 0) + u32::from(seen & flags::FIN != 0);
        (0, word(4).wrapping_add(data).wrapping_add(controls), flags::RST | flags::ACK)
    };
    let back = ip::Pair::of(frame)?.back();
    let mut reset = [0; HEADER];
    reset[..2].copy_from_slice(&segment[2..4]);
    reset[2..4].copy_from_slice(&segment[..2]);
    reset[4..8].copy_from_slice(&u32::to_be_bytes(sequence));
    reset[8..12].copy_from_slice(&u32::to_be_bytes(acknowledgement));
    reset[12] = 5 << 4;
    reset[13] = bits;
    let sum = !back.transport_sum(ipv4::TCP, &reset);
    reset[16..18].copy_from_slice(&sum.to_be_bytes());
    ip::answer(frame, ipv4::TCP, &reset)
}

/// A frame with a segment.
#[must_use]
pub fn segment(flight: &Flight, sequence: u32, acknowledgement: u32, bits: u8, payload: &[u8]) -> Vec<u8> {
    build(flight, sequence, acknowledgement, bits, &[], payload)
}

/// A frame with a segment without data but with options, of which only the first 40 bytes fit, padded to whole words.
#[must_use]
pub fn with_options(
    flight: &Flight,
    sequence: u32,
    acknowledgement: u32,
    bits: u8,
    options: &[u8],
) -> Vec<u8> {
    build(flight, sequence, acknowledgement, bits, &options[..options.len().min(40)], &[])
}

fn build(
    flight: &Flight,
    sequence: u32,
    acknowledgement: u32,
    bits: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let words = (HEADER + options.len()).div_ceil(4);
    let mut segment = Vec::with_capacity(words * 4 + payload.len());
    segment.extend(flight.source.port().to_be_bytes());
    segment.extend(flight.destination.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgement.to_be_bytes());
    segment.extend([(words as u8) << 4, bits, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.resize(words * 4, 0);
    segment.extend(payload);
    let sum = !flight.transport_sum(ipv4::TCP, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    flight.frame(ipv4::TCP, &segment)
}
