//! The file `control`: who is alive, what is adopted, and the two rings.
//!
//! ```text
//! word 0    magic, layout version, bytes of the file, down ring (first word, words), up ring (first word, words), boot id (2), dataplane pid
//! word 16   dataplane's line: last beat in ms of CLOCK_MONOTONIC, pid
//! word 32   control plane's line: the same
//! word 48   adopted: count of changes, then two slots of generation and revision
//! word 512  down ring (updates), then up ring (events)
//! ```
//!
//! The dataplane makes the file anew at each start, under a new inode; a control plane that sees [`ControlSide::is_current`] turn false
//! opens the new one and sends a full snapshot.

use crate::error::ShmError;
use crate::region::{REGION_BYTES_MAX, Region, RegionWords, RoleLock, make_folder, random_id};
use crate::ring::{self, BadRingSize};
use crate::sync::{AtomicU64, Ordering};
use std::path::Path;
use std::sync::Arc;

/// The writing end of a ring in shared memory.
pub type Producer = ring::Producer<RegionWords>;
/// The reading end of a ring in shared memory.
pub type Consumer = ring::Consumer<RegionWords>;

/// Name of the file.
pub const CONTROL_FILE: &str = "control";
/// Version of the layout above and of the ring's.
pub const CONTROL_VERSION: u64 = 1;

/// "TURNPKCT" read as bytes on a little-endian machine.
const MAGIC: u64 = u64::from_le_bytes(*b"TURNPKCT");
const DATAPLANE_LOCK: &str = "dataplane.lock";
const CONTROL_LOCK: &str = "controlplane.lock";

const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 1;
const AT_BYTES: usize = 2;
const AT_DOWN: usize = 3;
const AT_UP: usize = 5;
const AT_BOOT_ID: usize = 7;
const AT_DATAPLANE_PID: usize = 9;
const DATAPLANE_LINE: usize = 16;
const CONTROL_LINE: usize = 32;
const ADOPTED: usize = 48;
const HEADER_WORDS: usize = 512;
/// Reads of the adopted pair before the writer is taken for mad. Each retry needs two adoptions within nanoseconds.
const ADOPTED_READS_MAX: u32 = 16;

/// Milliseconds of CLOCK_MONOTONIC: the same for every process of the machine, never set back.
#[must_use]
pub fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// One process's heartbeat line.
fn beat(words: &[AtomicU64], line: usize, now_ms: u64) {
    words[line + 1].store(u64::from(std::process::id()), Ordering::Relaxed);
    words[line].store(now_ms, Ordering::Release);
}

/// Whether a line was beaten no longer than `lost_ms` ago. A beat from the future counts as none.
fn alive(words: &[AtomicU64], line: usize, now_ms: u64, lost_ms: u64) -> bool {
    let last = words[line].load(Ordering::Acquire);
    last != 0 && now_ms.abs_diff(last) <= lost_ms
}

fn pid(word: &AtomicU64) -> Option<u32> {
    u32::try_from(word.load(Ordering::Relaxed)).ok().filter(|&pid| pid != 0)
}

/// The dataplane's handle: it makes the file and owns it.
pub struct DataplaneSide {
    region: Arc<Region>,
    updates: Consumer,
    events: Producer,
    adoptions: u64,
    _lock: RoleLock,
}

impl DataplaneSide {
    /// Makes the folder and the file anew. The rings hold at least `down_bytes` and `up_bytes`. Fails if another dataplane lives there.
    pub fn create(folder: &Path, down_bytes: usize, up_bytes: usize) -> Result<Self, ShmError> {
        let (down, up) = (ring::words_for(down_bytes), ring::words_for(up_bytes));
        let bytes = HEADER_WORDS.saturating_add(down).saturating_add(up).saturating_mul(8);
        if bytes > REGION_BYTES_MAX {
            return Err(BadRingSize { words: down.max(up) }.into());
        }
        make_folder(folder)?;
        let lock = RoleLock::take(folder, DATAPLANE_LOCK, "dataplane")?;
        let boot_id = random_id(folder)?;
        let region = Region::create(folder, CONTROL_FILE, bytes, |words| {
            let fields = [
                (AT_VERSION, CONTROL_VERSION),
                (AT_BYTES, bytes as u64),
                (AT_DOWN, HEADER_WORDS as u64),
                (AT_DOWN + 1, down as u64),
                (AT_UP, (HEADER_WORDS + down) as u64),
                (AT_UP + 1, up as u64),
                (AT_BOOT_ID, boot_id[0]),
                (AT_BOOT_ID + 1, boot_id[1]),
                (AT_DATAPLANE_PID, u64::from(std::process::id())),
            ];
            for (at, value) in fields {
                words[at].store(value, Ordering::Relaxed);
            }
            beat(words, DATAPLANE_LINE, monotonic_ms());
            words[AT_MAGIC].store(MAGIC, Ordering::Release);
        })?;
        let region = Arc::new(region);
        // The file can be seen by now: a control plane may have attached already, and said something.
        let updates = Consumer::first(ring_words(&region, HEADER_WORDS, down)?)?;
        let events = Producer::attach(ring_words(&region, HEADER_WORDS + down, up)?)?;
        Ok(Self { region, updates, events, adoptions: 0, _lock: lock })
    }

    /// The ring down.
    pub fn updates(&mut self) -> &mut Consumer {
        &mut self.updates
    }

    /// The ring up.
    pub fn events(&mut self) -> &mut Producer {
        &mut self.events
    }

    /// Says that the dataplane lives. `now_ms` is [`monotonic_ms`].
    pub fn beat(&self, now_ms: u64) {
        beat(self.region.words(), DATAPLANE_LINE, now_ms);
    }

    /// Whether a control plane has beaten within `lost_ms`.
    #[must_use]
    pub fn control_alive(&self, now_ms: u64, lost_ms: u64) -> bool {
        alive(self.region.words(), CONTROL_LINE, now_ms, lost_ms)
    }

    /// The last control plane's process.
    #[must_use]
    pub fn control_pid(&self) -> Option<u32> {
        pid(&self.region.words()[CONTROL_LINE + 1])
    }

    /// Publishes what every worker has adopted.
    pub fn set_adopted(&mut self, generation: u64, revision: i64) {
        let words = self.region.words();
        self.adoptions = self.adoptions.wrapping_add(1);
        let slot = adopted_slot(self.adoptions);
        // Release: a reader that meets one of these while it reads the pair before also meets the count in between.
        words[slot].store(generation, Ordering::Release);
        words[slot + 1].store(revision.cast_unsigned(), Ordering::Release);
        words[ADOPTED].store(self.adoptions, Ordering::Release);
    }

    /// Random, new at each start of the dataplane.
    #[must_use]
    pub fn boot_id(&self) -> u128 {
        boot_id(self.region.words())
    }
}

impl Drop for DataplaneSide {
    /// A dataplane that ends in order is known to be gone at once.
    fn drop(&mut self) {
        beat(self.region.words(), DATAPLANE_LINE, 0);
    }
}

/// The control plane's handle.
pub struct ControlSide {
    region: Arc<Region>,
    updates: Producer,
    events: Consumer,
    _lock: RoleLock,
}

impl ControlSide {
    /// Opens what the dataplane has made and becomes its control plane. [`ShmError::Absent`] while there is none.
    pub fn open(folder: &Path) -> Result<Self, ShmError> {
        let region = Arc::new(Region::open(folder, CONTROL_FILE, true)?);
        let (down, up) = check(&region)?;
        let lock = RoleLock::take(folder, CONTROL_LOCK, "control plane")?;
        let events = Consumer::attach(ring_words(&region, up.0, up.1)?)?;
        let updates = Producer::attach(ring_words(&region, down.0, down.1)?)?;
        let side = Self { region, updates, events, _lock: lock };
        side.beat(monotonic_ms());
        Ok(side)
    }

    /// The ring down.
    pub fn updates(&mut self) -> &mut Producer {
        &mut self.updates
    }

    /// The ring up.
    pub fn events(&mut self) -> &mut Consumer {
        &mut self.events
    }

    /// Says that the control plane lives. `now_ms` is [`monotonic_ms`].
    pub fn beat(&self, now_ms: u64) {
        beat(self.region.words(), CONTROL_LINE, now_ms);
    }

    /// Whether the dataplane has beaten within `lost_ms`.
    #[must_use]
    pub fn dataplane_alive(&self, now_ms: u64, lost_ms: u64) -> bool {
        alive(self.region.words(), DATAPLANE_LINE, now_ms, lost_ms)
    }

    /// The dataplane's process.
    #[must_use]
    pub fn dataplane_pid(&self) -> Option<u32> {
        pid(&self.region.words()[AT_DATAPLANE_PID])
    }

    /// Random, new at each start of the dataplane.
    #[must_use]
    pub fn boot_id(&self) -> u128 {
        boot_id(self.region.words())
    }

    /// Generation and revision that every worker has adopted; zeros while there is none.
    #[must_use]
    pub fn adopted(&self) -> (u64, i64) {
        adopted(self.region.words())
    }

    /// Whether the path still leads to the file that is mapped; if not, a new dataplane has made another.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.region.is_current()
    }
}

impl Drop for ControlSide {
    /// A control plane that ends in order is known to be gone at once.
    fn drop(&mut self) {
        beat(self.region.words(), CONTROL_LINE, 0);
    }
}

/// The handle of a process that only looks: it takes no part, holds no lock, and cannot write.
pub struct ControlView {
    region: Region,
}

impl ControlView {
    /// Opens what the dataplane has made. [`ShmError::Absent`] while there is none.
    pub fn open(folder: &Path) -> Result<Self, ShmError> {
        let region = Region::open(folder, CONTROL_FILE, false)?;
        check(&region)?;
        Ok(Self { region })
    }

    /// Generation and revision that every worker has adopted; zeros while there is none.
    #[must_use]
    pub fn adopted(&self) -> (u64, i64) {
        adopted(self.region.words())
    }

    /// Whether the dataplane has beaten within `lost_ms`.
    #[must_use]
    pub fn dataplane_alive(&self, now_ms: u64, lost_ms: u64) -> bool {
        alive(self.region.words(), DATAPLANE_LINE, now_ms, lost_ms)
    }
}

fn adopted(words: &[AtomicU64]) -> (u64, i64) {
    for _ in 0..ADOPTED_READS_MAX {
        let before = words[ADOPTED].load(Ordering::Acquire);
        let slot = adopted_slot(before);
        // Acquire keeps the second look at the count behind these two.
        let generation = words[slot].load(Ordering::Acquire);
        let revision = words[slot + 1].load(Ordering::Acquire);
        if words[ADOPTED].load(Ordering::Relaxed) == before {
            return (generation, revision.cast_signed());
        }
    }
    (0, 0)
}

/// The slot a change of the adopted pair goes to: the one that readers of the change before do not look at.
fn adopted_slot(change: u64) -> usize {
    ADOPTED + 2 + 2 * (change & 1) as usize
}

fn boot_id(words: &[AtomicU64]) -> u128 {
    let half = |at: usize| u128::from(words[at].load(Ordering::Relaxed));
    half(AT_BOOT_ID) << 64 | half(AT_BOOT_ID + 1)
}

fn ring_words(region: &Arc<Region>, first: usize, count: usize) -> Result<RegionWords, ShmError> {
    RegionWords::new(region, first, count).ok_or_else(|| foreign(region, "a ring lies outside the file"))
}

fn foreign(region: &Region, reason: &'static str) -> ShmError {
    ShmError::Foreign { path: region.path().to_owned(), reason }
}

/// First word and count of words of a ring.
type Span = (usize, usize);

/// Checks the header; the spans of both rings.
fn check(region: &Region) -> Result<(Span, Span), ShmError> {
    let words = region.words();
    if words.len() < HEADER_WORDS {
        return Err(foreign(region, "it is too short"));
    }
    if words[AT_MAGIC].load(Ordering::Acquire) != MAGIC {
        return Err(foreign(region, "the magic number is missing"));
    }
    let found = words[AT_VERSION].load(Ordering::Relaxed);
    if found != CONTROL_VERSION {
        return Err(ShmError::Version { path: region.path().to_owned(), found, expected: CONTROL_VERSION });
    }
    if words[AT_BYTES].load(Ordering::Relaxed) != words.len() as u64 * 8 {
        return Err(foreign(region, "its size is not what it says"));
    }
    let span = |at: usize| -> Result<Span, ShmError> {
        let read = |at: usize| usize::try_from(words[at].load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let (first, count) = (read(at), read(at + 1));
        match first.checked_add(count) {
            Some(end) if first >= HEADER_WORDS && end <= words.len() => Ok((first, count)),
            _ => Err(foreign(region, "a ring lies outside the file")),
        }
    };
    let (down, up) = (span(AT_DOWN)?, span(AT_UP)?);
    if down.0 < up.0 + up.1 && up.0 < down.0 + down.1 {
        return Err(foreign(region, "the rings overlap"));
    }
    Ok((down, up))
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
