//! Full NAT through whole turns of a worker: connections, bursts, held frames, steering between workers.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Bed, CLIENT, CLUSTER_IP, MAC, ROUTER_MAC, SNAT, VIP, answer_to, ends, from, to};
use std::collections::{BTreeMap, HashSet};
use turnpike_forward::track::State;
use turnpike_packet::arp::{self, Arp};
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::tcp::{self, flags::*};
use turnpike_packet::toeplitz::MICROSOFT_KEY;
use turnpike_packet::udp;
use turnpike_wire::update::Update;

fn syn(client: &str) -> Vec<u8> {
    tcp::segment(&from(client, VIP), 1, 0, SYN, b"")
}

#[test]
fn a_tcp_connection_is_translated_both_ways() {
    let mut bed = Bed::new();
    let out = bed.pass_through(&syn(CLIENT));
    let (source, backend) = ends(&out);
    assert_eq!(source.ip(), std::net::IpAddr::from(SNAT));
    assert!(backend.to_string().starts_with("10.244.0.") && backend.port() == 8080, "{backend}");
    assert_eq!((&out[..6], &out[6..12], out[22]), (&ROUTER_MAC[..], &MAC[..], 63));

    let back = bed.pass_through(&tcp::segment(&answer_to(&out), 9, 2, SYN | ACK, b""));
    assert_eq!(ends(&back), (VIP.parse().unwrap(), CLIENT.parse().unwrap()));
    let data = bed.pass_through(&tcp::segment(&to(VIP), 2, 10, ACK | PSH, b"GET / HTTP/1.1\r\n\r\n"));
    assert_eq!(ends(&data), (source, backend));
    assert_eq!(&data[54..], b"GET / HTTP/1.1\r\n\r\n");

    bed.pass_through(&tcp::segment(&to(VIP), 20, 10, FIN | ACK, b""));
    bed.pass_through(&tcp::segment(&answer_to(&out), 10, 21, FIN | ACK, b""));
    let state = bed.workers[0].flows().v4.iter().next().unwrap().1.state();
    assert_eq!(state, State::Closed);
    let (arp, flow) = ((1, 42), (5, 288));
    let want = [
        ("arp_requests", arp.0),
        ("flows_live", 1),
        ("flows_opened", 1),
        ("forwarded", flow.0),
        ("rx_bytes", flow.1),
        ("rx_packets", flow.0),
        ("tx_bytes", arp.1 + flow.1),
        ("tx_packets", arp.0 + flow.0),
    ];
    assert_eq!(bed.counts(), BTreeMap::from(want));
}

#[test]
fn udp_works_with_and_without_checksum() {
    let mut bed = Bed::new();
    for (client, has_checksum) in [("198.51.100.8:5000", true), ("198.51.100.8:5001", false)] {
        let mut query = udp::datagram(&from(client, CLUSTER_IP), b"query");
        if !has_checksum {
            query[40..42].fill(0);
        }
        let out = bed.pass_through(&query);
        assert_eq!(out[40..42] == [0, 0], !has_checksum);
        let mut reply = udp::datagram(&answer_to(&out), b"answer");
        if !has_checksum {
            reply[40..42].fill(0);
        }
        let back = bed.pass_through(&reply);
        assert_eq!(ends(&back), (CLUSTER_IP.parse().unwrap(), client.parse().unwrap()));
        assert_eq!(back[40..42] == [0, 0], !has_checksum);
    }
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    let mut bed = Bed::new();
    let mut seen = 0;
    for n in 0..=u16::MAX {
        let payload = n.to_be_bytes();
        let out = bed.pass_through(&udp::datagram(&to(VIP), &payload));
        assert_ne!(out[40..42], [0, 0], "payload {n}");
        seen += u32::from(out[40..42] == [0xff, 0xff]);
    }
    assert!(seen >= 1, "every sum occurs once among all payloads of two bytes");
}

#[test]
fn wrong_transport_checksums_stay_wrong() {
    let mut bed = Bed::new();
    let mut query = udp::datagram(&to(VIP), b"query");
    query[41] ^= 1;
    bed.nic.inject(&query);
    bed.turn();
    let out = bed.nic.take_sent();
    assert_eq!(
        turnpike_packet::flight::check(&out[0]),
        Err(turnpike_packet::flight::Wrong::TransportChecksum)
    );
}

#[test]
fn options_and_padding_are_carried() {
    let mut bed = Bed::new();
    let mut frame = udp::datagram(&to(VIP), b"x");
    frame.splice(34..34, [1, 1, 1, 0]);
    frame[14] = 0x46;
    frame[16..18].copy_from_slice(&33u16.to_be_bytes());
    frame[24..26].fill(0);
    let sum = turnpike_packet::checksum::checksum(&frame[14..38]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.resize(60, 0);
    let out = bed.pass_through(&frame);
    assert_eq!((out.len(), &out[34..38], out[30]), (60, &[1, 1, 1, 0][..], 10));
    let mut plain = udp::datagram(&to(VIP), b"x");
    plain.resize(60, 0);
    let again = bed.pass_through(&plain);
    assert_eq!(again[26..34], out[26..34], "the same flow, with and without options");
    assert_eq!(bed.counts()["flows_opened"], 1);
}

#[test]
fn a_burst_of_one_new_flow_makes_one_flow_and_one_port() {
    let mut bed = Bed::new();
    let frames: Vec<_> = (0..64).map(|n| udp::datagram(&to(VIP), &[n])).collect();
    let out = bed.exchange(&frames);
    assert_eq!(out.len(), 64);
    assert_eq!(out.iter().map(|f| ends(f)).collect::<HashSet<_>>().len(), 1);
    assert_eq!((bed.counts()["flows_opened"], bed.counts()["flows_live"]), (1, 1));
    let order: Vec<u8> = out.iter().map(|f| f[42]).collect();
    assert_eq!(order, (0..64).collect::<Vec<_>>());
}

#[test]
fn no_two_live_flows_share_a_tuple() {
    let mut bed = Bed::new();
    let mut tuples = HashSet::new();
    for n in 0..4_000u32 {
        let client = format!("198.51.{}.{}:{}", 100 + n % 3, 1 + n % 200, 1_024 + n);
        let out = bed.pass_through(&syn(&client));
        assert!(tuples.insert(ends(&out)), "flow {n} shares {:?}", ends(&out));
    }
    let backends: HashSet<_> = tuples.iter().map(|t| t.1).collect();
    assert_eq!(backends.len(), 3, "every backend got flows");
}

#[test]
fn the_same_client_tuple_goes_to_the_same_backend_on_every_gateway() {
    let choices = |mut bed: Bed| -> Vec<_> {
        (0..200).map(|n| ends(&bed.pass_through(&syn(&format!("198.51.100.9:{}", 2_000 + n)))).1).collect()
    };
    let reordered = || {
        let mut bed = Bed::bare(1, &Spread::Unknown, 512);
        bed.serve(&["10.244.0.3:8080", "10.244.0.1:8080", "10.244.0.2:8080"]);
        bed.know_router();
        bed
    };
    assert_eq!(choices(Bed::new()), choices(reordered()));
}

#[test]
fn live_flows_stay_when_backends_change_and_new_ones_move() {
    let mut bed = Bed::new();
    let client = |n: u32| format!("198.51.100.9:{}", 2_000 + n);
    let before: Vec<_> = (0..300).map(|n| ends(&bed.pass_through(&syn(&client(n))))).collect();
    bed.serve(&["10.244.0.2:8080", "10.244.0.9:8080"]);
    let data = |n| tcp::segment(&from(&client(n), VIP), 2, 1, ACK, b"data");
    let after: Vec<_> = (0..300).map(|n| ends(&bed.pass_through(&data(n)))).collect();
    assert_eq!(before, after);
    let new: HashSet<_> = (0..300)
        .map(|n| ends(&bed.pass_through(&syn(&format!("198.51.100.10:{}", 2_000 + n)))).1.to_string())
        .collect();
    assert_eq!(new, HashSet::from(["10.244.0.2:8080".to_owned(), "10.244.0.9:8080".to_owned()]));
}

#[test]
fn a_syn_again_after_the_backend_went_away_finds_another() {
    let mut bed = Bed::new();
    let first = ends(&bed.pass_through(&syn(CLIENT))).1;
    let others: Vec<String> =
        (1..=3).map(|h| format!("10.244.0.{h}:8080")).filter(|b| *b != first.to_string()).collect();
    bed.serve(&others.iter().map(String::as_str).collect::<Vec<_>>());
    let second = ends(&bed.pass_through(&syn(CLIENT))).1;
    assert_ne!(first, second);
    assert_eq!(bed.counts()["flows_live"], 1);
}

#[test]
fn a_closed_connection_is_opened_anew_by_a_syn() {
    let mut bed = Bed::new();
    let out = bed.pass_through(&syn(CLIENT));
    bed.pass_through(&tcp::segment(&answer_to(&out), 9, 2, RST | ACK, b""));
    let again = bed.pass_through(&syn(CLIENT));
    assert_eq!(ends(&again).1, ends(&out).1, "Maglev chooses as before");
    assert_eq!(
        (bed.counts()["flows_opened"], bed.counts()["flows_closed"], bed.counts()["flows_live"]),
        (2, 1, 1)
    );
}

#[test]
fn frames_wait_for_their_next_hop_and_are_not_lost() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 64);
    bed.serve(&["10.244.0.1:8080"]);
    bed.take();
    let asked = bed.exchange(&[udp::datagram(&to(VIP), b"first"), udp::datagram(&to(VIP), b"second")]);
    assert!(asked.iter().all(|f| Arp::parse(f).is_some()), "nothing but ARP leaves: {asked:02x?}");
    let router = Arp {
        operation: arp::Operation::Reply,
        sender_mac: ROUTER_MAC,
        sender: 0xc000_02fe,
        target_mac: MAC,
        target: 0xc000_0201,
    };
    let out = bed.exchange(&[router.frame(MAC).to_vec()]);
    assert_eq!(out.iter().map(|f| &f[42..]).collect::<Vec<_>>(), [&b"first"[..], &b"second"[..]]);
    assert_eq!((bed.counts()["forwarded"], bed.counts()["arp_handled"]), (2, 1));
}

#[test]
fn frames_whose_next_hop_never_answers_are_counted() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 64);
    bed.serve(&["10.244.0.1:8080"]);
    let frames: Vec<_> = (0..200).map(|n| udp::datagram(&to(VIP), &[n])).collect();
    bed.exchange(&frames);
    assert_eq!(bed.counts()["next_hop_unresolved"], 72, "128 are held, the rest cannot be");
    bed.pass(10_000);
    assert_eq!(bed.counts()["next_hop_unresolved"], 200);
    assert!((3..=6).contains(&bed.counts()["arp_requests"]), "{:?}", bed.counts());
}

#[test]
fn idle_flows_end_and_their_ports_are_free_again() {
    let mut bed = Bed::new();
    for n in 0..100 {
        bed.pass_through(&udp::datagram(&from(&format!("198.51.100.9:{}", 2_000 + n), VIP), b""));
    }
    bed.pass(290_000);
    assert_eq!(bed.counts()["flows_live"], 100, "RFC 4787 REQ-5: five minutes");
    bed.pass(40_000);
    assert_eq!((bed.counts().get("flows_live"), bed.counts()["flows_closed"]), (None, 100));
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_old_ones() {
    let mut bed = Bed::bare(1, &Spread::Unknown, 32);
    bed.serve(&["10.244.0.1:8080"]);
    bed.know_router();
    for n in 0..40 {
        bed.exchange(&[syn(&format!("198.51.100.9:{}", 2_000 + n))]);
    }
    assert_eq!((bed.counts()["flow_table_full"], bed.counts()["flows_live"]), (8, 32));
    bed.pass_through(&syn("198.51.100.9:2000"));
}

/// Clients, and backends that answer each packet once; every answer must come back to the client that asked.
fn everybody_gets_their_answers(mut bed: Bed) -> Bed {
    let clients: Vec<String> =
        (0..2_000).map(|n| format!("198.51.{}.{}:{}", n % 7, 1 + n % 250, 1_024 + n)).collect();
    for clients in clients.chunks(100) {
        let queries: Vec<_> = clients.iter().map(|c| udp::datagram(&from(c, VIP), c.as_bytes())).collect();
        let out = bed.exchange(&queries);
        assert_eq!(out.len(), queries.len(), "{:?}", bed.counts());
        let answers: Vec<_> = out.iter().map(|f| udp::datagram(&answer_to(f), &f[42..])).collect();
        let back = bed.exchange(&answers);
        assert_eq!(back.len(), queries.len(), "{:?}", bed.counts());
        for frame in back {
            let (source, destination) = ends(&frame);
            assert_eq!(
                (source.to_string().as_str(), destination.to_string().as_bytes()),
                (VIP, &frame[42..])
            );
        }
    }
    assert_eq!(bed.counts()["flows_live"], 2_000);
    let tuples: HashSet<_> = bed
        .workers
        .iter()
        .flat_map(|w| w.flows().v4.iter().map(|(_, s)| s.keys[1].bits()).collect::<Vec<_>>())
        .collect();
    assert_eq!(tuples.len(), 2_000, "no two flows share a tuple, on any worker");
    assert!(bed.workers.iter().all(|w| w.flows().v4.live() > 200), "every worker has its share");
    bed
}

fn bed_of(workers: usize, spread: &Spread) -> Bed {
    let mut bed = Bed::bare(workers, spread, 4_096);
    bed.serve(&["10.244.0.1:8080", "10.244.0.2:8080", "10.244.0.3:8080"]);
    bed.know_router();
    bed
}

#[test]
fn workers_hand_over_where_the_nic_does_not_steer() {
    for workers in [2, 3] {
        let bed = everybody_gets_their_answers(bed_of(workers, &Spread::Unknown));
        assert!(bed.counts()["handed_off"] > 1_000, "{:?}", bed.counts());
    }
}

#[test]
fn replies_come_to_their_worker_by_rss() {
    for workers in [2u16, 3, 4] {
        let rss = Spread::Rss(Rss {
            ipv6: true,
            key: MICROSOFT_KEY.to_vec(),
            reta: (0..128).map(|i| i % workers).collect(),
        });
        let bed = everybody_gets_their_answers(bed_of(usize::from(workers), &rss));
        assert_eq!(bed.counts().get("handed_off"), None, "RSS did all the steering");
    }
}

#[test]
fn rss_that_spreads_otherwise_loses_nothing() {
    // The gateway believes in a table that the NIC does not follow.
    let believed =
        Spread::Rss(Rss { ipv6: true, key: MICROSOFT_KEY.to_vec(), reta: (0..128).map(|i| i % 2).collect() });
    let mut bed = bed_of(2, &believed);
    bed.replace_nic(&Spread::Unknown);
    for n in 0..200 {
        let client = format!("198.51.100.9:{}", 2_000 + n);
        let out = bed.exchange(&[udp::datagram(&from(&client, VIP), b"q")]);
        let back = bed.exchange(&[udp::datagram(&answer_to(&out[0]), b"a")]);
        assert_eq!(back.len(), 1, "flow {n}: {:?}", bed.counts());
    }
    assert!(bed.counts()["handed_off"] > 10);
}

#[test]
fn a_full_transmit_queue_is_counted_and_drains() {
    let mut bed = Bed::new();
    bed.nic.limit_tx(10);
    let frames: Vec<_> = (0..200).map(|n| udp::datagram(&to(VIP), &[n])).collect();
    assert_eq!(bed.exchange(&frames).len(), 10);
    bed.nic.limit_tx(usize::MAX);
    assert_eq!(bed.exchange(&[]).len(), 64, "what was queued leaves");
    let counts = bed.counts();
    assert_eq!(counts["forwarded"] + counts["tx_full"], 200);
    assert_eq!(counts["forwarded"], 74);
}

#[test]
fn nodeports_are_never_source_ports() {
    let mut bed = Bed::new();
    for n in 0..4_000 {
        let out = bed.pass_through(&syn(&format!("198.51.{}.9:{}", n % 5, 1_024 + n)));
        assert!(!(30_000..=32_767).contains(&ends(&out).0.port()));
    }
    bed.commit(&[Update::DropFrontend(turnpike_wire::update::FrontendKey {
        address: "203.0.113.80".parse().unwrap(),
        port: 80,
        protocol: turnpike_wire::update::Protocol::Tcp,
    })]);
    assert!(bed.exchange(&[syn("198.51.100.99:999")]).is_empty());
    assert_eq!(bed.counts()["no_frontend"], 1);
}
