//! The index of a flow table, as lookups need it: where an entry is, in two stages over a burst. [`super::Sessions::confirm`] is the third.

use super::Sessions;
use crate::cpu;
use crate::flow_key::Key;
use crate::hash::{Secret, scale};
use crate::limits::BUCKET_PROBES_MAX;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entries of a bucket.
pub(super) const ENTRIES: usize = 8;
/// The bit of an index that tells the direction.
pub(super) const REPLY: u32 = 1 << 31;
/// The end of the free list.
pub(super) const NONE: u32 = u32::MAX;

/// One cache line of the index.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    pub(super) tags: [u16; ENTRIES],
    pub(super) index: [u32; ENTRIES],
    /// Entries that lie in later buckets because this one was full.
    pub(super) passed: u32,
    spare: [u8; 12],
}

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

impl Bucket {
    /// Without entries.
    pub(super) const EMPTY: Self =
        Self { tags: [0; ENTRIES], index: [0; ENTRIES], passed: 0, spare: [0; 12] };

    /// The first entry with the tag of a place.
    #[inline(always)]
    fn first(&self, place: Place) -> Option<Candidate> {
        Entries::of(self.tags, place.tag as u16).next().map(|entry| Candidate(self.index[entry]))
    }

    /// Every entry with the tag of a place.
    #[inline(always)]
    pub(super) fn all(&self, place: Place) -> impl Iterator<Item = Candidate> {
        Entries::of(self.tags, place.tag as u16).map(|entry| Candidate(self.index[entry]))
    }

    /// Makes an entry; false if there is no room for it.
    pub(super) fn put(&mut self, place: Place, index: u32) -> bool {
        let Some(entry) = Entries::of(self.tags, 0).next() else { return false };
        (self.tags[entry], self.index[entry]) = (place.tag as u16, index);
        true
    }

    /// Takes an entry out; false if it is not here.
    pub(super) fn take(&mut self, place: Place, index: u32) -> bool {
        let mut entries = Entries::of(self.tags, place.tag as u16);
        let Some(entry) = entries.find(|&entry| self.index[entry] == index) else { return false };
        (self.tags[entry], self.index[entry]) = (0, 0);
        true
    }
}

/// Numbers of the entries that have some tag, in ascending order.
struct Entries(u32);

impl Entries {
    #[inline(always)]
    fn of(tags: [u16; ENTRIES], tag: u16) -> Self {
        Self(cpu::equal_words(tags, tag))
    }
}

impl Iterator for Entries {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let entry = (self.0.trailing_zeros() as usize / 2) & (ENTRIES - 1);
        self.0 &= !(0b11 << (2 * entry));
        Some(entry)
    }
}

/// Where a key's entry would be: its home bucket and tag.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    pub(super) bucket: u32,
    /// 16 bits, in a word of 32 so that a burst of places has no holes.
    pub(super) tag: u32,
}

impl Place {
    /// The buckets of so many that a key may lie in, home first.
    #[inline]
    pub(super) fn walk(self, buckets: usize) -> impl Iterator<Item = usize> {
        let home = self.bucket as usize;
        (home..home + BUCKET_PROBES_MAX)
            .map(move |bucket| if bucket < buckets { bucket } else { bucket - buckets })
    }
}

/// An entry whose tag matched: a session and a direction that the full key has to confirm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate(pub(super) u32);

impl Candidate {
    /// No entry has the tag.
    pub const NONE: Self = Self(NONE);

    /// The entry that the client's packets of the session in `slot` have.
    #[must_use]
    pub const fn from_client(slot: usize) -> Self {
        Self(slot as u32)
    }

    /// Slot of the session.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> usize {
        (self.0 & !REPLY) as usize
    }

    /// 0 for a packet from the client, 1 for one from the backend.
    #[inline(always)]
    #[must_use]
    pub const fn direction(self) -> usize {
        (self.0 >> 31) as usize
    }
}

/// The index of a table, for lookups. Values and no pointers to values, so that a loop may keep them in registers.
#[derive(Clone, Copy, Debug)]
pub struct Index<'a> {
    pub(super) buckets: &'a [Bucket],
    pub(super) secret: Secret,
}

impl Index<'_> {
    /// Stage one of a lookup: where the key would be. Asks for the bucket's cache line.
    #[inline(always)]
    #[must_use]
    pub fn place<K: Key>(&self, key: K) -> Place {
        let place = self.locate(key);
        cpu::prefetch(self.buckets, place.bucket as usize);
        place
    }

    #[inline(always)]
    pub(super) fn locate<K: Key>(&self, key: K) -> Place {
        let hash = self.secret.hash(key);
        let bucket = scale(hash as u32, self.buckets.len() as u32);
        // One bit is given up, so that no tag is that of an empty entry.
        Place { bucket, tag: (hash >> 48) as u32 | 1 }
    }

    /// Asks for the bucket of a place that is next but a few.
    #[inline(always)]
    pub fn approach(&self, place: Place) {
        cpu::approach(self.buckets, place.bucket as usize);
    }

    /// Stage two: the first entry with this tag in the home bucket, or else in those that entries of it lie in. Asks for its session.
    #[inline(always)]
    #[must_use]
    pub fn candidate<K: Key>(&self, place: Place, sessions: &Sessions<'_, K>) -> Candidate {
        let bucket = &self.buckets[place.bucket as usize];
        match bucket.first(place) {
            Some(candidate) => {
                sessions.prefetch(candidate);
                candidate
            }
            None if bucket.passed == 0 => Candidate::NONE,
            None => self.candidate_behind(place, sessions),
        }
    }

    /// One entry of a hundred lies behind its home bucket, but one packet of a hundred that is not steady costs half of all bursts their way out
    /// as a whole.
    #[cold]
    #[inline(never)]
    fn candidate_behind<K: Key>(&self, place: Place, sessions: &Sessions<'_, K>) -> Candidate {
        for bucket in place.walk(self.buckets.len()).skip(1) {
            let bucket = &self.buckets[bucket];
            if let Some(candidate) = bucket.first(place) {
                sessions.prefetch(candidate);
                return candidate;
            }
            if bucket.passed == 0 {
                break;
            }
        }
        Candidate::NONE
    }
}
