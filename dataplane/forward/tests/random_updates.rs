//! Random transactions between random packets: whatever is said and sent, each packet has one fate, no two live flows share a tuple, and
//! nobody gets a flow that may not.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::{cluster, frontend_key};
use harness::{Bed, MAC, ROUTER_MAC, ends, from};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use turnpike_forward::flow_key::FlowKey;
use turnpike_forward::verdict::{Tally, Verdict};
use turnpike_packet::flight::Flight;
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::toeplitz::MICROSOFT_KEY;
use turnpike_packet::{sctp, tcp, udp};
use turnpike_wire::update::{
    Action, Backend, BackendSet, BackendState, Cluster, Commit, Fleet, Frontend, FrontendKey, FrontendKind,
    Mode, Protocol, Service, ServiceKey, Tracking, Treatment, Update,
};

/// The control plane as it ought to be understood.
#[derive(Clone, Default)]
struct World {
    services: BTreeMap<String, (Service, BTreeMap<SocketAddr, Backend>)>,
    frontends: BTreeMap<FrontendKey, Frontend>,
    pods_known: bool,
    /// Whom the clients of Services with affinity were given last, and when.
    given: BTreeMap<(String, Ipv4Addr), (SocketAddr, u32)>,
}

fn key(n: u8) -> ServiceKey {
    ServiceKey(format!("default/s{n}:/{}/IPv4", protocol(n)))
}

/// Service ports 0 to 3 are of TCP, 4 to 7 of UDP, 8 and 9 of SCTP.
const fn protocol(n: u8) -> Protocol {
    match n {
        0..4 => Protocol::Tcp,
        4..8 => Protocol::Udp,
        _ => Protocol::Sctp,
    }
}

/// What a client sends.
#[derive(Clone, Copy, Debug)]
enum Sort {
    /// A segment with these flags.
    Tcp(u8),
    Udp,
    SctpInit,
}

impl Sort {
    const fn protocol(self) -> Protocol {
        match self {
            Self::Tcp(_) => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
            Self::SctpInit => Protocol::Sctp,
        }
    }

    /// Whether it makes a flow where there is none.
    const fn opens(self) -> bool {
        match self {
            Self::Tcp(flags) => flags & 0x17 == 2,
            Self::Udp | Self::SctpInit => true,
        }
    }

    fn frame(self, flight: &Flight) -> Vec<u8> {
        match self {
            Self::Tcp(flags) => tcp::segment(flight, 7, 9, flags, b""),
            Self::Udp => udp::datagram(flight, b"query"),
            Self::SctpInit => sctp::packet(flight, 0, &[(sctp::chunk::INIT, 0, &sctp::init(77, 1))]),
        }
    }
}

fn face(n: u8) -> String {
    let address = ["203.0.113.1", "203.0.113.2", "10.96.0.1", "192.0.2.1"][usize::from(n % 4)];
    let port = if n % 4 == 3 { 30_000 } else { 80 } + u16::from(n / 4);
    format!("{address}:{port}")
}

fn client(n: u8) -> String {
    let address = ["198.51.100.1", "198.51.100.2", "10.244.0.1", "10.244.0.200"][usize::from(n % 4)];
    format!("{address}:{}", 1_000 + u16::from(n / 4))
}

fn treatment() -> impl Strategy<Value = Treatment> {
    let action = prop_oneof![6 => Just(Action::Forward), 1 => Just(Action::Reject), 1 => Just(Action::Drop)];
    let set = prop::sample::select(vec![BackendSet::Cluster, BackendSet::Local]);
    let mode = prop::sample::select(vec![Mode::Nat, Mode::Dnat]);
    (action, set, mode).prop_map(|(action, set, mode)| Treatment { action, set, mode })
}

fn update() -> impl Strategy<Value = Update> {
    let kinds = vec![FrontendKind::LoadBalancer, FrontendKind::ExternalIp];
    let ranges =
        prop::sample::select(vec![vec![], vec!["198.51.100.1/32"], vec!["198.51.100.0/24", "10.244.0.0/24"]]);
    prop_oneof![
        3 => (0u8..10, prop::sample::select(vec![0u32, 60]), ranges, any::<bool>()).prop_map(|(n, affinity_timeout_s, ranges, told)| {
            let source_ranges = ranges.iter().map(|r| r.parse().unwrap()).collect();
            let (tracking, proxy_protocol) = (Tracking::default(), told && n < 4);
            Update::PutService(Service { key: key(n), affinity_timeout_s, source_ranges, tracking, proxy_protocol })
        }),
        8 => (0u8..10, 1u8..6, 0u16..3, any::<[bool; 3]>()).prop_map(|(n, host, weight, [c, l, serving])| {
            // Who takes new flows serves.
                let serving = serving || c || l;
                let state = if serving { BackendState::Ready } else { BackendState::Terminating };
            let address = SocketAddr::from((Ipv4Addr::new(10, 244, 0, host), 8080));
            Update::PutBackend(key(n), Backend { address, weight, state, in_cluster_set: c, in_local_set: l, serving })
        }),
        2 => (0u8..10, 1u8..6).prop_map(|(n, host)| {
            Update::DropBackend(key(n), SocketAddr::from((Ipv4Addr::new(10, 244, 0, host), 8080)))
        }),
        6 => (0u8..10, 0u8..8, treatment(), treatment(), prop::sample::select(kinds)).prop_map(|(n, at, outside, inside, kind)| {
            let kind = match at % 4 { 2 => FrontendKind::ClusterIp, 3 => FrontendKind::NodePort, _ => kind };
            let key_of = frontend_key(&face(at), protocol(n));
            Update::PutFrontend(Frontend { key: key_of, service: key(n), kind, outside, inside })
        }),
        2 => (0u8..10, 0u8..8).prop_map(|(n, at)| Update::DropFrontend(frontend_key(&face(at), protocol(n)))),
        1 => (0u8..10).prop_map(|n| Update::DropService(key(n))),
        1 => any::<bool>().prop_map(|known| if known { cluster() } else { Update::PutCluster(Cluster::default()) }),
        1 => Just(Update::Reset),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    /// Records as they come, or with what would refuse them left out.
    Transaction(Vec<Update>, bool),
    /// Of a client to a face.
    Packets(Vec<(u8, u8, Sort)>),
    /// Backends answer what they got last.
    Answers,
    Time(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let tcp_flags =
        prop_oneof![3 => Just(2u8), 2 => Just(16u8), 1 => Just(17u8), 1 => Just(4u8), 1 => any::<u8>()];
    let sort =
        prop_oneof![6 => tcp_flags.prop_map(Sort::Tcp), 4 => Just(Sort::Udp), 1 => Just(Sort::SctpInit)];
    let packet = (0u8..32, 0u8..8, sort);
    prop_oneof![
        3 => (prop::collection::vec(update(), 1..12), prop::bool::weighted(0.9))
            .prop_map(|(updates, mend)| Step::Transaction(updates, mend)),
        5 => prop::collection::vec(packet, 1..40).prop_map(Step::Packets),
        2 => Just(Step::Answers),
        1 => (1u32..120_000).prop_map(Step::Time),
    ]
}

impl World {
    /// What a record means; whether a transaction with it can hold.
    fn take(&mut self, update: &Update) -> bool {
        match update {
            Update::Reset => *self = Self { given: std::mem::take(&mut self.given), ..Self::default() },
            Update::PutService(service) => {
                self.services.entry(service.key.0.clone()).or_insert((service.clone(), BTreeMap::new())).0 =
                    service.clone();
            }
            Update::DropService(key) => return self.services.remove(&key.0).is_some(),
            Update::PutBackend(key, backend) => {
                return self
                    .services
                    .get_mut(&key.0)
                    .map(|s| s.1.insert(backend.address, *backend))
                    .is_some();
            }
            Update::DropBackend(key, address) => {
                return self.services.get_mut(&key.0).map(|s| s.1.remove(address)).is_some();
            }
            Update::PutFrontend(frontend) => drop(self.frontends.insert(frontend.key, frontend.clone())),
            Update::DropFrontend(key) => drop(self.frontends.remove(key)),
            Update::PutCluster(cluster) => self.pods_known = !cluster.pod_networks.is_empty(),
            Update::PutFleet(_) | Update::Commit(_) | Update::CountFlows { .. } => {}
        }
        true
    }

    /// Whether every frontend has its Service.
    fn holds(&self) -> bool {
        self.frontends.values().all(|f| self.services.contains_key(&f.service.0))
    }

    /// How a new flow of a client to a frontend is carried, and who may get it.
    fn may_serve(&self, client: Ipv4Addr, to: &FrontendKey) -> (Mode, Vec<SocketAddr>) {
        let nobody = (Mode::Nat, vec![]);
        let Some(frontend) = self.frontends.get(to) else { return nobody };
        let (service, backends) = &self.services[&frontend.service.0];
        let guarded = frontend.kind == FrontendKind::LoadBalancer && !service.source_ranges.is_empty();
        let client = IpAddr::V4(client);
        if guarded && !service.source_ranges.iter().any(|range| range.contains(&client)) {
            return nobody;
        }
        let pods: ipnet::IpNet = "10.244.0.0/16".parse().unwrap();
        let inside = self.pods_known && pods.contains(&client);
        let treatment = if inside { frontend.inside } else { frontend.outside };
        if treatment.action != Action::Forward {
            return nobody;
        }
        let all = backends.values().filter(|b| b.weight > 0 && b.is_in(treatment.set));
        (treatment.mode, all.map(|b| b.address).collect())
    }

    /// A new flow went to a backend: with affinity, that is the one the client was given last, if it may still be (rules F1 to F4).
    fn give(
        &mut self,
        client: Ipv4Addr,
        to: &FrontendKey,
        backend: SocketAddr,
        may: &[SocketAddr],
        now_ms: u32,
    ) {
        let service = &self.services[&self.frontends[to].service.0].0;
        let timeout_ms = service.affinity_timeout_s * 1_000;
        if timeout_ms == 0 {
            return;
        }
        let last = self.given.insert((service.key.0.clone(), client), (backend, now_ms));
        if let Some((given, at_ms)) =
            last.filter(|(given, at)| now_ms - at < timeout_ms && may.contains(given))
        {
            assert_eq!(backend, given, "{client} was given {given} {} ms ago", now_ms - at_ms);
        }
    }
}

/// The records that hold together: what names a Service that is not there is left out, frontends without one are dropped.
fn mended(world: &World, updates: Vec<Update>) -> Vec<Update> {
    let mut next = world.clone();
    let mut kept: Vec<Update> = Vec::new();
    for update in updates {
        if next.clone().take(&update) {
            next.take(&update);
            kept.push(update);
        }
    }
    let dangling = next.frontends.values().filter(|f| !next.services.contains_key(&f.service.0));
    kept.extend(dangling.map(|f| Update::DropFrontend(f.key)));
    kept
}

/// Every Service with two backends on every face it can have.
fn beginning() -> Vec<Update> {
    let mut updates =
        vec![Update::Reset, Update::PutFleet(Fleet { maglev_key: [5, 6], node_ports: (30_000, 32_767) })];
    for n in 0..10 {
        updates.push(Update::PutService(Service {
            key: key(n),
            affinity_timeout_s: 0,
            source_ranges: vec![],
            tracking: Tracking::default(),
            proxy_protocol: false,
        }));
        for host in 1..3 {
            let address = SocketAddr::from((Ipv4Addr::new(10, 244, 0, host), 8080));
            let (state, weight) = (BackendState::Ready, 1);
            let (in_cluster_set, in_local_set, serving) = (true, host == 1, true);
            let backend = Backend { address, weight, state, in_cluster_set, in_local_set, serving };
            updates.push(Update::PutBackend(key(n), backend));
        }
        let key_of = frontend_key(&face(n), protocol(n));
        let (outside, inside) = (Treatment::FORWARD, Treatment::FORWARD);
        let kind = FrontendKind::LoadBalancer;
        updates.push(Update::PutFrontend(Frontend { key: key_of, service: key(n), kind, outside, inside }));
    }
    updates
}

fn commit(bed: &mut Bed, world: &mut World, updates: &[Update]) {
    let mut next = world.clone();
    let can = updates.iter().all(|u| next.take(u)) && next.holds();
    for update in updates {
        assert!(bed.staging.take(update.clone()).is_none());
    }
    let generation = bed.staging.tables().generation + 1;
    let outcome = bed
        .staging
        .take(Update::Commit(Commit { generation, revision: 1, records: updates.len() as u64 }))
        .unwrap();
    assert_eq!(outcome.is_ok(), can, "{outcome:?} of {updates:?}");
    if let Ok(tables) = outcome {
        *world = next;
        // An affinity ends with its Service.
        world.given.retain(|(service, _), _| world.services.contains_key(service));
        bed.shared.publish(tables);
        bed.turn();
    }
}

fn fates(bed: &Bed) -> u64 {
    let of = |w: &turnpike_forward::worker::Worker<'_, _>| {
        Verdict::ALL.iter().map(|&v| w.counters().verdict(v)).sum::<u64>()
    };
    bed.workers.iter().map(of).sum()
}

fn tally(bed: &Bed, tally: Tally) -> u64 {
    bed.workers.iter().map(|w| w.counters().tally(tally)).sum()
}

/// Live flows by the client's key: the backend of each, and whom it sees.
fn flows(bed: &Bed) -> BTreeMap<u128, (SocketAddr, Ipv4Addr)> {
    let mut tuples = HashSet::new();
    let mut flows = BTreeMap::new();
    for (_, session) in bed.workers.iter().flat_map(|w| w.flows().v4.iter()) {
        let [forward, reply] = session.keys;
        let are_new = tuples.insert(forward.bits()) && tuples.insert(reply.bits());
        assert!(are_new, "a tuple is shared: {forward:?} {reply:?}");
        let backend = SocketAddr::from((Ipv4Addr::from(reply.source()), reply.source_port()));
        flows.insert(forward.bits(), (backend, reply.destination().into()));
    }
    flows
}

/// Sends one packet: it has one fate, and a flow it makes goes to somebody who may serve it, in the way that is wanted.
fn send(bed: &mut Bed, world: &mut World, (from_client, to_face, sort): (u8, u8, Sort)) -> Vec<Vec<u8>> {
    let (client, face) = (client(from_client), face(to_face));
    let before = flows(bed);
    let (fated, handed) = (fates(bed), bed.count("handed_off"));
    let opened = tally(bed, Tally::FlowsOpened);
    let sent = bed.exchange(&[sort.frame(&from(&client, &face))]);
    assert_eq!(fates(bed) - fated, 1 + bed.count("handed_off") - handed, "one packet, one fate");

    let (c, f) = (client.parse::<SocketAddrV4>().unwrap(), face.parse::<SocketAddrV4>().unwrap());
    let to = frontend_key(&face, sort.protocol());
    let key =
        FlowKey::new(to.protocol.number(), (*c.ip()).into(), (*f.ip()).into(), c.port(), f.port()).bits();
    let (mode, may) = world.may_serve(*c.ip(), &to);
    let mut after = flows(bed);
    let flow = after.remove(&key);
    if tally(bed, Tally::FlowsOpened) > opened {
        let (backend, seen) = flow.unwrap();
        assert!(may.contains(&backend), "{client} to {to} went to {backend}, may: {may:?}");
        let keeps = mode == Mode::Dnat && backend.ip() != *c.ip();
        assert_eq!(seen, if keeps { *c.ip() } else { harness::SNAT.into() }, "{client} to {to} as {mode:?}");
        world.give(*c.ip(), &to, backend, &may, bed.now_ms);
    } else if sort.opens() && !before.contains_key(&key) {
        assert!(may.is_empty(), "nobody serves {client} to {to}: {:?}", bed.counts());
    }
    assert!(after.iter().all(|(key, flow)| before.get(key) == Some(flow)), "no other flow is touched");
    sent
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_said_and_sent(steps in prop::collection::vec(step(), 1..40), steering in 0usize..3) {
        let rss = Spread::Rss(Rss { ipv6: true, key: MICROSOFT_KEY.to_vec(), reta: (0..128).map(|i| i % 2).collect() });
        let (workers, spread) = [(1, Spread::Unknown), (2, Spread::Unknown), (2, rss)][steering].clone();
        let mut bed = Bed::bare(workers, &spread, 1_024);
        let mut world = World::default();
        commit(&mut bed, &mut world, &beginning());
        let mut last: Vec<Vec<u8>> = Vec::new();
        for step in steps {
            bed.know_router();
            match step {
                Step::Transaction(updates, mend) => {
                    let updates = if mend { mended(&world, updates) } else { updates };
                    commit(&mut bed, &mut world, &updates);
                    bed.settle();
                    // After the clean-up no UDP flow of a live frontend is with somebody who does not serve while another does.
                    for (tuple, (backend, _)) in flows(&bed) {
                        let forward = FlowKey::from_header(tuple as u64, (tuple >> 64) as u64);
                        let to = FrontendKey {
                            address: Ipv4Addr::from(forward.destination()).into(),
                            port: forward.destination_port(),
                            protocol: Protocol::Udp,
                        };
                        if forward.protocol() == 17 && let Some(frontend) = world.frontends.get(&to) {
                            let backends = &world.services[&frontend.service.0].1;
                            let serves = backends.get(&backend).is_some_and(|b| b.serving);
                            prop_assert!(serves || backends.values().all(|b| !b.serving), "{to} stays with {backend}");
                        }
                    }
                }
                Step::Packets(packets) => {
                    last = packets.into_iter().flat_map(|packet| send(&mut bed, &mut world, packet)).collect();
                }
                Step::Answers => {
                    for frame in last.drain(..).filter(|f| f[23] == 17 || f[23] == 6) {
                        let (source, destination) = ends(&frame);
                        let back = Flight { source_mac: ROUTER_MAC, destination_mac: MAC, source: destination, destination: source };
                        let answer = if frame[23] == 6 { tcp::segment(&back, 1, 1, 18, b"") } else { udp::datagram(&back, b"answer") };
                        let received = fates(&bed) - bed.count("handed_off");
                        bed.exchange(&[answer]);
                        prop_assert_eq!(fates(&bed) - bed.count("handed_off") - received, 1);
                    }
                }
                Step::Time(ms) => bed.pass(ms),
            }
            prop_assert_eq!(tally(&bed, Tally::FlowsOpened) - tally(&bed, Tally::FlowsClosed), flows(&bed).len() as u64);
        }
    }
}
