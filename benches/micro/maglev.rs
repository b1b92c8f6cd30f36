//! Maglev tables from backends.

use criterion::{Criterion, Throughput};
use std::hint::black_box;
use turnpike_forward::hash::Secret;
use turnpike_forward::maglev::{Maglev, Member};

/// Sizes that others use: 65,537 is Turnpike's own too.
const SLOTS: [u32; 2] = [65_537, 655_373];
const BACKENDS: [u16; 2] = [100, 1_000];

fn members(count: u16) -> Vec<Member> {
    let member = |n| Member { identity: 0x0a80_0000_1f90 + (u64::from(n) << 16), weight: 1, position: n };
    (0..count).map(member).collect()
}

/// Whole builds of tables of one size, of those that a Service gets, and with weights.
pub fn build(criterion: &mut Criterion) {
    let key = Secret::from_pair([3, 4]);
    let mut group = criterion.benchmark_group("maglev");
    group.sample_size(10);
    for slots in SLOTS {
        for backends in BACKENDS {
            let members = members(backends);
            group.throughput(Throughput::Elements(u64::from(slots)));
            group.bench_function(format!("{slots} slots/{backends} backends"), |bencher| {
                bencher.iter(|| {
                    assert!(black_box(Maglev::build_of(black_box(slots), &members, &key)).is_some());
                });
            });
        }
    }
    for backends in [10, 100, 1_000] {
        let members = members(backends);
        group.throughput(Throughput::Elements(u64::from(Maglev::size_for(members.len()))));
        group.bench_function(format!("of a Service/{backends} backends"), |bencher| {
            bencher.iter(|| Maglev::build(black_box(&members), &key));
        });
        let mut weighted = members;
        weighted.iter_mut().for_each(|member| member.weight = 1 + member.position % 100);
        group.bench_function(format!("of a Service/{backends} backends with weights"), |bencher| {
            bencher.iter(|| Maglev::build(black_box(&weighted), &key));
        });
    }
    group.finish();
}
