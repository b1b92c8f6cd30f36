//! Keyed hashes: nobody outside can choose packets that collide.
//!
//! Two rounds of a folded 64 × 64 → 128 bit multiplication over the key, each mixed with secret words first. An unkeyed or linear hash
//! (CRC32C, Toeplitz, jhash with a known seed) would let a client choose tuples that share one bucket.

use crate::address::Address;
use crate::flow_key::Key;

/// The secret words of one hash. Equal secrets give equal hashes, on every machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u64; 4]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A secret of random words.
    #[must_use]
    pub const fn new(words: [u64; 4]) -> Self {
        let [a, b, c, d] = words;
        Self([spread(a), spread(b ^ 0x5555), spread(c ^ 0x3333_0000), spread(d ^ 0x0f0f_0000_0000) | 1])
    }

    /// A secret stretched from the two words that a fleet shares.
    #[must_use]
    pub const fn from_pair(pair: [u64; 2]) -> Self {
        Self::new([pair[0], pair[1], spread(pair[0]) ^ pair[1], spread(pair[1]) ^ pair[0].rotate_left(32)])
    }

    /// 64 hash bits of a flow key.
    #[inline(always)]
    #[must_use]
    pub fn hash<K: Key>(&self, key: K) -> u64 {
        key.hash(self)
    }

    /// 64 hash bits of two words.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self, low: u64, high: u64) -> u64 {
        let first = fold(low ^ self.0[0], high ^ self.0[1]);
        fold(first ^ self.0[2], self.0[3])
    }

    /// 64 hash bits of five words.
    #[inline(always)]
    #[must_use]
    pub const fn five_words(&self, words: [u64; 5]) -> u64 {
        let [a, b, c, d, e] = words;
        let first = fold(a ^ self.0[0], b ^ self.0[1]);
        let second = fold(c ^ self.0[2] ^ first, d ^ self.0[1].rotate_left(32));
        fold(second ^ e ^ self.0[0].rotate_left(16), self.0[3])
    }

    /// 64 hash bits of an address and a word beside it.
    #[must_use]
    pub const fn address(&self, address: Address, beside: u64) -> u64 {
        let bits = address.bits();
        self.five_words([bits as u64, (bits >> 64) as u64, beside, 0, 0])
    }
}

/// Both halves of the 128-bit product, exclusive-ored.
#[inline(always)]
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    (product as u64) ^ ((product >> 64) as u64)
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every bit of the result depends on every bit of the word, so that a
/// secret with few ones multiplies as well as any other.
const fn spread(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Maps 32 hash bits evenly onto `0..n` without a division.
#[inline(always)]
#[must_use]
pub const fn scale(bits: u32, n: u32) -> u32 {
    ((bits as u64 * n as u64) >> 32) as u32
}

/// A small generator for port choices and tie breaks, seeded from the secret; its output never leaves the process but as a port number.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    key: u64,
}

impl Random {
    /// A generator of its own sequence for each `stream`.
    #[must_use]
    pub const fn new(secret: &Secret, stream: u64) -> Self {
        Self { state: secret.words(stream, 0x7261_6e64), key: secret.0[3] ^ stream }
    }

    /// A generator of its own that begins here; this one goes on behind it, however much is taken from the other.
    #[must_use]
    pub const fn fork(&mut self) -> Self {
        let state = (self.next() as u64) << 32 | self.next() as u64;
        Self { state, key: self.key }
    }

    /// The next 32 bits.
    #[inline]
    pub const fn next(&mut self) -> u32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        fold(self.state ^ self.key, self.state ^ 0xe703_7ed1_a0b4_28db) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_key::{FlowKey, FlowKey6};

    #[test]
    fn buckets_fill_evenly_over_consecutive_clients() {
        let secret = Secret::new([1, 2, 3, 4]);
        let mut buckets = [0u32; 64];
        for n in 0..64_000u32 {
            let key = FlowKey::new(6, 0x0a00_0000 + n, 0xcb00_7101, 40_000, 80);
            buckets[scale(secret.hash(key) as u32, 64) as usize] += 1;
        }
        assert!(buckets.iter().all(|&n| (800..1200).contains(&n)), "{buckets:?}");
    }

    #[test]
    fn every_part_of_an_ipv6_key_counts() {
        let secret = Secret::new([1, 2, 3, 4]);
        let mut seen = std::collections::HashSet::new();
        for bit in 0..128 {
            seen.insert(secret.hash(FlowKey6::new(6, 1 << bit, 9, 40_000, 80)));
            seen.insert(secret.hash(FlowKey6::new(6, 9, 1 << bit, 40_000, 80)));
        }
        for port in 0..1_000 {
            seen.insert(secret.hash(FlowKey6::new(6, 9, 9, port, 80)));
            seen.insert(secret.hash(FlowKey6::new(17, 9, 9, 80, port)));
        }
        assert_eq!(seen.len(), 256 + 2_000);
    }

    #[test]
    fn another_secret_is_another_hash() {
        let key = FlowKey::new(6, 1, 2, 3, 4);
        assert_ne!(Secret::new([1, 2, 3, 4]).hash(key), Secret::new([1, 2, 3, 8]).hash(key));
        assert_ne!(Secret::new([1, 2, 3, 4]).hash(key), Secret::new([5, 2, 3, 4]).hash(key));
    }

    #[test]
    fn fleet_hash_is_the_same_for_ever() {
        // Every gateway of a fleet must choose alike, whatever its build: a change here breaks flows in a mixed fleet.
        let secret = Secret::from_pair([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
        assert_eq!(secret.words(1, 2), secret.words(1, 2));
        assert_eq!(secret.words(0x0a00_0001_0000_9c40, 0xcb00_7101_0006_0050), GOLDEN);
    }

    const GOLDEN: u64 = 13_185_819_309_701_429_408;

    #[test]
    fn a_fork_goes_its_own_way() {
        let mut random = Random::new(&Secret::new([1, 2, 3, 4]), 0);
        let mut same = random.clone();
        let (mut fork, mut other) = (random.fork(), same.fork());
        let taken: Vec<u32> = (0..8).map(|_| fork.next()).collect();
        assert_eq!(other.next(), taken[0]);
        assert_eq!(random.next(), same.next(), "whatever was taken from the forks");
        assert!(!taken.contains(&random.next()));
    }

    #[test]
    fn random_streams_differ() {
        let secret = Secret::new([1, 2, 3, 4]);
        let (mut a, mut b) = (Random::new(&secret, 0), Random::new(&secret, 1));
        assert_ne!([a.next(), a.next()], [b.next(), b.next()]);
    }
}
