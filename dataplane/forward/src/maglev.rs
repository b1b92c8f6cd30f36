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
        Self::filled(Self::size_for(placed), members, key)
    }

    /// Builds a table of another size; none unless it is an odd prime below a billion.
    #[must_use]
    pub fn build_of(size: u32, members: &[Member], key: &Secret) -> Option<Self> {
        let has_no_divisor = || (2..).take_while(|d| d * d <= size).all(|d| !size.is_multiple_of(d));
        ((3..1_000_000_000).contains(&size) && has_no_divisor()).then(|| Self::filled(size, members, key))
    }

    fn filled(size: u32, members: &[Member], key: &Secret) -> Self {
        let mut members: Vec<Member> = members.iter().copied().filter(|m| m.weight > 0).collect();
        members.sort_by_key(|m| m.identity);
        let Some(heaviest) = members.iter().map(|m| u32::from(m.weight)).max() else {
            return Self { slots: Box::default() };
        };
        let mut permutations: Vec<Permutation> =
            members.iter().map(|m| Permutation::new(m, key, size)).collect();
        let mut slots = vec![0; size as usize].into_boxed_slice();
        let mut free = Free::all(size);
        while free.left > 0 {
            for (member, permutation) in members.iter().zip(&mut permutations) {
                // A lighter member lets turns pass until its credit makes up a whole one.
                permutation.credit += u32::from(member.weight);
                if permutation.credit < heaviest {
                    continue;
                }
                permutation.credit -= heaviest;
                let slot = free.take_first(permutation);
                if let Some(slot) = slots.get_mut(slot as usize) {
                    *slot = member.position;
                }
                if free.left == 0 {
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
        self.slots.get(self.slot(hash) as usize).copied()
    }

    /// The slot for a packet's hash; 0 of an empty table.
    #[inline]
    #[must_use]
    pub fn slot(&self, hash: u64) -> u32 {
        scale((hash >> 32) as u32, self.slots.len() as u32)
    }

    /// The member of each slot.
    #[must_use]
    pub const fn slots(&self) -> &[u16] {
        &self.slots
    }
}

/// The slots that nobody has taken: a bit each, so that those of a large table fit the first or second-level cache; and a list of them once they are few.
///
/// To the last slot that is free a member goes as many steps as there are slots, to the last but one half as many: most steps of a build would lead to the
/// last few slots. When fewer are left than steps would be gone, the one that a member comes to first is computed instead. The table is the same.
struct Free {
    taken: Box<[u64]>,
    left: u32,
    size: u32,
    /// 2⁶⁴ divided by the size, rounded down.
    reciprocal: u64,
    few: Vec<u32>,
}

impl Free {
    fn all(size: u32) -> Self {
        let taken = vec![0; size.div_ceil(64) as usize].into();
        Self { taken, left: size, size, reciprocal: u64::MAX / u64::from(size), few: Vec::new() }
    }

    /// Takes the first slot of a permutation that is free; there has to be one.
    #[inline]
    fn take_first(&mut self, permutation: &mut Permutation) -> u32 {
        // What is left and the steps to one of them make the size when multiplied; both cost about as much.
        if u64::from(self.left) * u64::from(self.left) <= u64::from(self.size) {
            return self.compute_first(permutation);
        }
        loop {
            let slot = permutation.next(self.size);
            let (word, bit) = (&mut self.taken[slot as usize / 64], 1 << (slot % 64));
            if *word & bit == 0 {
                *word |= bit;
                self.left -= 1;
                return slot;
            }
        }
    }

    fn compute_first(&mut self, permutation: &mut Permutation) -> u32 {
        if self.few.is_empty() {
            let is_free = |slot: &u32| self.taken[*slot as usize / 64] >> (slot % 64) & 1 == 0;
            self.few = (0..self.size).filter(is_free).collect();
        }
        if permutation.skips == 0 {
            permutation.skips = inverse(permutation.skip, self.size);
        }
        let steps = self.few.iter().map(|&slot| self.steps(permutation, slot));
        let Some((at, _)) = steps.enumerate().min_by_key(|&(_, steps)| steps) else { return 0 };
        let slot = self.few.swap_remove(at);
        self.left -= 1;
        permutation.at = slot;
        permutation.next(self.size)
    }

    /// How many slots of a permutation come before this one from now on.
    #[inline]
    const fn steps(&self, permutation: &Permutation, slot: u32) -> u32 {
        let at = permutation.at;
        let distance = if slot >= at { slot - at } else { slot + self.size - at };
        let (product, size) = (distance as u64 * permutation.skips as u64, self.size as u64);
        // Without a division: the quotient is right or too small by one.
        let quotient = ((product as u128 * self.reciprocal as u128) >> 64) as u64;
        let rest = product - quotient * size;
        (if rest >= size { rest - size } else { rest }) as u32
    }
}

/// The order in which one member wants the slots.
struct Permutation {
    at: u32,
    skip: u32,
    /// What a distance is multiplied with to be counted in skips; 0 while not known.
    skips: u32,
    credit: u32,
}

impl Permutation {
    fn new(member: &Member, key: &Secret, size: u32) -> Self {
        let at = (key.words(member.identity, 0x6f66_6673_6574) % u64::from(size)) as u32;
        let skip = (key.words(member.identity, 0x736b_6970) % u64::from(size - 1)) as u32 + 1;
        Self { at, skip, skips: 0, credit: 0 }
    }

    #[inline]
    const fn next(&mut self, size: u32) -> u32 {
        let now = self.at;
        self.at += self.skip;
        if self.at >= size {
            self.at -= size;
        }
        now
    }
}

/// What gives 1 when multiplied with `number`, modulo a prime that it is less than (Euclid's algorithm).
const fn inverse(number: u32, prime: u32) -> u32 {
    // Before each step `rests.0` is a multiple of the prime and `factors.0` times the number; likewise the second ones.
    let (mut rests, mut factors) = ((prime, number), (0i64, 1i64));
    while rests.1 > 1 {
        let quotient = rests.0 / rests.1;
        rests = (rests.1, rests.0 % rests.1);
        factors = (factors.1, factors.0 - quotient as i64 * factors.1);
    }
    factors.1.rem_euclid(prime as i64) as u32
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

    /// The paper's steps, one by one.
    fn build_plainly(members: &[Member], key: &Secret) -> Vec<u16> {
        let mut members: Vec<Member> = members.iter().copied().filter(|m| m.weight > 0).collect();
        members.sort_by_key(|m| m.identity);
        let size = Maglev::size_for(members.len());
        let heaviest = members.iter().map(|m| u32::from(m.weight)).max().unwrap();
        let mut permutations: Vec<_> = members.iter().map(|m| Permutation::new(m, key, size)).collect();
        let mut slots = vec![None; size as usize];
        let mut free = size;
        while free > 0 {
            for (member, permutation) in members.iter().zip(&mut permutations) {
                permutation.credit += u32::from(member.weight);
                if permutation.credit < heaviest || free == 0 {
                    continue;
                }
                permutation.credit -= heaviest;
                let slot =
                    std::iter::repeat_with(|| permutation.next(size)).find(|&s| slots[s as usize].is_none());
                slots[slot.unwrap() as usize] = Some(member.position);
                free -= 1;
            }
        }
        slots.into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn a_table_is_what_the_papers_steps_make() {
        for n in [1, 2, 3, 10, 41, 100, 700] {
            let mut members = members(n);
            for factor in [0, 1, 7] {
                members.iter_mut().for_each(|m| m.weight = 1 + m.position * factor % 256);
                let table = Maglev::build(&members, &key());
                assert_eq!(table.slots(), build_plainly(&members, &key()), "{n} backends, factor {factor}");
            }
        }
    }

    #[test]
    fn steps_are_counted_as_they_are_gone() {
        for size in [3, 251, 1_021, 65_537] {
            let free = Free::all(size);
            let mut start = Permutation::new(&members(1)[0], &key(), size);
            start.skips = inverse(start.skip, size);
            let mut walker = Permutation { ..start };
            for steps in 0..size {
                assert_eq!(free.steps(&start, walker.next(size)), steps);
            }
        }
        assert!((1..251).all(|n| n * inverse(n, 251) % 251 == 1));
    }

    #[test]
    fn only_primes_are_sizes() {
        let made: Vec<u32> =
            (0..30).filter(|&size| Maglev::build_of(size, &members(2), &key()).is_some()).collect();
        assert_eq!(made, [3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert_eq!(Maglev::build_of(u32::MAX - 4, &members(2), &key()), None);
        assert!(Maglev::build_of(655_373, &members(3), &key()).is_some_and(|m| m.slots().len() == 655_373));
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
