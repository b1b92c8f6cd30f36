//! Flow tables that outlive their process: one file a worker and IP family, under a header that says of what it is.
//!
//! The files lie in the gateway's folder as `flows-WORKER-ipv4` and `flows-WORKER-ipv6`, mode 0600. Where hugetlbfs is mounted and has pages, the
//! file is there and the name in the folder is a symbolic link to it. The first [`FLOW_HEADER_BYTES`] bytes are the header, the rest is the table.
//!
//! A file has one owner, who holds a lock on it (`flock`) that the kernel gives back however the owner ends. Others map it to read
//! ([`FlowView`]) and lock nothing; they see a table that changes under them, in words. A new table is a new file, put in place by its name: who
//! has the older one mapped keeps it and can ask whether it is [current](FlowView::is_current).

use crate::error::ShmError;
use crate::flow_pages::{self, Mapping};
use crate::memory::{PageKind, Pages};
use crate::region::system;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Layout version of the header.
pub const FLOW_FILE_VERSION: u64 = 1;
/// Bytes in front of a table.
pub const FLOW_HEADER_BYTES: usize = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"TPFLOWS\n");
/// Words of the header that say something.
const WORDS: usize = 20;
/// Where the check sum of all words before it is.
const CHECK: usize = WORDS;
/// Stored last when a table has been made: before, there is nothing to adopt.
const READY: usize = WORDS + 1;
const IS_READY: u64 = 0x0072_6561_6479;

const RIGHTS: &str = "run turnpike-dataplane as the user it ran as before, or as root";

/// What a file holds, as its header says. Two that are equal are tables of the same gateway that fit the same program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowLayout {
    /// Number of the worker.
    pub worker: u32,
    /// How many workers there are: each has the flows that come to it and no others.
    pub workers: u32,
    /// 4 or 6.
    pub family: u8,
    /// Flows that there is room for.
    pub capacity: u32,
    /// Bytes of one.
    pub entry_bytes: u32,
    /// Bytes of the table.
    pub table_bytes: u64,
    /// Where the entries begin, in bytes from the start of the table.
    pub entries_at: u64,
    /// What the bytes of an entry mean: another number for each meaning there ever was.
    pub meaning: u64,
    /// Addresses and steering of the gateway, as a number.
    pub gateway: u64,
    /// Milliseconds of the host's monotonic clock at which the workers' clock was 0.
    pub clock_zero_ms: u64,
    /// Secret of the hashes.
    pub secret: [u64; 4],
}

impl std::fmt::Debug for FlowLayout {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { worker, workers, family, capacity, entry_bytes, meaning, gateway, .. } = self;
        write!(
            f,
            "flows of worker {worker} of {workers} over IPv{family}: {capacity} of {entry_bytes} bytes, meaning {meaning}, gateway {gateway:x}"
        )
    }
}

impl FlowLayout {
    fn words(&self) -> [u64; WORDS] {
        let [a, b, c, d] = self.secret;
        [
            MAGIC,
            FLOW_FILE_VERSION,
            self.worker.into(),
            self.workers.into(),
            self.family.into(),
            self.capacity.into(),
            self.entry_bytes.into(),
            self.table_bytes,
            self.entries_at,
            self.meaning,
            self.gateway,
            self.clock_zero_ms,
            a,
            b,
            c,
            d,
            FLOW_HEADER_BYTES as u64,
            0,
            0,
            0,
        ]
    }

    /// From the words of a file of so many bytes, or why not.
    fn read(words: &[u64; READY + 1], file_bytes: usize) -> Result<Self, Unread> {
        if words[0] != MAGIC {
            return Err(Unread::Foreign("its first bytes are others"));
        }
        if words[1] != FLOW_FILE_VERSION {
            return Err(Unread::Version(words[1]));
        }
        if words[READY] != IS_READY {
            return Err(Unread::Foreign("it was never completed"));
        }
        if words[CHECK] != check(&words[..WORDS]) {
            return Err(Unread::Foreign("the check sum of its header is wrong"));
        }
        let small = |word: u64| u32::try_from(word).map_err(|_| Unread::Foreign("a number is too large"));
        let layout = Self {
            worker: small(words[2])?,
            workers: small(words[3])?,
            family: words[4] as u8,
            capacity: small(words[5])?,
            entry_bytes: small(words[6])?,
            table_bytes: words[7],
            entries_at: words[8],
            meaning: words[9],
            gateway: words[10],
            clock_zero_ms: words[11],
            secret: [words[12], words[13], words[14], words[15]],
        };
        let room = (file_bytes as u64).checked_sub(FLOW_HEADER_BYTES as u64);
        let entries = u64::from(layout.capacity) * u64::from(layout.entry_bytes);
        let ends = layout.entries_at.checked_add(entries);
        if room.is_none_or(|room| layout.table_bytes > room)
            || ends.is_none_or(|end| end > layout.table_bytes)
        {
            return Err(Unread::Foreign("it is shorter than its header says"));
        }
        Ok(layout)
    }
}

enum Unread {
    Foreign(&'static str),
    Version(u64),
}

impl Unread {
    fn of(self, path: &Path) -> ShmError {
        let path = path.to_owned();
        match self {
            Self::Foreign(reason) => ShmError::Foreign { path, reason },
            Self::Version(found) => ShmError::Version { path, found, expected: FLOW_FILE_VERSION },
        }
    }
}

fn check(words: &[u64]) -> u64 {
    let mut sum = crc32fast::Hasher::new();
    words.iter().for_each(|word| sum.update(&word.to_le_bytes()));
    sum.finalize().into()
}

/// Name of a worker's file for a family, in the gateway's folder.
#[must_use]
pub fn flow_file_name(worker: u32, family: u8) -> String {
    format!("flows-{worker}-ipv{family}")
}

/// A flow table's file, and the one process that may write it.
pub struct FlowFile {
    file: File,
    mapping: Mapping,
    layout: FlowLayout,
    path: PathBuf,
    is_locked: bool,
}

impl FlowFile {
    /// Opens and maps what is there, whole and present; none where there is nothing. Nothing of it is written before [`FlowFile::lock`].
    pub fn open(folder: &Path, worker: u32, family: u8) -> Result<Option<Self>, ShmError> {
        let path = folder.join(flow_file_name(worker, family));
        let Some(file) = open_file(&path, OFlags::RDWR)? else { return Ok(None) };
        let (mapping, layout) = map(&file, &path, true)?;
        Ok(Some(Self { file, mapping, layout, path, is_locked: false }))
    }

    /// Makes an empty file in place of any older one, locked. Its bytes are zero and present, of the kind of pages wanted where there are any, from
    /// the NUMA node wanted where that has them.
    pub fn create(
        folder: &Path,
        layout: FlowLayout,
        pages: Pages,
        node: Option<u32>,
    ) -> Result<Self, ShmError> {
        let name = flow_file_name(layout.worker, layout.family);
        let path = folder.join(&name);
        let bytes =
            FLOW_HEADER_BYTES.saturating_add(usize::try_from(layout.table_bytes).unwrap_or(usize::MAX));
        let made = flow_pages::create(folder, &name, bytes, pages, node)?;
        let mut file = Self { file: made.file, mapping: made.mapping, layout, path, is_locked: false };
        // Nobody else can hold a lock on what nobody has seen yet.
        file.lock()?;
        let words = layout.words();
        let header = file.mapping.words();
        for (place, word) in header.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        header[CHECK].store(check(&words), Ordering::Relaxed);
        flow_pages::put_in_place(folder, &name, &made.place)?;
        Ok(file)
    }

    /// Becomes the owner, or says that another is.
    pub fn lock(&mut self) -> Result<(), ShmError> {
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                self.is_locked = true;
                Ok(())
            }
            Err(Errno::WOULDBLOCK) => {
                Err(ShmError::Locked { path: self.path.clone(), role: "dataplane", pid: None })
            }
            Err(e) => Err(system("lock", &self.path, e, RIGHTS)),
        }
    }

    /// Says that the table is complete: from now on a successor may adopt it.
    pub fn complete(&self) {
        self.mapping.words()[READY].store(IS_READY, Ordering::Release);
    }

    /// What it holds.
    #[must_use]
    pub const fn layout(&self) -> &FlowLayout {
        &self.layout
    }

    /// What kind of pages it is.
    #[must_use]
    pub const fn pages(&self) -> PageKind {
        self.mapping.pages()
    }

    /// The NUMA node that most of it is on; none where the kernel does not say.
    #[must_use]
    pub fn node(&self) -> Option<u32> {
        self.mapping.node()
    }

    /// The table, to write; none before it is this process's own.
    pub fn table(&mut self) -> Option<&mut [u8]> {
        let bytes = self.layout.table_bytes as usize;
        self.is_locked.then(|| &mut self.mapping.bytes_mut()[FLOW_HEADER_BYTES..FLOW_HEADER_BYTES + bytes])
    }

    /// Gives the table to a successor that is there already: nothing writes it any more.
    pub fn hand_over(self) {
        drop(self);
    }
}

impl Drop for FlowFile {
    /// Closing is not enough: a child between fork and exec still has the file open, and the lock with it.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// A flow table as another process sees it: to read, while its owner writes.
pub struct FlowView {
    mapping: Mapping,
    layout: FlowLayout,
    path: PathBuf,
    identity: (u64, u64),
}

impl FlowView {
    /// Maps the table of a worker for a family; none where there is none.
    pub fn open(folder: &Path, worker: u32, family: u8) -> Result<Option<Self>, ShmError> {
        let path = folder.join(flow_file_name(worker, family));
        let Some(file) = open_file(&path, OFlags::RDONLY)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&file).map_err(|e| system("look at", &path, e, RIGHTS))?;
        let (mapping, layout) = map(&file, &path, false)?;
        Ok(Some(Self { mapping, layout, path, identity: (stat.st_dev, stat.st_ino) }))
    }

    /// What it holds.
    #[must_use]
    pub const fn layout(&self) -> &FlowLayout {
        &self.layout
    }

    /// Whether it is still the one in force: a dataplane that starts empty makes another.
    #[must_use]
    pub fn is_current(&self) -> bool {
        rustix::fs::statat(rustix::fs::CWD, &self.path, AtFlags::empty())
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.identity)
    }

    /// The words of an entry, for as many as `into` has room for; `false` beyond the last. What its owner writes meanwhile may be there in part: believe nothing
    /// that was not found the same twice.
    pub fn entry(&self, slot: u32, into: &mut [u64]) -> bool {
        let words = self.layout.entry_bytes as usize / 8;
        let first = (FLOW_HEADER_BYTES + self.layout.entries_at as usize) / 8 + slot as usize * words;
        let entry = self.mapping.words().get(first..first + words);
        let Some(entry) = entry.filter(|_| slot < self.layout.capacity) else { return false };
        for (into, word) in into.iter_mut().zip(entry) {
            *into = word.load(Ordering::Relaxed);
        }
        true
    }
}

fn open_file(path: &Path, access: OFlags) -> Result<Option<File>, ShmError> {
    // A symbolic link is followed: only the owner of the folder can have made it.
    match rustix::fs::open(path, access | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(system("open", path, e, RIGHTS)),
    }
}

fn map(file: &File, path: &Path, writable: bool) -> Result<(Mapping, FlowLayout), ShmError> {
    let stat = rustix::fs::fstat(file).map_err(|e| system("look at", path, e, RIGHTS))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(ShmError::Foreign { path: path.to_owned(), reason: "no regular file" });
    }
    let bytes = usize::try_from(stat.st_size).unwrap_or(0);
    if bytes < FLOW_HEADER_BYTES || bytes % FLOW_HEADER_BYTES != 0 || bytes as u64 > 1 << 40 {
        return Err(ShmError::Foreign { path: path.to_owned(), reason: "its size is impossible" });
    }
    let mapping = Mapping::of(file, bytes, writable)
        .map_err(|e| system("map", path, e, "raise the limit on memory (ulimit -v), or free memory"))?;
    let words = std::array::from_fn(|at| {
        mapping.words().get(at).map_or(0, |w: &AtomicU64| w.load(Ordering::Acquire))
    });
    let layout = FlowLayout::read(&words, bytes).map_err(|unread| unread.of(path))?;
    Ok((mapping, layout))
}

#[cfg(test)]
#[path = "flow_file_tests.rs"]
mod tests;
