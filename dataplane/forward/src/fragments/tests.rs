//! The table by itself: frames are numbers.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const SECRET: Secret = Secret::new([1, 2, 3, 4]);
/// Nothing goes on.
const NOTHING: [u32; 0] = [];
/// Bytes of a fragment.
const SIZE: u16 = 1_480;

fn table() -> (Fragments<u32>, Counters) {
    (Fragments::new(SECRET, 0, 1), Counters::default())
}

/// Fragment number `n` of `of` of a datagram that one of the sources sends.
fn fragment(source: u32, id: u32, n: u16, of: u16) -> Fragment {
    let datagram =
        DatagramKey { source: Address::v4(source), destination: Address::v4(0xcb00_7150), id, protocol: 17 };
    let piece = Piece { start: n * SIZE, end: (n + 1) * SIZE, more: n + 1 < of };
    let onward = Onward { ports: (40_000, 53), protocol: 17, owner: 0, id: 0 };
    Fragment { datagram, piece, onward: (n == 0).then_some(onward), port: 3 }
}

/// What comes out of the table when a fragment goes in: the frames that go on, in order.
fn put(
    table: &mut Fragments<u32>,
    counters: &mut Counters,
    fragment: &Fragment,
    frame: u32,
    now_ms: u32,
) -> Vec<u32> {
    match table.take(fragment, frame, now_ms, counters) {
        Fate::Pass(frame, onward, held) => {
            assert_eq!((onward.ports, onward.protocol), ((40_000, 53), 17));
            let mut out = vec![frame];
            if let Some(datagram) = held {
                out.extend(std::iter::from_fn(|| table.release(&datagram)).map(|(port, frame)| {
                    assert_eq!(port, 3);
                    frame
                }));
            }
            out
        }
        Fate::Held => vec![],
        Fate::Dropped(verdict) => {
            counters.count(verdict);
            vec![]
        }
    }
}

/// Counters that are not zero.
fn counts(counters: &Counters) -> BTreeMap<&'static str, u64> {
    Counters::names().zip(counters.values().iter().copied()).filter(|&(_, n)| n > 0).collect()
}

fn is_empty(table: &Fragments<u32>) -> bool {
    table.datagrams() == [0, 0]
        && table.held() == 0
        && table.sources.iter().all(|s| (s.datagrams, s.held) == ([0, 0], 0))
        && table.buckets.iter().all(|&at| at == NONE)
}

#[test]
fn rfc4787_req14_fragments_in_order_go_on_at_once() {
    let (mut table, mut counters) = table();
    for n in 0..44 {
        let out = put(&mut table, &mut counters, &fragment(1, 7, n, 44), u32::from(n), 0);
        assert_eq!(out, [u32::from(n)]);
        assert_eq!(table.datagrams(), if n < 43 { [0, 1] } else { [0, 0] });
    }
    assert!(is_empty(&table) && counts(&counters).is_empty());
}

#[test]
fn rfc4787_req14_fragments_before_the_first_are_held_for_it() {
    let (mut table, mut counters) = table();
    for n in (1..44).rev() {
        assert_eq!(put(&mut table, &mut counters, &fragment(1, 7, n, 44), u32::from(n), 0), NOTHING);
    }
    assert_eq!((table.datagrams(), table.held()), ([1, 0], 43));
    let out = put(&mut table, &mut counters, &fragment(1, 7, 0, 44), 0, 0);
    assert_eq!(out, [&[0][..], &(1..44).rev().collect::<Vec<_>>()].concat());
    assert!(is_empty(&table) && counts(&counters).is_empty());
}

#[test]
fn rfc5722_after_an_overlap_nothing_of_the_datagram_goes_on() {
    let (mut table, mut counters) = table();
    let overlap = |n: u16| {
        let whole = fragment(1, 7, n, 9);
        Fragment { piece: Piece { start: whole.piece.start + 8, ..whole.piece }, ..whole }
    };
    // Held frames of it go as well; another datagram of the same source stays.
    assert_eq!(put(&mut table, &mut counters, &fragment(1, 8, 1, 9), 0, 0), NOTHING);
    for n in [1, 2] {
        assert_eq!(put(&mut table, &mut counters, &fragment(1, 7, n, 9), 0, 0), NOTHING);
    }
    assert_eq!(put(&mut table, &mut counters, &overlap(2), 0, 0), NOTHING);
    assert_eq!(counts(&counters), BTreeMap::from([("fragment_overlap", 3)]));
    for n in [0, 3, 2] {
        assert_eq!(put(&mut table, &mut counters, &fragment(1, 7, n, 9), 0, 0), NOTHING);
    }
    assert_eq!(counts(&counters), BTreeMap::from([("fragment_overlap", 6)]));
    assert_eq!(put(&mut table, &mut counters, &fragment(1, 8, 0, 9), 5, 0), [5, 0]);
    // After its time the name may be used again.
    table.sweep(FRAGMENT_TIMEOUT_MS, 9, &mut counters);
    assert!(is_empty(&table));
    assert_eq!(put(&mut table, &mut counters, &fragment(1, 7, 0, 9), 6, FRAGMENT_TIMEOUT_MS), [6]);
}

#[test]
fn rfc8200_a_fragment_that_comes_twice_is_dropped_alone() {
    let (mut table, mut counters) = table();
    let order = [(2, 0), (2, 0), (0, 3), (0, 0), (1, 1), (1, 0), (3, 1)];
    for (n, passes) in order {
        assert_eq!(put(&mut table, &mut counters, &fragment(1, 7, n, 4), 0, 0).len(), passes.min(2), "{n}");
    }
    assert_eq!(counts(&counters), BTreeMap::from([("fragment_duplicate", 3)]));
    assert!(is_empty(&table));
}

#[test]
fn rfc4787_req14_what_does_not_become_whole_ends_in_time() {
    let (mut table, mut counters) = table();
    let start_ms = u32::MAX - 5_000;
    put(&mut table, &mut counters, &fragment(1, 7, 1, 4), 0, start_ms);
    put(&mut table, &mut counters, &fragment(1, 8, 0, 4), 0, start_ms);
    let end_ms = start_ms.wrapping_add(FRAGMENT_TIMEOUT_MS);
    table.sweep(end_ms.wrapping_sub(1), 9, &mut counters);
    assert_eq!((table.datagrams(), table.held()), ([1, 1], 1), "the clock has gone round in between");
    table.sweep(end_ms, 1, &mut counters);
    assert_eq!((table.datagrams(), table.held()), ([0, 1], 0), "within its budget");
    assert_eq!(counts(&counters), BTreeMap::from([("fragment_timeout", 1)]));
    // Not swept yet, but over: the next datagram of that name is another one.
    assert_eq!(put(&mut table, &mut counters, &fragment(1, 8, 0, 4), 6, end_ms), [6]);
    assert_eq!(counts(&counters), BTreeMap::from([("fragment_timeout", 1)]));
}

#[test]
fn rfc4787_req14_one_source_has_a_share_of_everything() {
    let (mut table, mut counters) = table();
    let datagrams = 100_000;
    for id in 0..datagrams {
        put(&mut table, &mut counters, &fragment(1, id, 1, 4), 0, 0);
        put(&mut table, &mut counters, &fragment(2, id, 0, 4), 0, 0);
    }
    let shares = [FRAGMENT_WAITING_MAX / FRAGMENT_SHARE, FRAGMENT_STARTED_MAX / FRAGMENT_SHARE];
    assert_eq!((table.datagrams(), table.held()), (shares, FRAGMENTS_HELD_MAX / FRAGMENT_SHARE));
    let refused = u64::from(datagrams) * 2 - (shares[0] + shares[1]) as u64;
    assert_eq!(counts(&counters), BTreeMap::from([("fragments_full", refused)]));
    // Others find room, in any order.
    for n in [3, 2, 1] {
        assert_eq!(put(&mut table, &mut counters, &fragment(3, 7, n, 4), u32::from(n), 0), NOTHING);
    }
    assert_eq!(put(&mut table, &mut counters, &fragment(3, 7, 0, 4), 0, 0), [0, 3, 2, 1]);
}

#[test]
fn rfc4787_req14_many_sources_push_out_the_oldest() {
    let (mut table, mut counters) = table();
    let mut passed = 0;
    for n in 0..1_000_000u32 {
        put(&mut table, &mut counters, &fragment(1_000 + n % 50_000, n, 1, 4), 0, n / 1_000);
        if n % 1_000 == 0 {
            // The fragments of others come in between, in order and out of it.
            let (id, second) = (n / 1_000, n / 1_000 % 3);
            let order = [[0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 1, 0]][second as usize];
            for k in order {
                passed += put(&mut table, &mut counters, &fragment(7, id, k, 4), 0, n / 1_000).len();
            }
        }
        assert!(table.held() <= FRAGMENTS_HELD_MAX && table.datagrams()[0] <= FRAGMENT_WAITING_MAX);
    }
    assert_eq!(passed, 4_000, "none of them was lost");
    assert_eq!(counts(&counters), BTreeMap::from([("fragments_full", 1_000_000 - table.held() as u64)]));
    table.sweep(1_000 + FRAGMENT_TIMEOUT_MS, usize::MAX, &mut counters);
    assert!(is_empty(&table));
    assert_eq!(
        counters.verdict(Verdict::FragmentsFull) + counters.verdict(Verdict::FragmentTimeout),
        1_000_000
    );
}

#[test]
fn one_datagram_has_a_share_of_the_held_frames() {
    let (mut table, mut counters) = table();
    let small = |n: u16| {
        let whole = fragment(1, 7, 1, 4);
        Fragment { piece: Piece { start: n * 8, end: n * 8 + 8, more: true }, ..whole }
    };
    for n in 1..=FRAGMENTS_HELD_PER_DATAGRAM as u16 {
        put(&mut table, &mut counters, &small(n), 0, 0);
    }
    assert_eq!(table.held(), FRAGMENTS_HELD_PER_DATAGRAM);
    put(&mut table, &mut counters, &small(5_000), 0, 0);
    assert_eq!((table.datagrams(), table.held()), ([1, 0], 0), "it will not become whole");
    put(&mut table, &mut counters, &fragment(1, 7, 0, 4), 0, 0);
    assert_eq!(
        counts(&counters),
        BTreeMap::from([("fragments_full", FRAGMENTS_HELD_PER_DATAGRAM as u64 + 2)])
    );
}

#[test]
fn rfc6864_datagrams_leave_with_identifications_of_their_own() {
    let (mut table, mut counters) = table();
    let mut seen = std::collections::HashSet::new();
    for source in 0..1_000 {
        let Fate::Pass(_, first, None) = table.take(&fragment(source, 7, 0, 2), 0, 0, &mut counters) else {
            panic!()
        };
        let Fate::Pass(_, last, None) = table.take(&fragment(source, 7, 1, 2), 0, 0, &mut counters) else {
            panic!()
        };
        assert_eq!(first, last);
        assert!(first.id <= 0xffff && seen.insert(first.id));
    }
    let mut over_v6 = fragment(1, 7, 0, 1);
    over_v6.datagram.source = Address::v6(0x2001_0db8 << 96);
    let mut take = || table.take(&over_v6, 0, 0, &mut counters);
    let ids = [take(), take(), take()]
        .map(|fate| if let Fate::Pass(_, onward, None) = fate { onward.id } else { 0 });
    assert!(ids.iter().any(|&id| id > 0xffff) && ids[0] != ids[1]);
}

#[test]
fn any_part_of_its_name_makes_another_datagram() {
    let keys =
        [(1, 2, 3, 17), (2, 1, 3, 17), (1, 2, 4, 17), (1, 2, 3, 6), (1 << 64, 2, 3, 17), (1, 2 << 64, 3, 17)];
    let hashes: std::collections::HashSet<_> = keys
        .iter()
        .map(|&(source, destination, id, protocol)| {
            let (source, destination) = (Address::v6(source), Address::v6(destination));
            DatagramKey { source, destination, id, protocol }.hash(&SECRET)
        })
        .collect();
    assert_eq!(hashes.len(), keys.len());
    let mut spread = [0; 3];
    for id in 0..3_000 {
        spread[fragment(1, id, 0, 1).datagram.worker(&SECRET, 3)] += 1;
    }
    assert!(spread.iter().all(|n| (800..1_200).contains(n)), "{spread:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rfc4787_req14_fragments_of_interleaved_datagrams_in_any_order(
        sizes in prop::collection::vec(1u16..45, 1..12),
        swaps in prop::collection::vec(any::<prop::sample::Index>(), 512),
    ) {
        let mut frames: Vec<_> = (0u32..)
            .zip(&sizes)
            .flat_map(|(id, &of)| (0..of).map(move |n| (id, n, of)))
            .collect();
        for (i, swap) in swaps.iter().enumerate() {
            let (a, b) = (i % frames.len(), swap.index(frames.len()));
            frames.swap(a, b);
        }
        let (mut table, mut counters) = table();
        let mut out = Vec::new();
        for &(id, n, of) in &frames {
            // Each source has two datagrams under way.
            let fragment = fragment(id / 2, id, n, of);
            let passed = put(&mut table, &mut counters, &fragment, id << 16 | u32::from(n), 0);
            if let Some(first) = passed.first().filter(|_| n == 0) {
                prop_assert_eq!(*first, id << 16);
            }
            out.extend(passed);
        }
        prop_assert!(is_empty(&table));
        prop_assert!(counts(&counters).is_empty());
        out.sort_unstable();
        let mut all: Vec<_> = frames.iter().map(|&(id, n, _)| id << 16 | u32::from(n)).collect();
        all.sort_unstable();
        prop_assert_eq!(out, all);
    }

    #[test]
    fn any_fragments_at_any_time_keep_the_table_in_order(
        rows in prop::collection::vec((0u32..3, 0u32..4, 0u16..12, 1u16..4, any::<bool>(), 0u32..4_000), 1..600),
    ) {
        let (mut table, mut counters) = table();
        let (mut now_ms, mut passed) = (0, 0);
        for &(source, id, start, length, more, elapsed_ms) in &rows {
            now_ms += elapsed_ms;
            let mut fragment = fragment(source, id, u16::from(start > 0), 9);
            fragment.piece = Piece { start: start * 8, end: (start + length) * 8, more };
            passed += put(&mut table, &mut counters, &fragment, 0, now_ms).len() as u64;
            table.sweep(now_ms, 1, &mut counters);
            prop_assert_eq!(table.sources.iter().map(|s| usize::from(s.held)).sum::<usize>(), table.held());
        }
        let counted: u64 = counts(&counters).values().sum();
        prop_assert_eq!(passed + counted + table.held() as u64, rows.len() as u64, "each has one fate");
        table.sweep(now_ms + FRAGMENT_TIMEOUT_MS, usize::MAX, &mut counters);
        prop_assert!(is_empty(&table));
    }
}
