//! Reading and rewriting headers.

use criterion::{BatchSize, Criterion, Throughput};
use std::hint::black_box;
use std::net::SocketAddr;
use turnpike_benches::frames::{Ends, Template};
use turnpike_benches::world::flight;
use turnpike_forward::cpu::{Cpu, Level, Work};
use turnpike_forward::flow_key::FlowKey;
use turnpike_forward::parse::{self, PLAIN, Start};
use turnpike_forward::parse6;
use turnpike_forward::rewrite::{Addressing, Deltas, Translation};
use turnpike_packet::tcp::flags;

/// Frames at a time, as in a burst.
const FRAMES: usize = 64;

/// Frames of as many flows.
fn frames<const N: usize>(client: &str, vip: &str) -> Vec<Vec<u8>> {
    let end = |text: &str, n: u16| {
        let mut end: SocketAddr = text.parse().unwrap_or_else(|_| unreachable!("{text} is an end"));
        end.set_port(end.port() + n);
        end
    };
    let vip = end(vip, 0);
    let template = Template::tcp(&flight(end(client, 0), vip), [1, 1], flags::ACK, &[]);
    let Ok(template) = template else { unreachable!("a segment without options is a template") };
    let write = |n| {
        let mut frame = vec![0; template.len()];
        let Some(ends) = Ends::<N>::new(end(client, n), vip) else { unreachable!("both are of one family") };
        template.write(&ends, &mut frame);
        frame
    };
    (0..FRAMES as u16).map(write).collect()
}

/// The Ethernet address that frames are for.
fn mac(frame: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(&frame[..6]);
    u64::from_le_bytes(bytes)
}

/// The fast reading of a burst, with what the processor has.
struct Glances<'a> {
    frames: &'a [Vec<u8>],
    start: &'a Start,
}

impl Work for Glances<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<L: Level>(self) -> usize {
        let read = |frame: &&Vec<u8>| black_box(parse::glance::<L>(frame, frame.len(), self.start)).is_some();
        self.frames.iter().filter(read).count()
    }
}

/// Frames to keys and verdicts.
pub fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let frames4 = frames::<12>("203.0.113.9:20000", "198.51.100.1:80");
    let frames6 = frames::<36>("[2001:db8::9]:20000", "[2001:db8:1::1]:80");
    let (mac, cpu) = (mac(&frames4[0]), Cpu::detect());
    let start = parse::start(mac);
    group.bench_function("ipv4/steady", |bencher| {
        bencher.iter(|| {
            let read = cpu.run(Glances { frames: black_box(&frames4), start: &start });
            assert_eq!(read, FRAMES);
        });
    });
    group.bench_function("ipv4/with care", |bencher| {
        bencher.iter(|| {
            for frame in black_box(&frames4) {
                black_box(parse::read(frame, frame.len(), mac));
            }
        });
    });
    group.bench_function("ipv6/steady", |bencher| {
        bencher.iter(|| {
            for frame in black_box(&frames6) {
                black_box(parse6::parse(frame, frame.len(), mac));
            }
        });
    });
    group.finish();
}

/// New addresses, ports and checksums.
pub fn rewrite(criterion: &mut Criterion) {
    const TCP: u8 = 6;
    let mut group = criterion.benchmark_group("rewrite");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let frames = frames::<12>("203.0.113.9:20000", "198.51.100.1:80");
    let heads: Vec<[u8; PLAIN]> = frames.iter().filter_map(|frame| frame.first_chunk().copied()).collect();
    assert_eq!(heads.len(), FRAMES);
    // From the client to the VIP, and from the backend to the SNAT port.
    let forward = FlowKey::new(TCP, 0xcb00_7109, 0xc633_6401, 20_000, 80);
    let reply = FlowKey::new(TCP, 0x0a80_0001, 0x0a01_0001, 8_080, 30_000);
    let link = Addressing::new(0x0008_0605_0403_0201, 0x0000_0a0b_0c0d_0e0f);
    let [deltas, _] = Deltas::both_ways(forward, reply);
    let translation = Translation::new(reply, true, deltas);
    group.bench_function("ipv4/steady", |bencher| {
        bencher.iter_batched_ref(
            || heads.clone(),
            |heads| heads.iter_mut().for_each(|head| assert!(translation.apply_plain(head, link))),
            BatchSize::LargeInput,
        );
    });
    group.bench_function("deltas of a new flow", |bencher| {
        bencher.iter(|| {
            for _ in 0..FRAMES {
                black_box(Deltas::both_ways(black_box(forward), black_box(reply)));
            }
        });
    });
    group.finish();
}
