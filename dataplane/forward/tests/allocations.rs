//! A worker allocates nothing while it works: neither for packets of live flows nor for new flows and such that end, nor while somebody watches.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::services::Port;
use harness::{Bed, MAC, answer_to, from};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use std::alloc::System;
use turnpike_forward::explain::{Errand, Question, Task};
use turnpike_forward::handoff::Handoff;
use turnpike_forward::hash::Secret;
use turnpike_forward::verdict::Verdict;
use turnpike_forward::watch::Watch;
use turnpike_forward::worker::Worker;
use turnpike_packet::io::{Burst, Frame, PacketIo, PortInfo, Spread};
use turnpike_packet::tcp::flags::{ACK, FIN, PSH, SYN};
use turnpike_packet::{tcp, udp};
use turnpike_wire::filter::Filter;
use turnpike_wire::update::{FrontendKind, Protocol};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const VIPS: [&str; 2] = ["203.0.113.80:80", "[2001:db8:80::80]:80"];
const FLOWS: u16 = 300;

/// A frame that lies in itself.
struct Inline {
    bytes: [u8; 128],
    len: usize,
}

impl Inline {
    fn new(frame: &[u8]) -> Self {
        let mut bytes = [0; 128];
        bytes[..frame.len()].copy_from_slice(frame);
        // Ethernet pads what is short.
        Self { bytes, len: frame.len().max(60) }
    }
}

impl Frame for Inline {
    fn data(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    fn frame_len(&self) -> usize {
        self.len
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    fn trim_front(&mut self, _: usize) -> bool {
        false
    }

    fn grow_front(&mut self, _: usize) -> bool {
        false
    }

    fn rss_hash(&self) -> Option<u32> {
        None
    }
}

/// A queue pair with room for all that a turn may send.
struct Pair {
    info: PortInfo,
    rx: Vec<Inline>,
    tx: Vec<Inline>,
}

impl PacketIo for Pair {
    type Frame = Inline;

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn rx(&mut self, into: &mut Burst<Inline>) -> usize {
        let count = into.remaining_capacity().min(self.rx.len());
        into.extend(self.rx.drain(..count));
        count
    }

    fn tx(&mut self, from: &mut Burst<Inline>) -> usize {
        let count = from.len();
        self.tx.extend(from.drain(..));
        count
    }

    fn alloc(&mut self, data: &[u8]) -> Option<Inline> {
        (data.len() <= 128).then(|| Inline::new(data))
    }
}

/// The worker's turns over these frames: what they allocated, and what left.
fn turns(
    worker: &mut Worker<'_, Inline>,
    io: &mut [Pair; 1],
    now_ms: &mut u32,
    frames: &[Vec<u8>],
) -> (Stats, Vec<Vec<u8>>) {
    io[0].rx = frames.iter().map(|frame| Inline::new(frame)).collect();
    io[0].tx = Vec::with_capacity(8 * FLOWS as usize);
    let region = Region::new(GLOBAL);
    while !io[0].rx.is_empty() {
        worker.turn(io, *now_ms);
        *now_ms += 1;
    }
    worker.turn(io, *now_ms);
    let stats = region.change();
    (stats, io[0].tx.iter().map(|frame| frame.data().to_vec()).collect())
}

// One test alone in this program, since others would allocate meanwhile.
#[test]
fn no_turn_allocates() {
    let mut bed = Bed::dual(1, &Spread::Unknown, 1_500);
    let backends: [&[&str]; 2] =
        [&["10.244.0.1:8080", "10.244.0.2:8080"], &["[fd00::1]:8080", "[fd00::2]:8080"]];
    let ports: Vec<Port> = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .flat_map(|protocol| (0..2).map(move |family| (protocol, family)))
        .map(|(protocol, family)| {
            let port = Port::new(["web/IPv4", "web/IPv6"][family], protocol, backends[family]);
            port.on(VIPS[family], FrontendKind::LoadBalancer)
        })
        .collect();
    bed.put(&ports);
    bed.know_router();

    let secret = Secret::new([11, 22, 33, 44]);
    let flows = 8 * u32::from(FLOWS);
    let (v4, v6) = (harness::table(flows, secret), harness::table(flows, secret));
    let handoff = Handoff::mesh(1).pop().unwrap();
    let mut worker = Worker::new(0, bed.shared.clone(), v4, handoff, secret).with_ipv6(v6);
    let info = PortInfo { mac: MAC, mtu: 1_500, spread: Spread::Unknown };
    let mut io = [Pair { info, rx: vec![], tx: vec![] }];
    let mut now_ms = bed.now_ms;

    let there: Vec<_> = VIPS
        .iter()
        .enumerate()
        .flat_map(|(family, vip)| (0..FLOWS).map(move |n| (family, vip, n)))
        .map(|(family, vip, n)| {
            from(&format!("{}:{}", ["198.51.100.7", "[2001:db8:c::7]"][family], 20_000 + n), vip)
        })
        .collect();
    let syns: Vec<_> = there.iter().map(|flight| tcp::segment(flight, 100, 0, SYN, b"")).collect();
    // The first turns take the tables, and let what waits be announced.
    let _ = turns(&mut worker, &mut io, &mut now_ms, &[]);
    let region = Region::new(GLOBAL);
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(region.change().allocations, 1, "what is allocated is counted");
    let clean = |stats: Stats, what: &str| {
        assert_eq!(
            (stats.allocations, stats.deallocations, stats.reallocations),
            (0, 0, 0),
            "{what}: {stats:?}"
        );
    };
    let (stats, sent) = turns(&mut worker, &mut io, &mut now_ms, &syns);
    clean(stats, "new connections");
    let back: Vec<_> =
        sent.iter().filter(|frame| frame.len() > 47 && is_tcp(frame)).map(|f| answer_to(f)).collect();
    assert_eq!(back.len(), there.len());
    let answers: Vec<_> = back.iter().map(|flight| tcp::segment(flight, 500, 101, SYN | ACK, b"")).collect();
    clean(turns(&mut worker, &mut io, &mut now_ms, &answers).0, "answers");
    let steady: Vec<_> = there
        .iter()
        .map(|flight| tcp::segment(flight, 101, 501, ACK | PSH, b"question"))
        .chain(back.iter().map(|flight| tcp::segment(flight, 501, 109, ACK | PSH, b"answer")))
        .collect();
    clean(turns(&mut worker, &mut io, &mut now_ms, &steady).0, "packets of live flows");
    let datagrams: Vec<_> =
        there.iter().map(|flight| udp::datagram(flight, b"a question of its own")).collect();
    clean(turns(&mut worker, &mut io, &mut now_ms, &datagrams).0, "new UDP flows");
    let ends: Vec<_> = there
        .iter()
        .map(|flight| tcp::segment(flight, 109, 507, ACK | FIN, b""))
        .chain(back.iter().map(|flight| tcp::segment(flight, 507, 110, ACK | FIN, b"")))
        .chain(there.iter().map(|flight| tcp::segment(flight, 5_000, 0, SYN, b"")))
        .collect();
    clean(turns(&mut worker, &mut io, &mut now_ms, &ends).0, "connections that end, and begin anew");
    let watch = Watch::new(Filter::default(), 1, 128, 1);
    bed.shared.open_watch(Some(watch.clone()));
    let asked = Errand::new(0, Task::Explain(Question { port: 0, frame: syns[0].clone() }));
    bed.shared.leave(Some(asked.clone()));
    clean(turns(&mut worker, &mut io, &mut now_ms, &datagrams).0, "packets that are watched, and a question");
    assert!(asked.answer().is_some() && watch.next(0, |_| ()), "somebody looked");
    bed.shared.leave(None);
    bed.shared.open_watch(None);
    clean(turns(&mut worker, &mut io, &mut now_ms, &[]).0, "the end of a watch");
    // Ten minutes in which everything ends by its age.
    let region = Region::new(GLOBAL);
    for _ in 0..20_000 {
        now_ms += 30;
        worker.turn(&mut io, now_ms);
    }
    clean(region.change(), "flows that end by age");
    let all = 2 * u64::from(FLOWS) * (1 + 1 + 2 + 1 + 3 + 1);
    assert!(worker.counters().verdict(Verdict::Forwarded) == all, "{:?}", worker.counters());
}

fn is_tcp(frame: &[u8]) -> bool {
    let protocol = if frame[14] >> 4 == 4 { frame[23] } else { frame[20] };
    protocol == 6
}
