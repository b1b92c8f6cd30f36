//! The flow table: what `tables` measures at length, at two sizes and half full.

use criterion::{BatchSize, Criterion, Throughput};
use std::hint::black_box;
use turnpike_benches::contenders::{BATCH, Contender, Own, keys_of};
use turnpike_forward::flow_key::FlowKey;
use turnpike_forward::flow_table::FlowTable;
use turnpike_forward::hash::{Random, Secret, scale};
use turnpike_shm::{HugeMemory, Pages};

/// Flows that there is room for; half of them are live.
const SIZES: [u32; 2] = [1 << 10, 1 << 18];
/// Keys that are looked up in turn, more than a branch predictor learns.
const KEYS: usize = 1 << 16;
const SECRET: Secret = Secret::new([1, 2, 3, 4]);

/// Ordinary pages unless there are huge ones.
fn memory(flows: u32) -> HugeMemory {
    match HugeMemory::new(FlowTable::<FlowKey>::memory_bytes(flows), Pages::Auto) {
        Ok(memory) => memory,
        Err(error) => unreachable!("{error}"),
    }
}

fn half_full(memory: &mut HugeMemory, flows: u32) -> Own<'_> {
    let Ok(mut table) = Own::new(memory.bytes_mut(), flows, SECRET) else {
        unreachable!("the memory is of its size")
    };
    (0..flows / 2).for_each(|flow| assert!(table.insert(flow).is_ok()));
    table
}

/// Keys that are there and keys that are not, singly and in batches.
pub fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(BATCH as u64));
    for flows in SIZES {
        let mut memory = memory(flows);
        let mut table = half_full(&mut memory, flows);
        let mut random = Random::new(&SECRET, 0);
        for (name, first) in [("hit", 0), ("miss", flows)] {
            let any = |_| keys_of(first + scale(random.next(), flows / 2))[(random.next() >> 31) as usize];
            let keys: Vec<FlowKey> = (0..KEYS).map(any).collect();
            let wanted = if first == 0 { BATCH as u64 } else { 0 };
            let mut singly = keys.chunks_exact(BATCH).cycle();
            group.bench_function(format!("{name}/{flows}/singly"), |bencher| {
                bencher.iter(|| assert_eq!(table.look_up_singly(singly.next().unwrap_or(&[])).hits, wanted));
            });
            let mut batches = keys.chunks_exact(BATCH).cycle();
            group.bench_function(format!("{name}/{flows}/batch"), |bencher| {
                bencher.iter(|| assert_eq!(table.look_up(batches.next().unwrap_or(&[])).hits, wanted));
            });
        }
    }
    group.finish();
}

/// A flow under both its keys, into a table that is half full and with room to the end.
pub fn insert(criterion: &mut Criterion) {
    /// Flows that are inserted and taken back.
    const MORE: u32 = 256;
    let mut group = criterion.benchmark_group("insert");
    group.throughput(Throughput::Elements(u64::from(MORE)));
    for flows in SIZES {
        let mut memory = memory(flows);
        let mut table = half_full(&mut memory, flows);
        group.bench_function(format!("and remove/{flows}"), |bencher| {
            bencher.iter_batched(
                || flows..flows + MORE,
                |more| black_box(table.insert_and_remove(more)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}
