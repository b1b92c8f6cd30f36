//! What a change of the cluster costs: the tables of all Services made anew, against those of the one Service that changed.

use criterion::{BatchSize, Criterion};
use std::hint::black_box;
use std::sync::Arc;
use turnpike_benches::world::{BACKENDS, World};
use turnpike_forward::address::Family;
use turnpike_forward::service_table::Tables;
use turnpike_forward::stage::Staging;
use turnpike_wire::update::{Commit, Protocol, Update};

const SERVICES: u32 = 1_000;

/// Takes a whole transaction.
fn committed(staging: &mut Staging, updates: Vec<Update>) -> Arc<Tables> {
    let tables = updates.into_iter().filter_map(|update| staging.take(update)).last();
    match tables {
        Some(Ok(tables)) => tables,
        Some(Err(refusal)) => unreachable!("the transaction was refused: {refusal:?}"),
        None => unreachable!("the transaction has an end"),
    }
}

/// All tables, and those of one change.
pub fn tables(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tables");
    group.sample_size(10);
    let world = World { family: Family::V4, services: SERVICES, udp: false };
    let snapshot = world.snapshot();
    group.bench_function(format!("all of {SERVICES} Services, {BACKENDS} backends each"), |bencher| {
        bencher.iter_batched(
            || (Staging::new(), snapshot.clone()),
            |(mut staging, updates)| (committed(&mut staging, updates), staging),
            BatchSize::PerIteration,
        );
    });
    let mut staging = Staging::new();
    let mut tables = committed(&mut staging, snapshot);
    let mut changes = 0;
    group.bench_function(format!("one backend more or less, of {SERVICES} Services"), |bencher| {
        bencher.iter(|| {
            let (service, last) = (changes / 2 % SERVICES, BACKENDS - 1);
            let update = if changes % 2 == 0 {
                world.drop_backend(service, Protocol::Tcp, last)
            } else {
                world.put_backend(service, Protocol::Tcp, last)
            };
            changes += 1;
            let generation = tables.generation + 1;
            let commit = Update::Commit(Commit { generation, revision: generation as i64, records: 1 });
            tables = black_box(committed(&mut staging, vec![update, commit]));
        });
    });
    group.finish();
}
