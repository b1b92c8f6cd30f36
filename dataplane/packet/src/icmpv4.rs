//! ICMP for IPv4 (RFC 792): the reply to an echo request, and destination unreachable.

use crate::{checksum, ethernet, ipv4};

/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Its code for a port nobody listens on.
pub const PORT_UNREACHABLE: u8 = 3;

/// Longest IP packet of an error (RFC 1812 section 4.3.2.3), in bytes.
pub const ERROR_MAX: usize = 576;

/// Turns the frame of an echo request into its reply: addresses swapped, time to live fresh, type changed, checksums updated — so that a
/// wrong ICMP checksum stays wrong. `icmp` is where the ICMP header starts. `mac` becomes the sender. Too short: no effect.
pub fn echo_reply(frame: &mut [u8], icmp: usize, mac: [u8; 6]) {
    let Some((head, icmp)) = frame.split_at_mut_checked(icmp) else { return };
    let (Some(head), Some(icmp)) =
        (head.first_chunk_mut::<{ ethernet::HEADER + ipv4::HEADER }>(), icmp.first_chunk_mut::<4>())
    else {
        return;
    };
    head.copy_within(6..12, 0);
    head[6..12].copy_from_slice(&mac);
    let (source, destination) = head[26..34].split_at_mut(4);
    source.swap_with_slice(destination);
    let sum = checksum::updated(word(head, 24), word(head, 22), u16::from_be_bytes([ipv4::TTL, head[23]]));
    head[22] = ipv4::TTL;
    head[24..26].copy_from_slice(&sum.to_be_bytes());
    let sum = checksum::updated(word(icmp, 2), word(icmp, 0), u16::from_be_bytes([ECHO_REPLY, icmp[1]]));
    icmp[0] = ECHO_REPLY;
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
}

/// Writes into `into` the frame of a destination-unreachable message with `code` for the IPv4 packet in `frame`, from the address the packet
/// was sent to, and returns its length. It quotes as much of the packet as 576 bytes allow. None when `frame` holds no IPv4 packet or `into`
/// is too small.
pub fn unreachable(frame: &[u8], code: u8, into: &mut [u8; ethernet::HEADER + ERROR_MAX]) -> Option<usize> {
    const QUOTE: usize = ethernet::HEADER + ipv4::HEADER + 8;
    let packet = frame.get(ethernet::HEADER..)?;
    let fixed = packet.first_chunk::<{ ipv4::HEADER }>()?;
    let address = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let quoted = usize::from(word(fixed, 2)).min(packet.len()).min(ERROR_MAX - ipv4::HEADER - 8);
    into[..14].copy_from_slice(&ethernet::back(frame)?);
    into[14..34].copy_from_slice(&ipv4::header(ipv4::ICMP, address(16), address(12), 8 + quoted)?);
    into[34..QUOTE].copy_from_slice(&[UNREACHABLE, code, 0, 0, 0, 0, 0, 0]);
    into[QUOTE..QUOTE + quoted].copy_from_slice(&packet[..quoted]);
    let sum = checksum::checksum(&into[34..QUOTE + quoted]);
    into[36..38].copy_from_slice(&sum.to_be_bytes());
    Some(QUOTE + quoted)
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
