//! What needs the processor's own instructions: asking the cache for a line ahead of its use, comparing eight tags at once, and having the
//! packet path compiled once more for newer processors.
//!
//! The one place outside `dpdk-sys`, `capsule` and `shm` with unsafe code.

/// Something that is compiled for every x86-64 processor and once more for those of the third level (AVX2, BMI; Haswell, Excavator and later).
pub trait Work {
    /// What comes of it.
    type Output;

    /// Does it on a processor of this level. Has to be inlined to be compiled for it: say `#[inline(always)]`.
    fn run<L: Level>(self) -> Self::Output;
}

/// A level of processors, as [`Work`] is given it, and what they do in ways of their own.
pub trait Level {
    /// Whether the bytes have the wanted bits where the mask has ones; elsewhere no bit is wanted.
    fn are_equal(bytes: &[u8; 32], wanted: &[u8; 32], mask: &[u8; 32]) -> bool;
}

/// Any processor.
#[derive(Clone, Copy, Debug)]
pub struct Any;

impl Level for Any {
    #[inline(always)]
    fn are_equal(bytes: &[u8; 32], wanted: &[u8; 32], mask: &[u8; 32]) -> bool {
        let words: [[u64; 4]; 3] = [*bytes, *wanted, *mask].map(|bytes| zerocopy::transmute!(bytes));
        (0..4).fold(0, |odd, at| odd | ((words[0][at] & words[2][at]) ^ words[1][at])) == 0
    }
}

/// An x86-64 processor of the third level. Only [`Cpu::run`] names it.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
struct Third;

#[cfg(target_arch = "x86_64")]
impl Level for Third {
    #[inline(always)]
    fn are_equal(bytes: &[u8; 32], wanted: &[u8; 32], mask: &[u8; 32]) -> bool {
        use core::arch::x86_64::{
            _mm256_and_si256, _mm256_cmpeq_epi64, _mm256_lddqu_si256, _mm256_loadu_si256,
            _mm256_movemask_epi8,
        };
        // SAFETY: `Cpu::run` alone names this type, once the processor is known to have AVX2; each load reads the 32 bytes of an array.
        unsafe {
            // Not an ordinary load: the compiler would take what follows out of this register, which takes longer than to load it again.
            let bytes = _mm256_lddqu_si256(bytes.as_ptr().cast());
            let [wanted, mask] = [wanted, mask].map(|bytes| _mm256_loadu_si256(bytes.as_ptr().cast()));
            _mm256_movemask_epi8(_mm256_cmpeq_epi64(_mm256_and_si256(bytes, mask), wanted)) == -1
        }
    }
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
        work.run::<Any>()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,movbe")]
fn run_v3<W: Work>(work: W) -> W::Output {
    work.run::<Third>()
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

/// Asks for the same in the first-level cache, for an element that [`prefetch`] has brought near and that is next but a few.
#[inline(always)]
pub fn approach<T>(slice: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start: *const i8 = slice.as_ptr().wrapping_add(index).cast();
        for line in 0..size_of::<T>().div_ceil(LINE) {
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * LINE)) };
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
        use core::arch::x86_64::{_mm_cmpeq_epi16, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi16};
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
    words.iter().enumerate().fold(0, |bits, (lane, &w)| bits | (u32::from(w == word) * 0b11) << (2 * lane))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Compare([[u8; 32]; 3]);

    impl Work for Compare {
        type Output = bool;

        #[inline(always)]
        fn run<L: Level>(self) -> bool {
            let [bytes, wanted, mask] = &self.0;
            L::are_equal(bytes, wanted, mask)
        }
    }

    proptest! {
        #[test]
        fn equal_on_every_processor(wanted: [u8; 32], mask: [u8; 32], at in 0usize..32, change: u8) {
            let mut bytes = wanted;
            let wanted: [u8; 32] = std::array::from_fn(|at| wanted[at] & mask[at]);
            bytes[at] ^= change;
            let is_equal = change & mask[at] == 0;
            for cpu in [Cpu::any(), Cpu::detect()] {
                prop_assert_eq!(cpu.run(Compare([bytes, wanted, mask])), is_equal);
            }
        }

        #[test]
        fn all_words_at_once_or_one_by_one(words: [u16; 8], pick in 0usize..8, other: u16) {
            for word in [other, words[pick], 0, u16::MAX] {
                prop_assert_eq!(equal_words(words, word), equal_words_one_by_one(words, word));
            }
        }
    }
}
