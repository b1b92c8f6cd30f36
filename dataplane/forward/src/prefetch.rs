//! The one place outside `dpdk-sys`, `capsule` and `shm` with unsafe code: asking the cache for a line ahead of its use.

/// Asks for the cache line of `value` in the second-level cache.
///
/// T1 rather than T0: T0 stops at the first-level cache's miss buffers, T1 goes on filling the second level, and a burst has more than
/// thirty lines in flight.
#[inline(always)]
pub fn line<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and cannot fault; the pointer comes from a live reference.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(core::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
