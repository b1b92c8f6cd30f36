//! What clients, backends and routers send, drawn from a seed: mostly what such hosts say, and often enough what they should not.

use crate::association::Association;
use crate::frames::{Tuple, dressed};
use crate::harness::services::Port;
use crate::harness::talk::{Side, segment};
use crate::harness::tcp_model::{Model, Wants};
use crate::harness::{MAC, ROUTER_MAC};
use crate::nat::{Arrival, Life, Nat, Rule, Session, error_about};
use std::net::{Ipv4Addr, SocketAddrV4};
use turnpike_packet::flight::Flight;
use turnpike_packet::ipv4::{SCTP, TCP, UDP};
use turnpike_packet::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use turnpike_packet::tcp_segment::Segment;
use turnpike_packet::{sctp, sctp::chunk, tcp, udp};
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer};
use turnpike_wire::update::{Action, BackendSet, Midstream, Mode, Protocol, Tracking, Treatment};

/// Clients with one port and one frontend each.
const TALKS: usize = 4_096;

/// SplitMix64, which one seed makes into one story.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Whether something happens that happens once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Where Services are: name, protocol, address, whether that is a ClusterIP.
const FRONTENDS: [(&str, Protocol, &str, bool); 10] = [
    ("web", Protocol::Tcp, "203.0.113.80:80", false),
    ("tls", Protocol::Tcp, "203.0.113.80:443", false),
    ("api", Protocol::Tcp, "10.96.0.10:443", true),
    ("old", Protocol::Tcp, "203.0.113.81:8080", false),
    ("dns", Protocol::Udp, "203.0.113.80:53", false),
    ("log", Protocol::Udp, "10.96.0.10:514", true),
    ("ntp", Protocol::Udp, "203.0.113.82:123", false),
    ("sig", Protocol::Sctp, "203.0.113.83:36412", false),
    ("dia", Protocol::Sctp, "10.96.0.11:3868", true),
    ("bye", Protocol::Tcp, "203.0.113.84:80", false),
];

const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Sctp => SCTP,
    }
}

/// Rules drawn anew, for the model and for the worker.
pub fn rules(dice: &mut Dice, nat: &mut Nat) -> Vec<Port> {
    let mut ports = Vec::new();
    nat.rules.clear();
    for (name, protocol, at, is_cluster_ip) in FRONTENDS {
        let tracking = Tracking {
            tcp_established_s: dice.one_of(&[7_440, 10_000]),
            tcp_transitory_s: dice.one_of(&[240, 300]),
            udp_s: dice.one_of(&[120, 300]),
            midstream: dice.one_of(&[Midstream::Reset, Midstream::Drop, Midstream::Forward]),
        };
        let action =
            dice.one_of(&[[Action::Forward; 6].as_slice(), &[Action::Reject, Action::Drop]].concat());
        let mode = dice.one_of(&[Mode::Nat, Mode::Dnat]);
        let treatment = Treatment { action, set: BackendSet::Cluster, mode };
        let rows: Vec<(String, &str)> = (1..=5u8)
            .filter(|_| !dice.clone().once_in(50) && dice.below(3) > 0)
            .map(|host| (format!("10.244.0.{host}:8080"), if host == 5 { "s" } else { "cls" }))
            .collect();
        let sources = (name == "old").then(|| (Ipv4Addr::new(198, 51, 100, 0), 25));
        let kind = if is_cluster_ip { ClusterIp } else { LoadBalancer };
        let borrowed: Vec<(&str, &str)> = rows.iter().map(|(at, how)| (&at[..], *how)).collect();
        let mut port =
            Port::new(name, protocol, &[]).backends(&borrowed).with(at, kind, treatment, treatment);
        if sources.is_some() {
            port = port.guarded(&["198.51.100.0/25"]);
        }
        ports.push(port.tracked(tracking));
        let backends =
            rows.iter().map(|(at, how)| (at.parse().unwrap(), (how.contains('c'), how.contains('s'))));
        let backends = backends.collect();
        let rule = Rule { is_cluster_ip, action, mode, sources, tracking, backends };
        nat.rules.insert((number(protocol), at.parse().unwrap()), rule);
    }
    ports
}

/// The `n`th client and whom it talks to: many outside, some that are pods and backends themselves.
fn talk(n: usize) -> Tuple {
    let (_, protocol, at, _) = FRONTENDS[n % FRONTENDS.len()];
    let address = match n / 10 % 8 {
        0 => Ipv4Addr::new(10, 244, 0, 1 + (n / 80 % 4) as u8),
        1 => Ipv4Addr::new(10, 244, 3, (n % 200) as u8),
        _ => Ipv4Addr::new(198, 51, 100, (n / 80) as u8),
    };
    let source = SocketAddrV4::new(address, 1 + (n as u16).wrapping_mul(13));
    Tuple { protocol: number(protocol), source, destination: at.parse().unwrap() }
}

fn flight(ends: Tuple) -> Flight {
    Flight {
        source_mac: ROUTER_MAC,
        destination_mac: MAC,
        source: ends.source.into(),
        destination: ends.destination.into(),
    }
}

/// The next frame. In calm times nobody does what is uncommon.
pub fn arrival(dice: &mut Dice, nat: &Nat, calm: bool) -> Arrival {
    let client = talk(dice.below(TALKS));
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
    let (frame, asks) = match (client.protocol, session.map(|s| &s.life)) {
        (TCP, Some(Life::Tcp(model))) => tcp_frame(dice, ends, side, Some(*model), calm),
        (TCP, _) => tcp_frame(dice, ends, side, None, calm),
        (SCTP, Some(Life::Sctp(association))) => sctp_frame(dice, ends, side, Some(*association)),
        (SCTP, _) => sctp_frame(dice, ends, side, None),
        _ => (udp_frame(dice, ends), false),
    };
    if calm {
        return Arrival { frame, about: None };
    }
    // What opens a flow must leave, or its choice would not be seen.
    let is_young = session.is_some_and(|s| nat.now_ms - s.seen_ms < 60_000) && !asks;
    Arrival { frame: undressed(dice, &frame, is_young), about: None }
}

/// The same packet with another header, perhaps with wrong checksums, and if it may stay here also at the end of its life or too long.
fn undressed(dice: &mut Dice, frame: &[u8], may_stay: bool) -> Vec<u8> {
    let ttl = if may_stay && dice.once_in(30) { dice.one_of(&[0, 1]) } else { 2 + dice.below(250) as u8 };
    let options: &[u8] = if dice.once_in(16) { &[1; 8] } else { &[] };
    let (tos, id, may_fragment) = (dice.next() as u8, dice.next() as u16, dice.once_in(2));
    let padding = if dice.once_in(8) { dice.below(20) } else { 0 };
    let mut frame = dressed(frame, ttl, tos, id, may_fragment, options, padding);
    // A byte of a checksum, or of a datagram's data.
    let at = 34 + options.len() + if frame[23] == TCP { 16 } else { 8 };
    if dice.once_in(50) && at < frame.len() - padding {
        frame[at] ^= 1 << dice.below(8);
    }
    frame
}

fn payload(dice: &mut Dice) -> Vec<u8> {
    let length = match dice.below(40) {
        0 => 1_400 + dice.below(60),
        1..=5 => dice.below(300),
        _ => dice.below(20),
    };
    let fill = dice.next() as u8;
    (0..length).map(|n| fill.wrapping_add(n as u8)).collect()
}

fn udp_frame(dice: &mut Dice, ends: Tuple) -> Vec<u8> {
    let mut frame = udp::datagram(&flight(ends), &payload(dice));
    if dice.once_in(10) {
        frame[40..42].fill(0);
    }
    frame
}

/// A segment, and whether it is a SYN.
fn tcp_frame(dice: &mut Dice, ends: Tuple, side: Side, model: Option<Model>, calm: bool) -> (Vec<u8>, bool) {
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
    let data = if flags & (SYN | RST) != 0 { Vec::new() } else { payload(dice) };
    (segment.frame(&flight(ends), &data), flags & SYN != 0)
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
    let from = dice.one_of(&[
        Ipv4Addr::new(198, 51, 100, 1),
        Ipv4Addr::new(10, 244, 0, 254),
        Ipv4Addr::new(192, 0, 2, 1),
    ]);
    let kind = dice.one_of(&[(3, 4), (3, 1), (3, 3), (11, 0), (12, 0)]);
    let quoted = dice.one_of(&[28, 48, 548]);
    let mut frame = error_about(left, from, kind, quoted, dice.below(64) as u8);
    match dice.below(16) {
        0 => frame[36] ^= 0x10,
        1 => frame = dressed(&frame, 1, 0, 0, false, &[], 0),
        _ => {}
    }
    Arrival { frame, about: Some(came.clone()) }
}

/// What is of no flow.
fn odd(dice: &mut Dice, client: Tuple) -> Vec<u8> {
    let ask = |destination: Ipv4Addr, dice: &mut Dice| {
        let ends = Tuple { destination: SocketAddrV4::new(destination, 7), ..client };
        flight(ends).echo_request(dice.next() as u16, 1, &payload(dice))
    };
    let [vip, own, snat] = [[203, 0, 113, 80], [192, 0, 2, 1], [10, 1, 0, 1]].map(Ipv4Addr::from);
    let mut whole = udp_frame(dice, client);
    let to = |dice: &mut Dice, address: Ipv4Addr, port: u16| {
        let destination = SocketAddrV4::new(address, port);
        let ends = Tuple { destination, ..client };
        let syn = segment(SYN, 7, 0).frame(&flight(Tuple { protocol: TCP, ..ends }), b"");
        if dice.once_in(2) { syn } else { udp_frame(dice, Tuple { protocol: UDP, ..ends }) }
    };
    let sum = |frame: &mut Vec<u8>| *frame = dressed(frame, 64, 0, 0, false, &[], 0);
    match dice.below(19) {
        0 => return ask(vip, dice),
        1 => return ask(own, dice),
        2 => return ask(Ipv4Addr::new(203, 0, 113, 1), dice),
        3 => return to(dice, vip, 9),
        4 => return to(dice, Ipv4Addr::new(10, 96, 0, 10), 9),
        5 => return to(dice, Ipv4Addr::new(10, 96, 99, 1), 9),
        6 => return to(dice, snat, 40_000),
        7 => return to(dice, own, 22),
        8 => return to(dice, Ipv4Addr::new(203, 0, 113, 200), 80),
        9 => whole.truncate(dice.below(34)),
        10 => whole[5] ^= 1,
        11 => whole[12..14].copy_from_slice(&[0x88, 0xcc]),
        12 => whole[24] ^= 0x40,
        13 => whole[14] = dice.one_of(&[0x55, 0x44, 0x4f]),
        14 => {
            whole[38..40].copy_from_slice(&dice.one_of(&[7u16, 3_000]).to_be_bytes());
            sum(&mut whole);
        }
        15 => whole = dressed(&whole, 64, 0, 0, false, &[dice.one_of(&[131, 137]), 4, 4, 0], 0),
        16 => {
            whole[23] = dice.one_of(&[2, 47, 89]);
            sum(&mut whole);
        }
        17 => {
            // About what was never sent.
            let (source, destination) = (SocketAddrV4::new(snat, 50_000), SocketAddrV4::new(own, 9));
            let sent = udp_frame(dice, Tuple { protocol: UDP, source, destination });
            return error_about(&sent, Ipv4Addr::new(10, 244, 0, 254), (3, 1), 28, 60);
        }
        _ => {
            let source =
                SocketAddrV4::new(dice.one_of(&[Ipv4Addr::LOCALHOST, vip, Ipv4Addr::new(224, 0, 0, 1)]), 9);
            return segment(SYN, 7, 0).frame(&flight(Tuple { source, protocol: TCP, ..client }), b"");
        }
    }
    whole
}
