//! UDP (RFC 768).

use crate::flight::Flight;
use crate::ipv4;

/// Length of the header, in bytes.
pub const HEADER: usize = 8;

/// A frame with a datagram.
#[must_use]
pub fn datagram(flight: &Flight, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::with_capacity(HEADER + payload.len());
    segment.extend(flight.source.port().to_be_bytes());
    segment.extend(flight.destination.port().to_be_bytes());
    segment.extend(((HEADER + payload.len()) as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    // RFC 768: a checksum that comes out as zero is sent as all ones; zero says that there is none.
    let sum = match !flight.transport_sum(ipv4::UDP, &segment) {
        0 => 0xffff,
        sum => sum,
    };
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    flight.frame(ipv4::UDP, &segment)
}
