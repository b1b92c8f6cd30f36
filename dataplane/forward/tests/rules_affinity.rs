//! Rules F1 to F4 with packets: which backend a client's next flow goes to.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::{EXTERNAL_IP, LOCAL, NODE_PORT, Port};
use harness::{Bed, CLUSTER_IP, VIP};
use std::collections::BTreeSet;
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::toeplitz::MICROSOFT_KEY;
use turnpike_wire::update::FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
use turnpike_wire::update::{Protocol, Treatment};

const IP: &str = "198.51.100.7";
const BACKENDS: [&str; 4] = ["10.244.0.1:8080", "10.244.0.2:8080", "10.244.0.3:8080", "10.244.0.4:8080"];

fn bed() -> Bed {
    Bed::bare(1, &Spread::Unknown, 4_096)
}

fn web() -> Port {
    Port::new("web", Protocol::Tcp, &BACKENDS)
        .on(VIP, LoadBalancer)
        .on(CLUSTER_IP, ClusterIp)
        .on(NODE_PORT, NodePort)
        .on(EXTERNAL_IP, ExternalIp)
}

#[test]
fn rule_f1_a_client_keeps_its_backend_over_all_faces_and_ports() {
    let mut bed = bed();
    bed.put(&[web().sticky(10_800)]);
    let mut first = BTreeSet::new();
    for host in 1..=60 {
        let client = format!("198.51.100.{host}");
        let seen: BTreeSet<String> = [VIP, CLUSTER_IP, NODE_PORT, EXTERNAL_IP, VIP]
            .iter()
            .zip(1_000..)
            .map(|(face, port)| bed.backend_of(&format!("{client}:{port}"), face))
            .collect();
        assert_eq!(seen.len(), 1, "{client}: {seen:?}");
        first.extend(seen);
    }
    assert_eq!(first.len(), BACKENDS.len(), "different clients have different backends");
}

#[test]
fn rule_f1_each_port_of_a_service_has_its_own_affinity() {
    let mut bed = bed();
    let https = Port::new("web-https", Protocol::Tcp, &BACKENDS).on("203.0.113.80:443", LoadBalancer);
    bed.put(&[web().sticky(10_800), https.sticky(10_800)]);
    let apart = (1..=60).filter(|host| {
        let client = format!("198.51.100.{host}:1000");
        bed.backend_of(&client, VIP) != bed.backend_of(&client, "203.0.113.80:443")
    });
    assert!(apart.count() > 20);
}

#[test]
fn rule_f1_without_affinity_flows_are_spread() {
    let mut bed = bed();
    bed.put(&[web()]);
    assert_eq!(bed.backends_of(IP, VIP, 1_000).len(), BACKENDS.len());
    assert!(bed.shared.affinities.is_empty(), "and nothing is remembered");
}

#[test]
fn rule_f1_affinity_is_shared_by_all_workers() {
    let rss =
        Spread::Rss(Rss { ipv6: true, key: MICROSOFT_KEY.to_vec(), reta: (0..128).map(|i| i % 3).collect() });
    for spread in [Spread::Unknown, rss] {
        let mut bed = Bed::bare(3, &spread, 4_096);
        bed.put(&[web().sticky(10_800)]);
        assert_eq!(bed.backends_of(IP, VIP, 1_000).len(), 1);
        assert!(bed.workers.iter().all(|w| w.flows().v4.live() > 5), "every worker had flows of the client");
    }
}

#[test]
fn rule_f2_the_clock_starts_again_at_each_new_flow_only() {
    let mut bed = bed();
    bed.put(&[web().sticky(100)]);
    // Which of the fresh choices is another than the one before; the flow's five-tuple decides it.
    let first = bed.backend_of("198.51.100.7:1000", VIP);
    let mut port = 1_001;
    for _ in 0..3 {
        bed.pass(99_000);
        assert_eq!(bed.backend_of(&format!("{IP}:{port}"), VIP), first, "99 s after the last new flow");
        port += 1;
    }
    for _ in 0..10 {
        bed.pass(10_000);
        assert!(bed.go_on(&format!("{IP}:{}", port - 1), VIP).is_some());
    }
    let later: BTreeSet<String> = (1..=40)
        .map(|n| {
            let backend = bed.backend_of(&format!("{IP}:{}", port + n), VIP);
            bed.pass(100_000);
            backend
        })
        .collect();
    assert!(
        later.len() > 1,
        "packets of live flows keep nothing; after 100 s each choice is fresh: {later:?}"
    );
}

#[test]
fn rule_f3_affinity_holds_while_the_backend_is_in_the_set_in_use() {
    let mut bed = bed();
    bed.put(&[web().sticky(10_800)]);
    let first = bed.backend_of("198.51.100.7:1000", VIP);
    let left: Vec<&str> = BACKENDS.into_iter().filter(|b| *b != first).collect();

    // It ends: it serves on, but takes no new flows.
    let mut rows: Vec<(&str, &str)> = left.iter().map(|b| (*b, "cls")).collect();
    rows.push((&first, "ts"));
    bed.put(&[web().sticky(10_800).backends(&rows)]);
    let fresh = bed.backends_of(IP, VIP, 2_000);
    assert_eq!(fresh.len(), 1, "the fresh choice became the new affinity");
    assert!(!fresh.contains(&first));

    // Its return does not bring the client back.
    bed.put(&[web().sticky(10_800)]);
    assert_eq!(bed.backends_of(IP, VIP, 3_000), fresh);
}

#[test]
fn rule_f3_the_set_in_use_is_the_frontends() {
    let mut bed = bed();
    let rows = [("10.244.0.1:8080", "cls"), ("10.244.0.2:8080", "cs"), ("10.244.0.3:8080", "cs")];
    let web = Port::new("web", Protocol::Tcp, &[])
        .backends(&rows)
        .with(VIP, LoadBalancer, LOCAL, Treatment::FORWARD)
        .on(CLUSTER_IP, ClusterIp)
        .sticky(10_800);
    bed.put(&[web]);
    let mut moved = 0;
    for host in 1..=40 {
        let client = |port| format!("198.51.100.{host}:{port}");
        let far = bed.backend_of(&client(1), CLUSTER_IP);
        assert_eq!(bed.backend_of(&client(2), VIP), rows[0].0, "the only local one");
        moved += u32::from(far != rows[0].0);
        assert_eq!(bed.backend_of(&client(3), CLUSTER_IP), rows[0].0, "which is in both sets");
    }
    assert!(moved > 10);
}

#[test]
fn rule_f3_a_backend_of_weight_zero_takes_no_new_flows() {
    let mut bed = bed();
    bed.put(&[web().sticky(10_800)]);
    let first = bed.backend_of("198.51.100.7:1000", VIP);
    let mut drained = web().sticky(10_800);
    drained.backends.iter_mut().filter(|b| b.address.to_string() == first).for_each(|b| b.weight = 0);
    bed.put(&[drained]);
    assert_ne!(bed.backend_of("198.51.100.7:1001", VIP), first);
}

#[test]
fn rule_f4_affinity_is_kept_over_a_resync() {
    let mut bed = bed();
    let other = |n: u8| {
        Port::new(&format!("other-{n}"), Protocol::Tcp, &BACKENDS)
            .on(&format!("203.0.113.{n}:80"), LoadBalancer)
    };
    bed.put(&[other(1), other(2), web().sticky(10_800)]);
    let clients: Vec<String> = (1..=40).map(|host| format!("198.51.100.{host}")).collect();
    let before: Vec<String> = clients.iter().map(|c| bed.backend_of(&format!("{c}:1000"), VIP)).collect();

    // A new control plane says everything anew; other Services are gone and come, and backends that nobody has are dropped.
    bed.staging.new_control_plane();
    let rows: Vec<(&str, &str)> =
        BACKENDS.iter().map(|b| (*b, "cls")).chain([("10.244.0.9:8080", "cls")]).collect();
    bed.put(&[other(3), web().sticky(10_800).backends(&rows), other(4)]);
    let after: Vec<String> = clients.iter().map(|c| bed.backend_of(&format!("{c}:1001"), VIP)).collect();
    assert_eq!(before, after);
}

#[test]
fn rule_f4_another_service_in_the_same_place_inherits_nothing() {
    let mut bed = bed();
    bed.put(&[web().sticky(10_800)]);
    let clients: Vec<String> = (1..=40).map(|host| format!("198.51.100.{host}")).collect();
    let before: Vec<String> = clients.iter().map(|c| bed.backend_of(&format!("{c}:1000"), VIP)).collect();
    bed.put(&[]);
    let next = Port { name: "next".into(), ..web().sticky(10_800) };
    bed.put(&[next]);
    let entry = bed.staging.tables().services().next().unwrap().clone();
    assert_eq!(entry.key.0, "default/next:/TCP/IPv4");
    let after: Vec<String> = clients.iter().map(|c| bed.backend_of(&format!("{c}:1001"), VIP)).collect();
    assert_ne!(before, after);
}
