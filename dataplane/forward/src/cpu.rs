//! What needs the processor's own instructions: asking the cache for a line ahead of its use, comparing eight tags at once, and having the
//! packet path compiled once more for newer processors.
//!
//! The one place outside `dpdk-sys`, `capsule` and `shm` with unsafe code.

/// Something that is compiled for every x86-64 processor and once more for those of the third level (AVX2, BMI; Haswell, Excavator and later).
pub trait Work {
    /// What comes of it.
    type Output;

    /// Does it. Has to be inlined to be compiled twice: say `#[inline(always)]`.
    fn run(self) -> Self::Output;
}

/// What the processor is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    has_v3: bool,
}

impl Cpu {
    /// The processor that this runs on.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        let has_v3 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("movbe");
        #[cfg(not(target_arch = "x86_64"))]
        let has_v3 = false;
        Self { has_v3 }
    }

    /// A processor of which nothing is known.
    #[must_use]
    pub const fn any() -> Self {
        Self { has_v3: false }
    }

    /// Does the work with what this processor has.
    #[inline(always)]
    pub fn run<W: Work>(self, work: W) -> W::Output {
        #[cfg(target_arch = "x86_64")]
        if self.has_v3 {
            // SAFETY: `detect` has found every feature that the function is compiled for.
            return unsafe { run_v3(work) };
        }
        work.run()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,movbe")]
fn run_v3<W: Work>(work: W) -> W::Output {
    work.run()
}

/// Asks for the cache lines of one element of a slice in the second-level cache. Behind its end there is nothing to ask for, and no harm.
///
/// T1 rather than T0: T0 stops at the first-level cache's miss buffers, T1 goes on filling the second level, and a burst has more than
/// thirty lines in flight.
#[inline(always)]
pub fn prefetch<T>(slice: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let start: *const i8 = slice.as_ptr().wrapping_add(index).cast();
        for line in 0..size_of::<T>().div_ceil(LINE) {
            // SAFETY: a prefetch reads nothing and cannot fault, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(line * LINE)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, index);
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Two bits for each of the eight words that equals `word`, those of the first word lowest.
#[inline(always)]
#[must_use]
pub fn equal_words(words: [u16; 8], word: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi16,
        };
        let words: u128 = zerocopy::transmute!(words);
        // SAFETY: SSE2 is part of every x86-64 processor, and these instructions touch registers only.
        unsafe {
            let words = _mm_set_epi64x((words >> 64) as i64, words as i64);
            let equal = _mm_cmpeq_epi16(words, _mm_set1_epi16(word as i16));
            _mm_movemask_epi8(equal) as u32
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    equal_words_one_by_one(words, word)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn equal_words_one_by_one(words: [u16; 8], word: u16) -> u32 {
    words.iter().enumerate().fold(0, |bits, (lane, &w)| bits | u32::from(w == word) * 0b11 << (2 * lane))
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
