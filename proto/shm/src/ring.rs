//! A ring of byte records from one producer process to one consumer process.
//!
//! The ring lives in a slice of 64-bit words: four header fields, each on a cache line of its own, then the data, whose length is a
//! power of two. Positions count words from the ring's making and never wrap in practice (64 bits); the low bits choose the data word.
//!
//! ```text
//! word 0       16      32       48             64
//!      head │ tail │ epoch │ epoch_start │ data …
//! record: [ sequence:32 | length:32 ] [ epoch:32 | crc:32 ] payload words, little-endian, the last one padded with zeros
//! ```
//!
//! The producer owns `tail`, `epoch` and `epoch_start`; the consumer owns `head`. Each keeps its own position in private memory and never
//! believes the ring about it, so the peer can lie only about its own; a field that a third spoils is put right by its owner. No
//! operation waits, and each looks at no more words than the data holds. A peer may say something at every pop: who pops in a loop
//! bounds it.
//! The crate's first page numbers the claims this makes and the barrier behind each.

use crate::sync::{AtomicU64, Ordering};

/// Words between header fields: 128 bytes, so that adjacent-line prefetch does not couple them. Models need no distance.
const LINE_WORDS: usize = if cfg!(loom) { 1 } else { 16 };
const HEAD: usize = 0;
const TAIL: usize = LINE_WORDS;
const EPOCH: usize = 2 * LINE_WORDS;
const EPOCH_START: usize = 3 * LINE_WORDS;
/// Words before the data.
pub const HEADER_WORDS: usize = 4 * LINE_WORDS;
/// Words before a record's payload.
const RECORD_HEADER_WORDS: usize = 2;
/// Least data words a ring may have.
const DATA_WORDS_MIN: usize = 4;

/// Memory a ring lives in: header words, then data words.
pub trait Words {
    /// Always the same words, for as long as `self` lives.
    fn words(&self) -> &[AtomicU64];
}

impl<W: Words + ?Sized> Words for std::sync::Arc<W> {
    fn words(&self) -> &[AtomicU64] {
        (**self).words()
    }
}

impl Words for Vec<AtomicU64> {
    fn words(&self) -> &[AtomicU64] {
        self
    }
}

/// Words a ring whose data holds at least `bytes` takes, header included.
#[must_use]
pub fn words_for(bytes: usize) -> usize {
    let data = bytes.div_ceil(8).clamp(DATA_WORDS_MIN, 1 << 40).next_power_of_two();
    HEADER_WORDS + data
}

/// The memory given for a ring cannot hold one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{words} words cannot hold a ring: after {HEADER_WORDS} words of header the data must be a power of two of at least {DATA_WORDS_MIN}"
)]
pub struct BadRingSize {
    /// Words that were given.
    pub words: usize,
}

/// Why a record was not pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The consumer has not made room yet; nothing was written.
    #[error("the ring is full")]
    Full,
    /// Longer than the ring will ever hold.
    #[error("record of {bytes} bytes is longer than the ring's limit of {limit}")]
    TooLong {
        /// Length of the record.
        bytes: usize,
        /// Longest record of this ring.
        limit: usize,
    },
}

/// What a pop found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Popped {
    /// The ring is empty.
    Nothing,
    /// The buffer holds the next record.
    Record,
    /// A producer has attached; whatever its predecessor left unread is dropped, the next record is its own.
    NewEpoch,
}

/// The ring held something no honest producer writes. All that was unread is dropped; the ring goes on behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ring is corrupt ({reason}); what was unread is dropped, a full snapshot must follow")]
pub struct RingCorrupt {
    /// What was wrong.
    pub reason: Corruption,
}

/// What was wrong with a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    /// More is said to be unread than the ring holds.
    #[error("{unread} words are said to be unread")]
    Tail {
        /// Words between head and tail.
        unread: u64,
    },
    /// The start of a new producer lies outside the ring.
    #[error("the new producer's start lies outside the ring")]
    EpochStart,
    /// A record is said to reach past the tail.
    #[error("a record of {bytes} bytes reaches past the tail")]
    Length {
        /// Its length.
        bytes: u32,
    },
    /// The check sum does not match.
    #[error("the check sum of a record does not match")]
    Checksum,
    /// A record is missing, or belongs to another producer.
    #[error("record {found} came where {expected} was due")]
    Sequence {
        /// Sequence number due.
        expected: u32,
        /// Sequence number found.
        found: u32,
    },
    /// A record of another producer than the present one.
    #[error("a record belongs to another producer")]
    Epoch,
}

/// Header and data of a ring, found in its words.
struct Ring<W> {
    words: W,
    mask: u64,
}

impl<W: Words> Ring<W> {
    fn new(words: W) -> Result<Self, BadRingSize> {
        let given = words.words().len();
        let data = given.saturating_sub(HEADER_WORDS);
        if data < DATA_WORDS_MIN || !data.is_power_of_two() {
            return Err(BadRingSize { words: given });
        }
        Ok(Self { words, mask: data as u64 - 1 })
    }

    /// Data words.
    fn capacity(&self) -> u64 {
        self.mask + 1
    }

    fn field(&self, at: usize) -> &AtomicU64 {
        &self.words.words()[at]
    }

    /// Puts right a field of this side's own that somebody else has written; else the peer might wait on it for ever.
    fn restore(&self, at: usize, own: u64) {
        if self.field(at).load(Ordering::Relaxed) != own {
            self.field(at).store(own, Ordering::Release);
        }
    }

    /// The data word of a position; the mask keeps any position inside the slice whose length `new` has checked.
    fn data(&self, position: u64) -> &AtomicU64 {
        &self.words.words()[HEADER_WORDS + (position & self.mask) as usize]
    }
}

/// Check sum of a record: its first word, its epoch, its payload.
fn checksum(first: u64, epoch: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&first.to_le_bytes());
    hasher.update(&epoch.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// The writing end.
pub struct Producer<W> {
    ring: Ring<W>,
    tail: u64,
    epoch: u64,
    sequence: u32,
}

impl<W: Words> Producer<W> {
    /// Becomes the producer. The caller sees to it that no other producer lives (a file lock). Starts a new epoch at the published tail:
    /// what a killed predecessor had half written was never published and is overwritten.
    pub fn attach(words: W) -> Result<Self, BadRingSize> {
        let ring = Ring::new(words)?;
        let tail = ring.field(TAIL).load(Ordering::Acquire);
        let epoch = ring.field(EPOCH).load(Ordering::Acquire).wrapping_add(1);
        // Release: a consumer that meets this start, even before the epoch, also meets a tail no older than it.
        ring.field(EPOCH_START).store(tail, Ordering::Release);
        ring.field(EPOCH).store(epoch, Ordering::Release);
        Ok(Self { ring, tail, epoch, sequence: 0 })
    }

    /// Writes one record and publishes it, or changes nothing.
    pub fn push(&mut self, record: &[u8]) -> Result<(), PushError> {
        let limit = self.record_bytes_max();
        if record.len() > limit {
            return Err(PushError::TooLong { bytes: record.len(), limit });
        }
        let Ok(length) = u32::try_from(record.len()) else {
            return Err(PushError::TooLong { bytes: record.len(), limit });
        };
        let needed = (RECORD_HEADER_WORDS + record.len().div_ceil(8)) as u64;
        self.ring.restore(EPOCH, self.epoch);
        if self.free_words() < needed {
            // A tail that somebody spoilt may be why the consumer stands where there is nothing to give back.
            self.ring.restore(TAIL, self.tail);
            return Err(PushError::Full);
        }
        let first = u64::from(self.sequence) << 32 | u64::from(length);
        let epoch = self.epoch as u32;
        let second = u64::from(epoch) << 32 | u64::from(checksum(first, epoch, record));
        self.ring.data(self.tail).store(first, Ordering::Relaxed);
        self.ring.data(self.tail.wrapping_add(1)).store(second, Ordering::Relaxed);
        for (position, chunk) in (2u64..).zip(record.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            self.ring
                .data(self.tail.wrapping_add(position))
                .store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
        self.tail = self.tail.wrapping_add(needed);
        self.sequence = self.sequence.wrapping_add(1);
        self.ring.field(TAIL).store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Longest record this ring takes, in bytes.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        (self.ring.capacity() as usize - RECORD_HEADER_WORDS) * 8
    }

    /// Words that may be written now; a head outside the ring counts as no room.
    #[must_use]
    pub fn free_words(&self) -> u64 {
        let head = self.ring.field(HEAD).load(Ordering::Acquire);
        self.ring.capacity().saturating_sub(self.tail.wrapping_sub(head))
    }

    /// Number of this producer among all that this ring has had, from 1.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// The reading end.
pub struct Consumer<W> {
    ring: Ring<W>,
    head: u64,
    epoch: u64,
    /// None: the first record says it (this consumer joined in the middle).
    expected: Option<u32>,
}

impl<W: Words> Consumer<W> {
    /// Becomes the consumer, from the published tail on: what lies before was meant for a predecessor. The caller sees to it that no
    /// other consumer lives.
    pub fn attach(words: W) -> Result<Self, BadRingSize> {
        let ring = Ring::new(words)?;
        let epoch = ring.field(EPOCH).load(Ordering::Acquire);
        let head = ring.field(TAIL).load(Ordering::Acquire);
        ring.field(HEAD).store(head, Ordering::Release);
        Ok(Self { ring, head, epoch, expected: None })
    }

    /// Becomes the first consumer of a ring that its own process has made: from the very beginning, whatever a producer has written since
    /// others could see the ring.
    pub fn first(words: W) -> Result<Self, BadRingSize> {
        Ok(Self { ring: Ring::new(words)?, head: 0, epoch: 0, expected: None })
    }

    /// Takes the next record into `record`, which is cleared first. Copies, checks, and only then gives the words back to the producer.
    pub fn pop(&mut self, record: &mut Vec<u8>) -> Result<Popped, RingCorrupt> {
        record.clear();
        // The tail is read before the epoch: whoever sees a producer's records also sees its epoch.
        let tail = self.ring.field(TAIL).load(Ordering::Acquire);
        let epoch = self.ring.field(EPOCH).load(Ordering::Acquire);
        if epoch != self.epoch {
            return self.enter(epoch);
        }
        let unread = tail.wrapping_sub(self.head);
        if unread == 0 {
            self.ring.restore(HEAD, self.head);
            return Ok(Popped::Nothing);
        }
        match self.copy_out(unread, record) {
            Ok(words) => {
                self.release(self.head.wrapping_add(words));
                Ok(Popped::Record)
            }
            Err(reason) => {
                record.clear();
                Err(self.skip_to(tail, reason))
            }
        }
    }

    /// Copies the record at the head; its length in words.
    fn copy_out(&mut self, unread: u64, record: &mut Vec<u8>) -> Result<u64, Corruption> {
        if unread > self.ring.capacity() || unread < RECORD_HEADER_WORDS as u64 {
            return Err(Corruption::Tail { unread });
        }
        let first = self.ring.data(self.head).load(Ordering::Relaxed);
        let second = self.ring.data(self.head.wrapping_add(1)).load(Ordering::Relaxed);
        let bytes = first as u32;
        let found = (first >> 32) as u32;
        let words = RECORD_HEADER_WORDS as u64 + u64::from(bytes.div_ceil(8));
        if words > unread {
            return Err(Corruption::Length { bytes });
        }
        record.reserve((bytes as usize).next_multiple_of(8));
        for position in RECORD_HEADER_WORDS as u64..words {
            let word = self.ring.data(self.head.wrapping_add(position)).load(Ordering::Relaxed);
            record.extend_from_slice(&word.to_le_bytes());
        }
        record.truncate(bytes as usize);
        let epoch = (second >> 32) as u32;
        if second as u32 != checksum(first, epoch, record) {
            return Err(Corruption::Checksum);
        }
        if epoch != self.epoch as u32 {
            return Err(Corruption::Epoch);
        }
        let expected = self.expected.unwrap_or(found);
        if found != expected {
            return Err(Corruption::Sequence { expected, found });
        }
        self.expected = Some(found.wrapping_add(1));
        Ok(words)
    }

    /// Follows a new producer to the position it started at.
    fn enter(&mut self, epoch: u64) -> Result<Popped, RingCorrupt> {
        self.epoch = epoch;
        let start = self.ring.field(EPOCH_START).load(Ordering::Acquire);
        let tail = self.ring.field(TAIL).load(Ordering::Acquire);
        let capacity = self.ring.capacity();
        let ahead = start.wrapping_sub(self.head);
        let behind = self.head.wrapping_sub(start);
        if ahead <= capacity && tail.wrapping_sub(start) <= capacity {
            self.expected = Some(0);
            self.release(start);
            Ok(Popped::NewEpoch)
        } else if behind <= capacity && tail.wrapping_sub(self.head) <= capacity {
            // This consumer attached while the producer did, and already stands behind its first records.
            self.expected = None;
            self.release(self.head);
            Ok(Popped::NewEpoch)
        } else {
            Err(self.skip_to(tail, Corruption::EpochStart))
        }
    }

    fn skip_to(&mut self, tail: u64, reason: Corruption) -> RingCorrupt {
        self.expected = None;
        self.release(tail);
        RingCorrupt { reason }
    }

    /// Gives every word before `head` back to the producer.
    fn release(&mut self, head: u64) {
        self.head = head;
        self.ring.field(HEAD).store(head, Ordering::Release);
    }
}

#[cfg(not(loom))]
#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
