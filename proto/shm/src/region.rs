//! A file on tmpfs mapped as 64-bit words: made under a temporary name, filled, renamed into place.

use crate::error::ShmError;
use crate::ring::Words;
use crate::sync::AtomicU64;
use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

/// Largest file this crate makes or opens: far above every use, far below what breaks arithmetic.
pub(crate) const REGION_BYTES_MAX: usize = 1 << 32;

const SPACE: &str = "free space in gateway.shm_dir (df), or give it more (mount -o remount,size=…)";
const RIGHTS: &str = "run both daemons as the same user, or as root";

/// A mapped file.
pub(crate) struct Region {
    start: NonNull<AtomicU64>,
    words: usize,
    path: PathBuf,
    identity: (u64, u64),
}

// SAFETY: the mapping belongs to this value alone, is reached only through atomics, and is unmapped only on drop.
unsafe impl Send for Region {}
// SAFETY: shared access gives out `&[AtomicU64]`, which any thread may use.
unsafe impl Sync for Region {}

impl Region {
    /// Makes the file `name` of `bytes` zero bytes in `folder`, lets `fill` write it, then puts it in place of any older one. Whoever has the
    /// older one mapped keeps it.
    pub(crate) fn create(
        folder: &Path,
        name: &str,
        bytes: usize,
        fill: impl FnOnce(&[AtomicU64]),
    ) -> Result<Self, ShmError> {
        let path = folder.join(name);
        let temporary = folder.join(format!(".{name}.new"));
        match rustix::fs::unlink(&temporary) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(system("remove the left-over", &temporary, e, RIGHTS)),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| system("create", &temporary, e, RIGHTS))?;
        // Taking the pages now turns a full tmpfs into an error here instead of a SIGBUS on the first write.
        let made = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)
            .map_err(|e| system("take the space for", &temporary, e, SPACE))
            .and_then(|()| Self::map(&file, bytes, &path, true))
            .and_then(|region| {
                fill(region.words());
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &temporary,
                    rustix::fs::CWD,
                    &path,
                    RenameFlags::empty(),
                )
                .map_err(|e| system("put in place", &path, e, RIGHTS))?;
                Ok(region)
            });
        if made.is_err() {
            let _ = rustix::fs::unlink(&temporary);
        }
        made
    }

    /// Maps an existing file. Only its size is checked here.
    pub(crate) fn open(folder: &Path, name: &str, writable: bool) -> Result<Self, ShmError> {
        let path = folder.join(name);
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let file = match rustix::fs::open(
            &path,
            access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
        ) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(ShmError::Absent { path }),
            Err(e) => return Err(system("open", &path, e, RIGHTS)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|e| system("look at", &path, e, RIGHTS))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(ShmError::Foreign { path, reason: "no regular file" });
        }
        let bytes = usize::try_from(stat.st_size).unwrap_or(0);
        if bytes == 0 || bytes % 8 != 0 || bytes > REGION_BYTES_MAX {
            return Err(ShmError::Foreign { path, reason: "its size is impossible" });
        }
        Self::map(&file, bytes, &path, writable)
    }

    fn map(file: impl AsFd, bytes: usize, path: &Path, writable: bool) -> Result<Self, ShmError> {
        let stat = rustix::fs::fstat(&file).map_err(|e| system("look at", path, e, RIGHTS))?;
        let access = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: the kernel chooses an address where nothing is mapped; the length is not zero and within the file.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0) }
                .map_err(|e| {
                    system("map", path, e, "raise the limit on memory (ulimit -v), or free memory")
                })?;
        let Some(start) = NonNull::new(start.cast()) else {
            return Err(system("map", path, Errno::INVAL, RIGHTS));
        };
        Ok(Self { start, words: bytes / 8, path: path.to_owned(), identity: (stat.st_dev, stat.st_ino) })
    }

    /// All words of the file.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` is page-aligned and maps `words * 8` bytes until drop; AtomicU64 has the layout of u64 and every bit pattern is
        // one; all access, here and in the peer, is atomic. Read-only mappings are never stored to: their one user, `CounterReader`, only loads.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to the mapped file.
    pub(crate) fn is_current(&self) -> bool {
        rustix::fs::statat(rustix::fs::CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.identity)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: maps exactly this range since `map`; every borrow of it has ended with the value.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.words * 8) };
    }
}

/// Part of a region, which it keeps alive.
pub struct RegionWords {
    region: Arc<Region>,
    first: usize,
    count: usize,
}

impl RegionWords {
    /// `count` words from `first` on, if the region has them.
    pub(crate) fn new(region: &Arc<Region>, first: usize, count: usize) -> Option<Self> {
        let end = first.checked_add(count)?;
        (end <= region.words).then(|| Self { region: Arc::clone(region), first, count })
    }
}

impl Words for RegionWords {
    fn words(&self) -> &[AtomicU64] {
        &self.region.words()[self.first..self.first + self.count]
    }
}

/// Makes the folder with mode 0700, or takes an existing one that nobody else may write.
pub(crate) fn make_folder(folder: &Path) -> Result<(), ShmError> {
    match rustix::fs::mkdir(folder, Mode::RWXU) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => {}
        Err(e) => {
            return Err(system(
                "create the folder",
                folder,
                e,
                "create its parent, or set another gateway.shm_dir",
            ));
        }
    }
    let refuse = |reason| Err(ShmError::Folder { path: folder.to_owned(), reason });
    let stat = rustix::fs::statat(rustix::fs::CWD, folder, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| system("look at", folder, e, RIGHTS))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return refuse("is no folder");
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user");
    }
    rustix::fs::chmod(folder, Mode::RWXU).map_err(|e| system("restrict", folder, e, RIGHTS))
}

/// A part that only one process may play at a time; given back when the process ends, however it ends.
pub(crate) struct RoleLock {
    file: File,
}

impl RoleLock {
    /// Takes the lock `name` in `folder`, or names who has it.
    pub(crate) fn take(folder: &Path, name: &str, role: &'static str) -> Result<Self, ShmError> {
        let path = folder.join(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Err(ShmError::Absent { path }),
            Err(e) => return Err(system("open", &path, e, RIGHTS)),
        };
        let mut file = File::from(file);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _ = file.take(32).read_to_string(&mut text);
                return Err(ShmError::Locked { path, role, pid: text.trim().parse().ok() });
            }
            Err(e) => return Err(system("lock", &path, e, RIGHTS)),
        }
        // The pid is only for the error above; the lock stands without it.
        let _ = file.set_len(0);
        let _ = file.rewind();
        let _ = writeln!(file, "{}", std::process::id());
        Ok(Self { file })
    }
}

impl Drop for RoleLock {
    /// Closing is not enough: a child between fork and exec still has the file open, and the lock with it.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Random 128 bits, new at every making of a region.
pub(crate) fn random_id(path: &Path) -> Result<[u64; 2], ShmError> {
    let mut bytes = [0u8; 16];
    let mut file = File::open("/dev/urandom").map_err(|e| unreadable(path, e))?;
    file.read_exact(&mut bytes).map_err(|e| unreadable(path, e))?;
    let (low, high) = bytes.split_at(8);
    let word = |part: &[u8]| part.iter().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
    Ok([word(low), word(high)])
}

fn unreadable(path: &Path, source: std::io::Error) -> ShmError {
    let mend = "make /dev/urandom readable";
    ShmError::System { what: "find a random name for", path: path.to_owned(), source, mend }
}

pub(crate) fn system(what: &'static str, path: &Path, errno: Errno, mend: &'static str) -> ShmError {
    ShmError::System { what, path: path.to_owned(), source: errno.into(), mend }
}
