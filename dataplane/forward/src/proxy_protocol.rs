//! The PROXY protocol, version 2 (HAProxy, 2020, section 2.2): in front of the first byte of a client's TCP stream the backend gets who the
//! client is and whom it addressed.
//!
//! The stream that the backend gets is longer by the header, so the numbers of the client's bytes are greater there, and what the backend
//! acknowledges is less here. The header has no segment of its own: it travels with whatever segment of the client starts at its first byte, the
//! acknowledgement that completes the handshake as a rule, until the backend has acknowledged all of it. So it is sent again when the client
//! sends again, and nothing has to be kept but the client's first number and how far the header is.
//!
//! Segments of such a flow never are steady ones. What their translation adds to checksums is worked out for each: the room for it holds the
//! client's first number.

use crate::address::Family;
use crate::flow_key::Key;
use crate::flow_table::Life;
use arrayvec::ArrayVec;
use std::net::IpAddr;
use turnpike_packet::checksum;
use turnpike_packet::tcp::flags::{ACK, RST, SYN};

/// Longest header: 16 bytes, and two addresses and ports of IPv6.
pub const HEADER_MAX: usize = 16 + 36;
/// What every header begins with (section 2.2), and version 2 of the command PROXY.
const SIGNATURE: [u8; 13] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21];
/// Least length of a TCP header.
const TCP: usize = 20;
const SACK: u8 = 5;

/// How far the header of a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Sequence number of the client's first byte.
    first: u32,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The client's first number is not known.
    Unknown,
    /// Nothing was sent.
    Unsent,
    /// It was sent, and is not acknowledged in full.
    Sent,
    /// The backend has it.
    Acknowledged,
}

impl Progress {
    /// Of a flow.
    #[must_use]
    pub const fn of(life: &Life) -> Self {
        let [high, low] = life.l3_delta;
        let stage = match life.l4_delta[0] {
            0 => Stage::Unknown,
            1 => Stage::Unsent,
            2 => Stage::Sent,
            _ => Stage::Acknowledged,
        };
        Self { first: (high as u32) << 16 | low as u32, stage }
    }

    /// Remembers it in a flow.
    pub const fn keep(self, life: &mut Life) {
        life.l3_delta = [(self.first >> 16) as u16, self.first as u16];
        life.l4_delta = [self.stage as u16, 0];
    }

    /// What the client knows a number of the backend's stream by, of which `length` bytes are the header: an acknowledgement, or a number that
    /// somebody quotes.
    #[must_use]
    pub const fn to_client(self, number: u32, length: u32) -> u32 {
        match (self.stage, number.wrapping_sub(self.first)) {
            (Stage::Unknown, _) => number,
            // Streams are longer than half of all numbers, so these say nothing any more about what is before the first byte.
            (Stage::Acknowledged, _) => number.wrapping_sub(length),
            (_, 0x8000_0000..) => number,
            (_, beyond) if beyond < length => self.first,
            _ => number.wrapping_sub(length),
        }
    }

    /// What the backend knows a number of the client's stream by. The segment with the header in front is no matter of this.
    const fn to_backend(self, number: u32, length: u32) -> u32 {
        match (self.stage, number.wrapping_sub(self.first)) {
            (Stage::Unknown, _) | (Stage::Unsent, 0) | (Stage::Unsent | Stage::Sent, 0x8000_0000..) => number,
            _ => number.wrapping_add(length),
        }
    }

    /// Whether the header still travels with segments of the client.
    const fn is_on_its_way(self) -> bool {
        matches!(self.stage, Stage::Unsent | Stage::Sent)
    }
}

/// The header of a flow whose client's packets have this key.
#[must_use]
pub fn header<K: Key>(client: K) -> ArrayVec<u8, HEADER_MAX> {
    let mut header: ArrayVec<u8, HEADER_MAX> = SIGNATURE.into_iter().collect();
    let mut put = |bytes: &[u8]| bytes.iter().for_each(|&byte| header.push(byte));
    // Family and TCP, then the length of what follows.
    match (client.source_address().ip(), client.destination_address().ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            put(&[0x11, 0, 12]);
            put(&source.octets());
            put(&destination.octets());
        }
        (source, destination) => {
            put(&[0x21, 0, 36]);
            for address in [source, destination] {
                let IpAddr::V6(address) = address else { continue };
                put(&address.octets());
            }
        }
    }
    put(&client.source_port().to_be_bytes());
    put(&client.destination_port().to_be_bytes());
    header
}

/// Whether the header goes in front of a segment's bytes. `segment` starts at the TCP header, here and below.
#[must_use]
pub fn carries(life: &Life, segment: &[u8]) -> bool {
    let progress = Progress::of(life);
    let Some(fixed) = segment.first_chunk::<TCP>() else { return false };
    let may_carry = fixed[13] & (RST | SYN | ACK) == ACK;
    progress.is_on_its_way() && may_carry && word(fixed, 4) == progress.first
}

/// Changes the numbers of a client's segment to those of the backend's stream, which has a header of `length` bytes in front. Its checksum is
/// updated, so that a wrong one stays wrong (RFC 1624).
pub fn client_sends(life: &mut Life, segment: &mut [u8], length: u32) {
    let mut progress = Progress::of(life);
    let Some(fixed) = segment.first_chunk::<TCP>() else { return };
    let (sequence, bits) = (word(fixed, 4), fixed[13]);
    if bits & (SYN | RST | ACK) == SYN {
        // Its first byte follows it. Once a header has gone, no other beginning counts.
        if matches!(progress.stage, Stage::Unknown | Stage::Unsent) {
            Progress { first: sequence.wrapping_add(1), stage: Stage::Unsent }.keep(life);
        }
    } else if carries(life, segment) {
        progress.stage = Stage::Sent;
        progress.keep(life);
    } else {
        set_word(segment, 4, progress.to_backend(sequence, length));
    }
}

/// Changes what a segment of the backend acknowledges to what the client has sent of it.
pub fn backend_sends(life: &mut Life, segment: &mut [u8], length: u32) {
    let mut progress = Progress::of(life);
    let Some(fixed) = segment.first_chunk::<TCP>() else { return };
    if progress.stage == Stage::Unknown || fixed[13] & ACK == 0 {
        return;
    }
    let acknowledgement = word(fixed, 8);
    let beyond = acknowledgement.wrapping_sub(progress.first);
    if progress.stage == Stage::Sent && (length..0x8000_0000).contains(&beyond) {
        progress.stage = Stage::Acknowledged;
        progress.keep(life);
    }
    set_word(segment, 8, progress.to_client(acknowledgement, length));
    selective(segment, progress, length);
}

/// Changes the numbers of selective acknowledgements (RFC 2018). While the header is not acknowledged, they are taken out: the client would be
/// told that it lost what it never sent.
fn selective(segment: &mut [u8], progress: Progress, length: u32) {
    let end = segment.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4);
    let mut at = TCP;
    while at + 1 < end.min(segment.len()) {
        let (kind, size) = (segment[at], usize::from(segment[at + 1]));
        match kind {
            0 => return,
            1 => at += 1,
            _ if size < 2 || at + size > end.min(segment.len()) => return,
            SACK => {
                for edge in (at + 2..at + size).step_by(4).take_while(|edge| edge + 4 <= at + size) {
                    match progress.stage {
                        Stage::Acknowledged => {
                            let number = word(segment, edge);
                            set_word(segment, edge, progress.to_client(number, length));
                        }
                        _ => set_word(segment, edge, 0x0101_0101),
                    }
                }
                if progress.stage != Stage::Acknowledged {
                    set_half(segment, at, 0x0101);
                }
                at += size;
            }
            _ => at += size,
        }
    }
}

/// Changes what an ICMP error quotes of a segment that the backend was sent to what the client has sent. Of the MTU that somebody complains
/// about, the client may use less while the header travels with its segments; returns how much less, in bytes. The checksum that is quoted is
/// that of other bytes, and stays.
#[must_use]
pub fn quoted(life: &Life, segment: &mut [u8], length: u16) -> u16 {
    let progress = Progress::of(life);
    if let Some(number) = segment.get_mut(4..).and_then(<[u8]>::first_chunk_mut) {
        *number = progress.to_client(u32::from_be_bytes(*number), length.into()).to_be_bytes();
    }
    if progress.is_on_its_way() { length } else { 0 }
}

/// Length of the header of a family's flows, in bytes.
#[must_use]
pub const fn length(family: Family) -> u16 {
    match family {
        Family::V4 => 16 + 12,
        Family::V6 => HEADER_MAX as u16,
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).copied().map_or(0, u32::from_be_bytes)
}

/// Writes a number at any byte of a segment and updates the checksum.
fn set_word(segment: &mut [u8], at: usize, new: u32) {
    set_half(segment, at, (new >> 16) as u16);
    set_half(segment, at + 2, new as u16);
}

fn set_half(segment: &mut [u8], at: usize, new: u16) {
    if at + 2 > segment.len() || segment.len() < TCP {
        return;
    }
    let mut sum = u16::from_be_bytes([segment[16], segment[17]]);
    for (at, new) in (at..).zip(new.to_be_bytes()) {
        let in_word = |byte: u8| if at % 2 == 0 { u16::from(byte) << 8 } else { u16::from(byte) };
        sum = checksum::updated(sum, in_word(segment[at]), in_word(new));
        segment[at] = new;
    }
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
}
