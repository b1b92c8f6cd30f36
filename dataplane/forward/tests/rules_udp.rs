//! Rules U1 to U5 with packets: UDP flows leave backends that serve no more, and nothing else does.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::{LOCAL, NODE_PORT, Port};
use harness::{Bed, CLUSTER_IP, VIP};
use std::collections::BTreeMap;
use turnpike_packet::io::Spread;
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer, NodePort};
use turnpike_wire::update::{Protocol, Treatment};

const A: &str = "10.244.0.1:53";
const B: &str = "10.244.0.2:53";
const C: &str = "10.244.0.3:53";

fn bed() -> Bed {
    Bed::bare(1, &Spread::Unknown, 4_096)
}

fn dns(rows: &[(&str, &str)]) -> Port {
    Port::new("dns", Protocol::Udp, &[])
        .backends(rows)
        .on(VIP, LoadBalancer)
        .on(CLUSTER_IP, ClusterIp)
        .on(NODE_PORT, NodePort)
}

/// Clients with their faces and the backends they were given.
fn settle_clients(bed: &mut Bed) -> BTreeMap<(String, &'static str), String> {
    let mut seen = BTreeMap::new();
    for n in 0..90 {
        let client = format!("198.51.100.7:{}", 2_000 + n);
        let face = [VIP, CLUSTER_IP, NODE_PORT][n % 3];
        let (_, backend) = bed.ask(&client, face).unwrap();
        seen.insert((client, face), backend.to_string());
    }
    seen
}

#[test]
fn rule_u1_flows_leave_a_backend_that_serves_no_more() {
    for gone in [&[(A, "cls"), (B, "cls")][..], &[(A, "cls"), (B, "cls"), (C, "")]] {
        let mut bed = bed();
        bed.put(&[dns(&[(A, "cls"), (B, "cls"), (C, "cls")])]);
        let before = settle_clients(&mut bed);
        bed.put(&[dns(gone)]);
        let moved = before.values().filter(|b| *b == C).count() as u64;
        assert!(moved > 10);
        assert_eq!((bed.count("udp_flows_cleaned"), bed.count("flows_live")), (moved, 90 - moved));
        for ((client, face), backend) in before {
            let now = bed.ask(&client, face).unwrap().1.to_string();
            assert!(
                if backend == C { now != C } else { now == backend },
                "{client} to {face}: {backend}, {now}"
            );
        }
    }
}

#[test]
fn rule_u1_a_frontend_that_moves_to_another_service_takes_its_flows_along() {
    let mut bed = bed();
    bed.put(&[dns(&[(A, "cls")])]);
    assert_eq!(bed.ask("198.51.100.7:2000", VIP).unwrap().1.to_string(), A);
    let other = Port::new("other", Protocol::Udp, &[B]).on(VIP, LoadBalancer);
    bed.put(&[other]);
    assert_eq!(bed.ask("198.51.100.7:2000", VIP).unwrap().1.to_string(), B);
}

#[test]
fn rule_u1_a_backend_of_another_service_port_does_not_count() {
    let mut bed = bed();
    let other = |rows: &[(&str, &str)]| {
        Port::new("other", Protocol::Udp, &[]).backends(rows).on("203.0.113.81:53", LoadBalancer)
    };
    bed.put(&[dns(&[(A, "cls"), (B, "cls")]), other(&[(A, "cls")])]);
    let before = settle_clients(&mut bed);
    assert!(bed.ask("198.51.100.8:1", "203.0.113.81:53").is_some());
    bed.put(&[dns(&[(B, "cls")]), other(&[(A, "cls")])]);
    assert_eq!(bed.count("udp_flows_cleaned"), before.values().filter(|b| *b == A).count() as u64);
    assert_eq!(bed.ask("198.51.100.8:1", "203.0.113.81:53").unwrap().1.to_string(), A);
}

#[test]
fn rule_u2_who_ends_and_serves_keeps_its_flows() {
    let mut bed = bed();
    bed.put(&[dns(&[(A, "cls"), (B, "cls")])]);
    let before = settle_clients(&mut bed);
    bed.put(&[dns(&[(A, "cls"), (B, "ts")])]);
    for ((client, face), backend) in before {
        assert_eq!(bed.ask(&client, face).unwrap().1.to_string(), backend);
    }
    assert_eq!(bed.count("udp_flows_cleaned"), 0);
    assert!(
        (0..50).all(|n| bed.ask(&format!("198.51.100.9:{}", 3_000 + n), VIP).unwrap().1.to_string() == A)
    );
}

#[test]
fn rule_u2_policies_and_topology_kill_nothing() {
    let mut bed = bed();
    bed.put(&[dns(&[(A, "cls"), (B, "cls")])]);
    let before = settle_clients(&mut bed);
    let narrow = Port::new("dns", Protocol::Udp, &[])
        .backends(&[(A, "cls"), (B, "s")])
        .with(VIP, LoadBalancer, LOCAL, Treatment::FORWARD)
        .on(CLUSTER_IP, ClusterIp)
        .on(NODE_PORT, NodePort);
    bed.put(&[narrow]);
    for ((client, face), backend) in before {
        assert_eq!(bed.ask(&client, face).unwrap().1.to_string(), backend);
    }
}

#[test]
fn rule_u3_with_nobody_serving_flows_are_left_alone() {
    let mut bed = bed();
    bed.put(&[dns(&[(A, "cls"), (B, "cls")])]);
    let before = settle_clients(&mut bed);
    bed.put(&[dns(&[])]);
    bed.put(&[dns(&[(A, ""), (B, "")])]);
    for ((client, face), backend) in before {
        assert_eq!(bed.ask(&client, face).unwrap().1.to_string(), backend);
    }
    assert_eq!(bed.count("udp_flows_cleaned"), 0);
    assert_eq!(bed.ask("198.51.100.9:3000", VIP), None, "a new flow is rejected");
    assert_eq!(bed.count("rejected"), 1);
}

#[test]
fn rule_u4_a_client_that_never_stops_works_again_as_soon_as_somebody_serves() {
    for workers in [1, 2] {
        let mut bed = Bed::bare(workers, &Spread::Unknown, 4_096);
        bed.put(&[dns(&[(A, "cls")])]);
        let client = "198.51.100.7:2000";
        assert_eq!(bed.ask(client, VIP).unwrap().1.to_string(), A);
        bed.put(&[dns(&[])]);
        assert_eq!(bed.ask(client, VIP).unwrap().1.to_string(), A, "it has nowhere else to go");
        bed.put(&[dns(&[(B, "cls")])]);
        assert_eq!(bed.ask(client, VIP).unwrap().1.to_string(), B);
    }
}

#[test]
fn rule_u4_a_client_that_came_too_early_is_in_no_black_hole() {
    let mut bed = bed();
    bed.put(&[dns(&[])]);
    for _ in 0..5 {
        assert_eq!(bed.ask("198.51.100.7:2000", VIP), None);
    }
    assert_eq!((bed.count("rejected"), bed.count("flows_opened")), (5, 0));
    bed.put(&[dns(&[(A, "cls")])]);
    assert_eq!(bed.ask("198.51.100.7:2000", VIP).unwrap().1.to_string(), A);
}

#[test]
fn rule_u4_changes_that_come_faster_than_the_clean_up_miss_nothing() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 65_536);
    bed.put(&[dns(&[(A, "cls"), (B, "cls"), (C, "cls")])]);
    let clients: Vec<String> = (0..3_000).map(|n| format!("198.51.{}.7:{}", n % 50, 2_000 + n)).collect();
    clients.iter().for_each(|c| assert!(bed.ask(c, VIP).is_some()));
    for gone in 0..40u8 {
        let late = format!("10.244.1.{gone}:53");
        let mut updates = dns(&[(A, "cls"), (&late, "cls")]).updates();
        updates.insert(0, turnpike_wire::update::Update::Reset);
        bed.commit(&updates);
    }
    (0..80).for_each(|_| bed.turn());
    let live: Vec<u32> = bed.workers[0].flows().v4.iter().map(|(_, s)| s.keys[1].source()).collect();
    let first: u32 = std::net::Ipv4Addr::new(10, 244, 0, 1).into();
    assert!(live.len() > 500 && live.iter().all(|&backend| backend == first), "{}", live.len());
}

#[test]
fn rule_u5_tcp_flows_are_never_cleaned() {
    let mut bed = bed();
    let web =
        |rows: &[(&str, &str)]| Port::new("web", Protocol::Tcp, &[]).backends(rows).on(VIP, LoadBalancer);
    bed.put(&[web(&[(A, "cls")]), dns(&[(A, "cls")])]);
    let there = bed.connect("198.51.100.7:2000", VIP);
    assert!(there.is_some());
    bed.put(&[web(&[(B, "cls")]), dns(&[(B, "cls")])]);
    assert_eq!(bed.go_on("198.51.100.7:2000", VIP), there, "it stays with the backend that left");
    assert_eq!(bed.count("flows_closed"), 0);
    assert_eq!(bed.backend_of("198.51.100.7:2001", VIP), B);
}
