//! What packets of both families have: two addresses, and a pseudo header over which their transport checksums go.

use crate::{checksum, ethernet, ipv4, ipv6};
use arrayvec::ArrayVec;
use std::net::IpAddr;

/// Longest header that is made here, in bytes.
pub const HEADER_MAX: usize = ipv6::HEADER;

/// The addresses of a packet, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// Of IPv4.
    V4 {
        /// Source address.
        source: u32,
        /// Destination address.
        destination: u32,
    },
    /// Of IPv6.
    V6 {
        /// Source address.
        source: u128,
        /// Destination address.
        destination: u128,
    },
}

impl Pair {
    /// Both addresses; none when they are of two families.
    #[must_use]
    pub fn new(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Some(Self::V4 { source: source.into(), destination: destination.into() })
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Some(Self::V6 { source: source.into(), destination: destination.into() })
            }
            _ => None,
        }
    }

    /// Those of the packet in a frame, by its EtherType; none when there are none.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(ethernet::HEADER..)?;
        match u16::from_be_bytes([frame[12], frame[13]]) {
            ethernet::IPV4 => {
                let word = |at: usize| packet.get(at..)?.first_chunk().copied().map(u32::from_be_bytes);
                Some(Self::V4 { source: word(12)?, destination: word(16)? })
            }
            ethernet::IPV6 => {
                let words = |at: usize| packet.get(at..)?.first_chunk().copied().map(u128::from_be_bytes);
                Some(Self::V6 { source: words(8)?, destination: words(24)? })
            }
            _ => None,
        }
    }

    /// Those of an answer.
    #[must_use]
    pub const fn back(self) -> Self {
        match self {
            Self::V4 { source, destination } => Self::V4 { source: destination, destination: source },
            Self::V6 { source, destination } => Self::V6 { source: destination, destination: source },
        }
    }

    /// The EtherType of its packets.
    #[must_use]
    pub const fn ethertype(self) -> u16 {
        match self {
            Self::V4 { .. } => ethernet::IPV4,
            Self::V6 { .. } => ethernet::IPV6,
        }
    }

    /// A header without options or extensions; none when the payload is too long for one packet.
    #[must_use]
    pub fn header(self, protocol: u8, payload_len: usize) -> Option<ArrayVec<u8, HEADER_MAX>> {
        Some(match self {
            Self::V4 { source, destination } => {
                ipv4::header(protocol, source, destination, payload_len)?.into_iter().collect()
            }
            Self::V6 { source, destination } => {
                ipv6::header(protocol, source, destination, payload_len)?.into_iter().collect()
            }
        })
    }

    /// One's complement sum of a segment and its pseudo header.
    #[must_use]
    pub fn transport_sum(self, protocol: u8, segment: &[u8]) -> u16 {
        match self {
            Self::V4 { source, destination } => {
                checksum::transport_sum(source, destination, protocol, segment)
            }
            Self::V6 { source, destination } => {
                checksum::transport_sum6(source, destination, protocol, segment)
            }
        }
    }
}

/// Where the IP packet in a frame ends, in bytes of the frame; none when it holds none.
#[must_use]
pub fn end(frame: &[u8]) -> Option<usize> {
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?])));
    match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
        ethernet::IPV4 => Some(ethernet::HEADER + word(ethernet::HEADER + 2)?),
        ethernet::IPV6 => Some(ethernet::HEADER + ipv6::HEADER + word(ethernet::HEADER + 4)?),
        _ => None,
    }
}

/// The frame that carries `segment` back to where the packet in `frame` came from. None when it holds no packet, or when there is no room.
#[must_use]
pub fn answer<const N: usize>(frame: &[u8], protocol: u8, segment: &[u8]) -> Option<ArrayVec<u8, N>> {
    let mut answer = ArrayVec::new();
    answer.try_extend_from_slice(&ethernet::back(frame)?).ok()?;
    answer.try_extend_from_slice(&Pair::of(frame)?.back().header(protocol, segment.len())?).ok()?;
    answer.try_extend_from_slice(segment).ok()?;
    Some(answer)
}
