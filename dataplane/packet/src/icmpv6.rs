//! ICMP for IPv6 (RFC 4443): the reply to an echo request, and errors of our own making. Neighbour discovery is in [`crate::ndp`].

use crate::icmpv4::Complaint;
use crate::{checksum, ethernet, ipv6};

/// Type of destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Its code for a network that no way leads to.
pub const NO_ROUTE: u8 = 0;
/// Its code for a host that no way leads to.
pub const ADDRESS_UNREACHABLE: u8 = 3;
/// Its code for a port nobody listens on.
pub const PORT_UNREACHABLE: u8 = 4;
/// Its code for what is administratively prohibited.
pub const PROHIBITED: u8 = 1;
/// Type of packet too big.
pub const TOO_BIG: u8 = 2;
/// Type of time exceeded; its code 0: in transit.
pub const TIME_EXCEEDED: u8 = 3;
/// Type of parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Type of a multicast listener query.
pub const LISTENER_QUERY: u8 = 130;
/// Type of a multicast listener report of version 1.
pub const LISTENER_REPORT_1: u8 = 131;
/// Type of a multicast listener report of version 2.
pub const LISTENER_REPORT_2: u8 = 143;
/// Type of a router solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// Type of a router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Type of a neighbour solicitation.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Type of a neighbour advertisement.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Where the ICMP header of a message made here starts in its frame.
const ICMP: usize = ethernet::HEADER + ipv6::HEADER;
/// Longest frame of an error (RFC 4443 section 2.4c: no longer than the least MTU), in bytes.
pub const ERROR_FRAME_MAX: usize = ethernet::HEADER + ipv6::MTU_MIN as usize;

/// Whether a type is a router advertisement, a neighbour solicitation or a neighbour advertisement (RFC 4861 sections 4.2 to 4.4).
#[must_use]
pub const fn is_neighbour_discovery(kind: u8) -> bool {
    matches!(kind, ROUTER_ADVERTISEMENT | NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT)
}

/// Turns the frame of an echo request into its reply: addresses swapped, hop limit fresh, type changed, checksum updated — so that a wrong one
/// stays wrong. `icmp` is where the ICMP header starts. `mac` becomes the sender. Too short: no effect.
pub fn echo_reply(frame: &mut [u8], icmp: usize, mac: [u8; 6]) {
    let Some((head, icmp)) = frame.split_at_mut_checked(icmp) else { return };
    let (Some(head), Some(icmp)) = (head.first_chunk_mut::<ICMP>(), icmp.first_chunk_mut::<4>()) else {
        return;
    };
    head.copy_within(6..12, 0);
    head[6..12].copy_from_slice(&mac);
    head[21] = ipv6::HOP_LIMIT;
    // Both addresses are in the sum of the pseudo header whichever comes first.
    let (source, destination) = head[22..].split_at_mut(16);
    source.swap_with_slice(destination);
    let word = |at: usize| u16::from_be_bytes([icmp[at], icmp[at + 1]]);
    let sum = checksum::updated(word(2), word(0), u16::from_be_bytes([ECHO_REPLY, icmp[1]]));
    icmp[0] = ECHO_REPLY;
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
}

impl Complaint {
    /// Type, code and the four bytes behind the checksum.
    const fn header6(self) -> [u8; 8] {
        match self {
            Self::NetworkUnreachable => [UNREACHABLE, NO_ROUTE, 0, 0, 0, 0, 0, 0],
            Self::HostUnreachable => [UNREACHABLE, ADDRESS_UNREACHABLE, 0, 0, 0, 0, 0, 0],
            Self::PortUnreachable => [UNREACHABLE, PORT_UNREACHABLE, 0, 0, 0, 0, 0, 0],
            Self::Prohibited => [UNREACHABLE, PROHIBITED, 0, 0, 0, 0, 0, 0],
            Self::TooBig { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                [TOO_BIG, 0, 0, 0, 0, 0, high, low]
            }
            Self::TimeExceeded => [TIME_EXCEEDED, 0, 0, 0, 0, 0, 0, 0],
        }
    }
}

/// Whether a host may be sent an error about the IPv6 packet in `frame` (RFC 4443 section 2.4e): it is no ICMP error itself and no later
/// fragment, was sent to one host, and comes from one. What cannot be read to its transport header is not told about.
#[must_use]
pub fn may_be_told(frame: &[u8]) -> bool {
    let Some(head) = frame.first_chunk::<ICMP>() else { return false };
    let payload_len = usize::from(u16::from_be_bytes([head[18], head[19]]));
    let Ok(walk) = ipv6::walk(head[20], &frame[ICMP..], payload_len) else { return false };
    let is_later_fragment = walk.fragment.is_some_and(|fragment| fragment.offset > 0);
    let is_error =
        walk.protocol == ipv6::ICMP && frame.get(ICMP + walk.offset).is_none_or(|kind| *kind != ECHO_REQUEST);
    let (source, destination) = (address(head, 22), address(head, 38));
    head[0] & 1 == 0 && !is_error && !is_later_fragment && is_one_host(source) && is_one_host(destination)
}

/// Neither unspecified, nor loopback, nor a group.
const fn is_one_host(address: u128) -> bool {
    address > 1 && address >> 120 != 0xff
}

fn address(head: &[u8; ICMP], at: usize) -> u128 {
    head[at..at + 16].iter().fold(0, |address, &byte| address << 8 | u128::from(byte))
}

/// Writes into `into` the frame of an error about the IPv6 packet in `frame`, from `source`, and returns its length. It quotes as much of the
/// packet as the least MTU allows. None when `frame` holds no IPv6 packet that [`may_be_told`] about.
pub fn error(
    frame: &[u8],
    source: u128,
    complaint: Complaint,
    into: &mut [u8; ERROR_FRAME_MAX],
) -> Option<usize> {
    const QUOTE: usize = ICMP + 8;
    if !may_be_told(frame) {
        return None;
    }
    let head = frame.first_chunk::<ICMP>()?;
    let packet_len = ipv6::HEADER + usize::from(u16::from_be_bytes([head[18], head[19]]));
    let packet = frame.get(ethernet::HEADER..)?;
    let quoted = packet_len.min(packet.len()).min(ERROR_FRAME_MAX - QUOTE);
    let to = address(head, 22);
    into[..14].copy_from_slice(&ethernet::back(frame)?);
    into[14..ICMP].copy_from_slice(&ipv6::header(ipv6::ICMP, source, to, 8 + quoted)?);
    into[ICMP..QUOTE].copy_from_slice(&complaint.header6());
    into[QUOTE..QUOTE + quoted].copy_from_slice(&packet[..quoted]);
    let sum = !checksum::transport_sum6(source, to, ipv6::ICMP, &into[ICMP..QUOTE + quoted]);
    into[ICMP + 2..ICMP + 4].copy_from_slice(&sum.to_be_bytes());
    Some(QUOTE + quoted)
}

/// [`error`] with [`Complaint::PortUnreachable`], from the address the packet was sent to.
pub fn unreachable(frame: &[u8], into: &mut [u8; ERROR_FRAME_MAX]) -> Option<usize> {
    let to = address(frame.first_chunk()?, 38);
    error(frame, to, Complaint::PortUnreachable, into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLIENT: u128 = 0x2001_0db8 << 96 | 7;
    const VIP: u128 = 0x2001_0db8_0001 << 80 | 0x80;

    /// A packet to the VIP with these bytes behind its fixed header.
    fn packet(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = ethernet::header([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9], ethernet::IPV6).to_vec();
        frame.extend(ipv6::header(next, CLIENT, VIP, payload.len()).unwrap());
        frame.extend(payload);
        frame
    }

    fn sum(frame: &[u8], from: u128, to: u128) -> u16 {
        checksum::transport_sum6(from, to, ipv6::ICMP, &frame[ICMP..])
    }

    #[test]
    fn an_echo_comes_back() {
        let mut message = vec![ECHO_REQUEST, 0, 0, 0, 0, 1, 0, 2, b'p'];
        let right = !checksum::transport_sum6(CLIENT, VIP, ipv6::ICMP, &message);
        message[2..4].copy_from_slice(&right.to_be_bytes());
        let mut frame = packet(ipv6::ICMP, &message);
        frame[21] = 3;
        echo_reply(&mut frame, ICMP, [2, 0, 0, 0, 0, 1]);
        assert_eq!(frame[..12], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
        assert_eq!((frame[21], frame[54], &frame[58..]), (64, ECHO_REPLY, &[0, 1, 0, 2, b'p'][..]));
        assert_eq!(frame[22..54], [VIP.to_be_bytes(), CLIENT.to_be_bytes()].concat());
        assert_eq!(sum(&frame, VIP, CLIENT), 0xffff);
    }

    #[test]
    fn rfc4443_2_4_errors_quote_what_fits_and_spare_whom_they_must() {
        let mut into = [0xa5; ERROR_FRAME_MAX];
        for (payload, quoted) in [(20, 60), (1_400, 1_232)] {
            let frame = packet(6, &vec![7; payload]);
            let len = error(&frame, VIP, Complaint::TooBig { mtu: 1_400 }, &mut into).unwrap();
            assert_eq!(len, 14 + 40 + 8 + quoted);
            assert_eq!(into[54..56], [TOO_BIG, 0]);
            assert_eq!(
                (into[58..62].to_vec(), &into[62..len]),
                (vec![0, 0, 5, 120], &frame[14..14 + quoted])
            );
            assert_eq!(sum(&into[..len], VIP, CLIENT), 0xffff);
        }
        let about = |frame: &[u8]| unreachable(frame, &mut [0; ERROR_FRAME_MAX]).is_some();
        let changed = |next, payload: &[u8], at: usize, byte| {
            let mut frame = packet(next, payload);
            frame[at] = byte;
            frame
        };
        let fragment = |offset: u8| vec![17, 0, 0, offset, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8];
        let rows = [
            ("a datagram", packet(17, &[0; 8]), true),
            ("an echo request", packet(ipv6::ICMP, &[ECHO_REQUEST, 0, 0, 0, 0, 0, 0, 0]), true),
            ("an error", packet(ipv6::ICMP, &[UNREACHABLE, 0, 0, 0, 0, 0, 0, 0]), false),
            ("an error behind options", packet(60, &[58, 0, 1, 4, 0, 0, 0, 0, TOO_BIG, 0, 0, 0]), false),
            ("a message that is cut off", packet(ipv6::ICMP, &[]), false),
            ("to a group of hosts", changed(17, &[0; 8], 38, 0xff), false),
            ("from a group", changed(17, &[0; 8], 22, 0xff), false),
            ("to a group of Ethernet", changed(17, &[0; 8], 0, 0x33), false),
            ("the first fragment", packet(44, &fragment(1)), true),
            ("a later fragment", packet(44, &fragment(9)), false),
            ("headers that do not add up", packet(60, &[58, 9, 0, 0, 0, 0, 0, 0]), false),
        ];
        for (what, frame, wanted) in rows {
            assert_eq!(about(&frame), wanted, "{what}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut frame in prop::collection::vec(any::<u8>(), 0..1_600), next: u8, icmp in 0usize..300) {
            if let Some(byte) = frame.get_mut(20) {
                *byte = next;
            }
            let mut into = [0; ERROR_FRAME_MAX];
            if let Some(len) = unreachable(&frame, &mut into) {
                prop_assert!(len <= ERROR_FRAME_MAX);
                let to = u128::from_be_bytes(frame[38..54].try_into().unwrap());
                let from = u128::from_be_bytes(frame[22..38].try_into().unwrap());
                prop_assert_eq!(sum(&into[..len], to, from), 0xffff);
            }
            echo_reply(&mut frame, icmp, [2; 6]);
        }
    }
}
