//! Models of the ring: loom runs every interleaving, with every value a relaxed load may return.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p turnpike-shm --release --lib loom`

use crate::ring::{Consumer, HEADER_WORDS, Popped, Producer, PushError};
use crate::sync::AtomicU64;
use loom::thread;
use std::sync::Arc;

type Memory = Arc<Vec<AtomicU64>>;

fn memory(data_words: usize) -> Memory {
    Arc::new((0..HEADER_WORDS + data_words).map(|_| AtomicU64::new(0)).collect())
}

fn model(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

/// Claims 1, 5: room for one record only, so each push writes over the words of the one before.
#[test]
fn loom_records_are_whole_and_in_order() {
    model(4, || {
        let memory = memory(4);
        let mut consumer = Consumer::attach(Arc::clone(&memory)).unwrap();
        let mut producer = Producer::attach(memory).unwrap();
        let writer = thread::spawn(move || {
            let mut sent = 0u8;
            for _ in 0..3 {
                match producer.push(&[sent + 1; 16]) {
                    Ok(()) => sent += 1,
                    Err(PushError::Full) => thread::yield_now(),
                    Err(e) => panic!("{e}"),
                }
            }
            sent
        });
        let mut record = Vec::new();
        let mut received = 0u8;
        let mut take =
            |record: &mut Vec<u8>| match consumer.pop(record).expect("an honest ring is never corrupt") {
                Popped::Record => {
                    received += 1;
                    assert_eq!(*record, [received; 16]);
                    true
                }
                Popped::NewEpoch => {
                    assert_eq!(received, 0);
                    true
                }
                Popped::Nothing => false,
            };
        for _ in 0..4 {
            if !take(&mut record) {
                thread::yield_now();
            }
        }
        let sent = writer.join().unwrap();
        while take(&mut record) {}
        assert_eq!(received, sent);
    });
}

/// Claims 3, 4: a producer ends at some point, another follows; the consumer never mixes them and never calls the ring corrupt.
#[test]
fn loom_epochs_never_mix() {
    model(4, || {
        let memory = memory(8);
        let mut consumer = Consumer::attach(Arc::clone(&memory)).unwrap();
        let writers = thread::spawn(move || {
            for producer_number in 1..=2u8 {
                let mut producer = Producer::attach(Arc::clone(&memory)).unwrap();
                assert_eq!(producer.epoch(), u64::from(producer_number));
                for _ in 0..2 {
                    // Full only while the first producer's records are unread.
                    let _ = producer.push(&[producer_number; 8]);
                }
            }
        });
        let mut record = Vec::new();
        let mut producer_number = 0u8;
        let mut take =
            |record: &mut Vec<u8>| match consumer.pop(record).expect("an honest ring is never corrupt") {
                Popped::Record => {
                    // The consumer may see both epochs at once as one change; then the records are the second's.
                    assert_eq!(*record, [record[0]; 8]);
                    assert!(
                        record[0] == producer_number || (producer_number == 1 && record[0] == 2),
                        "{record:?}"
                    );
                    producer_number = record[0];
                    true
                }
                Popped::NewEpoch => {
                    producer_number += 1;
                    true
                }
                Popped::Nothing => false,
            };
        for _ in 0..4 {
            if !take(&mut record) {
                thread::yield_now();
            }
        }
        writers.join().unwrap();
        while take(&mut record) {}
    });
}

/// The first consumer misses nothing of a producer that attaches at the same time.
#[test]
fn loom_the_first_consumer_misses_nothing() {
    model(4, || {
        let memory = memory(8);
        let producer_memory = Arc::clone(&memory);
        let writer = thread::spawn(move || {
            Producer::attach(producer_memory).unwrap().push(&[1; 8]).unwrap();
        });
        let mut consumer = Consumer::first(memory).unwrap();
        let mut popped = Vec::new();
        let mut record = Vec::new();
        let mut take = |popped: &mut Vec<Popped>| match consumer.pop(&mut record).expect("an honest ring") {
            Popped::Nothing => thread::yield_now(),
            other => popped.push(other),
        };
        for _ in 0..2 {
            take(&mut popped);
        }
        writer.join().unwrap();
        for _ in 0..2 {
            take(&mut popped);
        }
        assert_eq!(popped, [Popped::NewEpoch, Popped::Record]);
    });
}

/// A consumer that attaches while a producer does and writes: it starts somewhere whole.
#[test]
fn loom_both_ends_attach_at_once() {
    model(4, || {
        let memory = memory(8);
        let producer_memory = Arc::clone(&memory);
        let writer = thread::spawn(move || {
            let mut producer = Producer::attach(producer_memory).unwrap();
            producer.push(&[1; 8]).unwrap();
            let _ = producer.push(&[2; 8]);
        });
        let mut consumer = Consumer::attach(memory).unwrap();
        let mut record = Vec::new();
        let mut last = 0u8;
        let mut take =
            |record: &mut Vec<u8>| match consumer.pop(record).expect("an honest ring is never corrupt") {
                Popped::Record => {
                    assert_eq!(*record, [record[0]; 8]);
                    assert!(record[0] > last);
                    last = record[0];
                    true
                }
                Popped::NewEpoch => true,
                Popped::Nothing => false,
            };
        for _ in 0..2 {
            take(&mut record);
        }
        writer.join().unwrap();
        while take(&mut record) {}
    });
}
