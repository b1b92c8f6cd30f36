//! Two real processes over real shared memory, one of them killed with SIGKILL at random moments.
//!
//! The killed process is this test binary itself, run with the name of one test and a folder in its environment.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use turnpike_shm::{ControlSide, DataplaneSide, Popped, PushError, ShmError};

const FOLDER: &str = "TURNPIKE_SHM_KILL_FOLDER";
const KILLS: u32 = 60;
const PATIENCE: Duration = Duration::from_secs(60);

fn shm_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("turnpike-shm-kill-").tempdir_in("/dev/shm").unwrap()
}

/// Bytes of a record: who wrote it, its number, then a pattern made of both whose length varies.
fn write_record(record: &mut Vec<u8>, writer: u64, number: u64) {
    record.clear();
    record.extend_from_slice(&writer.to_le_bytes());
    record.extend_from_slice(&number.to_le_bytes());
    let length = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize;
    record.extend((0..length).map(|at| (writer as u8) ^ (number as u8) ^ (at as u8)));
}

/// Writer and number of a record, checked byte by byte.
fn read_record(record: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
    let (writer, number) = (word(0), word(8));
    let mut expected = Vec::new();
    write_record(&mut expected, writer, number);
    assert!(record == expected, "record {number} of writer {writer} is torn");
    (writer, number)
}

/// A child that does not outlive a failed test.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(test: &str, folder: &Path) -> Victim {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Victim(child)
}

fn kill(mut victim: Victim) {
    victim.0.kill().unwrap();
    let status = victim.0.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "the child ended by itself: {status}");
}

/// Moments without a pattern; the seed is printed by the assertion that fails.
struct Moments(u64);

impl Moments {
    fn next_us(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % 6000
    }
}

fn seeded() -> Moments {
    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}");
    Moments(seed)
}

#[test]
fn producer_process() {
    // Only as the child of another test; by itself there is nothing to do.
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut side = ControlSide::open(folder.as_ref()).unwrap();
    let writer = side.updates().epoch();
    let mut record = Vec::new();
    for number in 0.. {
        write_record(&mut record, writer, number);
        while let Err(e) = side.updates().push(&record) {
            assert_eq!(e, PushError::Full);
            std::thread::yield_now();
        }
    }
}

#[test]
fn killed_producers_leave_whole_records() {
    let folder = shm_folder();
    let mut side = DataplaneSide::create(folder.path(), 8192, 1024).unwrap();
    let mut moments = seeded();
    let mut record = Vec::new();
    let (mut epoch, mut next, mut total) = (0u64, 0u64, 0u64);
    for round in 0..KILLS {
        let child = start("producer_process", folder.path());
        let started = Instant::now();
        let mut end: Option<Instant> = None;
        let mut of_this_round = 0u64;
        while end.is_none_or(|end| Instant::now() < end) {
            assert!(started.elapsed() < PATIENCE, "round {round}: the producer is silent");
            match side.updates().pop(&mut record).unwrap() {
                Popped::Nothing => std::hint::spin_loop(),
                Popped::NewEpoch => {
                    epoch += 1;
                    next = 0;
                }
                Popped::Record => {
                    let (writer, number) = read_record(&record);
                    assert_eq!((writer, number), (epoch, next), "round {round}");
                    next += 1;
                    of_this_round += 1;
                    if end.is_none() && writer == u64::from(round) + 1 {
                        end = Some(Instant::now() + Duration::from_micros(moments.next_us()));
                    }
                }
            }
        }
        kill(child);
        total += of_this_round;
    }
    assert_eq!(epoch, u64::from(KILLS));
    assert!(total > u64::from(KILLS) * 10, "only {total} records: the test has shown nothing");
    eprintln!("{total} records of {KILLS} killed producers");
}

#[test]
fn consumer_process() {
    // Only as the child of another test; by itself there is nothing to do.
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut side = ControlSide::open(folder.as_ref()).unwrap();
    let mut record = Vec::new();
    let mut due: Option<u64> = None;
    loop {
        match side.events().pop(&mut record).unwrap() {
            Popped::Nothing => std::hint::spin_loop(),
            Popped::NewEpoch => panic!("the producer has not changed"),
            Popped::Record => {
                let (writer, number) = read_record(&record);
                assert_eq!((writer, number), (1, due.unwrap_or(number)));
                due = Some(number + 1);
                // Tells the parent how far it is.
                side.beat(number + 1);
            }
        }
    }
}

#[test]
fn killed_consumers_stop_nobody() {
    let folder = shm_folder();
    let mut side = DataplaneSide::create(folder.path(), 1024, 8192).unwrap();
    let mut moments = seeded();
    let mut record = Vec::new();
    let (mut number, mut refused) = (0u64, 0u64);
    write_record(&mut record, 1, number);
    for round in 0..KILLS {
        let before = number;
        let child = start("consumer_process", folder.path());
        let pid = child.0.id();
        let started = Instant::now();
        let mut end: Option<Instant> = None;
        while end.is_none_or(|end| Instant::now() < end) {
            assert!(started.elapsed() < PATIENCE, "round {round}: the consumer is silent");
            match side.events().push(&record) {
                Ok(()) => {
                    number += 1;
                    write_record(&mut record, 1, number);
                }
                Err(PushError::Full) => {
                    refused += 1;
                    std::thread::yield_now();
                }
                Err(e) => panic!("{e}"),
            }
            // Room for what did not fit before shows that the new consumer takes records out.
            if end.is_none() && side.control_pid() == Some(pid) && number > before + 64 {
                end = Some(Instant::now() + Duration::from_micros(moments.next_us()));
            }
        }
        kill(child);
    }
    assert!(refused > 0, "the ring was never full: the test has shown nothing");
    eprintln!("{number} records to {KILLS} killed consumers, {refused} times full");
}

#[test]
fn dataplane_process() {
    // Only as the child of another test; by itself there is nothing to do.
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let side = DataplaneSide::create(folder.as_ref(), 1024, 1024).unwrap();
    loop {
        side.beat(turnpike_shm::monotonic_ms());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_locks_end_with_their_process() {
    let folder = shm_folder();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..10 {
        let child = start("dataplane_process", folder.path());
        let pid = child.0.id();
        let started = Instant::now();
        let control = loop {
            assert!(started.elapsed() < PATIENCE, "round {round}: no dataplane");
            match ControlSide::open(folder.path()) {
                Ok(side) if side.dataplane_pid() == Some(pid) => break side,
                Ok(_) | Err(ShmError::Absent { .. }) => std::thread::sleep(Duration::from_micros(200)),
                Err(e) => panic!("{e}"),
            }
        };
        assert!(control.is_current());
        assert!(control.dataplane_alive(turnpike_shm::monotonic_ms(), 1000));
        assert!(seen.insert(control.boot_id()), "the boot id is new every time");
        let second = DataplaneSide::create(folder.path(), 1024, 1024).err().unwrap();
        assert!(matches!(second, ShmError::Locked { pid: Some(holder), .. } if holder == pid), "{second}");
        kill(child);
        assert!(control.is_current(), "nothing has replaced the file yet");
        std::thread::sleep(Duration::from_millis(30));
        assert!(!control.dataplane_alive(turnpike_shm::monotonic_ms(), 20));
    }
}
