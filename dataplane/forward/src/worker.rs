//! A worker: one core, one queue pair of each port, one flow table, nothing shared on the path.
//!
//! Each turn takes a burst and walks it in stages, so that the cache misses of its packets overlap: parse all, look up all, then choose for
//! the misses, rewrite and send. The common case — a packet of a live flow that changes nothing but its idle time — stays in
//! `steady`; everything else goes through `slow`.

mod answers;
mod cutting;
mod egress;
mod exceptional;
mod explaining;
mod fragment;
mod handing;
mod icmp;
mod observing;
mod preface;
mod steady;
mod trunking;
mod tunnel;
mod upkeep;

use crate::address::Family;
use crate::association;
use crate::connection;
use crate::cpu::Cpu;
use crate::exception::Exception;
use crate::flow_key::{FlowKey, FlowKey6, Key};
use crate::flow_table::{Candidate, Entry, FlowTable};
use crate::fragments::Fragments;
use crate::handoff::Handoff;
use crate::hash::{Random, Secret};
use crate::limits::{ANSWERS_PER_SECOND, HELD_FRAMES_MAX, SHORTAGES_PER_SECOND};
use crate::mailbox::Shared;
use crate::one_way::OneWay;
use crate::parse::{Kind, Packet};
use crate::path::{Flows, Path};
use crate::port_pool::PortPool;
use crate::proxy_protocol::{self, Progress};
use crate::rewrite::{Sources, mac_bits};
use crate::select::{Chooser, Prospect};
use crate::service_table::Tables;
use crate::track::{Direction, State};
use crate::trunk::Line;
use crate::verdict::{Counters, Tally, Verdict};
use answers::Allowance;
use arc_swap::{ArcSwap, Cache};
use arrayvec::ArrayVec;
use observing::Observer;
use std::collections::VecDeque;
use std::sync::Arc;
use steady::{Findings, SLOW, Seen, Steady, Summary};
pub use trunking::Traffic;
use turnpike_packet::io::{BURST, Burst, Frame, PacketIo};
use turnpike_packet::tcp_segment::Segment;
use turnpike_packet::{ethernet, ipv4};
use turnpike_wire::limits::{PORTS_MAX, WORKERS_MAX};
use upkeep::Upkeep;

/// One worker. `'m` is the life of its flow tables' memory.
pub struct Worker<'m, F: Frame> {
    id: usize,
    cpu: Cpu,
    shared: Arc<Shared>,
    latest: Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>,
    tables: Arc<Tables>,
    flows: Flows<'m>,
    secret: Secret,
    pool: PortPool,
    handoff: Handoff<F>,
    /// The way to the host's kernel, if a port has a tap.
    exception: Option<Exception<F>>,
    ports: Vec<Port<F>>,
    /// By family.
    sources: [Sources; 2],
    /// What the frames of each queue pair are.
    lines: Vec<Line>,
    held: VecDeque<Held<F>>,
    fragments: Fragments<F>,
    /// Frames of the burst in hand that are not of the family that was looked for.
    aside: Burst<F>,
    answers: Allowance,
    /// For ICMP errors to those who find no room.
    shortages: Allowance,
    counters: Counters,
    now_ms: u32,
    upkeep: Upkeep,
    /// Longest frame that every port takes.
    longest: usize,
    /// Workers that frames were handed to since somebody asked, a bit each.
    handed_to: u64,
    /// Somebody watches packets.
    observer: Option<Observer>,
}

const _: () = assert!(WORKERS_MAX <= u64::BITS as usize);
// All that a worker writes on the path is in it or its own: whole lines, none of them another worker's.
const _: () = {
    type Any = Worker<'static, turnpike_packet::memory::MemoryFrame>;
    assert!(align_of::<Any>() >= 64 && size_of::<Any>().is_multiple_of(64));
};

/// What a worker keeps for one port.
struct Port<F: Frame> {
    mac: [u8; 6],
    mac_bits: u64,
    /// Each frame's owner must be worked out, by family: the NIC does not steer.
    owned: [bool; 2],
    tx: Burst<F>,
    /// Bytes queued since they were last counted.
    tx_bytes: u64,
    /// The queue pair that its frames come from and go to.
    device: usize,
    /// The tag that its frames get.
    vlan: Option<u16>,
    /// Its device carries VLANs.
    is_trunked: bool,
    /// Frames of a burst from such a device that are this port's.
    arrived: Burst<F>,
    traffic: Traffic,
}

/// A translated frame that waits for its next hop's Ethernet address.
struct Held<F> {
    frame: F,
    next_hop: u16,
    since_ms: u32,
}

/// How often another port is guessed for the new flows of a burst.
const PORT_GUESSES: usize = 2;

/// What a packet's flow will be, if it is a new one.
struct Foreseen<K> {
    prospect: Result<Prospect<K>, Verdict>,
    /// The reply key to try first.
    first: Option<K>,
}

/// Where a burst comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Nic,
    Worker,
}

const _: () = assert!(PORTS_MAX <= SLOW as usize);

impl<'m, F: Frame> Worker<'m, F> {
    /// Worker number `id` with its flow table and its ends of the hand-off rings. All workers of a dataplane get the same `secret`, which
    /// must be unpredictable.
    #[must_use]
    pub fn new(
        id: usize,
        shared: Arc<Shared>,
        table: FlowTable<'m>,
        handoff: Handoff<F>,
        secret: Secret,
    ) -> Self {
        let (workers, rules) = (shared.gateway.workers(), shared.gateway.flow_rules());
        let gateway = &shared.gateway;
        let attached = gateway.ports().iter().zip(gateway.attachments()).enumerate();
        let ports = attached.map(|(at, (port, attachment))| Port {
            mac: port.mac,
            mac_bits: mac_bits(port.mac),
            owned: [Family::V4, Family::V6].map(|family| workers > 1 && port.steering.is_by_program(family)),
            tx: Burst::new(),
            tx_bytes: 0,
            device: attachment.device,
            vlan: attachment.vlan,
            is_trunked: gateway.is_trunked(at),
            arrived: Burst::new(),
            traffic: Traffic::default(),
        });
        Self {
            id,
            cpu: Cpu::detect(),
            latest: Cache::new(shared.swap().clone()),
            tables: shared.tables(),
            flows: Flows { v4: table.under(rules), v6: FlowTable::none(secret) },
            pool: PortPool::new(Random::new(&secret, id as u64), id, workers, &rules.excluded_ports),
            secret,
            handoff,
            exception: None,
            ports: ports.collect(),
            sources: [ethernet::IPV4, ethernet::IPV6]
                .map(|ethertype| Sources::new(gateway.ports().iter().map(|port| port.mac), ethertype)),
            lines: gateway.lines().to_vec(),
            held: VecDeque::with_capacity(HELD_FRAMES_MAX),
            fragments: Fragments::new(secret, id, workers),
            aside: Burst::new(),
            answers: Allowance::new(ANSWERS_PER_SECOND),
            shortages: Allowance::new(SHORTAGES_PER_SECOND),
            counters: Counters::default(),
            now_ms: 0,
            upkeep: Upkeep::new(id == 0, id == 0 && shared.announcements.are_wanted()),
            handed_to: 0,
            observer: None,
            longest: ethernet::HEADER + usize::from(shared.gateway.least_mtu()),
            shared,
        }
    }

    /// The same worker with other random numbers than those that its secret leads to: what it chooses is not what a worker before it has chosen under the same one.
    /// All workers of a dataplane get the same.
    #[must_use]
    pub fn with_randomness(mut self, fresh: Secret) -> Self {
        let (workers, rules) = (self.shared.gateway.workers(), self.shared.gateway.flow_rules());
        let random = Random::new(&fresh, self.id as u64);
        self.pool = PortPool::new(random, self.id, workers, &rules.excluded_ports);
        self.fragments = Fragments::new(fresh, self.id, workers);
        self
    }

    /// Its number.
    #[must_use]
    pub const fn id(&self) -> usize {
        self.id
    }

    /// Its counters.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The same worker with a table for flows over IPv6. Without one it leaves packets of IPv6 alone.
    #[must_use]
    pub fn with_ipv6(mut self, table: FlowTable<'m, FlowKey6>) -> Self {
        self.flows.v6 = table.under(self.shared.gateway.flow_rules());
        self
    }

    /// The same worker on another processor, or as if it were.
    #[must_use]
    pub const fn with_cpu(mut self, cpu: Cpu) -> Self {
        self.cpu = cpu;
        self
    }

    /// Its flows.
    #[must_use]
    pub const fn flows(&self) -> &Flows<'m> {
        &self.flows
    }

    /// The tables it works by.
    #[must_use]
    pub const fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// One turn: a burst from each port, frames from other workers, a little upkeep, and everything sent. `ios` are its queue pairs in the
    /// order of the gateway's devices, `now_ms` a clock that never goes back, in milliseconds modulo 2³². Returns how many frames it handled.
    pub fn turn<I: PacketIo<Frame = F>>(&mut self, ios: &mut [I], now_ms: u32) -> usize {
        self.now_ms = now_ms;
        self.adopt();
        let mut handled = 0;
        for device in 0..ios.len() {
            let mut burst = Burst::new();
            let received = ios[device].rx(&mut burst);
            if received > 0 {
                handled += received;
                match self.lines[device] {
                    Line::Plain(port) => self.burst(port, &mut burst, ios, Origin::Nic),
                    Line::Trunk(_) => self.sort(device, &mut burst, ios),
                }
            }
        }
        handled += self.take_handed_over(ios);
        handled += self.take_from_kernel(ios);
        self.keep_up(ios, handled);
        for port in 0..self.ports.len() {
            if let Some(io) = ios.get_mut(self.ports[port].device) {
                self.flush(port, io);
            }
        }
        self.counters.add(if handled > 0 { Tally::BusyTurns } else { Tally::IdleTurns }, 1);
        handled
    }

    /// Takes the latest tables, if they are new, and says so.
    fn adopt(&mut self) {
        let latest = self.latest.load();
        if !Arc::ptr_eq(latest, &self.tables) {
            self.tables = latest.clone();
            self.pool.reserve(self.tables.node_ports, &self.tables.networks().health_check_ports);
            self.upkeep.clean(self.tables.udp_changed, &self.flows);
            self.shared.adopt(self.id, self.tables.serial);
        }
    }

    /// A burst from one port, watched or not.
    #[inline]
    fn burst<I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        burst: &mut Burst<F>,
        ios: &mut [I],
        origin: Origin,
    ) {
        match self.observer {
            None => self.walk(port, burst, ios, origin),
            Some(_) => self.observe(port, burst, ios, origin),
        }
    }

    /// A burst from one port. It takes the way of its first frame's family; frames of the other family take theirs behind it.
    fn walk<I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        burst: &mut Burst<F>,
        ios: &mut [I],
        origin: Origin,
    ) {
        let is_ipv6 = |frame: &F| frame.data().get(12..14) == Some(&ethernet::IPV6.to_be_bytes());
        let mut family = match burst.first() {
            Some(first) if self.flows.v6.capacity() > 0 && is_ipv6(first) => Family::V6,
            _ => Family::V4,
        };
        let mut is_first_look = origin == Origin::Nic;
        loop {
            let received = burst.len() as u64;
            let bytes;
            (family, bytes) = match family {
                Family::V4 => (Family::V6, self.pass::<FlowKey, I>(port, burst, ios, origin)),
                Family::V6 => (Family::V4, self.pass::<FlowKey6, I>(port, burst, ios, origin)),
            };
            if is_first_look {
                self.counters.add(Tally::RxPackets, received);
                self.counters.add(Tally::RxBytes, bytes);
            }
            if self.aside.is_empty() {
                return;
            }
            is_first_look = false;
            *burst = std::mem::take(&mut self.aside);
        }
    }

    /// The stages over one burst of one family. Returns how many bytes came.
    fn pass<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        burst: &mut Burst<F>,
        ios: &mut [I],
        origin: Origin,
    ) -> u64 {
        let Port { mac_bits, owned, .. } = self.ports[port];
        let check_owner = owned[K::FAMILY as usize] && origin == Origin::Nic;
        let received = burst.len() as u64;
        let mut findings = Findings::new();
        let Summary { out, bytes } = self.cpu.run(Steady {
            burst,
            table: K::flows_mut(&mut self.flows),
            neighbours: &self.shared.neighbours,
            sources: &self.sources[K::FAMILY as usize],
            mac_bits,
            // None is steady whose owner is to be worked out, and none that some port may be too small for.
            longest: if check_owner { 0 } else { self.longest },
            now_ms: self.now_ms,
            findings: &mut findings,
        });
        if let Some(out) = out
            && let Some(Port { tx, device, is_trunked: false, .. }) = self.ports.get_mut(usize::from(out))
            && let Some(io) = ios.get_mut(*device)
            && tx.is_empty()
        {
            // The whole burst leaves as it is; what the NIC does not take stays for the next time.
            self.counters.count_many(Verdict::Forwarded, received);
            self.counters.add(Tally::TxBytes, bytes);
            self.counters.add(Tally::TxPackets, io.tx(burst) as u64);
            tx.extend(burst.drain(..));
            return bytes;
        }
        let mut foreseen = ArrayVec::new();
        self.foresee(&findings, &mut foreseen);
        for (at, (frame, out)) in burst.drain(..).zip(findings.outs).enumerate() {
            match findings.seen.get(at) {
                Some(&seen) if out == SLOW => {
                    let foreseen = foreseen.get(at).and_then(Option::as_ref);
                    self.slow(port, frame, seen, foreseen, ios, origin);
                }
                _ => self.send(usize::from(out), frame, ios),
            }
        }
        bytes
    }

    /// What the new flows of a burst will be. Asks for the memory that they will need, so that it is not waited for one by one.
    fn foresee<K: Path>(&mut self, findings: &Findings<K>, into: &mut ArrayVec<Option<Foreseen<K>>, BURST>) {
        let Self { tables, shared, secret, id, now_ms, flows, pool, .. } = self;
        let table = K::flows(flows);
        let chooser = Chooser { tables, shared, secret, worker: *id, now_ms: *now_ms, is_trial: false };
        for (&Seen { key, packet, candidate }, &out) in findings.seen.iter().zip(&findings.outs) {
            let may_be_new =
                out == SLOW && packet.kind() == Kind::Flow && (packet.asks() || key.protocol() == ipv4::UDP);
            into.push(may_be_new.then(|| {
                if packet.asks() && table.is_of(candidate, key) {
                    // It may take the place of a flow that has ended.
                    table.prefetch_reply(table.session(candidate.slot()).keys()[1]);
                }
                table.prefetch_client(key.source_address());
                let prospect = chooser.foresee(key, packet);
                let first = prospect.as_ref().ok().and_then(|p| chooser.first_reply(p, pool));
                first.inspect(|&first| table.prefetch_reply(first));
                Foreseen { prospect, first }
            }));
        }
        // By now it is known which of the ports will not do. Another is tried for those, so that few are left to try one by one.
        for _ in 0..PORT_GUESSES {
            for Foreseen { prospect, first } in into.iter_mut().flatten() {
                if let (Ok(prospect), Some(reply)) = (prospect, &first)
                    && !table.seems_free(*reply)
                {
                    *first = chooser.first_reply(prospect, pool);
                    first.inspect(|&first| table.prefetch_reply(first));
                }
            }
        }
    }

    /// Everything that is not a steady packet of a live flow.
    #[cold]
    #[inline(never)]
    fn slow<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: F,
        seen: Seen<K>,
        foreseen: Option<&Foreseen<K>>,
        ios: &mut [I],
        origin: Origin,
    ) {
        let Seen { key, packet, .. } = seen;
        match packet.kind() {
            Kind::Bad(Verdict::OtherVlan) => self.tagged(port, frame, ios, origin),
            Kind::Bad(Verdict::Fragment) => self.fragment::<K, I>(port, frame, ios, origin),
            Kind::Bad(verdict) => self.except(port, frame, verdict),
            Kind::Arp => self.arp(port, frame, ios),
            Kind::OtherFamily => self.set_aside(port, frame),
            Kind::NeighbourDiscovery => self.neighbour_discovery(port, frame, ios),
            Kind::Echo => self.echo(port, frame, key, packet, ios),
            Kind::IcmpError => self.icmp_error(port, frame, key, packet, ios, origin),
            Kind::TunnelError => self.tunnel_error(port, frame, key, packet, ios, origin),
            Kind::Flow => self.flow(port, frame, seen, foreseen, ios, origin),
        }
    }

    /// A frame for the other family's way, if the gateway speaks it.
    fn set_aside(&mut self, port: usize, frame: F) {
        let is_to_us = frame.data().starts_with(&self.ports[port].mac);
        if self.flows.v6.capacity() == 0 {
            self.except(port, frame, if is_to_us { Verdict::OtherEthertype } else { Verdict::OtherMac });
        } else if self.aside.try_push(frame).is_err() {
            self.counters.count(Verdict::NoMemory);
        }
    }

    /// A packet of a flow, live or to be made.
    fn flow<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: F,
        seen: Seen<K>,
        foreseen: Option<&Foreseen<K>>,
        ios: &mut [I],
        origin: Origin,
    ) {
        let Seen { key, packet, .. } = seen;
        // NICs hash packets with options or extension headers, and all of SCTP, each in its own way.
        let is_hashed = packet.l4() == K::L4 && packet.chunk().is_none();
        if origin == Origin::Nic && (!is_hashed || self.ports[port].owned[K::FAMILY as usize]) {
            let owner = self.owner(port, key);
            if owner != self.id {
                return self.hand_over(owner, port, frame, None);
            }
        }
        if let Some((frame, flow)) = self.admit(port, frame, seen, foreseen, ios, origin) {
            self.forward(port, frame, key, packet, flow, ios);
        }
    }

    /// The flow of a packet, live or made now, which has seen it. None when the packet goes another way, or none.
    fn admit<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: F,
        seen: Seen<K>,
        foreseen: Option<&Foreseen<K>>,
        ios: &mut [I],
        origin: Origin,
    ) -> Option<(F, Candidate)> {
        let Seen { key, packet, candidate } = seen;
        let table = K::flows(&self.flows);
        let found = if table.is_of(candidate, key) { Some(candidate) } else { table.find(key) };
        let found = found.filter(|&found| !(packet.asks() && self.reopens::<K>(found)));
        let flow = match found {
            Some(found) => found,
            None => {
                // RSS should have brought a reply to its owner; a NIC that spreads otherwise must not lose it.
                if origin == Origin::Nic && self.shared.gateway.workers() > 1 && self.may_be_reply(key) {
                    let owner = self.owner(port, key);
                    if owner != self.id {
                        self.hand_over(owner, port, frame, None);
                        return None;
                    }
                }
                match self.open(key, packet, foreseen, &frame) {
                    Ok(slot) => Candidate::from_client(slot),
                    Err(verdict @ (Verdict::OwnAddress | Verdict::SnatNoFlow)) => {
                        self.except(port, frame, verdict);
                        return None;
                    }
                    Err(verdict) => {
                        self.refuse(verdict, port, &frame, key, packet, ios);
                        return None;
                    }
                }
            }
        };
        let session = K::flows_mut(&mut self.flows).session_mut(flow.slot());
        if session.state().is_one_way() {
            self.note_one_way::<K>(&frame, packet, flow);
            return Some((frame, flow));
        }
        let direction = Direction::from_bit(flow.direction());
        let is_of_flow = match packet.chunk() {
            Some(_) => association::observe(
                session,
                direction,
                packet,
                frame.data().get(packet.l4()..).unwrap_or_default(),
            ),
            None if key.protocol() == ipv4::TCP => {
                let segment = frame.data().get(packet.l4()..).and_then(Segment::read);
                segment.is_some_and(|mut segment| {
                    if session.is_prefaced() && direction == Direction::Reply {
                        let length = proxy_protocol::length(K::FAMILY).into();
                        segment.acknowledgement =
                            Progress::of(session).to_client(segment.acknowledgement, length);
                    }
                    connection::observe(session, direction, &segment)
                })
            }
            None => true,
        };
        if is_of_flow {
            session.last_seen = self.now_ms;
        } else if key.protocol() == ipv4::TCP {
            self.counters.add(Tally::TcpIgnored, 1);
        }
        Some((frame, flow))
    }

    /// The worker that must get a packet with this key from a port.
    fn owner<K: Key>(&self, port: usize, key: K) -> usize {
        self.shared.gateway.ports()[port].steering.owner(key, &self.shared.gateway, &self.secret)
    }

    /// Whether a packet of no flow here may answer a flow of another worker: it goes to a SNAT address, or to no address of ours at all,
    /// as answers to clients do that keep their address.
    fn may_be_reply<K: Key>(&self, key: K) -> bool {
        self.shared.gateway.is_snat(key.destination_address())
            || self.chooser().unanswered(key) == Verdict::NotOurs
    }

    fn chooser(&self) -> Chooser<'_> {
        Chooser {
            tables: &self.tables,
            shared: &self.shared,
            secret: &self.secret,
            worker: self.id,
            now_ms: self.now_ms,
            is_trial: false,
        }
    }

    /// Whether a SYN or INIT from the client starts anew on an old flow. Such a flow is removed, so that the choice is made anew.
    fn reopens<K: Path>(&mut self, found: Candidate) -> bool {
        let reopens = self.is_reopened_by_asking::<K>(found);
        if reopens {
            K::flows_mut(&mut self.flows).remove(found.slot(), self.now_ms);
            self.counters.add(Tally::FlowsClosed, 1);
        }
        reopens
    }

    /// Whether a flow gives way to a SYN or INIT from its client: it was closed or reset, was never known to be open, or its backend is gone while it
    /// opened or after the client had closed its side.
    fn is_reopened_by_asking<K: Path>(&self, found: Candidate) -> bool {
        if found.direction() != 0 {
            return false;
        }
        let session = K::flows(&self.flows).session(found.slot());
        let [key, backend] = *session.keys();
        match session.state() {
            State::Closed | State::Reset | State::Adopted | State::OneWayClosed => true,
            State::Opening | State::Answered | State::ClientClosed | State::OneWayOpening => {
                self.chooser().is_lost(key, (backend.source_address(), backend.source_port()))
            }
            _ => false,
        }
    }

    /// What the flow of a packet that has none will be. As a trial nothing is changed beyond random numbers and counters.
    #[inline]
    fn choose<K: Path>(
        &mut self,
        key: K,
        packet: Packet,
        foreseen: Option<&Foreseen<K>>,
        is_trial: bool,
    ) -> Result<K::Session, Verdict> {
        let Self { tables, shared, secret, id, now_ms, flows, .. } = self;
        let chooser = Chooser { tables, shared, secret, worker: *id, now_ms: *now_ms, is_trial };
        let (prospect, first) = match foreseen {
            Some(foreseen) => (foreseen.prospect?, foreseen.first),
            None => (chooser.foresee(key, packet)?, None),
        };
        chooser.select(key, &prospect, first, K::flows(flows), &mut self.pool, &mut self.counters)
    }

    /// Makes the flow of a packet that has none.
    fn open<K: Path>(
        &mut self,
        key: K,
        packet: Packet,
        foreseen: Option<&Foreseen<K>>,
        frame: &F,
    ) -> Result<usize, Verdict> {
        let mut session = self.choose(key, packet, foreseen, false)?;
        let is_midstream = key.protocol() == ipv4::TCP && !packet.asks();
        if is_midstream && let Some(segment) = frame.data().get(packet.l4()..).and_then(Segment::read) {
            match session.state().is_one_way() {
                true => session.set_one_way(OneWay::adopted(&segment)),
                false => connection::adopt(&mut session, &segment),
            }
        }
        let slot = K::flows_mut(&mut self.flows).insert(session).map_err(|_| Verdict::FlowTableFull)?;
        self.counters.add(Tally::FlowsAdopted, u64::from(is_midstream));
        self.counters.add(Tally::FlowsOpened, 1);
        self.counters.set(Tally::FlowsLive, self.flows.live());
        Ok(slot)
    }

    /// Translates a frame of a live flow and sends it, or holds it until its next hop is known.
    #[cold]
    #[inline(never)]
    fn forward<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        mut frame: F,
        key: K,
        packet: Packet,
        flow: Candidate,
        ios: &mut [I],
    ) {
        let session = K::flows(&self.flows).session(flow.slot());
        if session.state().is_one_way() {
            let session = *session;
            return self.encapsulate::<K, I>(port, frame, packet, &session, ios);
        }
        if session.is_prefaced() {
            return self.forward_prefaced(port, frame, key, packet, flow, ios);
        }
        let next_hop = session.next_hop[flow.direction()];
        let link = self.shared.neighbours.link(next_hop);
        let out = link.port();
        let narrow = self.exceeds::<K>(&frame, out);
        if let Some(mtu) = narrow
            && K::stays_whole(frame.data())
        {
            return self.too_big::<K, I>(port, &frame, mtu, ios);
        }
        self.clamp(&mut frame, key, packet, [port, out]);
        let addressing = link.addressing(&self.sources[K::FAMILY as usize]);
        let session = K::flows(&self.flows).session(flow.slot());
        if !K::translate(session, flow.direction(), packet, frame.data_mut(), addressing) {
            return self.expired::<K, I>(port, &frame, ios);
        }
        match narrow {
            Some(mtu) => self.send_in_pieces(frame, next_hop, mtu, ios),
            None => self.send_or_hold(frame, next_hop, ios),
        }
    }
}
