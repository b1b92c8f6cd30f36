//! [`Hash`]: DPDK's hash table (`rte_hash`), which the benchmark of flow tables holds Turnpike's own against. The packet path does not use it.

use crate::eal::Eal;
use crate::{control, errno, error_text};
use dpdk_sys as sys;
use std::ffi::{CString, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// Keys that one [`Hash::lookup`] takes, at most.
pub const HASH_BULK: usize = sys::RTE_HASH_LOOKUP_BULK_MAX as usize;

/// Why a table is not made, or does not take a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Its size is none, or memory is short.
    #[error(
        "cannot make a hash table of {entries} entries (8 to {}): {reason}; give the environment more memory",
        sys::RTE_HASH_ENTRIES_MAX
    )]
    NotMade {
        /// Entries asked for.
        entries: u32,
        /// What DPDK says.
        reason: String,
    },
    /// There is no room for the key.
    #[error("the hash table takes no other key: {reason}")]
    NotTaken {
        /// What DPDK says.
        reason: String,
    },
}

/// A table from keys of `KEY` bytes to words, used by one thread at a time.
#[derive(Debug)]
pub struct Hash<const KEY: usize> {
    raw: NonNull<sys::rte_hash>,
    memory_bytes: usize,
}

// SAFETY: made without the flags for several threads, an rte_hash belongs to no thread in particular, and a value of this type has it alone.
unsafe impl<const KEY: usize> Send for Hash<KEY> {}

impl<const KEY: usize> Hash<KEY> {
    /// Makes a table for `entries` keys, with the hash that DPDK prefers on this processor: CRC32C where there is an instruction for it.
    pub fn new(_eal: Eal, entries: u32) -> Result<Self, HashError> {
        const { assert!(KEY > 0 && KEY <= u32::MAX as usize) };
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = CString::new(format!("hash{}", MADE.fetch_add(1, Ordering::Relaxed))).unwrap_or_default();
        let parameters = sys::rte_hash_parameters {
            name: name.as_ptr(),
            entries,
            key_len: KEY as u32,
            socket_id: ANY_NODE,
            ..Default::default()
        };
        let _one_at_a_time = control();
        let before = allocated_bytes();
        // SAFETY: the environment runs; the name is NUL-terminated, unique and copied; DPDK refuses sizes that are none.
        let raw = unsafe { sys::rte_hash_create(&raw const parameters) };
        let Some(raw) = NonNull::new(raw) else {
            return Err(HashError::NotMade { entries, reason: error_text(errno()) });
        };
        Ok(Self { raw, memory_bytes: allocated_bytes().saturating_sub(before) })
    }

    /// Bytes of the environment's memory that were taken for it.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Adds a key, or gives one that is there another value.
    pub fn insert(&mut self, key: &[u8; KEY], value: usize) -> Result<(), HashError> {
        let value: *mut c_void = ptr::without_provenance_mut(value);
        // SAFETY: the table lives as long as `self`, which is borrowed alone; the key has the table's length; the value is kept and not followed.
        let status = unsafe { sys::rte_hash_add_key_data(self.raw.as_ptr(), key.as_ptr().cast(), value) };
        if status < 0 { Err(HashError::NotTaken { reason: error_text(status) }) } else { Ok(()) }
    }

    /// The value of one key.
    #[must_use]
    pub fn get(&self, key: &[u8; KEY]) -> Option<usize> {
        let mut value = ptr::null_mut::<c_void>();
        // SAFETY: the key has the table's length; there is room for one value, which is not followed; nobody changes the table while it is borrowed.
        let at = unsafe { sys::rte_hash_lookup_data(self.raw.as_ptr(), key.as_ptr().cast(), &raw mut value) };
        (at >= 0).then(|| value.addr())
    }

    /// Looks up to [`HASH_BULK`] keys up at once; those behind are left out. Bit *n* of the answer says whether key *n* was found, and then
    /// `values` holds its value at *n*.
    pub fn lookup(&self, keys: &[[u8; KEY]], values: &mut [usize; HASH_BULK]) -> u64 {
        let count = keys.len().min(HASH_BULK);
        if count == 0 {
            return 0;
        }
        let mut starts = [ptr::null::<c_void>(); HASH_BULK];
        for (start, key) in starts.iter_mut().zip(keys) {
            *start = key.as_ptr().cast();
        }
        let mut found = 0;
        // SAFETY: `count` keys of the table's length are named; there is room for `count` values, each as wide as a pointer and none followed;
        // nobody changes the table while it is borrowed.
        let status = unsafe {
            sys::rte_hash_lookup_bulk_data(
                self.raw.as_ptr(),
                starts.as_mut_ptr(),
                count as u32,
                &raw mut found,
                values.as_mut_ptr().cast(),
            )
        };
        if status < 0 { 0 } else { found }
    }
}

impl<const KEY: usize> Drop for Hash<KEY> {
    fn drop(&mut self) {
        let _one_at_a_time = control();
        // SAFETY: made by `new`, and nobody else has it.
        unsafe { sys::rte_hash_free(self.raw.as_ptr()) };
    }
}

const ANY_NODE: i32 = -1;

/// What the environment has given out, over all nodes.
fn allocated_bytes() -> usize {
    let of = |node: u32| {
        let mut stats = sys::rte_malloc_socket_stats::default();
        // SAFETY: writes to `stats` alone, and refuses a node that is none.
        let status = unsafe { sys::rte_malloc_get_socket_stats(node as i32, &raw mut stats) };
        if status < 0 { 0 } else { stats.heap_allocsz_bytes }
    };
    (0..sys::RTE_MAX_NUMA_NODES).map(of).sum()
}
