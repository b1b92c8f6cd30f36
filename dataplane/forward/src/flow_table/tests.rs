//! Tests of the flow table.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

/// Runs `body` on a table in memory that was full of rubbish.
fn with_table<T>(flows: u32, body: impl FnOnce(&mut FlowTable<'_>) -> T) -> T {
    let mut aligned = Aligned::new(FlowTable::<FlowKey>::memory_bytes(flows));
    body(&mut FlowTable::<FlowKey>::new(aligned.bytes(), flows, Secret::new([9, 8, 7, 6])).unwrap())
}

pub(super) struct Aligned(Vec<u8>, usize, usize);
impl Aligned {
    pub(super) fn new(bytes: usize) -> Self {
        let room = vec![0xa5; bytes + 64];
        let start = room.as_ptr().align_offset(64);
        Self(room, start, bytes)
    }
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.0[self.1..self.1 + self.2]
    }
}

fn keys(n: u32) -> (FlowKey, FlowKey) {
    (FlowKey::new(6, n, 100, 1, 80), FlowKey::new(6, 200, 300, 8080, n as u16))
}

#[test]
fn a_full_table_refuses_and_goes_on() {
    with_table(100, |table| {
        let slots: Vec<_> =
            (0..100).map(|n| table.insert(Session::new(keys(n).0, keys(n).1)).unwrap()).collect();
        assert_eq!(table.insert(Session::new(keys(100).0, keys(100).1)), Err(Full));
        assert_eq!(table.live(), 100);
        for n in 0..100 {
            assert_eq!(
                table.find(keys(n).0).map(|c| (c.slot(), c.direction())),
                Some((slots[n as usize], 0))
            );
            assert_eq!(
                table.find(keys(n).1).map(|c| (c.slot(), c.direction())),
                Some((slots[n as usize], 1))
            );
        }
        table.remove(slots[7], 0);
        assert_eq!(table.find(keys(7).0), None);
        table.insert(Session::new(keys(100).0, keys(100).1)).unwrap();
        assert!(table.find(keys(100).1).is_some());
    });
}

fn staged(table: &mut FlowTable<'_>, place: Place) -> Candidate {
    let (index, sessions) = table.split();
    index.candidate(place, &sessions)
}

#[test]
fn an_entry_behind_its_home_bucket_is_a_candidate_too() {
    with_table(4_096, |table| {
        for n in 0..4_096 {
            table.insert(Session::new(keys(n).0, keys(n).1)).unwrap();
        }
        let (mut behind, mut others) = (0, 0);
        for key in (0..4_096).flat_map(|n| [keys(n).0, keys(n).1]) {
            let (place, found) = (table.index().place(key), table.find(key).unwrap());
            let home = table.buckets[place.bucket as usize];
            behind += usize::from(!home.index.contains(&found.0));
            // Another entry may have the tag, in the home bucket or on the way.
            others += usize::from(staged(table, place) != found);
        }
        assert!(behind > 40 && others < 8, "{behind} of 8192 lie behind, {others} are not found");
    });
}

#[test]
fn what_seems_free_is_free_and_most_that_is_free_seems_so() {
    with_table(4_096, |table| {
        table.quarantine = Quarantine::new(60_000, 1 << 16);
        for n in 0..4_096 {
            table.insert(Session::new(keys(n).0, keys(n).1)).unwrap();
        }
        // Every fourth port rests.
        (1..4_096).step_by(4).for_each(|n| {
            let slot = table.find(keys(n).1).unwrap().slot();
            table.remove(slot, 0);
        });
        let client = |n| Address::v4(n + 1_000_000);
        let mut missed = 0;
        for n in 0..8_192 {
            let (reply, standing) = (keys(n).1, table.standing(keys(n).1, client(n), 1_000));
            let is_free = standing == Standing::Free;
            assert_eq!(is_free, n >= 4_096, "{n}: {standing:?}");
            assert!(is_free || !table.seems_free(reply), "{n}: {standing:?}");
            missed += u32::from(is_free && !table.seems_free(reply));
        }
        assert!(missed < 400, "{missed} of 4096");
    });
}

#[test]
fn wrong_memory_is_refused() {
    let mut aligned = Aligned::new(FlowTable::<FlowKey>::memory_bytes(64) + 64);
    let bytes = aligned.bytes();
    assert!(matches!(
        FlowTable::<FlowKey>::new(bytes, 64, Secret::new([0; 4])),
        Err(TableError::Memory { .. })
    ));
    let odd = &mut bytes[1..=FlowTable::<FlowKey>::memory_bytes(64)];
    assert!(matches!(
        FlowTable::<FlowKey>::new(odd, 64, Secret::new([0; 4])),
        Err(TableError::Memory { .. })
    ));
    assert!(matches!(FlowTable::<FlowKey>::new(&mut [], 0, Secret::new([0; 4])), Err(TableError::Flows(0))));
}

#[test]
fn idle_flows_age_out_and_busy_ones_stay() {
    with_table(64, |table| {
        for n in 0..64 {
            let mut session = Session::new(keys(n).0, keys(n).1);
            session.last_seen = if n % 2 == 0 { 0 } else { 200_000 };
            table.insert(session).unwrap();
        }
        assert_eq!(table.sweep(240_001, 64, |_| Tracking::default()), 32);
        assert_eq!(table.live(), 32);
        assert_eq!(
            table.sweep(199_999, 64, |_| Tracking::default()),
            0,
            "a clock read a little earlier ends nothing"
        );
    });
}

/// What a line that is in no cache costs at most, with the TLB's own misses: several times what it takes on a server that is busy.
const LINE_NS: usize = 300;
/// What one insert may take of a turn.
const STALL_NS: usize = 20_000;

/// Lines of the index that differ.
fn changed(before: &[Bucket], now: &[Bucket]) -> usize {
    before.iter().zip(now).filter(|(a, b)| a.as_bytes() != b.as_bytes()).count()
}

#[test]
fn no_insert_stalls_a_turn_at_any_load() {
    // Each of two keys is looked for a place for, and passes the buckets before it; one that is taken back passes them again. Nothing else of the
    // index is read or written, and of the sessions the own and the next.
    let most = 2 * BUCKET_PROBES_MAX;
    assert!((2 * most + 2) * LINE_NS <= STALL_NS);
    with_table(4_096, |table| {
        let mut worst = 0;
        for n in 0..4_096 {
            let (buckets, sessions) = (table.buckets.to_vec(), table.sessions.to_vec());
            let slot = table.insert(Session::new(keys(n).0, keys(n).1)).unwrap();
            worst = worst.max(changed(&buckets, table.buckets));
            let others = sessions.iter().zip(table.sessions.iter()).enumerate();
            let others = others.filter(|(at, (a, b))| *at != slot && a.as_bytes() != b.as_bytes()).count();
            assert_eq!(others, 0, "no other flow is moved");
        }
        assert!((3..=most).contains(&worst), "{worst} lines of the index were written for one flow");
    });
}

#[test]
fn keys_of_one_bucket_are_refused_when_its_probes_are_full() {
    with_table(4_096, |table| {
        // Nobody outside can choose such keys, for the hash is keyed; here they are found by trying.
        let home = |table: &FlowTable<'_>, n| table.index().locate(keys(n).0).bucket;
        let first = home(table, 0);
        let colliding: Vec<u32> = (0..1_000_000).filter(|&n| home(table, n) == first).collect();
        let mut worst = 0;
        for (at, &n) in colliding.iter().enumerate() {
            let before = table.buckets.to_vec();
            let inserted = table.insert(Session::new(keys(n).0, keys(n).1));
            let written = changed(&before, table.buckets);
            worst = worst.max(written);
            if inserted.is_err() {
                assert_eq!(
                    (table.live() as usize, written),
                    (at, 0),
                    "what was refused leaves nothing behind"
                );
                assert!(worst > BUCKET_PROBES_MAX / 2 && worst <= 2 * BUCKET_PROBES_MAX, "{worst}");
                return;
            }
            assert!(at < ENTRIES * BUCKET_PROBES_MAX, "more flows than their buckets have room for");
        }
        panic!("{} keys of one bucket were all taken", colliding.len());
    });
}

#[test]
fn a_flow_takes_96_bytes_with_its_index() {
    for flows in [64, 1_000, 65_536, 1_000_000, 10_000_000, 64_000_000] {
        let (v4, v6) =
            (FlowTable::<FlowKey>::memory_bytes(flows), FlowTable::<FlowKey6>::memory_bytes(flows));
        assert!(v4 <= 96 * flows as usize, "{flows} flows over IPv4 take {v4} bytes");
        assert!(v6 <= 160 * flows as usize, "{flows} flows over IPv6 take {v6} bytes");
    }
    assert!(FlowTable::<FlowKey>::memory_bytes(10_000_000) <= 1_000_000_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_like_a_map(steps in prop::collection::vec((0u32..400, any::<bool>()), 1..1500)) {
        with_table(256, |table| {
            let mut model: HashMap<u32, usize> = HashMap::new();
            for (n, add) in steps {
                match (add, model.get(&n).copied()) {
                    (true, None) => {
                        if let Ok(slot) = table.insert(Session::new(keys(n).0, keys(n).1)) {
                            model.insert(n, slot);
                        } else {
                            prop_assert_eq!(model.len(), 256);
                        }
                    }
                    (false, Some(slot)) => { table.remove(slot, 0); model.remove(&n); }
                    _ => {}
                }
                prop_assert_eq!(table.live() as usize, model.len());
            }
            for n in 0..400 {
                let found = table.find(keys(n).0).map(Candidate::slot);
                prop_assert_eq!(found, model.get(&n).copied());
                prop_assert_eq!(table.find(keys(n).1).map(Candidate::slot), found);
                // The staged lookup finds it too, or leaves it to `find`.
                let candidate = staged(table, table.index().place(keys(n).0));
                if let Some(session) = table.split().1.confirm(candidate, &keys(n).0) {
                    prop_assert_eq!(session.keys()[0], keys(n).0);
                    prop_assert!(found.is_some());
                }
            }
            prop_assert_eq!(table.iter().count(), model.len());
            let passed: u32 = table.buckets.iter().map(|b| b.passed).sum();
            if model.is_empty() { prop_assert_eq!(passed, 0); }
            Ok(())
        })?;
    }
}
