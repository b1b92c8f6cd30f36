//! The file `counters`: pages of named counters that say themselves what they are, so that any process of the same user may read them.
//!
//! ```text
//! word 0          magic, layout version, bytes of the file, pages
//! word 16         first page
//! page, word 0    magic, words of the page, kind and index, bytes of text, names, first word of the values (all from the page's start)
//!      word 16    text: length (one byte pair, little-endian) and bytes of the label, then of each name
//!      values     on a line of their own, one word each
//! ```
//!
//! Every page and every page's values start on a 128-byte line, so that two writers never share one. One writer a page; each value is
//! written and read whole (relaxed), values of one page are not a snapshot of one moment.

use crate::error::ShmError;
use crate::region::{REGION_BYTES_MAX, Region, make_folder};
use crate::sync::{AtomicU64, Ordering};
use std::path::Path;
use std::sync::Arc;

/// Name of the file.
pub const COUNTERS_FILE: &str = "counters";
/// Version of the layout above.
pub const COUNTERS_VERSION: u64 = 1;
/// Kind of a worker's page.
pub const KIND_WORKER: u32 = 1;
/// Kind of a NIC's page.
pub const KIND_PORT: u32 = 2;
/// Kind of the page of the gateway as a whole.
pub const KIND_GATEWAY: u32 = 3;
/// Most pages of a file.
pub const PAGES_MAX: usize = 4096;
/// Most counters of a page.
pub const COUNTERS_PER_PAGE_MAX: usize = 4096;

const FILE_MAGIC: u64 = u64::from_le_bytes(*b"TURNPKCN");
const PAGE_MAGIC: u64 = u64::from_le_bytes(*b"TURNPKPG");
/// Words of a 128-byte line.
const LINE: usize = 16;

const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 1;
const AT_BYTES: usize = 2;
const AT_PAGES: usize = 3;

const PAGE_WORDS: usize = 1;
const PAGE_KIND: usize = 2;
const PAGE_TEXT_BYTES: usize = 3;
const PAGE_NAMES: usize = 4;
const PAGE_VALUES: usize = 5;

/// What a page is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSpec {
    /// [`KIND_WORKER`], [`KIND_PORT`] or [`KIND_GATEWAY`].
    pub kind: u32,
    /// Which of its kind, from 0.
    pub index: u32,
    /// For people: a core, a port's name.
    pub label: String,
    /// Names of the counters, in the order of their indices.
    pub names: Vec<String>,
}

impl PageSpec {
    fn text(&self) -> Result<Vec<u8>, ShmError> {
        let mut text = Vec::new();
        for part in std::iter::once(&self.label).chain(&self.names) {
            let length = u16::try_from(part.len())
                .map_err(|_| ShmError::Counters { reason: "a name or label is longer than 65535 bytes" })?;
            text.extend_from_slice(&length.to_le_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        Ok(text)
    }
}

/// One page, for its only writer.
pub struct CounterPage {
    region: Arc<Region>,
    first: usize,
    count: usize,
}

impl CounterPage {
    fn values(&self) -> &[AtomicU64] {
        &self.region.words()[self.first..self.first + self.count]
    }

    /// Sets counter `index`. An index the page has no name for is ignored.
    pub fn set(&mut self, index: usize, value: u64) {
        if let Some(word) = self.values().get(index) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Sets the counters from index 0 on; values beyond the page's names are ignored.
    pub fn set_all(&mut self, values: &[u64]) {
        for (word, &value) in self.values().iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Counters of this page.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the page has no counters.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Makes the file.
pub struct CounterFile;

impl CounterFile {
    /// Makes the file anew in `folder`, with one page for each spec, all counters 0; one handle a page, in the same order. Only the
    /// process that holds [`crate::DataplaneSide`] of the folder may call this.
    pub fn create(folder: &Path, specs: &[PageSpec]) -> Result<Vec<CounterPage>, ShmError> {
        if specs.len() > PAGES_MAX {
            return Err(ShmError::Counters { reason: "more than 4096 pages" });
        }
        let mut layouts = Vec::with_capacity(specs.len());
        let mut next = LINE;
        for spec in specs {
            if spec.names.len() > COUNTERS_PER_PAGE_MAX {
                return Err(ShmError::Counters { reason: "a page has more than 4096 counters" });
            }
            let text = spec.text()?;
            let values = (LINE + text.len().div_ceil(8)).next_multiple_of(LINE);
            let words = values + spec.names.len().next_multiple_of(LINE);
            layouts.push(Layout { first: next, words, values, text });
            next += words;
        }
        let bytes = next * 8;
        if bytes > REGION_BYTES_MAX {
            return Err(ShmError::Counters { reason: "the pages take more than 4 GiB" });
        }
        make_folder(folder)?;
        let region = Region::create(folder, COUNTERS_FILE, bytes, |words| {
            for (spec, layout) in specs.iter().zip(&layouts) {
                layout.write(spec, &words[layout.first..layout.first + layout.words]);
            }
            words[AT_VERSION].store(COUNTERS_VERSION, Ordering::Relaxed);
            words[AT_BYTES].store(bytes as u64, Ordering::Relaxed);
            words[AT_PAGES].store(specs.len() as u64, Ordering::Relaxed);
            words[AT_MAGIC].store(FILE_MAGIC, Ordering::Release);
        })?;
        let region = Arc::new(region);
        let page = |(spec, layout): (&PageSpec, &Layout)| CounterPage {
            region: Arc::clone(&region),
            first: layout.first + layout.values,
            count: spec.names.len(),
        };
        Ok(specs.iter().zip(&layouts).map(page).collect())
    }
}

/// Where a page lies; `values` counts from its start.
struct Layout {
    first: usize,
    words: usize,
    values: usize,
    text: Vec<u8>,
}

impl Layout {
    fn write(&self, spec: &PageSpec, page: &[AtomicU64]) {
        let fields = [
            (AT_MAGIC, PAGE_MAGIC),
            (PAGE_WORDS, self.words as u64),
            (PAGE_KIND, u64::from(spec.kind) << 32 | u64::from(spec.index)),
            (PAGE_TEXT_BYTES, self.text.len() as u64),
            (PAGE_NAMES, spec.names.len() as u64),
            (PAGE_VALUES, self.values as u64),
        ];
        for (at, value) in fields {
            page[at].store(value, Ordering::Relaxed);
        }
        for (word, chunk) in page[LINE..].iter().zip(self.text.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }
}

/// A page as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageView {
    /// [`KIND_WORKER`], [`KIND_PORT`] or [`KIND_GATEWAY`].
    pub kind: u32,
    /// Which of its kind.
    pub index: u32,
    /// For people.
    pub label: String,
    /// Name and value of each counter.
    pub counters: Vec<(String, u64)>,
}

/// Reads the file; names once, values at each [`CounterReader::pages`].
pub struct CounterReader {
    region: Region,
    pages: Vec<KnownPage>,
}

struct KnownPage {
    kind: u32,
    index: u32,
    label: String,
    names: Vec<String>,
    values: usize,
}

impl CounterReader {
    /// Opens the file of `folder` and checks every length, count and text in it. [`ShmError::Absent`] while there is none.
    pub fn open(folder: &Path) -> Result<Self, ShmError> {
        let region = Region::open(folder, COUNTERS_FILE, false)?;
        let pages = read_pages(region.words()).map_err(|fault| fault.at(region.path()))?;
        Ok(Self { region, pages })
    }

    /// Every page with its present values.
    #[must_use]
    pub fn pages(&self) -> Vec<PageView> {
        let words = self.region.words();
        let view = |page: &KnownPage| PageView {
            kind: page.kind,
            index: page.index,
            label: page.label.clone(),
            counters: (page.names.iter().cloned())
                .zip(words[page.values..].iter().map(|word| word.load(Ordering::Relaxed)))
                .collect(),
        };
        self.pages.iter().map(view).collect()
    }

    /// Whether the path still leads to the file that is mapped; if not, a new dataplane has made another.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.region.is_current()
    }
}

/// What is wrong with a file of counters.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Foreign(&'static str),
    Version(u64),
}

impl Fault {
    fn at(self, path: &Path) -> ShmError {
        let path = path.to_owned();
        match self {
            Self::Foreign(reason) => ShmError::Foreign { path, reason },
            Self::Version(found) => ShmError::Version { path, found, expected: COUNTERS_VERSION },
        }
    }
}

fn read_pages(words: &[AtomicU64]) -> Result<Vec<KnownPage>, Fault> {
    if words.len() < LINE || words[AT_MAGIC].load(Ordering::Acquire) != FILE_MAGIC {
        return Err(Fault::Foreign("the magic number is missing"));
    }
    let version = words[AT_VERSION].load(Ordering::Relaxed);
    if version != COUNTERS_VERSION {
        return Err(Fault::Version(version));
    }
    if words[AT_BYTES].load(Ordering::Relaxed) != words.len() as u64 * 8 {
        return Err(Fault::Foreign("its size is not what it says"));
    }
    let count = read(words, AT_PAGES);
    if count > PAGES_MAX {
        return Err(Fault::Foreign("it says it has too many pages"));
    }
    let mut pages = Vec::with_capacity(count);
    let mut first = LINE;
    for _ in 0..count {
        let rest = words.get(first..).unwrap_or_default();
        if rest.len() < LINE || rest[AT_MAGIC].load(Ordering::Relaxed) != PAGE_MAGIC {
            return Err(Fault::Foreign("a page is missing"));
        }
        let length = read(rest, PAGE_WORDS);
        if length < LINE || !length.is_multiple_of(LINE) || length > rest.len() {
            return Err(Fault::Foreign("a page is longer than the file"));
        }
        pages.push(read_page(&rest[..length], first)?);
        first += length;
    }
    Ok(pages)
}

/// Reads one page that starts at word `first` of the file.
fn read_page(page: &[AtomicU64], first: usize) -> Result<KnownPage, Fault> {
    let names = read(page, PAGE_NAMES);
    let values = read(page, PAGE_VALUES);
    let text_bytes = read(page, PAGE_TEXT_BYTES);
    let values_end = values.checked_add(names);
    if names > COUNTERS_PER_PAGE_MAX || values_end.is_none_or(|end| end > page.len()) || values < LINE {
        return Err(Fault::Foreign("the values of a page lie outside it"));
    }
    if text_bytes.div_ceil(8) > values - LINE {
        return Err(Fault::Foreign("the text of a page lies outside it"));
    }
    let text: Vec<u8> = (page[LINE..values].iter())
        .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
        .take(text_bytes)
        .collect();
    let mut parts = Parts { rest: &text };
    let label = parts.next()?;
    let names = (0..names).map(|_| parts.next()).collect::<Result<Vec<_>, _>>()?;
    if !parts.rest.is_empty() {
        return Err(Fault::Foreign("the text of a page is too long"));
    }
    let identity = page[PAGE_KIND].load(Ordering::Relaxed);
    Ok(KnownPage {
        kind: (identity >> 32) as u32,
        index: identity as u32,
        label,
        names,
        values: first + values,
    })
}

/// Texts, each behind its length.
struct Parts<'a> {
    rest: &'a [u8],
}

impl Parts<'_> {
    fn next(&mut self) -> Result<String, Fault> {
        const SHORT: Fault = Fault::Foreign("the text of a page is too short");
        let (length, rest) = self.rest.split_first_chunk::<2>().ok_or(SHORT)?;
        let (part, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))).ok_or(SHORT)?;
        self.rest = rest;
        String::from_utf8(part.to_vec()).map_err(|_| Fault::Foreign("the text of a page is no UTF-8"))
    }
}

fn read(words: &[AtomicU64], at: usize) -> usize {
    usize::try_from(words[at].load(Ordering::Relaxed)).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "counters_tests.rs"]
mod tests;
