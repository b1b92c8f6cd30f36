//! ICMP errors of others (RFC 5508, for IPv6 RFC 4443): whose flow they are about, and how they go on to the sender of the packet they are about.
//!
//! A router or host that complains quotes a packet as it left the gateway. The entry of its flow is therefore found by the key of an
//! answer to that packet, and the error goes where answers go: to the other end, quoting the packet as that end has sent it. Errors never open,
//! refresh, change or end a flow (RFC 5508 REQ-6, RFC 5382 REQ-10, RFC 4787 REQ-12).
//!
//! It comes from where answers come from, too: towards clients from the VIP (RFC 5508 REQ-5), towards backends from the address they know their
//! client by. RFC 5508 REQ-4 would keep the address of whoever made it there; but where one router stands on both sides, it made the error
//! itself, and no router takes a packet from its own address.

use crate::address::Family;
use crate::flow_key::{FlowKey, FlowKey6, Key};
use crate::flow_table::Life;
use crate::parse::ETHERNET;
use crate::parse6;
use crate::proxy_protocol;
use crate::rewrite::{Addressing, set_link};
use crate::verdict::Verdict;
use turnpike_packet::icmpv4_error::{Ends, Quoted, Unusable, is_error};
use turnpike_packet::{checksum, icmpv6_error, ipv4};

/// Reads the ICMP message at `icmp` of `head`, `message_len` bytes long, behind a checked IPv4 header without source route. None when it is no
/// error; else the key of an answer to the packet it is about, or the verdict on it.
#[must_use]
pub fn read(head: &[u8], icmp: usize, message_len: usize) -> Option<Result<FlowKey, Verdict>> {
    let kind = *head.get(icmp)?;
    if message_len == 0 || !is_error(kind) {
        return None;
    }
    Some(key(head, icmp, message_len))
}

fn key(head: &[u8], icmp: usize, message_len: usize) -> Result<FlowKey, Verdict> {
    let message = head.get(icmp..icmp + message_len).ok_or(Verdict::HeaderSplit)?;
    let quoted = read_message(message)?;
    let ends = quoted.ends;
    // An error goes to the sender of the packet it is about, or somebody made it up.
    if head.get(ETHERNET + 16..ETHERNET + 20) != Some(&ends.source.to_be_bytes()) {
        return Err(Verdict::IcmpBad);
    }
    Ok(FlowKey::new(quoted.protocol, ends.destination, ends.source, ends.destination_port, ends.source_port))
}

fn read_message(message: &[u8]) -> Result<Quoted, Verdict> {
    Quoted::read(message).map_err(verdict)
}

const fn verdict(unusable: Unusable) -> Verdict {
    match unusable {
        Unusable::Other => Verdict::Icmp,
        Unusable::Bad => Verdict::IcmpBad,
    }
}

/// [`read`] for IPv6, behind extension headers that were walked over.
#[must_use]
pub fn read6(head: &[u8], icmp: usize, message_len: usize) -> Option<Result<FlowKey6, Verdict>> {
    let kind = *head.get(icmp)?;
    if message_len == 0 || !icmpv6_error::is_error(kind) {
        return None;
    }
    Some(key6(head, icmp, message_len))
}

fn key6(head: &[u8], icmp: usize, message_len: usize) -> Result<FlowKey6, Verdict> {
    let message = head.get(icmp..icmp + message_len).ok_or(Verdict::HeaderSplit)?;
    let [source, destination] = numbers6(head).ok_or(Verdict::HeaderSplit)?;
    let quoted = icmpv6_error::Quoted::read(message, source, destination).map_err(verdict)?;
    let ends = quoted.ends;
    if destination != ends.source {
        return Err(Verdict::IcmpBad);
    }
    let (port, other_port) = (ends.destination_port, ends.source_port);
    Ok(FlowKey6::new(quoted.protocol, ends.destination, ends.source, port, other_port))
}

/// Source and destination address of a packet over IPv6.
fn numbers6(head: &[u8]) -> Option<[u128; 2]> {
    let number = |at: usize| head.get(at..)?.first_chunk().copied().map(u128::from_be_bytes);
    Some([number(parse6::ADDRESSES)?, number(parse6::ADDRESSES + 16)?])
}

/// Where a translated error goes and what it quotes.
#[derive(Clone, Copy, Debug)]
pub struct Onward<K> {
    /// The key of the packet it is about, as its sender sent it.
    pub sent: K,
    /// On the link.
    pub link: Addressing,
    /// Of a flow that has a header in front of its client's bytes, when it is the client who is told.
    pub prefaced: Option<Life>,
}

/// Translates the error in `frame` whose ICMP message starts at `icmp`, as [`read`] has found it in this very frame. `false`, and nothing is
/// written, when its time to live has run out.
pub fn translate(frame: &mut [u8], icmp: usize, onward: Onward<FlowKey>) -> bool {
    let Some(fixed) = frame.first_chunk::<{ ETHERNET + ipv4::HEADER }>() else { return false };
    let end = ETHERNET + usize::from(u16::from_be_bytes([fixed[16], fixed[17]]));
    if fixed[22] <= 1 {
        return false;
    }
    let Some(message) = frame.get_mut(icmp..end) else { return false };
    let Ok(quoted) = read_message(message) else { return false };
    let Onward { sent, link, prefaced } = onward;
    if let Some((life, segment)) = prefaced.zip(message.get_mut(quoted.l4()..)) {
        let less = proxy_protocol::quoted(&life, segment, proxy_protocol::length(Family::V4));
        Quoted::lower_mtu(message, less);
    }
    let ends = Ends {
        source: sent.source(),
        destination: sent.destination(),
        source_port: sent.source_port(),
        destination_port: sent.destination_port(),
    };
    quoted.translate(message, ends);
    set_link(frame, link);
    let Some(header) = frame.get_mut(ETHERNET..icmp) else { return false };
    header[8] -= 1;
    header[12..16].copy_from_slice(&sent.destination().to_be_bytes());
    header[16..20].copy_from_slice(&sent.source().to_be_bytes());
    header[10..12].fill(0);
    // Its own checksum has been checked, options and all.
    let sum = checksum::checksum(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    true
}

/// [`translate`] for IPv6.
pub fn translate6(frame: &mut [u8], icmp: usize, onward: Onward<FlowKey6>) -> bool {
    let Some([source, destination]) = numbers6(frame) else { return false };
    let Some(end) = turnpike_packet::ip::end(frame) else { return false };
    if frame[parse6::HOP_LIMIT] <= 1 {
        return false;
    }
    let Some(message) = frame.get_mut(icmp..end) else { return false };
    let Ok(quoted) = icmpv6_error::Quoted::read(message, source, destination) else { return false };
    let Onward { sent, link, prefaced } = onward;
    if let Some((life, segment)) = prefaced.zip(message.get_mut(quoted.l4()..)) {
        let less = proxy_protocol::quoted(&life, segment, proxy_protocol::length(Family::V6));
        icmpv6_error::Quoted::lower_mtu(message, less);
    }
    let ends = icmpv6_error::Ends {
        source: sent.source_address().bits(),
        destination: sent.destination_address().bits(),
        source_port: sent.source_port(),
        destination_port: sent.destination_port(),
    };
    quoted.translate(message, ends, ends.destination, ends.source);
    set_link(frame, link);
    let Some(header) = frame.get_mut(..parse6::L4) else { return false };
    header[parse6::HOP_LIMIT] -= 1;
    header[parse6::ADDRESSES..parse6::ADDRESSES + 16].copy_from_slice(&ends.destination.to_be_bytes());
    header[parse6::ADDRESSES + 16..].copy_from_slice(&ends.source.to_be_bytes());
    true
}
