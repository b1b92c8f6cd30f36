//! SNAT ports that rest: for a while after a flow has ended no other client gets its port towards the same backend (RFC 6888 REQ-8), so
//! that what the backend still sends to the one does not reach the other.
//!
//! Towards other backends a port is free at once: what they send to it is of no flow and dropped (REQ-8.C). Three more cases are safe
//! and need no rest: the same client, whose own late packets these are; a TCP flow that was silent for two segment lifetimes when it ended (REQ-8.A, as it is
//! tracked); and flows whose client keeps its address.
//!
//! What rests is known by hashes of the tuple and of the client, in a table of fixed size, in which each tuple has one cache line. If that is
//! full, who has rested longest leaves early. A tuple whose hash is another's is taken for resting too and not chosen: no harm, there are
//! others. Whoever finds only ports that rest gets the one that has rested longest ([`crate::port_pool`]).

use crate::cpu;
use crate::hash::scale;

/// Entries of a bucket.
const ENTRIES: usize = 5;

/// The ports of one worker that rest.
#[derive(Debug)]
pub struct Quarantine {
    buckets: Box<[Bucket]>,
    rest_ms: u32,
    cut_short: u64,
}

/// One cache line of ports that rest, or have.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// Other bits of the tuple's hash than those that tell the bucket; 0: the entry was never used.
    tuples: [u32; ENTRIES],
    clients: [u32; ENTRIES],
    /// Since when, in milliseconds of the worker's clock modulo 2³².
    since_ms: [u32; ENTRIES],
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Quarantine {
    /// No port rests.
    #[must_use]
    pub fn none() -> Self {
        Self { buckets: Box::default(), rest_ms: 0, cut_short: 0 }
    }

    /// Up to `ports` ports rest for `rest_ms`; if either is 0, none does.
    #[must_use]
    pub fn new(rest_ms: u32, ports: usize) -> Self {
        if rest_ms == 0 || ports == 0 {
            return Self::none();
        }
        let buckets = vec![Bucket::default(); ports.div_ceil(ENTRIES)];
        Self { buckets: buckets.into(), rest_ms, cut_short: 0 }
    }

    /// How many ports had to leave early so far, for lack of room.
    #[must_use]
    pub const fn cut_short(&self) -> u64 {
        self.cut_short
    }

    /// The port of a flow that has ended begins to rest. `tuple` is a keyed hash of the key that answers to it had, `client` one of its client.
    pub fn rest(&mut self, tuple: u64, client: u64, now_ms: u32) {
        let Some(home) = self.home(tuple) else { return };
        let (bucket, rest_ms) = (&mut self.buckets[home], self.rest_ms);
        let age_ms = |bucket: &Bucket, at: usize| now_ms.wrapping_sub(bucket.since_ms[at]);
        let same = (0..ENTRIES).find(|&at| bucket.tuples[at] == tag(tuple));
        let unused = || (0..ENTRIES).find(|&at| bucket.tuples[at] == 0);
        let oldest = || (0..ENTRIES).max_by_key(|&at| age_ms(bucket, at));
        let Some(at) = same.or_else(unused).or_else(oldest) else { return };
        let gives_way = bucket.tuples[at] != 0 && bucket.tuples[at] != tag(tuple);
        self.cut_short += u64::from(gives_way && age_ms(bucket, at) < rest_ms);
        bucket.tuples[at] = tag(tuple);
        bucket.clients[at] = client as u32;
        bucket.since_ms[at] = now_ms;
    }

    /// For how long a port has rested by now, in milliseconds, if it has to rest on before this client may have it.
    #[inline]
    #[must_use]
    pub fn rested_ms(&self, tuple: u64, client: u64, now_ms: u32) -> Option<u32> {
        let bucket = &self.buckets[self.home(tuple)?];
        let at = (0..ENTRIES).find(|&at| bucket.tuples[at] == tag(tuple))?;
        let rested_ms = now_ms.wrapping_sub(bucket.since_ms[at]);
        (rested_ms < self.rest_ms && bucket.clients[at] != client as u32).then_some(rested_ms)
    }

    /// Asks for the cache line of a tuple.
    pub fn prefetch(&self, tuple: u64) {
        if let Some(home) = self.home(tuple) {
            cpu::prefetch(&self.buckets, home);
        }
    }

    #[inline]
    fn home(&self, tuple: u64) -> Option<usize> {
        (!self.buckets.is_empty()).then(|| scale(tuple as u32, self.buckets.len() as u32) as usize)
    }
}

/// The hash bits of a tuple that an entry keeps.
const fn tag(tuple: u64) -> u32 {
    let tag = (tuple >> 32) as u32;
    if tag == 0 { 1 } else { tag }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Secret;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const REST_MS: u32 = 120_000;

    fn tuple(n: u32) -> u64 {
        Secret::new([1, 2, 3, 4]).words(n.into(), 0)
    }

    #[test]
    fn rfc6888_req8_ports_rest_120_s() {
        let mut resting = Quarantine::new(REST_MS, 100);
        resting.rest(tuple(1), 7, 5_000);
        for (now_ms, rested_ms) in
            [(5_000, Some(0)), (65_000, Some(60_000)), (124_999, Some(119_999)), (125_000, None)]
        {
            assert_eq!(resting.rested_ms(tuple(1), 8, now_ms), rested_ms, "{now_ms}");
            assert_eq!(resting.rested_ms(tuple(1), 7, now_ms), None, "its own client");
            assert_eq!(resting.rested_ms(tuple(2), 8, now_ms), None, "another tuple");
        }
        // The last one who had it counts.
        resting.rest(tuple(1), 8, 10_000);
        assert_eq!(resting.rested_ms(tuple(1), 7, 10_001), Some(1));
        assert_eq!(resting.rested_ms(tuple(1), 8, 10_001), None);
        assert_eq!(resting.cut_short(), 0);
    }

    #[test]
    fn the_clock_may_wrap() {
        let mut resting = Quarantine::new(REST_MS, 100);
        resting.rest(tuple(1), 7, u32::MAX - 999);
        assert_eq!(resting.rested_ms(tuple(1), 8, 1_000), Some(2_000));
        assert_eq!(resting.rested_ms(tuple(1), 8, 119_000), None);
    }

    #[test]
    fn without_a_time_or_a_place_no_port_rests() {
        for mut none in [Quarantine::none(), Quarantine::new(0, 100), Quarantine::new(REST_MS, 0)] {
            none.rest(tuple(1), 7, 5_000);
            assert_eq!(none.rested_ms(tuple(1), 8, 5_000), None);
            assert!(none.buckets.is_empty());
        }
    }

    #[test]
    fn when_it_is_full_who_rested_longest_leaves() {
        let mut resting = Quarantine::new(REST_MS, ENTRIES);
        assert_eq!(resting.buckets.len(), 1);
        (0..6).for_each(|n| resting.rest(tuple(n), 7, 1_000 + n));
        assert_eq!(resting.cut_short(), 1);
        assert_eq!(resting.rested_ms(tuple(0), 8, 2_000), None);
        assert!((1..6).all(|n| resting.rested_ms(tuple(n), 8, 2_000) == Some(1_000 - n)));
        // Those who have rested give way without loss.
        (6..11).for_each(|n| resting.rest(tuple(n), 7, 200_000));
        assert_eq!(resting.cut_short(), 1);
    }

    #[test]
    fn a_table_filled_by_half_lets_few_leave_early() {
        let mut resting = Quarantine::new(REST_MS, 65_536);
        (0..32_768).for_each(|n| resting.rest(tuple(n), 7, n));
        assert!(resting.cut_short() < 1_500, "{}", resting.cut_short());
        let lost = (0..32_768).filter(|&n| resting.rested_ms(tuple(n), 8, 32_768).is_none()).count();
        assert_eq!(lost as u64, resting.cut_short());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Against a plain map of who left which tuple when. A tuple that rests here rests there too, and for as long; one that does not
        /// has left early, or its time is over.
        #[test]
        fn what_rests_is_what_was_left(
            room in prop::sample::select(vec![5usize, 40, 4_000]),
            steps in prop::collection::vec((0u32..64, 0u64..4, 0u32..20_000), 1..400),
        ) {
            let mut resting = Quarantine::new(REST_MS, room);
            let mut model: HashMap<u32, (u64, u32)> = HashMap::new();
            let mut now_ms = u32::MAX - 1_000_000;
            for (n, client, pause_ms) in steps {
                now_ms = now_ms.wrapping_add(pause_ms);
                resting.rest(tuple(n), client, now_ms);
                model.insert(n, (client, now_ms));
                let mut missing = 0;
                for (&n, &(left_by, since_ms)) in &model {
                    let age_ms = now_ms.wrapping_sub(since_ms);
                    let wanted = (age_ms < REST_MS).then_some(age_ms);
                    let found = resting.rested_ms(tuple(n), left_by + 1, now_ms);
                    prop_assert!(found == wanted || found.is_none());
                    missing += u64::from(found != wanted);
                    prop_assert_eq!(resting.rested_ms(tuple(n), left_by, now_ms), None);
                }
                prop_assert!(missing <= resting.cut_short());
            }
        }
    }
}
