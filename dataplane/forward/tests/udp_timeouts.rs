//! How long UDP flows live, and what keeps them: RFC 4787 and RFC 7857 through whole turns of a worker.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::Port;
use harness::talk::Side::{Backend, Client};
use harness::talk::{Delta, OPENED, PASSED, Talk};
use harness::{VIP, ends, from};
use turnpike_packet::udp;
use turnpike_wire::update::FrontendKind::LoadBalancer;
use turnpike_wire::update::{Protocol, Tracking};

const DNS: &str = "203.0.113.80:53";

fn dns(udp_s: u32) -> Port {
    let tracking = Tracking { udp_s, ..Tracking::default() };
    Port::new("dns", Protocol::Udp, &["10.244.0.1:53"]).on(DNS, LoadBalancer).tracked(tracking)
}

/// A flow that the client has just opened.
fn opened(service: &Port) -> Talk {
    let mut talk = Talk::with(service);
    talk.client = from("198.51.100.7:40000", DNS);
    let seen = talk.datagram(Client);
    assert_eq!(seen.delta, OPENED.iter().copied().collect::<Delta>());
    talk
}

fn passes(talk: &mut Talk, side: harness::talk::Side) {
    let seen = talk.datagram(side);
    assert_eq!((seen.delta, seen.refreshed), (PASSED.iter().copied().collect(), true), "{side:?}");
}

#[test]
fn rfc4787_req5_udp_mapping_survives_119_s() {
    let mut talk = opened(&dns(120));
    for _ in 0..3 {
        talk.wait_s(119);
        passes(&mut talk, Client);
        talk.wait_s(119);
        passes(&mut talk, Backend);
    }
    talk.wait_s(120);
    assert_eq!(talk.live(), 1);
    talk.wait_s(16);
    assert_eq!(talk.live(), 0, "and is given back in time");
}

#[test]
fn rfc4787_req5_five_minutes_unless_stated_and_longer_where_stated() {
    for (service, seconds) in [(dns(Tracking::default().udp_s), 300), (dns(3_600), 3_600), (dns(120), 120)] {
        let mut talk = opened(&service);
        talk.wait_s(seconds);
        assert_eq!(talk.live(), 1, "{seconds}");
        talk.wait_s(16);
        assert_eq!(talk.live(), 0, "{seconds}");
    }
}

#[test]
fn rfc4787_req6_either_direction_alone_keeps_a_flow_in_both() {
    for (speaks, is_silent) in [(Client, Backend), (Backend, Client)] {
        let mut talk = opened(&dns(120));
        let first = talk.backend.unwrap();
        for _ in 0..20 {
            talk.wait_s(100);
            passes(&mut talk, speaks);
        }
        passes(&mut talk, is_silent);
        assert_eq!(talk.backend, Some(first), "address and port are the same");
        assert_eq!(talk.live(), 1);
    }
}

#[test]
fn rfc4787_req8_rfc7857_6_who_is_not_of_the_flow_neither_passes_nor_keeps_it() {
    let mut talk = opened(&dns(120));
    let backend = talk.backend.unwrap();
    let (snat, right) = (backend.destination.to_string(), backend.source.to_string());
    let other_port = format!("{}:{}", backend.destination.ip(), backend.destination.port() ^ 1);
    let rows = [
        ("10.244.0.1:54", snat.as_str()),
        ("10.244.0.2:53", &snat),
        ("198.51.100.66:53", &snat),
        (&right, &other_port),
    ];
    for _ in 0..11 {
        talk.wait_s(10);
        for (source, destination) in rows {
            let seen = talk.send(Backend, &udp::datagram(&from(source, destination), b"unasked"));
            assert_eq!(seen.delta, Delta::from([("rx_packets", 1), ("snat_no_flow", 1)]), "{source}");
            assert!(!seen.refreshed && seen.sent.is_empty());
        }
    }
    talk.wait_s(26);
    assert_eq!(talk.live(), 0);
}

#[test]
fn rfc4787_req11_a_full_table_treats_live_flows_as_ever() {
    let mut talk = opened(&dns(300));
    let newcomer = |n: u32| from(&format!("198.51.{}.{}:7000", 100 + n / 250, 1 + n % 250), DNS);
    for n in 0..5_000 {
        let seen = talk.bed.exchange(&[udp::datagram(&newcomer(n), b"flood")]);
        // Those that find no room are told so, some of them.
        let on = seen.iter().filter(|frame| frame[23] != turnpike_packet::ipv4::ICMP).count();
        assert_eq!(on, usize::from(n < 4_095), "{n}");
    }
    let backend = talk.backend;
    passes(&mut talk, Client);
    passes(&mut talk, Backend);
    assert_eq!(talk.backend, backend);
    talk.wait_s(299);
    assert_eq!(talk.live(), 4_096, "nobody ends sooner for lack of room");
}

#[test]
fn rfc4787_req11_a_client_gets_the_same_backend_after_a_restart() {
    let backends = ["10.244.0.1:53", "10.244.0.2:53", "10.244.0.3:53"];
    let choices = || -> Vec<_> {
        let mut talk = Talk::with(&Port::new("dns", Protocol::Udp, &backends).on(VIP, LoadBalancer));
        let clients = (0..100).map(|n| from(&format!("198.51.100.{n}:5353"), VIP));
        clients.map(|client| ends(&talk.send(Client, &udp::datagram(&client, b"q")).sent[0]).1).collect()
    };
    assert_eq!(choices(), choices());
}
