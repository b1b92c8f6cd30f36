//! Who means harm, and what races: floods, clients that collide, networks at their edges, changes while workers are at work.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::{DNAT, Port};
use harness::{Bed, CLUSTER_IP, VIP, answer_to, ends, from};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};
use turnpike_forward::affinity::{Affinities, Client};
use turnpike_forward::census::Census;
use turnpike_forward::hash::Secret;
use turnpike_forward::limits::AFFINITIES_MAX;
use turnpike_forward::verdict::{Tally, Verdict};
use turnpike_packet::flight;
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::sctp::{self, chunk};
use turnpike_packet::tcp::{self, flags};
use turnpike_packet::toeplitz::MICROSOFT_KEY;
use turnpike_packet::udp;
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer};
use turnpike_wire::update::{Commit, Fleet, Protocol, Update};

const A: &str = "10.244.0.1:8080";
const B: &str = "10.244.0.2:8080";
const C: &str = "10.244.0.3:8080";

fn bed(workers: usize, flows: u32) -> Bed {
    Bed::bare(workers, &Spread::Unknown, flows)
}

fn rss(workers: u16) -> Spread {
    Spread::Rss(Rss {
        ipv6: true,
        key: MICROSOFT_KEY.to_vec(),
        reta: (0..128).map(|i| i % workers).collect(),
    })
}

fn web(protocol: Protocol, backends: &[&str]) -> Port {
    Port::new("web", protocol, backends).on(VIP, LoadBalancer).on(CLUSTER_IP, ClusterIp)
}

/// The `n`th of very many clients.
fn somebody(n: u32) -> String {
    format!("{}.{}.{}.{}:{}", 11 + n % 89, n / 89 % 256, n / 22_784 % 256, 1 + n % 250, 1_024 + n % 60_000)
}

fn syn(client: &str, frontend: &str) -> Vec<u8> {
    tcp::segment(&from(client, frontend), 1, 0, flags::SYN, b"")
}

#[test]
fn a_flood_on_a_full_flow_table_costs_nobody_their_affinity() {
    let mut bed = bed(1, 64);
    bed.put(&[web(Protocol::Tcp, &[A, B, C]).sticky(10_800)]);
    let clients: Vec<String> = (0..64).map(somebody).collect();
    let before: Vec<String> = clients.iter().map(|c| bed.backend_of(c, VIP)).collect();
    for n in 0..300 {
        let flood: Vec<_> = (0..64).map(|i| syn(&somebody(64 + n * 64 + i), VIP)).collect();
        let told = bed.exchange(&flood);
        assert!(told.iter().all(|frame| frame[23] == turnpike_packet::ipv4::ICMP));
    }
    let told = u64::from(turnpike_forward::limits::SHORTAGES_PER_SECOND);
    assert_eq!((bed.count("flow_table_full"), bed.count("icmp_sent")), (300 * 64, told));
    assert_eq!(bed.shared.affinities.len(), 64, "only flows that were made are remembered");
    bed.pass(260_000);
    bed.know_router();
    let after: Vec<String> = clients.iter().map(|c| bed.backend_of(c, VIP)).collect();
    assert_eq!(before, after);
}

#[test]
fn a_flood_of_clients_keeps_the_table_of_affinities_in_bounds_and_what_came_last() {
    let (table, secret) = (Affinities::new(), Secret::new([9, 8, 7, 6]));
    let stick = |n: u32, now_ms: u32| {
        let client = Client { service: 1, address: turnpike_forward::address::Address::v4(n) };
        table.stick(client, 10_800, now_ms, &secret, |seen| seen.or(Some((n, 80)))).0
    };
    let all = AFFINITIES_MAX as u32 * 2;
    (0..all).for_each(|n| assert_eq!(stick(n, n / 1_000), Some((n, 80))));
    assert!(table.len() <= AFFINITIES_MAX && table.len() > AFFINITIES_MAX / 2);
    for n in all - 10_000..all {
        let client = Client { service: 1, address: turnpike_forward::address::Address::v4(n) };
        let seen = table.stick(client, 10_800, all / 1_000, &secret, |seen| seen).0;
        assert_eq!(seen, Some((n, 80)), "who ends first gives way, not who came last");
    }
}

#[test]
fn floods_that_open_nothing_leave_no_state_and_live_flows_alone() {
    let mut bed = bed(1, 256);
    bed.put(&[
        web(Protocol::Tcp, &[A, B]).sticky(60),
        Port::new("mme", Protocol::Sctp, &[C]).on(VIP, LoadBalancer),
    ]);
    let client = "198.51.100.7:40000";
    let out = bed.pass_through(&syn(client, VIP));
    bed.pass_through(&tcp::segment(&answer_to(&out), 9, 2, flags::SYN | flags::ACK, b""));
    let remembered = bed.shared.affinities.len();
    let good = tcp::segment(&from(client, VIP), 2, 10, flags::ACK, b"good");
    let mut carried = 0;
    for round in 0..200u32 {
        let mut burst: Vec<_> = (0..48)
            .map(|i| {
                let flight = from(&somebody(round * 48 + i), VIP);
                match i % 6 {
                    0 => tcp::segment(&flight, i, 7, flags::ACK, b"x"),
                    1 => tcp::segment(&flight, i, 7, flags::FIN | flags::ACK, b""),
                    2 => tcp::segment(&flight, i, 7, flags::SYN | flags::ACK, b""),
                    3 => tcp::segment(&flight, i, 7, flags::RST, b""),
                    4 => sctp::packet(&flight, 1 + i, &[(chunk::COOKIE_ECHO, 0, b"guess")]),
                    _ => sctp::packet(&flight, 1 + i, &[(chunk::ABORT, 0, b"")]),
                }
            })
            .collect();
        burst.insert(24, good.clone());
        carried += bed.exchange(&burst).iter().filter(|f| f.ends_with(b"good")).count();
    }
    assert_eq!(carried, 200);
    assert_eq!((bed.count("flows_live"), bed.shared.affinities.len()), (1, remembered));
    assert_eq!((bed.count("tcp_no_flow"), bed.count("sctp_no_flow")), (200 * 32, 200 * 16));
    assert!(bed.count("resets_sent") <= 1_000, "answers are limited");
}

#[test]
fn a_flood_of_inits_from_a_clients_own_address_ends_no_association() {
    let mut bed = bed(1, 64);
    bed.put(&[Port::new("mme", Protocol::Sctp, &[A, B, C]).on(VIP, LoadBalancer)]);
    let client = "198.51.100.7:36412";
    let (to_backend, to_client) = (0x0bac_ce4d, 0x0c11_e471);
    let init = |tag| sctp::packet(&from(client, VIP), 0, &[(chunk::INIT, 0, &sctp::init(tag, 1))]);
    let out = bed.pass_through(&init(to_client));
    bed.pass_through(&sctp::packet(&from(client, VIP), to_backend, &[(chunk::COOKIE_ECHO, 0, b"")]));
    bed.pass_through(&sctp::packet(&answer_to(&out), to_client, &[(chunk::COOKIE_ACK, 0, b"")]));
    for minute in 0..300u32 {
        bed.know_router();
        for n in 0..5 {
            bed.pass_through(&init(1 + minute * 5 + n));
            bed.pass_through(&sctp::packet(&from(client, VIP), 77 + n, &[(chunk::COOKIE_ECHO, 0, b"guess")]));
        }
        bed.pass(30_000);
        bed.know_router();
        bed.pass_through(&sctp::packet(&answer_to(&out), to_client, &[(chunk::HEARTBEAT, 0, b"")]));
        let now = bed.pass_through(&sctp::packet(
            &from(client, VIP),
            to_backend,
            &[(chunk::HEARTBEAT_ACK, 0, b"")],
        ));
        assert_eq!(ends(&now), ends(&out), "minute {minute}");
    }
    assert_eq!(bed.count("flows_opened"), 1);
}

#[test]
fn rule_l1_source_ranges_at_their_edges() {
    // Ranges, and sources with whether each is let in.
    type Row<'a> = (&'a [&'a str], &'a [(&'a str, bool)]);
    let rows: [Row<'_>; 10] = [
        (&["0.0.0.0/0"], &[("1.0.0.1", true), ("198.51.100.7", true), ("223.255.255.254", true)]),
        (&["198.51.100.7/32"], &[("198.51.100.6", false), ("198.51.100.7", true), ("198.51.100.8", false)]),
        (&["198.51.100.0/31"], &[("198.51.99.255", false), ("198.51.100.1", true), ("198.51.100.2", false)]),
        (&["128.0.0.0/1"], &[("126.255.255.254", false), ("128.0.0.1", true), ("223.0.0.1", true)]),
        (
            &["11.0.0.0/8", "11.1.0.0/16", "11.1.2.3/32"],
            &[("11.1.2.3", true), ("11.255.0.1", true), ("12.0.0.1", false)],
        ),
        (&["11.2.0.0/16", "11.1.0.0/16"], &[("11.1.255.255", true), ("11.2.0.0", true), ("11.3.0.0", false)]),
        (&["198.51.100.77/24"], &[("198.51.100.1", true), ("198.51.101.1", false)]),
        (&["11.0.0.1/32", "11.0.0.3/32"], &[("11.0.0.1", true), ("11.0.0.2", false), ("11.0.0.3", true)]),
        (&["2001:db8::/32"], &[("198.51.100.7", true)]),
        (&["2001:db8::/32", "11.0.0.0/8"], &[("11.9.9.9", true), ("198.51.100.7", false)]),
    ];
    for (ranges, sources) in rows {
        let mut bed = bed(1, 64);
        bed.put(&[web(Protocol::Tcp, &[A]).guarded(ranges)]);
        for (source, is_let_in) in sources {
            let got = bed.connect(&format!("{source}:1000"), VIP);
            assert_eq!(got.is_some(), *is_let_in, "{source} to {ranges:?}: {:?}", bed.counts());
        }
        let shut_out = sources.iter().filter(|(_, is_let_in)| !is_let_in).count() as u64;
        assert_eq!(bed.count("source_range"), shut_out, "{ranges:?}");
    }
    let mut bed = bed(1, 64);
    bed.put(&[web(Protocol::Tcp, &[A]).guarded(&["0.0.0.0/0"])]);
    for source in ["127.0.0.1", "0.0.0.0", "255.255.255.255", "203.0.113.80"] {
        assert!(bed.connect(&format!("{source}:1000"), VIP).is_none());
    }
    assert_eq!(bed.count("bad_source"), 4, "everybody means everybody who can be a client");
}

/// One client sends from one port to very many Services, all of which have the same backend and keep the client's address.
fn collide(workers: usize, spread: &Spread) {
    let mut bed = Bed::bare(workers, spread, 4_096);
    let faces: Vec<String> =
        (0..400).map(|n| format!("203.0.113.{}:{}", n % 200 + 1, 80 + n / 200)).collect();
    let ports: Vec<Port> = faces
        .iter()
        .enumerate()
        .map(|(n, face)| {
            Port::new(&format!("s{n}"), Protocol::Udp, &[A]).with(face, LoadBalancer, DNAT, DNAT)
        })
        .collect();
    bed.put(&ports);
    let client = "198.51.100.7:4000";
    let mut seen = BTreeMap::new();
    for face in &faces {
        let out = bed.pass_through(&udp::datagram(&from(client, face), face.as_bytes()));
        let (source, backend) = ends(&out);
        assert_eq!((source.ip().to_string().as_str(), backend.to_string().as_str()), ("198.51.100.7", A));
        assert!(seen.insert(source.port(), out).is_none(), "the backend cannot tell {face} from another");
    }
    for out in seen.values() {
        let back = bed.pass_through(&udp::datagram(&answer_to(out), &out[42..]));
        let (from, to) = ends(&back);
        assert_eq!((from.to_string().as_bytes(), to.to_string().as_str()), (&back[42..], client));
    }
    bed.pass(320_000);
    bed.know_router();
    assert_eq!(bed.count("flows_live"), 0);
    if workers == 1 {
        let out = bed.pass_through(&udp::datagram(&from(client, &faces[77]), b"again"));
        assert_eq!(ends(&out).0.to_string(), client, "its own port is free again");
    }
}

#[test]
fn rule_a2_clients_that_collide_at_a_backend_are_told_apart_by_their_port() {
    collide(1, &Spread::Unknown);
    collide(2, &Spread::Unknown);
    collide(3, &rss(3));
}

/// Two workers that adopt tables at different times, each driven by hand.
struct Apart {
    bed: Bed,
    generation: u64,
}

impl Apart {
    fn new() -> Self {
        let mut bed = bed(2, 1_024);
        bed.put(&[web(Protocol::Udp, &[A])]);
        Self { bed, generation: 100 }
    }

    /// New tables that nobody has looked at yet.
    fn publish(&mut self, backends: &[&str]) {
        let mut updates =
            vec![Update::Reset, Update::PutFleet(Fleet { maglev_key: [5, 6], node_ports: (30_000, 32_767) })];
        updates.extend(web(Protocol::Udp, backends).updates());
        self.generation += 1;
        let commit = Commit { generation: self.generation, revision: 1, records: updates.len() as u64 };
        self.bed.staging.new_control_plane();
        updates.iter().for_each(|u| assert!(self.bed.staging.take(u.clone()).is_none()));
        let tables = self.bed.staging.take(Update::Commit(commit)).unwrap().unwrap();
        self.bed.shared.publish(tables);
    }

    /// One worker turns, often enough for a clean-up of its whole table.
    fn turn(&mut self, worker: usize) {
        let mut ios = [self.bed.nic.io(worker)];
        for _ in 0..40 {
            self.bed.workers[worker].turn(&mut ios, self.bed.now_ms);
        }
    }

    fn backends(&self, worker: usize) -> BTreeSet<String> {
        let of = |key: turnpike_forward::flow_key::FlowKey| {
            format!("{}:{}", std::net::Ipv4Addr::from(key.source()), key.source_port())
        };
        self.bed.workers[worker].flows().v4.iter().map(|(_, session)| of(session.keys[1])).collect()
    }
}

#[test]
fn rule_u1_a_worker_that_adopts_late_makes_flows_by_old_tables_and_cleans_them_later() {
    let mut apart = Apart::new();
    apart.publish(&[B]);
    apart.turn(0);
    // Datagrams reach both workers; the one that is behind still sends its own to the old backend, also those that are handed to it.
    for n in 0..200 {
        apart.bed.nic.inject(&udp::datagram(&from(&somebody(n), VIP), b"q"));
        apart.turn(0);
        if n == 100 {
            assert_eq!(apart.backends(0), BTreeSet::from([B.to_owned()]));
        }
    }
    let workers_behind = apart.bed.shared.adopted_by(1) < apart.bed.shared.adopted_by(0);
    assert!(workers_behind);
    apart.turn(1);
    apart.turn(0);
    apart.turn(1);
    for worker in [0, 1] {
        assert_eq!(apart.backends(worker), BTreeSet::from([B.to_owned()]), "worker {worker}");
    }
}

#[test]
fn rule_u1_a_worker_that_skips_tables_misses_no_clean_up() {
    let mut apart = Apart::new();
    for n in 0..200 {
        apart.bed.nic.inject(&udp::datagram(&from(&somebody(n), VIP), b"q"));
    }
    (0..4).for_each(|turn| apart.turn(turn % 2));
    let live: u32 = apart.bed.workers.iter().map(|w| w.flows().v4.live()).sum();
    assert_eq!(live, 200);
    // The first of these concerns UDP flows, the last does not; worker 1 sees the last alone.
    apart.publish(&[B, C]);
    apart.turn(0);
    apart.publish(&[B, C]);
    apart.turn(0);
    apart.turn(1);
    for worker in [0, 1] {
        assert!(!apart.backends(worker).contains(A), "worker {worker}");
    }
    let cleaned: u64 = apart.bed.count("udp_flows_cleaned");
    assert_eq!(cleaned, 200);
}

/// Workers on threads of their own, while the control thread changes tables as fast as it can and asks for counts, and clients send.
#[test]
fn nothing_is_lost_or_mixed_up_when_tables_change_under_load() {
    let mut bed = bed(2, 2_048);
    let services = |n: u32| {
        let sets: [&[&str]; 4] = [&[A, B, C], &[B], &[C, A], &[]];
        let backends = sets[n as usize % 4];
        [
            Port {
                name: "dns".into(),
                ..web(Protocol::Udp, backends).sticky(if n.is_multiple_of(3) { 60 } else { 0 })
            },
            web(Protocol::Tcp, backends).guarded(if n.is_multiple_of(5) { &["11.0.0.0/8"] } else { &[] }),
        ]
    };
    bed.put(&services(0));
    let (stop, now_ms) = (AtomicBool::new(false), AtomicU32::new(bed.now_ms));
    let (nic, shared) = (bed.nic.clone(), Arc::clone(&bed.shared));
    let staging = &mut bed.staging;
    std::thread::scope(|scope| {
        for (id, worker) in bed.workers.iter_mut().enumerate() {
            let (nic, stop, now_ms) = (&nic, &stop, &now_ms);
            scope.spawn(move || {
                let mut ios = [nic.io(id)];
                while !stop.load(Relaxed) {
                    worker.turn(&mut ios, now_ms.load(Relaxed));
                }
            });
        }
        let mut old = Vec::new();
        let mut census: Option<Arc<Census>> = None;
        for n in 0..400u32 {
            for i in 0..40 {
                let client = somebody(n * 13 + i);
                let face = if i % 2 == 0 { VIP } else { CLUSTER_IP };
                nic.inject(&match i % 3 {
                    0 => syn(&client, face),
                    1 => tcp::segment(&from(&client, face), 2, 2, flags::RST, b""),
                    _ => udp::datagram(&from(&client, face), b"query"),
                });
            }
            let updates = snapshot(&services(n));
            staging.new_control_plane();
            updates.iter().for_each(|u| assert!(staging.take(u.clone()).is_none()));
            let commit =
                Commit { generation: 1_000 + u64::from(n), revision: 1, records: updates.len() as u64 };
            old.push(shared.publish(staging.take(Update::Commit(commit)).unwrap().unwrap()));
            now_ms.fetch_add(7, Relaxed);
            if census.as_ref().is_none_or(|c| c.is_done()) {
                assert!(census.take().is_none_or(|c| c.flows() <= 4_096));
                let next = Census::new(u64::from(n), 2);
                shared.ask(Some(Arc::clone(&next)));
                census = Some(next);
            }
        }
        // A machine with better things to do may be slow, but not for ever.
        let patience = Instant::now() + Duration::from_secs(30);
        while census.as_ref().is_some_and(|c| !c.is_done()) && Instant::now() < patience {
            now_ms.fetch_add(1, Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(census.is_some_and(|c| c.is_done()), "questions are answered under load");
        stop.store(true, Relaxed);
    });
    bed.shared.ask(None);
    bed.now_ms = now_ms.load(Relaxed) + 1;
    let last = snapshot(&services(1));
    bed.staging.new_control_plane();
    last.iter().for_each(|u| assert!(bed.staging.take(u.clone()).is_none()));
    let commit = Commit { generation: 9_000, revision: 1, records: last.len() as u64 };
    bed.shared.publish(bed.staging.take(Update::Commit(commit)).unwrap().unwrap());
    bed.settle();

    let mut tuples = HashSet::new();
    for worker in &bed.workers {
        for (_, session) in worker.flows().v4.iter() {
            assert!(tuples.insert(session.keys[1].bits()), "two live flows share a tuple");
            if session.keys[1].protocol() == 17 {
                assert_eq!(std::net::Ipv4Addr::from(session.keys[1].source()).to_string(), "10.244.0.2");
            }
        }
        assert_eq!(worker.flows().v4.iter().count(), worker.flows().v4.live() as usize);
    }
    assert!(!tuples.is_empty());
    let fates: u64 = Verdict::ALL.iter().map(|v| bed.count(v.name())).sum();
    let passed_on = bed.count(Verdict::HandedOff.name());
    assert_eq!(fates - passed_on, bed.count(Tally::RxPackets.name()), "each packet has one fate");
    assert_eq!(bed.count(Tally::RxPackets.name()), 400 * 40);
    let sent = bed.nic.take_sent();
    assert!(sent.iter().all(|f| flight::check(f).is_ok()));

    let census = Census::new(7, 2);
    bed.shared.ask(Some(Arc::clone(&census)));
    bed.now_ms += 1;
    bed.settle();
    assert!(census.is_done());
    assert_eq!(census.flows(), bed.count("flows_live"));
    assert_eq!(census.counts().map(|c| c.flows).sum::<u64>(), census.flows());
}

fn snapshot(ports: &[Port]) -> Vec<Update> {
    let fleet = Update::PutFleet(Fleet { maglev_key: [5, 6], node_ports: (30_000, 32_767) });
    let mut updates = vec![Update::Reset, fleet];
    updates.extend(ports.iter().flat_map(Port::updates));
    updates
}
