//! The next hops of a dataplane, for the one after it: `next-hops` in the gateway's folder.
//!
//! A place of four words for each index that flows may hold: the address, port and Ethernet address, and a check sum under which the index is too. A place that was being written when its
//! writer ended has a wrong sum and is passed over.

use crate::error::ShmError;
use crate::region::Region;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Places: one for each value of 16 bits.
const PLACES: usize = 1 << 16;
const WORDS: usize = 4;
/// Layout version, in the check sums.
const VERSION: u64 = 1;
const KNOWN: u64 = 1 << 63;
const WRITTEN: u64 = 1 << 63;

/// One next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownHop {
    /// What flows call it.
    pub index: u16,
    /// Number of its port.
    pub port: u8,
    /// Its address, as that of IPv6.
    pub address: u128,
    /// Its Ethernet address, if known.
    pub mac: Option<[u8; 6]>,
}

impl KnownHop {
    const fn words(&self) -> [u64; 3] {
        let bits = match self.mac {
            Some([a, b, c, d, e, f]) => KNOWN | u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
            None => 0,
        };
        [(self.address >> 64) as u64, self.address as u64, (self.port as u64) << 48 | bits]
    }
}

/// The file, for the dataplane that writes it.
pub struct NextHopFile(Region);

impl NextHopFile {
    /// What was written before, as far as it is whole. Nothing where there is no file.
    #[must_use]
    pub fn read(folder: &Path) -> Vec<KnownHop> {
        let Ok(region) = Region::open(folder, NAME, false) else { return Vec::new() };
        let places = region.words().chunks_exact(WORDS).take(PLACES).enumerate();
        let known = places.filter_map(|(at, place)| {
            let [high, low, rest, sum] = [0, 1, 2, 3].map(|word| place[word].load(Ordering::Relaxed));
            let [a, b, c, d, e, f, port, _] = rest.to_le_bytes();
            let index = u16::try_from(at).ok()?;
            (sum == sum_of(index, [high, low, rest])).then(|| KnownHop {
                index,
                port,
                address: u128::from(high) << 64 | u128::from(low),
                mac: (rest & KNOWN != 0).then_some([a, b, c, d, e, f]),
            })
        });
        known.collect()
    }

    /// Makes a file of these next hops in place of an older one.
    pub fn create(folder: &Path, hops: impl Iterator<Item = KnownHop>) -> Result<Self, ShmError> {
        let bytes = PLACES * WORDS * 8;
        Ok(Self(Region::create(folder, NAME, bytes, |words| hops.for_each(|hop| put(words, &hop)))?))
    }

    /// Writes a next hop down, if it is not written so already.
    pub fn put(&self, hop: &KnownHop) {
        put(self.0.words(), hop);
    }
}

fn put(all: &[AtomicU64], hop: &KnownHop) {
    let place = &all[usize::from(hop.index) * WORDS..][..WORDS];
    let words = hop.words();
    let sum = sum_of(hop.index, words);
    if place[3].load(Ordering::Relaxed) != sum {
        place[3].store(0, Ordering::Release);
        place.iter().zip(words).for_each(|(place, word)| place.store(word, Ordering::Relaxed));
        place[3].store(sum, Ordering::Release);
    }
}

const NAME: &str = "next-hops";

fn sum_of(index: u16, words: [u64; 3]) -> u64 {
    let mut sum = crc32fast::Hasher::new();
    [VERSION, index.into()].iter().chain(&words).for_each(|word| sum.update(&word.to_le_bytes()));
    WRITTEN | u64::from(sum.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn next_hops_come_back_and_damaged_ones_do_not() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        assert_eq!(NextHopFile::read(folder.path()), []);
        let file = NextHopFile::create(folder.path(), [].into_iter()).unwrap();
        assert_eq!(NextHopFile::read(folder.path()), []);
        let hop = |index, mac| KnownHop { index, port: 3, address: 0x0a00_0001 << 64 | 7, mac };
        let hops = [hop(0, Some([2, 0, 0, 0, 0, 9])), hop(5, None), hop(u16::MAX, Some([0; 6]))];
        hops.iter().for_each(|hop| file.put(hop));
        assert_eq!(NextHopFile::read(folder.path()), hops);
        let file = NextHopFile::create(folder.path(), hops.into_iter()).unwrap();
        assert_eq!(NextHopFile::read(folder.path()), hops);
        let moved = hop(5, Some([1; 6]));
        file.put(&moved);
        let raw = std::fs::OpenOptions::new().write(true).open(folder.path().join(NAME)).unwrap();
        raw.write_all_at(&[0xff], 1).unwrap();
        assert_eq!(NextHopFile::read(folder.path()), [moved, hops[2]]);
        raw.set_len(12).unwrap();
        assert_eq!(NextHopFile::read(folder.path()), []);
    }
}
