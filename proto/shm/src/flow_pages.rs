//! Files for flow tables: where they lie and what pages they are of.
//!
//! Reserved huge pages where hugetlbfs is mounted and has enough; else pages of the gateway's folder, a tmpfs, which the kernel is asked to join to huge ones.

use crate::error::ShmError;
use crate::memory::{GIANT_PAGE_BYTES, HUGE_PAGE_BYTES, PageKind, Pages, sizes};
use crate::node;
use crate::region::system;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

const SPACE: &str = "free space in gateway.shm_dir (df), or give it more (mount -o remount,size=…)";
const RIGHTS: &str = "run turnpike-dataplane as root, or set another gateway.shm_dir";
/// In a folder of hugetlbfs: a link to the gateway's folder that its files belong to.
const HOME: &str = "home";

/// A file mapped whole, from a 2 MiB boundary on.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    reserved: (NonNull<u8>, usize),
    kind: PageKind,
    writable: bool,
}

// SAFETY: the mapping belongs to this value alone; what it shows is written through `&mut` by its owner, or read in atomic words.
unsafe impl Send for Mapping {}
// SAFETY: shared access gives out atomics alone.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a file and makes every page present that is there already.
    pub(crate) fn of(file: &File, bytes: usize, writable: bool) -> Result<Self, Errno> {
        let mut mapping = Self::bare(file, bytes, writable)?;
        // Who only reads leaves the owner's pages as they are.
        if writable {
            mapping.join();
        }
        let advice = if writable { Advice::LinuxPopulateWrite } else { Advice::LinuxPopulateRead };
        match mapping.advise(advice) {
            Ok(()) | Err(Errno::INVAL) => Ok(mapping),
            Err(errno) => Err(errno),
        }
    }

    fn bare(file: &File, bytes: usize, writable: bool) -> Result<Self, Errno> {
        let page = rustix::fs::fstatfs(file)?.f_bsize as usize;
        let (kind, boundary) = match page {
            GIANT_PAGE_BYTES => (PageKind::Giant, GIANT_PAGE_BYTES),
            HUGE_PAGE_BYTES => (PageKind::Huge, HUGE_PAGE_BYTES),
            _ => (PageKind::Ordinary, HUGE_PAGE_BYTES),
        };
        let room = bytes.checked_add(boundary).ok_or(Errno::NOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses an address where nothing is mapped.
        let raw =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, ProtFlags::empty(), flags) }?;
        let reserved = NonNull::new(raw.cast::<u8>()).ok_or(Errno::NOMEM)?;
        let before = reserved.as_ptr().align_offset(boundary).min(boundary);
        // SAFETY: `before` is at most `boundary`, which the reservation holds beside `bytes`.
        let start = unsafe { reserved.add(before) };
        let mapping = Self { start, bytes, reserved: (reserved, room), kind, writable };
        let access = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: the range lies in the reservation just made, which nothing uses.
        unsafe {
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            rustix::mm::mmap(start.as_ptr().cast::<c_void>(), bytes, access, flags, file, 0)
        }?;
        Ok(mapping)
    }

    /// Has the kernel join ordinary pages to huge ones, now. Kernels before 6.1 do not know the advice, and some may not: it works all the same.
    fn join(&mut self) {
        if self.kind == PageKind::Ordinary {
            // SAFETY: the range is this value's own mapping; joining its pages changes no byte.
            let status =
                unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, libc::MADV_COLLAPSE) };
            if status == 0 {
                self.kind = PageKind::Transparent;
            }
        }
    }

    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: the range is this value's own mapping; the advices used here change no byte of it.
        unsafe { rustix::mm::madvise(self.start.as_ptr().cast::<c_void>(), self.bytes, advice) }
    }

    /// All words of the file.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` is aligned and maps `bytes` bytes until drop; every bit pattern is a word. Mappings to read are never stored to: their
        // one user, `FlowView`, only loads.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes / 8) }
    }

    /// All bytes of a file that is this process's own.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        assert!(self.writable, "a mapping to read is not written");
        // SAFETY: as for `words`; `&mut self` excludes every other borrow, and the owner's lock every other writer. Other processes only read.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// What kind of pages it is.
    pub(crate) const fn pages(&self) -> PageKind {
        self.kind
    }

    /// The NUMA node that most of it is on.
    pub(crate) fn node(&self) -> Option<u32> {
        node::of_mapping(&std::fs::read_to_string("/proc/self/numa_maps").ok()?, self.start.as_ptr().addr())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (start, bytes) = self.reserved;
        // SAFETY: exactly the reservation, in which the file is mapped; every borrow of it has ended with the value.
        let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), bytes) };
    }
}

/// A new file that has no name in the gateway's folder yet.
pub(crate) struct Made {
    pub(crate) file: File,
    pub(crate) mapping: Mapping,
    pub(crate) place: PathBuf,
}

/// Makes a file of zero bytes, all present.
pub(crate) fn create(
    folder: &Path,
    name: &str,
    bytes: usize,
    pages: Pages,
    wanted: Option<u32>,
) -> Result<Made, ShmError> {
    if pages != Pages::Never {
        let mounts = mounts(&std::fs::read_to_string("/proc/self/mounts").unwrap_or_default());
        for (kind, rounded) in sizes(bytes, wanted, Path::new("/sys")) {
            let fitting = mounts.iter().filter(|mount| page_bytes(mount) == Some(kind.page_bytes()));
            for mount in fitting {
                if let Ok(made) = on_hugetlbfs(mount, folder, name, rounded, wanted) {
                    return Ok(made);
                }
            }
        }
        if pages == Pages::Require {
            let mend = "mount hugetlbfs (mount -t hugetlbfs none /dev/hugepages) and reserve huge pages (sysctl vm.nr_hugepages), or set dataplane.hugepages = \"auto\"".to_owned();
            let source = Errno::NOMEM.into();
            return Err(ShmError::Memory { bytes, kind: "lasting huge-page", source, mend });
        }
    }
    let place = folder.join(format!(".{name}.new"));
    let rounded = bytes.checked_next_multiple_of(HUGE_PAGE_BYTES).unwrap_or(usize::MAX >> 1);
    made(place.clone(), rounded, wanted, pages != Pages::Never).map_err(|e| {
        let _ = rustix::fs::unlink(&place);
        system("take the space for", &folder.join(name), e, SPACE)
    })
}

fn on_hugetlbfs(
    mount: &Path,
    folder: &Path,
    name: &str,
    bytes: usize,
    wanted: Option<u32>,
) -> Result<Made, Errno> {
    let folder = std::path::absolute(folder).map_err(|_| Errno::INVAL)?;
    forget_left_over(mount);
    let title = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let number = crc32fast::hash(folder.as_os_str().as_encoded_bytes());
    let own = mount.join(format!("{title}-{number:08x}"));
    match std::fs::DirBuilder::new().mode(0o700).create(&own) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(Errno::ACCESS),
        _ => {}
    }
    match rustix::fs::symlink(&folder, own.join(HOME)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    // A file of its own each time: who has the older one mapped keeps it.
    let before = std::fs::canonicalize(folder.join(name)).ok();
    let numbered = (0..8u32).map(|n| own.join(format!("{name}.{n}")));
    let place = numbered.into_iter().find(|path| Some(path) != before.as_ref()).ok_or(Errno::EXIST)?;
    made(place.clone(), bytes, wanted, false).inspect_err(|_| {
        let _ = rustix::fs::unlink(&place);
    })
}

fn made(place: PathBuf, bytes: usize, wanted: Option<u32>, join: bool) -> Result<Made, Errno> {
    match rustix::fs::unlink(&place) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e),
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: File = rustix::fs::open(&place, flags, Mode::RUSR | Mode::WUSR)?.into();
    rustix::fs::ftruncate(&file, bytes as u64)?;
    let mut mapping = Mapping::bare(&file, bytes, true)?;
    if let Some(node) = wanted {
        // SAFETY: the range is the mapping just made, of which no page is present yet.
        let _ = unsafe { node::prefer(mapping.start.as_ptr().cast(), bytes, node) };
    }
    if join {
        mapping.join();
    }
    // What is not there yet is taken now: a full file system is an error here instead of a SIGBUS on the first write.
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)?;
    match mapping.advise(Advice::LinuxPopulateWrite) {
        Ok(()) | Err(Errno::INVAL) => Ok(Made { file, mapping, place }),
        Err(e) => Err(e),
    }
}

/// Gives a new file its name in the gateway's folder; what had it before goes.
pub(crate) fn put_in_place(folder: &Path, name: &str, place: &Path) -> Result<(), ShmError> {
    let path = folder.join(name);
    let before = std::fs::read_link(&path).ok();
    let named =
        |from: &Path| rustix::fs::rename(from, &path).map_err(|e| system("put in place", &path, e, RIGHTS));
    if place.parent() == Some(folder) {
        named(place)?;
    } else {
        let link = folder.join(format!(".{name}.new"));
        let _ = rustix::fs::unlink(&link);
        rustix::fs::symlink(place, &link).map_err(|e| system("link", &link, e, RIGHTS))?;
        named(&link)?;
    }
    if let Some(before) = before.filter(|before| before != place) {
        let _ = rustix::fs::unlink(&before);
    }
    Ok(())
}

/// Gives back the huge pages of gateways whose folder is gone.
fn forget_left_over(mount: &Path) {
    for entry in std::fs::read_dir(mount).into_iter().flatten().flatten() {
        let home = std::fs::read_link(entry.path().join(HOME));
        if home.is_ok_and(|home| !home.exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Where hugetlbfs is mounted, by the text of `/proc/self/mounts`.
fn mounts(text: &str) -> Vec<PathBuf> {
    let of_line = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "hugetlbfs").then(|| PathBuf::from(place.replace("\\040", " ")))
    };
    text.lines().filter_map(of_line).collect()
}

fn page_bytes(mount: &Path) -> Option<usize> {
    usize::try_from(rustix::fs::statfs(mount).ok()?.f_bsize).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_hugetlbfs_are_found() {
        let text = "proc /proc proc rw 0 0\nhugetlbfs /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\nnone /mnt/a\\040b hugetlbfs rw 0 0\nbad\n";
        assert_eq!(mounts(text), [PathBuf::from("/dev/hugepages"), PathBuf::from("/mnt/a b")]);
    }

    #[test]
    fn pages_of_a_folder_that_is_gone_are_given_back() {
        let mount = tempfile::tempdir().unwrap();
        let home = tempfile::tempdir().unwrap();
        for (name, target) in [("here", home.path()), ("gone", Path::new("/nowhere/at/all"))] {
            let own = mount.path().join(name);
            std::fs::create_dir(&own).unwrap();
            std::fs::write(own.join("flows-0-ipv4.0"), "x").unwrap();
            std::os::unix::fs::symlink(target, own.join(HOME)).unwrap();
        }
        std::fs::create_dir(mount.path().join("of others")).unwrap();
        forget_left_over(mount.path());
        let left = ["here", "gone", "of others"].map(|name| mount.path().join(name).exists());
        assert_eq!(left, [true, false, true]);
    }
}
