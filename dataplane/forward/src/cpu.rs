//! What needs the processor's own instructions: asking the cache for a line ahead of its use, and comparing eight tags at once.
//!
//! The one place outside `dpdk-sys`, `capsule` and `shm` with unsafe code.

/// Asks for the cache line of `value` in the second-level cache.
///
/// T1 rather than T0: T0 stops at the first-level cache's miss buffers, T1 goes on filling the second level, and a burst has more than
/// thirty lines in flight.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and cannot fault; the pointer comes from a live reference.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(core::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// One bit for each of the eight words that equals `word`, the first word in the lowest bit.
#[inline(always)]
#[must_use]
pub fn equal_words(words: [u16; 8], word: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi64x, _mm_set1_epi16,
        };
        let words: u128 = zerocopy::transmute!(words);
        // SAFETY: SSE2 is part of every x86-64 processor, and these instructions touch registers only.
        unsafe {
            let words = _mm_set_epi64x((words >> 64) as i64, words as i64);
            let equal = _mm_cmpeq_epi16(words, _mm_set1_epi16(word as i16));
            _mm_movemask_epi8(_mm_packs_epi16(equal, equal)) as u32 & 0xff
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    equal_words_one_by_one(words, word)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn equal_words_one_by_one(words: [u16; 8], word: u16) -> u32 {
    words.iter().enumerate().fold(0, |bits, (lane, &w)| bits | u32::from(w == word) << lane)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_words_at_once_or_one_by_one(words: [u16; 8], pick in 0usize..8, other: u16) {
            for word in [other, words[pick], 0, u16::MAX] {
                prop_assert_eq!(equal_words(words, word), equal_words_one_by_one(words, word));
            }
        }
    }
}
