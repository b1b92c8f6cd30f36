//! Flow tables against each other: how long a look-up and an insert take, and how much memory an entry, by how many entries there are and how full
//! the table is.
//!
//! Each combination of contender, size and kind of pages is measured in a process of its own ([`measure`]), which has all its memory for that
//! one table: the allocator, DPDK's environment and Turnpike's memory get either huge pages or ordinary ones, and give them back with the process.
//! Keys are in random order and new in each run, so that a run finds nothing in the caches that the one before brought there; except where
//! the table as a whole fits them.

use crate::contenders::{Contender, Dpdk, Found, KeysInSessions, KeysInTable, Own, Slab, keys_of};
use crate::quiet::Quiet;
use crate::statistics::summary;
use anyhow::{Context, Result, ensure};
use capsule::{Eal, EalConfig, Memory};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fs;
use std::hint::black_box;
use std::time::Instant;
use turnpike_forward::flow_key::FlowKey;
use turnpike_forward::flow_table::FlowTable;
use turnpike_forward::hash::{Random, Secret, scale};
use turnpike_shm::{HugeMemory, Pages};

/// Entries that tables are made for; a flow has two.
pub const SIZES: [u32; 4] = [65_536, 1_000_000, 10_000_000, 64_000_000];
/// How full they are, in percent of that.
pub const FILLS: [u32; 4] = [50, 75, 90, 95];
/// How full Turnpike's own is when inserts are timed one by one.
const INSERT_FILLS: [u32; 6] = [50, 75, 90, 95, 99, 100];
/// Inserts that are timed one by one, at most.
const TIMED_INSERTS: u32 = 4_096;
/// How many times [`WINDOW`] keys are looked up between two runs of timed inserts: 64 MiB of lines, where there are as many.
const ELSEWHERE: usize = 4;
/// Runs are tried so many times as often as are wanted, at most, to have as many that nobody disturbed.
const TRIES: usize = 2;
/// Look-ups of a run.
const WINDOW: usize = 1 << 17;

/// What may be the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Turnpike's own.
    Turnpike,
    /// hashbrown with keys and numbers of sessions.
    HashbrownKeys,
    /// hashbrown with numbers of sessions alone.
    HashbrownNumbers,
    /// DPDK's `rte_hash`.
    RteHash,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Turnpike, Self::HashbrownKeys, Self::HashbrownNumbers, Self::RteHash];

    /// As it is named in arguments and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Turnpike => "turnpike",
            Self::HashbrownKeys => "hashbrown-keys",
            Self::HashbrownNumbers => "hashbrown-numbers",
            Self::RteHash => "rte-hash",
        }
    }

    /// Bytes that it will take, its sessions and the keys that are looked up included; a little too much rather than too little.
    #[must_use]
    pub fn memory_bytes(self, entries: u32, rounds: usize) -> usize {
        // hashbrown fills seven eighths of a power of two, and has a byte beside each place.
        let places = (entries as usize * 8 / 7 + 1).next_power_of_two();
        let table = match self {
            Self::Turnpike => return FlowTable::<FlowKey>::memory_bytes(entries / 2) + keys_bytes(rounds),
            Self::HashbrownKeys => places * (size_of::<([u64; 2], u32)>() + 1),
            Self::HashbrownNumbers => places * (size_of::<u32>() + 1),
            Self::RteHash => (Dpdk::memory_mb(entries) as usize) << 20,
        };
        table + Slab::memory_bytes(entries / 2) + keys_bytes(rounds)
    }
}

const fn keys_bytes(rounds: usize) -> usize {
    // And what else the process has, on pages of 2 MiB where all are.
    WINDOW * (2 * TRIES * rounds + ELSEWHERE) * size_of::<FlowKey>() + (16 << 20)
}

/// What is measured in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Of which table.
    pub kind: Kind,
    /// Entries that it is made for.
    pub entries: u32,
    /// Whether it is on pages of 2 MiB.
    pub huge: bool,
    /// Runs of each kind of look-up, each of other keys.
    pub rounds: usize,
    /// The core that it is measured on.
    pub core: u16,
}

/// Nanoseconds of one look-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// In the best run.
    pub min_ns: f64,
    /// In the middle one.
    pub median_ns: f64,
}

/// A table that is so full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which table.
    pub table: Kind,
    /// Entries that it is made for.
    pub entries: u32,
    /// Whether it is on pages of 2 MiB.
    pub huge_pages: bool,
    /// Entries that it has, in percent of those it is made for.
    pub filled_percent: u32,
    /// The same in percent of the places of its index.
    pub places_filled_percent: f64,
    /// Bytes that it takes for each entry that it is made for, half a session included.
    pub bytes_per_entry: f64,
    /// An insert of one entry, over all since the row before.
    pub insert_ns: f64,
    /// Keys that are in it, each on its own.
    pub hit_single: Cost,
    /// Keys that are in it, in batches.
    pub hit_batch: Cost,
    /// Keys that are not, each on its own.
    pub miss_single: Cost,
    /// Keys that are not, in batches.
    pub miss_batch: Cost,
}

/// How long single inserts of a flow (two entries) take Turnpike's own table. Each is the shortest of equal runs, so that interruptions of the machine
/// do not count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InsertRow {
    /// Entries that the table is made for.
    pub entries: u32,
    /// Whether it is on pages of 2 MiB.
    pub huge_pages: bool,
    /// How full it was before, in percent of these; at 100 each insert is refused.
    pub filled_percent: u32,
    /// Inserts.
    pub inserts: usize,
    /// The middle one.
    pub median_ns: f64,
    /// The worst of all.
    pub worst_ns: u32,
}

/// What comes of a match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Look-ups.
    pub rows: Vec<Row>,
    /// Inserts, of Turnpike's own.
    pub inserts: Vec<InsertRow>,
}

/// Plays a match. The process should have done nothing else, and be pinned to a core.
pub fn measure(of: Match) -> Result<Outcome> {
    let secret = Secret::new([0x7475_726e, 0x7069_6b65, 0x666c_6f77, 0x7461_626c]);
    let Match { kind, entries, huge, .. } = of;
    let (pages, flows) = (if huge { Pages::Require } else { Pages::Never }, entries / 2);
    if kind == Kind::Turnpike {
        let mut memory = HugeMemory::new(FlowTable::<FlowKey>::memory_bytes(flows), pages)?;
        let rows = fill(&mut Own::new(memory.bytes_mut(), flows, secret)?, of)?;
        let inserts = time_inserts(&mut Own::new(memory.bytes_mut(), flows, secret)?, of)?;
        return Ok(Outcome { rows, inserts });
    }
    let mut sessions = HugeMemory::new(Slab::memory_bytes(flows), pages)?;
    let slab = Slab::new(sessions.bytes_mut())?;
    let rows = match kind {
        Kind::HashbrownKeys => fill(&mut KeysInTable::new(entries as usize, slab, secret), of)?,
        Kind::HashbrownNumbers => fill(&mut KeysInSessions::new(entries as usize, slab, secret), of)?,
        Kind::Turnpike | Kind::RteHash => {
            let mb = Dpdk::memory_mb(entries);
            let memory = if huge { Memory::Huge { mb } } else { Memory::Ordinary { mb } };
            let eal = Eal::start(&EalConfig { memory, pci: Vec::new(), nodes: Vec::new() })?;
            fill(&mut Dpdk::new(eal, entries, slab)?, of)?
        }
    };
    Ok(Outcome { rows, inserts: Vec::new() })
}

/// Fills a table and looks things up on the way.
fn fill(table: &mut impl Contender, of: Match) -> Result<Vec<Row>> {
    let flows = of.entries / 2;
    let (mut rows, mut live) = (Vec::new(), 0);
    let mut random = Random::new(&Secret::from_pair([u64::from(of.entries), 1]), 0);
    for filled_percent in FILLS {
        let more = live..(u64::from(flows) * u64::from(filled_percent) / 100) as u32;
        live = more.end;
        let (added, start) = (2 * more.len(), Instant::now());
        for flow in more {
            table.insert(flow)?;
        }
        let insert_ns = start.elapsed().as_nanos() as f64 / added.max(1) as f64;
        if rows.is_empty() && of.huge {
            ensure_huge(table.bytes())?;
        }
        // The next numbers are of flows that it has never had.
        let [hit_single, hit_batch] =
            look_up(table, &keys(&mut random, 0..live, TRIES * of.rounds), of, true)?;
        let others = keys(&mut random, flows..2 * flows, TRIES * of.rounds);
        let [miss_single, miss_batch] = look_up(table, &others, of, false)?;
        rows.push(Row {
            table: of.kind,
            entries: of.entries,
            huge_pages: of.huge,
            filled_percent,
            places_filled_percent: f64::from(2 * live) / table.places() as f64 * 100.0,
            bytes_per_entry: table.bytes() as f64 / f64::from(of.entries),
            insert_ns,
            hit_single,
            hit_batch,
            miss_single,
            miss_batch,
        });
    }
    Ok(rows)
}

/// Keys of either direction of these flows, in random order.
fn keys(random: &mut Random, flows: std::ops::Range<u32>, rounds: usize) -> Vec<FlowKey> {
    let count = flows.len() as u32;
    let any = |_| keys_of(flows.start + scale(random.next(), count))[(random.next() >> 31) as usize];
    (0..WINDOW * rounds).map(any).collect()
}

/// Costs singly and in batches. Every key has to be found, or none.
fn look_up(table: &mut impl Contender, keys: &[FlowKey], of: Match, is_there: bool) -> Result<[Cost; 2]> {
    let hits = if is_there { WINDOW as u64 } else { 0 };
    let mut sums = Vec::new();
    let single = cost(keys, of, |window| {
        let found = table.look_up_singly(window);
        ensure!(found.hits == hits, "{}: {} of {hits} keys found", table.name(), found.hits);
        sums.push(found);
        Ok(())
    })?;
    let mut sums = sums.into_iter();
    let batch = cost(keys, of, |window| {
        let (found, wanted) = (table.look_up(window), sums.next());
        ensure!(found.hits == hits, "{}: {} of {hits} keys found in batches", table.name(), found.hits);
        let is_same = wanted.is_none_or(|wanted: Found| wanted == found);
        ensure!(is_same, "{}: {found:?} in batches, {wanted:?} singly", table.name());
        Ok(())
    })?;
    Ok([single, batch])
}

/// Times look-ups until so many runs are there as are wanted, of which nobody else had the core in the middle; with too few of these, those count that there are.
fn cost(keys: &[FlowKey], of: Match, mut look_up: impl FnMut(&[FlowKey]) -> Result<()>) -> Result<Cost> {
    let (mut quiet, mut all) = (Vec::new(), Vec::new());
    for window in keys.chunks_exact(WINDOW) {
        let before = Quiet::look(of.core);
        let start = Instant::now();
        look_up(black_box(window))?;
        let ns = start.elapsed().as_nanos() as f64 / WINDOW as f64;
        all.push(ns);
        if Quiet::look(of.core) == before {
            quiet.push(ns);
        }
        if quiet.len() == of.rounds {
            break;
        }
    }
    let runs = if quiet.len() * 3 >= of.rounds { quiet } else { all };
    let of = summary(&runs).context("there is no run")?;
    Ok(Cost { min_ns: of.min, median_ns: of.median })
}

/// Times inserts one by one, into an empty table that is filled on the way.
fn time_inserts(table: &mut Own<'_>, of: Match) -> Result<Vec<InsertRow>> {
    let flows = of.entries / 2;
    let mut random = Random::new(&Secret::from_pair([u64::from(of.entries), 2]), 0);
    let (mut live, mut rows) = (0, Vec::new());
    for filled_percent in INSERT_FILLS {
        let wanted = (u64::from(flows) * u64::from(filled_percent) / 100) as u32;
        for flow in live..wanted {
            table.insert(flow)?;
        }
        live = wanted;
        let room = if live == flows { TIMED_INSERTS } else { TIMED_INSERTS.min(flows - live) };
        let elsewhere = keys(&mut random, 0..live, ELSEWHERE);
        let mut shortest = vec![u32::MAX; room as usize];
        for _ in 0..of.rounds {
            // The lines of the run before leave the caches.
            black_box(table.look_up_singly(&elsewhere));
            let times = table.timed_inserts(live..live + room);
            shortest.iter_mut().zip(times).for_each(|(least, time)| *least = time.min(*least));
        }
        let all: Vec<f64> = shortest.iter().map(|&ns| f64::from(ns)).collect();
        rows.push(InsertRow {
            entries: of.entries,
            huge_pages: of.huge,
            filled_percent,
            inserts: all.len(),
            median_ns: summary(&all).context("no insert was timed")?.median,
            worst_ns: shortest.into_iter().max().unwrap_or(0),
        });
    }
    Ok(rows)
}

/// Whether so much memory of this process is on huge pages; a little is elsewhere, such as what is less than a page.
fn ensure_huge(bytes: usize) -> Result<()> {
    let smaps = fs::read_to_string("/proc/self/smaps_rollup")
        .context("the kernel does not say which pages there are")?;
    let huge = huge_bytes(&smaps);
    ensure!(
        huge >= bytes / 10 * 9,
        "{} MiB of {} are on huge pages; reserve more (sysctl vm.nr_hugepages)",
        huge >> 20,
        bytes >> 20
    );
    Ok(())
}

fn huge_bytes(smaps: &str) -> usize {
    let of = |line: &str| {
        let rest = line.strip_prefix("Private_Hugetlb:").or_else(|| line.strip_prefix("Shared_Hugetlb:"))?;
        rest.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()
    };
    smaps.lines().filter_map(of).sum::<usize>() << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_measured_at_every_fill() {
        let of = |kind| Match {
            kind,
            entries: 16_384,
            huge: false,
            rounds: 1,
            core: capsule::available_cores()[0],
        };
        // rte_hash has an environment of its own size: its look-ups are tested beside the contenders.
        for kind in [Kind::Turnpike, Kind::HashbrownKeys, Kind::HashbrownNumbers] {
            let outcome = measure(of(kind)).unwrap();
            assert_eq!(outcome.rows.iter().map(|row| row.filled_percent).collect::<Vec<_>>(), FILLS);
            for row in &outcome.rows {
                let costs = [row.hit_single, row.hit_batch, row.miss_single, row.miss_batch];
                assert!(
                    costs.iter().all(|cost| 0.0 < cost.min_ns && cost.min_ns <= cost.median_ns),
                    "{row:?}"
                );
                assert!(row.insert_ns > 0.0 && row.places_filled_percent <= 95.0, "{row:?}");
                assert!((32.0..100.0).contains(&row.bytes_per_entry), "{row:?}");
            }
            let fills: Vec<u32> = outcome.inserts.iter().map(|row| row.filled_percent).collect();
            assert_eq!(fills, if kind == Kind::Turnpike { &INSERT_FILLS[..] } else { &[] });
            assert!(
                outcome.inserts.iter().all(|row| row.inserts > 0 && row.median_ns <= f64::from(row.worst_ns))
            );
        }
    }

    #[test]
    fn huge_pages_are_counted_private_and_shared() {
        let smaps = "Rss: 12 kB\nShared_Hugetlb:     2048 kB\nPrivate_Hugetlb:   4096 kB\n";
        assert_eq!((huge_bytes(smaps), huge_bytes("")), (6 << 20, 0));
    }

    #[test]
    fn memory_is_estimated_with_what_is_kept_for_a_flow() {
        for kind in Kind::ALL {
            let bytes = kind.memory_bytes(64_000_000, 15);
            assert!((2_400_000_000..6_000_000_000).contains(&bytes), "{kind:?}: {bytes}");
        }
    }
}
