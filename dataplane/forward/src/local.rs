//! What the gateway answers to ARP. The bytes of its answers are made in `packet`.

use crate::mailbox::Shared;
use crate::neighbour::NextHop;
use crate::service_table::Tables;
use turnpike_packet::arp::{self, Arp, Operation};

/// What an ARP packet asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOutcome {
    /// It asked for an address of ours; this is the answer.
    Answer([u8; arp::FRAME]),
    /// Its sender is a next hop in use.
    Learned,
    /// It concerns nobody here.
    Ignored,
    /// It is malformed, or its sender claims an address of ours.
    Bad,
}

/// Whether an address is the gateway's: one of its own, a SNAT address or a VIP.
#[must_use]
pub fn is_ours(address: u32, tables: &Tables, shared: &Shared) -> bool {
    tables.address(address).is_some() || shared.gateway.is_own(address) || shared.gateway.is_snat(address)
}

/// Handles an ARP packet that came in on `port`, whose Ethernet address is `mac`.
#[must_use]
pub fn arp(
    frame: &[u8],
    port: usize,
    mac: [u8; 6],
    tables: &Tables,
    shared: &Shared,
    now_ms: u32,
) -> ArpOutcome {
    let Some(packet) = Arp::parse(frame) else { return ArpOutcome::Bad };
    let no_host = packet.sender_mac[0] & 1 != 0 || packet.sender_mac == [0; 6];
    if no_host || packet.sender_mac == mac || is_ours(packet.sender, tables, shared) {
        return ArpOutcome::Bad;
    }
    let sender = NextHop { port: port as u8, address: packet.sender };
    let learned = shared.neighbours.learn(sender, packet.sender_mac, now_ms);
    if packet.operation == Operation::Request && is_ours(packet.target, tables, shared) {
        return ArpOutcome::Answer(arp::reply(&packet, mac));
    }
    if learned { ArpOutcome::Learned } else { ArpOutcome::Ignored }
}
