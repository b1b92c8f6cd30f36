//! The report of one whole run: a table for people, JSON for programs.

use crate::churn::{CONNECTIONS, NEW_FLOWS};
use crate::figures::{FloorFigures, ScenarioFigures};
use crate::host::Host;
use crate::latency::LatencyFigures;
use crate::line::CHUNK;
use crate::pair::PairFigures;
use crate::past::{Change, Verdict};
use crate::scenario::Limit;
use crate::world::BACKENDS;
use comfy_table::Table;
use serde::Serialize;

/// Everything that was measured. Its JSON keys are a contract: they are added to, never changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What it was measured on.
    pub host: Host,
    /// What the ratios are to; none when it was left out.
    pub floor: Option<FloorFigures>,
    /// Other floors of the same run.
    pub other_floors: Vec<FloorFigures>,
    /// The past result that it is compared with.
    pub compared_with: Option<String>,
    /// The subject.
    pub scenarios: Vec<ScenarioFigures>,
    /// Two workers at the same time, if they were measured.
    pub two_workers: Option<PairFigures>,
    /// What a worker adds to the time that packets are under way, as far as it was measured.
    pub latency: Vec<LatencyFigures>,
}

/// Bytes that a flow over IPv4 may take, index included; one over IPv6 has longer addresses.
const BYTES_PER_FLOW_MAX: f64 = 96.0;
/// Bytes that ten million flows may take, with all that is kept beside them.
const BYTES_OF_10M_MAX: usize = 1_000_000_000;

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Host { cpu, cores, bench_core, tsc_mhz, kernel, dpdk, rustc, .. } = &self.host;
        let tsc = tsc_mhz.map_or_else(|| "TSC not constant".into(), |mhz| format!("TSC {mhz:.1} MHz"));
        let load = |load: Option<f64>| load.map_or_else(|| "unknown".into(), |l| format!("{l:.2}"));
        let (before, after) = (load(self.host.load_before), load(self.host.load_after));
        let floor = self.floor.as_ref().map_or_else(String::new, |f| {
            format!(
                "RATIO: each run to the run of {} just before it, the median and the least. Floor: {}\n",
                f.name, f.command
            )
        });
        let past = match &self.compared_with {
            Some(past) => {
                format!("CHANGE: of the median ratio since {past}, and from which on it would count.\n")
            }
            None => format!("No past result of a host of the kind {} to compare with.\n", self.host.kind),
        };
        format!(
            "{}\n\n{}\n\
             {floor}\
             LIMIT: what the median may be at most, × F to the floor, × the other scenario's in runs just before its own, or ticks for all\n\
             packets of a connection. {past}\
             NS: CPU time of the forwarding thread a packet; WALL: the median by the wall; TSC: ticks a packet, {tsc}.\n\
             Subject: the production worker's turns over a software ring, frames of 64 bytes (IPv6: 78), both directions 1:1 in random order,\n\
             full NAT of TCP, Maglev over {BACKENDS} backends a Service, tracking, counters, client quotas and resting ports on; chunks of {CHUNK} frames\n\
             written and collected outside the timed turns, {}. Any packet not forwarded fails the run.\n\
             new: first packets of new flows, ended outside the timed turns after {NEW_FLOWS}. connection: {CONNECTIONS} at a time, 12 packets each, in another\n\
             order for each packet; the end of each one's flow is timed with the next one from the same port.\n\
             {cpu}; {cores} cores, core {bench_core} measured; Linux {kernel}; {dpdk}; {rustc}; load {before} before, {after} after.\n",
            trimmed(&self.table()),
            self.others(),
            self.scenarios
                .first()
                .map_or_else(String::new, |s| format!("{:.0} packets a turn", s.packets_per_turn)),
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header([
            "SCENARIO",
            "RATIO",
            "MIN",
            "LIMIT",
            "IS",
            "HOLDS",
            "CHANGE",
            "NS MIN",
            "NS MEDIAN",
            "WALL",
            "TSC MIN",
            "FLOWS",
            "RUNS",
            "PACKETS",
            "DROPPED",
        ]);
        let none = || "-".to_owned();
        for f in self.floor.iter().chain(&self.other_floors) {
            let cycles = self.host.tsc_mhz.map(|mhz| f.ns_per_packet_min * mhz / 1e3);
            table.add_row([
                f.name.clone(),
                none(),
                none(),
                none(),
                none(),
                none(),
                none(),
                format!("{:.2}", f.ns_per_packet_min),
                format!("{:.2}", f.ns_per_packet_median),
                none(),
                figure(cycles, 1),
                none(),
                f.runs.to_string(),
                f.packets.to_string(),
                f.dropped.to_string(),
            ]);
        }
        for s in &self.scenarios {
            let limit = s.limit.as_ref();
            table.add_row([
                s.name.to_owned(),
                figure(s.ratio_to_floor_median, 2),
                figure(s.ratio_to_floor_min, 2),
                limit.map_or_else(none, |l| allowed(l.limit)),
                limit.map_or_else(none, |l| match l.limit {
                    Limit::Ticks { .. } => format!("{:.0}", l.is),
                    Limit::Floor { .. } | Limit::Scenario { .. } => format!("{:.2}", l.is),
                }),
                limit.map_or_else(none, |l| if l.holds { "yes".into() } else { "NO".into() }),
                s.change.as_ref().map_or_else(none, changed),
                format!("{:.2}", s.ns_per_packet_min),
                format!("{:.2}", s.ns_per_packet_median),
                format!("{:.2}", s.wall_ns_per_packet_median),
                figure(s.cycles_per_packet_min, 1),
                s.flows.to_string(),
                s.runs.to_string(),
                s.packets.to_string(),
                s.dropped.to_string(),
            ]);
        }
        table
    }

    /// What flows take, how many changes there were meanwhile, and what two workers do.
    fn others(&self) -> String {
        let mut lines = String::new();
        let most = self.scenarios.iter().max_by_key(|s| s.flows);
        for s in most.into_iter().chain(self.scenarios.iter().find(|s| s.name == "established/1M")) {
            let holds = |holds| if holds { "holds" } else { "does NOT hold" };
            let limit = match s.name.ends_with("/ipv6") {
                true => String::new(),
                false => {
                    format!(
                        " (at most {BYTES_PER_FLOW_MAX}: {})",
                        holds(s.table_bytes_per_flow <= BYTES_PER_FLOW_MAX)
                    )
                }
            };
            lines += &format!(
                "Memory of {}: {:.1} bytes a flow, index included{limit}; {:.1} MB resident with all that is kept beside, {}",
                s.name,
                s.table_bytes_per_flow,
                s.resident_bytes as f64 / 1e6,
                s.pages,
            );
            if s.flows == 10_000_000 {
                lines += &format!(
                    " (at most {} MB: {})",
                    BYTES_OF_10M_MAX / 1_000_000,
                    holds(s.resident_bytes <= BYTES_OF_10M_MAX)
                );
            }
            lines += ".\n";
        }
        for (name, rate) in self.scenarios.iter().filter_map(|s| Some((s.name, s.changes_per_second?))) {
            lines += &format!(
                "{name}: {rate:.0} changes of endpoints a second, a transaction each, published meanwhile; the least of all runs.\n"
            );
        }
        if let Some(pair) = &self.two_workers {
            lines += &format!(
                "{}: {:.3} × the packets of one a second of CPU time, median of {} (at least {}: {}); {:.2} ns a packet alone, {:.2} while the other runs.\n",
                pair.name,
                pair.ratio_median,
                pair.runs,
                pair.at_least,
                if pair.holds { "holds" } else { "does NOT hold" },
                pair.alone_ns_per_packet_median,
                pair.together_ns_per_packet_median,
            );
        }
        lines + &self.latency.iter().map(LatencyFigures::text).collect::<String>()
    }
}

fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn allowed(limit: Limit) -> String {
    match limit {
        Limit::Floor { at_most } => format!("{at_most:.2} F"),
        // The last parts of both names say enough in a table.
        Limit::Scenario { name, at_most } => {
            format!("{at_most:.2} {}", name.rsplit('/').next().unwrap_or(name))
        }
        Limit::Ticks { at_most } => format!("{at_most:.0} ticks"),
    }
}

fn changed(change: &Change) -> String {
    let word = match change.verdict {
        Verdict::Faster => "faster",
        Verdict::Same => "same",
        Verdict::Slower => "SLOWER",
    };
    format!("{word} {:+.0}% ±{:.0}", change.percent, change.noise_percent)
}

fn figure(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bed::{Prepared, SubjectRun};
    use crate::figures::Runs;
    use crate::floor::FloorRun;
    use crate::latency::{LatencyRun, Tail};
    use crate::pair::PairRun;
    use crate::scenario::ALL;
    use serde_json::Value;
    use turnpike_shm::PageKind;

    fn report() -> Report {
        let floor = |ns| FloorRun { cpu_ns_per_packet: ns, packets: 100, dropped: 0 };
        let run = |ns| SubjectRun {
            packets: 128,
            wall_ns_per_packet: ns + 1.0,
            cpu_ns_per_packet: ns,
            turns: 2,
            dropped: 0,
            changes_per_second: None,
        };
        let floors = vec![floor(8.0), floor(10.0), floor(8.0)];
        let mut host = Host::look(3, true);
        host.tsc_mhz = Some(2_500.0);
        let prepared = Prepared { table_bytes: 96_000, resident_bytes: 120_000, pages: PageKind::Huge };
        let runs =
            Runs { subject: vec![run(16.0), run(21.0), run(20.0)], floor: floors.clone(), other: vec![] };
        let scenario = ALL.iter().find(|s| s.name == "established/1k").unwrap();
        let mut figures = ScenarioFigures::new(scenario, prepared, &runs, Some(2_500.0)).unwrap();
        figures.change = Some(Change {
            since: "2026-11-23-here".into(),
            ratio_to_floor_median: 2.0,
            percent: 5.0,
            noise_percent: 4.0,
            verdict: Verdict::Slower,
        });
        let pair = PairRun { alone: [20.0; 2], together: [20.0; 2] };
        let tail = |p50| Tail { p50, p99: 2_000.0, p999: 3_000.0 };
        let timed = LatencyRun {
            capacity: 40e6,
            packets_per_turn: 64.0,
            offered: 32e6,
            ring: tail(400.0),
            worker: tail(1_400.0),
            changes_per_second: None,
            aged: 0,
            is_disturbed: false,
        };
        let command = String::from("dpdk-testpmd -l 0,3");
        Report {
            host,
            floor: Some(FloorFigures::new("dpdk-testpmd 5tswap".into(), &floors, command).unwrap()),
            other_floors: vec![],
            compared_with: Some("2026-11-23-here".into()),
            scenarios: vec![figures],
            two_workers: Some(PairFigures::new(&[pair], 500_000).unwrap()),
            latency: vec![LatencyFigures::new("latency/1M", &[timed; 3], 1_000_000).unwrap()],
        }
    }

    #[test]
    fn json_has_the_agreed_shape() {
        let json = serde_json::to_value(report()).unwrap();
        let number = |value: &Value, key: &str| {
            value.get(key).and_then(Value::as_f64).unwrap_or_else(|| panic!("{key} is missing in {value}"))
        };
        assert!(json["host"]["kind"].is_string());
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
            ("table_bytes_per_flow", 96.0),
            ("resident_bytes", 120_000.0),
        ];
        for (key, want) in rows {
            assert_eq!(number(scenario, key), want, "{key}");
        }
        let latency = &json["latency"][0];
        assert_eq!(latency["name"], "latency/1M");
        let rows = [
            ("load_percent", 80.0),
            ("capacity_mpps_median", 40.0),
            ("offered_mpps_median", 32.0),
            ("added_p50_ns_min", 1_000.0),
            ("added_p50_ns_median", 1_000.0),
            ("added_p50_ns_at_most", 2_000.0),
            ("p999_ratio_min", 1.0),
            ("p999_ratio_median", 1.0),
            ("p999_ratio_at_most", 1.5),
            ("ring_p50_ns_median", 400.0),
            ("worker_p999_ns_median", 3_000.0),
        ];
        for (key, want) in rows {
            assert_eq!(number(latency, key), want, "{key}");
        }
        assert_eq!((&latency["holds"], &latency["runs"]), (&Value::from(true), &Value::from(3)));
        assert_eq!(scenario["limit"]["limit"]["of"], "floor");
        assert_eq!(number(&scenario["limit"]["limit"], "at_most"), 1.8);
        assert_eq!(scenario["limit"]["holds"], false);
        assert_eq!(scenario["change"]["verdict"], "slower");
    }

    #[test]
    fn every_figure_for_people_stands_with_its_limit_and_its_drops() {
        let text = report().text();
        let row = text.lines().find(|l| l.contains("established/1k")).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        let want =
            "established/1k 2.10 2.00 1.80 F 2.10 NO SLOWER +5% ±4 16.00 20.00 21.00 40.0 1000 3 384 0";
        assert_eq!(words.join(" "), want, "{text}");
        assert!(text.contains("TSC 2500.0 MHz") && text.contains("load "), "{text}");
        assert!(text.contains("two-workers/1M: 2.000 × the packets of one"), "{text}");
        assert!(
            text.contains("latency/1M: half of the packets 1.00 us later than over the ring alone"),
            "{text}"
        );
        assert!(text.contains("Memory of established/1k: 96.0 bytes a flow"), "{text}");
    }
}
