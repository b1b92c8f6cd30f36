use super::*;
use std::os::unix::fs::{FileExt, PermissionsExt};

const LAYOUT: FlowLayout = FlowLayout {
    worker: 1,
    workers: 2,
    family: 4,
    capacity: 100,
    entry_bytes: 64,
    table_bytes: 8192 + 6400,
    entries_at: 8192,
    meaning: 7,
    gateway: 9,
    clock_zero_ms: 123,
    secret: [1, 2, 3, 4],
};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// A complete table with a byte in its first and its last entry.
fn made(folder: &Path) -> FlowFile {
    let mut file = FlowFile::create(folder, LAYOUT, Pages::Never, None).unwrap();
    let table = file.table().unwrap();
    assert_eq!(table.len(), 8192 + 6400);
    assert!(table.iter().all(|&byte| byte == 0));
    (table[8192], table[8192 + 99 * 64]) = (11, 22);
    file.complete();
    file
}

#[test]
fn a_table_outlives_its_owner_and_has_one_at_a_time() {
    let folder = folder();
    assert!(FlowFile::open(folder.path(), 1, 4).unwrap().is_none());
    let first = made(folder.path());
    let mode = std::fs::metadata(folder.path().join("flows-1-ipv4")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut second = FlowFile::open(folder.path(), 1, 4).unwrap().unwrap();
    assert_eq!(second.layout(), &LAYOUT);
    assert!(matches!(second.lock(), Err(ShmError::Locked { .. })));
    assert!(second.table().is_none(), "not its own yet");
    first.hand_over();
    second.lock().unwrap();
    let table = second.table().unwrap();
    assert_eq!((table[8192], table[8192 + 99 * 64]), (11, 22));
}

#[test]
fn others_read_while_it_is_written() {
    let folder = folder();
    let mut file = made(folder.path());
    let view = FlowView::open(folder.path(), 1, 4).unwrap().unwrap();
    let mut words = [0; 8];
    assert!(view.entry(99, &mut words) && words[0] == 22);
    file.table().unwrap()[8192 + 99 * 64] = 23;
    assert!(view.entry(99, &mut words) && words[0] == 23);
    assert!(!view.entry(100, &mut words));
    assert!(view.is_current());
    drop(file);
    let _other = made(folder.path());
    assert!(!view.is_current(), "another table took its name");
    assert!(FlowView::open(folder.path(), 0, 4).unwrap().is_none());
}

#[test]
fn a_table_that_was_not_completed_is_not_opened() {
    let folder = folder();
    let file = FlowFile::create(folder.path(), LAYOUT, Pages::Never, None).unwrap();
    let error = FlowFile::open(folder.path(), 1, 4).err().unwrap().to_string();
    assert!(error.contains("never completed"), "{error}");
    file.complete();
    assert!(FlowFile::open(folder.path(), 1, 4).unwrap().is_some());
}

#[test]
fn every_changed_word_of_a_header_is_noticed() {
    let folder = folder();
    drop(made(folder.path()));
    let path = folder.path().join("flows-1-ipv4");
    let raw = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    for word in 0..=READY as u64 {
        let mut good = [0; 8];
        raw.read_exact_at(&mut good, word * 8).unwrap();
        for bit in [0, 7, 31, 63] {
            let bad = u64::from_le_bytes(good) ^ 1 << bit;
            raw.write_all_at(&bad.to_le_bytes(), word * 8).unwrap();
            assert!(FlowFile::open(folder.path(), 1, 4).is_err(), "word {word}, bit {bit}");
        }
        raw.write_all_at(&good, word * 8).unwrap();
    }
    assert!(FlowFile::open(folder.path(), 1, 4).unwrap().is_some());
    raw.set_len(4096 * 3).unwrap();
    let error = FlowFile::open(folder.path(), 1, 4).err().unwrap().to_string();
    assert!(error.contains("shorter"), "{error}");
    raw.set_len(0).unwrap();
    assert!(FlowFile::open(folder.path(), 1, 4).is_err());
}

#[test]
fn pages_that_are_not_there_are_an_error() {
    let layout = FlowLayout { table_bytes: 1 << 45, ..LAYOUT };
    let folder = folder();
    for pages in [Pages::Never, Pages::Auto] {
        assert!(FlowFile::create(folder.path(), layout, pages, None).is_err());
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left over");
}
