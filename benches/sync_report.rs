//! The figures of a run of `sync`: a table for people, JSON for programs.

use crate::cluster::Size;
use crate::host::Host;
use crate::processes::Memory;
use crate::statistics::summary;
use comfy_table::Table;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Longest cold start that is good, in milliseconds.
pub const COLD_GOAL_MS: f64 = 3_000.0;
/// Longest 99th percentile of one change that is good, in milliseconds.
pub const ONE_CHANGE_GOAL_MS: f64 = 10.0;
/// Fewest changes a second that are good.
pub const SUSTAINED_GOAL: f64 = 5_000.0;

/// Everything that was measured.
#[derive(Debug)]
pub struct Report {
    /// What it was measured on.
    pub host: Host,
    /// The cluster.
    pub size: Size,
    /// Workers of the dataplane.
    pub workers: u16,
    /// A whole cluster.
    pub cold: Cold,
    /// One change of it at a time.
    pub one_change: OneChange,
    /// A flood of changes.
    pub sustained: Sustained,
}

/// From the start of the control plane to adopted by every worker of a dataplane that is new.
#[derive(Debug)]
pub struct Cold {
    /// One of each run.
    pub times: Vec<Duration>,
    /// Memory behind the last run.
    pub control_plane: Memory,
    /// Memory behind the last run.
    pub dataplane: Memory,
}

/// One endpoint changed at a time.
#[derive(Debug)]
pub struct OneChange {
    /// From the request to etcd to adopted by every worker.
    pub sent_to_adopted: Latencies,
    /// From etcd's answer to adopted by every worker; zero where the workers were faster than the answer.
    pub committed_to_adopted: Latencies,
}

/// Many endpoints changed without waiting.
#[derive(Debug)]
pub struct Sustained {
    /// Changes that etcd took.
    pub changes: usize,
    /// In this time.
    pub elapsed: Duration,
    /// Revisions not adopted when etcd had taken the last one.
    pub backlog: i64,
    /// Transactions they were put into.
    pub transactions: u64,
    /// From the request to etcd to adopted by every worker, of each change.
    pub sent_to_adopted: Latencies,
    /// Memory at the end.
    pub control_plane: Memory,
    /// Memory at the end.
    pub dataplane: Memory,
}

/// Times of many changes.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Adds one.
    pub fn push(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// The least of those that are not below `percent` of all, in milliseconds; 0 of none.
    #[must_use]
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).map_or(0.0, |&latency| ms(latency))
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Report {
    /// The elements of `scenarios`.
    #[must_use]
    pub fn scenarios(&self) -> Vec<Value> {
        let times: Vec<f64> = self.cold.times.iter().map(|&t| ms(t)).collect();
        let cold = summary(&times);
        let OneChange { sent_to_adopted: sent, committed_to_adopted: committed } = &self.one_change;
        let flood = &self.sustained;
        let cold = json!({
            "name": "sync/cold",
            "ms_min": cold.map(|s| s.min),
            "ms_median": cold.map(|s| s.median),
            "ms_goal": COLD_GOAL_MS,
            "runs": times.len(),
        });
        let one_change = json!({
            "name": "sync/one-change",
            "ms_p50": sent.percentile_ms(50.0),
            "ms_p99": sent.percentile_ms(99.0),
            "ms_max": sent.percentile_ms(100.0),
            "ms_p99_goal": ONE_CHANGE_GOAL_MS,
            "ms_after_commit_p50": committed.percentile_ms(50.0),
            "ms_after_commit_p99": committed.percentile_ms(99.0),
            "runs": sent.0.len(),
        });
        let sustained = json!({
            "name": "sync/sustained",
            "changes": flood.changes,
            "changes_per_second": flood.changes as f64 / flood.elapsed.as_secs_f64(),
            "changes_per_second_goal": SUSTAINED_GOAL,
            "seconds": flood.elapsed.as_secs_f64(),
            "transactions": flood.transactions,
            "backlog_revisions_at_end": flood.backlog,
            "ms_p50": flood.sent_to_adopted.percentile_ms(50.0),
            "ms_p99": flood.sent_to_adopted.percentile_ms(99.0),
            "ms_max": flood.sent_to_adopted.percentile_ms(100.0),
            "runs": 1,
        });
        let memory = |mut scenario: Value, control_plane: Memory, dataplane: Memory| {
            scenario["controlplane_resident_bytes"] = control_plane.resident_bytes.into();
            scenario["controlplane_peak_bytes"] = control_plane.peak_bytes.into();
            scenario["dataplane_resident_bytes"] = dataplane.resident_bytes.into();
            scenario["dataplane_peak_bytes"] = dataplane.peak_bytes.into();
            scenario
        };
        let mut scenarios = vec![
            memory(cold, self.cold.control_plane, self.cold.dataplane),
            one_change,
            memory(sustained, flood.control_plane, flood.dataplane),
        ];
        for scenario in &mut scenarios {
            scenario["services"] = self.size.services.into();
            scenario["endpoints"] = (self.size.services * self.size.endpoints).into();
            scenario["workers"] = self.workers.into();
        }
        scenarios
    }

    /// The report as JSON, put into one that is there already: its scenarios of other names stay, and so does its host.
    #[must_use]
    pub fn merged_into(&self, before: Option<Value>) -> Value {
        let mut all = match before {
            Some(Value::Object(all)) => all,
            _ => Map::from_iter([("host".to_owned(), json!(self.host))]),
        };
        let own = self.scenarios();
        let mut scenarios = match all.remove("scenarios") {
            Some(Value::Array(scenarios)) => scenarios,
            _ => Vec::new(),
        };
        scenarios.retain(|scenario| own.iter().all(|o| o["name"] != scenario["name"]));
        scenarios.extend(own);
        all.insert("scenarios".into(), scenarios.into());
        all.into()
    }

    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["SCENARIO", "FIGURE", "VALUE", "GOAL", ""]);
        let mut row = |name: &str, figure: &str, value: f64, unit: &str, goal: Option<f64>| {
            // Of times less is better, of rates more.
            let is_met = |goal| if unit == "/s" { value >= goal } else { value <= goal };
            let verdict = goal.map_or("", |goal| if is_met(goal) { "met" } else { "MISSED" });
            let goal = goal.map_or_else(String::new, |goal| format!("{goal:.0} {unit}"));
            table.add_row([name, figure, &format!("{value:.2} {unit}"), &goal, verdict]);
        };
        let times: Vec<f64> = self.cold.times.iter().map(|&t| ms(t)).collect();
        if let Some(cold) = summary(&times) {
            row("sync/cold", "min", cold.min, "ms", None);
            row("sync/cold", "median", cold.median, "ms", Some(COLD_GOAL_MS));
        }
        let sent = &self.one_change.sent_to_adopted;
        row("sync/one-change", "p50", sent.percentile_ms(50.0), "ms", None);
        row("sync/one-change", "p99", sent.percentile_ms(99.0), "ms", Some(ONE_CHANGE_GOAL_MS));
        row("sync/one-change", "max", sent.percentile_ms(100.0), "ms", None);
        let committed = &self.one_change.committed_to_adopted;
        row("sync/one-change", "p99 after etcd's answer", committed.percentile_ms(99.0), "ms", None);
        let flood = &self.sustained;
        let a_second = |count: usize| count as f64 / flood.elapsed.as_secs_f64();
        row("sync/sustained", "changes", a_second(flood.changes), "/s", Some(SUSTAINED_GOAL));
        row("sync/sustained", "transactions", a_second(flood.transactions as usize), "/s", None);
        row("sync/sustained", "p50", flood.sent_to_adopted.percentile_ms(50.0), "ms", None);
        row("sync/sustained", "p99", flood.sent_to_adopted.percentile_ms(99.0), "ms", None);
        row("sync/sustained", "max", flood.sent_to_adopted.percentile_ms(100.0), "ms", None);
        row("sync/sustained", "backlog at the end", flood.backlog as f64, "revisions", None);
        let memories = [
            ("sync/cold", "control plane", self.cold.control_plane),
            ("sync/cold", "dataplane", self.cold.dataplane),
            ("sync/sustained", "control plane", flood.control_plane),
            ("sync/sustained", "dataplane", flood.dataplane),
        ];
        for (name, program, memory) in memories {
            row(name, &format!("{program}, memory"), mib(memory.resident_bytes), "MiB", None);
            row(name, &format!("{program}, peak"), mib(memory.peak_bytes), "MiB", None);
        }
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        let Host { cpu, cores, kernel, load_before, load_after, .. } = &self.host;
        let load = |load: &Option<f64>| load.map_or_else(|| "unknown".into(), |l| format!("{l:.2}"));
        format!(
            "{}\n\n\
             The real programs: etcd without fsync, {} Services and {} endpoints in storage protobuf, the control plane,\n\
             the dataplane with {} worker(s). Times end when every worker has adopted; those of changes start before the request to etcd.\n\
             {cpu}; {cores} cores; Linux {kernel}; load {} before, {} after.\n",
            lines.join("\n"),
            self.size.services,
            self.size.services * self.size.endpoints,
            self.workers,
            load(load_before),
            load(load_after),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latencies(all: impl IntoIterator<Item = u64>) -> Latencies {
        Latencies(all.into_iter().map(Duration::from_millis).collect())
    }

    fn report() -> Report {
        let memory = |mib: u64| Memory { resident_bytes: mib << 20, peak_bytes: (mib + 1) << 20 };
        Report {
            host: Host::look(0, false),
            size: Size { services: 10, endpoints: 3 },
            workers: 2,
            cold: Cold {
                times: [3_500, 900, 3_100].map(Duration::from_millis).to_vec(),
                control_plane: memory(1),
                dataplane: memory(2),
            },
            one_change: OneChange {
                sent_to_adopted: latencies(1..=100),
                committed_to_adopted: latencies([0]),
            },
            sustained: Sustained {
                changes: 100,
                elapsed: Duration::from_secs(2),
                backlog: 4,
                transactions: 10,
                sent_to_adopted: latencies([1, 2, 3]),
                control_plane: memory(3),
                dataplane: memory(4),
            },
        }
    }

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let all = latencies((1..=200).rev());
        for (percent, want) in [(50.0, 100.0), (99.0, 198.0), (100.0, 200.0), (0.0, 1.0)] {
            assert_eq!(all.percentile_ms(percent), want, "{percent}");
        }
        assert_eq!(latencies([]).percentile_ms(99.0), 0.0);
    }

    #[test]
    fn figures_join_those_that_are_there() {
        let before = json!({
            "host": "h", "floor": 1,
            "scenarios": [{"name": "established/1k", "flows": 1000}, {"name": "sync/cold", "ms_min": 1.0}],
        });
        let all = report().merged_into(Some(before));
        let scenarios = all["scenarios"].as_array().unwrap();
        let names: Vec<_> = scenarios.iter().map(|s| s["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["established/1k", "sync/cold", "sync/one-change", "sync/sustained"]);
        assert_eq!((&all["host"], &all["floor"]), (&json!("h"), &json!(1)));
        assert_eq!(scenarios[1]["ms_min"], 900.0);
        assert_eq!(scenarios[1]["ms_median"], 3_100.0);
        assert_eq!(scenarios[2]["ms_p99"], 99.0);
        assert_eq!(scenarios[3]["changes_per_second"], 50.0);
        assert_eq!(scenarios[3]["controlplane_peak_bytes"], 4 << 20);
        assert_eq!(scenarios[3]["endpoints"], 30);
        assert!(report().merged_into(None)["host"].is_object());
    }

    #[test]
    fn a_goal_that_is_missed_says_so() {
        let text = report().text();
        let rows: Vec<String> =
            text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for row in [
            "sync/cold median 3100.00 ms 3000 ms MISSED",
            "sync/one-change p99 99.00 ms 10 ms MISSED",
            "sync/sustained changes 50.00 /s 5000 /s MISSED",
            "sync/sustained control plane, peak 4.00 MiB",
        ] {
            assert!(rows.iter().any(|r| r == row), "{row} is not in\n{text}");
        }
    }
}
