//! Rules N1 to N5, L1, L3 and P3 with packets: what new flows meet when nobody may or can serve them.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::{DROP, EXTERNAL_IP, NODE_PORT, Port, REJECT};
use harness::{Bed, CLUSTER_IP, VIP, ends, from};
use turnpike_packet::tcp::{self, flags};
use turnpike_packet::udp;
use turnpike_wire::update::FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
use turnpike_wire::update::{Protocol, Treatment};

const CLIENT: &str = "198.51.100.7:40000";
const POD: &str = "10.244.9.9:40000";

fn bed() -> Bed {
    Bed::bare(1, &turnpike_packet::io::Spread::Unknown, 4_096)
}

fn web(protocol: Protocol) -> Port {
    Port::new("web", protocol, &["10.244.0.1:8080", "10.244.0.2:8080"])
}

/// The ICMP type and code of the one answer, and whom it quotes.
fn icmp(sent: &[Vec<u8>]) -> (u8, u8, String) {
    assert_eq!(sent.len(), 1, "{sent:02x?}");
    assert_eq!(sent[0][23], 1, "not ICMP: {:02x?}", sent[0]);
    let inner = [&sent[0][..14], &sent[0][42..]].concat();
    (sent[0][34], sent[0][35], ends(&inner).1.to_string())
}

#[test]
fn rule_n1_reject_is_port_unreachable_for_tcp_too() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut bed = bed();
        let none = Port { backends: vec![], ..web(protocol) };
        bed.put(&[none.on(VIP, LoadBalancer).with(CLUSTER_IP, ClusterIp, REJECT, REJECT)]);
        for frontend in [VIP, CLUSTER_IP] {
            let flight = from(CLIENT, frontend);
            let frame = match protocol {
                Protocol::Udp => udp::datagram(&flight, b"query"),
                _ => tcp::segment(&flight, 1, 0, flags::SYN, b""),
            };
            let sent = bed.exchange(&[frame]);
            assert_eq!(icmp(&sent), (3, 3, frontend.to_owned()), "{protocol}");
        }
        assert_eq!((bed.count("rejected"), bed.count("icmp_sent"), bed.count("resets_sent")), (2, 2, 0));
        assert_eq!(bed.count("flows_opened"), 0);
    }
}

#[test]
fn rule_n1_drop_is_silent() {
    let mut bed = bed();
    bed.put(&[web(Protocol::Tcp).with(VIP, LoadBalancer, DROP, Treatment::FORWARD)]);
    assert!(bed.exchange(&[tcp::segment(&from(CLIENT, VIP), 1, 0, flags::SYN, b"")]).is_empty());
    assert!(bed.connect(POD, VIP).is_some(), "inside it is forwarded");
    assert_eq!((bed.count("frontend_drop"), bed.count("icmp_sent"), bed.count("resets_sent")), (1, 0, 0));
}

#[test]
fn rule_n2_live_flows_go_on_whatever_new_ones_meet() {
    let refusals = [
        ("reject", web(Protocol::Tcp).with(VIP, LoadBalancer, REJECT, REJECT)),
        ("drop", web(Protocol::Tcp).with(VIP, LoadBalancer, DROP, DROP)),
        ("no endpoints", Port { backends: vec![], ..web(Protocol::Tcp) }.on(VIP, LoadBalancer)),
        ("source ranges", web(Protocol::Tcp).on(VIP, LoadBalancer).guarded(&["10.0.0.0/8"])),
        ("gone", web(Protocol::Tcp).on(CLUSTER_IP, ClusterIp)),
    ];
    for (what, refusal) in refusals {
        let mut bed = bed();
        bed.put(&[web(Protocol::Tcp).on(VIP, LoadBalancer)]);
        let there = bed.connect(CLIENT, VIP).unwrap();
        bed.put(&[refusal]);
        assert_eq!(bed.connect("198.51.100.7:40001", VIP), None, "{what}: a new flow");
        assert_eq!(bed.go_on(CLIENT, VIP), Some(there), "{what}: the live flow");
        let back =
            tcp::segment(&from(&there.1.to_string(), &there.0.to_string()), 1, 2, flags::ACK, b"answer");
        let back = bed.pass_through(&back);
        assert_eq!(ends(&back), (VIP.parse().unwrap(), CLIENT.parse().unwrap()), "{what}: its answer");
    }
}

#[test]
fn rule_n2_a_first_segment_sent_again_stays_when_all_endpoints_are_gone() {
    let mut bed = bed();
    bed.put(&[web(Protocol::Tcp).on(VIP, LoadBalancer)]);
    let there = bed.connect(CLIENT, VIP);
    assert!(there.is_some());
    bed.put(&[Port { backends: vec![], ..web(Protocol::Tcp) }.on(VIP, LoadBalancer)]);
    assert_eq!(bed.connect(CLIENT, VIP), there);
}

#[test]
fn rule_n3_nodeports_refuse_on_their_own_addresses_alone() {
    let mut bed = bed();
    bed.put(&[Port { backends: vec![], ..web(Protocol::Tcp) }.on(NODE_PORT, NodePort)]);
    assert_eq!(bed.connect(CLIENT, NODE_PORT), None);
    assert_eq!(bed.count("rejected"), 1);
    assert_eq!(bed.connect(CLIENT, "10.1.0.1:30080"), None);
    assert_eq!((bed.count("rejected"), bed.count("snat_no_flow")), (1, 1), "another address of the gateway");
}

#[test]
fn rule_n4_an_undefined_port_of_a_cluster_ip_is_rejected() {
    let mut bed = bed();
    bed.put(&[web(Protocol::Tcp).on(CLUSTER_IP, ClusterIp)]);
    let sent = bed.exchange(&[tcp::segment(&from(CLIENT, "10.96.0.10:81"), 1, 0, flags::SYN, b"")]);
    assert_eq!(icmp(&sent), (3, 3, "10.96.0.10:81".to_owned()));
    let sent = bed.exchange(&[udp::datagram(&from(POD, CLUSTER_IP), b"the port is of TCP alone")]);
    assert_eq!(icmp(&sent), (3, 3, CLUSTER_IP.to_owned()));
}

#[test]
fn rule_n4_an_unallocated_cluster_ip_is_dropped() {
    let mut bed = bed();
    bed.put(&[web(Protocol::Tcp).on(CLUSTER_IP, ClusterIp)]);
    assert!(bed.exchange(&[tcp::segment(&from(CLIENT, "10.96.0.11:80"), 1, 0, flags::SYN, b"")]).is_empty());
    assert!(bed.exchange(&[udp::datagram(&from(POD, "10.96.255.255:53"), b"query")]).is_empty());
    assert_eq!(bed.count("unallocated_cluster_ip"), 2);
    assert!(bed.exchange(&[udp::datagram(&from(CLIENT, "10.97.0.11:80"), b"elsewhere")]).is_empty());
    assert_eq!((bed.count("unallocated_cluster_ip"), bed.count("not_ours")), (2, 1));
    bed.put(&[]);
    assert_eq!(bed.connect(CLIENT, CLUSTER_IP), None);
    assert_eq!(bed.count("unallocated_cluster_ip"), 3, "its Service is gone");
}

#[test]
fn rule_n5_an_undefined_port_of_other_addresses_is_not_answered() {
    let mut bed = bed();
    bed.put(&[web(Protocol::Tcp).on(VIP, LoadBalancer).on(EXTERNAL_IP, ExternalIp)]);
    for to in ["203.0.113.80:81", "203.0.113.90:81"] {
        assert!(bed.exchange(&[tcp::segment(&from(CLIENT, to), 1, 0, flags::SYN, b"")]).is_empty());
    }
    assert_eq!(bed.count("no_frontend"), 2);
}

fn every_face(port: Port) -> Port {
    port.on(VIP, LoadBalancer).on(CLUSTER_IP, ClusterIp).on(NODE_PORT, NodePort).on(EXTERNAL_IP, ExternalIp)
}

#[test]
fn rule_l1_source_ranges_guard_load_balancer_addresses_alone() {
    let mut bed = bed();
    bed.put(&[every_face(web(Protocol::Tcp)).guarded(&[
        "198.51.100.0/25",
        "198.51.100.128/26",
        "10.9.9.9/32",
    ])]);
    let rows = [
        ("198.51.100.0:7", true),
        ("198.51.100.191:7", true),
        ("198.51.100.192:7", false),
        ("198.51.99.255:7", false),
        ("10.9.9.9:7", true),
        ("10.9.9.8:7", false),
        ("10.244.9.9:7", false),
    ];
    let mut dropped = 0;
    for (client, may) in rows {
        assert_eq!(bed.connect(client, VIP).is_some(), may, "{client}");
        dropped += u64::from(!may);
        assert_eq!(bed.count("source_range"), dropped);
        for face in [CLUSTER_IP, NODE_PORT, EXTERNAL_IP] {
            assert!(bed.connect(client, face).is_some(), "{client} to {face}");
        }
    }
    assert_eq!((bed.count("icmp_sent"), bed.count("resets_sent")), (0, 0), "silently");
    assert!(bed.exchange(&[tcp::segment(&from("10.9.9.8:7", VIP), 1, 9, flags::ACK, b"")]).is_empty());
}

#[test]
fn rule_p3_nodeports_are_not_guarded() {
    let mut bed = bed();
    bed.put(&[every_face(web(Protocol::Udp)).guarded(&["192.0.2.0/24"])]);
    assert_eq!(bed.ask(CLIENT, VIP), None);
    assert!(bed.ask(CLIENT, NODE_PORT).is_some());
}

#[test]
fn rule_l1_ranges_come_before_reject() {
    let mut bed = bed();
    bed.put(&[web(Protocol::Tcp).with(VIP, LoadBalancer, REJECT, REJECT).guarded(&["192.0.2.0/24"])]);
    assert!(bed.exchange(&[tcp::segment(&from(CLIENT, VIP), 1, 0, flags::SYN, b"")]).is_empty());
    assert_eq!((bed.count("source_range"), bed.count("rejected")), (1, 0));
}

#[test]
fn rule_l3_no_ranges_of_the_family_allow_all_of_it() {
    let mut bed = bed();
    bed.put(&[every_face(web(Protocol::Tcp)).guarded(&["2001:db8::/32"])]);
    assert!(bed.connect(CLIENT, VIP).is_some());
    bed.put(&[every_face(web(Protocol::Tcp))]);
    assert!(bed.connect("203.0.113.1:9", VIP).is_some());
}
