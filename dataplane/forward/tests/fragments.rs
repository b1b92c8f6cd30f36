//! Fragments of datagrams through the whole path (RFC 4787 REQ-14), of both families, by one worker and by several.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::fragmented::{Receiver, cut, seal};
use harness::services::{DNAT, Port};
use harness::{Bed, answer_to, ends, from};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use turnpike_forward::limits::{FRAGMENT_TIMEOUT_MS, FRAGMENTS_HELD_MAX};
use turnpike_forward::verdict::{Tally, Verdict};
use turnpike_packet::flight::{self, Flight};
use turnpike_packet::io::{Rss, Spread};
use turnpike_packet::tcp::flags::{ACK, PSH, SYN};
use turnpike_packet::toeplitz::MICROSOFT_KEY;
use turnpike_packet::{ipv6, tcp, udp};
use turnpike_wire::update::{FrontendKind, Protocol, Treatment};

const VIP: &str = "203.0.113.80:80";
/// Behind it clients keep their addresses.
const KEPT: &str = "203.0.113.81:80";
const VIP6: &str = "[2001:db8:80::80]:80";
const KEPT6: &str = "[2001:db8:80::81]:80";
const FACES: [&str; 4] = [VIP, KEPT, VIP6, KEPT6];

fn rss(workers: u16) -> Spread {
    Spread::Rss(Rss {
        ipv6: true,
        key: MICROSOFT_KEY.to_vec(),
        reta: (0..128).map(|i| i % workers).collect(),
    })
}

fn bed(workers: usize, spread: &Spread) -> Bed {
    let mut bed = Bed::dual(workers, spread, 1_500);
    let v4 = &["10.244.0.1:8080", "10.244.0.2:8080"];
    let v6 = &["[fd00::1]:8080", "[fd00::2]:8080"];
    let mut ports = Vec::new();
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for (vip, kept, backends, name) in [(VIP, KEPT, v4, "IPv4"), (VIP6, KEPT6, v6, "IPv6")] {
            let face = FrontendKind::LoadBalancer;
            let nat = Port::new(&format!("nat/{name}"), protocol, backends);
            ports.push(nat.with(vip, face, Treatment::FORWARD, Treatment::FORWARD));
            let dnat = Port::new(&format!("dnat/{name}"), protocol, backends);
            ports.push(dnat.with(kept, face, DNAT, DNAT));
        }
    }
    bed.put(&ports);
    bed
}

/// The address of client number `n` of a face's family.
fn client(face: &str, n: usize) -> String {
    if face.starts_with('[') { format!("[2001:db8:c::{n}]:40000") } else { format!("198.51.100.{n}:40000") }
}

fn content(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n.wrapping_mul(31) ^ (n >> 8) ^ seed.wrapping_mul(197)) as u8).collect()
}

/// What follows the UDP header of a whole frame.
fn payload(frame: &[u8]) -> &[u8] {
    &frame[if frame[12] == 8 { 42 } else { 62 }..]
}

/// Counters that moved, without those of every frame.
fn moved(bed: &mut Bed, body: impl FnOnce(&mut Bed)) -> BTreeMap<&'static str, i64> {
    let before = bed.counts();
    body(bed);
    let after = bed.counts();
    let names: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let value = |counts: &BTreeMap<&str, u64>, name| counts.get(name).copied().unwrap_or(0) as i64;
    let delta = names.into_iter().map(|name| (name, value(&after, name) - value(&before, name)));
    delta.filter(|&(name, n)| n != 0 && !name.ends_with("_bytes")).collect()
}

/// Every frame that came in has had exactly one verdict, but for those that are held.
fn one_verdict_each(bed: &Bed) {
    let sum = |of: &dyn Fn(&turnpike_forward::verdict::Counters) -> u64| {
        bed.workers.iter().map(|worker| of(worker.counters())).sum::<u64>()
    };
    let verdicts = sum(&|c| Verdict::ALL.iter().map(|&v| c.verdict(v)).sum());
    let handed = sum(&|c| c.verdict(Verdict::HandedOff));
    let held = sum(&|c| c.tally(Tally::FragmentsHeld) + c.tally(Tally::HeldFrames));
    assert_eq!(verdicts - handed + held, sum(&|c| c.tally(Tally::RxPackets)), "{:?}", bed.counts());
}

/// Sends fragments, and gives what a receiver makes of what comes out.
fn send(bed: &mut Bed, receiver: &mut Receiver, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut out = bed.exchange(frames);
    // Next hops are asked for now and then, by ARP and neighbour discovery.
    out.retain(|frame| frame[12..14] != [8, 6] && (frame[12..14] == [8, 0] || frame[20] != ipv6::ICMP));
    let whole: Vec<_> = out.iter().filter_map(|frame| receiver.take(frame)).collect();
    whole.iter().for_each(|frame| assert_eq!(flight::check(frame), Ok(())));
    whole
}

#[test]
fn rfc4787_req14_datagrams_of_60_kb_pass_both_ways() {
    for (workers, spread) in [(1, Spread::Unknown), (2, Spread::Unknown), (3, rss(3)), (2, rss(2))] {
        for face in FACES {
            let mut bed = bed(workers, &spread);
            let mut receiver = Receiver::default();
            let (question, answer) = (content(1, 60_000), content(2, 65_000));
            let frame = udp::datagram(&from(&client(face, 7), face), &question);
            let mut fragments = cut(&frame, 77, 1_448);
            for order in 0..3 {
                match order {
                    1 => fragments.reverse(),
                    2 => fragments.rotate_left(13),
                    _ => {}
                }
                let arrived = send(&mut bed, &mut receiver, &fragments);
                assert_eq!(arrived.len(), 1, "{face}, {workers} workers, order {order}: {:?}", bed.counts());
                assert_eq!(payload(&arrived[0]), question);
                let reply = udp::datagram(&answer_to(&arrived[0]), &answer);
                let mut replies = cut(&reply, 77, 1_448);
                replies.rotate_left(order * 5);
                let returned = send(&mut bed, &mut receiver, &replies);
                assert_eq!(returned.len(), 1, "{face}, {workers} workers: {:?}", bed.counts());
                assert_eq!(payload(&returned[0]), answer);
                let wanted = (face.parse().unwrap(), client(face, 7).parse().unwrap());
                assert_eq!(ends(&returned[0]), wanted);
            }
            assert_eq!(bed.count("flows_opened"), 1);
            one_verdict_each(&bed);
        }
    }
}

#[test]
fn rfc4787_req14_fragments_and_whole_packets_are_of_one_flow() {
    for face in FACES {
        let mut bed = bed(2, &Spread::Unknown);
        let mut receiver = Receiver::default();
        let there = from(&client(face, 9), face);
        let whole = bed.pass_through(&udp::datagram(&there, b"whole"));
        let (seen, backend) = ends(&whole);
        let arrived = send(&mut bed, &mut receiver, &cut(&udp::datagram(&there, &[5; 3_000]), 1, 1_440));
        assert_eq!(ends(&arrived[0]), (seen, backend));
        assert_eq!(bed.count("flows_live"), 1);
    }
}

/// The whole counter delta of single fragments, in the order in which they come.
#[test]
fn each_fragment_has_its_fate() {
    const PASSED: &[(&str, i64)] = &[("forwarded", 1), ("tx_packets", 1)];
    let opened: &[(&str, i64)] =
        &[("flows_live", 1), ("flows_opened", 1), ("forwarded", 1), ("tx_packets", 1)];
    let datagram =
        |client: &str, target: &str, id| cut(&udp::datagram(&from(client, target), &[7; 5_000]), id, 1_480);
    let a = datagram("198.51.100.7:1000", VIP, 1);
    let b = datagram("198.51.100.7:1000", VIP, 2);
    let c = datagram("198.51.100.7:1001", VIP, 3);
    let with = |frame: &[u8], change: fn(&mut Vec<u8>)| {
        let mut frame = frame.to_vec();
        change(&mut frame);
        seal(frame)
    };
    let nowhere = datagram("198.51.100.7:1000", "203.0.113.80:81", 4);
    let segment = tcp::segment(&from("198.51.100.7:1000", VIP), 1, 0, ACK | PSH, &[1; 3_000]);
    let unknown = cut(&segment, 5, 1_480);
    type Row<'a> = (&'a str, &'a [u8], &'a [(&'a str, i64)]);
    let overlap = with(&b[1], |f| f[21] -= 1);
    let rows: &[Row<'_>] = &[
        ("the first opens a flow", &a[0], opened),
        ("the next follows it", &a[1], PASSED),
        ("once more", &a[1], &[("fragment_duplicate", 1)]),
        ("the first once more", &a[0], &[("fragment_duplicate", 1)]),
        ("the last", &a[3], PASSED),
        ("the third completes it", &a[2], PASSED),
        ("before its first one", &b[1], &[]),
        ("and another", &b[3], &[]),
        ("that overlaps", &overlap, &[("fragment_overlap", 3)]),
        ("the first after that", &b[0], &[("fragment_overlap", 1)]),
        ("another after that", &b[2], &[("fragment_overlap", 1)]),
        (
            "too short for a header",
            &with(&c[0], |f| f[16..18].copy_from_slice(&[0, 20])),
            &[("fragment_bad", 1)],
        ),
        ("TCP from byte 8 on", &with(&c[1], |f| (f[21], f[23]) = (1, 6)), &[("fragment_bad", 1)]),
        (
            "a source route",
            &with(&c[1], |f| {
                f[14] = 0x46;
                f[17] += 4;
                f.splice(34..34, [131, 4, 4, 0]);
            }),
            &[("source_route", 1)],
        ),
        (
            "TTL 1",
            &with(&c[0], |f| f[22] = 1),
            &[
                ("flows_live", 1),
                ("flows_opened", 1),
                ("icmp_sent", 1),
                ("ttl_expired", 1),
                ("tx_packets", 1),
            ],
        ),
        ("a later one, of which no host is told", &with(&c[1], |f| f[22] = 1), &[("ttl_expired", 1)]),
        ("of a port that no Service has", &nowhere[0], &[("no_frontend", 1)]),
        ("and what follows", &nowhere[1], &[("fragment_no_flow", 1)]),
        (
            "of an unknown connection",
            &unknown[0],
            &[("resets_sent", 1), ("tcp_no_flow", 1), ("tx_packets", 1)],
        ),
        ("and what follows", &unknown[1], &[("fragment_no_flow", 1)]),
    ];
    let mut bed = bed(1, &Spread::Unknown);
    for (what, frame, wanted) in rows {
        let delta = moved(&mut bed, |bed| drop(bed.exchange(&[frame.to_vec()])));
        let mut wanted: BTreeMap<_, _> = wanted.iter().copied().collect();
        wanted.insert("rx_packets", 1);
        assert_eq!(delta, wanted, "{what}");
    }
    one_verdict_each(&bed);
}

#[test]
fn rfc4787_req14_held_fragments_end_in_time() {
    let mut bed = bed(1, &Spread::Unknown);
    let fragments = cut(&udp::datagram(&from(&client(VIP, 7), VIP), &[7; 5_000]), 1, 1_440);
    let delta = moved(&mut bed, |bed| {
        assert!(bed.exchange(&fragments[1..]).is_empty());
        bed.pass(1_000);
    });
    assert_eq!(delta, BTreeMap::from([("rx_packets", 3), ("fragments_held", 3)]));
    let delta = moved(&mut bed, |bed| {
        bed.pass(FRAGMENT_TIMEOUT_MS);
        bed.know_router();
    });
    assert_eq!((delta["fragment_timeout"], delta["fragments_held"]), (3, -3));
    // Its first one alone makes nothing whole.
    assert_eq!(bed.exchange(&fragments[..1]).len(), 1);
    assert_eq!(bed.count("fragments_held"), 0);
}

#[test]
fn rfc1191_a_fragment_longer_than_the_next_link_is_told() {
    let mut bed = bed(1, &Spread::Unknown);
    let keep_whole = |mut frame: Vec<u8>| {
        frame[20] |= 0x40;
        seal(frame)
    };
    let fragments = cut(&udp::datagram(&from(&client(VIP, 7), VIP), &[7; 5_000]), 1, 1_600);
    let again = moved(&mut bed, |bed| {
        let mut receiver = Receiver::default();
        let out = bed.exchange(&fragments);
        assert!(out.iter().all(|f| f.len() <= 1_514));
        let whole: Vec<_> = out.iter().filter_map(|f| receiver.take(f)).collect();
        assert_eq!((whole.len(), whole[0].len()), (1, 14 + 5_028), "fragments are fragmented again");
    });
    assert_eq!((again["fragments_made"], again["forwarded"]), (3, fragments.len() as i64 + 3));
    let other = cut(&udp::datagram(&from(&client(VIP, 8), VIP), &[7; 5_000]), 1, 1_600);
    let rows = [
        ("must not be fragmented", keep_whole(other[0].clone()), 1),
        ("a later one, of which no host is told", keep_whole(other[1].clone()), 0),
    ];
    for (what, frame, told) in rows {
        let delta = moved(&mut bed, |bed| {
            let out = bed.exchange(&[frame]);
            assert_eq!(out.len() as i64, told, "{what}");
            assert!(out.iter().all(|f| f[34..36] == [3, 4] && f[40..42] == 1_500u16.to_be_bytes()), "{what}");
        });
        assert_eq!((delta["too_big"], delta.get("icmp_sent").copied().unwrap_or(0)), (1, told), "{what}");
    }
}

#[test]
fn rfc6864_two_clients_with_one_identification_do_not_meet() {
    // All of them use the same one; behind full NAT they have the same address too, and so have the backends towards one client.
    for face in FACES {
        let mut bed = bed(3, &Spread::Unknown);
        let mut receiver = Receiver::default();
        let clients = 40;
        let sent: Vec<Vec<Vec<u8>>> = (1..=clients)
            .map(|n| cut(&udp::datagram(&from(&client(face, n), face), &content(n, 4_000)), 4_711, 1_440))
            .collect();
        let interleaved: Vec<_> = (0..3).flat_map(|k| sent.iter().map(move |f| f[k].clone())).collect();
        let arrived = send(&mut bed, &mut receiver, &interleaved);
        assert_eq!((arrived.len(), receiver.incomplete()), (clients, 0), "{face}");
        let contents: BTreeSet<_> = arrived.iter().map(|frame| payload(frame).to_vec()).collect();
        assert_eq!(contents, (1..=clients).map(|n| content(n, 4_000)).collect());
        let ids: BTreeSet<_> = receiver.ids.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids.len(), clients, "{face}: disjoint over all workers");
    }
}

#[test]
fn tcp_segments_in_fragments_belong_to_their_connection() {
    let mut bed = bed(2, &Spread::Unknown);
    let mut receiver = Receiver::default();
    let there = from("198.51.100.7:5000", VIP);
    let syn = bed.pass_through(&tcp::segment(&there, 1, 0, SYN, b""));
    let back = answer_to(&syn);
    bed.pass_through(&tcp::segment(&back, 9, 2, SYN | ACK, b""));
    bed.pass_through(&tcp::segment(&there, 2, 10, ACK, b""));
    let data = content(3, 3_000);
    let arrived =
        send(&mut bed, &mut receiver, &cut(&tcp::segment(&there, 2, 10, ACK | PSH, &data), 1, 1_440));
    assert_eq!((ends(&arrived[0]), &arrived[0][54..]), (ends(&syn), &data[..]));
    let arrived = send(&mut bed, &mut receiver, &cut(&tcp::segment(&back, 10, 3_002, ACK, &data), 1, 1_440));
    assert_eq!(&arrived[0][54..], data);
    assert_eq!(bed.count("tcp_ignored"), 0);
}

#[test]
fn rfc4787_req14_a_flood_of_fragments_harms_nobody_else() {
    for workers in [1, 2] {
        let mut bed = bed(workers, &Spread::Unknown);
        let mut receiver = Receiver::default();
        let template = cut(&udp::datagram(&from("198.51.100.7:1000", VIP), &[7; 3_000]), 1, 1_440)[1].clone();
        let (turns, each) = (500u32, 2_000u32);
        let mut whole = 0;
        for turn in 0..turns {
            let mut frames: Vec<_> = (0..each)
                .map(|n| {
                    let number = turn * each + n;
                    let mut frame = template.clone();
                    // One source with many identifications, and many sources.
                    let source = if n % 2 == 0 { 0xc633_6401 } else { 0x0b00_0000 + number / 8 };
                    frame[26..30].copy_from_slice(&source.to_be_bytes());
                    frame[18..20].copy_from_slice(&(number as u16).to_be_bytes());
                    seal(frame)
                })
                .collect();
            // In the middle of them somebody else, in order and out of order.
            let sent = udp::datagram(&from("198.51.100.77:5000", VIP), &content(turn as usize, 20_000));
            let mut fragments = cut(&sent, turn, 1_480);
            fragments.rotate_left(turn as usize % 3);
            frames.splice(1_000..1_000, fragments);
            bed.now_ms += 2;
            whole += send(&mut bed, &mut receiver, &frames).len();
            assert!(bed.count("fragments_held") as usize <= FRAGMENTS_HELD_MAX * workers);
        }
        assert_eq!((whole, receiver.incomplete()), (turns as usize, 0), "{workers} workers");
        bed.pass(2 * FRAGMENT_TIMEOUT_MS);
        assert_eq!(bed.count("fragments_held"), 0);
        assert_eq!(bed.count("fragments_full") + bed.count("fragment_timeout"), u64::from(turns * each));
        one_verdict_each(&bed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn rfc4787_req14_fragments_of_random_datagrams_in_any_order_become_whole(
        workers in 1usize..4,
        by_rss: bool,
        datagrams in prop::collection::vec((0usize..4, 1usize..4, 1usize..60_001, 2usize..40), 1..6),
        swaps in prop::collection::vec(any::<prop::sample::Index>(), 256),
    ) {
        let mut bed = bed(workers, &if by_rss { rss(workers as u16) } else { Spread::Unknown });
        let mut receiver = Receiver::default();
        let shuffled = |mut frames: Vec<Vec<u8>>| {
            for (i, swap) in swaps.iter().enumerate() {
                let (a, b) = (i % frames.len(), swap.index(frames.len()));
                frames.swap(a, b);
            }
            frames
        };
        let fragments = |flight: &Flight, n: usize, bytes: usize, count: usize| {
            // At least two, of at least a UDP header.
            let size = (bytes + 8).div_ceil(count).clamp(16, 1_440).next_multiple_of(8);
            cut(&udp::datagram(flight, &content(n, bytes.max(16))), n as u32, size)
        };
        let there = datagrams.iter().enumerate().flat_map(|(n, &(face, of, bytes, count))| {
            fragments(&from(&client(FACES[face], of), FACES[face]), n, bytes, count)
        });
        let there = shuffled(there.collect());
        let arrived = send(&mut bed, &mut receiver, &there);
        prop_assert_eq!((arrived.len(), receiver.incomplete()), (datagrams.len(), 0), "{:?}", bed.counts());
        let contents = |frames: &[Vec<u8>]| -> BTreeSet<Vec<u8>> { frames.iter().map(|f| payload(f).to_vec()).collect() };
        let wanted: BTreeSet<_> = datagrams.iter().enumerate().map(|(n, d)| content(n, d.2.max(16))).collect();
        prop_assert_eq!(contents(&arrived), wanted);

        let back = arrived.iter().enumerate().flat_map(|(n, frame)| {
            fragments(&answer_to(frame), n + 100, datagrams[n].2, datagrams[n].3)
        });
        let back = shuffled(back.collect());
        let returned = send(&mut bed, &mut receiver, &back);
        prop_assert_eq!((returned.len(), receiver.incomplete()), (datagrams.len(), 0), "{:?}", bed.counts());
        let wanted: BTreeSet<_> = datagrams.iter().enumerate().map(|(n, d)| content(n + 100, d.2.max(16))).collect();
        prop_assert_eq!(contents(&returned), wanted);
        prop_assert!(returned.iter().all(|frame| FACES.iter().any(|face| ends(frame).0 == face.parse().unwrap())));
        one_verdict_each(&bed);
    }
}
