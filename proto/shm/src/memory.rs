//! Large zeroed memory on huge pages: what workers look up at random costs one TLB entry for 2 MiB instead of 512.

use crate::error::ShmError;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::ptr::NonNull;

/// Size of a huge page, in bytes.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What kind of pages is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Reserved huge pages if there are any, else ordinary ones that the kernel may join.
    #[default]
    Auto,
    /// Reserved huge pages or an error.
    Require,
    /// Ordinary pages.
    Never,
}

/// What kind of pages was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Reserved 2 MiB pages (hugetlbfs).
    Huge,
    /// Ordinary pages that the kernel was asked to join to huge ones.
    Transparent,
    /// Ordinary pages.
    Ordinary,
}

/// Zeroed memory that starts on a 2 MiB boundary; given back on drop.
pub struct HugeMemory {
    start: NonNull<u8>,
    bytes: usize,
    mapped: usize,
    kind: PageKind,
}

// SAFETY: the mapping is private memory that belongs to this value alone.
unsafe impl Send for HugeMemory {}
// SAFETY: shared access reads only.
unsafe impl Sync for HugeMemory {}

impl HugeMemory {
    /// Gets `bytes` of memory, all of it present, so that no later access faults.
    pub fn new(bytes: usize, policy: Pages) -> Result<Self, ShmError> {
        let mapped = match bytes.max(1).checked_next_multiple_of(HUGE_PAGE_BYTES) {
            Some(mapped) if mapped <= isize::MAX as usize - HUGE_PAGE_BYTES => mapped,
            _ => return Err(ordinary(bytes, Errno::NOMEM)),
        };
        if policy != Pages::Never {
            match Self::huge(bytes, mapped) {
                Ok(memory) => return Ok(memory),
                Err(errno) if policy == Pages::Require => {
                    let pages = mapped / HUGE_PAGE_BYTES;
                    let mend = format!(
                        "reserve {pages} more huge pages of 2 MiB (sysctl vm.nr_hugepages), or set dataplane.hugepages = \"auto\""
                    );
                    return Err(ShmError::Memory { bytes, kind: "huge-page", source: errno.into(), mend });
                }
                Err(_) => {}
            }
        }
        Self::ordinary(bytes, mapped, policy).map_err(|errno| ordinary(bytes, errno))
    }

    fn huge(bytes: usize, mapped: usize) -> Result<Self, Errno> {
        let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
        let start = map(mapped, flags)?;
        let memory = Self { start, bytes, mapped, kind: PageKind::Huge };
        memory.make_present()?;
        Ok(memory)
    }

    fn ordinary(bytes: usize, mapped: usize, policy: Pages) -> Result<Self, Errno> {
        // One huge page more than needed holds an aligned start; what is over on both sides goes back.
        let raw = map(mapped + HUGE_PAGE_BYTES, MapFlags::PRIVATE)?;
        let before = raw.as_ptr().align_offset(HUGE_PAGE_BYTES).min(HUGE_PAGE_BYTES);
        let after = HUGE_PAGE_BYTES - before;
        // SAFETY: `before + mapped + after` is the length of the mapping at `raw`, so all three parts lie in it.
        let start = unsafe { raw.add(before) };
        if before > 0 {
            // SAFETY: the part before the aligned start is page-aligned and never used.
            let _ = unsafe { rustix::mm::munmap(raw.as_ptr().cast::<c_void>(), before) };
        }
        if after > 0 {
            // SAFETY: the part behind the aligned range is page-aligned and never used.
            let _ = unsafe { rustix::mm::munmap(start.add(mapped).as_ptr().cast::<c_void>(), after) };
        }
        let mut memory = Self { start, bytes, mapped, kind: PageKind::Ordinary };
        let advice = if policy == Pages::Never { Advice::LinuxNoHugepage } else { Advice::LinuxHugepage };
        // A kernel without transparent huge pages refuses either advice; the memory works all the same.
        if memory.advise(advice).is_ok() && policy != Pages::Never {
            memory.kind = PageKind::Transparent;
        }
        memory.make_present()?;
        Ok(memory)
    }

    /// Makes every page present. Kernels before 5.14 do not know the advice; there the first touch does it.
    fn make_present(&self) -> Result<(), Errno> {
        match self.advise(Advice::LinuxPopulateWrite) {
            Err(Errno::INVAL) => Ok(()),
            done => done,
        }
    }

    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: the range is this value's own mapping; the advices used here change no byte of it.
        unsafe { rustix::mm::madvise(self.start.as_ptr().cast::<c_void>(), self.mapped, advice) }
    }

    /// The memory.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start` maps at least `bytes` initialised (zeroed) bytes until drop; `&self` excludes writers.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    /// The memory, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`; `&mut self` excludes every other borrow.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// What kind of pages it is.
    #[must_use]
    pub fn pages(&self) -> PageKind {
        self.kind
    }
}

impl Drop for HugeMemory {
    fn drop(&mut self) {
        // SAFETY: exactly the range mapped in `new`; every borrow of it has ended with the value.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.mapped) };
    }
}

fn map(bytes: usize, flags: MapFlags) -> Result<NonNull<u8>, Errno> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses an address where nothing is mapped.
    let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, access, flags) }?;
    NonNull::new(start.cast()).ok_or(Errno::NOMEM)
}

fn ordinary(bytes: usize, errno: Errno) -> ShmError {
    let mend = "lower dataplane.flows_per_worker, or give the machine more memory".to_owned();
    ShmError::Memory { bytes, kind: "ordinary", source: errno.into(), mend }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
