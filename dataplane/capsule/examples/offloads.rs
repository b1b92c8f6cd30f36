//! What a NIC would save by doing what Turnpike does in software: nanoseconds a frame, on mbufs, the least of many runs.
//!
//! `cargo run --release -p capsule --example offloads`
#![forbid(unsafe_code)]

use capsule::{Eal, EalConfig, EalError, Mbuf, Memory, Mempool, pin_to_core};
use std::hint::black_box;
use std::time::Instant;
use turnpike_packet::checksum::{ones_complement_sum, transport_sum, updated};
use turnpike_packet::io::{BURST, Burst, Frame};
use turnpike_packet::vlan::{put_on, read, take_off};

const ROUNDS: usize = 2_000;
const RUNS: usize = 51;

/// The least time of all runs, for one frame.
fn measure(name: &str, burst: &mut Burst<Mbuf>, mut work: impl FnMut(&mut Mbuf)) {
    let mut least = f64::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            for frame in burst.iter_mut() {
                work(frame);
            }
        }
        least = least.min(start.elapsed().as_nanos() as f64 / (ROUNDS * BURST) as f64);
    }
    println!("{least:8.2} ns  {name}");
}

/// A TCP segment over IPv4 in an Ethernet frame of `len` bytes.
fn segment(len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let total = ((len - 14) as u16).to_be_bytes();
    frame[14..24].copy_from_slice(&[0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, 6]);
    frame
}

fn main() -> Result<(), EalError> {
    let memory = Memory::Ordinary { mb: 64 };
    let eal = Eal::start(&EalConfig { memory, pci: Vec::new(), nodes: Vec::new() })?;
    let Some(core) = capsule::available_cores().last().copied() else { return Ok(()) };
    let Ok(pool) = Mempool::new(eal, 511, Mempool::DATA_ROOM) else { return Ok(()) };
    if let Err(why) = pin_to_core(core) {
        eprintln!("not pinned: {why}");
    }
    for len in [64, 1514] {
        let mut burst: Burst<Mbuf> = (0..BURST).filter_map(|_| pool.alloc(&segment(len))).collect();
        println!("frames of {len} bytes, {} of them, core {core}", burst.len());
        measure("nothing: the loop itself", &mut burst, |frame| {
            black_box(frame);
        });
        measure("a tag read, taken off and put on (VLAN strip and insert)", &mut burst, |frame| {
            if put_on(frame, black_box(100)) {
                black_box(read(frame.data()));
                black_box(take_off(frame));
            }
        });
        measure("the hash of the NIC read (RSS hash)", &mut burst, |frame| {
            black_box(frame.rss_hash());
        });
        measure("an IPv4 header's checksum checked (receive checksum offload)", &mut burst, |frame| {
            black_box(ones_complement_sum(&frame.data()[14..34]));
        });
        measure(
            "two checksums by their difference, RFC 1624 (against a transmit checksum offload)",
            &mut burst,
            |frame| {
                let data = frame.data_mut();
                for at in [24, 50] {
                    let old = u16::from_be_bytes([data[at], data[at + 1]]);
                    let new = updated(old, black_box(0x0a01), black_box(0xc000));
                    data[at..at + 2].copy_from_slice(&new.to_be_bytes());
                }
            },
        );
        measure(
            "a checksum over the whole segment (what checking each one would cost)",
            &mut burst,
            |frame| {
                black_box(transport_sum(black_box(1), 2, 6, &frame.data()[34..]));
            },
        );
    }
    Ok(())
}
