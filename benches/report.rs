//! The figures of one whole run: a table for people, JSON for programs.

use crate::floor::FloorRun;
use crate::host::Host;
use crate::statistics::{Summary, pairwise, summary};
use crate::subject::{BACKENDS, CHUNK, Prepared, Scenario, SubjectRun};
use anyhow::{Context, Result};
use comfy_table::Table;
use serde::Serialize;
use turnpike_shm::PageKind;

/// Everything that was measured. Its JSON keys are a contract: they are added to, never changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What it was measured on.
    pub host: Host,
    /// What the ratios are to; none when it was left out.
    pub floor: Option<FloorFigures>,
    /// Other floors of the same run.
    pub other_floors: Vec<FloorFigures>,
    /// The subject.
    pub scenarios: Vec<ScenarioFigures>,
}

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
    pub name: String,
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
    /// The middle of the runs by the wall, with the time in which the worker was not running.
    pub wall_ns_per_packet_median: f64,
    /// Live flows.
    pub flows: u32,
    /// How many runs.
    pub runs: usize,
    /// Packets of all runs.
    pub packets: u64,
    /// Packets that were not forwarded.
    pub dropped: u64,
    /// Packets a turn, of all runs.
    pub packets_per_turn: f64,
    /// Bytes of the flow table.
    pub table_bytes: usize,
    /// Its pages: `huge_2m`, `transparent` or `ordinary`.
    pub pages: &'static str,
}

impl FloorFigures {
    /// Figures of at least one run.
    pub fn new(name: String, runs: &[FloorRun], command: String) -> Result<Self> {
        let Summary { min, median } =
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

impl ScenarioFigures {
    /// Figures of at least one run, each with the floor's run beside it, if there is a floor.
    pub fn new(
        scenario: &Scenario,
        prepared: Prepared,
        runs: &[SubjectRun],
        floors: &[FloorRun],
        tsc_mhz: Option<f64>,
    ) -> Result<Self> {
        let name = scenario.name.clone();
        let cpu: Vec<f64> = runs.iter().map(|r| r.cpu_ns_per_packet).collect();
        let wall: Vec<f64> = runs.iter().map(|r| r.wall_ns_per_packet).collect();
        let not_measured = || format!("{name} was not measured");
        let Summary { min, median } = summary(&cpu).with_context(not_measured)?;
        let wall = summary(&wall).with_context(not_measured)?;
        let ratio = pairwise(&cpu, &costs(floors));
        let packets: u64 = runs.iter().map(|r| r.packets).sum();
        let turns: u64 = runs.iter().map(|r| r.turns).sum();
        Ok(Self {
            ns_per_packet_min: min,
            ns_per_packet_median: median,
            cycles_per_packet_min: tsc_mhz.map(|mhz| min * mhz / 1e3),
            ratio_to_floor_min: ratio.map(|r| r.min),
            ratio_to_floor_median: ratio.map(|r| r.median),
            wall_ns_per_packet_median: wall.median,
            flows: scenario.flows,
            runs: runs.len(),
            packets,
            dropped: runs.iter().map(|r| r.dropped).sum(),
            packets_per_turn: packets as f64 / turns.max(1) as f64,
            table_bytes: prepared.table_bytes,
            pages: match prepared.pages {
                PageKind::Huge => "huge_2m",
                PageKind::Transparent => "transparent",
                PageKind::Ordinary => "ordinary",
            },
            name,
        })
    }
}

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Host { cpu, cores, bench_core, tsc_mhz, kernel, dpdk, rustc, .. } = &self.host;
        let tsc = tsc_mhz.map_or_else(|| "TSC not constant".into(), |mhz| format!("TSC {mhz:.1} MHz"));
        let load = |load: Option<f64>| load.map_or_else(|| "unknown".into(), |l| format!("{l:.2}"));
        let (before, after) = (load(self.host.load_before), load(self.host.load_after));
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header([
            "SCENARIO",
            "NS MIN",
            "NS MEDIAN",
            "WALL",
            "TSC MIN",
            "RATIO MIN",
            "RATIO MEDIAN",
            "FLOWS",
            "TABLE",
            "PAGES",
            "RUNS",
            "PACKETS",
            "DROPPED",
        ]);
        for f in self.floor.iter().chain(&self.other_floors) {
            let cycles = tsc_mhz.map(|mhz| f.ns_per_packet_min * mhz / 1e3);
            table.add_row([
                f.name.clone(),
                format!("{:.2}", f.ns_per_packet_min),
                format!("{:.2}", f.ns_per_packet_median),
                "-".into(),
                figure(cycles, 1),
                "-".into(),
                "-".into(),
                "-".into(),
                "-".into(),
                "-".into(),
                f.runs.to_string(),
                f.packets.to_string(),
                f.dropped.to_string(),
            ]);
        }
        for s in &self.scenarios {
            table.add_row([
                s.name.clone(),
                format!("{:.2}", s.ns_per_packet_min),
                format!("{:.2}", s.ns_per_packet_median),
                format!("{:.2}", s.wall_ns_per_packet_median),
                figure(s.cycles_per_packet_min, 1),
                figure(s.ratio_to_floor_min, 2),
                figure(s.ratio_to_floor_median, 2),
                s.flows.to_string(),
                format!("{:.1} MiB", s.table_bytes as f64 / f64::from(1 << 20)),
                s.pages.into(),
                s.runs.to_string(),
                s.packets.to_string(),
                s.dropped.to_string(),
            ]);
        }
        let floor = self.floor.as_ref().map_or_else(String::new, |f| {
            format!("Ratios: each run to the run of {} just before it. Floor: {}\n", f.name, f.command)
        });
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        format!(
            "{}\n\n\
             NS: CPU time of the forwarding thread a packet; WALL: the median by the wall; TSC: ticks a packet, {tsc}.\n\
             {floor}\
             Subject: the production worker's turns over a software ring, frames of 64 bytes, both directions 1:1 in random order,\n\
             full NAT of TCP, Maglev over {BACKENDS} backends, tracking and counters on; chunks of {CHUNK} frames written and collected\n\
             outside the timed turns, {}. Any packet not forwarded fails the run.\n\
             {cpu}; {cores} cores, core {bench_core} measured; Linux {kernel}; {dpdk}; {rustc}; load {before} before, {after} after.\n",
            lines.join("\n"),
            self.scenarios
                .first()
                .map_or_else(String::new, |s| format!("{:.0} packets a turn", s.packets_per_turn)),
        )
    }
}

fn figure(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn report() -> Report {
        let floor = |ns| FloorRun { cpu_ns_per_packet: ns, packets: 100, dropped: 0 };
        let run = |ns| SubjectRun {
            packets: 128,
            wall_ns_per_packet: ns + 1.0,
            cpu_ns_per_packet: ns,
            turns: 2,
            dropped: 0,
        };
        let (floors, runs) = ([floor(8.0), floor(10.0), floor(8.0)], [run(16.0), run(21.0), run(20.0)]);
        let scenario = Scenario { name: "established/1k".into(), flows: 1_000 };
        let prepared = Prepared { table_bytes: 96_000, pages: PageKind::Huge };
        let mut host = Host::look(3, true);
        host.tsc_mhz = Some(2_500.0);
        Report {
            host,
            floor: Some(
                FloorFigures::new("dpdk-testpmd 5tswap".into(), &floors, "dpdk-testpmd".into()).unwrap(),
            ),
            other_floors: vec![],
            scenarios: vec![
                ScenarioFigures::new(&scenario, prepared, &runs, &floors, Some(2_500.0)).unwrap(),
            ],
        }
    }

    #[test]
    fn json_has_the_agreed_shape() {
        let json = serde_json::to_value(report()).unwrap();
        let number = |value: &Value, key: &str| {
            value.get(key).and_then(Value::as_f64).unwrap_or_else(|| panic!("{key} is missing in {value}"))
        };
        assert!(json["host"].is_object());
        assert_eq!(json["floor"]["name"], "dpdk-testpmd 5tswap");
        assert_eq!(number(&json["floor"], "ns_per_packet_min"), 8.0);
        assert_eq!(number(&json["floor"], "ns_per_packet_median"), 8.0);
        let scenario = &json["scenarios"][0];
        assert_eq!(scenario["name"], "established/1k");
        let rows = [
            ("ns_per_packet_min", 16.0),
            ("ns_per_packet_median", 20.0),
            ("cycles_per_packet_min", 40.0),
            ("ratio_to_floor_min", 2.0),
            ("ratio_to_floor_median", 2.1),
            ("flows", 1_000.0),
            ("runs", 3.0),
            ("dropped", 0.0),
            ("packets", 384.0),
            ("packets_per_turn", 64.0),
            ("table_bytes", 96_000.0),
        ];
        for (key, want) in rows {
            assert_eq!(number(scenario, key), want, "{key}");
        }
    }

    #[test]
    fn every_figure_for_people_stands_with_its_drops() {
        let text = report().text();
        let row = text.lines().find(|l| l.contains("established/1k")).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        let want = "established/1k 16.00 20.00 21.00 40.0 2.00 2.10 1000 0.1 MiB huge_2m 3 384 0";
        assert_eq!(words.join(" "), want, "{text}");
        assert!(text.contains("TSC 2500.0 MHz") && text.contains("load "), "{text}");
    }

    #[test]
    fn without_runs_there_is_no_figure() {
        assert!(FloorFigures::new("floor".into(), &[], String::new()).is_err());
        let scenario = Scenario { name: "established/1".into(), flows: 1 };
        let prepared = Prepared { table_bytes: 96, pages: PageKind::Ordinary };
        assert!(ScenarioFigures::new(&scenario, prepared, &[], &[], None).is_err());
    }
}
