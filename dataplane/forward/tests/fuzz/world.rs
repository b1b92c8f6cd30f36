//! A gateway with two workers, both families and a tap, that is told what to meet by an input, and what must be true whatever that is.

use crate::frames::{self, Menu};
use crate::harness::services::{DIRECT, DNAT, LOCAL, Port, REJECT, cluster};
use crate::harness::{MAC, OWN6, ROUTER_MAC, SNAT, SNAT6};
use crate::input::Input;
use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use turnpike_forward::exception::{KernelEnd, Plan, Tap, rings};
use turnpike_forward::flow_key::Key;
use turnpike_forward::flow_table::FlowTable;
use turnpike_forward::gateway::{Gateway, GatewayPort};
use turnpike_forward::handoff::Handoff;
use turnpike_forward::hash::Secret;
use turnpike_forward::mailbox::Shared;
use turnpike_forward::neighbour::NextHop;
use turnpike_forward::stage::Staging;
use turnpike_forward::steering::Steering;
use turnpike_forward::verdict::{Tally, Verdict};
use turnpike_forward::worker::Worker;
use turnpike_packet::flight::{self, Wrong};
use turnpike_packet::io::{PacketIo, PortInfo, Spread};
use turnpike_packet::ip::Pair;
use turnpike_packet::memory::{MemoryFrame, MemoryIo, MemoryNic};
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer};
use turnpike_wire::update::{Commit, Fleet, Midstream, Protocol, Tracking, Treatment, Update};

pub const OWN: &str = "192.0.2.1";
pub const VIPS: [&str; 4] = ["203.0.113.80", "203.0.113.81", "10.96.0.10", "2001:db8:80::1"];
pub const CLIENTS: [&str; 4] = ["198.51.100.7", "10.244.0.1", "2001:db8:7::7", "198.51.100.8"];
const BACKENDS: [&str; 4] =
    ["10.244.0.1:8080", "10.244.0.2:8080", "[2001:db8:244::1]:8080", "[2001:db8:244::2]:8080"];
const WORKERS: usize = 2;
const FLOWS: u32 = 64;
const SPECIAL: [Tally; 7] = [
    Tally::FlowsAdopted,
    Tally::UdpFlowsCleaned,
    Tally::TcpIgnored,
    Tally::IcmpSent,
    Tally::IcmpTranslated,
    Tally::MssClamped,
    Tally::ResetsSent,
];

/// What stays from input to input: tables of the gateway are large, those of flows are made anew.
pub struct World {
    shared: Arc<Shared>,
    staging: Staging,
    generation: u64,
    /// Which services are in force.
    how: Option<usize>,
    info: PortInfo,
    memory: Vec<Vec<u8>>,
    now_ms: u32,
}

/// Services as they are at the beginning, or another way.
fn services(how: usize) -> Vec<Update> {
    let mut updates = vec![
        Update::Reset,
        Update::PutFleet(Fleet { maglev_key: [5, 6], node_ports: (30_000, 32_767) }),
        cluster(),
    ];
    let midstream = [Midstream::Forward, Midstream::Reset, Midstream::Drop][how % 3];
    let kept = if how == 3 { DIRECT } else { DNAT };
    let treatments = [Treatment::FORWARD, kept, LOCAL, REJECT];
    for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53), (Protocol::Sctp, 36_412)] {
        for (n, vip) in VIPS.iter().enumerate() {
            let is_v6 = vip.contains(':');
            let mine = BACKENDS.iter().filter(|b| b.starts_with('[') == is_v6);
            let count = if how == 5 { 0 } else { 1 + how % 2 };
            // Packets in packets keep their port.
            let ports = if how == 3 { port } else { 8_080 };
            let backends: Vec<String> =
                mine.take(count).map(|b| b.replace(":8080", &format!(":{ports}"))).collect();
            let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
            let at = if is_v6 { format!("[{vip}]:{port}") } else { format!("{vip}:{port}") };
            let treatment = treatments[if n == 1 { 1 } else { how / 2 % 4 }];
            let kind = if n == 2 { ClusterIp } else { LoadBalancer };
            let service = Port::new(&format!("s{n}"), protocol, &backends)
                .with(&at, kind, treatment, treatment)
                .tracked(Tracking { midstream, ..Tracking::default() })
                .sticky(if how == 3 { 60 } else { 0 });
            let service = if how == 1 { service.prefaced() } else { service };
            updates.extend(service.updates());
        }
    }
    updates
}

fn table<'m, K: Key>(memory: &'m mut Vec<u8>, secret: Secret) -> FlowTable<'m, K> {
    let bytes = FlowTable::<K>::memory_bytes(FLOWS);
    memory.resize(bytes + 64, 0xa5);
    let start = memory.as_ptr().align_offset(64);
    FlowTable::new(&mut memory[start..start + bytes], FLOWS, secret).unwrap()
}

fn ours() -> BTreeSet<IpAddr> {
    let fixed = [OWN, OWN6, SNAT6].iter().chain(&VIPS).map(|a| a.parse().unwrap());
    fixed.chain([IpAddr::from(SNAT)]).collect()
}

/// Source and destination of a frame with an IP packet.
pub fn pair(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    Pair::of(frame).map(|pair| match pair {
        Pair::V4 { source, destination } => {
            (Ipv4Addr::from(source).into(), Ipv4Addr::from(destination).into())
        }
        Pair::V6 { source, destination } => {
            (Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into())
        }
    })
}

impl World {
    pub fn new() -> Self {
        let info = PortInfo { mac: MAC, mtu: 1_500, spread: Spread::Unknown };
        let port = GatewayPort {
            mac: MAC,
            addresses: vec![(OWN.parse().unwrap(), 24), (OWN6.parse().unwrap(), 64)],
            gateway: Some([192, 0, 2, 254].into()),
            gateway6: Some("fe80::fe".parse().unwrap()),
            hears_routers: true,
            routes: vec![],
            steering: Steering::of(&info.spread, WORKERS),
            mtu: info.mtu,
        };
        let gateway = Gateway::new(vec![port], &[SNAT.into(), SNAT6.parse().unwrap()], WORKERS).unwrap();
        let memory = vec![Vec::new(); 2 * WORKERS];
        Self {
            shared: Shared::new(gateway),
            staging: Staging::new(),
            generation: 0,
            how: None,
            info,
            memory,
            now_ms: 1_000,
        }
    }

    fn commit(&mut self, how: usize) {
        if self.how.replace(how) == Some(how) {
            return;
        }
        let updates = services(how);
        self.generation += 1;
        let commit = Commit { generation: self.generation, revision: 1, records: updates.len() as u64 };
        for update in updates {
            assert!(self.staging.take(update).is_none());
        }
        self.shared.publish(self.staging.take(Update::Commit(commit)).unwrap().unwrap());
    }

    fn know_router(&self) {
        for address in ["192.0.2.254", "fe80::fe"] {
            let router = NextHop { port: 0, address: address.parse::<IpAddr>().unwrap().into() };
            self.shared.neighbours.index(router).unwrap();
            self.shared.neighbours.learn(router, ROUTER_MAC, self.now_ms);
        }
    }

    /// Meets what an input says. Gives what was special about it, as a number.
    pub fn meet(&mut self, bytes: &[u8], menu: Menu) -> u64 {
        let mut input = Input(bytes);
        let mut memory = std::mem::take(&mut self.memory);
        self.commit(0);
        self.now_ms += 10_000;
        self.know_router();
        let secret = Secret::new([11, 22, 33, 44]);
        let (nic, plan) = (MemoryNic::new(self.info.clone(), WORKERS), plan());
        let (ends, kernel) = rings(plan, WORKERS, secret);
        let mut pairs = memory.chunks_exact_mut(2);
        let made = Handoff::mesh(WORKERS).into_iter().zip(ends).enumerate().map(|(id, (handoff, end))| {
            let Some([v4, v6]) = pairs.next() else { unreachable!("a pair of tables for each worker") };
            let worker = Worker::new(id, self.shared.clone(), table(v4, secret), handoff, secret);
            let worker = worker.with_ipv6(table(v6, secret));
            if menu.has_tap { worker.with_exception(end) } else { worker }
        });
        let workers = made.collect();
        let ios = (0..WORKERS).map(|w| [nic.io(w)]).collect();
        let mut life =
            Life { workers, ios, nic, kernel, sent: vec![], came: vec![], wrong: 0, spoken: vec![] };
        // At most as many steps as an input of the greatest length could have.
        while !input.is_empty() {
            self.step(&mut life, &mut input, menu);
        }
        self.end(&mut life);
        let met = life.signature();
        drop(life);
        self.memory = memory;
        met
    }

    fn step(&mut self, life: &mut Life<'_>, input: &mut Input<'_>, menu: Menu) {
        match input.byte() {
            0..=7 => {
                let how = input.below(8);
                self.commit(how);
            }
            8..=20 => {
                let ms = input.one_of(&[1, 999, 1_001, 30_000, 121_000, 241_000, 301_000, 7_441_000]);
                self.now_ms = self.now_ms.wrapping_add(ms);
                self.know_router();
            }
            21..=24 => life.nic.limit_tx(input.one_of(&[0, 1, 64, 1 << 20])),
            25..=28 => self.now_ms = self.now_ms.wrapping_add(1),
            29..=32 if menu.has_tap => {
                let frame = frames::one(input, menu, &life.came, &life.sent);
                if let Some(frame) = life.ios[0][0].alloc(&frame) {
                    life.spoken.push(turnpike_packet::io::Frame::data(&frame).to_vec());
                    let _ = life.kernel.send(0, frame);
                }
            }
            _ => {
                for frame in frames::some(input, menu, &life.came, &life.sent) {
                    let split = if input.byte() == 1 { usize::from(input.byte()) } else { frame.len() };
                    life.wrong += usize::from(flight::check(&frame) != Ok(()));
                    life.nic.inject_segments(&frame, split);
                    life.came.push(frame);
                }
            }
        }
        life.turn(self.now_ms);
        life.look();
    }

    /// Whatever waits for something has a fate when enough time has passed, and every packet has one alone.
    fn end(&mut self, life: &mut Life<'_>) {
        life.nic.limit_tx(1 << 20);
        for _ in 0..40 {
            self.now_ms = self.now_ms.wrapping_add(2_500);
            life.turn(self.now_ms);
        }
        life.look();
        let sum =
            |count: &dyn Fn(&Worker<'_, MemoryFrame>) -> u64| life.workers.iter().map(count).sum::<u64>();
        let fates = sum(&|w| Verdict::ALL.iter().map(|&v| w.counters().verdict(v)).sum());
        let passed_on = sum(&|w| w.counters().verdict(Verdict::HandedOff));
        let made = sum(&|w| w.counters().tally(Tally::FragmentsMade));
        let received = sum(&|w| w.counters().tally(Tally::RxPackets));
        assert_eq!(received as usize, life.came.len(), "everything that came was received");
        assert_eq!(fates - passed_on - made, received, "every packet has one fate");
    }
}

fn plan() -> Plan {
    let addresses = [OWN, OWN6].iter().map(|a| a.parse::<IpAddr>().unwrap().into()).collect();
    Plan {
        taps: vec![Some(Tap { frame_bytes_max: 1_514, addresses })],
        local_ports: (32_768, 60_999),
        listening: vec![],
    }
}

/// The workers of one input, and what has come and gone.
struct Life<'m> {
    workers: Vec<Worker<'m, MemoryFrame>>,
    ios: Vec<[MemoryIo; 1]>,
    nic: MemoryNic,
    kernel: KernelEnd<MemoryFrame>,
    sent: Vec<Vec<u8>>,
    came: Vec<Vec<u8>>,
    /// How many of those that came were wrong and have not been met on their way out.
    wrong: usize,
    /// What the kernel has sent.
    spoken: Vec<Vec<u8>>,
}

impl Life<'_> {
    fn turn(&mut self, now_ms: u32) {
        // What comes is finite, and so are the hand-offs of it.
        for _ in 0..1_000 {
            let turns = self.workers.iter_mut().zip(&mut self.ios).map(|(w, io)| w.turn(io, now_ms));
            if turns.sum::<usize>() == 0 {
                return;
            }
        }
        panic!("the workers never come to rest");
    }

    /// What must hold of everything that has left.
    fn look(&mut self) {
        let ours = ours();
        while let Some(handed) = self.kernel.receive() {
            drop(handed.frame);
        }
        for frame in self.nic.take_sent() {
            if self.spoken.contains(&frame) {
                continue;
            }
            match flight::check(&frame) {
                Ok(()) => {}
                Err(Wrong::TransportChecksum) if self.wrong > 0 => self.wrong -= 1,
                Err(wrong) => panic!("{wrong}, and it did not come so: {frame:02x?}"),
            }
            assert_eq!(frame[6..12], MAC, "what leaves is from the port's own address: {frame:02x?}");
            self.check_ends(&frame, &ours);
            if self.sent.len() < 256 {
                self.sent.push(frame);
            }
        }
    }

    /// Nobody sees an address that is not for him: what leaves is from one of ours, or from a client that keeps its address to a backend.
    fn check_ends(&self, frame: &[u8], ours: &BTreeSet<IpAddr>) {
        let Some((source, destination)) = pair(frame) else {
            assert_eq!(frame[12..14], [8, 6], "neither IP nor ARP: {frame:02x?}");
            return;
        };
        let is_discovery = frame[12] == 0x86 && frame[20] == 58 && (133..=137).contains(&frame[54]);
        let is_report =
            frame[12] == 0x86 && frame[20] == 0 && frame[54] == 58 && matches!(frame[62], 131 | 143);
        if is_discovery || is_report {
            return;
        }
        assert!(!ours.contains(&destination), "to ourselves: {source} > {destination} {frame:02x?}");
        let mut backends = BACKENDS.iter().map(|b| b.parse::<std::net::SocketAddr>().unwrap().ip());
        let has_come = || self.came.iter().any(|c| pair(c).is_some_and(|(from, _)| from == source));
        // Clients whose errors are passed on have sent nothing but what is quoted.
        let is_error = frame[23] == 1 || frame[20] == 58;
        let keeps = backends.any(|b| b == destination) && (is_error || has_come());
        assert!(ours.contains(&source) || keeps, "a leak: {source} > {destination} {frame:02x?}");
    }

    /// What was met: counters that moved, and states of flows.
    fn signature(&self) -> u64 {
        let (mut hasher, mut met) = (DefaultHasher::new(), BTreeSet::new());
        for worker in &self.workers {
            for (n, value) in worker.counters().values().iter().enumerate() {
                // How many packets and bytes there were is nothing special, nor is how often workers turned.
                let is_special =
                    n < Verdict::ALL.len() || SPECIAL.contains(&Tally::ALL[n - Verdict::ALL.len()]);
                if *value != 0 && is_special {
                    met.insert(n);
                }
            }
            let states = worker.flows().v4.iter().map(|(_, session)| session.state() as usize);
            met.extend(states.map(|state| 1_000 + state));
        }
        met.hash(&mut hasher);
        hasher.finish()
    }
}
