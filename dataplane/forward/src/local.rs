//! What the gateway answers itself: ARP (RFC 826), echo requests, port unreachable (RFC 792, RFC 1122), resets (RFC 9293).

use crate::mailbox::Shared;
use crate::neighbour::NextHop;
use crate::flow_key::FlowKey;
use crate::parse::{ETHERNET, IPV4, Packet};
use crate::service_table::Tables;
use crate::track::flags;
use arrayvec::ArrayVec;
use turnpike_packet::checksum::ones_complement_sum;

/// Longest frame that is made here: Ethernet and the 576 bytes an ICMP error may have (RFC 1812 section 4.3.2.3).
pub const ANSWER_BYTES_MAX: usize = ETHERNET + 576;

/// A frame of our own making.
pub type Answer = ArrayVec<u8, ANSWER_BYTES_MAX>;

/// An ARP packet in its Ethernet frame, without padding.
pub type ArpFrame = [u8; 42];

/// What an ARP packet asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOutcome {
    /// It asked for an address of ours; this is the answer.
    Answer(ArpFrame),
    /// Its sender is a next hop in use.
    Learned,
    /// It concerns nobody here.
    Ignored,
    /// It is malformed, or its sender claims an address of ours.
    Bad,
}

const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Ethernet, IPv4, address lengths 6 and 4.
const ARP_FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Handles an ARP packet that came in on `port`.
#[must_use]
pub fn arp(frame: &[u8], port: usize, mac: [u8; 6], tables: &Tables, shared: &Shared, now_ms: u32) -> ArpOutcome {
    let Some(packet) = frame.first_chunk::<42>() else { return ArpOutcome::Bad };
    if packet[14..20] != ARP_FIXED {
        return ArpOutcome::Bad;
    }
    let [.., s0, s1, s2, s3, s4, s5, a0, a1, a2, a3, _, _, _, _, _, _, t0, t1, t2, t3] = *packet;
    let sender_mac = [s0, s1, s2, s3, s4, s5];
    let (sender, target) = (u32::from_be_bytes([a0, a1, a2, a3]), u32::from_be_bytes([t0, t1, t2, t3]));
    let operation = u16::from_be_bytes([packet[20], packet[21]]);
    let multicast_mac = sender_mac[0] & 1 != 0 || sender_mac == [0; 6];
    let answered = |address| tables.address(address).is_some() || shared.gateway.is_own(address) || shared.gateway.is_snat(address);
    if multicast_mac || sender_mac == mac || answered(sender) || !matches!(operation, REQUEST | REPLY) {
        return ArpOutcome::Bad;
    }
    let learned = shared.neighbours.learn(NextHop { port: port as u8, address: sender }, sender_mac, now_ms);
    if operation == REQUEST && answered(target) {
        return ArpOutcome::Answer(arp_frame(REPLY, sender_mac, mac, target, sender_mac, sender));
    }
    if learned { ArpOutcome::Learned } else { ArpOutcome::Ignored }
}

/// A request for the Ethernet address of `target`, to everybody on the link.
#[must_use]
pub fn arp_request(mac: [u8; 6], source: u32, target: u32) -> ArpFrame {
    arp_frame(REQUEST, [0xff; 6], mac, source, [0; 6], target)
}

fn arp_frame(operation: u16, to: [u8; 6], mac: [u8; 6], sender: u32, target_mac: [u8; 6], target: u32) -> ArpFrame {
    let mut frame = [0; 42];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&0x0806u16.to_be_bytes());
    frame[14..20].copy_from_slice(&ARP_FIXED);
    frame[20..22].copy_from_slice(&operation.to_be_bytes());
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&sender.to_be_bytes());
    frame[32..38].copy_from_slice(&target_mac);
    frame[38..42].copy_from_slice(&target.to_be_bytes());
    frame
}

/// Turns an echo request, whose headers parsing has checked, into its reply: addresses swapped, type 0. The sums of the addresses do not
/// change by swapping; the TTL starts anew. A wrong ICMP checksum stays wrong.
pub fn echo_reply(frame: &mut [u8], l4: usize, mac: [u8; 6]) {
    const TTL: u8 = 64;
    let Some((head, icmp)) = frame.split_at_mut_checked(l4) else { return };
    let (Some(head), Some(icmp)) = (head.first_chunk_mut::<{ ETHERNET + IPV4 }>(), icmp.first_chunk_mut::<4>()) else { return };
    head.copy_within(6..12, 0);
    head[6..12].copy_from_slice(&mac);
    let (source, destination) = head[26..34].split_at_mut(4);
    source.swap_with_slice(destination);
    let old = u16::from_be_bytes([head[22], head[23]]);
    head[22] = TTL;
    let new = u16::from_be_bytes([head[22], head[23]]);
    let sum = updated(u16::from_be_bytes([head[24], head[25]]), old, new);
    head[24..26].copy_from_slice(&sum.to_be_bytes());
    let old = u16::from_be_bytes([icmp[0], icmp[1]]);
    icmp[0] = 0;
    let new = u16::from_be_bytes([icmp[0], icmp[1]]);
    let sum = updated(u16::from_be_bytes([icmp[2], icmp[3]]), old, new);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 1624 equation 3 for one word.
fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(((sum >> 16) + (sum & 0xffff)) as u16)
}

/// ICMP destination unreachable, code 3, for a packet that parsing has checked: from the address it was sent to, quoting as much of it as
/// 576 bytes allow. None for a frame that was sent to everybody (RFC 1122 section 3.2.2).
#[must_use]
pub fn port_unreachable(frame: &[u8], key: FlowKey) -> Option<Answer> {
    const QUOTE_MAX: usize = 576 - IPV4 - 8;
    let ip = frame.get(ETHERNET..)?;
    let total_len = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let quote = &ip[..total_len.min(ip.len()).min(QUOTE_MAX)];
    let mut answer = headers(frame, key, 1, 8 + quote.len())?;
    let icmp = answer.len();
    answer.try_extend_from_slice(&[3, 3, 0, 0, 0, 0, 0, 0]).ok()?;
    answer.try_extend_from_slice(quote).ok()?;
    let sum = !ones_complement_sum(&answer[icmp..]);
    answer[icmp + 2..icmp + 4].copy_from_slice(&sum.to_be_bytes());
    Some(answer)
}

/// The reset that a segment without connection gets (RFC 9293 section 3.10.7.1), from the address it was sent to.
#[must_use]
pub fn reset(frame: &[u8], key: FlowKey, packet: Packet) -> Option<Answer> {
    let l4 = packet.l4();
    let tcp = frame.get(l4..l4 + 20)?;
    let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    let (sequence, acknowledgement, bits) = if packet.tcp_flags() & flags::ACK != 0 {
        (word(8), 0, flags::RST)
    } else {
        let ip = &frame[ETHERNET..];
        let total_len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let header_len = usize::from(tcp[12] >> 4) * 4;
        let data_len = (ETHERNET + total_len).saturating_sub(l4 + header_len) as u32;
        let controls = u32::from(packet.tcp_flags() & flags::SYN != 0) + u32::from(packet.tcp_flags() & flags::FIN != 0);
        (0, word(4).wrapping_add(data_len).wrapping_add(controls), flags::RST | flags::ACK)
    };
    let mut answer = headers(frame, key, 6, 20)?;
    let start = answer.len();
    let mut header = [0; 20];
    header[..2].copy_from_slice(&key.destination_port().to_be_bytes());
    header[2..4].copy_from_slice(&key.source_port().to_be_bytes());
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    header[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    header[12] = 5 << 4;
    header[13] = bits;
    answer.try_extend_from_slice(&header).ok()?;
    // The pseudo header: both addresses stand in front of the segment already, then protocol and length.
    let pseudo = u32::from(ones_complement_sum(&answer[26..])) + 6 + 20;
    let sum = !(((pseudo >> 16) + (pseudo & 0xffff)) as u16);
    answer[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
    Some(answer)
}

/// Ethernet and IPv4 headers of an answer to `frame` with `payload_len` bytes behind them.
fn headers(frame: &[u8], key: FlowKey, protocol: u8, payload_len: usize) -> Option<Answer> {
    let head = frame.first_chunk::<ETHERNET>()?;
    let mut answer = Answer::new();
    answer.try_extend_from_slice(&head[6..12]).ok()?;
    answer.try_extend_from_slice(&head[..6]).ok()?;
    answer.try_extend_from_slice(&head[12..14]).ok()?;
    let mut ip = [0; IPV4];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&u16::try_from(IPV4 + payload_len).ok()?.to_be_bytes());
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = protocol;
    ip[12..16].copy_from_slice(&key.destination().to_be_bytes());
    ip[16..20].copy_from_slice(&key.source().to_be_bytes());
    let sum = !ones_complement_sum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    answer.try_extend_from_slice(&ip).ok()?;
    Some(answer)
}
