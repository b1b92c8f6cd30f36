//! What the host's kernel gets and what it may send: every row states the whole counter delta, and what belongs to a Service or a flow never
//! comes to the kernel.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Bed, CLIENT, MAC, ROUTER_MAC, SNAT, VIP, answer_to, ends, from, to};
use std::collections::BTreeMap;
use turnpike_forward::exception::{KernelEnd, Plan, Tap, rings};
use turnpike_forward::hash::Secret;
use turnpike_forward::limits::{EXCEPTION_BURST_MS, EXCEPTION_FRAMES, EXCEPTION_FRAMES_PER_SECOND};
use turnpike_packet::arp::{self, Arp, Operation};
use turnpike_packet::checksum::checksum;
use turnpike_packet::io::{PacketIo, Spread};
use turnpike_packet::memory::MemoryFrame;
use turnpike_packet::tcp::{self, flags::*};
use turnpike_packet::{flight, icmpv4, udp};

const OWN: [u8; 4] = [192, 0, 2, 1];
const LOCAL_PORTS: (u16, u16) = (32_768, 60_999);

/// A gateway whose kernel has a tap with these addresses, and the kernel.
fn behind(mut bed: Bed, addresses: &[[u8; 4]]) -> (Bed, KernelEnd<MemoryFrame>) {
    let addresses = addresses.iter().map(|&a| std::net::IpAddr::from(a).into()).collect();
    let plan = Plan {
        taps: vec![Some(Tap { frame_bytes_max: 1_514, addresses })],
        local_ports: LOCAL_PORTS,
        listening: vec![],
    };
    let (ends, kernel) = rings(plan, bed.workers.len(), Secret::new([5, 6, 7, 8]));
    let workers = std::mem::take(&mut bed.workers).into_iter().zip(ends);
    bed.workers = workers.map(|(worker, end)| worker.with_exception(end)).collect();
    (bed, kernel)
}

fn gateway() -> (Bed, KernelEnd<MemoryFrame>) {
    behind(Bed::new(), &[OWN])
}

/// What came to the kernel.
fn taken(kernel: &mut KernelEnd<MemoryFrame>) -> Vec<Vec<u8>> {
    use turnpike_packet::io::Frame;
    std::iter::from_fn(|| kernel.receive()).map(|handed| handed.frame.data().to_vec()).collect()
}

/// The counters that one burst of frames moves, other than those of bytes.
fn delta(bed: &mut Bed, work: impl FnOnce(&mut Bed)) -> BTreeMap<&'static str, u64> {
    let before = bed.counts();
    work(bed);
    let mut after = bed.counts();
    after.retain(|name, value| {
        *value -= before.get(name).copied().unwrap_or(0);
        *value != 0 && !name.ends_with("_bytes")
    });
    after
}

fn counted<const N: usize>(counters: [(&'static str, u64); N]) -> BTreeMap<&'static str, u64> {
    counters.into()
}

/// Changes a frame and makes its IPv4 header checksum right again.
fn with(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn ethertype(frame: Vec<u8>, kind: [u8; 2]) -> Vec<u8> {
    let mut frame = frame;
    frame[12..14].copy_from_slice(&kind);
    frame
}

fn to_mac(frame: Vec<u8>, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = frame;
    frame[..6].copy_from_slice(&mac);
    frame
}

/// An ICMP error to `target` about a packet that it sent from a port.
fn error_about(target: &str, protocol: u8, port: u16) -> Vec<u8> {
    let quoted = from(target, "10.244.0.1:8080")
        .frame(protocol, &[&port.to_be_bytes()[..], &[0x1f, 0x90, 0, 8, 0, 0]].concat());
    let mut message = [&[icmpv4::UNREACHABLE, 1, 0, 0, 0, 0, 0, 0], &quoted[14..42]].concat();
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    from(CLIENT, target).frame(1, &message)
}

fn arp_of(operation: Operation, sender: [u8; 4], target: [u8; 4], destination: [u8; 6]) -> Vec<u8> {
    let (sender, target) = (u32::from_be_bytes(sender), u32::from_be_bytes(target));
    Arp { operation, sender_mac: ROUTER_MAC, sender, target_mac: MAC, target }.frame(destination).to_vec()
}

/// Everything that comes in over a port with a tap, its fate, and how many frames leave.
#[test]
fn each_packet_goes_to_its_service_or_to_the_kernel_and_never_to_both() {
    let own = |port: u16| to(&format!("192.0.2.1:{port}"));
    let echo = |target: &str, kind: u8| {
        let mut message = [kind, 0, 0, 0, 0, 1, 0, 1];
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        to(target).frame(1, &message)
    };
    let datagram = |target: &str| udp::datagram(&to(target), b"some bytes");
    let all = [0xff; 6];
    let rows: Vec<(&str, Vec<u8>, &str, usize)> = vec![
        ("SSH", tcp::segment(&own(22), 1, 0, SYN, b""), "to_kernel", 0),
        ("BGP", tcp::segment(&own(179), 9, 9, ACK, b"open"), "to_kernel", 0),
        ("a name", datagram("192.0.2.1:53"), "to_kernel", 0),
        ("an answer to the kernel", datagram("192.0.2.1:40000"), "to_kernel", 0),
        ("ping", echo("192.0.2.1:0", 8), "to_kernel", 0),
        ("an answered ping", echo("192.0.2.1:0", 0), "to_kernel", 0),
        ("an ICMP error", error_about("192.0.2.1:40000", 6, 40_000), "to_kernel", 0),
        ("GRE", with(datagram("192.0.2.1:1"), |f| f[23] = 47), "to_kernel", 0),
        ("first fragment", with(datagram("192.0.2.1:1"), |f| f[20] = 0x20), "to_kernel", 0),
        ("last fragment", with(datagram("192.0.2.1:1"), |f| f[21] = 9), "to_kernel", 0),
        ("IPv6", ethertype(datagram("192.0.2.1:1"), [0x86, 0xdd]), "to_kernel", 0),
        (
            "IPv6 cut off",
            ethertype(datagram("192.0.2.1:1")[..30].to_vec(), [0x86, 0xdd]),
            "other_ethertype",
            0,
        ),
        ("VLAN", ethertype(datagram("192.0.2.1:1"), [0x81, 0]), "to_kernel", 0),
        (
            "LLDP",
            to_mac(ethertype(datagram("192.0.2.1:1"), [0x88, 0xcc]), [1, 0x80, 0xc2, 0, 0, 0x0e]),
            "to_kernel",
            0,
        ),
        (
            "neighbour solicitation",
            to_mac(ethertype(datagram("192.0.2.1:1"), [0x86, 0xdd]), [0x33, 0x33, 0xff, 0, 0, 1]),
            "to_kernel",
            0,
        ),
        ("OSPF", to_mac(datagram("224.0.0.5:1"), [1, 0, 0x5e, 0, 0, 5]), "to_kernel", 0),
        ("broadcast", to_mac(datagram("255.255.255.255:67"), all), "to_kernel", 0),
        (
            "our own broadcast that came back",
            {
                let mut frame = to_mac(datagram("255.255.255.255:67"), all);
                frame[6..12].copy_from_slice(&MAC);
                frame
            },
            "other_mac",
            0,
        ),
        ("ARP answer to the kernel", arp_of(Operation::Reply, [192, 0, 2, 77], OWN, MAC), "to_kernel", 0),
        ("ARP answer to both", arp_of(Operation::Reply, [192, 0, 2, 254], OWN, MAC), "to_kernel", 0),
        (
            "ARP announcement",
            arp_of(Operation::Request, [192, 0, 2, 77], [192, 0, 2, 77], all),
            "to_kernel",
            0,
        ),
        (
            "ARP request for the gateway",
            arp_of(Operation::Request, [192, 0, 2, 77], OWN, all),
            "arp_handled",
            1,
        ),
        (
            "ARP request for a VIP",
            arp_of(Operation::Request, [192, 0, 2, 77], [203, 0, 113, 80], all),
            "arp_handled",
            1,
        ),
        (
            "ARP request for others",
            arp_of(Operation::Request, [192, 0, 2, 77], [192, 0, 2, 78], all),
            "arp_ignored",
            0,
        ),
        ("somebody claims our address", arp_of(Operation::Reply, OWN, [192, 0, 2, 77], all), "arp_bad", 0),
        ("a VIP's other port", datagram("203.0.113.80:81"), "no_frontend", 0),
        ("ping of a VIP", echo(VIP, 8), "echo_replied", 1),
        ("ping of a SNAT address", echo("10.1.0.1:0", 8), "echo_replied", 1),
        ("a late answer to a flow", datagram("10.1.0.1:2000"), "snat_no_flow", 0),
        ("an ICMP error about a VIP", error_about(VIP, 6, 80), "icmp_no_flow", 0),
        ("a fragment of ICMP for a VIP", with(datagram(VIP), |f| (f[20], f[23]) = (0x20, 1)), "fragment", 0),
        ("routed here in vain", datagram("192.0.2.9:53"), "not_ours", 0),
        ("another host's", to_mac(datagram("192.0.2.1:53"), [2, 0, 0, 0, 0, 7]), "other_mac", 0),
        (
            "a wrong header checksum",
            {
                let mut f = datagram("192.0.2.1:53");
                f[24] ^= 1;
                f
            },
            "bad_ipv4_checksum",
            0,
        ),
        ("a wrong UDP length", with(datagram("192.0.2.1:53"), |f| f[39] = 99), "bad_l4", 0),
        ("from ourselves", udp::datagram(&from("192.0.2.1:53", "192.0.2.1:53"), b""), "bad_source", 0),
        ("from a VIP", udp::datagram(&from("203.0.113.80:80", "192.0.2.1:53"), b""), "bad_source", 0),
        ("from nobody", udp::datagram(&from("127.0.0.1:53", "192.0.2.1:53"), b""), "bad_source", 0),
    ];
    let (mut bed, mut kernel) = gateway();
    for (row, frame, verdict, sent) in rows {
        let mut out = Vec::new();
        let moved = delta(&mut bed, |bed| out = bed.exchange(std::slice::from_ref(&frame)));
        let mut wanted = counted([("rx_packets", 1), (verdict, 1)]);
        if sent > 0 {
            wanted.insert("tx_packets", sent as u64);
        }
        assert_eq!((moved, out.len()), (wanted, sent), "{row}");
        let frames = taken(&mut kernel);
        assert_eq!(frames, if verdict == "to_kernel" { vec![frame] } else { vec![] }, "{row}: as it came");
        bed.now_ms += 1;
    }
    let router =
        bed.shared.neighbours.iter().find(|(hop, _)| hop.address.to_string() == "192.0.2.254").unwrap();
    assert!(router.1.is_resolved(), "what the kernel learns the gateway learns too");
}

#[test]
fn a_port_without_a_tap_keeps_its_verdicts() {
    let mut bed = Bed::new();
    let plan = Plan { taps: vec![None], local_ports: LOCAL_PORTS, listening: vec![] };
    let (mut ends, mut kernel) = rings(plan, 1, Secret::new([5, 6, 7, 8]));
    let worker = bed.workers.remove(0).with_exception(ends.remove(0));
    bed.workers.push(worker);
    let rows = [
        (udp::datagram(&to("192.0.2.1:53"), b""), "own_address"),
        (ethertype(udp::datagram(&to(VIP), b""), [0x86, 0xdd]), "other_ethertype"),
        (to_mac(udp::datagram(&to(VIP), b""), [0xff; 6]), "other_mac"),
        (arp_of(Operation::Reply, [192, 0, 2, 77], OWN, MAC), "arp_ignored"),
    ];
    for (frame, verdict) in rows {
        let moved = delta(&mut bed, |bed| drop(bed.exchange(&[frame])));
        assert_eq!(moved, counted([("rx_packets", 1), (verdict, 1)]));
    }
    assert!(taken(&mut kernel).is_empty());
}

/// What the kernel sends, and what becomes of it.
#[test]
fn the_kernel_speaks_for_its_own_addresses_alone() {
    let (mut bed, mut kernel) = gateway();
    let datagram = |source: &str| udp::datagram(&from(source, "198.51.100.7:9"), b"");
    let long = |len: usize| with(datagram("192.0.2.1:53"), |f| f.resize(len, 0));
    let ipv6 = |source: &str| {
        let source = format!("[{source}]:53").parse().unwrap();
        udp::datagram(&flight::Flight { source, ..from("192.0.2.1:53", "[2001:db8::9]:9") }, b"")
    };
    let say = |sender: [u8; 4]| arp_of(Operation::Reply, sender, [192, 0, 2, 9], ROUTER_MAC);
    let rows = [
        ("its own", datagram("192.0.2.1:53"), "from_kernel"),
        ("an address of the host on another NIC", datagram("172.16.0.9:53"), "from_kernel"),
        ("a VIP", datagram("203.0.113.80:80"), "from_kernel_refused"),
        ("a SNAT address", datagram("10.1.0.1:2000"), "from_kernel_refused"),
        ("IPv6", ipv6("2001:db8::5"), "from_kernel"),
        ("half an IPv6 header", ipv6("2001:db8::5")[..53].to_vec(), "from_kernel_refused"),
        ("an ARP request", arp::request(MAC, 0xc000_0201, 0xc000_02fe).to_vec(), "from_kernel"),
        ("ARP for a VIP", say([203, 0, 113, 80]), "from_kernel_refused"),
        ("ARP for a SNAT address", say(SNAT), "from_kernel_refused"),
        ("as long as the link takes", long(1_514), "from_kernel"),
        ("longer", long(1_515), "from_kernel_refused"),
        ("with a VLAN tag", ethertype(long(1_518), [0x81, 0]), "from_kernel"),
        ("with a VLAN tag and longer", ethertype(long(1_519), [0x81, 0]), "from_kernel_refused"),
        ("half a header", long(1_514)[..13].to_vec(), "from_kernel_refused"),
        ("half an IPv4 header", long(1_514)[..29].to_vec(), "from_kernel_refused"),
    ];
    for (row, bytes, tally) in rows {
        let frame = bed.nic.io(0).alloc(&bytes).unwrap();
        kernel.send(0, frame).unwrap();
        let moved = delta(&mut bed, Bed::turn);
        let leaves = tally == "from_kernel";
        let wanted = if leaves { counted([(tally, 1), ("tx_packets", 1)]) } else { counted([(tally, 1)]) };
        assert_eq!(moved, wanted, "{row}");
        assert_eq!(bed.nic.take_sent(), if leaves { vec![bytes] } else { vec![] }, "{row}: as it is");
    }
    let frame = bed.nic.io(0).alloc(&datagram("192.0.2.1:53")).unwrap();
    kernel.send(9, frame).unwrap();
    assert_eq!(delta(&mut bed, Bed::turn), counted([("from_kernel_refused", 1)]), "no such port");
}

#[test]
fn a_full_transmit_queue_loses_the_kernels_frames_and_holds_up_nobody() {
    let (mut bed, mut kernel) = gateway();
    bed.nic.limit_tx(0);
    for _ in 0..200 {
        let frame = bed.nic.io(0).alloc(&udp::datagram(&from("192.0.2.1:53", CLIENT), b"")).unwrap();
        kernel.send(0, frame).unwrap();
    }
    let moved = delta(&mut bed, Bed::turn);
    assert_eq!(moved, counted([("from_kernel", 64), ("from_kernel_lost", 136)]));
}

/// An address that is the gateway's own and a SNAT address: flows first, then the kernel.
#[test]
fn replies_to_flows_never_come_to_a_kernel_with_the_same_address() {
    let (mut bed, mut kernel) = behind(Bed::new(), &[OWN, SNAT]);
    let kernel_port = format!("10.1.0.1:{}", LOCAL_PORTS.0 + 7);
    let mut ports = Vec::new();
    for client in 0..2_000u16 {
        let query = udp::datagram(&from(&format!("198.51.100.7:{}", 1_024 + client), VIP), b"question");
        let out = bed.pass_through(&query);
        let answer = udp::datagram(&answer_to(&out), b"answer");
        let moved = delta(&mut bed, |bed| assert_eq!(bed.exchange(std::slice::from_ref(&answer)).len(), 1));
        assert_eq!(moved, counted([("rx_packets", 1), ("tx_packets", 1), ("forwarded", 1)]));
        ports.push(ends(&out).0.port());
    }
    assert!(taken(&mut kernel).is_empty(), "not one answer");
    assert!(ports.iter().all(|port| !(LOCAL_PORTS.0..=LOCAL_PORTS.1).contains(port)), "{ports:?}");
    assert!(ports.iter().all(|port| *port >= 1_024 && !(30_000..=32_767).contains(port)));

    // From a backend, on a port that SNAT does not use towards it.
    let free = (1_024..u16::MAX).find(|port| !ports.contains(port)).unwrap();
    let stray = |target: &str| udp::datagram(&from("10.244.0.1:8080", target), b"");
    let rows = [
        ("an answer to the kernel", stray(&kernel_port), "to_kernel"),
        ("of no flow", stray(&format!("10.1.0.1:{free}")), "to_kernel"),
        ("SSH", tcp::segment(&to("10.1.0.1:22"), 1, 0, SYN, b""), "to_kernel"),
        ("a first fragment of no flow", with(stray(&kernel_port), |f| f[20] = 0x20), "to_kernel"),
        ("the last one", with(stray(&kernel_port), |f| f[21] = 1), "to_kernel"),
        (
            "a fragment of no protocol of flows",
            with(stray(&kernel_port), |f| (f[20], f[23]) = (0x20, 1)),
            "fragment",
        ),
        (
            "an error about a flow",
            error_about(&format!("10.1.0.1:{}", ports[0]), 17, ports[0]),
            "icmp_no_flow",
        ),
        ("an error about an unused SNAT port", error_about("10.1.0.1:1", 6, free), "icmp_no_flow"),
        ("an error about the kernel's", error_about("10.1.0.1:1", 6, LOCAL_PORTS.0), "to_kernel"),
        ("an error about SSH", error_about("10.1.0.1:1", 6, 22), "to_kernel"),
        ("an error about a ping", error_about("10.1.0.1:1", 1, 2_000), "to_kernel"),
        (
            "an error about a later fragment",
            with(error_about("10.1.0.1:1", 6, 22), |f| f[14 + 28 + 7] = 9),
            "icmp_bad",
        ),
        (
            "an error that quotes nothing",
            from(CLIENT, "10.1.0.1:1").frame(1, &[3, 1, 0xfc, 0xfe, 0, 0, 0, 0]),
            "icmp_bad",
        ),
    ];
    for (row, frame, verdict) in rows {
        let moved = delta(&mut bed, |bed| assert!(bed.exchange(std::slice::from_ref(&frame)).is_empty()));
        assert_eq!(moved, counted([("rx_packets", 1), (verdict, 1)]), "{row}");
        assert_eq!(taken(&mut kernel).len(), usize::from(verdict == "to_kernel"), "{row}");
        bed.now_ms += 1;
    }
}

/// With workers that hand over, a reply may come to the wrong one first: still not to the kernel.
#[test]
fn replies_find_their_worker_before_the_kernel() {
    let mut bed = Bed::bare(3, &Spread::Unknown, 4_096);
    bed.serve(&["10.244.0.1:8080", "10.244.0.2:8080"]);
    bed.know_router();
    let (mut bed, mut kernel) = behind(bed, &[OWN, SNAT]);
    for client in 0..300u16 {
        let query = udp::datagram(&from(&format!("198.51.100.7:{}", 1_024 + client), VIP), b"question");
        let out = bed.pass_through(&query);
        for _ in 0..3 {
            let back = bed.pass_through(&udp::datagram(&answer_to(&out), b"answer"));
            assert_eq!(ends(&back).1.port(), 1_024 + client);
        }
    }
    assert_eq!(bed.counts().get("to_kernel"), None);
    let asked: Vec<_> = (0..90u16)
        .map(|n| udp::datagram(&from(&format!("198.51.100.9:{}", 3_000 + n), "192.0.2.1:53"), b""))
        .collect();
    assert!(bed.exchange(&asked).is_empty());
    assert_eq!((bed.counts()["to_kernel"], taken(&mut kernel).len()), (90, 90));
    let passed =
        |worker: usize| bed.workers[worker].counters().verdict(turnpike_forward::verdict::Verdict::ToKernel);
    assert!((0..3).all(|worker| passed(worker) > 0), "every worker has a way of its own");
}

/// A flood to the own address costs the flood itself: Services, neighbours and other far hosts go on.
#[test]
fn a_flood_to_the_own_address_is_bounded_and_harms_nobody() {
    let (mut bed, mut kernel) = gateway();
    let question = udp::datagram(&to(VIP), b"question");
    let flow = bed.pass_through(&question);
    let flood = udp::datagram(&from("198.51.100.66:7", "192.0.2.1:7"), b"flood");
    let (other, neighbour) = (
        udp::datagram(&from("198.51.100.99:7", "192.0.2.1:53"), b"a question"),
        udp::datagram(&from("192.0.2.254:179", "192.0.2.1:179"), b"keepalive"),
    );
    let per_ms = 200;
    let (mut others, mut floods) = (0, 0);
    let before = bed.counts();
    for ms in 0..1_000u64 {
        let burst: Vec<_> = std::iter::repeat_n(flood.clone(), per_ms).collect();
        assert!(bed.exchange(&burst).is_empty());
        if ms % 10 == 0 {
            assert!(bed.exchange(&[other.clone(), neighbour.clone()]).is_empty());
            assert_eq!(ends(&bed.pass_through(&question)), ends(&flow), "the flow goes on");
        }
        for frame in taken(&mut kernel) {
            if frame == flood { floods += 1 } else { others += 1 }
        }
        bed.now_ms += 1;
    }
    assert_eq!(others, 200, "every question and every keepalive has come");
    let half = u64::from(EXCEPTION_FRAMES_PER_SECOND) / 2;
    let burst = half * u64::from(EXCEPTION_BURST_MS) / 1_000;
    assert!((half - 100..=half + burst).contains(&floods), "{floods}");
    let moved =
        |name: &str| bed.counts().get(name).copied().unwrap_or(0) - before.get(name).copied().unwrap_or(0);
    assert_eq!(moved("to_kernel") + moved("kernel_limited") + moved("forwarded"), moved("rx_packets"));
}

#[test]
fn a_kernel_that_takes_nothing_holds_up_nobody() {
    let (mut bed, mut kernel) = gateway();
    let question = udp::datagram(&to(VIP), b"question");
    let flow = bed.pass_through(&question);
    let moved = delta(&mut bed, |bed| {
        for sender in 0..2_000u16 {
            let frame = udp::datagram(
                &from(&format!("198.51.{}.{}:7", 100 + sender / 250, sender % 250 + 1), "192.0.2.1:7"),
                b"",
            );
            assert!(bed.exchange(&[frame]).is_empty());
        }
    });
    let room = EXCEPTION_FRAMES as u64 / 2;
    assert_eq!(moved, counted([("rx_packets", 2_000), ("to_kernel", room), ("kernel_full", 2_000 - room)]));
    assert_eq!(ends(&bed.pass_through(&question)), ends(&flow));
    assert_eq!(flight::check(&bed.pass_through(&question)), Ok(()));
    assert_eq!(taken(&mut kernel).len(), EXCEPTION_FRAMES / 2);
}
