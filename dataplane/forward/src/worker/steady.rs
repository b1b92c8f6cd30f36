//! The common case over a whole burst: packets of live flows that change nothing but what the flow remembers of them.
//!
//! Three stages, so that the cache misses of all packets overlap: read every frame and ask for its bucket of the index; look every bucket up
//! and ask for the session; confirm, track and translate. A stage that was only some packets ahead of the next was slower. What a stage works on is held in locals and not behind `&mut Worker`: a frame
//! that is written to could be anything, and all else would be loaded anew behind it.

use crate::connection;
use crate::cpu::{Level, Work};
use crate::flow_table::{Candidate, FlowTable, Index, Place};
use crate::neighbour::Neighbours;
use crate::parse::Packet;
use crate::path::Path;
use crate::rewrite::Sources;
use crate::track::State;
use arrayvec::ArrayVec;
use turnpike_packet::io::{BURST, Burst, Frame};

/// Stands for a packet that no port is known for: it has to be looked at with care.
pub(super) const SLOW: u8 = u8::MAX;

/// How many packets ahead lines are asked for that are near already.
const NEAR: usize = 6;

/// Something of each packet of a burst, and something of none behind the last.
type Ahead<T> = [T; BURST + NEAR];

/// What was found out about one packet.
#[derive(Clone, Copy)]
pub(super) struct Seen<K> {
    pub key: K,
    pub packet: Packet,
    /// Where its flow may be, if anything is known of that.
    pub candidate: Candidate,
}

impl<K> Seen<K> {
    /// A packet of whose flow nothing is known.
    pub const fn new(key: K, packet: Packet) -> Self {
        Self { key, packet, candidate: Candidate::NONE }
    }
}

/// What was found out about each packet of a burst.
pub(super) struct Findings<K> {
    /// Five-tuples and all else; nothing if no packet is slow.
    pub seen: ArrayVec<Seen<K>, BURST>,
    /// The port that each packet leaves through, translated as it is by now; or [`SLOW`], and nothing was done to it.
    pub outs: [u8; BURST],
}

/// What was found out about a burst as a whole.
pub(super) struct Summary {
    /// The port that all packets leave through, if they do.
    pub out: Option<u8>,
    /// Length of all frames.
    pub bytes: u64,
}

impl<K> Findings<K> {
    /// Of no burst yet.
    #[inline(always)]
    pub fn new() -> Self {
        Self { seen: ArrayVec::new(), outs: [SLOW; BURST] }
    }
}

/// One burst of one family, and what it takes to get its steady packets on their way.
pub(super) struct Steady<'a, 'm, K: Path, F: Frame> {
    pub burst: &'a mut Burst<F>,
    pub table: &'a mut FlowTable<'m, K>,
    pub neighbours: &'a Neighbours,
    pub sources: &'a Sources,
    /// Ethernet address of the port that they came in on.
    pub mac_bits: u64,
    /// Longest frame that is steady, in bytes.
    pub longest: usize,
    pub now_ms: u32,
    /// Where to write down what is found out.
    pub findings: &'a mut Findings<K>,
}

/// What the stages hand on about one packet.
struct Look<'f, K: Path> {
    key: K,
    /// Of steady packets alone.
    head: Option<&'f mut K::Head>,
    packet: Packet,
}

impl<K: Path, F: Frame> Work for Steady<'_, '_, K, F> {
    type Output = Summary;

    #[inline(always)]
    fn run<L: Level>(self) -> Summary {
        let Self { burst, table, neighbours, sources, mac_bits, longest, now_ms, findings } = self;
        let outs = &mut findings.outs;
        let received = burst.len();
        let mut looks = ArrayVec::new();
        let mut places = [Place::default(); BURST + NEAR];
        let bytes = look::<L, K, F>(burst, table.index(), mac_bits, longest, &mut looks, &mut places);
        let mut candidates = [Candidate::NONE; BURST + NEAR];
        find(received, &places, table, &mut candidates);
        translate(&mut looks, &candidates, table, neighbours, sources, now_ms, outs);
        let first = outs[0];
        let mixed = outs.iter().take(received).fold(0, |mixed, out| mixed | (out ^ first));
        let out = (mixed == 0 && first != SLOW).then_some(first);
        if out.is_none() {
            let seen = looks.iter().zip(candidates);
            let seen = seen.map(|(look, candidate)| Seen { key: look.key, packet: look.packet, candidate });
            findings.seen.extend(seen);
        }
        Summary { out, bytes }
    }
}

/// Stage one: what every frame is, and where its flow would be. Returns the length of all.
#[inline(always)]
fn look<'f, L: Level, K: Path, F: Frame>(
    burst: &'f mut Burst<F>,
    index: Index<'_>,
    mac_bits: u64,
    longest: usize,
    looks: &mut ArrayVec<Look<'f, K>, BURST>,
    places: &mut Ahead<Place>,
) -> u64 {
    for frame in burst.iter() {
        frame.prefetch();
    }
    let start = K::start(mac_bits);
    let mut bytes = 0;
    for (frame, place) in burst.iter_mut().zip(places) {
        let len = frame.frame_len();
        bytes += len as u64;
        let data = frame.data_mut();
        let mut head = None;
        let (key, packet) = match K::glance::<L>(data, len, &start) {
            Some((key, packet)) => {
                if packet.is_steady(K::L4) && len <= longest {
                    head = K::head(data);
                }
                (key, packet)
            }
            None => K::read(data, len, mac_bits),
        };
        *place = index.place(key);
        looks.push(Look { key, head, packet });
    }
    bytes
}

/// Stage two: the sessions that they may be of.
#[inline(always)]
fn find<K: Path>(
    received: usize,
    places: &Ahead<Place>,
    table: &mut FlowTable<'_, K>,
    candidates: &mut Ahead<Candidate>,
) {
    let (index, sessions) = table.split();
    for (at, candidate) in candidates.iter_mut().enumerate().take(received.min(BURST)) {
        index.approach(places[at + NEAR]);
        *candidate = index.candidate(places[at], &sessions);
    }
}

/// Stage three: translates the steady packets of live flows where they lie. All others, and those that cannot leave at once, stay as they are.
#[inline(always)]
fn translate<K: Path>(
    looks: &mut [Look<'_, K>],
    candidates: &Ahead<Candidate>,
    table: &mut FlowTable<'_, K>,
    neighbours: &Neighbours,
    sources: &Sources,
    now_ms: u32,
    outs: &mut [u8; BURST],
) {
    let (_, mut sessions) = table.split();
    let links = neighbours.links();
    for (at, (look, out)) in looks.iter_mut().zip(outs).enumerate() {
        sessions.approach(candidates[at + NEAR]);
        let candidate = candidates[at];
        let Some(head) = &mut look.head else { continue };
        let Some(session) = sessions.confirm(candidate, &look.key) else { continue };
        let direction = candidate.direction();
        let is_udp = session.state == State::Udp as u8;
        if !is_udp && !K::tcp(head).is_some_and(|header| connection::passes(session, direction, header)) {
            continue;
        }
        let link = links.of(session.next_hop[direction]);
        if !link.is_resolved() {
            continue;
        }
        session.last_seen = now_ms;
        *out = link.port() as u8;
        let addressing = link.addressing(sources);
        // Twice, so that each has one protocol to think of.
        let lives = match is_udp {
            true => K::translate_steady(session, direction, false, head, addressing),
            false => K::translate_steady(session, direction, true, head, addressing),
        };
        if !lives {
            *out = SLOW;
        }
    }
}
