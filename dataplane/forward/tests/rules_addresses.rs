//! Rules A1 to A6 with packets: whose address a backend sees, and that its answers find the way back.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::{DNAT, DROP, LOCAL, NODE_PORT, Port, REJECT};
use harness::{Bed, CLUSTER_IP, VIP, answer_to, ends, from};
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::tcp::{self, flags};
use turnpike_packet::toeplitz::MICROSOFT_KEY;
use turnpike_packet::udp;
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer, NodePort};
use turnpike_wire::update::{Protocol, Treatment};

const CLIENT: &str = "198.51.100.7:40000";
const POD: &str = "10.244.9.9:40000";
const SNAT_IP: [u8; 4] = harness::SNAT;

fn bed() -> Bed {
    Bed::bare(1, &Spread::Unknown, 4_096)
}

fn rss(workers: u16) -> Spread {
    Spread::Rss(Rss {
        ipv6: true,
        key: MICROSOFT_KEY.to_vec(),
        reta: (0..128).map(|i| i % workers).collect(),
    })
}

fn web() -> Port {
    Port::new("web", Protocol::Tcp, &["10.244.0.1:8080", "10.244.0.2:8080"])
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The backend's answer to what it got arrives at the client, as from the frontend.
#[track_caller]
fn answered(bed: &mut Bed, out: &[u8], client: &str, frontend: &str) {
    let back = bed.pass_through(&tcp::segment(&answer_to(out), 1, 2, flags::SYN | flags::ACK, b""));
    assert_eq!(ends(&back), (addr(frontend), addr(client)));
}

#[test]
fn rule_a1_a_cluster_ip_hides_clients_that_are_no_pods() {
    let mut bed = bed();
    bed.put(&[web().with(CLUSTER_IP, ClusterIp, Treatment::FORWARD, DNAT)]);
    let (seen, _) = bed.connect(CLIENT, CLUSTER_IP).unwrap();
    assert_eq!(seen.ip(), IpAddr::from(SNAT_IP));
    let (seen, _) = bed.connect(POD, CLUSTER_IP).unwrap();
    assert_eq!(seen, addr(POD), "a pod is seen as itself");
}

#[test]
fn rule_a2_policy_local_keeps_address_and_port_of_the_client() {
    let mut bed = bed();
    bed.put(&[web().with(VIP, LoadBalancer, LOCAL, Treatment::FORWARD).on(NODE_PORT, NodePort)]);
    for client in ["198.51.100.7:40000", "198.51.100.7:443", "203.0.113.1:31000", "198.18.0.9:65535"] {
        let out = bed.pass_through(&tcp::segment(&from(client, VIP), 1, 0, flags::SYN, b""));
        assert_eq!(ends(&out).0, addr(client));
        answered(&mut bed, &out, client, VIP);
        let on = bed.pass_through(&tcp::segment(&from(client, VIP), 2, 1, flags::ACK, b"data"));
        assert_eq!(ends(&on), ends(&out));
    }
    let (seen, _) = bed.connect(CLIENT, NODE_PORT).unwrap();
    assert_eq!(seen.ip(), IpAddr::from(SNAT_IP), "policy Cluster hides every client");
}

#[test]
fn rule_a2_udp_keeps_the_address_too() {
    let mut bed = bed();
    bed.put(&[Port::new("dns", Protocol::Udp, &["10.244.0.1:53"]).with(VIP, LoadBalancer, DNAT, DNAT)]);
    let out = bed.pass_through(&udp::datagram(&from(CLIENT, VIP), b"query"));
    assert_eq!(ends(&out), (addr(CLIENT), addr("10.244.0.1:53")));
    let back = bed.pass_through(&udp::datagram(&answer_to(&out), b"answer"));
    assert_eq!((ends(&back), &back[42..48]), ((addr(VIP), addr(CLIENT)), &b"answer"[..]));
}

#[test]
fn rule_a2_a_port_that_is_taken_is_replaced() {
    let mut bed = bed();
    let other = "203.0.113.81:80";
    bed.put(&[Port::new("web", Protocol::Tcp, &["10.244.0.1:8080"])
        .with(VIP, LoadBalancer, DNAT, DNAT)
        .with(other, LoadBalancer, DNAT, DNAT)]);
    let first = bed.pass_through(&tcp::segment(&from(CLIENT, VIP), 1, 0, flags::SYN, b""));
    let second = bed.pass_through(&tcp::segment(&from(CLIENT, other), 1, 0, flags::SYN, b""));
    assert_eq!(ends(&first).0, addr(CLIENT));
    let (seen, backend) = ends(&second);
    assert_eq!((seen.ip(), backend), (addr(CLIENT).ip(), addr("10.244.0.1:8080")));
    assert!(seen.port() != 40_000 && seen.port() >= 1_024, "the backend could not tell the two apart");
    answered(&mut bed, &first, CLIENT, VIP);
    answered(&mut bed, &second, CLIENT, other);
}

#[test]
fn rule_a2_packets_of_a_backend_without_a_flow_are_not_ours() {
    let mut bed = bed();
    bed.put(&[web().with(VIP, LoadBalancer, DNAT, DNAT)]);
    let stray = from("10.244.0.1:8080", CLIENT);
    assert!(bed.exchange(&[tcp::segment(&stray, 1, 2, flags::ACK, b"stray")]).is_empty());
    assert_eq!(bed.count("not_ours"), 1);
}

/// Flows of many clients to two faces with addresses kept; every answer must reach its client, whichever worker the NIC gives it to.
fn everybody_keeps_their_address(mut bed: Bed) -> Bed {
    let other = "203.0.113.81:80";
    let backends = ["10.244.0.1:8080", "10.244.0.2:8080", "10.244.0.3:8080"];
    bed.put(&[Port::new("web", Protocol::Tcp, &backends).with(VIP, LoadBalancer, DNAT, DNAT).with(
        other,
        LoadBalancer,
        DNAT,
        DNAT,
    )]);
    let (mut kept, mut tuples) = (0, HashSet::new());
    for n in 0..1_200u32 {
        let client = format!("198.51.{}.{}:{}", n % 7, 1 + n % 250, 20_000 + n / 2);
        let face = if n % 2 == 0 { VIP } else { other };
        let out = bed.pass_through(&tcp::segment(&from(&client, face), 1, 0, flags::SYN, b""));
        let (seen, backend) = ends(&out);
        assert_eq!(seen.ip(), addr(&client).ip());
        assert!(tuples.insert((seen, backend)), "two flows share {seen} {backend}");
        kept += u32::from(seen == addr(&client));
        answered(&mut bed, &out, &client, face);
    }
    assert!(kept > 1_200 / bed.workers.len() as u32 / 2, "{kept} kept their port");
    bed
}

fn every_worker_has_its_share(bed: &Bed) {
    let live: Vec<u32> = bed.workers.iter().map(|w| w.flows().v4.live()).collect();
    assert!(live.iter().all(|&live| live > 200), "{live:?}");
}

#[test]
fn rule_a2_answers_find_their_worker_by_rss() {
    for workers in [2, 3] {
        let bed = everybody_keeps_their_address(Bed::bare(usize::from(workers), &rss(workers), 4_096));
        every_worker_has_its_share(&bed);
        assert_eq!(bed.count("handed_off"), 0, "RSS did all the steering");
    }
}

#[test]
fn rule_a2_answers_find_their_worker_by_hand_off() {
    for workers in [2, 3] {
        let bed = everybody_keeps_their_address(Bed::bare(workers, &Spread::Unknown, 4_096));
        every_worker_has_its_share(&bed);
        assert!(bed.count("handed_off") > 500);
    }
}

#[test]
fn rule_a2_answers_survive_rss_that_spreads_otherwise() {
    let mut bed = Bed::bare(2, &rss(2), 4_096);
    bed.replace_nic(&Spread::Unknown);
    let bed = everybody_keeps_their_address(bed);
    assert!(bed.count("handed_off") > 1_000, "answers came to the worker that does not have the flow");
}

#[test]
fn rule_a3_pods_meet_the_inner_treatment() {
    let mut bed = bed();
    let rows = [("10.244.0.1:8080", "cls"), ("10.244.0.2:8080", "cs"), ("10.244.0.3:8080", "cs")];
    let policy_local = web().backends(&rows).with(VIP, LoadBalancer, LOCAL, Treatment::FORWARD);
    bed.put(&[policy_local]);
    assert_eq!(bed.backends_of("198.51.100.7", VIP, 1_000), BTreeSet::from(["10.244.0.1:8080".to_owned()]));
    assert_eq!(bed.backends_of("10.244.9.9", VIP, 1_000).len(), 3, "pods choose from the whole cluster");
    // The edges of the pods' network.
    bed.put(&[web().with(VIP, LoadBalancer, REJECT, DROP)]);
    let rows = [
        ("10.243.255.255:1", 1, 0),
        ("10.244.0.0:1", 1, 1),
        ("10.244.255.255:1", 1, 2),
        ("10.245.0.0:1", 2, 2),
    ];
    for (client, rejected, dropped) in rows {
        assert_eq!(bed.connect(client, VIP), None);
        assert_eq!((bed.count("rejected"), bed.count("frontend_drop")), (rejected, dropped), "{client}");
    }
}

#[test]
fn rule_a3_nobody_is_inside_before_pod_networks_are_known() {
    let mut bed = bed();
    bed.put(&[]);
    let mut updates = web().with(VIP, LoadBalancer, Treatment::FORWARD, DROP).updates();
    updates.insert(0, turnpike_wire::update::Update::Reset);
    bed.commit(&updates);
    assert!(bed.connect(POD, VIP).is_some());
    bed.commit(&[harness::services::cluster()]);
    assert_eq!(bed.connect("10.244.9.9:40001", VIP), None);
}

#[test]
fn rule_a4_a_backend_that_is_its_own_client_sees_the_gateway() {
    for (mode, spread) in [(DNAT, Spread::Unknown), (Treatment::FORWARD, Spread::Unknown), (DNAT, rss(2))] {
        let workers = if matches!(spread, Spread::Rss(_)) { 2 } else { 1 };
        let mut bed = Bed::bare(workers, &spread, 4_096);
        let pod = "10.244.0.1:50000";
        bed.put(&[
            Port::new("web", Protocol::Tcp, &["10.244.0.1:8080"]).with(CLUSTER_IP, ClusterIp, mode, mode)
        ]);
        let out = bed.pass_through(&tcp::segment(&from(pod, CLUSTER_IP), 1, 0, flags::SYN, b""));
        let (seen, backend) = ends(&out);
        assert_eq!((seen.ip(), backend), (IpAddr::from(SNAT_IP), addr("10.244.0.1:8080")));
        answered(&mut bed, &out, pod, CLUSTER_IP);
    }
}

#[test]
fn rule_a5_source_ports_are_chosen_at_random() {
    let mut bed = bed();
    bed.put(&[Port::new("web", Protocol::Tcp, &["10.244.0.1:8080"]).on(VIP, LoadBalancer)]);
    let ports: Vec<u16> = (0..400)
        .map(|n| bed.connect(&format!("198.51.100.7:{}", 2_000 + n), VIP).unwrap().0.port())
        .collect();
    let near = ports.windows(2).filter(|p| p[0].abs_diff(p[1]) < 16).count();
    assert!(near < 8, "{near} of 400 ports lie next to the one before");
    let mean = ports.iter().map(|&p| u32::from(p)).sum::<u32>() / 400;
    assert!((29_000..37_500).contains(&mean), "{mean}");
}

#[test]
fn rule_a6_a_gateway_sends_straight_to_ready_pods_and_keeps_the_source() {
    let mut bed = bed();
    let rows = [("10.244.0.1:8080", "cls"), ("10.244.0.2:8080", "cls"), ("10.244.0.3:8080", "ts")];
    bed.put(&[web().backends(&rows).with(VIP, LoadBalancer, LOCAL, LOCAL)]);
    for n in 0..100 {
        let client = format!("198.51.100.7:{}", 2_000 + n);
        let (seen, backend) = bed.connect(&client, VIP).unwrap();
        assert_eq!(seen, addr(&client));
        assert_ne!(backend, addr(rows[2].0));
    }
}
