use super::*;
use proptest::prelude::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn spec(kind: u32, index: u32, label: &str, names: &[&str]) -> PageSpec {
    PageSpec { kind, index, label: label.into(), names: names.iter().map(|&n| n.into()).collect() }
}

fn specs() -> Vec<PageSpec> {
    let many: Vec<String> = (0..40).map(|n| format!("verdict_{n}")).collect();
    vec![
        spec(KIND_WORKER, 0, "core 1", &["forwarded", "dropped"]),
        PageSpec { kind: KIND_WORKER, index: 1, label: "core 2".into(), names: many },
        spec(KIND_PORT, 0, "wän", &[]),
        spec(KIND_GATEWAY, 0, "", &["generation"]),
    ]
}

#[test]
fn what_is_written_is_read() {
    let folder = folder();
    assert!(matches!(CounterReader::open(folder.path()).err(), Some(ShmError::Absent { .. })));
    let specs = specs();
    let mut pages = CounterFile::create(folder.path(), &specs).unwrap();
    assert_eq!(pages.iter().map(CounterPage::len).collect::<Vec<_>>(), [2, 40, 0, 1]);
    assert!(pages[2].is_empty());
    let reader = CounterReader::open(folder.path()).unwrap();
    for (view, spec) in reader.pages().iter().zip(&specs) {
        assert_eq!((view.kind, view.index, &view.label), (spec.kind, spec.index, &spec.label));
        assert_eq!(view.counters, spec.names.iter().map(|n| (n.clone(), 0)).collect::<Vec<_>>());
    }
    pages[0].set(1, 77);
    pages[0].set(2, 78);
    pages[1].set_all(&(1..=50).collect::<Vec<u64>>());
    pages[2].set_all(&[5]);
    pages[3].set_all(&[]);
    pages[3].set(0, u64::MAX);
    let views = reader.pages();
    assert_eq!(views[0].counters, [("forwarded".into(), 0), ("dropped".into(), 77)]);
    assert!(views[1].counters.iter().map(|c| c.1).eq(1..=40));
    assert!(views[2].counters.is_empty());
    assert_eq!(views[3].counters, [("generation".into(), u64::MAX)]);
}

#[test]
fn pages_and_their_values_stand_on_lines_of_their_own() {
    let folder = folder();
    let pages = CounterFile::create(folder.path(), &specs()).unwrap();
    let mut end = 0;
    for page in &pages {
        assert_eq!(page.first % LINE, 0);
        assert_eq!(page.values().as_ptr().addr() % 128, 0);
        assert!(page.first >= end);
        end = (page.first + page.count).next_multiple_of(LINE);
    }
}

#[test]
fn a_new_file_replaces_the_old_one() {
    let folder = folder();
    let mut old = CounterFile::create(folder.path(), &specs()).unwrap();
    let reader = CounterReader::open(folder.path()).unwrap();
    assert!(reader.is_current());
    let _new = CounterFile::create(folder.path(), &[spec(KIND_PORT, 3, "lan", &["rx"])]).unwrap();
    assert!(!reader.is_current());
    old[0].set(0, 4);
    assert_eq!(reader.pages()[0].counters[0].1, 4, "who has the old file mapped keeps it");
    assert_eq!(CounterReader::open(folder.path()).unwrap().pages().len(), 1);
}

#[test]
fn what_cannot_be_laid_out_is_refused() {
    let folder = folder();
    let long = "x".repeat(70_000);
    let many: Vec<String> = (0..=COUNTERS_PER_PAGE_MAX).map(|n| n.to_string()).collect();
    let rows = [
        vec![spec(1, 0, &long, &[])],
        vec![PageSpec { names: many, ..spec(1, 0, "", &[]) }],
        vec![spec(1, 0, "", &[]); PAGES_MAX + 1],
    ];
    for specs in rows {
        let error = CounterFile::create(folder.path(), &specs).err().unwrap();
        assert!(matches!(error, ShmError::Counters { .. }), "{error}");
    }
}

/// The words of an honest file, in private memory.
fn honest_words() -> Vec<AtomicU64> {
    let folder = folder();
    let _pages = CounterFile::create(folder.path(), &specs()).unwrap();
    let reader = CounterReader::open(folder.path()).unwrap();
    reader.region.words().iter().map(|word| AtomicU64::new(word.load(Ordering::Relaxed))).collect()
}

#[test]
fn lies_are_named() {
    let page = LINE;
    let rows: [(usize, u64, Fault); 14] = [
        (AT_MAGIC, 0, Fault::Foreign("the magic number is missing")),
        (AT_VERSION, 9, Fault::Version(9)),
        (AT_BYTES, 8, Fault::Foreign("its size is not what it says")),
        (AT_PAGES, u64::MAX, Fault::Foreign("it says it has too many pages")),
        (AT_PAGES, 5, Fault::Foreign("a page is missing")),
        (page, 0, Fault::Foreign("a page is missing")),
        (page + PAGE_WORDS, 0, Fault::Foreign("a page is longer than the file")),
        (page + PAGE_WORDS, u64::MAX, Fault::Foreign("a page is longer than the file")),
        (page + PAGE_NAMES, 4000, Fault::Foreign("the values of a page lie outside it")),
        (page + PAGE_NAMES, 3, Fault::Foreign("the text of a page is too short")),
        (page + PAGE_NAMES, 1, Fault::Foreign("the text of a page is too long")),
        (page + PAGE_VALUES, u64::MAX, Fault::Foreign("the values of a page lie outside it")),
        (page + PAGE_TEXT_BYTES, u64::MAX, Fault::Foreign("the text of a page lies outside it")),
        (
            page + LINE,
            u64::from_le_bytes(*b"\x06\0\xff\xff\xff\xff\xff\xff"),
            Fault::Foreign("the text of a page is no UTF-8"),
        ),
    ];
    for (at, value, fault) in rows {
        let words = honest_words();
        words[at].store(value, Ordering::Relaxed);
        assert_eq!(read_pages(&words).err(), Some(fault), "word {at} = {value:#x}");
    }
    assert_eq!(read_pages(&honest_words()).unwrap().len(), 4);
    assert!(read_pages(&[]).is_err());
}

proptest! {
    /// Any word set to anything, cut anywhere: pages inside the file, or a fault.
    #[test]
    fn hostile_words_never_panic(
        hits in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u64>(), 0u64..200, Just(u64::MAX)]), 1..6),
        cut in any::<prop::sample::Index>(),
        honest_size: bool,
    ) {
        let mut words = honest_words();
        for (at, value) in hits {
            words[at.index(words.len())].store(value, Ordering::Relaxed);
        }
        if honest_size {
            words.truncate(cut.index(words.len()) + 1);
            if let Some(word) = words.get(AT_BYTES) {
                word.store(words.len() as u64 * 8, Ordering::Relaxed);
            }
        }
        if let Ok(pages) = read_pages(&words) {
            for page in pages {
                prop_assert!(page.values + page.names.len() <= words.len());
            }
        }
    }
}
