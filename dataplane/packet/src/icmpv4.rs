//! ICMP for IPv4 (RFC 792): the reply to an echo request, and errors of our own making. Those of others are in [`crate::icmpv4_error`].

use crate::{checksum, ethernet, ipv4};

/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Its code for a port nobody listens on.
pub const PORT_UNREACHABLE: u8 = 3;
/// Its code for what is administratively prohibited (RFC 1812 section 5.2.7.1).
pub const PROHIBITED: u8 = 13;
/// Its code for a packet that does not fit the next link and must not be fragmented (RFC 1191).
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Type of time exceeded; its code 0: in transit.
pub const TIME_EXCEEDED: u8 = 11;
/// Type of parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

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

/// What an error of our own making says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// No way leads to the network of its destination.
    NetworkUnreachable,
    /// No way leads to its destination.
    HostUnreachable,
    /// Nothing answers on the port, or the Service has nobody who could.
    PortUnreachable,
    /// There is no room for a new flow, or its sender has too many.
    Prohibited,
    /// The packet is longer than this and must not be fragmented (RFC 1191).
    TooBig {
        /// The longest IP packet the next link takes, in bytes.
        mtu: u16,
    },
    /// Its time to live has run out in transit.
    TimeExceeded,
}

impl Complaint {
    /// Type, code and the four bytes behind the checksum.
    const fn header(self) -> [u8; 8] {
        match self {
            Self::NetworkUnreachable => [UNREACHABLE, 0, 0, 0, 0, 0, 0, 0],
            Self::HostUnreachable => [UNREACHABLE, 1, 0, 0, 0, 0, 0, 0],
            Self::PortUnreachable => [UNREACHABLE, PORT_UNREACHABLE, 0, 0, 0, 0, 0, 0],
            Self::Prohibited => [UNREACHABLE, PROHIBITED, 0, 0, 0, 0, 0, 0],
            Self::TooBig { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                [UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, 0, 0, high, low]
            }
            Self::TimeExceeded => [TIME_EXCEEDED, 0, 0, 0, 0, 0, 0, 0],
        }
    }
}

/// Whether a host may be sent an error about the IPv4 packet in `frame` (RFC 1812 section 4.3.2.7): it is no ICMP error itself, the first or
/// only fragment, was sent to one host, and comes from one.
#[must_use]
pub fn may_be_told(frame: &[u8]) -> bool {
    let Some(head) = frame.first_chunk::<{ ethernet::HEADER + ipv4::HEADER }>() else { return false };
    let names_one_host = |first: u8| !matches!(first, 0 | 127 | 224..);
    let icmp = ethernet::HEADER + usize::from(head[14] & 0x0f) * 4;
    let is_error = head[23] == ipv4::ICMP && frame.get(icmp) != Some(&ECHO_REQUEST);
    let is_later_fragment = (head[20] & 0x1f) | head[21] != 0;
    head[0] & 1 == 0
        && !is_error
        && !is_later_fragment
        && names_one_host(head[26])
        && names_one_host(head[30])
}

/// Writes into `into` the frame of an error about the IPv4 packet in `frame`, from `source`, and returns its length. It quotes as much of the
/// packet as 576 bytes allow. None when `frame` holds no IPv4 packet that [`may_be_told`] about.
pub fn error(
    frame: &[u8],
    source: u32,
    complaint: Complaint,
    into: &mut [u8; ethernet::HEADER + ERROR_MAX],
) -> Option<usize> {
    const QUOTE: usize = ethernet::HEADER + ipv4::HEADER + 8;
    if !may_be_told(frame) {
        return None;
    }
    let packet = frame.get(ethernet::HEADER..)?;
    let fixed = packet.first_chunk::<{ ipv4::HEADER }>()?;
    let to = u32::from_be_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]);
    let quoted = usize::from(word(fixed, 2)).min(packet.len()).min(ERROR_MAX - ipv4::HEADER - 8);
    into[..14].copy_from_slice(&ethernet::back(frame)?);
    into[14..34].copy_from_slice(&ipv4::header(ipv4::ICMP, source, to, 8 + quoted)?);
    into[34..QUOTE].copy_from_slice(&complaint.header());
    into[QUOTE..QUOTE + quoted].copy_from_slice(&packet[..quoted]);
    let sum = checksum::checksum(&into[34..QUOTE + quoted]);
    into[36..38].copy_from_slice(&sum.to_be_bytes());
    Some(QUOTE + quoted)
}

/// [`error`] with [`Complaint::PortUnreachable`], from the address the packet was sent to.
pub fn unreachable(frame: &[u8], into: &mut [u8; ethernet::HEADER + ERROR_MAX]) -> Option<usize> {
    let to = frame.get(30..34)?;
    error(frame, u32::from_be_bytes([to[0], to[1], to[2], to[3]]), Complaint::PortUnreachable, into)
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
