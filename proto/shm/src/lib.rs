//! The shared memory between Turnpike's processes. Knows bytes only.
//!
//! - `control`: heartbeats, what is adopted, and two rings between dataplane ([`DataplaneSide`]) and control plane ([`ControlSide`]).
//! - `counters`: pages the dataplane writes ([`CounterFile`]) and any process reads ([`CounterReader`]).
//! - [`HugeMemory`]: large zeroed memory for one process.
//!
//! # Claims
//!
//! 1. **A record is seen whole or not at all.** The producer stores a record's words and then `tail` with Release; the consumer loads
//!    `tail` with Acquire before any of them.
//! 2. **A record is not overwritten while it is read.** The consumer has copied a record's words out before it stores `head` with Release;
//!    the producer loads `head` with Acquire before it writes the words again.
//! 3. **A producer killed at any moment leaves the ring valid.** Words behind `tail` belong to nobody; the successor starts at the
//!    published `tail`. Nothing but `tail` publishes.
//! 4. **Records of two producers never mix.** A producer stores `epoch_start`, then `epoch`, with Release, before its first `tail`; the
//!    consumer loads `tail` and then `epoch`, both with Acquire, so it knows the epoch of every record it may read. At a change it goes to
//!    `epoch_start`, which is stored with Release and loaded with Acquire before `tail` is loaded again, so that no start seems to lie
//!    behind the tail. Each record carries its epoch under its check sum.
//! 5. **A missing record is noticed.** Records of one producer are numbered from 0, under the check sum.
//! 6. **The peer cannot harm this process.** Own positions are kept in private memory; distances, lengths and counts from the region are
//!    checked before use; data words are found by a mask; all access is atomic, so a racing writer is no undefined behaviour; every loop is
//!    bounded by a local size. Pages are taken when a file is made, so a full tmpfs is an error there and no SIGBUS later. (A process of
//!    the same user that truncates the file can still end both; file modes 0600 and 0700 keep others out.)
//! 7. **No operation waits for the peer.** A full ring is an error to the producer, an empty one a value to the consumer.
//! 8. **`adopted` is a pair of one moment.** Two slots alternate and are stored with Release behind the count that names them; a reader
//!    that met a newer slot also meets a newer count, and reads again, a bounded number of times.
//! 9. **One process plays each part.** A file lock that the kernel gives back when the process ends.
//!
//! Claims 1 and 3 to 5 are checked by loom models (`RUSTFLAGS="--cfg loom"`), all of 1 to 5 by processes killed at random moments
//! (`tests/kill.rs`), claim 6 by mutation of every word (`ring_tests.rs`, `counters_tests.rs`). Claim 2 is out of loom's reach: no execution
//! it builds lets a load return a value that is stored later, which is just what the barrier on `head` forbids.

mod ring;
mod sync;

#[cfg(not(loom))]
mod control;
#[cfg(not(loom))]
mod counters;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod memory;
#[cfg(not(loom))]
mod node;
#[cfg(not(loom))]
mod region;

#[cfg(all(test, loom))]
mod loom_tests;

pub use ring::{BadRingSize, Corruption, HEADER_WORDS, Popped, PushError, RingCorrupt, Words, words_for};

#[cfg(not(loom))]
pub use control::{
    CONTROL_FILE, CONTROL_VERSION, Consumer, ControlSide, ControlView, DataplaneSide, Producer, monotonic_ms,
};
#[cfg(not(loom))]
pub use counters::{
    COUNTERS_FILE, COUNTERS_PER_PAGE_MAX, COUNTERS_VERSION, CounterFile, CounterPage, CounterReader,
    KIND_GATEWAY, KIND_PORT, KIND_WORKER, PAGES_MAX, PageSpec, PageView,
};
#[cfg(not(loom))]
pub use error::ShmError;
#[cfg(not(loom))]
pub use memory::{GIANT_PAGE_BYTES, HUGE_PAGE_BYTES, HugeMemory, PageKind, Pages};
#[cfg(not(loom))]
pub use region::RegionWords;
