//! Ports that share a device, told apart by VLAN (IEEE 802.1Q). Every row states the whole counter delta.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Bed, MAC, ROUTER_MAC, SNAT, VIP, answer_to, ends, from};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use turnpike_forward::address::Address;
use turnpike_forward::exception::{Plan, Tap, rings};
use turnpike_forward::gateway::{Gateway, GatewayPort, StaticRoute};
use turnpike_forward::hash::Secret;
use turnpike_forward::neighbour::NextHop;
use turnpike_forward::steering::Steering;
use turnpike_forward::trunk::Attachment;
use turnpike_forward::worker::Traffic;
use turnpike_packet::arp::{self, Arp, Operation};
use turnpike_packet::flight::{self, Flight};
use turnpike_packet::io::{PacketIo, PortInfo, Rss, Spread};
use turnpike_packet::tcp::{self, flags::*};
use turnpike_packet::vlan::{self, TAG_BYTES, Tagged};
use turnpike_packet::{icmpv4, ndp, toeplitz, udp};

/// Clients come without a tag, or by this VLAN, on whose network they are; backends are behind a router in the other.
const DMZ: u16 = 100;
const PODS: u16 = 200;
const POD_ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfd];
const POD_ROUTER: [u8; 4] = [10, 1, 1, 254];
const DMZ_CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// The gateway's other address in [`DMZ`].
const DMZ6: &str = "2001:db8:d::1";
const DMZ_CLIENT: &str = "172.16.0.7:40000";

/// The numbers of the ports.
const WAN: usize = 0;
const PODS_PORT: usize = 1;
const DMZ_PORT: usize = 2;

fn v4(address: [u8; 4]) -> Address {
    Address::v4(u32::from_be_bytes(address))
}

type Counts = BTreeMap<&'static str, u64>;

fn counts(counts: &[(&'static str, u64)]) -> Counts {
    counts.iter().copied().collect()
}

/// One device with three ports: the world without tags, backends in [`PODS`], neighbours in [`DMZ`].
fn one_device(workers: usize, spread: &Spread, pods_mtu: u16) -> Bed {
    let port = |address: [u8; 4], mtu| GatewayPort {
        mac: MAC,
        addresses: vec![(address.into(), 24)],
        gateway: None,
        gateway6: None,
        hears_routers: false,
        routes: vec![],
        steering: Steering::of(spread, workers),
        mtu,
    };
    let wan = GatewayPort { gateway: Some([192, 0, 2, 254].into()), ..port([192, 0, 2, 1], 1500) };
    let to_pods = StaticRoute { to: ([10, 244, 0, 0].into(), 16), via: POD_ROUTER.into() };
    let pods = GatewayPort { routes: vec![to_pods], ..port([10, 1, 1, 1], pods_mtu) };
    let mut dmz = port([172, 16, 0, 1], 1500);
    dmz.addresses.push((DMZ6.parse().unwrap(), 64));
    let ports = vec![wan, pods, dmz];
    let at = |vlan| Attachment { device: 0, vlan };
    let gateway = Gateway::new(ports, &[SNAT.into()], workers).unwrap();
    let gateway = gateway.attached(vec![at(None), at(Some(PODS)), at(Some(DMZ))]).unwrap().announcing(true);
    let info = PortInfo { mac: MAC, mtu: 1500, spread: spread.clone() };
    let mut bed = Bed::of(gateway, info, 1_024);
    bed.serve(&["10.244.0.1:8080", "10.244.0.2:8080", "10.244.0.3:8080"]);
    bed.know_router();
    bed
}

/// The same, with every next hop known and nothing left to say.
fn known(workers: usize, spread: &Spread) -> Bed {
    let mut bed = one_device(workers, spread, 1500);
    for (port, address, mac) in
        [(PODS_PORT, POD_ROUTER, POD_ROUTER_MAC), (DMZ_PORT, [172, 16, 0, 7], DMZ_CLIENT_MAC)]
    {
        let hop = NextHop { port: port as u8, address: v4(address) };
        assert!(bed.shared.neighbours.index(hop).is_some());
        assert!(bed.shared.neighbours.learn(hop, mac, bed.now_ms));
    }
    bed.pass(5_000);
    drop(bed.take());
    bed
}

/// Sends frames in one burst; gives the counters that moved, and what left.
fn delta(bed: &mut Bed, frames: &[Vec<u8>]) -> (Counts, Vec<Vec<u8>>) {
    let before = bed.counts();
    let sent = bed.exchange(frames);
    for frame in &sent {
        assert_eq!(flight::check(&untagged(frame).1), Ok(()), "{frame:02x?}");
    }
    let mut after = bed.counts();
    after.retain(|name, value| {
        *value -= before.get(name).copied().unwrap_or(0);
        *value != 0
    });
    (after, sent)
}

/// The VLAN of a frame that left, and the frame without its tag.
fn untagged(frame: &[u8]) -> (Option<u16>, Vec<u8>) {
    match vlan::read(frame) {
        Tagged::No => (None, frame.to_vec()),
        Tagged::Once(number) => (Some(number), [&frame[..12], &frame[12 + TAG_BYTES..]].concat()),
        Tagged::Oddly => panic!("several tags: {frame:02x?}"),
    }
}

fn dmz_client() -> Flight {
    Flight { source_mac: DMZ_CLIENT_MAC, ..from(DMZ_CLIENT, VIP) }
}

fn query(flight: &Flight) -> Vec<u8> {
    udp::datagram(flight, b"a question")
}

/// A datagram of 52 bytes in a frame.
const QUERY_BYTES: u64 = 52;
const TAG: u64 = TAG_BYTES as u64;

#[test]
fn ieee_802_1q_frames_walk_as_their_ports() {
    let mut bed = known(1, &Spread::Unknown);
    let wan = query(&from("198.51.100.7:1", VIP));
    let dmz = query(&dmz_client());
    let opens = |live| [("flows_opened", 1), ("flows_live", live), ("forwarded", 1)];
    let crosses = |rx, tx| [("rx_packets", 1), ("tx_packets", 1), ("rx_bytes", rx), ("tx_bytes", tx)];
    let nobodys = |bytes| counts(&[("rx_packets", 1), ("rx_bytes", bytes), ("other_vlan", 1)]);
    let both = |a: &[_], b: &[_]| counts(&[a, b].concat());
    // What comes, what moves, and through which VLAN it leaves.
    let rows = [
        ("no tag", wan.clone(), both(&opens(1), &crosses(QUERY_BYTES, QUERY_BYTES + TAG)), Some(PODS)),
        (
            "a priority without a VLAN",
            vlan::tagged(&wan, 0xe000),
            both(&[("forwarded", 1)], &crosses(QUERY_BYTES + TAG, QUERY_BYTES + TAG)),
            Some(PODS),
        ),
        (
            "a VLAN",
            vlan::tagged(&dmz, DMZ),
            both(&opens(1), &crosses(QUERY_BYTES + TAG, QUERY_BYTES + TAG)),
            Some(PODS),
        ),
        (
            "a VLAN with a priority",
            vlan::tagged(&dmz, 0x6000 | DMZ),
            both(&[("forwarded", 1)], &crosses(QUERY_BYTES + TAG, QUERY_BYTES + TAG)),
            Some(PODS),
        ),
        ("a VLAN of nobody", vlan::tagged(&wan, 300), nobodys(QUERY_BYTES + TAG), None),
        ("VLAN 4095", vlan::tagged(&wan, 4_095), nobodys(QUERY_BYTES + TAG), None),
        ("two tags", vlan::tagged(&vlan::tagged(&wan, PODS), DMZ), nobodys(QUERY_BYTES + 2 * TAG), None),
        (
            "a tag behind a priority",
            vlan::tagged(&vlan::tagged(&wan, DMZ), 0),
            nobodys(QUERY_BYTES + 2 * TAG),
            None,
        ),
        ("half a tag", vlan::tagged(&wan, DMZ)[..15].to_vec(), nobodys(15), None),
        (
            "a VLAN and no more than addresses",
            vlan::tagged(&wan[..14], DMZ),
            counts(&[("rx_packets", 1), ("rx_bytes", 18), ("truncated", 1)]),
            None,
        ),
    ];
    for (what, frame, wanted, leaves) in rows {
        let (moved, sent) = delta(&mut bed, &[frame]);
        assert_eq!(moved, wanted, "{what}");
        let through: Vec<_> = sent.iter().map(|frame| untagged(frame).0).collect();
        assert_eq!(through, leaves.map(Some).into_iter().collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn answers_go_back_by_the_clients_vlan() {
    let mut bed = known(1, &Spread::Unknown);
    for (client, vlan) in [(from("198.51.100.7:1", VIP), None), (dmz_client(), Some(DMZ))] {
        let asked = vlan.map_or(query(&client), |vlan| vlan::tagged(&query(&client), vlan));
        let (_, sent) = delta(&mut bed, &[asked]);
        let (through, question) = untagged(&sent[0]);
        assert_eq!((through, &question[..6]), (Some(PODS), &POD_ROUTER_MAC[..]));
        let answer = udp::datagram(&answer_to(&question), b"an answer");
        let (moved, sent) = delta(&mut bed, &[vlan::tagged(&answer, PODS)]);
        let (through, back) = untagged(&sent[0]);
        assert_eq!(
            (through, &back[..6], ends(&back)),
            (vlan, &client.source_mac[..], (client.destination, client.source))
        );
        assert_eq!((moved["forwarded"], moved["rx_bytes"]), (1, answer.len() as u64 + TAG));
        // The same answer from where backends are not is no answer: it is for nobody's VLAN, or of no neighbour of the flow's.
        let (moved, sent) = delta(&mut bed, &[vlan::tagged(&answer, 300)]);
        assert_eq!((moved["other_vlan"], sent.len()), (1, 0));
    }
}

#[test]
fn a_burst_of_all_vlans_leaves_whole_and_each_in_order() {
    let mut bed = known(1, &Spread::Unknown);
    let frames = |round: u8| -> Vec<Vec<u8>> {
        (0..64usize)
            .map(|n| {
                let client = from(&format!("198.51.100.7:{}", 1_000 + n / 2 % 4), VIP);
                let payload = [round, n as u8];
                match n % 2 {
                    0 => udp::datagram(&client, &payload),
                    _ => vlan::tagged(&udp::datagram(&dmz_client(), &payload), DMZ),
                }
            })
            .collect()
    };
    for round in 0..3 {
        let sent_in = frames(round);
        let (moved, sent) = delta(&mut bed, &sent_in);
        assert_eq!(
            (sent.len(), moved["forwarded"], moved["rx_packets"], moved["tx_packets"]),
            (64, 64, 64, 64)
        );
        let bytes: usize = sent_in.iter().map(Vec::len).sum();
        let left: usize = sent.iter().map(Vec::len).sum();
        assert_eq!((moved["rx_bytes"], moved["tx_bytes"]), (bytes as u64, left as u64));
        let mut last: BTreeMap<_, u8> = BTreeMap::new();
        for frame in &sent {
            let (through, frame) = untagged(frame);
            assert_eq!((through, frame[42]), (Some(PODS), round));
            let before = last.insert(ends(&frame), frame[43]);
            assert!(before.is_none_or(|before| before < frame[43]), "a flow's frames stay in order");
        }
    }
}

#[test]
fn what_crosses_each_port_is_counted() {
    let mut bed = known(1, &Spread::Unknown);
    let before: Vec<Traffic> = (0..3).map(|port| bed.workers[0].traffic(port).unwrap()).collect();
    let (_, sent) =
        delta(&mut bed, &[query(&from("198.51.100.7:1", VIP)), vlan::tagged(&query(&dmz_client()), DMZ)]);
    let answers: Vec<_> = sent
        .iter()
        .map(|frame| vlan::tagged(&udp::datagram(&answer_to(&untagged(frame).1), b"a reply123"), PODS))
        .collect();
    delta(&mut bed, &answers);
    let tagged = QUERY_BYTES + TAG;
    let wanted = [(1, QUERY_BYTES, 1, QUERY_BYTES), (2, 2 * tagged, 2, 2 * tagged), (1, tagged, 1, tagged)];
    for (port, (before, (rx_frames, rx_bytes, tx_frames, tx_bytes))) in before.iter().zip(wanted).enumerate()
    {
        let now = bed.workers[0].traffic(port).unwrap();
        let crossed = Traffic {
            rx_frames: now.rx_frames - before.rx_frames,
            rx_bytes: now.rx_bytes - before.rx_bytes,
            tx_frames: now.tx_frames - before.tx_frames,
            tx_bytes: now.tx_bytes - before.tx_bytes,
        };
        assert_eq!(crossed, Traffic { rx_frames, rx_bytes, tx_frames, tx_bytes }, "port {port}");
    }
    assert_eq!(
        Bed::new().workers[0].traffic(0),
        None,
        "a port with a device of its own has the device's counters"
    );
}

#[test]
fn arp_stays_in_its_vlan() {
    let mut bed = known(1, &Spread::Unknown);
    let vip = u32::from_be_bytes([203, 0, 113, 80]);
    let ask = |target| arp::request(DMZ_CLIENT_MAC, u32::from_be_bytes([172, 16, 0, 7]), target);
    let (moved, sent) = delta(&mut bed, &[vlan::tagged(&ask(vip), DMZ)]);
    let bytes = arp::FRAME as u64 + TAG;
    let crosses = [("rx_packets", 1), ("rx_bytes", bytes), ("tx_packets", 1), ("tx_bytes", bytes)];
    assert_eq!(moved, counts(&[&crosses[..], &[("arp_handled", 1)]].concat()));
    let (through, answer) = untagged(&sent[0]);
    let answer = Arp::parse(&answer).unwrap();
    assert_eq!(
        (through, answer.operation, answer.sender, answer.sender_mac),
        (Some(DMZ), Operation::Reply, vip, MAC)
    );
    // An address is answered where its network is, and not by a port that has another.
    let own =
        |address| arp::request([2; 6], u32::from_be_bytes([172, 16, 0, 9]), u32::from_be_bytes(address));
    for (address, answers) in [([172, 16, 0, 1], 1), ([10, 1, 1, 1], 0), ([192, 0, 2, 1], 0)] {
        let (moved, sent) = delta(&mut bed, &[vlan::tagged(&own(address), DMZ)]);
        let verdict = if answers == 1 { "arp_handled" } else { "arp_ignored" };
        assert_eq!((sent.len(), moved.get(verdict)), (answers, Some(&1)), "{address:?}");
    }
    // A VLAN of nobody hears nothing.
    let (moved, sent) = delta(&mut bed, &[vlan::tagged(&ask(vip), 300)]);
    assert_eq!((moved.get("other_vlan"), sent.len()), (Some(&1), 0));
}

#[test]
fn neighbour_discovery_stays_in_its_vlan() {
    let mut bed = known(1, &Spread::Unknown);
    let bits = |address: &str| u128::from(address.parse::<Ipv6Addr>().unwrap());
    let ask = |from: &str, target: &str| ndp::solicitation(DMZ_CLIENT_MAC, bits(from), bits(target)).to_vec();
    // Ports of one device have one link-local address.
    for (vlan, from, target, answers) in [
        (Some(DMZ), "2001:db8:d::7", DMZ6, 1),
        (Some(PODS), "2001:db8:d::7", DMZ6, 0),
        (None, "2001:db8:d::7", DMZ6, 0),
        (Some(DMZ), "fe80::7", "fe80::ff:fe00:1", 1),
        (Some(300), "2001:db8:d::7", DMZ6, 0),
    ] {
        let asked = ask(from, target);
        let (moved, sent) = delta(&mut bed, &[vlan.map_or(asked.clone(), |vlan| vlan::tagged(&asked, vlan))]);
        let through: Vec<_> = sent.iter().map(|frame| untagged(frame)).collect();
        assert_eq!(through.len(), answers, "{target} in {vlan:?}: {moved:?}");
        for (through, answer) in through {
            let told = ndp::Message::parse(&answer).unwrap();
            assert_eq!((through, told.target, told.link), (vlan, bits(target), Some(MAC)));
        }
    }
}

#[test]
fn next_hops_are_asked_for_and_learned_by_vlan() {
    let mut bed = one_device(1, &Spread::Unknown, 1500);
    bed.pass(5_000);
    drop(bed.take());
    let (_, sent) = delta(&mut bed, &[query(&from("198.51.100.7:1", VIP))]);
    let router = u32::from_be_bytes(POD_ROUTER);
    let (through, asked) = untagged(&sent[0]);
    let asked = Arp::parse(&asked).unwrap();
    assert_eq!(
        (through, asked.target, asked.sender),
        (Some(PODS), router, u32::from_be_bytes([10, 1, 1, 1]))
    );
    let reply = arp::reply(&Arp { target: router, ..asked }, POD_ROUTER_MAC);
    // From the wrong VLAN it is a stranger's.
    let (moved, sent) = delta(&mut bed, &[vlan::tagged(&reply, DMZ)]);
    assert_eq!((moved.get("arp_ignored"), sent.len()), (Some(&1), 0));
    let (moved, mut sent) = delta(&mut bed, &[vlan::tagged(&reply, PODS)]);
    assert_eq!(moved.get("arp_handled"), Some(&1));
    bed.now_ms += 1;
    sent.extend(delta(&mut bed, &[]).1);
    let held: Vec<_> =
        sent.iter().map(|frame| untagged(frame)).filter(|(_, frame)| frame[12..14] == [8, 0]).collect();
    assert_eq!(
        (held.len(), held[0].0, &held[0].1[..6]),
        (1, Some(PODS), &POD_ROUTER_MAC[..]),
        "what waited leaves"
    );
}

#[test]
fn addresses_are_announced_on_every_port() {
    let mut bed = one_device(1, &Spread::Unknown, 1500);
    bed.shared.announcements.add([v4([203, 0, 113, 80])].into_iter());
    bed.now_ms += 1;
    bed.turn();
    let sent = bed.take();
    let vip = u32::from_be_bytes([203, 0, 113, 80]);
    let mut through: Vec<_> = sent
        .iter()
        .map(|frame| untagged(frame))
        .filter(|(_, frame)| Arp::parse(frame).is_some_and(|arp| arp.sender == vip && arp.target == vip))
        .map(|(through, _)| through)
        .collect();
    through.sort_unstable();
    through.dedup();
    assert_eq!(through, [None, Some(DMZ), Some(PODS)]);
}

#[test]
fn rfc1191_a_vlan_with_a_smaller_mtu_is_told_to_the_clients_vlan() {
    let mut bed = one_device(1, &Spread::Unknown, 1400);
    bed.pass(5_000);
    drop(bed.take());
    let mut long = udp::datagram(&dmz_client(), &[7; 1_400]);
    long[20] |= 0x40;
    long[24..26].fill(0);
    let sum = turnpike_packet::checksum::checksum(&long[14..34]);
    long[24..26].copy_from_slice(&sum.to_be_bytes());
    let (moved, sent) = delta(&mut bed, &[vlan::tagged(&long, DMZ)]);
    assert_eq!((moved.get("too_big"), moved.get("icmp_sent"), sent.len()), (Some(&1), Some(&1), 1));
    let (through, error) = untagged(&sent[0]);
    assert_eq!(
        (through, error[34], &error[40..42]),
        (Some(DMZ), icmpv4::UNREACHABLE, &1_400u16.to_be_bytes()[..])
    );
    assert_eq!(error[26..30], [172, 16, 0, 1], "from the gateway's address on that port");
}

#[test]
fn frames_that_wait_for_the_nic_get_one_tag() {
    let mut bed = known(1, &Spread::Unknown);
    bed.nic.limit_tx(0);
    let frames: Vec<_> = (0..20).map(|n| query(&from(&format!("198.51.100.7:{}", 100 + n), VIP))).collect();
    let (_, sent) = delta(&mut bed, &frames);
    assert_eq!(sent.len(), 0);
    bed.nic.limit_tx(usize::MAX);
    bed.turn();
    let sent = bed.take();
    assert_eq!(sent.len(), 20);
    assert!(sent.iter().all(|frame| untagged(frame).0 == Some(PODS)));
}

/// Frames of flows reach the worker that has them, with their port, however the NIC spreads.
#[test]
fn workers_hand_frames_over_with_their_vlan() {
    let rss = Spread::Rss(Rss {
        ipv6: true,
        key: toeplitz::MICROSOFT_KEY.to_vec(),
        reta: (0..128).map(|n| n % 2).collect(),
    });
    for spread in [Spread::Unknown, rss] {
        let mut bed = known(2, &spread);
        for n in 0..50 {
            let client =
                Flight { source_mac: DMZ_CLIENT_MAC, ..from(&format!("172.16.0.7:{}", 1_000 + n), VIP) };
            let (_, sent) = delta(&mut bed, &[vlan::tagged(&tcp::segment(&client, 1, 0, SYN, b""), DMZ)]);
            let (through, syn) = untagged(&sent[0]);
            assert_eq!(through, Some(PODS), "flow {n}");
            let syn_ack = tcp::segment(&answer_to(&syn), 7, 2, SYN | ACK, b"");
            let (moved, sent) = delta(&mut bed, &[vlan::tagged(&syn_ack, PODS)]);
            let (through, back) = untagged(&sent[0]);
            assert_eq!(
                (through, &back[..6], moved["forwarded"]),
                (Some(DMZ), &DMZ_CLIENT_MAC[..], 1),
                "flow {n}"
            );
        }
        let handed = bed.counts().get("handed_off").copied().unwrap_or(0);
        assert_eq!(handed > 0, spread == Spread::Unknown, "{handed} with {spread:?}");
        // Who got some is known, once, so that it can be woken.
        let woken = bed.workers.iter_mut().map(|worker| worker.take_handed_to()).collect::<Vec<_>>();
        assert_eq!(woken, if handed > 0 { [0b10, 0b01] } else { [0, 0] });
        assert!(bed.workers.iter_mut().all(|worker| worker.take_handed_to() == 0 && !worker.has_more()));
    }
}

#[test]
fn the_kernels_frames_leave_by_their_taps_vlan_and_none_by_another() {
    let mut bed = known(1, &Spread::Unknown);
    let tap = |address: [u8; 4]| Some(Tap { frame_bytes_max: 1_514, addresses: vec![v4(address)] });
    let plan = Plan {
        taps: vec![tap([192, 0, 2, 1]), None, tap([172, 16, 0, 1])],
        local_ports: (32_768, 60_999),
        listening: vec![],
    };
    let (mut ends_of_workers, mut kernel) = rings(plan, 1, Secret::new([1, 2, 3, 4]));
    bed.workers =
        bed.workers.into_iter().map(|worker| worker.with_exception(ends_of_workers.remove(0))).collect();
    let mut io = bed.nic.io(0);
    let ours = Flight {
        source_mac: MAC,
        destination_mac: DMZ_CLIENT_MAC,
        source: "172.16.0.1:40000".parse().unwrap(),
        destination: "172.16.0.7:22".parse().unwrap(),
    };
    let frame = query(&ours);
    let rows = [
        ("a frame", DMZ_PORT, frame.clone(), "from_kernel"),
        ("a frame with the tag of another VLAN", DMZ_PORT, vlan::tagged(&frame, PODS), "from_kernel_refused"),
        ("a frame with a tag where none is put on", WAN, vlan::tagged(&frame, PODS), "from_kernel_refused"),
    ];
    for (what, port, frame, tally) in rows {
        kernel.send(port as u8, io.alloc(&frame).unwrap()).unwrap();
        let (moved, sent) = delta(&mut bed, &[]);
        assert_eq!(moved.get(tally), Some(&1), "{what}: {moved:?}");
        let left: Vec<_> = sent.iter().map(|frame| untagged(frame)).collect();
        let wanted = if tally == "from_kernel" { vec![(Some(DMZ), frame)] } else { vec![] };
        assert_eq!(left, wanted, "{what}");
    }
    // And what comes for the kernel reaches the tap of its port, without a tag.
    let asked = query(&Flight { source_mac: DMZ_CLIENT_MAC, ..from(DMZ_CLIENT, "172.16.0.1:22") });
    let (moved, _) = delta(&mut bed, &[vlan::tagged(&asked, DMZ)]);
    assert_eq!(moved.get("to_kernel"), Some(&1), "{moved:?}");
    let handed = kernel.receive().unwrap();
    assert_eq!(
        (usize::from(handed.port), turnpike_packet::io::Frame::data(&handed.frame)),
        (DMZ_PORT, &asked[..])
    );
    // A VLAN that no port has does not reach the kernel: its ports say which VLANs there are.
    let (moved, _) = delta(&mut bed, &[vlan::tagged(&asked, 300)]);
    assert_eq!(moved.get("other_vlan"), Some(&1));
    assert!(kernel.receive().is_none());
}

#[test]
fn a_priority_is_no_vlan_on_a_device_without_any() {
    let mut bed = Bed::new();
    let frame = query(&from("198.51.100.7:1", VIP));
    let crosses =
        [("rx_packets", 1), ("rx_bytes", QUERY_BYTES + TAG), ("tx_packets", 1), ("tx_bytes", QUERY_BYTES)];
    let (moved, sent) = delta(&mut bed, &[vlan::tagged(&frame, 0xe000)]);
    let opens = [("flows_opened", 1), ("flows_live", 1), ("forwarded", 1)];
    assert_eq!(moved, counts(&[&crosses[..], &opens].concat()));
    assert_eq!((sent.len(), &sent[0][..6], untagged(&sent[0]).0), (1, &ROUTER_MAC[..], None));
    let (moved, _) = delta(&mut bed, &[vlan::tagged(&frame, 0)]);
    assert_eq!(moved, counts(&[&crosses[..], &[("forwarded", 1)]].concat()), "of the same flow");
}
