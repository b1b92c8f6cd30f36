//! The census of live flows, and that numbers inside never make a flow appear to be another's.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::Port;
use harness::{Bed, CLUSTER_IP, VIP};
use std::collections::BTreeMap;
use std::sync::Arc;
use turnpike_forward::census::Census;
use turnpike_packet::io::Spread;
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer};
use turnpike_wire::update::Protocol;

fn dns(backends: &[&str]) -> Port {
    Port::new("dns", Protocol::Udp, backends).on(VIP, LoadBalancer).on(CLUSTER_IP, ClusterIp)
}

/// Asks and gives the answer: pairs with their flows, and the sum.
fn ask(bed: &mut Bed, question: u64) -> (BTreeMap<String, u64>, u64) {
    let census = Census::new(question, bed.workers.len());
    bed.shared.ask(Some(Arc::clone(&census)));
    for _ in 0..100 {
        bed.now_ms += 1;
        bed.turn();
        if census.is_done() {
            bed.shared.ask(None);
            let mut pairs = BTreeMap::new();
            census
                .counts()
                .for_each(|c| *pairs.entry(format!("{} {}", c.frontend, c.backend)).or_default() += c.flows);
            bed.now_ms += 1;
            bed.turn();
            assert_eq!(Arc::strong_count(&census), 1, "the workers have let it go");
            return (pairs, census.flows());
        }
    }
    panic!("not answered in 100 turns");
}

#[test]
fn flows_are_counted_by_frontend_and_backend_over_all_workers() {
    for workers in [1, 3] {
        let mut bed = Bed::bare(workers, &Spread::Unknown, 4_096);
        bed.put(&[dns(&["10.244.0.1:53", "10.244.0.2:53"])]);
        assert_eq!(ask(&mut bed, 1), (BTreeMap::new(), 0));
        let mut wanted: BTreeMap<String, u64> = BTreeMap::new();
        for n in 0..600 {
            let face = if n % 3 == 0 { CLUSTER_IP } else { VIP };
            let (_, backend) = bed.ask(&format!("198.51.100.7:{}", 1_024 + n), face).unwrap();
            *wanted.entry(format!("UDP {face} {backend}")).or_default() += 1;
        }
        assert_eq!(wanted.len(), 4);
        assert_eq!(ask(&mut bed, 2), (wanted, 600));
    }
}

#[test]
fn it_is_counted_in_portions_and_a_new_question_takes_the_place_of_the_old() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 65_536);
    bed.put(&[dns(&["10.244.0.1:53"])]);
    (0..500).for_each(|n| assert!(bed.ask(&format!("198.51.100.7:{}", 1_024 + n), VIP).is_some()));
    let old = Census::new(1, 1);
    bed.shared.ask(Some(Arc::clone(&old)));
    bed.now_ms += 1;
    (0..10).for_each(|_| bed.turn());
    assert!(!old.is_done(), "65,536 slots take more turns");
    let (pairs, flows) = ask(&mut bed, 2);
    assert_eq!((pairs.len(), flows), (1, 500));
    assert!(!old.is_done());
    assert_eq!(Arc::strong_count(&old), 1);
}

#[test]
fn a_service_in_the_place_of_another_gets_none_of_its_flows() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 4_096);
    bed.put(&[dns(&["10.244.0.1:53"])]);
    assert!(bed.ask("198.51.100.7:2000", VIP).is_some());
    // The Service goes, and another takes its place in the tables, with another address and backend.
    bed.put(&[]);
    bed.put(&[Port::new("other", Protocol::Udp, &["10.244.0.9:53"]).on("203.0.113.99:53", LoadBalancer)]);
    assert!(bed.ask("198.51.100.7:2000", "203.0.113.99:53").is_some());
    assert_eq!(
        bed.count("udp_flows_cleaned"),
        0,
        "nobody has the old flow's address, so it is left to idle out"
    );
    assert_eq!(bed.ask("198.51.100.7:2000", VIP).unwrap().1.to_string(), "10.244.0.1:53");
    // Its address comes back with another Service.
    bed.put(&[Port::new("third", Protocol::Udp, &["10.244.0.8:53"]).on(VIP, LoadBalancer)]);
    assert_eq!(bed.ask("198.51.100.7:2000", VIP).unwrap().1.to_string(), "10.244.0.8:53");
}
