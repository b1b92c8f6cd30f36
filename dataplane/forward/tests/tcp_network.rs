//! Two TCP peers that transfer data through a worker over a bad network: segments are lost before and behind the gateway, doubled and
//! overtaken. Whatever happens, every segment of theirs counts, and their flow opens and closes with them.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::VIP;
use harness::services::Port;
use harness::talk::{Side, Talk};
use proptest::prelude::*;
use turnpike_forward::hash::{Random, Secret, scale};
use turnpike_forward::track::State;
use turnpike_packet::tcp::flags::{ACK, FIN, SYN};
use turnpike_packet::tcp_segment::Segment;
use turnpike_wire::update::FrontendKind::LoadBalancer;
use turnpike_wire::update::Protocol;

const MSS: u32 = 1_400;

/// How bad the network is, in percent, and how far ahead a segment may overtake others.
#[derive(Clone, Copy, Debug)]
struct Network {
    lost: u32,
    doubled: u32,
    ahead: u32,
}

/// One peer: sends its data go-back-n, takes what comes in order, never takes back what it offered.
struct Peer {
    initial: u32,
    /// Bytes to send; SYN and FIN take a number each around them.
    len: u32,
    acknowledged: u32,
    next: u32,
    peer_initial: Option<u32>,
    received: u32,
    peer_len: u32,
    /// The end of what it offered, and how much it offers at most.
    edge: u32,
    room: u32,
    shift: u8,
    peer_shift: u8,
    /// The peer's edge.
    may_send: u32,
}

impl Peer {
    fn new(initial: u32, [len, peer_len]: [u32; 2], room: u32, [shift, peer_shift]: [u8; 2]) -> Self {
        Self {
            initial,
            len,
            acknowledged: 0,
            next: 0,
            peer_initial: None,
            received: 0,
            peer_len,
            edge: 0,
            room,
            shift,
            peer_shift,
            may_send: 1,
        }
    }

    /// Numbers it sends in all: SYN, data, FIN.
    fn end(&self) -> u32 {
        self.len + 2
    }

    fn is_done(&self) -> bool {
        self.acknowledged == self.end() && self.received == self.peer_len + 2
    }

    /// The segment from a place of its stream on, and how long it is.
    fn segment_at(&mut self, at: u32, random: &mut Random) -> (Segment, u32) {
        let is_syn = at == 0;
        let data = if is_syn { 0 } else { (self.len + 1 - at.min(self.len + 1)).min(MSS) };
        let data = data.min(self.may_send.saturating_sub(at));
        let is_fin = !is_syn && at + data == self.len + 1 && at + data < self.may_send.max(2);
        // A SYN that is sent again offers the same.
        let more =
            if is_syn { self.room.min(u32::from(u16::MAX)) } else { scale(random.next(), self.room + 1) };
        let offer = self.received + more;
        self.edge = self.edge.max(offer);
        let window = (self.edge - self.received).min(u32::from(u16::MAX) << self.shift);
        let window = if is_syn { window.min(u32::from(u16::MAX)) } else { window >> self.shift };
        let acknowledgement = self.peer_initial.map(|initial| initial.wrapping_add(self.received));
        let mut flags = if acknowledgement.is_some() { ACK } else { 0 };
        flags |= if is_syn { SYN } else { 0 } | if is_fin { FIN } else { 0 };
        let segment = Segment {
            sequence: self.initial.wrapping_add(at),
            acknowledgement: acknowledgement.unwrap_or_default(),
            flags,
            window: window as u16,
            scale: is_syn.then_some(self.shift),
        };
        (segment, data + u32::from(is_syn) + u32::from(is_fin))
    }

    /// What it sends when it may: new data, or all again from what was not acknowledged.
    fn speak(&mut self, again: bool, random: &mut Random) -> Vec<(Segment, u32)> {
        if again {
            self.next = self.acknowledged;
        }
        let mut said = Vec::new();
        // After its SYN it waits for the peer's, and for the acknowledgement of its own.
        while self.next < self.end() && (self.next == 0 || self.acknowledged > 0) && said.len() < 8 {
            let (segment, len) = self.segment_at(self.next, random);
            if len == 0 {
                break;
            }
            said.push((segment, len));
            self.next += len;
        }
        if said.is_empty() && again && self.peer_initial.is_some() {
            said.push(self.segment_at(self.next, random));
            said[0].0.flags &= !FIN;
            said[0].1 = 0;
        }
        said
    }

    /// Hears a segment of so many numbers; answers at once.
    fn hear(&mut self, segment: &Segment, len: u32, random: &mut Random) -> Vec<(Segment, u32)> {
        if segment.has(SYN) && self.peer_initial.is_none() {
            self.peer_initial = Some(segment.sequence);
        }
        let Some(initial) = self.peer_initial else { return Vec::new() };
        let at = segment.sequence.wrapping_sub(initial);
        if at <= self.received && at + len > self.received {
            self.received = at + len;
        }
        if segment.has(ACK) {
            let acknowledged = segment.acknowledgement.wrapping_sub(self.initial);
            if acknowledged <= self.end() && acknowledged >= self.acknowledged {
                self.acknowledged = acknowledged;
                self.next = self.next.max(acknowledged);
            }
            let shift = if segment.has(SYN) { 0 } else { self.peer_shift };
            let edge = acknowledged.wrapping_add(u32::from(segment.window) << shift);
            if acknowledged <= self.end() {
                self.may_send = self.may_send.max(edge);
            }
        }
        let mut said = self.speak(false, random);
        // Before its own SYN nothing is to be said.
        if self.next == 0 {
            return said;
        }
        if said.is_empty() && (len > 0 || at < self.received) {
            let (mut pure, _) = self.segment_at(self.next.max(1), random);
            pure.flags &= !FIN;
            said.push((pure, 0));
        }
        said
    }
}

/// A transfer; how many segments other than SYNs did not count.
fn transfer(network: Network, lens: [u32; 2], rooms: [u32; 2], shifts: [u8; 2], seed: u64) -> (Talk, u64) {
    let mut random = Random::new(&Secret::new([seed, 2, 3, 4]), 5);
    let initials = [random.next(), random.next()];
    let service = Port::new("web", Protocol::Tcp, &["10.244.0.1:8080"]).on(VIP, LoadBalancer);
    let mut talk = Talk::with(&service);
    let mut peers = [
        Peer::new(initials[0], lens, rooms[0], shifts),
        Peer::new(initials[1], [lens[1], lens[0]], rooms[1], [shifts[1], shifts[0]]),
    ];
    let mut flying: Vec<(usize, Segment, u32)> = Vec::new();
    let mut astray = 0;
    for _ in 0..200_000 {
        if peers.iter().all(Peer::is_done) {
            break;
        }
        if flying.is_empty() {
            // Somebody's time to send again has come.
            for (who, peer) in peers.iter_mut().enumerate() {
                let is_there = who == 0 || peer.peer_initial.is_some();
                if is_there {
                    flying.extend(peer.speak(true, &mut random).into_iter().map(|(s, len)| (who, s, len)));
                }
            }
            continue;
        }
        let at = scale(random.next(), (flying.len() as u32).min(network.ahead + 1)) as usize;
        let (who, segment, len) = flying.remove(at);
        if scale(random.next(), 100) < network.lost {
            continue;
        }
        let side = [Side::Client, Side::Backend][who];
        let seen = talk.say(side, &segment, &vec![7; len.min(MSS) as usize]);
        assert!(seen.delta.contains_key("forwarded"), "{seen:?}");
        // Until the backend's SYN has come through, nothing of it can be known.
        let is_open = !segment.has(SYN) && seen.state != Some(State::Opening);
        astray += u64::from(is_open && seen.delta.contains_key("tcp_ignored"));
        // A SYN that comes once more after the end would open anew.
        if !segment.has(SYN) && scale(random.next(), 100) < network.doubled {
            flying.push((who, segment, len));
        }
        if scale(random.next(), 100) < network.lost {
            continue;
        }
        let answers = peers[who ^ 1].hear(&segment, len, &mut random);
        flying.extend(answers.into_iter().map(|(s, len)| (who ^ 1, s, len)));
    }
    assert!(peers.iter().all(Peer::is_done), "the transfer has not ended");
    (talk, astray)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_transfer_over_a_bad_network_counts_whole(
        lost in 0u32..25,
        doubled in 0u32..15,
        ahead in 0u32..4,
        lens in prop::array::uniform2(0u32..120_000),
        rooms in prop::array::uniform2(2_000u32..300_000),
        shifts in prop::array::uniform2(0u8..=8),
        seed: u64,
    ) {
        let (talk, astray) = transfer(Network { lost, doubled, ahead }, lens, rooms, shifts, seed);
        prop_assert_eq!(astray, 0);
        prop_assert_eq!(talk.live(), 1);
        let (_, session) = talk.bed.workers[0].flows().v4.iter().next().unwrap();
        prop_assert_eq!(session.state(), State::Closed);
    }
}

#[test]
fn a_good_network_is_the_easy_case() {
    let network = Network { lost: 0, doubled: 0, ahead: 0 };
    for shifts in [[0, 0], [7, 7], [0, 14], [14, 3]] {
        let (talk, astray) = transfer(network, [500_000, 2_000_000], [400_000, 60_000], shifts, 1);
        assert_eq!((astray, talk.bed.counts()["flows_opened"]), (0, 1), "{shifts:?}");
    }
}
