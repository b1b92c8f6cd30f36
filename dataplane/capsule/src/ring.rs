//! [`ring()`]: a queue of frames between two threads, and what ring ports are made of ([`crate::Port::from_rings`]).

use crate::eal::Eal;
use crate::mbuf::Mbuf;
use crate::{control, errno, error_text, tx};
use dpdk_sys as sys;
use std::ffi::{CString, c_void};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use turnpike_packet::io::Burst;

/// Why there is no ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The number of slots is no power of two, or memory is short.
    #[error("cannot make a ring of {slots} slots (a power of two from 2 to 2^30): {reason}")]
    NotMade {
        /// Slots asked for.
        slots: u32,
        /// What DPDK says.
        reason: String,
    },
}

/// The end frames are put into. There is one per ring.
#[derive(Debug)]
pub struct RingProducer(Arc<Shared>);

/// The end frames are taken from. There is one per ring.
#[derive(Debug)]
pub struct RingConsumer(Arc<Shared>);

#[derive(Debug)]
struct Shared(NonNull<sys::rte_ring>);

// SAFETY: one producer and one consumer may use an rte_ring at the same time; RingProducer and RingConsumer are those.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Makes a ring that holds `slots - 1` frames, for one producer and one consumer.
pub fn ring(_eal: Eal, slots: u32) -> Result<(RingProducer, RingConsumer), RingError> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let name = CString::new(format!("ring{}", MADE.fetch_add(1, Ordering::Relaxed))).unwrap_or_default();
    let _one_at_a_time = control();
    // SAFETY: the environment runs; the name is NUL-terminated, unique and copied; -1 is "any NUMA node".
    let raw =
        unsafe { sys::rte_ring_create(name.as_ptr(), slots, -1, sys::RING_F_SP_ENQ | sys::RING_F_SC_DEQ) };
    let Some(raw) = NonNull::new(raw) else {
        return Err(RingError::NotMade { slots, reason: error_text(errno()) });
    };
    let shared = Arc::new(Shared(raw));
    Ok((RingProducer(Arc::clone(&shared)), RingConsumer(shared)))
}

impl RingProducer {
    /// Puts in a prefix of `from`, in order, and returns how many; the rest stays in `from`, moved to its front.
    #[inline]
    pub fn enqueue(&mut self, from: &mut Burst<Mbuf>) -> usize {
        let items = from.as_mut_ptr().cast::<*mut c_void>();
        // SAFETY: the array holds from.len() pointers to frames that are ours; those taken by the ring are given up just below.
        let taken = unsafe { sys::shim_ring_enqueue_burst(self.as_ptr(), items, from.len() as u32) };
        // SAFETY: the ring owns the first `taken` frames now.
        unsafe { tx::forget_front(from, taken as usize) };
        taken as usize
    }

    /// How many frames can be put in now, at least.
    #[must_use]
    pub fn room(&self) -> usize {
        // SAFETY: the ring lives as long as its ends.
        unsafe { sys::shim_ring_free_count(self.as_ptr()) as usize }
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_ring {
        self.0.0.as_ptr()
    }
}

impl RingConsumer {
    /// Appends frames to `into` up to its capacity and returns how many.
    #[inline]
    pub fn dequeue(&mut self, into: &mut Burst<Mbuf>) -> usize {
        let (held, room) = (into.len(), into.remaining_capacity());
        // SAFETY: there are `room` slots behind the first `held`; the ring holds frames only, and gives each up as it comes out.
        unsafe {
            let free = into.as_mut_ptr().add(held).cast::<*mut c_void>();
            let taken = sys::shim_ring_dequeue_burst(self.as_ptr(), free, room as u32) as usize;
            into.set_len(held + taken);
            taken
        }
    }

    /// How many frames can be taken now, at least.
    #[must_use]
    pub fn len(&self) -> usize {
        // SAFETY: the ring lives as long as its ends.
        unsafe { sys::shim_ring_count(self.as_ptr()) as usize }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rte_ring {
        self.0.0.as_ptr()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut left: *mut c_void = std::ptr::null_mut();
        // SAFETY: both ends are gone, so the ring is ours alone; what is in it are frames that no one else owns.
        unsafe {
            while sys::shim_ring_dequeue_burst(self.0.as_ptr(), &raw mut left, 1) == 1 {
                sys::shim_pktmbuf_free(left.cast());
            }
            let _one_at_a_time = control();
            sys::rte_ring_free(self.0.as_ptr());
        }
    }
}
