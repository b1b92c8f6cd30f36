//! What the gateway itself says about packets that cannot go on (RFC 1812 sections 4.3.2 and 5.3.1, RFC 1191, RFC 5508 REQ-9 and REQ-10), and the
//! segment sizes it lowers.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::errors::{POD_ROUTER, addresses, error, quoted};
use harness::fragmented::Receiver;
use harness::services::{DNAT, Port};
use harness::{Bed, CLIENT, MAC, ROUTER_MAC, VIP, answer_to, from, to};
use std::collections::{BTreeMap, HashSet};
use turnpike_forward::gateway::MssClamp;
use turnpike_packet::checksum::checksum;
use turnpike_packet::io::Spread;
use turnpike_packet::tcp::{self, flags::*};
use turnpike_packet::{flight, udp};
use turnpike_wire::update::FrontendKind::LoadBalancer;
use turnpike_wire::update::{Protocol, Treatment};

const MTU: u16 = 1_400;

fn bed_with(workers: usize, treatment: Treatment, clamp: MssClamp) -> Bed {
    let mut bed = Bed::on_link(workers, &Spread::Unknown, 4_096, MTU, clamp);
    let services = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
        Port::new(&format!("web-{protocol}"), protocol, &["10.244.0.1:8080"]).with(
            VIP,
            LoadBalancer,
            treatment,
            treatment,
        )
    });
    bed.put(&services);
    bed
}

fn bed() -> Bed {
    bed_with(1, Treatment::FORWARD, MssClamp::Auto)
}

/// Changes a frame and makes its IPv4 header checksum right again.
fn with(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn told(verdict: &'static str) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([("rx_packets", 1), (verdict, 1), ("icmp_sent", 1), ("tx_packets", 1)])
}

fn silent(verdict: &'static str) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([("rx_packets", 1), (verdict, 1)])
}

/// Opens a TCP connection; the client's SYN as it left.
fn connect(bed: &mut Bed, client: &str) -> Vec<u8> {
    let syn = bed.pass_through(&tcp::segment(&from(client, VIP), 1, 0, SYN, b""));
    bed.pass_through(&tcp::segment(&answer_to(&syn), 1, 2, SYN | ACK, b""));
    bed.pass_through(&tcp::segment(&from(client, VIP), 2, 2, ACK, b""));
    syn
}

#[test]
fn rfc4787_req13_what_does_not_fit_is_told_with_the_right_mtu() {
    for (workers, treatment) in [(1, Treatment::FORWARD), (3, Treatment::FORWARD), (1, DNAT), (3, DNAT)] {
        let mut bed = bed_with(workers, treatment, MssClamp::Auto);
        let syn = connect(&mut bed, CLIENT);
        let before = bed.flows();
        for (flight, sender) in [(to(VIP), "198.51.100.7"), (answer_to(&syn), "10.244.0.1")] {
            // One byte too long, in both directions; the longest that fits passes.
            for (payload, fits) in [(MTU - 40, true), (MTU - 39, false), (9_000, false)] {
                let frame = tcp::segment(&flight, 2, 2, ACK, &vec![7; usize::from(payload)]);
                let (mut moved, sent) = bed.delta(&frame);
                moved.remove("handed_off");
                if fits {
                    assert_eq!((moved["forwarded"], sent[0].len()), (1, frame.len()));
                    continue;
                }
                assert_eq!(moved, told("too_big"));
                let [answer] = &sent[..] else { panic!("{sent:02x?}") };
                assert_eq!((&answer[..6], &answer[6..12]), (&ROUTER_MAC[..], &MAC[..]));
                assert_eq!(addresses(answer), ["192.0.2.1", sender]);
                assert_eq!(
                    (answer[23], &answer[34..36], &answer[38..42]),
                    (1, &[3, 4][..], &[0, 0, 5, 120][..])
                );
                assert_eq!(
                    (answer.len(), &quoted(answer)[14..]),
                    (14 + 576, &frame[14..14 + 548]),
                    "as it was sent"
                );
            }
        }
        assert_eq!(bed.flows(), before, "what does not pass keeps nothing alive");
    }
}

#[test]
fn rfc1812_5_2_7_what_may_be_fragmented_and_does_not_fit_leaves_in_fragments() {
    let mut bed = bed();
    bed.pass_through(&udp::datagram(&to(VIP), b"first"));
    let mut names = HashSet::new();
    for _ in 0..10 {
        let frame = with(udp::datagram(&to(VIP), &[7; 1_450]), |f| f[20] = 0);
        let (moved, sent) = bed.delta(&frame);
        let cut = [("forwarded", 2), ("fragments_made", 1), ("rx_packets", 1), ("tx_packets", 2)];
        assert_eq!(moved, BTreeMap::from(cut));
        let shape: Vec<_> = sent.iter().map(|f| (f.len(), &f[20..22])).collect();
        assert_eq!(shape, [(14 + 1_396, &[0x20, 0][..]), (14 + 102, &[0, 172])]);
        assert_eq!(sent[0][18..20], sent[1][18..20]);
        names.insert(sent[0][18..20].to_vec());
        let mut receiver = Receiver::default();
        let whole: Vec<_> = sent.iter().filter_map(|f| receiver.take(f)).collect();
        assert_eq!(whole.len(), 1);
        assert_eq!(flight::check(&whole[0]), Ok(()));
    }
    assert_eq!(
        names.len(),
        10,
        "several clients have one address behind a NAT, so each datagram has a name of its own"
    );
}

#[test]
fn rfc5508_req10_time_exceeded_comes_from_the_gateway_itself() {
    let mut bed = bed();
    let syn = connect(&mut bed, CLIENT);
    for (flight, sender) in [(to(VIP), "198.51.100.7"), (answer_to(&syn), "10.244.0.1")] {
        for ttl in [0, 1] {
            let frame = with(tcp::segment(&flight, 2, 2, ACK, b"data"), |f| f[22] = ttl);
            let (moved, sent) = bed.delta(&frame);
            assert_eq!(moved, told("ttl_expired"));
            assert_eq!(
                (addresses(&sent[0]), &sent[0][34..36]),
                (["192.0.2.1".into(), sender.into()], &[11, 0][..])
            );
            assert_eq!(quoted(&sent[0])[14..], frame[14..]);
        }
    }
}

#[test]
fn rfc1812_4_3_2_7_nobody_is_told_about_what_must_not_be_answered() {
    let mut bed = bed();
    let syn = connect(&mut bed, CLIENT);
    // Errors about errors, whatever is wrong with them.
    let expired = with(error(POD_ROUTER, &syn, (11, 0, [0; 4]), 40), |f| f[22] = 1);
    assert_eq!(bed.delta(&expired), (silent("ttl_expired"), vec![]));
    // Later fragments, broadcasts on the link, sources and destinations that are no single host.
    let frame = with(udp::datagram(&to(VIP), b"x"), |f| f[22] = 1);
    let rows: [(&str, Vec<u8>); 7] = [
        ("later fragment", with(frame.clone(), |f| f[21] = 1)),
        ("broadcast on the link", with(frame.clone(), |f| f[..6].fill(0xff))),
        ("multicast on the link", with(frame.clone(), |f| f[0] |= 1)),
        ("to everybody", with(frame.clone(), |f| f[30..34].fill(0xff))),
        ("to a group", with(frame.clone(), |f| f[30] = 224)),
        ("from loopback", with(frame.clone(), |f| f[26] = 127)),
        ("from nobody", with(frame.clone(), |f| f[26..30].fill(0))),
    ];
    for (what, row) in rows {
        let (moved, sent) = bed.delta(&row);
        assert_eq!((moved.get("icmp_sent"), sent.len()), (None, 0), "{what}: {moved:?}");
        assert!(!turnpike_packet::icmpv4::may_be_told(&row), "{what}");
    }
    assert!(turnpike_packet::icmpv4::may_be_told(&frame));
}

#[test]
fn rfc5508_req9_answers_about_sizes_and_lives_are_limited() {
    let mut bed = bed();
    connect(&mut bed, CLIENT);
    let long = tcp::segment(&to(VIP), 2, 2, ACK, &[7; 1_460]);
    let expired = with(tcp::segment(&to(VIP), 2, 2, ACK, b""), |f| f[22] = 1);
    let frames: Vec<_> =
        (0..3_000).map(|n| if n % 2 == 0 { long.clone() } else { expired.clone() }).collect();
    let sent: usize = frames.chunks(64).map(|burst| bed.exchange(burst).len()).sum();
    assert_eq!(
        (sent, bed.count("icmp_sent"), bed.count("too_big"), bed.count("ttl_expired")),
        (1_000, 1_000, 1_500, 1_500)
    );
    bed.pass(1_000);
    assert_eq!(bed.exchange(&frames[..10]).len(), 10);
}

#[test]
fn a_long_frame_does_not_slow_or_lose_its_neighbours() {
    let mut bed = bed();
    connect(&mut bed, CLIENT);
    let frames: Vec<_> = (0..64)
        .map(|n| tcp::segment(&to(VIP), 2, 2, ACK, &vec![n; if n == 20 { 1_460 } else { 100 }]))
        .collect();
    let sent = bed.exchange(&frames);
    let passed: Vec<u8> = sent.iter().filter(|f| f[23] == 6).map(|f| f[54]).collect();
    assert_eq!((sent.len(), passed), (64, (0..64).filter(|&n| n != 20).collect()));
}

/// The segment size that a SYN announces after it has passed.
fn announced(bed: &mut Bed, frame: &[u8]) -> u16 {
    let out = bed.pass_through(frame);
    u16::from_be_bytes([out[56], out[57]])
}

#[test]
fn rfc6691_segment_sizes_are_lowered_on_syn_and_syn_ack() {
    let size = |n: u16| [&[2, 4][..], &n.to_be_bytes()].concat();
    let rows = [
        (MssClamp::Off, 1_460, 1_460, false),
        (MssClamp::Auto, 1_460, MTU - 40, true),
        (MssClamp::Auto, MTU - 40, MTU - 40, false),
        (MssClamp::Bytes(1_200), 1_460, 1_200, true),
        (MssClamp::Bytes(1_200), 536, 536, false),
    ];
    for treatment in [Treatment::FORWARD, DNAT] {
        for (clamp, before, after, changed) in rows {
            let mut bed = bed_with(1, treatment, clamp);
            let syn = tcp::with_options(&to(VIP), 1, 0, SYN, &size(before));
            assert_eq!(announced(&mut bed, &syn), after, "{clamp:?}");
            let left = bed.pass_through(&syn);
            let answer = tcp::with_options(&answer_to(&left), 1, 2, SYN | ACK, &size(before));
            assert_eq!(announced(&mut bed, &answer), after, "{clamp:?}");
            assert_eq!(bed.count("mss_clamped"), if changed { 3 } else { 0 });
            // No SYN: data may look like anything.
            let data = tcp::with_options(&to(VIP), 2, 2, ACK, &size(before));
            assert_eq!(announced(&mut bed, &data), before);
        }
    }
}

#[test]
fn a_wrong_checksum_under_a_lowered_size_stays_wrong() {
    let mut bed = bed();
    let mut syn = tcp::with_options(&to(VIP), 1, 0, SYN, &[2, 4, 5, 180]);
    syn[51] ^= 1;
    bed.nic.inject(&syn);
    bed.turn();
    let sent = bed.nic.take_sent();
    assert_eq!(flight::check(&sent[0]), Err(flight::Wrong::TransportChecksum));
}
