//! [`Mempool`]: the memory frames live in.

use crate::eal::{Eal, Memory};
use crate::mbuf::Mbuf;
use crate::{control, errno, error_text};
use dpdk_sys as sys;
use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use turnpike_packet::io::HEADROOM;

// What PacketIo promises in front of a frame is what DPDK keeps there.
const _: () = assert!(sys::RTE_PKTMBUF_HEADROOM as usize >= HEADROOM);

/// Buffers a thread keeps for itself, at most.
const CACHE: u32 = 256;

/// An ordinary page.
const PAGE_BYTES: u64 = 4096;

/// Packet buffers, all of one size. A handle: copies mean the same memory, which lives as long as the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mempool(NonNull<sys::rte_mempool>);

// SAFETY: rte_mempool may be used by any thread; its rings are made for many producers and consumers, its caches are per lcore.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

/// Why there is no packet memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MempoolError {
    /// It does not fit.
    #[error(
        "no room for {mbufs} packet buffers of {data_room} bytes: {reason}; they take about {needed_mb} MiB, \
         raise the packet memory (dataplane.memory_mb)"
    )]
    NoMemory {
        /// Buffers asked for.
        mbufs: u32,
        /// Frame bytes of each.
        data_room: u16,
        /// What DPDK says.
        reason: String,
        /// What they would take.
        needed_mb: u64,
    },
    /// A pool of no buffers, or of buffers too small for a frame.
    #[error("{mbufs} packet buffers of {data_room} bytes serve no port; at least 64 of 256 bytes are needed")]
    TooSmall {
        /// Buffers asked for.
        mbufs: u32,
        /// Frame bytes of each.
        data_room: u16,
    },
}

impl Mempool {
    /// Frame bytes of a buffer that serves every driver at the usual MTU of 1500: some want 2048.
    pub const DATA_ROOM: u16 = 2048;

    /// Makes a pool of `mbufs` buffers, each with room for `data_room` bytes of frame behind its headroom.
    pub fn new(eal: Eal, mbufs: u32, data_room: u16) -> Result<Self, MempoolError> {
        Self::on_node(eal, mbufs, data_room, None)
    }

    /// The same in the memory of a NUMA node, and no other; none: of any.
    pub fn on_node(eal: Eal, mbufs: u32, data_room: u16, node: Option<u32>) -> Result<Self, MempoolError> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let room = data_room.checked_add(sys::RTE_PKTMBUF_HEADROOM as u16);
        let (Some(room), true) = (room, mbufs >= 64 && data_room >= 256) else {
            return Err(MempoolError::TooSmall { mbufs, data_room });
        };
        let name =
            CString::new(format!("frames{}", MADE.fetch_add(1, Ordering::Relaxed))).unwrap_or_default();
        // DPDK wants the cache below two thirds of the pool.
        let cache = CACHE.min(mbufs / 4);
        let _one_at_a_time = control();
        const ANY: i32 = -1;
        let node = node.map_or(ANY, |node| i32::try_from(node).unwrap_or(i32::MAX));
        // SAFETY: the environment runs; the name is NUL-terminated, unique and copied; DPDK refuses a node that is none.
        let pool = unsafe { sys::rte_pktmbuf_pool_create(name.as_ptr(), mbufs, cache, 0, room, node) };
        NonNull::new(pool).map(Self).ok_or_else(|| MempoolError::NoMemory {
            mbufs,
            data_room,
            reason: error_text(errno()),
            needed_mb: Self::bytes(mbufs, data_room, eal.memory()).div_ceil(1 << 20),
        })
    }

    /// About what `mbufs` buffers take, in bytes: the frame, its headroom, the mbuf, the pool's own header and padding. DPDK lays no buffer
    /// across the edge of a page, so that on ordinary pages one of the usual size takes a whole page.
    #[must_use]
    pub fn bytes(mbufs: u32, data_room: u16, memory: Memory) -> u64 {
        let each = u64::from(data_room)
            + u64::from(sys::RTE_PKTMBUF_HEADROOM)
            + u64::from(sys::SHIM_MBUF_SIZE)
            + 128;
        match memory {
            Memory::Huge { .. } => u64::from(mbufs) * each,
            Memory::Ordinary { .. } if each > PAGE_BYTES => {
                u64::from(mbufs) * each.next_multiple_of(PAGE_BYTES)
            }
            Memory::Ordinary { .. } => u64::from(mbufs).div_ceil(PAGE_BYTES / each) * PAGE_BYTES,
        }
    }

    /// Buffers that are in no one's hands.
    #[must_use]
    pub fn available(self) -> u32 {
        // SAFETY: the pool lives as long as the process.
        unsafe { sys::rte_mempool_avail_count(self.0.as_ptr()) }
    }

    /// A frame that holds a copy of `data`; none when the pool is empty or `data` does not fit one buffer.
    #[must_use]
    #[inline]
    pub fn alloc(self, data: &[u8]) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as the process.
        let raw = unsafe { sys::shim_pktmbuf_alloc(self.0.as_ptr()) };
        // SAFETY: a buffer fresh from the pool: one segment, no bytes, owned by no one else.
        let mut frame = unsafe { Mbuf::from_raw(NonNull::new(raw)?) };
        frame.fill(data).then_some(frame)
    }

    /// The same of as many segments as `data` needs, each of at most [`Mempool::DATA_ROOM`] bytes.
    #[must_use]
    pub fn alloc_long(self, data: &[u8]) -> Option<Mbuf> {
        let mut parts = data.chunks(usize::from(Self::DATA_ROOM));
        let mut frame = self.alloc(parts.next().unwrap_or_default())?;
        for part in parts {
            frame.append(self.alloc(part)?).ok()?;
        }
        Some(frame)
    }

    pub(crate) fn as_ptr(self) -> *mut sys::rte_mempool {
        self.0.as_ptr()
    }
}
