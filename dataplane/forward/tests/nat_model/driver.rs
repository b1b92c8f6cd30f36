//! What clients, backends and routers send, drawn from a seed: mostly what such hosts say, and often enough what they should not.

use crate::association::Association;
use crate::dice::Dice;
use crate::frames::{Dress, Layout, Tuple, error_about, is_v6, set_number};
use crate::harness::talk::{Side, segment};
use crate::harness::tcp_model::{Model, Wants};
use crate::harness::{MAC, ROUTER_MAC};
use crate::nat::{Arrival, Life, Nat, Session, own, snat};
use crate::rules::{TALKS, talk};
use std::net::{IpAddr, SocketAddr};
use turnpike_packet::flight::Flight;
use turnpike_packet::ipv4::{SCTP, TCP, UDP};
use turnpike_packet::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use turnpike_packet::tcp_segment::Segment;
use turnpike_packet::{sctp, sctp::chunk, tcp, udp};

fn flight(ends: Tuple) -> Flight {
    Flight {
        source_mac: ROUTER_MAC,
        destination_mac: MAC,
        source: ends.source,
        destination: ends.destination,
    }
}

/// How the hosts behave while one burst comes.
#[derive(Clone, Copy, Debug)]
pub struct Mood {
    /// Nobody does what is uncommon.
    pub is_calm: bool,
    /// Only those of one family speak.
    pub family: Option<usize>,
}

/// The next frame, with a number that no other of its burst has.
pub fn arrival(dice: &mut Dice, nat: &Nat, mood: Mood, number: u16) -> Arrival {
    let (calm, n) = (mood.is_calm, dice.below(TALKS));
    let client = talk(mood.family.map_or(n, |family| n / 2 * 2 + family));
    let session = nat.sessions.get(&client);
    if !calm && dice.once_in(40) {
        return Arrival { frame: odd(dice, client), about: None };
    }
    if let Some(session) = session.filter(|_| !calm && dice.once_in(20)) {
        return error(dice, session);
    }
    let side = if session.is_some() { dice.one_of(&[Side::Client, Side::Backend]) } else { Side::Client };
    let ends = match (side, session) {
        (Side::Backend, Some(session)) => session.reply,
        _ => client,
    };
    // What opens a flow must leave, or its choice would not be seen.
    let is_young = session.is_some_and(|s| nat.now_ms - s.seen_ms < 60_000);
    let payload = payload(dice, is_young);
    let (mut frame, asks) = match (client.protocol, session.map(|s| &s.life)) {
        (TCP, Some(Life::Tcp(model))) => tcp_frame(dice, ends, side, Some(*model), calm, &payload),
        (TCP, _) => tcp_frame(dice, ends, side, None, calm, &payload),
        (SCTP, Some(Life::Sctp(association))) => sctp_frame(dice, ends, side, Some(*association)),
        (SCTP, _) => sctp_frame(dice, ends, side, None),
        _ => (udp_frame(dice, ends, &payload), false),
    };
    if calm {
        set_number(&mut frame, number);
        return Arrival { frame, about: None };
    }
    Arrival { frame: undressed(dice, &frame, number, is_young && !asks), about: None }
}

/// The same packet with another header, perhaps with wrong checksums, and if it may stay here also at the end of its life or too long.
fn undressed(dice: &mut Dice, frame: &[u8], number: u16, may_stay: bool) -> Vec<u8> {
    let ttl = if may_stay && dice.once_in(30) { dice.one_of(&[0, 1]) } else { 2 + dice.below(250) as u8 };
    let protocol = frame[if is_v6(frame) { 20 } else { 23 }];
    let options: &[u8] = match is_v6(frame) {
        _ if !dice.once_in(16) => &[],
        // Hop-by-hop or destination options of nothing but padding.
        true => &[dice.one_of(&[0, 60]), protocol, 0, 1, 4, 0, 0, 0, 0],
        false => &[1; 8],
    };
    let class = dice.next() as u8;
    let may_fragment = dice.once_in(2);
    let padding = if dice.once_in(8) { dice.below(20) } else { 0 };
    let mut frame = Dress { ttl, class, number, may_fragment, options, padding }.on(frame);
    let layout = Layout::at(&frame, 14);
    // A byte of a checksum, or of a datagram's data.
    let at = layout.l4 + if layout.protocol == TCP { 16 } else { 8 };
    if dice.once_in(50) && at < layout.end {
        frame[at] ^= 1 << dice.below(8);
    }
    frame
}

/// Some bytes, and if it may be sometimes more than a link takes.
fn payload(dice: &mut Dice, may_be_long: bool) -> Vec<u8> {
    let length = match dice.below(40) {
        0 if may_be_long => 1_400 + dice.below(120),
        1..=5 => dice.below(300),
        _ => dice.below(20),
    };
    let fill = dice.next() as u8;
    (0..length).map(|n| fill.wrapping_add(n as u8)).collect()
}

fn udp_frame(dice: &mut Dice, ends: Tuple, payload: &[u8]) -> Vec<u8> {
    let mut frame = udp::datagram(&flight(ends), payload);
    // Over IPv4 a datagram may be without a checksum.
    let is_bare = if is_v6(&frame) { dice.once_in(200) } else { dice.once_in(10) };
    if is_bare {
        let at = Layout::at(&frame, 14).l4 + 6;
        frame[at..at + 2].fill(0);
    }
    frame
}

/// A segment, and whether it is a SYN.
fn tcp_frame(
    dice: &mut Dice,
    ends: Tuple,
    side: Side,
    model: Option<Model>,
    calm: bool,
    payload: &[u8],
) -> (Vec<u8>, bool) {
    let state = model.map_or("none", |m| m.state);
    let usual = match (state, side) {
        ("none" | "closed" | "reset", Side::Client) => SYN,
        ("opening", Side::Backend) => SYN | ACK,
        ("opening", Side::Client) => SYN,
        _ if !calm && dice.once_in(25) => FIN | ACK,
        _ => dice.one_of(&[ACK, ACK, PSH | ACK]),
    };
    let flags = if calm || dice.below(12) > 0 {
        usual
    } else {
        let any = dice.below(64) as u8;
        dice.one_of(&[ACK, SYN, SYN | ACK, FIN | ACK, RST, RST | ACK, any])
    };
    let mut model = model;
    let mut wants = |side| model.as_mut().map_or(Wants::default(), |m| *m.wants(side));
    let (theirs, own) = (wants(side.other()), wants(side));
    let is_first = flags & SYN != 0 && ["none", "opening", "closed"].contains(&state);
    let offset = |dice: &mut Dice| match dice.below(if calm { 20 } else { 28 }) {
        0..=15 => 0,
        16..=19 => dice.below(1_500) as u32,
        20..=23 => {
            dice.one_of(&[-1, -65_535, -65_536, -65_537, 65_535, 65_536, 65_537, 300_000, i32::MIN]) as u32
        }
        24 => (u32::from(theirs.window) << theirs.scale.unwrap_or(0))
            .wrapping_add(dice.below(3) as u32)
            .wrapping_sub(1),
        _ => dice.next() as u32,
    };
    let sequence = if is_first { dice.next() as u32 } else { theirs.next.wrapping_add(offset(dice)) };
    let acknowledgement = own.next.wrapping_add(if dice.once_in(2) { 0 } else { offset(dice) });
    let window = dice.one_of(&[1_000, 5_000, 29_200, u16::MAX, 0]);
    let scale = (flags & SYN != 0 && dice.once_in(2)).then(|| dice.below(15) as u8);
    if flags & SYN != 0 && dice.once_in(4) {
        let mss = dice.one_of(&[1_460u16, 1_461, 8_960, 536]).to_be_bytes();
        let options = [2, 4, mss[0], mss[1], 3, 3, dice.below(15) as u8, 0];
        return (tcp::with_options(&flight(ends), sequence, acknowledgement, flags, &options), true);
    }
    let segment = Segment { window, scale, ..segment(flags, sequence, acknowledgement) };
    let data = if flags & (SYN | RST) != 0 { b"" } else { payload };
    (segment.frame(&flight(ends), data), flags & SYN != 0)
}

/// A packet of one chunk, and whether it is an INIT.
fn sctp_frame(dice: &mut Dice, ends: Tuple, side: Side, association: Option<Association>) -> (Vec<u8>, bool) {
    use chunk::{ABORT, COOKIE_ACK, COOKIE_ECHO, DATA, HEARTBEAT, INIT, INIT_ACK, SACK, SHUTDOWN};
    use chunk::{ERROR, SHUTDOWN_ACK, SHUTDOWN_COMPLETE};
    let state = association.map_or("none", |a| a.state);
    let usual = match (state, side) {
        ("none" | "closed", Side::Client) => INIT,
        ("opening" | "restarting", Side::Backend) => dice.one_of(&[INIT_ACK, COOKIE_ACK]),
        ("opening" | "restarting", Side::Client) => COOKIE_ECHO,
        _ => dice.one_of(&[DATA, SACK, HEARTBEAT]),
    };
    let uncommon =
        [INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, SHUTDOWN_COMPLETE, ERROR];
    let kind = if dice.once_in(10) { dice.one_of(&uncommon) } else { usual };
    let mut association = association;
    let mut of = |side| association.as_mut().map_or(0, |a| *a.tag(side));
    let (own, theirs) = (of(side), of(side.other()));
    // Tags are few, so that they are met again.
    let any = 1 + dice.below(4) as u32;
    let tag = match dice.below(10) {
        _ if kind == INIT => 0,
        0 => any,
        1 if theirs != 0 => theirs,
        _ if own != 0 => own,
        _ => any,
    };
    let value = match kind {
        INIT | INIT_ACK => sctp::init(any, 1).to_vec(),
        DATA => vec![7; 16],
        _ => Vec::new(),
    };
    let flags = if [ABORT, SHUTDOWN_COMPLETE].contains(&kind) { dice.below(2) as u8 } else { 0 };
    (sctp::packet(&flight(ends), tag, &[(kind, flags, &value)]), kind == INIT)
}

/// A router or a host complains about the latest packet that one side has sent.
fn error(dice: &mut Dice, session: &Session) -> Arrival {
    let side = dice.below(2);
    let Some((came, left)) = &session.last[side] else {
        return Arrival { frame: odd(dice, session.client), about: None };
    };
    let (makers, kinds, quotes) = match is_v6(left) {
        false => (
            ["198.51.100.1", "10.244.0.254", "192.0.2.1"],
            [(3, 4), (3, 1), (3, 3), (11, 0), (12, 0)],
            [28, 48, 548],
        ),
        true => (
            ["2001:db8:c::1", "fd00::fe", "2001:db8::1"],
            [(2, 0), (1, 0), (1, 4), (3, 0), (4, 1)],
            [48, 68, 1_232],
        ),
    };
    let (from, kind, quoted) = (dice.one_of(&makers), dice.one_of(&kinds), dice.one_of(&quotes));
    let mut frame = error_about(left, from.parse().unwrap(), kind, quoted, dice.below(64) as u8);
    let layout = Layout::at(&frame, 14);
    match dice.below(16) {
        0 => frame[layout.l4 + 2] ^= 0x10,
        1 => frame = Dress { ttl: 1, ..Dress::PLAIN }.on(&frame),
        _ => {}
    }
    Arrival { frame, about: Some(came.clone()) }
}

/// Addresses of which something is known, by family: a VIP, the gateway's own, that of SNAT, two that are nobody's, a ClusterIP, one of no Service.
fn places(is_v6: bool) -> [IpAddr; 7] {
    let at = |v4: &str, v6: &str| if is_v6 { v6 } else { v4 }.parse().unwrap();
    [
        at("203.0.113.80", "2001:db8:80::80"),
        own(is_v6),
        snat(is_v6),
        at("203.0.113.1", "2001:db8:80::1"),
        at("203.0.113.200", "2001:db8:80::200"),
        at("10.96.0.10", "fd96::10"),
        at("10.96.99.1", "fd96::99"),
    ]
}

/// What is of no flow.
fn odd(dice: &mut Dice, client: Tuple) -> Vec<u8> {
    let of_v6 = client.source.is_ipv6();
    let [vip, own, snat, nobody, neither, cluster_ip, unallocated] = places(of_v6);
    let ask = |destination: IpAddr, dice: &mut Dice| {
        let ends = Tuple { destination: SocketAddr::new(destination, 7), ..client };
        flight(ends).echo_request(dice.next() as u16, 1, &payload(dice, false))
    };
    let to = |dice: &mut Dice, address: IpAddr, port: u16| {
        let ends = Tuple { destination: SocketAddr::new(address, port), ..client };
        let syn = segment(SYN, 7, 0).frame(&flight(Tuple { protocol: TCP, ..ends }), b"");
        if dice.once_in(2) { syn } else { udp_frame(dice, Tuple { protocol: UDP, ..ends }, b"query") }
    };
    let mut whole = udp::datagram(&flight(client), &payload(dice, false));
    let l4 = Layout::at(&whole, 14).l4;
    match dice.below(19) {
        0 => return ask(vip, dice),
        1 => return ask(own, dice),
        2 => return ask(nobody, dice),
        3 => return to(dice, vip, 9),
        4 => return to(dice, cluster_ip, 9),
        5 => return to(dice, unallocated, 9),
        6 => return to(dice, snat, 40_000),
        7 => return to(dice, own, 22),
        8 => return to(dice, neither, 80),
        9 => whole.truncate(dice.below(if of_v6 { 54 } else { 34 })),
        10 => whole[5] ^= 1,
        11 => whole[12..14].copy_from_slice(&[0x88, 0xcc]),
        // The checksum of an IPv4 header; a packet of IPv6 becomes longer than its frame.
        12 => whole[if of_v6 { 18 } else { 24 }] ^= 0x40,
        13 => whole[14] = dice.one_of(&[0x55, 0x44, 0x4f]),
        14 => {
            whole[l4 + 4..l4 + 6].copy_from_slice(&dice.one_of(&[7u16, 3_000]).to_be_bytes());
        }
        15 => {
            let route: &[u8] = match of_v6 {
                true => &[43, UDP, 0, dice.one_of(&[0, 3, 4]), 1, 0, 0, 0, 0],
                false => &[dice.one_of(&[131, 137]), 4, 4, 0],
            };
            whole = Dress { options: route, ..Dress::PLAIN }.on(&whole);
        }
        16 => {
            whole[if of_v6 { 20 } else { 23 }] = dice.one_of(&[2, 47, 89]);
            set_number(&mut whole, 0);
        }
        17 => {
            // About what was never sent.
            let (source, destination) = (SocketAddr::new(snat, 50_000), SocketAddr::new(own, 9));
            let sent = udp::datagram(&flight(Tuple { protocol: UDP, source, destination }), b"");
            let (maker, kind) = if of_v6 { ("fd00::fe", (1, 4)) } else { ("10.244.0.254", (3, 1)) };
            return error_about(&sent, maker.parse().unwrap(), kind, 28, 60);
        }
        _ => {
            let nobody = if of_v6 { ["::1", "ff02::1"] } else { ["127.0.0.1", "224.0.0.1"] };
            let [loopback, group] = nobody.map(|address| address.parse().unwrap());
            let source = SocketAddr::new(dice.one_of(&[loopback, vip, group]), 9);
            return segment(SYN, 7, 0).frame(&flight(Tuple { source, protocol: TCP, ..client }), b"");
        }
    }
    whole
}
