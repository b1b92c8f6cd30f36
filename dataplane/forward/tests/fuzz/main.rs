//! Fuzzing on stable Rust: inputs are drawn and changed by a seed, those that lead to something new are kept and changed further. New is what
//! moves other counters, or makes other states, than any input before. What each target must hold whatever comes: no panic, one fate for
//! every packet, no wrong checksum that did not come so, no address of ours or of a backend where it must not be.
//!
//! `./scripts/fuzz SECONDS TARGET` runs one for longer. An input that fails is made shorter and left in `regressions/TARGET`, and from then on
//! tried first.
#![allow(clippy::unwrap_used)]

mod frames;
#[path = "../harness/mod.rs"]
mod harness;
mod input;
mod world;

use frames::{ALL, Kind, Menu};
use harness::MAC;
use input::Dice;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use turnpike_forward::parse::{Kind as Parsed, parse};
use turnpike_forward::rewrite::mac_bits;
use turnpike_forward::stage::Staging;
use turnpike_packet::icmpv4_error::Quoted;
use turnpike_packet::tcp_segment::Segment;
use turnpike_wire::codec::{decode_event, decode_update, encode_update};
use world::World;

/// How long a target runs where nobody says.
const SECONDS: u64 = 3;
/// Inputs that are kept to be changed.
const KNOWN_MAX: usize = 4_096;
/// Tries to make a failing input shorter.
const SHORTER_TRIES: usize = 400;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/regressions").join(target)
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Runs a target on what failed once, then on what the seed makes until the time is over. `meet` gives what was special about an input.
fn fuzz<W>(target: &str, world: impl Fn() -> W, meet: impl Fn(&mut W, &[u8]) -> u64) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder(target))
        .map(|all| all.map(|f| f.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    let mut here = world();
    let mut known: Vec<Vec<u8>> = Vec::new();
    for file in files {
        println!("{target}: {}", file.display());
        let input = std::fs::read(&file).unwrap();
        meet(&mut here, &input);
        known.push(input);
    }
    let mut dice = Dice(number("FUZZ_SEED", 1));
    let (mut seen, mut inputs) = (HashSet::new(), 0u64);
    let end = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS", SECONDS));
    while Instant::now() < end {
        let input = dice.input(&known);
        inputs += 1;
        match catch_unwind(AssertUnwindSafe(|| meet(&mut here, &input))) {
            Ok(met) => {
                if seen.insert(met) && !input.is_empty() && known.len() < KNOWN_MAX {
                    known.push(input);
                }
            }
            Err(_) => {
                let fails =
                    |input: &[u8]| catch_unwind(AssertUnwindSafe(|| meet(&mut world(), input))).is_err();
                let file = keep(target, &shorter(input, &mut dice, fails));
                panic!("{target}: input {inputs} fails; it is kept in {}", file.display());
            }
        }
    }
    println!("{target}: {inputs} inputs, {} of them led to something new", known.len());
    assert!(known.len() > 1, "{target}: no input leads anywhere");
}

/// The same with less in it, as long as it fails.
fn shorter(mut input: Vec<u8>, dice: &mut Dice, fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    for _ in 0..SHORTER_TRIES {
        let at = dice.below(input.len());
        let end = (at + 1 + dice.below(input.len() / 4)).min(input.len());
        let less = [&input[..at], &input[end..]].concat();
        if fails(&less) {
            input = less;
        }
    }
    input
}

fn keep(target: &str, input: &[u8]) -> PathBuf {
    let file = folder(target).join(format!("{:016x}.bin", hash(input)));
    std::fs::create_dir_all(folder(target)).unwrap();
    std::fs::write(&file, input).unwrap();
    file
}

fn fuzz_workers(target: &str, kinds: &'static [Kind], has_tap: bool) {
    let menu = Menu { kinds, has_tap };
    fuzz(target, World::new, move |world, input| world.meet(input, menu));
}

#[test]
fn parse_reads_anything() {
    fuzz(
        "parse",
        || (),
        |(), input| {
            let mut frame = input.to_vec();
            // The first byte says how much is made right, so that what is behind it is reached.
            let how = frame.first().copied().unwrap_or(0);
            if frame.len() >= 14 && how & 1 == 0 {
                frame[..6].copy_from_slice(&MAC);
                frame[12..14].copy_from_slice(if how & 2 == 0 { &[8, 0] } else { &[0x86, 0xdd] });
            }
            if frame.len() >= 34 && how & 7 == 0 {
                frame[14] = 0x45 + (how >> 5);
                let end = (14 + usize::from(frame[14] & 0x0f) * 4).min(frame.len());
                let length = (frame.len() - 14) as u16;
                frame[16..18].copy_from_slice(&length.to_be_bytes());
                frame[24..26].fill(0);
                let sum = turnpike_packet::checksum::checksum(&frame[14..end]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            let head = &frame[..frame.len() - usize::from(how >> 4).min(frame.len())];
            let (key, packet) = parse(head, frame.len(), mac_bits(MAC));
            let kind = packet.kind();
            if matches!(kind, Parsed::Flow | Parsed::Echo | Parsed::IcmpError) {
                assert!(packet.l4() + 8 <= head.len(), "{kind:?} without its header");
            }
            let _ = Segment::read(head);
            let quoted = Quoted::read(head).map(|quoted| quoted.protocol);
            hash((std::mem::discriminant(&kind), format!("{kind:?}"), key.protocol(), quoted.ok()))
        },
    );
}

#[test]
fn records_decode_or_are_refused() {
    fuzz("records", Staging::new, |staging, input| {
        let _ = decode_event(input);
        let Ok(update) = decode_update(input) else { return hash(input.first()) };
        let mut again = Vec::new();
        encode_update(&update, &mut again).unwrap();
        assert_eq!(decode_update(&again).unwrap(), update, "what was read is what is written");
        let met = hash(std::mem::discriminant(&update));
        hash((met, staging.take(update).is_some_and(|tables| tables.is_ok())))
    });
}

#[test]
fn icmp_errors_are_translated_or_dropped() {
    fuzz_workers(
        "icmp",
        &[Kind::Tcp, Kind::Udp, Kind::Sctp, Kind::Answer, Kind::Error, Kind::Error, Kind::Echo],
        false,
    );
}

#[test]
fn tcp_is_tracked_whatever_it_says() {
    fuzz_workers("tcp", &[Kind::Tcp, Kind::Tcp, Kind::Answer, Kind::Again], false);
}

#[test]
fn fragments_are_held_or_dropped() {
    fuzz_workers(
        "fragments",
        &[Kind::Fragments, Kind::Fragments, Kind::Udp, Kind::Answer, Kind::Again],
        false,
    );
}

#[test]
fn the_exception_path_takes_what_is_the_kernels() {
    fuzz_workers("exception", ALL, true);
}

#[test]
fn workers_turn_whatever_comes() {
    fuzz_workers("turns", ALL, false);
}
