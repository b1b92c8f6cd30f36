use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;

type Memory = Arc<Vec<AtomicU64>>;

fn memory(data_words: usize) -> Memory {
    Arc::new((0..HEADER_WORDS + data_words).map(|_| AtomicU64::new(0)).collect())
}

fn both(memory: &Memory) -> (Producer<Memory>, Consumer<Memory>) {
    let consumer = Consumer::attach(Arc::clone(memory)).unwrap();
    (Producer::attach(Arc::clone(memory)).unwrap(), consumer)
}

fn record_of(consumer: &mut Consumer<Memory>) -> Option<Vec<u8>> {
    let mut record = Vec::new();
    match consumer.pop(&mut record).unwrap() {
        Popped::Record => Some(record),
        Popped::Nothing => None,
        Popped::NewEpoch => panic!("a new epoch where a record or nothing was due"),
    }
}

#[test]
fn records_come_out_in_order_after_the_epoch() {
    let memory = memory(64);
    let (mut producer, mut consumer) = both(&memory);
    let mut record = vec![9; 9];
    assert_eq!(consumer.pop(&mut record), Ok(Popped::NewEpoch));
    assert!(record.is_empty());
    for bytes in [&b""[..], b"a", b"12345678", b"123456789"] {
        producer.push(bytes).unwrap();
    }
    for bytes in [&b""[..], b"a", b"12345678", b"123456789"] {
        assert_eq!(record_of(&mut consumer).as_deref(), Some(bytes));
    }
    assert_eq!(record_of(&mut consumer), None);
}

#[test]
fn the_first_consumer_hears_what_was_said_before_it_attached() {
    let memory = memory(64);
    let mut producer = Producer::attach(Arc::clone(&memory)).unwrap();
    producer.push(b"early").unwrap();
    let mut late = Consumer::attach(Arc::clone(&memory)).unwrap();
    assert_eq!(record_of(&mut late), None, "that was meant for another");
    let mut first = Consumer::first(memory).unwrap();
    assert_eq!(first.pop(&mut Vec::new()), Ok(Popped::NewEpoch));
    assert_eq!(record_of(&mut first).as_deref(), Some(&b"early"[..]));
}

#[test]
fn sizes_that_hold_no_ring_are_refused() {
    for words in [0, 1, HEADER_WORDS, HEADER_WORDS + 2, HEADER_WORDS + 3, HEADER_WORDS + 5, HEADER_WORDS + 65]
    {
        let memory: Memory = Arc::new((0..words).map(|_| AtomicU64::new(0)).collect());
        assert_eq!(Producer::attach(Arc::clone(&memory)).err(), Some(BadRingSize { words }));
        assert_eq!(Consumer::attach(memory).err(), Some(BadRingSize { words }));
    }
    for (bytes, data) in [(0, 4), (1, 4), (32, 4), (33, 8), (4096, 512), (4097, 1024)] {
        assert_eq!(words_for(bytes), HEADER_WORDS + data);
    }
    assert_eq!(words_for(usize::MAX), HEADER_WORDS + (1 << 40));
}

#[test]
fn full_and_too_long_change_nothing() {
    let memory = memory(8);
    let (mut producer, mut consumer) = both(&memory);
    assert_eq!(consumer.pop(&mut Vec::new()), Ok(Popped::NewEpoch));
    assert_eq!(producer.record_bytes_max(), 48);
    assert_eq!(producer.push(&[0; 49]), Err(PushError::TooLong { bytes: 49, limit: 48 }));
    producer.push(&[1; 24]).unwrap();
    assert_eq!(producer.free_words(), 3);
    assert_eq!(producer.push(&[2; 16]), Err(PushError::Full));
    producer.push(&[3; 8]).unwrap();
    assert_eq!(producer.push(&[]), Err(PushError::Full));
    assert_eq!(record_of(&mut consumer), Some(vec![1; 24]));
    producer.push(&[4; 24]).unwrap();
    assert_eq!(record_of(&mut consumer), Some(vec![3; 8]));
    assert_eq!(record_of(&mut consumer), Some(vec![4; 24]));
    producer.push(&[5; 48]).unwrap();
    assert_eq!(record_of(&mut consumer), Some(vec![5; 48]));
    assert_eq!(record_of(&mut consumer), None);
}

#[test]
fn a_new_producer_drops_what_the_old_one_left() {
    let memory = memory(64);
    let (mut old, mut consumer) = both(&memory);
    let mut record = Vec::new();
    assert_eq!(consumer.pop(&mut record), Ok(Popped::NewEpoch));
    old.push(b"half").unwrap();
    old.push(b"a transaction").unwrap();
    assert_eq!(record_of(&mut consumer).as_deref(), Some(&b"half"[..]));
    drop(old);
    let mut new = Producer::attach(Arc::clone(&memory)).unwrap();
    assert_eq!(new.epoch(), 2);
    new.push(b"snapshot").unwrap();
    assert_eq!(consumer.pop(&mut record), Ok(Popped::NewEpoch));
    assert_eq!(record_of(&mut consumer).as_deref(), Some(&b"snapshot"[..]));
    assert_eq!(record_of(&mut consumer), None);
}

#[test]
fn words_of_a_killed_producer_are_overwritten_unseen() {
    let memory = memory(64);
    let (mut old, mut consumer) = both(&memory);
    old.push(b"whole").unwrap();
    // Everything of a second record but its publication.
    let tail = memory[TAIL].load(Ordering::Relaxed);
    old.push(b"written, never published").unwrap();
    memory[TAIL].store(tail, Ordering::Relaxed);
    drop(old);
    let mut new = Producer::attach(Arc::clone(&memory)).unwrap();
    assert_eq!(consumer.pop(&mut Vec::new()), Ok(Popped::NewEpoch));
    assert_eq!(record_of(&mut consumer), None);
    new.push(b"next").unwrap();
    assert_eq!(record_of(&mut consumer).as_deref(), Some(&b"next"[..]));
}

#[test]
fn a_new_consumer_starts_at_the_tail_and_goes_on() {
    let memory = memory(64);
    let (mut producer, consumer) = both(&memory);
    producer.push(b"for the first").unwrap();
    drop(consumer);
    let mut second = Consumer::attach(Arc::clone(&memory)).unwrap();
    assert_eq!(record_of(&mut second), None);
    producer.push(b"for the second").unwrap();
    assert_eq!(record_of(&mut second).as_deref(), Some(&b"for the second"[..]));
    assert_eq!(producer.free_words(), 64);
}

#[test]
fn each_corruption_is_named_and_the_ring_goes_on() {
    type Spoil = fn(&[AtomicU64]);
    let spoils: [(Spoil, Corruption); 7] = [
        (
            |w| w[TAIL].store(HEADER_WORDS as u64 * 1000, Ordering::Relaxed),
            Corruption::Tail { unread: 64000 },
        ),
        (|w| w[TAIL].store(1, Ordering::Relaxed), Corruption::Tail { unread: 1 }),
        (|w| w[HEADER_WORDS].store(9, Ordering::Relaxed), Corruption::Length { bytes: 9 }),
        (|w| w[HEADER_WORDS].store(u64::MAX, Ordering::Relaxed), Corruption::Length { bytes: u32::MAX }),
        (|w| w[HEADER_WORDS + 2].store(7, Ordering::Relaxed), Corruption::Checksum),
        (
            |w| {
                let first = 5 << 32 | 8;
                w[HEADER_WORDS].store(first, Ordering::Relaxed);
                w[HEADER_WORDS + 1]
                    .store(1 << 32 | u64::from(checksum(first, 1, b"12345678")), Ordering::Relaxed);
            },
            Corruption::Sequence { expected: 0, found: 5 },
        ),
        (
            |w| {
                w[HEADER_WORDS + 1]
                    .store(2 << 32 | u64::from(checksum(8, 2, b"12345678")), Ordering::Relaxed);
            },
            Corruption::Epoch,
        ),
    ];
    for (spoil, reason) in spoils {
        let memory = memory(64);
        let (mut producer, mut consumer) = both(&memory);
        let mut record = Vec::new();
        assert_eq!(consumer.pop(&mut record), Ok(Popped::NewEpoch));
        producer.push(b"12345678").unwrap();
        spoil(&memory);
        assert_eq!(consumer.pop(&mut record), Err(RingCorrupt { reason }), "{reason}");
        assert!(record.is_empty());
        assert_eq!(consumer.pop(&mut record), Ok(Popped::Nothing));
        // A producer that is told (by an event) starts anew.
        let mut producer = Producer::attach(Arc::clone(&memory)).unwrap();
        assert_eq!(consumer.pop(&mut record), Ok(Popped::NewEpoch));
        producer.push(b"again").unwrap();
        assert_eq!(record_of(&mut consumer).as_deref(), Some(&b"again"[..]));
    }
}

/// Whatever a third writes over the header, both ends get over it without starting anew.
#[test]
fn a_spoilt_header_heals() {
    for field in [HEAD, TAIL, EPOCH, EPOCH_START] {
        for value in [0, 1, 5, 1 << 20, u64::MAX / 2, u64::MAX] {
            for unread in 0..4 {
                let memory = memory(16);
                let (mut producer, mut consumer) = both(&memory);
                let mut record = Vec::new();
                while consumer.pop(&mut record) != Ok(Popped::Nothing) {}
                for number in 0..9u8 {
                    producer.push(&[number; 8]).unwrap();
                    assert_eq!(record_of(&mut consumer), Some(vec![number; 8]));
                }
                for _ in 0..unread {
                    producer.push(&[0xaa; 8]).unwrap();
                }
                memory[field].store(value, Ordering::Relaxed);
                for _ in 0..4 {
                    let _ = producer.push(&[0xbb; 8]);
                    for _ in 0..6 {
                        let _ = consumer.pop(&mut record);
                    }
                }
                for number in 0..9u8 {
                    let what = format!("field {field} = {value}, {unread} unread, record {number}");
                    assert_eq!(producer.push(&[number; 8]), Ok(()), "{what}");
                    assert_eq!(consumer.pop(&mut record), Ok(Popped::Record), "{what}");
                    assert_eq!(record, [number; 8], "{what}");
                }
            }
        }
    }
}

#[test]
fn an_epoch_start_outside_the_ring_is_corrupt() {
    let memory = memory(64);
    let (_producer, mut consumer) = both(&memory);
    memory[EPOCH_START].store(1 << 40, Ordering::Relaxed);
    let reason = Corruption::EpochStart;
    assert_eq!(consumer.pop(&mut Vec::new()), Err(RingCorrupt { reason }));
    assert_eq!(consumer.pop(&mut Vec::new()), Ok(Popped::Nothing));
}

/// What may happen to a ring in order.
#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Pop,
    RestartProducer,
    RestartConsumer,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..140).prop_map(Step::Push),
        6 => Just(Step::Pop),
        1 => Just(Step::RestartProducer),
        1 => Just(Step::RestartConsumer),
    ]
}

proptest! {
    /// The ring against a queue.
    #[test]
    fn behaves_as_a_queue(steps in prop::collection::vec(step(), 1..400), start in prop_oneof![Just(0u64), Just(u64::MAX - 20)]) {
        let memory = memory(16);
        memory[TAIL].store(start, Ordering::Relaxed);
        let (mut producer, mut consumer) = both(&memory);
        let mut queue: VecDeque<Vec<u8>> = VecDeque::new();
        let (mut unread_epoch, mut used, mut number) = (true, 0usize, 0u8);
        for step in steps {
            match step {
                Step::Push(length) => {
                    number = number.wrapping_add(1);
                    let record = vec![number; length];
                    let words = 2 + length.div_ceil(8);
                    match producer.push(&record) {
                        Ok(()) => { prop_assert!(used + words <= 16); used += words; queue.push_back(record); }
                        Err(PushError::Full) => prop_assert!(used + words > 16),
                        Err(PushError::TooLong { bytes, limit }) => prop_assert!(bytes > limit && words > 16),
                    }
                }
                Step::Pop => {
                    let mut record = Vec::new();
                    let popped = consumer.pop(&mut record).unwrap();
                    if unread_epoch {
                        prop_assert_eq!(popped, Popped::NewEpoch);
                        unread_epoch = false;
                        used = queue.iter().map(|r| 2 + r.len().div_ceil(8)).sum();
                    } else if let Some(expected) = queue.pop_front() {
                        prop_assert_eq!(popped, Popped::Record);
                        used -= 2 + expected.len().div_ceil(8);
                        prop_assert_eq!(record, expected);
                    } else {
                        prop_assert_eq!(popped, Popped::Nothing);
                    }
                }
                // What was unread keeps its room until the consumer has met the new epoch.
                Step::RestartProducer => {
                    producer = Producer::attach(Arc::clone(&memory)).unwrap();
                    queue.clear();
                    unread_epoch = true;
                }
                Step::RestartConsumer => {
                    consumer = Consumer::attach(Arc::clone(&memory)).unwrap();
                    queue.clear();
                    (unread_epoch, used) = (false, 0);
                }
            }
        }
    }

    /// Any word set to anything, at any time: no panic, no wrong record, and an end.
    #[test]
    fn hostile_words_never_panic(
        hits in prop::collection::vec((0usize..HEADER_WORDS + 16, prop_oneof![any::<u64>(), 0u64..64, Just(u64::MAX)], 0u8..4), 1..200)
    ) {
        let memory = memory(16);
        let (mut producer, mut consumer) = both(&memory);
        let mut record = Vec::new();
        for (at, value, then) in hits {
            memory[at].store(value, Ordering::Relaxed);
            match then {
                0 => { let _ = producer.push(&[0x5a; 12]); }
                1 => { let _ = producer.push(&[0x5a; 100]); }
                2 => producer = Producer::attach(Arc::clone(&memory)).unwrap(),
                _ => consumer = Consumer::attach(Arc::clone(&memory)).unwrap(),
            }
            for _ in 0..4 {
                if consumer.pop(&mut record) == Ok(Popped::Record) {
                    prop_assert!(record == [0x5a; 12] || record == [0x5a; 100], "{:?}", record);
                }
            }
        }
    }
}

#[test]
fn two_threads_lose_and_tear_nothing() {
    const RECORDS: u64 = 200_000;
    let memory = memory(256);
    let (mut producer, mut consumer) = both(&memory);
    let writer = std::thread::spawn(move || {
        let mut record = Vec::new();
        for number in 0..RECORDS {
            record.clear();
            record.extend(std::iter::repeat_n(number.to_le_bytes(), 1 + (number % 11) as usize).flatten());
            while producer.push(&record) == Err(PushError::Full) {
                std::thread::yield_now();
            }
        }
    });
    let mut record = Vec::new();
    let mut next = 0u64;
    while next < RECORDS {
        match consumer.pop(&mut record).unwrap() {
            Popped::Record => {
                assert_eq!(record.len(), 8 * (1 + (next % 11) as usize));
                assert!(record.chunks(8).all(|chunk| chunk == next.to_le_bytes()), "record {next} is torn");
                next += 1;
            }
            Popped::Nothing => std::thread::yield_now(),
            Popped::NewEpoch => assert_eq!(next, 0),
        }
    }
    writer.join().unwrap();
}
