//! [`crate::rewrite`] for IPv6: addresses, ports, hop limit, and the transport checksum, which is the only one there is.

use crate::flow_key::FlowKey6;
use crate::parse6::{ADDRESSES, HOP_LIMIT, L4, PAYLOAD_LENGTH};
use crate::rewrite::{Addressing, update};
use turnpike_packet::sctp;

/// Bytes that every frame of a flow has.
const LEAST: usize = L4 + 8;

/// What happens to the packets of one direction of a flow over IPv6.
#[derive(Clone, Copy, Debug)]
pub struct Translation6 {
    /// Addresses and ports of the packets that leave, as they stand in the frame.
    addresses: [u64; 4],
    ports: u32,
    is_tcp: bool,
    /// What it adds to the TCP or UDP checksum: addresses of the pseudo header, and ports.
    delta: u16,
}

impl Translation6 {
    /// A packet leaves with the addresses and ports of one that came with key `back` and went the other way.
    #[inline(always)]
    #[must_use]
    pub fn new(back: &FlowKey6, is_tcp: bool, delta: u16) -> Self {
        Self { addresses: back.addresses_back(), ports: back.ports_back(), is_tcp, delta }
    }

    /// Translates a frame of TCP or UDP whose transport header starts at `l4`, and decrements its hop limit. `false`, and nothing is written,
    /// when that has run out.
    #[inline(always)]
    pub fn apply(&self, frame: &mut [u8], l4: usize, link: Addressing) -> bool {
        if !self.apply_to_ip(frame, link) {
            return false;
        }
        let Some(header) = frame.get_mut(l4..) else { return true };
        let at = if self.is_tcp { 16 } else { 6 };
        if header.len() >= at + 2 {
            header[..4].copy_from_slice(&self.ports.to_le_bytes());
            // A checksum of zero is none: RFC 8200 section 8.1 forbids it to UDP, and to TCP both zeros are one number.
            let sum = match update(u16::from_le_bytes([header[at], header[at + 1]]), self.delta) {
                0 => 0xffff,
                sum => sum,
            };
            header[at..at + 2].copy_from_slice(&sum.to_le_bytes());
        }
        true
    }

    /// The same for a later fragment, which has neither ports nor a checksum.
    pub fn apply_to_later_fragment(&self, frame: &mut [u8], link: Addressing) -> bool {
        self.apply_to_ip(frame, link)
    }

    /// The same for an SCTP packet, whose checksum covers no addresses.
    #[cold]
    #[inline(never)]
    pub fn apply_to_sctp(&self, frame: &mut [u8], l4: usize, link: Addressing) -> bool {
        if !self.apply_to_ip(frame, link) {
            return false;
        }
        let end = L4 + usize::from(u16::from_be_bytes([frame[PAYLOAD_LENGTH], frame[PAYLOAD_LENGTH + 1]]));
        if let Some(packet) = frame.get_mut(l4..) {
            sctp::translate(packet, self.ports.to_le_bytes(), end.saturating_sub(l4));
        }
        true
    }

    /// Ethernet addresses, addresses and hop limit; `false` when that has run out.
    #[inline(always)]
    fn apply_to_ip(&self, frame: &mut [u8], link: Addressing) -> bool {
        // Parsing has seen this much in the first segment.
        let Some(head) = frame.first_chunk_mut::<LEAST>() else { return false };
        if head[HOP_LIMIT] <= 1 {
            return false;
        }
        link.write(head);
        head[HOP_LIMIT] -= 1;
        for (place, word) in head[ADDRESSES..L4].chunks_exact_mut(8).zip(self.addresses) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        true
    }
}
