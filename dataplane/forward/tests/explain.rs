//! What a worker says beforehand about packets of every sort, each against what then becomes of the packet. Random worlds are in `random_updates`.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::Port;
use harness::{Bed, CLIENT, CLUSTER_IP, VIP, answer_to, from, to};
use turnpike_forward::explain::{Answer, Doomed, Outcome, Task, Tuple};
use turnpike_forward::gateway::FlowRules;
use turnpike_forward::parse::Kind;
use turnpike_forward::verdict::Verdict;
use turnpike_forward::watch::tuple_of;
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::tcp::flags::SYN;
use turnpike_packet::toeplitz::MICROSOFT_KEY;
use turnpike_packet::{sctp, tcp, udp};
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer};
use turnpike_wire::update::{Action, BackendSet, Mode, Protocol, Treatment};

const VIP6: &str = "[2001:db8:2::80]:53";
const CLIENT6: &str = "[2001:db8:c::7]:4000";

fn outcome(bed: &mut Bed, frame: &[u8]) -> Outcome {
    bed.explain(frame).outcome
}

#[test]
fn each_sort_of_packet_is_foretold() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 4_096);
    let drop = Treatment { action: Action::Drop, ..Treatment::FORWARD };
    bed.put(&[
        Port::new("web", Protocol::Udp, &["10.244.0.1:53", "10.244.0.2:53"]).on(VIP, LoadBalancer).sticky(60),
        Port::new("own", Protocol::Udp, &["10.244.0.3:53"]).on(CLUSTER_IP, ClusterIp),
        Port::new("none", Protocol::Udp, &[]).on("203.0.113.81:53", LoadBalancer),
        Port::new("few", Protocol::Udp, &["10.244.0.4:53"])
            .on("203.0.113.82:53", LoadBalancer)
            .guarded(&["10.0.0.0/8"]),
        Port::new("shut", Protocol::Udp, &["10.244.0.5:53"]).with(
            "203.0.113.83:53",
            LoadBalancer,
            drop,
            drop,
        ),
        Port::new("sctp", Protocol::Sctp, &["10.244.0.6:53"]).on("203.0.113.84:53", LoadBalancer),
    ]);
    bed.know_router();
    let query = |to: &str| udp::datagram(&from(CLIENT, to), b"?");
    let rows = [
        (query("203.0.113.81:53"), Verdict::Rejected),
        (query("203.0.113.82:53"), Verdict::SourceRange),
        (query("203.0.113.83:53"), Verdict::FrontendDrop),
        (query("203.0.113.80:9"), Verdict::NoFrontend),
        (query("10.96.0.10:9"), Verdict::Rejected),
        (query("203.0.113.99:9"), Verdict::NotOurs),
        (query("192.0.2.1:9"), Verdict::OwnAddress),
        (query("10.1.0.1:9"), Verdict::SnatNoFlow),
        (udp::datagram(&from("203.0.113.80:1", CLUSTER_IP), b"?"), Verdict::BadSource),
        (to(VIP).echo_request(1, 1, b"?"), Verdict::EchoReplied),
        (to("203.0.113.99:0").echo_request(1, 1, b"?"), Verdict::NotOurs),
    ];
    for (frame, verdict) in rows {
        assert_eq!(outcome(&mut bed, &frame), Outcome::Ends(verdict));
        bed.foretold(&frame);
    }
    let init = sctp::packet(&to("203.0.113.84:53"), 0, &[(sctp::chunk::INIT, 0, &sctp::init(77, 1))]);
    bed.foretold(&init);
    // A client keeps its backend, which the first answer of Maglev for its next port may not be.
    let mut backends = Vec::new();
    for port in 5_000..5_020 {
        let sent = bed.foretold(&udp::datagram(&from(&format!("198.51.100.7:{port}"), VIP), b"?"));
        backends.push(harness::ends(&sent[0]).1);
        bed.foretold(&udp::datagram(&answer_to(&sent[0]), b"answer"));
    }
    backends.dedup();
    assert_eq!(backends.len(), 1, "one client, one backend");
}

#[test]
fn both_families_and_packets_in_packets_are_foretold() {
    let mut bed = Bed::tunnelling("2001:db8:77::", 64);
    let dsr = Treatment { action: Action::Forward, set: BackendSet::Cluster, mode: Mode::DsrIpip };
    bed.put(&[
        Port::new("six", Protocol::Udp, &["[fd00::1]:53", "[fd00::2]:53"]).on(VIP6, LoadBalancer),
        Port::new("seen", Protocol::Udp, &["10.244.0.1:80"]).with(VIP, LoadBalancer, dsr, dsr),
    ]);
    bed.know_router();
    for port in 4_000..4_010 {
        let client = format!("[2001:db8:c::7]:{port}");
        let sent = bed.foretold(&udp::datagram(&from(&client, VIP6), b"?"));
        bed.foretold(&udp::datagram(&answer_to(&sent[0]), b"answer"));
    }
    let frame = udp::datagram(&to(VIP), b"?");
    let Outcome::New { course, .. } = outcome(&mut bed, &frame) else { panic!("a new flow") };
    assert!(course.is_one_way);
    assert_eq!(course.leaves_as(), tuple_of(&frame).unwrap());
    bed.foretold(&frame);
    assert!(matches!(outcome(&mut bed, &frame), Outcome::Live { .. }));
    assert_eq!(bed.explain(&udp::datagram(&from(CLIENT6, VIP6), b"?")).kind, Kind::Flow);
}

#[test]
fn what_is_full_is_foretold() {
    let rules = FlowRules { client_flows_max: 3, ..FlowRules::default() };
    let mut bed = Bed::under(rules, 8);
    bed.serve(&["10.244.0.1:8080"]);
    bed.know_router();
    let syn = |client: &str| tcp::segment(&from(client, VIP), 1, 0, SYN, b"");
    for (n, verdict) in [None, None, None, Some(Verdict::ClientQuota)].into_iter().enumerate() {
        let frame = syn(&format!("198.51.100.7:{}", 100 + n));
        assert_eq!(
            matches!(outcome(&mut bed, &frame), Outcome::Ends(v) if Some(v) == verdict),
            verdict.is_some()
        );
        bed.foretold(&frame);
    }
    for n in 0..5 {
        bed.foretold(&syn(&format!("198.51.100.9{n}:7")));
    }
    let late = syn("198.51.100.99:7");
    assert_eq!(outcome(&mut bed, &late), Outcome::Ends(Verdict::FlowTableFull));
    bed.foretold(&late);
}

#[test]
fn the_worker_that_would_get_a_packet_foretells_it() {
    let reta = (0..128).map(|queue| queue % 3).collect();
    let rss = Spread::Rss(Rss { ipv6: true, key: MICROSOFT_KEY.to_vec(), reta });
    for spread in [Spread::Unknown, rss] {
        let mut bed = Bed::dual(3, &spread, 1_500);
        bed.serve(&["10.244.0.1:8080", "10.244.0.2:8080"]);
        bed.know_router();
        for port in 2_000..2_060 {
            let sent =
                bed.foretold(&tcp::segment(&from(&format!("198.51.100.7:{port}"), VIP), 1, 0, SYN, b""));
            bed.foretold(&tcp::segment(&answer_to(&sent[0]), 1, 2, SYN | 0x10, b""));
        }
    }
}

#[test]
fn flows_are_ended_that_are_meant_and_no_others() {
    let mut bed = Bed::new();
    let frames: Vec<Vec<u8>> =
        (0..10).map(|n| udp::datagram(&from(&format!("198.51.100.7:{}", 3_000 + n), VIP), b"?")).collect();
    bed.exchange(&frames);
    let flows: Vec<(usize, Tuple)> =
        bed.workers[0].flows().v4.iter().map(|(slot, session)| (slot, Tuple::of(session.keys[0]))).collect();
    let doomed = |at: usize, client: usize| Doomed { slot: flows[at].0 as u32, client: flows[client].1 };
    // One is there, one has another's place, one is named twice, one lies beyond the table.
    let beyond = Doomed { slot: u32::MAX, client: flows[5].1 };
    let errand = bed.run_errand(0, Task::End(vec![doomed(0, 0), doomed(1, 2), doomed(0, 0), beyond]));
    assert!(matches!(errand.answer(), Some(Answer::Ended(1))), "{errand:?}");
    assert_eq!((bed.workers[0].flows().live(), bed.count("flows_closed")), (9, 1));
    bed.foretold(&frames[0]);
    assert_eq!(bed.workers[0].flows().live(), 10);
}
