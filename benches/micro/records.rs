//! What goes between control plane and dataplane: records, and the ring that they go through.

use criterion::{Criterion, Throughput};
use std::hint::black_box;
use std::net::SocketAddr;
use turnpike_shm::{ControlSide, DataplaneSide, Popped};
use turnpike_wire::codec;
use turnpike_wire::update::{Backend, BackendState, ServiceKey, Update};

/// Records at a time.
const RECORDS: u16 = 64;

fn updates() -> Vec<Update> {
    let backend = |n: u16| {
        let backend = Backend {
            address: SocketAddr::from(([10, 128, 0, n as u8], 8_080)),
            weight: 1,
            state: BackendState::Ready,
            in_cluster_set: true,
            in_local_set: false,
            serving: true,
        };
        Update::PutBackend(ServiceKey("default/web:http/TCP".into()), backend)
    };
    (0..RECORDS).map(backend).collect()
}

fn encoded(updates: &[Update]) -> Vec<Vec<u8>> {
    let encode = |update| {
        let mut record = Vec::new();
        match codec::encode_update(update, &mut record) {
            Ok(()) => record,
            Err(error) => unreachable!("{error}"),
        }
    };
    updates.iter().map(encode).collect()
}

/// Updates to bytes and back.
pub fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(u64::from(RECORDS)));
    let updates = updates();
    let records = encoded(&updates);
    let mut record = Vec::new();
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            for update in black_box(&updates) {
                record.clear();
                assert!(codec::encode_update(update, &mut record).is_ok());
            }
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            for record in black_box(&records) {
                assert!(black_box(codec::decode_update(record)).is_ok());
            }
        });
    });
    group.finish();
}

/// Records through the ring of a real control file, in and out by one thread.
pub fn ring(criterion: &mut Criterion) {
    /// As large as the daemon's.
    const BYTES: usize = 8 << 20;
    let mut group = criterion.benchmark_group("ring");
    group.throughput(Throughput::Elements(u64::from(RECORDS)));
    let records = encoded(&updates());
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => unreachable!("no folder for the ring: {error}"),
    };
    let (mut consumer, mut producer) =
        match (DataplaneSide::create(folder.path(), BYTES, BYTES), ControlSide::open(folder.path())) {
            (Ok(consumer), Ok(producer)) => (consumer, producer),
            (Err(error), _) | (_, Err(error)) => unreachable!("{error}"),
        };
    let mut record = Vec::new();
    assert_eq!(consumer.updates().pop(&mut record), Ok(Popped::NewEpoch));
    group.bench_function("push and pop", |bencher| {
        bencher.iter(|| {
            for record in &records {
                assert!(producer.updates().push(black_box(record)).is_ok());
            }
            for wanted in &records {
                assert_eq!(consumer.updates().pop(&mut record), Ok(Popped::Record));
                assert_eq!(record.len(), wanted.len());
            }
        });
    });
    group.finish();
}
