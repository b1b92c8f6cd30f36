use super::*;
use crate::ring::Popped;
use std::os::unix::fs::{FileExt, PermissionsExt};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn assert_send<T: Send>() {}

#[test]
fn handles_may_move_to_another_thread() {
    assert_send::<DataplaneSide>();
    assert_send::<ControlSide>();
    assert_send::<crate::CounterPage>();
    assert_send::<crate::CounterReader>();
    assert_send::<crate::HugeMemory>();
}

#[test]
fn both_sides_meet() {
    let folder = folder();
    let path = folder.path().join("gw");
    let mut dataplane = DataplaneSide::create(&path, 4096, 1024).unwrap();
    let mut control = ControlSide::open(&path).unwrap();
    assert_eq!(control.dataplane_pid(), Some(std::process::id()));
    assert_eq!(dataplane.control_pid(), Some(std::process::id()));
    assert_eq!(control.boot_id(), dataplane.boot_id());
    assert_ne!(control.boot_id(), 0);
    assert!(control.is_current());
    let mut record = Vec::new();
    assert_eq!(dataplane.updates().pop(&mut record), Ok(Popped::NewEpoch));
    control.updates().push(b"down").unwrap();
    assert_eq!(dataplane.updates().pop(&mut record), Ok(Popped::Record));
    assert_eq!(record, b"down");
    dataplane.events().push(b"up").unwrap();
    assert_eq!(control.events().pop(&mut record), Ok(Popped::Record));
    assert_eq!(record, b"up");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::metadata(path.join(CONTROL_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn heartbeats_tell_life_and_death() {
    let folder = folder();
    let dataplane = DataplaneSide::create(folder.path(), 1024, 1024).unwrap();
    assert!(!dataplane.control_alive(monotonic_ms(), 1_000_000), "no control plane has been there");
    let control = ControlSide::open(folder.path()).unwrap();
    assert!(dataplane.control_alive(monotonic_ms(), 1000));
    control.beat(5000);
    dataplane.beat(6000);
    for (now_ms, control_lives, dataplane_lives) in [
        (3999, false, false),
        (5000, true, true),
        (6000, true, true),
        (6001, false, true),
        (7001, false, false),
    ] {
        assert_eq!(dataplane.control_alive(now_ms, 1000), control_lives, "at {now_ms}");
        assert_eq!(control.dataplane_alive(now_ms, 1000), dataplane_lives, "at {now_ms}");
    }
    drop(control);
    assert!(!dataplane.control_alive(5000, 1000), "it said good-bye");
}

#[test]
fn a_view_looks_on_and_takes_no_part() {
    let folder = folder();
    assert!(matches!(ControlView::open(folder.path()), Err(ShmError::Absent { .. })));
    let mut dataplane = DataplaneSide::create(folder.path(), 1024, 1024).unwrap();
    let view = ControlView::open(folder.path()).unwrap();
    let _control = ControlSide::open(folder.path()).unwrap();
    assert!(view.dataplane_alive(monotonic_ms(), 1_000));
    assert_eq!(view.adopted(), (0, 0));
    dataplane.set_adopted(3, 40);
    assert_eq!(view.adopted(), (3, 40));
    drop(dataplane);
    assert!(!view.dataplane_alive(monotonic_ms(), 1_000));
}

#[test]
fn adopted_is_published_as_a_pair() {
    let folder = folder();
    let mut dataplane = DataplaneSide::create(folder.path(), 1024, 1024).unwrap();
    let control = ControlSide::open(folder.path()).unwrap();
    assert_eq!(control.adopted(), (0, 0));
    dataplane.set_adopted(7, -1);
    assert_eq!(control.adopted(), (7, -1));
    let reader = std::thread::spawn(move || {
        let mut last = 0;
        while last < 200_000 {
            let (generation, revision) = control.adopted();
            assert_eq!(revision, if generation == 7 { -1 } else { generation.cast_signed() * 3 });
            if generation != 7 {
                // (0, 0) stands for "the writer was too fast".
                assert!(generation >= last || generation == 0);
                last = last.max(generation);
            }
            std::hint::spin_loop();
        }
    });
    for generation in 8..=200_000u64 {
        dataplane.set_adopted(generation, generation.cast_signed() * 3);
    }
    reader.join().unwrap();
}

#[test]
fn two_of_a_kind_are_refused() {
    let folder = folder();
    let dataplane = DataplaneSide::create(folder.path(), 1024, 1024).unwrap();
    let error = DataplaneSide::create(folder.path(), 1024, 1024).err().unwrap().to_string();
    assert!(error.contains("dataplane.lock") && error.contains(&std::process::id().to_string()), "{error}");
    let control = ControlSide::open(folder.path()).unwrap();
    let error = ControlSide::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("another control plane of this gateway is running"), "{error}");
    drop((dataplane, control));
    let _dataplane = DataplaneSide::create(folder.path(), 1024, 1024).unwrap();
    ControlSide::open(folder.path()).unwrap();
}

#[test]
fn a_new_dataplane_makes_a_new_file() {
    let folder = folder();
    let mut first = DataplaneSide::create(folder.path(), 1024, 1024).unwrap();
    let mut control = ControlSide::open(folder.path()).unwrap();
    first.set_adopted(9, 9);
    let old_id = control.boot_id();
    drop(first);
    let mut second = DataplaneSide::create(folder.path(), 1024, 1024).unwrap();
    assert!(!control.is_current());
    control.updates().push(b"to nobody").unwrap();
    drop(control);
    let mut control = ControlSide::open(folder.path()).unwrap();
    assert!(control.is_current());
    assert_ne!(control.boot_id(), old_id);
    assert_eq!(control.adopted(), (0, 0));
    control.updates().push(b"snapshot").unwrap();
    let mut record = Vec::new();
    assert_eq!(second.updates().pop(&mut record), Ok(Popped::NewEpoch));
    assert_eq!(second.updates().pop(&mut record), Ok(Popped::Record));
    assert_eq!(record, b"snapshot");
}

#[test]
fn absent_and_unusable_folders_have_errors_that_mend() {
    let folder = folder();
    let error = ControlSide::open(&folder.path().join("none")).err().unwrap();
    assert!(matches!(error, ShmError::Absent { .. }));
    assert!(error.to_string().contains("start turnpike-dataplane"), "{error}");
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let error = DataplaneSide::create(&file, 1024, 1024).err().unwrap().to_string();
    assert!(error.contains("is no folder"), "{error}");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/tmp", &link).unwrap();
    let error = DataplaneSide::create(&link, 1024, 1024).err().unwrap().to_string();
    assert!(error.contains("is no folder"), "{error}");
    let error = DataplaneSide::create(&folder.path().join("a/b"), 1024, 1024).err().unwrap().to_string();
    assert!(error.contains("gateway.shm_dir"), "{error}");
    let error = DataplaneSide::create(&folder.path().join("big"), usize::MAX, 1024).err().unwrap();
    assert!(matches!(error, ShmError::RingSize(_)), "{error}");
}

/// Every header word set to values that lie; opening says so or gives a side that works.
#[test]
fn a_lying_header_is_refused() {
    let folder = folder();
    let _dataplane = DataplaneSide::create(folder.path(), 1024, 1024).unwrap();
    let path = folder.path().join(CONTROL_FILE);
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let bytes = file.metadata().unwrap().len();
    let rows: [(usize, u64, &str); 12] = [
        (AT_MAGIC, 0, "magic"),
        (AT_VERSION, 2, "layout version 2"),
        (AT_BYTES, bytes - 8, "size"),
        (AT_DOWN, 0, "outside"),
        (AT_DOWN, u64::MAX, "outside"),
        (AT_DOWN + 1, u64::MAX, "outside"),
        (AT_DOWN + 1, 3, "cannot hold a ring"),
        (AT_DOWN + 1, 65, "cannot hold a ring"),
        (AT_UP, HEADER_WORDS as u64, "overlap"),
        (AT_UP, bytes / 8, "outside"),
        (AT_UP + 1, 0, "cannot hold a ring"),
        (AT_UP + 1, 1 << 60, "outside"),
    ];
    for (at, value, message) in rows {
        let mut honest = [0; 8];
        file.read_exact_at(&mut honest, at as u64 * 8).unwrap();
        file.write_all_at(&value.to_ne_bytes(), at as u64 * 8).unwrap();
        let error = ControlSide::open(folder.path()).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(message), "word {at} = {value}: {error:?}");
        file.write_all_at(&honest, at as u64 * 8).unwrap();
    }
    ControlSide::open(folder.path()).unwrap();
    for size in [0, 4, 8, 4096, bytes + 8, bytes - 8] {
        let other = folder.path().join("other");
        std::fs::create_dir_all(&other).unwrap();
        std::fs::copy(&path, other.join(CONTROL_FILE)).unwrap();
        std::fs::File::options().write(true).open(other.join(CONTROL_FILE)).unwrap().set_len(size).unwrap();
        let error = ControlSide::open(&other).err().unwrap().to_string();
        assert!(error.contains("is not Turnpike's"), "{size} bytes: {error}");
    }
    let other = folder.path().join("pipe");
    std::fs::create_dir(&other).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, other.join(CONTROL_FILE), rustix::fs::Mode::RWXU).unwrap();
    let error = ControlSide::open(&other).err().unwrap().to_string();
    assert!(error.contains("no regular file"), "{error}");
}
