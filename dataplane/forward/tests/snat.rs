//! SNAT ports and what new flows are bound by: RFC 4787, RFC 6056 and RFC 6888 through whole turns of a worker. Every row states the whole
//! counter delta, those of bytes left out.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::Port;
use harness::{Bed, SNAT, answer_to, ends, from};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use turnpike_forward::exception::{Plan, Tap, rings};
use turnpike_forward::gateway::FlowRules;
use turnpike_forward::hash::Secret;
use turnpike_forward::limits::SHORTAGES_PER_SECOND;
use turnpike_packet::tcp::flags::{ACK, FIN, SYN};
use turnpike_packet::{icmpv4, icmpv6, ipv4, ipv6, tcp, udp};
use turnpike_wire::update::FrontendKind::{LoadBalancer, NodePort};
use turnpike_wire::update::{Cluster, Fleet, Protocol, Update};

const DNS: &str = "203.0.113.80:53";
const WEB: &str = "203.0.113.80:80";
const DNS6: &str = "[2001:db8:80::80]:53";
const POD: &str = "10.244.0.1:53";
const UDP_TIMEOUT_MS: u32 = 300_000;
/// Time in which what has idled out is gone.
const SWEPT_MS: u32 = 16_000;

type Delta = BTreeMap<&'static str, u64>;

fn services() -> [Port; 3] {
    [
        Port::new("dns", Protocol::Udp, &[POD]).on(DNS, LoadBalancer),
        Port::new("web", Protocol::Tcp, &["10.244.0.1:8080"]).on(WEB, LoadBalancer),
        Port::new("dns/IPv6", Protocol::Udp, &["[fd00::1]:53"]).on(DNS6, LoadBalancer),
    ]
}

fn bed(rules: FlowRules) -> Bed {
    let mut bed = Bed::under(rules, 4_096);
    bed.put(&services());
    bed
}

/// Rules that leave these ports alone.
fn only(ports: std::ops::RangeInclusive<u16>) -> FlowRules {
    let excluded_ports = vec![(1, ports.start() - 1), (ports.end() + 1, u16::MAX)];
    FlowRules { excluded_ports, ..FlowRules::default() }
}

fn resting(ports: std::ops::RangeInclusive<u16>) -> FlowRules {
    FlowRules { rest_ms: 120_000, resting_ports_max: 1_000, ..only(ports) }
}

/// Time passes; the router answers as it did.
fn wait(bed: &mut Bed, ms: u32) {
    bed.pass(ms);
    bed.know_router();
}

/// What a datagram moves, and what was sent on.
fn ask(bed: &mut Bed, client: &str, frontend: &str) -> (Delta, Option<Vec<u8>>) {
    let (delta, sent) = bed.delta(&udp::datagram(&from(client, frontend), b"query"));
    (delta, sent.into_iter().find(|frame| ends(frame).1 != client.parse().unwrap() && !is_error(frame)))
}

/// ICMP of either family.
fn is_error(frame: &[u8]) -> bool {
    (frame[12], frame[23]) == (0x08, ipv4::ICMP) || (frame[12], frame[20]) == (0x86, ipv6::ICMP)
}

/// The SNAT port of a client's new flow.
#[track_caller]
fn port_of(bed: &mut Bed, client: &str) -> u16 {
    let (delta, sent) = ask(bed, client, DNS);
    ends(&sent.unwrap_or_else(|| panic!("{delta:?}"))).0.port()
}

fn counted<const N: usize>(counters: [(&'static str, u64); N]) -> Delta {
    [("rx_packets", 1)].into_iter().chain(counters).collect()
}

fn opened() -> Delta {
    counted([("tx_packets", 1), ("forwarded", 1), ("flows_opened", 1), ("flows_live", 1)])
}

fn passed() -> Delta {
    counted([("tx_packets", 1), ("forwarded", 1)])
}

/// Refused, and told so.
fn refused(verdict: &'static str) -> Delta {
    counted([(verdict, 1), ("icmp_sent", 1), ("tx_packets", 1)])
}

#[test]
fn rfc6888_req4_quota_per_client() {
    let mut bed = bed(FlowRules { client_flows_max: 3, ..FlowRules::default() });
    let rows = [
        ("198.51.100.7:1", DNS, opened()),
        ("198.51.100.7:2", DNS, opened()),
        ("198.51.100.7:3", DNS, opened()),
        ("198.51.100.7:4", DNS, refused("client_quota")),
        ("198.51.100.7:1", DNS, passed()),
        ("198.51.100.8:4", DNS, opened()),
        // Of IPv6 a client is its network of 64 bits.
        ("[2001:db8:c::7]:1", DNS6, opened()),
        ("[2001:db8:c::8]:1", DNS6, opened()),
        ("[2001:db8:c::ffff:0:9]:1", DNS6, opened()),
        ("[2001:db8:c::a]:1", DNS6, refused("client_quota")),
        ("[2001:db8:c::8]:1", DNS6, passed()),
        ("[2001:db8:c:1::a]:1", DNS6, opened()),
    ];
    for (client, frontend, delta) in rows {
        assert_eq!(ask(&mut bed, client, frontend).0, delta, "{client}");
    }
    // It is of all protocols and Services together.
    let syn = tcp::segment(&from("198.51.100.7:4", WEB), 1, 0, SYN, b"");
    assert_eq!(bed.delta(&syn).0, refused("client_quota"));
}

#[test]
fn rfc6888_req5_whatever_ends_a_flow_gives_it_back() {
    let mut bed = bed(FlowRules { client_flows_max: 1, ..FlowRules::default() });
    let (client, other) = ("198.51.100.7:1", "198.51.100.7:2");
    assert_eq!(ask(&mut bed, client, DNS).0, opened());
    assert_eq!(ask(&mut bed, other, DNS).0, refused("client_quota"));
    // It idles out.
    wait(&mut bed, UDP_TIMEOUT_MS + SWEPT_MS);
    assert_eq!((bed.count("flows_live"), ask(&mut bed, other, DNS).0), (0, opened()));
    // Its backend is gone, and another is there.
    let [dns, web, dns6] = services();
    let moved = Port::new("dns", Protocol::Udp, &["10.244.0.2:53"]).on(DNS, LoadBalancer);
    bed.put(&[moved, web.clone(), dns6.clone()]);
    assert_eq!((bed.count("flows_live"), bed.count("udp_flows_cleaned")), (0, 1));
    assert_eq!(ask(&mut bed, client, DNS).0, opened());
    wait(&mut bed, UDP_TIMEOUT_MS + SWEPT_MS);
    // A connection that was closed starts anew: one more was opened, and as many live.
    bed.put(&[dns, web, dns6]);
    let there = from("198.51.100.7:9", WEB);
    let syn = bed.pass_through(&tcp::segment(&there, 1, 0, SYN, b""));
    let back = answer_to(&syn);
    bed.pass_through(&tcp::segment(&back, 9, 2, SYN | ACK, b""));
    bed.pass_through(&tcp::segment(&there, 2, 10, ACK, b""));
    bed.pass_through(&tcp::segment(&there, 2, 10, FIN | ACK, b""));
    bed.pass_through(&tcp::segment(&back, 10, 3, FIN | ACK, b""));
    assert_eq!(ask(&mut bed, other, DNS).0, refused("client_quota"));
    let again = bed.delta(&tcp::segment(&there, 70_000, 0, SYN, b"")).0;
    let replaced = [("tx_packets", 1), ("forwarded", 1), ("flows_opened", 1), ("flows_closed", 1)];
    assert_eq!(again, counted(replaced));
    assert_eq!(ask(&mut bed, other, DNS).0, refused("client_quota"));
    wait(&mut bed, 240_000 + SWEPT_MS);
    assert_eq!(ask(&mut bed, other, DNS).0, opened());
}

#[test]
fn rfc6888_req11_old_flows_stay_and_rfc5508_req8_the_refused_are_told() {
    // By its quota and by the ports there are alike: what is refused harms nothing that lives, in neither direction.
    let rows = [
        (FlowRules { client_flows_max: 4, ..FlowRules::default() }, "client_quota"),
        (only(2_000..=2_003), "snat_exhausted"),
    ];
    for (rules, verdict) in rows {
        let mut bed = bed(rules);
        let client = |n: u16| format!("198.51.100.7:{n}");
        let seen: Vec<Vec<u8>> = (1..=4)
            .map(|n| {
                let (delta, sent) = ask(&mut bed, &client(n), DNS);
                assert_eq!(delta, opened());
                sent.unwrap()
            })
            .collect();
        for round in 0..3 {
            // So many of them a second.
            for n in 0..200 {
                let wanted = if u32::from(n) < SHORTAGES_PER_SECOND {
                    refused(verdict)
                } else {
                    counted([(verdict, 1)])
                };
                assert_eq!(ask(&mut bed, &client(5 + n), DNS).0, wanted);
            }
            for (n, seen) in (1..=4).zip(&seen) {
                let (delta, again) = ask(&mut bed, &client(n), DNS);
                assert_eq!((delta, ends(&again.unwrap())), (passed(), ends(seen)), "round {round}");
                let (delta, sent) = bed.delta(&udp::datagram(&answer_to(seen), b"answer"));
                assert_eq!((delta, ends(&sent[0]).1), (passed(), client(n).parse().unwrap()));
            }
            wait(&mut bed, 100_000);
        }
        assert_eq!((bed.count("flows_live"), bed.count("flows_closed")), (4, 0));
    }
}

#[test]
fn rfc5508_req8_whoever_finds_no_room_is_told_from_whom_it_asked() {
    let mut bed = bed(FlowRules { client_flows_max: 1, ..FlowRules::default() });
    for (first, second, frontend, wanted) in [
        ("198.51.100.7:1", "198.51.100.7:2", DNS, [icmpv4::UNREACHABLE, icmpv4::PROHIBITED]),
        ("[2001:db8:c::7]:1", "[2001:db8:c::7]:2", DNS6, [icmpv6::UNREACHABLE, icmpv6::PROHIBITED]),
    ] {
        assert_eq!(ask(&mut bed, first, frontend).0, opened());
        let asked = udp::datagram(&from(second, frontend), b"query");
        let (delta, sent) = bed.delta(&asked);
        assert_eq!(delta, refused("client_quota"));
        let (ip, addresses) = if asked[12] == 0x08 { (20, 12..20) } else { (40, 8..40) };
        let error = &sent[0][14 + ip..];
        assert_eq!((&error[..2], &error[8..]), (&wanted[..], &asked[14..]), "the packet is quoted");
        let [asked, told] = [&asked, &sent[0]].map(|frame| frame[14..][addresses.clone()].to_vec());
        let (from, to) = asked.split_at(asked.len() / 2);
        assert_eq!(told, [to, from].concat(), "from whom it asked");
    }
}

#[test]
fn a_flood_from_one_client_leaves_the_others_served() {
    let rules = FlowRules {
        client_flows_max: 1_000,
        rest_ms: 120_000,
        resting_ports_max: 1_000,
        ..FlowRules::default()
    };
    let mut bed = bed(rules);
    for port in 1..=u16::MAX {
        bed.exchange(&[udp::datagram(&from(&format!("198.51.100.7:{port}"), DNS), b"flood")]);
    }
    assert_eq!((bed.count("flows_live"), bed.count("client_quota")), (1_000, 64_535));
    for n in 0..2_000u32 {
        let client = format!("198.51.{}.{}:4000", 101 + n / 250, n % 250);
        assert_eq!(ask(&mut bed, &client, DNS).0, opened(), "{client}");
    }
}

#[test]
fn rfc4787_req3_no_overloading_of_live_flows() {
    let mut bed = bed(only(2_000..=2_099));
    let mut seen = BTreeSet::new();
    for n in 0..100 {
        let sent = ask(&mut bed, &format!("198.51.100.7:{}", 1 + n), DNS).1;
        // The last free one of a hundred is not found by every 128 tries.
        let Some(sent) = sent else { continue };
        assert!(seen.insert(ends(&sent)), "{:?}", ends(&sent));
    }
    assert!(seen.len() > 95, "{}", seen.len());
    assert!(
        seen.iter().all(|(snat, pod)| *pod == POD.parse().unwrap() && (2_000..=2_099).contains(&snat.port()))
    );
    // Another backend, and another protocol, have them all once more.
    for n in 0..50 {
        let syn = tcp::segment(&from(&format!("198.51.100.7:{}", 1 + n), WEB), 1, 0, SYN, b"");
        assert_eq!(bed.delta(&syn).0, opened());
    }
}

#[test]
fn rfc6888_req8_ports_rest_120_s() {
    for _ in 0..3 {
        let mut bed = bed(resting(2_000..=2_001));
        let (one, other, third) = ("198.51.100.7:1", "198.51.100.8:1", "198.51.100.9:1");
        let first = port_of(&mut bed, one);
        wait(&mut bed, UDP_TIMEOUT_MS + SWEPT_MS);
        assert_eq!(bed.count("flows_live"), 0);
        assert_ne!(port_of(&mut bed, other), first, "it rests");
        assert_eq!(bed.count("snat_rests_broken"), 0);
        // A new flow gets it all the same where there is no other, and that is told.
        let mut broken = opened();
        broken.insert("snat_rests_broken", 1);
        assert_eq!(ask(&mut bed, third, DNS).0, broken);
    }
    let mut bed = bed(resting(2_000..=2_000));
    let (one, other) = ("198.51.100.7:1", "198.51.100.8:1");
    assert_eq!(port_of(&mut bed, one), 2_000);
    wait(&mut bed, UDP_TIMEOUT_MS + SWEPT_MS);
    // Safe cases: the same client, another backend, and a rest that is over.
    assert_eq!(ask(&mut bed, "198.51.100.7:9", DNS).0, opened());
    wait(&mut bed, UDP_TIMEOUT_MS + SWEPT_MS);
    let syn = tcp::segment(&from(other, WEB), 1, 0, SYN, b"");
    assert_eq!(bed.delta(&syn).0, opened());
    wait(&mut bed, 120_000);
    assert_eq!(ask(&mut bed, other, DNS).0, opened());
}

#[test]
fn rfc6888_req8_tcp_ports_that_were_silent_need_no_rest() {
    let mut bed = bed(resting(2_000..=2_000));
    let there = from("198.51.100.7:1", WEB);
    let back = answer_to(&bed.pass_through(&tcp::segment(&there, 1, 0, SYN, b"")));
    bed.pass_through(&tcp::segment(&back, 9, 2, SYN | ACK, b""));
    bed.pass_through(&tcp::segment(&there, 2, 10, FIN | ACK, b""));
    bed.pass_through(&tcp::segment(&back, 10, 3, FIN | ACK, b""));
    let other = tcp::segment(&from("198.51.100.8:1", WEB), 1, 0, SYN, b"");
    assert_eq!(bed.delta(&other).0, refused("snat_exhausted"), "closed, and still held");
    wait(&mut bed, 240_000 + SWEPT_MS);
    assert_eq!(bed.delta(&other).0, opened());
}

#[test]
fn what_the_host_answers_is_no_snat_port() {
    // The kernel has the SNAT address; Turnpike listens at 2001 there, answers a health check at 2002 and a NodePort at 2003, both outside of
    // the range of NodePorts: 2000 alone is left.
    let mut bed = Bed::under(only(2_000..=2_003), 4_096);
    let tap = Tap { frame_bytes_max: 1_514, addresses: vec![std::net::IpAddr::from(SNAT).into()] };
    let plan = Plan { taps: vec![Some(tap)], local_ports: (32_768, 60_999), listening: vec![2_001] };
    let (ends_of_workers, _kernel) = rings(plan, 1, Secret::new([5, 6, 7, 8]));
    let workers = std::mem::take(&mut bed.workers).into_iter().zip(ends_of_workers);
    bed.workers = workers.map(|(worker, end)| worker.with_exception(end)).collect();
    let node_port = "10.1.0.1:2003";
    let dns = Port::new("dns", Protocol::Udp, &[POD]).on(DNS, LoadBalancer).on(node_port, NodePort);
    for health_check_ports in [vec![2_002], vec![]] {
        let mut updates = vec![
            Update::Reset,
            Update::PutFleet(Fleet { maglev_key: [5, 6], node_ports: (30_000, 32_767) }),
            Update::PutCluster(Cluster {
                health_check_ports: health_check_ports.clone(),
                ..Cluster::default()
            }),
        ];
        updates.extend(dns.updates());
        bed.commit(&updates);
        bed.know_router();
        let ports: BTreeSet<u16> = (1..=30)
            .filter_map(|n| Some(ends(&ask(&mut bed, &format!("198.51.100.7:{n}"), DNS).1?).0.port()))
            .collect();
        let wanted = if health_check_ports.is_empty() { vec![2_000, 2_002] } else { vec![2_000] };
        assert_eq!(ports, BTreeSet::from_iter(wanted));
    }
    // And the NodePort is answered.
    assert!(ask(&mut bed, "198.51.100.99:1", node_port).0.contains_key("snat_exhausted"));
}

/// What the rules say, written down plainly: flows by client and port with the time of their last packet.
#[derive(Default)]
struct Model {
    flows: BTreeMap<(u8, u16), u32>,
}

const PORTS: usize = 6;
const QUOTA: usize = 3;

impl Model {
    fn ask(&mut self, client: u8, port: u16, now_ms: u32) -> &'static str {
        let of_client = self.flows.keys().filter(|(other, _)| *other == client).count();
        let verdict = if self.flows.contains_key(&(client, port)) {
            "forwarded"
        } else if of_client == QUOTA {
            "client_quota"
        } else if self.flows.len() == PORTS {
            "snat_exhausted"
        } else {
            "forwarded"
        };
        if verdict == "forwarded" {
            self.flows.insert((client, port), now_ms);
        }
        verdict
    }

    fn pass(&mut self, now_ms: u32) {
        self.flows.retain(|_, last_ms| now_ms - *last_ms <= UDP_TIMEOUT_MS);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Clients with flows come and go. Each datagram has the verdict that the model has; no two live flows share a port; and a port that went
    /// to another client within 120 s of the flow before was counted as such.
    #[test]
    fn quota_ports_and_rest_are_what_a_plain_model_says(
        steps in prop::collection::vec((1u8..5, 1u16..5, prop::bool::weighted(0.1)), 1..150),
    ) {
        let rules = FlowRules { client_flows_max: QUOTA as u32, ..resting(2_000..=2_005) };
        let mut bed = bed(rules);
        let mut model = Model::default();
        // Who had a port last, and when at the latest the flow was gone.
        let mut holders: BTreeMap<u16, (u8, u32)> = BTreeMap::new();
        let mut live: BTreeMap<(u8, u16), SocketAddr> = BTreeMap::new();
        for (client, port, ages) in steps {
            if ages {
                // Two steps: some flows are gone after the first, and their ports rest at the second.
                wait(&mut bed, UDP_TIMEOUT_MS / 2 + SWEPT_MS);
                model.pass(bed.now_ms);
                live.retain(|flow, _| model.flows.contains_key(flow));
                prop_assert_eq!(bed.count("flows_live") as usize, model.flows.len());
            }
            let before = (bed.count("snat_rests_broken"), live.contains_key(&(client, port)));
            let (delta, sent) = ask(&mut bed, &format!("198.51.100.{client}:{port}"), DNS);
            let verdict = model.ask(client, port, bed.now_ms);
            prop_assert_eq!(delta.get(verdict), Some(&1), "{:?}", delta);
            let Some(sent) = sent else { continue };
            let (snat, _) = ends(&sent);
            if before.1 {
                prop_assert_eq!(live.get(&(client, port)), Some(&snat));
            } else {
                prop_assert!(!live.values().any(|other| *other == snat), "{snat} has two flows");
                live.insert((client, port), snat);
                // A flow ends at most SWEPT_MS after its time, so its port rests for 120 s less that at least, as seen from its last packet.
                if let Some(&(former, last_ms)) = holders.get(&snat.port()) {
                    let since_ms = bed.now_ms - last_ms;
                    let rests = former != client && since_ms < UDP_TIMEOUT_MS + 120_000;
                    prop_assert!(!rests || bed.count("snat_rests_broken") == before.0 + 1, "{since_ms} ms after {former}");
                }
            }
            holders.insert(snat.port(), (client, bed.now_ms));
        }
    }
}
