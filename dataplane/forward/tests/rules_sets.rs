//! Rules E4, E5 and E8 with packets: who takes new flows, and how they are spread.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::{LOCAL, Port};
use harness::{Bed, CLUSTER_IP, VIP};
use std::collections::{BTreeMap, BTreeSet};
use turnpike_packet::io::Spread;
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer};
use turnpike_wire::update::{Protocol, Treatment};

const A: &str = "10.244.0.1:8080";
const B: &str = "10.244.0.2:8080";
const C: &str = "10.244.0.3:8080";

fn bed() -> Bed {
    Bed::bare(1, &Spread::Unknown, 65_536)
}

fn web(rows: &[(&str, &str)]) -> Port {
    Port::new("web", Protocol::Tcp, &[])
        .backends(rows)
        .with(VIP, LoadBalancer, LOCAL, LOCAL)
        .on(CLUSTER_IP, ClusterIp)
}

fn set(rows: &[&str]) -> BTreeSet<String> {
    rows.iter().map(|r| (*r).to_owned()).collect()
}

#[test]
fn rule_e1_each_frontend_chooses_from_its_own_set() {
    let mut bed = bed();
    bed.put(&[web(&[(A, "cs"), (B, "cls"), (C, "ls")])]);
    assert_eq!(bed.backends_of("198.51.100.7", CLUSTER_IP, 1_000), set(&[A, B]));
    assert_eq!(bed.backends_of("198.51.100.7", VIP, 2_000), set(&[B, C]));
    // The sets change, then a frontend's choice of set.
    bed.put(&[web(&[(A, "ls"), (B, "cs"), (C, "cls")])]);
    assert_eq!(bed.backends_of("198.51.100.7", CLUSTER_IP, 3_000), set(&[B, C]));
    assert_eq!(bed.backends_of("198.51.100.7", VIP, 4_000), set(&[A, C]));
    let mut all = web(&[(A, "ls"), (B, "cs"), (C, "cls")]);
    all.frontends.iter_mut().for_each(|f| (f.2, f.3) = (Treatment::FORWARD, Treatment::FORWARD));
    bed.put(&[all]);
    assert_eq!(bed.backends_of("198.51.100.7", VIP, 5_000), set(&[B, C]));
}

#[test]
fn rule_e4_who_is_in_no_set_takes_no_new_flows_not_even_as_the_last() {
    let mut bed = bed();
    bed.put(&[web(&[(A, "cls"), (B, "ts"), (C, "")])]);
    assert_eq!(bed.backends_of("198.51.100.7", CLUSTER_IP, 1_000), set(&[A]));
    bed.put(&[web(&[(B, "ts"), (C, "")])]);
    assert_eq!(bed.connect("198.51.100.7:9000", CLUSTER_IP), None);
    assert_eq!(bed.connect("198.51.100.7:9000", VIP), None);
    assert_eq!(bed.count("rejected"), 2);
}

#[test]
fn rule_e2_the_terminating_serve_as_the_fall_back() {
    let mut bed = bed();
    bed.put(&[web(&[(A, "tcs"), (B, "tcls")])]);
    assert_eq!(bed.backends_of("198.51.100.7", CLUSTER_IP, 1_000), set(&[A, B]));
    assert_eq!(bed.backends_of("198.51.100.7", VIP, 2_000), set(&[B]));
}

#[test]
fn rule_e8_new_flows_are_spread_evenly() {
    let mut bed = bed();
    bed.put(&[web(&[(A, "cls"), (B, "cls"), (C, "cls")])]);
    let mut share: BTreeMap<String, u32> = BTreeMap::new();
    for n in 0..6_000u32 {
        let client = format!("198.51.{}.{}:{}", n % 11, 1 + n % 250, 1_024 + n);
        *share.entry(bed.backend_of(&client, CLUSTER_IP)).or_default() += 1;
    }
    assert!(share.len() == 3 && share.values().all(|n| (1_800..2_200).contains(n)), "{share:?}");
}

#[test]
fn rule_e8_live_flows_never_move() {
    let mut bed = bed();
    bed.put(&[web(&[(A, "cls"), (B, "cls")])]);
    let clients: Vec<String> = (0..200).map(|n| format!("198.51.100.7:{}", 1_000 + n)).collect();
    let before: Vec<_> = clients.iter().map(|c| bed.connect(c, CLUSTER_IP).unwrap()).collect();
    let steps: [&[(&str, &str)]; 4] = [
        &[(A, "cls"), (B, "cls"), (C, "cls")],
        &[(A, "ts"), (B, ""), (C, "cls")],
        &[(C, "cls")],
        &[(A, "cls"), (C, "l")],
    ];
    for step in steps {
        bed.put(&[web(step)]);
        let now: Vec<_> = clients.iter().map(|c| bed.go_on(c, CLUSTER_IP).unwrap()).collect();
        assert_eq!(before, now, "{step:?}");
    }
    assert_eq!(bed.count("flows_live"), 200);
}
