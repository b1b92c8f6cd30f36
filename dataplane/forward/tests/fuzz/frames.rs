//! Frames as inputs ask for them: templates of what hosts say, answers to what has left, fragments, and rubbish; then spoilt, and made right
//! again where a checksum would hide what is behind it.

use crate::harness::{MAC, ROUTER_MAC};
use crate::input::Input;
use crate::world::{CLIENTS, OWN, VIPS, pair};
use std::net::{IpAddr, SocketAddr};
use turnpike_packet::arp::{self, Arp, Operation};
use turnpike_packet::checksum::checksum;
use turnpike_packet::flight::{self, Flight};
use turnpike_packet::ip::Pair;
use turnpike_packet::tcp_segment::Segment;
use turnpike_packet::{ndp, sctp, tcp, udp};

/// What a target is about.
#[derive(Clone, Copy, Debug)]
pub struct Menu {
    pub kinds: &'static [Kind],
    /// Whether the gateway's kernel has a tap.
    pub has_tap: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Tcp,
    Udp,
    Sctp,
    /// From the receiver of what has left, back.
    Answer,
    /// An ICMP error about what has left, or about what has not.
    Error,
    Echo,
    Neighbour,
    /// To addresses of the gateway itself.
    Own,
    /// One of those that came, once more.
    Again,
    /// Bytes behind an Ethernet header, and bytes alone.
    Packet,
    Noise,
    Fragments,
}

pub const ALL: &[Kind] = &[
    Kind::Tcp,
    Kind::Udp,
    Kind::Sctp,
    Kind::Answer,
    Kind::Answer,
    Kind::Error,
    Kind::Echo,
    Kind::Neighbour,
    Kind::Own,
    Kind::Again,
    Kind::Packet,
    Kind::Noise,
    Kind::Fragments,
];

fn flight(source: &str, destination: &str, ports: (u16, u16)) -> Flight {
    let at = |address: &str, port| SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
    Flight {
        source_mac: ROUTER_MAC,
        destination_mac: MAC,
        source: at(source, ports.0),
        destination: at(destination, ports.1),
    }
}

/// From a client to a VIP of its family.
fn to_vip(input: &mut Input<'_>, port: u16) -> Flight {
    let client = input.one_of(&CLIENTS);
    let is_v6 = client.contains(':');
    let vip = if is_v6 { VIPS[3] } else { VIPS[input.below(3)] };
    let port = if input.byte() == 1 { input.word() } else { port };
    flight(client, vip, (40_000 + input.word() % 4, port))
}

fn segment(input: &mut Input<'_>, flight: &Flight) -> Vec<u8> {
    let flags = input.one_of(&[2, 0x12, 0x10, 0x10, 0x18, 0x11, 4, 0x14]);
    let flags = if input.byte() == 1 { input.byte() } else { flags };
    let number = |input: &mut Input<'_>| match input.below(4) {
        0 => 0,
        1 => 1,
        2 => u32::from(input.word()),
        _ => input.long(),
    };
    let (sequence, acknowledgement) = (number(input), number(input));
    if flags & 2 != 0 && input.byte() < 64 {
        return tcp::with_options(flight, sequence, acknowledgement, flags, input.bytes(40));
    }
    let segment = Segment { sequence, acknowledgement, flags, window: input.word(), scale: None };
    segment.frame(flight, input.bytes(64))
}

fn association(input: &mut Input<'_>, flight: &Flight) -> Vec<u8> {
    let kind = input.one_of(&[1, 2, 10, 11, 0, 3, 4, 6, 7, 8, 14, 9, 200]);
    let tag = if kind == 1 { 0 } else { u32::from(input.byte()) % 4 };
    let value = if kind <= 2 {
        sctp::init(1 + u32::from(input.byte()) % 3, 1).to_vec()
    } else {
        input.bytes(64).to_vec()
    };
    sctp::packet(flight, tag, &[(kind, input.byte() & 1, &value)])
}

/// What one of those sent is answered with.
fn answer(input: &mut Input<'_>, sent: &[Vec<u8>]) -> Option<Vec<u8>> {
    let about = sent.get(input.below(sent.len().clamp(1, 256)))?;
    let (source, destination) = flight::ends(about)?;
    let back =
        Flight { source_mac: ROUTER_MAC, destination_mac: MAC, source: destination, destination: source };
    let protocol = if about[12] == 8 { about[23] } else { about[20] };
    Some(match protocol {
        6 => segment(input, &back),
        17 => udp::datagram(&back, input.bytes(64)),
        132 => association(input, &back),
        other => back.frame(other, input.bytes(64)),
    })
}

fn error(input: &mut Input<'_>, sent: &[Vec<u8>]) -> Vec<u8> {
    let made_up;
    let about = match sent.get(input.below(sent.len().clamp(1, 256))) {
        Some(about) if about.len() > 54 => about,
        _ => {
            let flight = to_vip(input, 80);
            made_up = segment(input, &flight);
            &made_up
        }
    };
    let is_v6 = about[12] == 0x86;
    let kind = if is_v6 { input.one_of(&[1, 2, 3, 4]) } else { input.one_of(&[3, 11, 12, 4, 5]) };
    let mut message = vec![kind, input.below(6) as u8, 0, 0];
    message.extend(input.long().to_be_bytes());
    let most = about.len() - 14;
    let quoted = if input.byte() < 128 { most } else { usize::from(input.word()) % (most + 1) };
    message.extend(&about[14..14 + quoted]);
    let from =
        if input.byte() < 200 { CLIENTS[if is_v6 { 2 } else { 3 }] } else { VIPS[if is_v6 { 3 } else { 0 }] };
    let to = pair(about).map_or_else(|| OWN.to_owned(), |(source, _)| source.to_string());
    let flight = flight(from, &to, (0, 0));
    let protocol = if is_v6 { 58 } else { 1 };
    let sum = if is_v6 { !flight.transport_sum(58, &message) } else { checksum(&message) };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    flight.frame(protocol, &message)
}

fn neighbour(input: &mut Input<'_>) -> Vec<u8> {
    let target = u128::from_be_bytes("2001:db8:80::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    let own = u32::from_be_bytes([192, 0, 2, 1]);
    let sender = u32::from_be_bytes([192, 0, 2, input.one_of(&[254, 1, 7])]);
    match input.below(5) {
        0 => ndp::solicitation(ROUTER_MAC, target + 0x99, target).to_vec(),
        1 => ndp::announcement(ROUTER_MAC, target + u128::from(input.byte())).to_vec(),
        2 => arp::request(ROUTER_MAC, sender, own).to_vec(),
        3 => arp::announcement(ROUTER_MAC, sender).to_vec(),
        _ => {
            let target_mac = if input.byte() < 128 { MAC } else { [0; 6] };
            let reply =
                Arp { operation: Operation::Reply, sender_mac: ROUTER_MAC, sender, target_mac, target: own };
            reply.frame(MAC).to_vec()
        }
    }
}

/// The frames of one step, as they come.
pub fn some(input: &mut Input<'_>, menu: Menu, came: &[Vec<u8>], sent: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let kind = input.one_of(menu.kinds);
    if !matches!(kind, Kind::Fragments) {
        let frame = template(input, kind, came, sent);
        return vec![spoilt(input, frame)];
    }
    let flight = to_vip(input, 53);
    let payload = vec![input.byte(); usize::from(input.word()) % 3_000];
    let pieces = cut(input, &udp::datagram(&flight, &payload));
    pieces.into_iter().map(|piece| spoilt(input, piece)).collect()
}

/// A frame of any kind but fragments.
pub fn one(input: &mut Input<'_>, menu: Menu, came: &[Vec<u8>], sent: &[Vec<u8>]) -> Vec<u8> {
    let kind = input.one_of(menu.kinds);
    let frame = template(input, kind, came, sent);
    spoilt(input, frame)
}

fn template(input: &mut Input<'_>, kind: Kind, came: &[Vec<u8>], sent: &[Vec<u8>]) -> Vec<u8> {
    match kind {
        Kind::Tcp => {
            let flight = to_vip(input, 80);
            segment(input, &flight)
        }
        Kind::Udp | Kind::Fragments => udp::datagram(&to_vip(input, 53), input.bytes(1_460)),
        Kind::Sctp => {
            let flight = to_vip(input, 36_412);
            association(input, &flight)
        }
        Kind::Answer => answer(input, sent).unwrap_or_default(),
        Kind::Error => error(input, sent),
        Kind::Echo => to_vip(input, 0).echo_request(input.word(), 1, input.bytes(64)),
        Kind::Neighbour => neighbour(input),
        Kind::Own => {
            let flight = flight(CLIENTS[0], OWN, (40_000, input.one_of(&[22, 179, 53, 33_000])));
            if input.byte() < 128 { segment(input, &flight) } else { udp::datagram(&flight, input.bytes(64)) }
        }
        Kind::Again => came.get(input.below(came.len().clamp(1, 256))).cloned().unwrap_or_default(),
        Kind::Packet => {
            let kind = input.one_of(&[[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]]);
            [&MAC[..], &ROUTER_MAC, &kind, input.bytes(1_600)].concat()
        }
        Kind::Noise => input.bytes(200).to_vec(),
    }
}

/// A packet in fragments, in an order and with overlaps that the input wants.
fn cut(input: &mut Input<'_>, frame: &[u8]) -> Vec<Vec<u8>> {
    let is_v6 = frame[12] == 0x86;
    let (head, body) = frame.split_at(if is_v6 { 54 } else { 34 });
    let id = u32::from(input.byte());
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < body.len() && pieces.len() < 32 {
        let end = (at + 8 * (1 + input.below(180))).min(body.len());
        let more = end < body.len();
        let mut piece = head.to_vec();
        if is_v6 {
            piece[20] = 44;
            piece.extend([head[20], 0]);
            piece.extend(((at as u16) | u16::from(more)).to_be_bytes());
            piece.extend(id.to_be_bytes());
        } else {
            piece[18..20].copy_from_slice(&(id as u16).to_be_bytes());
            piece[20..22].copy_from_slice(&((at / 8) as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
        }
        piece.extend(&body[at..end]);
        let length = (piece.len() - if is_v6 { 54 } else { 14 }) as u16;
        let field = if is_v6 { 18 } else { 16 };
        piece[field..field + 2].copy_from_slice(&length.to_be_bytes());
        pieces.push(summed(piece));
        at = if input.byte() == 1 { end.saturating_sub(8).max(at + 8) } else { end };
    }
    if !pieces.is_empty() {
        let turn = input.below(pieces.len());
        pieces.rotate_left(turn);
        if input.byte() < 64 {
            pieces.reverse();
        }
    }
    pieces
}

/// With a right header checksum, where there is one.
fn summed(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.len() >= 34 && frame[12..14] == [8, 0] {
        let end = (14 + usize::from(frame[14] & 0x0f) * 4).clamp(34, frame.len());
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..end]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// Some bytes changed, the end cut off or more put behind it, and perhaps the sums made right again.
fn spoilt(input: &mut Input<'_>, mut frame: Vec<u8>) -> Vec<u8> {
    let how = input.byte();
    if how < 160 {
        return frame;
    }
    for _ in 0..=how % 4 {
        let at = usize::from(input.byte());
        let byte = input.byte();
        if let Some(spoilt) = frame.get_mut(at) {
            *spoilt = byte;
        }
    }
    match input.byte() {
        0..=15 => frame.truncate(usize::from(input.word()) % 1_600),
        16..=31 => frame.extend(input.bytes(64)),
        _ => {}
    }
    if how >= 200 { transport_summed(summed(frame)) } else { frame }
}

/// With a right checksum of TCP or UDP behind a plain header.
fn transport_summed(mut frame: Vec<u8>) -> Vec<u8> {
    let Some(pair) = Pair::of(&frame) else { return frame };
    let (protocol, l4) = match pair {
        Pair::V4 { .. } => (frame[23], 34),
        Pair::V6 { .. } => (frame[20], 54),
    };
    let at = l4 + if protocol == 6 { 16 } else { 6 };
    let end = turnpike_packet::ip::end(&frame).unwrap_or(0).min(frame.len());
    if matches!(protocol, 6 | 17) && at + 2 <= end {
        frame[at..at + 2].fill(0);
        let sum = !pair.transport_sum(protocol, &frame[l4..end]);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}
