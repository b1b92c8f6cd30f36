//! The figures of one whole run, as they are written for programs. Their JSON keys are a contract: they are added to, never changed.

use crate::bed::{Prepared, SubjectRun};
use crate::floor::FloorRun;
use crate::past::Change;
use crate::scenario::{Limit, Scenario};
use crate::statistics::{Summary, pairwise, summary};
use anyhow::{Context, Result};
use serde::Serialize;
use turnpike_shm::PageKind;

/// Figures of one floor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FloorFigures {
    /// E.g. `dpdk-testpmd 5tswap`.
    pub name: String,
    /// CPU time of the forwarding thread a packet: the least of all runs.
    pub ns_per_packet_min: f64,
    /// The middle of all runs.
    pub ns_per_packet_median: f64,
    /// How many runs.
    pub runs: usize,
    /// Packets of all runs.
    pub packets: u64,
    /// Packets lost.
    pub dropped: u64,
    /// How it was started.
    pub command: String,
}

/// Figures of one scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScenarioFigures {
    /// E.g. `established/1k`.
    pub name: &'static str,
    /// CPU time of the worker's turns a packet: the least of all runs.
    pub ns_per_packet_min: f64,
    /// The middle of all runs.
    pub ns_per_packet_median: f64,
    /// Ticks of the time stamp counter a packet: the least of all runs.
    pub cycles_per_packet_min: Option<f64>,
    /// Least ratio of a run to the floor's run beside it.
    pub ratio_to_floor_min: Option<f64>,
    /// The middle of the ratios.
    pub ratio_to_floor_median: Option<f64>,
    /// A quarter of the ratios is below the first, a quarter above the second.
    pub ratio_to_floor_quartiles: Option<[f64; 2]>,
    /// The scenario that it is compared with, and the ratio of a run to the run of that one beside it.
    pub other: Option<OtherFigures>,
    /// What it may cost, and whether it does.
    pub limit: Option<LimitFigures>,
    /// How it differs from a past run on a host of the same kind.
    pub change: Option<Change>,
    /// The middle of the runs by the wall, with the time in which the worker was not running.
    pub wall_ns_per_packet_median: f64,
    /// Live flows.
    pub flows: u32,
    /// CPU time a packet of each run, in the order of the runs.
    pub ns_per_packet_runs: Vec<f64>,
    /// The same of the floor's run beside it.
    pub floor_ns_per_packet_runs: Vec<f64>,
    /// How many runs.
    pub runs: usize,
    /// Packets of all runs.
    pub packets: u64,
    /// Packets that were not forwarded.
    pub dropped: u64,
    /// Packets a turn, of all runs.
    pub packets_per_turn: f64,
    /// Packets that are told of together: 12 for a whole connection.
    pub packets_per_unit: u32,
    /// Ticks of the time stamp counter for all of them: the middle of all runs.
    pub cycles_per_unit_median: Option<f64>,
    /// Changes of endpoints a second: the least of all runs.
    pub changes_per_second: Option<f64>,
    /// Bytes of the flow table, index included.
    pub table_bytes: usize,
    /// The same for each flow that it has room for.
    pub table_bytes_per_flow: f64,
    /// Bytes that the process grew by for the worker and what it shares with none.
    pub resident_bytes: usize,
    /// The table's pages: `huge_2m`, `transparent` or `ordinary`.
    pub pages: &'static str,
}

/// Figures in comparison with another scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OtherFigures {
    /// Its name.
    pub name: &'static str,
    /// The least ratio.
    pub ratio_min: f64,
    /// The middle of the ratios.
    pub ratio_median: f64,
}

/// What something may be at most, and what it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitFigures {
    /// What it may be.
    pub limit: Limit,
    /// What it is: the median.
    pub is: f64,
    /// Whether it is no more.
    pub holds: bool,
}

impl FloorFigures {
    /// Figures of at least one run.
    pub fn new(name: String, runs: &[FloorRun], command: String) -> Result<Self> {
        let Summary { min, median, .. } =
            summary(&costs(runs)).with_context(|| format!("{name} was not measured"))?;
        Ok(Self {
            name,
            ns_per_packet_min: min,
            ns_per_packet_median: median,
            runs: runs.len(),
            packets: runs.iter().map(|r| r.packets).sum(),
            dropped: runs.iter().map(|r| r.dropped).sum(),
            command,
        })
    }
}

fn costs(runs: &[FloorRun]) -> Vec<f64> {
    runs.iter().map(|r| r.cpu_ns_per_packet).collect()
}

/// The runs of one scenario, and those beside them.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// Its own.
    pub subject: Vec<SubjectRun>,
    /// The floor's; none when it was left out.
    pub floor: Vec<FloorRun>,
    /// Those of the scenario it is compared with.
    pub other: Vec<SubjectRun>,
}

impl ScenarioFigures {
    /// Figures of at least one run.
    pub fn new(scenario: &Scenario, prepared: Prepared, runs: &Runs, tsc_mhz: Option<f64>) -> Result<Self> {
        let name = scenario.name;
        let cpu = |runs: &[SubjectRun]| runs.iter().map(|r| r.cpu_ns_per_packet).collect::<Vec<f64>>();
        let (own, others) = (cpu(&runs.subject), cpu(&runs.other));
        let wall: Vec<f64> = runs.subject.iter().map(|r| r.wall_ns_per_packet).collect();
        let not_measured = || format!("{name} was not measured");
        let Summary { min, median, .. } = summary(&own).with_context(not_measured)?;
        let wall = summary(&wall).with_context(not_measured)?;
        let to_floor = pairwise(&own, &costs(&runs.floor));
        let other = scenario.other().zip(pairwise(&own, &others));
        let other = other.map(|(name, r)| OtherFigures { name, ratio_min: r.min, ratio_median: r.median });
        let packets_per_unit = scenario.load.packets_a_unit();
        let ticks = |ns: f64| Some(ns * tsc_mhz? / 1e3);
        let cycles_per_unit_median = ticks(median * f64::from(packets_per_unit));
        let limit = scenario.limit.and_then(|limit| {
            let (is, at_most) = match limit {
                Limit::Floor { at_most } => (to_floor?.median, at_most),
                Limit::Scenario { at_most, .. } => (other.as_ref()?.ratio_median, at_most),
                Limit::Ticks { at_most } => (cycles_per_unit_median?, at_most),
            };
            Some(LimitFigures { limit, is, holds: is <= at_most })
        });
        let packets: u64 = runs.subject.iter().map(|r| r.packets).sum();
        let turns: u64 = runs.subject.iter().map(|r| r.turns).sum();
        let changes = runs.subject.iter().filter_map(|r| r.changes_per_second);
        let Prepared { table_bytes, resident_bytes, pages } = prepared;
        Ok(Self {
            name,
            ns_per_packet_min: min,
            ns_per_packet_median: median,
            cycles_per_packet_min: ticks(min),
            ratio_to_floor_min: to_floor.map(|r| r.min),
            ratio_to_floor_median: to_floor.map(|r| r.median),
            ratio_to_floor_quartiles: to_floor.map(|r| r.quartiles),
            other,
            limit,
            change: None,
            wall_ns_per_packet_median: wall.median,
            flows: scenario.bed.flows,
            ns_per_packet_runs: own,
            floor_ns_per_packet_runs: costs(&runs.floor),
            runs: runs.subject.len(),
            packets,
            dropped: runs.subject.iter().map(|r| r.dropped).sum(),
            packets_per_turn: packets as f64 / turns.max(1) as f64,
            packets_per_unit,
            cycles_per_unit_median,
            changes_per_second: changes.min_by(f64::total_cmp),
            table_bytes,
            table_bytes_per_flow: table_bytes as f64 / f64::from(scenario.bed.flows + scenario.bed.room),
            resident_bytes,
            pages: key_of(pages),
        })
    }

    /// Its ratios to the floor.
    #[must_use]
    pub fn to_floor(&self) -> Option<Summary> {
        Some(Summary {
            min: self.ratio_to_floor_min?,
            median: self.ratio_to_floor_median?,
            quartiles: self.ratio_to_floor_quartiles?,
        })
    }
}

/// What pages are called in results.
#[must_use]
pub const fn key_of(pages: PageKind) -> &'static str {
    match pages {
        PageKind::Giant => "huge_1g",
        PageKind::Huge => "huge_2m",
        PageKind::Transparent => "transparent",
        PageKind::Ordinary => "ordinary",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::ALL;

    fn run(ns: f64) -> SubjectRun {
        SubjectRun {
            packets: 128,
            wall_ns_per_packet: ns + 1.0,
            cpu_ns_per_packet: ns,
            turns: 2,
            dropped: 0,
            changes_per_second: None,
        }
    }

    fn figures(name: &str, ns: &[f64], floor: &[f64], other: &[f64]) -> ScenarioFigures {
        let scenario = ALL.iter().find(|s| s.name == name).unwrap();
        let prepared =
            Prepared { table_bytes: 96_000_000, resident_bytes: 98_000_000, pages: PageKind::Huge };
        let runs = Runs {
            subject: ns.iter().map(|&ns| run(ns)).collect(),
            floor: floor
                .iter()
                .map(|&ns| FloorRun { cpu_ns_per_packet: ns, packets: 100, dropped: 0 })
                .collect(),
            other: other.iter().map(|&ns| run(ns)).collect(),
        };
        ScenarioFigures::new(scenario, prepared, &runs, Some(2_500.0)).unwrap()
    }

    #[test]
    fn each_kind_of_limit_is_held_against_its_own_figure() {
        let limit = |figures: ScenarioFigures| figures.limit.map(|l| (l.is, l.holds)).unwrap();
        let floor = [10.0, 10.0, 10.0];
        assert_eq!(limit(figures("established/1M", &[26.0, 27.0, 90.0], &floor, &[])), (2.7, true));
        assert_eq!(limit(figures("established/1M", &[27.0, 28.0, 28.0], &floor, &[])), (2.8, false));
        let udp = figures("established/1M/udp-25", &[30.0, 33.0], &floor[..2], &[30.0, 30.0]);
        assert_eq!(
            udp.other,
            Some(OtherFigures { name: "established/1M", ratio_min: 1.0, ratio_median: 1.05 })
        );
        assert_eq!(limit(udp), (1.05, true));
        let connections = figures("connection/1M", &[40.0], &floor[..1], &[]);
        assert_eq!((connections.packets_per_unit, connections.cycles_per_unit_median), (12, Some(1_200.0)));
        assert_eq!(limit(connections), (1_200.0, false));
        assert_eq!(figures("established/1M/random-keys", &[40.0], &floor[..1], &[]).limit, None);
        assert_eq!(figures("established/1M", &[26.0], &[], &[]).limit, None, "no floor");
    }

    #[test]
    fn memory_is_told_for_each_flow_that_there_is_room_for() {
        assert_eq!(figures("established/1M", &[26.0], &[10.0], &[]).table_bytes_per_flow, 96.0);
    }

    #[test]
    fn without_runs_there_is_no_figure() {
        assert!(FloorFigures::new("floor".into(), &[], String::new()).is_err());
        let prepared = Prepared { table_bytes: 96, resident_bytes: 96, pages: PageKind::Ordinary };
        assert!(ScenarioFigures::new(&ALL[0], prepared, &Runs::default(), None).is_err());
    }
}
