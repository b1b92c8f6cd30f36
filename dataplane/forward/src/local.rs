//! What the gateway answers to ARP and to neighbour discovery. The bytes of its answers are made in `packet`.

use crate::address::Address;
use crate::mailbox::Shared;
use crate::neighbour::NextHop;
use crate::service_table::Tables;
use turnpike_packet::arp::{self, Arp, Operation};
use turnpike_packet::ndp::{self, Kind, Message, RouterAdvertisement};

/// What a packet about neighbours asks for. `A` is the frame of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<A> {
    /// It asked for an address of ours that is answered on its port; this is the answer.
    Answer(A),
    /// Its sender is a next hop in use.
    Learned,
    /// It concerns nobody here.
    Ignored,
    /// It is malformed, or its sender claims an address of ours.
    Bad,
}

/// Whether an address is the gateway's: one of its own, a SNAT address or a VIP.
#[must_use]
pub fn is_ours(address: Address, tables: &Tables, shared: &Shared) -> bool {
    shared.gateway.answers(address) || tables.address(address).is_some()
}

/// Whether an address is the gateway's, and one that it answers for on a port.
fn is_answered(address: Address, port: usize, tables: &Tables, shared: &Shared) -> bool {
    is_ours(address, tables, shared) && shared.gateway.answers_on(port, address)
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
) -> Outcome<[u8; arp::FRAME]> {
    let Some(packet) = Arp::parse(frame) else { return Outcome::Bad };
    let no_host = packet.sender_mac[0] & 1 != 0 || packet.sender_mac == [0; 6];
    let (of, target) = (Address::v4(packet.sender), Address::v4(packet.target));
    if no_host || packet.sender_mac == mac || is_ours(of, tables, shared) {
        return Outcome::Bad;
    }
    let sender = NextHop { port: port as u8, address: of };
    let learned = shared.neighbours.learn(sender, packet.sender_mac, now_ms);
    if packet.operation == Operation::Request && is_answered(target, port, tables, shared) {
        return Outcome::Answer(arp::reply(&packet, mac));
    }
    if learned { Outcome::Learned } else { Outcome::Ignored }
}

/// Handles a message of neighbour discovery that came in on `port`, whose Ethernet address is `mac`.
#[must_use]
pub fn neighbour_discovery(
    frame: &[u8],
    port: usize,
    mac: [u8; 6],
    tables: &Tables,
    shared: &Shared,
    now_ms: u32,
) -> Outcome<[u8; ndp::FRAME]> {
    if let Some(router) = RouterAdvertisement::parse(frame) {
        return hear(&router, port, mac, tables, shared, now_ms);
    }
    let Some(message) = Message::parse(frame) else { return Outcome::Bad };
    let Some(&from) = frame.get(6..).and_then(<[u8]>::first_chunk::<6>) else { return Outcome::Bad };
    let (source, target) = (Address::v6(message.source), Address::v6(message.target));
    // One of our own that came back, or somebody who claims an address of ours.
    let claims = match message.kind {
        Kind::Solicitation => source,
        Kind::Advertisement { .. } => target,
    };
    if from == mac || from[0] & 1 != 0 || is_ours(claims, tables, shared) {
        return Outcome::Bad;
    }
    let hop = NextHop { port: port as u8, address: claims };
    let known = shared.neighbours.find(hop).map(|index| shared.neighbours.link(index));
    let learned = message.link.is_some_and(|link| {
        // RFC 4861 section 7.2.5: what does not override leaves an address that is known as it is.
        let is_fixed = matches!(message.kind, Kind::Advertisement { replaces: false, .. })
            && known.is_some_and(|known| known.is_resolved() && known.mac() != link);
        link[0] & 1 == 0 && link != [0; 6] && !is_fixed && shared.neighbours.learn(hop, link, now_ms)
    });
    if message.kind == Kind::Solicitation && is_answered(target, port, tables, shared) {
        return Outcome::Answer(ndp::advertisement(&message, from, mac));
    }
    if learned { Outcome::Learned } else { Outcome::Ignored }
}

/// Hears a router on a port.
fn hear<A>(
    router: &RouterAdvertisement,
    port: usize,
    mac: [u8; 6],
    tables: &Tables,
    shared: &Shared,
    now_ms: u32,
) -> Outcome<A> {
    let source = Address::v6(router.source);
    if router.link == Some(mac) || is_ours(source, tables, shared) {
        return Outcome::Bad;
    }
    if !shared.routers.hear(port, source, router.lifetime_s, now_ms) {
        return Outcome::Ignored;
    }
    let hop = NextHop { port: port as u8, address: source };
    // Flows will need it: its Ethernet address is in the message, or is asked for.
    if router.lifetime_s > 0
        && let Some(index) = shared.neighbours.index(hop)
    {
        match router.link.filter(|link| link[0] & 1 == 0 && *link != [0; 6]) {
            Some(link) => _ = shared.neighbours.learn(hop, link, now_ms),
            None => shared.neighbours.want(index),
        }
    }
    Outcome::Learned
}
