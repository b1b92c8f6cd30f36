//! Large zeroed memory on huge pages: what workers look up at random costs one TLB entry for 1 GiB or 2 MiB instead of one for 4 KiB.
//! Pages of the worker's own NUMA node come first, larger ones before smaller ones.

use crate::error::ShmError;
use crate::node;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::path::Path;
use std::ptr::NonNull;

/// Size of a huge page, in bytes.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Size of the largest huge page that is used, in bytes.
pub const GIANT_PAGE_BYTES: usize = 1 << 30;

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
    /// Reserved 1 GiB pages (hugetlbfs).
    Giant,
    /// Reserved 2 MiB pages (hugetlbfs).
    Huge,
    /// Ordinary pages that the kernel was asked to join to huge ones.
    Transparent,
    /// Ordinary pages.
    Ordinary,
}

impl PageKind {
    /// As people write it: `1 GiB`, `2 MiB`, `transparent`, `4 KiB`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Giant => "1 GiB",
            Self::Huge => "2 MiB",
            Self::Transparent => "transparent",
            Self::Ordinary => "4 KiB",
        }
    }

    /// Bytes of a page that is sure: 4 KiB of those that the kernel may join.
    #[must_use]
    pub const fn page_bytes(self) -> usize {
        match self {
            Self::Giant => GIANT_PAGE_BYTES,
            Self::Huge => HUGE_PAGE_BYTES,
            Self::Transparent | Self::Ordinary => 4096,
        }
    }

    const fn flags(self) -> MapFlags {
        match self {
            Self::Giant => MapFlags::PRIVATE.union(MapFlags::HUGETLB).union(MapFlags::HUGE_1GB),
            Self::Huge => MapFlags::PRIVATE.union(MapFlags::HUGETLB).union(MapFlags::HUGE_2MB),
            Self::Transparent | Self::Ordinary => MapFlags::PRIVATE,
        }
    }
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
    /// Gets `bytes` of memory, all of it present, so that no later access faults, where the calling thread's memory comes from.
    pub fn new(bytes: usize, policy: Pages) -> Result<Self, ShmError> {
        Self::near(bytes, policy, None)
    }

    /// The same, of NUMA node `node` if that has enough. Huge pages of another node come before ordinary ones of this: [`HugeMemory::node`] says what was had.
    pub fn near(bytes: usize, policy: Pages, node: Option<u32>) -> Result<Self, ShmError> {
        let mapped = match bytes.max(1).checked_next_multiple_of(HUGE_PAGE_BYTES) {
            Some(mapped) if mapped <= isize::MAX as usize - HUGE_PAGE_BYTES => mapped,
            _ => return Err(ordinary(bytes, Errno::NOMEM)),
        };
        if policy != Pages::Never {
            let found = sizes(bytes, node, Path::new("/sys"))
                .into_iter()
                .find_map(|(kind, mapped)| Self::huge(bytes, mapped, kind, node).ok());
            if let Some(memory) = found {
                return Ok(memory);
            }
            if policy == Pages::Require {
                let pages = mapped / HUGE_PAGE_BYTES;
                let mend = format!(
                    "reserve {pages} more huge pages of 2 MiB (sysctl vm.nr_hugepages), or set dataplane.hugepages = \"auto\""
                );
                let source = Errno::NOMEM.into();
                return Err(ShmError::Memory { bytes, kind: "huge-page", source, mend });
            }
        }
        Self::ordinary(bytes, mapped, policy, node).map_err(|errno| ordinary(bytes, errno))
    }

    fn huge(bytes: usize, mapped: usize, kind: PageKind, node: Option<u32>) -> Result<Self, Errno> {
        let start = map(mapped, kind.flags())?;
        let memory = Self { start, bytes, mapped, kind };
        memory.prefer(node);
        memory.make_present()?;
        Ok(memory)
    }

    fn ordinary(bytes: usize, mapped: usize, policy: Pages, node: Option<u32>) -> Result<Self, Errno> {
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
        memory.prefer(node);
        memory.make_present()?;
        Ok(memory)
    }

    /// Asks for pages of a node, before any is there. A kernel that cannot (one without NUMA) gives what it has.
    fn prefer(&self, node: Option<u32>) {
        if let Some(node) = node {
            // SAFETY: the range is this value's own mapping, of which no page is present yet.
            let _ = unsafe { node::prefer(self.start.as_ptr().cast::<c_void>(), self.mapped, node) };
        }
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

    /// The NUMA node that most of it is on; none where the kernel does not say.
    #[must_use]
    pub fn node(&self) -> Option<u32> {
        node::of_mapping(&std::fs::read_to_string("/proc/self/numa_maps").ok()?, self.start.as_ptr().addr())
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

/// Kinds of huge pages to try for `bytes`, and how much to map of each: those that the node has enough of first. 1 GiB pages only where at least half of what they hold is used.
fn sizes(bytes: usize, node: Option<u32>, sys: &Path) -> Vec<(PageKind, usize)> {
    let mut own = Vec::new();
    let mut others = Vec::new();
    for kind in [PageKind::Giant, PageKind::Huge] {
        let Some(mapped) = bytes.max(1).checked_next_multiple_of(kind.page_bytes()) else { continue };
        let fits = kind == PageKind::Huge || bytes >= mapped / 2;
        let enough = |node| {
            let free = node::free_pages(sys, node, kind.page_bytes());
            free.is_none_or(|free| free >= (mapped / kind.page_bytes()) as u64)
        };
        match fits {
            true if node.is_none_or(enough) => own.push((kind, mapped)),
            true => others.push((kind, mapped)),
            false => {}
        }
    }
    own.extend(others);
    own
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
