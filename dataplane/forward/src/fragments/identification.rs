//! Identifications for fragments that leave with a source that others use too.
//!
//! Who puts fragments together again knows them by addresses, protocol and identification (RFC 791 section 3.2, RFC 8200 section 4.5). Behind a
//! translation many senders share addresses, towards backends the SNAT address and towards clients the VIP, so their own identifications may
//! meet and bytes of two datagrams be mixed up (RFC 6864 section 5.3.1, RFC 7857 section 10). Every datagram therefore gets one of its own:
//! workers count through disjoint numbers, and a keyed permutation makes of them what nobody can guess (RFC 7739) and no two share until
//! all are used up.

use crate::hash::Secret;

/// Rounds of the permutation; four make a pseudo-random one (Luby and Rackoff, 1988).
const ROUNDS: u64 = 4;

/// Gives out identifications for one worker.
#[derive(Debug)]
pub struct Identifications {
    secret: Secret,
    worker: u32,
    workers: u32,
    given: [u32; 2],
}

impl Identifications {
    /// Those of worker number `worker` of so many, at most 2¹⁶, which share the secret.
    #[must_use]
    pub fn new(secret: Secret, worker: usize, workers: usize) -> Self {
        let workers = workers.clamp(1, 1 << 16) as u32;
        Self { secret, worker: worker as u32 % workers, workers, given: [0; 2] }
    }

    /// The next one for a datagram over IPv4, of 16 bits.
    pub fn for_v4(&mut self) -> u32 {
        let number = self.count(0, 1 << 16);
        self.permuted(number, 8)
    }

    /// The next one for a packet over IPv6, of 32 bits.
    pub fn for_v6(&mut self) -> u32 {
        let number = self.count(1, 1 << 32);
        self.permuted(number, 16)
    }

    /// The next number of this worker below `end`.
    fn count(&mut self, family: usize, end: u64) -> u32 {
        let given = &mut self.given[family];
        let number = u64::from(*given) * u64::from(self.workers) + u64::from(self.worker);
        *given = if u64::from(*given) + 1 < end / u64::from(self.workers) { *given + 1 } else { 0 };
        number as u32
    }

    /// A Feistel network over two halves of so many bits.
    fn permuted(&self, number: u32, half_bits: u32) -> u32 {
        let mask = (1 << half_bits) - 1;
        let (mut high, mut low) = (number >> half_bits, number & mask);
        for round in 0..ROUNDS {
            let mixed = self.secret.words(u64::from(low), round << 8 | u64::from(half_bits)) as u32 & mask;
            (high, low) = (low, high ^ mixed);
        }
        high << half_bits | low
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rfc6864_no_identification_comes_twice_before_all_have_come() {
        let secret = Secret::new([1, 2, 3, 4]);
        for workers in [1, 2, 3, 7] {
            let per_worker = (1 << 16) / workers;
            let mut seen = HashSet::new();
            for worker in 0..workers {
                let mut identifications = Identifications::new(secret, worker, workers);
                let own: Vec<_> = (0..per_worker).map(|_| identifications.for_v4()).collect();
                assert!(own.iter().all(|&id| id <= 0xffff && seen.insert(id)), "{workers} workers");
                assert_eq!(identifications.for_v4(), own[0], "then they come again, in the same order");
            }
            assert_eq!(seen.len(), per_worker * workers);
        }
    }

    #[test]
    fn those_of_ipv6_use_all_bits() {
        let secret = Secret::new([1, 2, 3, 4]);
        let mut workers = [0, 1].map(|worker| Identifications::new(secret, worker, 2));
        let mut seen = HashSet::new();
        for _ in 0..100_000 {
            assert!(workers.iter_mut().all(|worker| seen.insert(worker.for_v6())));
        }
        let (all, any) = seen.iter().fold((u32::MAX, 0), |(all, any), id| (all & id, any | id));
        assert_eq!((all, any), (0, u32::MAX));
        assert_eq!(workers[0].given[0], 0, "each family counts by itself");
    }

    #[test]
    fn rfc7739_the_next_one_cannot_be_told_from_the_last() {
        let steps = |secret| {
            let mut identifications = Identifications::new(secret, 0, 1);
            let ids: Vec<_> = (0..1_000).map(|_| identifications.for_v4()).collect();
            ids.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]) as u16).collect::<Vec<_>>()
        };
        let (one, other) = (steps(Secret::new([1, 2, 3, 4])), steps(Secret::new([1, 2, 3, 5])));
        assert!(one.iter().collect::<HashSet<_>>().len() > 950, "steps are of all sizes");
        assert!(
            one.iter().zip(&other).filter(|(a, b)| a == b).count() < 10,
            "and others with another secret"
        );
    }
}
