//! Maglev consistent hashing (Eisenbud et al., NSDI 2016, section 3.4): a table of slots that every gateway builds alike.
//!
//! Each backend has its own permutation of all slots, from a keyed hash of its identity. In turns, each takes the first slot of its
//! permutation that is still free, until all are taken. Backends are sorted by identity first, so the order they were learned in does not
//! matter. A backend of weight *w* gets *w* turns where one of weight 1 gets one.

use crate::hash::{Secret, scale};

/// Sizes a table may have: primes, so that every skip visits every slot. About four times apart.
const PRIMES: &[u32] = &[251, 1_021, 4_093, 16_381, 65_537, 262_147, 1_048_573, 2_097_143];

/// Slots for each backend at least, which bounds the imbalance to about one percent (section 5.3 of the paper).
const SLOTS_PER_BACKEND: usize = 100;

/// One backend to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its identity, the same on every gateway: address and port.
    pub identity: u64,
    /// Its share of the slots relative to the others; 0 gets none.
    pub weight: u16,
    /// What [`Maglev::pick`] answers for it.
    pub position: u16,
}

/// A built table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maglev {
    slots: Box<[u16]>,
}

impl Maglev {
    /// Builds the table, of the size for so many members; empty when no member has a weight.
    #[must_use]
    pub fn build(members: &[Member], key: &Secret) -> Self {
        let placed = members.iter().filter(|m| m.weight > 0).count();
        Self::build_of(Self::size_for(placed), members, key)
    }

    /// Builds a table of so many slots, which have to be a prime of 3 at least; empty when no member has a weight.
    #[must_use]
    pub fn build_of(size: u32, members: &[Member], key: &Secret) -> Self {
        let mut members: Vec<Member> = members.iter().copied().filter(|m| m.weight > 0).collect();
        members.sort_by_key(|m| m.identity);
        let Some(heaviest) = members.iter().map(|m| u32::from(m.weight)).max() else {
            return Self { slots: Box::default() };
        };
        let mut permutations: Vec<Permutation> =
            members.iter().map(|m| Permutation::new(m, key, size)).collect();
        const FREE: u16 = u16::MAX;
        let mut slots = vec![FREE; size as usize].into_boxed_slice();
        let mut free = size;
        while free > 0 {
            for (member, permutation) in members.iter().zip(&mut permutations) {
                // A lighter member lets turns pass until its credit makes up a whole one.
                permutation.credit += u32::from(member.weight);
                if permutation.credit < heaviest {
                    continue;
                }
                permutation.credit -= heaviest;
                while let Some(slot) = slots.get_mut(permutation.next() as usize) {
                    if *slot == FREE {
                        *slot = member.position;
                        free -= 1;
                        break;
                    }
                }
                if free == 0 {
                    break;
                }
            }
        }
        Self { slots }
    }

    /// The size of a table for so many backends: a prime, at least a hundred slots each as long as the largest prime allows.
    #[must_use]
    pub fn size_for(backends: usize) -> u32 {
        let wanted = backends.saturating_mul(SLOTS_PER_BACKEND);
        let largest = PRIMES[PRIMES.len() - 1];
        PRIMES.iter().copied().find(|&p| p as usize >= wanted).unwrap_or(largest)
    }

    /// The member for a packet's hash; none when no member has a weight.
    #[inline]
    #[must_use]
    pub fn pick(&self, hash: u64) -> Option<u16> {
        self.slots.get(scale((hash >> 32) as u32, self.slots.len() as u32) as usize).copied()
    }

    /// The member of each slot.
    #[must_use]
    pub const fn slots(&self) -> &[u16] {
        &self.slots
    }
}

/// The order in which one member wants the slots.
struct Permutation {
    at: u32,
    skip: u32,
    size: u32,
    credit: u32,
}

impl Permutation {
    fn new(member: &Member, key: &Secret, size: u32) -> Self {
        let at = (key.words(member.identity, 0x6f66_6673_6574) % u64::from(size)) as u32;
        let skip = (key.words(member.identity, 0x736b_6970) % u64::from(size - 1)) as u32 + 1;
        Self { at, skip, size, credit: 0 }
    }

    const fn next(&mut self) -> u32 {
        let now = self.at;
        self.at += self.skip;
        if self.at >= self.size {
            self.at -= self.size;
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(n: u16) -> Vec<Member> {
        (0..n)
            .map(|i| Member { identity: 0x0a00_0000_1f90 + u64::from(i) * 65_536, weight: 1, position: i })
            .collect()
    }

    fn key() -> Secret {
        Secret::from_pair([3, 4])
    }

    fn shares(table: &Maglev, members: usize) -> Vec<usize> {
        let mut shares = vec![0; members];
        table.slots().iter().for_each(|&p| shares[usize::from(p)] += 1);
        shares
    }

    #[test]
    fn sizes_are_primes_a_hundred_slots_a_backend() {
        for &p in PRIMES {
            assert!((2..).take_while(|d| d * d <= p).all(|d| p % d != 0), "{p}");
        }
        for n in [1, 2, 3, 10, 100, 1_000, 10_000] {
            assert!(Maglev::size_for(n) as usize >= n * SLOTS_PER_BACKEND);
        }
    }

    #[test]
    fn shares_are_even() {
        for n in [1u16, 2, 3, 7, 50, 300] {
            let shares = shares(&Maglev::build(&members(n), &key()), usize::from(n));
            let (low, high) = (*shares.iter().min().unwrap(), *shares.iter().max().unwrap());
            assert!(high - low <= 1, "{n} backends: {low} to {high}");
        }
    }

    #[test]
    fn shares_follow_weights() {
        let mut members = members(3);
        members[1].weight = 2;
        members[2].weight = 0;
        let shares = shares(&Maglev::build(&members, &key()), 3);
        assert_eq!(shares[2], 0);
        assert!((shares[1] as f64 / shares[0] as f64 - 2.0).abs() < 0.05, "{shares:?}");
    }

    #[test]
    fn order_does_not_matter_and_nothing_is_empty() {
        let forward = Maglev::build(&members(20), &key());
        let mut turned = members(20);
        turned.reverse();
        assert_eq!(forward, Maglev::build(&turned, &key()));
        assert_eq!(Maglev::build(&[], &key()).pick(7), None);
    }

    #[test]
    fn one_backend_less_moves_few_others() {
        let all = Maglev::build(&members(50), &key());
        let fewer: Vec<_> = members(50).into_iter().filter(|m| m.position != 17).collect();
        let fewer = Maglev::build(&fewer, &key());
        let moved = all.slots().iter().zip(fewer.slots()).filter(|(a, b)| **a != 17 && a != b).count();
        assert!(moved < all.slots().len() / 20, "{moved} of {} slots moved", all.slots().len());
    }

    proptest! {
        #[test]
        fn every_slot_is_taken(weights in prop::collection::vec(0u16..=256, 1..40)) {
            let members: Vec<_> = members(weights.len() as u16).into_iter().zip(&weights)
                .map(|(m, &weight)| Member { weight, ..m }).collect();
            let table = Maglev::build(&members, &key());
            prop_assert_eq!(table.slots().is_empty(), weights.iter().all(|&w| w == 0));
            prop_assert!(table.slots().iter().all(|&p| weights.get(usize::from(p)).is_some_and(|&w| w > 0)));
        }
    }
}
