//! What [`crate::self_bench`] tells: a table with the exact configuration for people, JSON for programs.

use crate::figures::key_of;
use crate::host::Host;
use crate::latency::{LOAD, LatencyRun, Tail};
use crate::self_bench::NicRun;
use crate::statistics::{Summary, summary};
use crate::world::BACKENDS;
use anyhow::{Context, Result};
use capsule::Port;
use comfy_table::Table;
use serde::Serialize;
use std::collections::BTreeMap;
use turnpike_shm::PageKind;

/// Bytes of a frame on a cable, with its check sequence.
const FRAME_BYTES: u32 = 64;

/// Everything that was measured. Its JSON keys are a contract: they are added to, never changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelfReport {
    /// What it was measured on.
    pub host: Option<Host>,
    /// Core of the thread that sends and receives; none if there was one core alone.
    pub source_core: Option<u16>,
    /// Bytes of a frame on a cable, with its check sequence.
    pub frame_bytes: u32,
    /// Over software rings, a row for each number of flows.
    pub rings: Vec<RingRow>,
    /// Through NICs, a row for each number of flows.
    pub nics: Vec<NicRow>,
    /// Those NICs.
    pub ports: Vec<PortFigures>,
}

impl Default for SelfReport {
    fn default() -> Self {
        let (rings, nics, ports) = (Vec::new(), Vec::new(), Vec::new());
        Self { host: None, source_core: None, frame_bytes: FRAME_BYTES, rings, nics, ports }
    }
}

/// A NIC.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortFigures {
    /// As it was named.
    pub device: String,
    /// `worker`, or `source and sink`.
    pub role: &'static str,
    /// DPDK's driver.
    pub driver: String,
    /// In Mbit/s, where the driver says.
    pub link_mbps: Option<u32>,
    /// Frames lost because a receive queue was full, as far as the driver counts them.
    pub rx_missed: u64,
}

impl PortFigures {
    /// Of an open port.
    #[must_use]
    pub fn of(port: &Port, role: &'static str) -> Self {
        Self {
            device: port.device().to_owned(),
            role,
            driver: port.driver().to_owned(),
            link_mbps: port.link().speed_mbps,
            rx_missed: port.stats().rx_missed,
        }
    }
}

/// How long frames were away, in nanoseconds: the middle of all runs of what so many did not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TailFigures {
    /// By half of the frames.
    pub p50_ns: f64,
    /// By 99 %.
    pub p99_ns: f64,
    /// By 99.9 %.
    pub p999_ns: f64,
}

impl TailFigures {
    fn of(tails: &[Tail]) -> Option<Self> {
        let median =
            |figure: fn(&Tail) -> f64| Some(summary(&tails.iter().map(figure).collect::<Vec<_>>())?.median);
        Some(Self { p50_ns: median(|t| t.p50)?, p99_ns: median(|t| t.p99)?, p999_ns: median(|t| t.p999)? })
    }
}

/// One number of flows over rings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RingRow {
    /// Live flows.
    pub flows: u32,
    /// CPU time of the worker's turns a packet: the least of all runs.
    pub ns_per_packet_min: f64,
    /// The middle of all runs.
    pub ns_per_packet_median: f64,
    /// Packets a second of CPU time in millions: of the middle of all runs.
    pub mpps_median: f64,
    /// Packets of all runs.
    pub packets: u64,
    /// How many runs.
    pub runs: usize,
    /// Packets a second from another core that frames were timed at, in millions: the middle of all runs.
    pub offered_mpps_median: Option<f64>,
    /// How long packets were under way then.
    pub latency: Option<TailFigures>,
    /// The same of the ring alone.
    pub ring_latency: Option<TailFigures>,
    /// The flow table's pages: `huge_2m`, `transparent` or `ordinary`.
    pub pages: &'static str,
}

impl RingRow {
    /// Figures of at least one run.
    pub fn new(
        flows: u32,
        packets: u64,
        costs: &[f64],
        times: &[LatencyRun],
        pages: PageKind,
    ) -> Result<Self> {
        let Summary { min, median, .. } = summary(costs).context("nothing was measured")?;
        let tails = |of: fn(&LatencyRun) -> Tail| TailFigures::of(&times.iter().map(of).collect::<Vec<_>>());
        let offered = summary(&times.iter().map(|run| run.offered / 1e6).collect::<Vec<_>>());
        Ok(Self {
            flows,
            ns_per_packet_min: min,
            ns_per_packet_median: median,
            mpps_median: 1e3 / median,
            packets,
            runs: costs.len(),
            offered_mpps_median: offered.map(|offered| offered.median),
            latency: tails(|run| run.worker),
            ring_latency: tails(|run| run.ring),
            pages: key_of(pages),
        })
    }
}

/// One number of flows through NICs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NicRow {
    /// Live flows.
    pub flows: u32,
    /// Frames a second that came back when as many as possible were sent: the middle of all runs; none when a rate was given.
    pub capacity_pps_median: Option<f64>,
    /// Frames a second that were wanted; none when 80 % of the capacity was.
    pub wanted_pps: Option<f64>,
    /// Frames a second that were sent: the middle of all runs.
    pub sent_pps_median: f64,
    /// Frames a second that came back: the middle of all runs.
    pub pps_median: f64,
    /// Frames sent in all runs.
    pub sent: u64,
    /// Frames of them that did not come back.
    pub lost: u64,
    /// The same in percent.
    pub loss_percent: f64,
    /// How long frames were away; none if none came back.
    pub latency: Option<TailFigures>,
    /// Packets that the worker did not forward, by their fate.
    pub not_forwarded: BTreeMap<&'static str, u64>,
    /// How many runs.
    pub runs: usize,
    /// The flow table's pages: `huge_2m`, `transparent` or `ordinary`.
    pub pages: &'static str,
}

impl NicRow {
    /// Figures of at least one run, at a rate if one was given.
    pub fn new(flows: u32, wanted_pps: Option<f64>, runs: &[NicRun], pages: PageKind) -> Result<Self> {
        let median =
            |of: fn(&NicRun) -> f64| summary(&runs.iter().map(of).collect::<Vec<_>>()).map(|s| s.median);
        let capacities: Vec<f64> = runs.iter().filter_map(|run| run.capacity).collect();
        let sum = |of: fn(&NicRun) -> u64| runs.iter().map(of).sum::<u64>();
        let (sent, lost) = (sum(|run| run.sent), sum(|run| run.lost));
        let mut not_forwarded = BTreeMap::new();
        for &(verdict, count) in runs.iter().flat_map(|run| &run.others) {
            *not_forwarded.entry(verdict).or_default() += count;
        }
        let nothing = "nothing was measured";
        Ok(Self {
            flows,
            capacity_pps_median: summary(&capacities).map(|s| s.median),
            wanted_pps,
            sent_pps_median: median(|run| run.sent_rate).context(nothing)?,
            pps_median: median(|run| run.rate).context(nothing)?,
            sent,
            lost,
            loss_percent: lost as f64 * 100.0 / sent.max(1) as f64,
            latency: TailFigures::of(&runs.iter().filter_map(|run| run.times).collect::<Vec<_>>()),
            not_forwarded,
            runs: runs.len(),
            pages: key_of(pages),
        })
    }
}

impl SelfReport {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.rings.is_empty() {
            text += &self.rings_text();
        }
        if !self.nics.is_empty() {
            text += &self.nics_text();
        }
        text + &self.configuration()
    }

    fn rings_text(&self) -> String {
        let header = [
            "FLOWS",
            "NS/PACKET",
            "LEAST",
            "MPPS",
            "RUNS",
            "PACKETS",
            "AT MPPS",
            "P50 US",
            "P99 US",
            "P99.9 US",
        ];
        let rows = self.rings.iter().map(|row| {
            let [p50, p99, p999] = micros(row.latency);
            vec![
                row.flows.to_string(),
                format!("{:.2}", row.ns_per_packet_median),
                format!("{:.2}", row.ns_per_packet_min),
                format!("{:.2}", row.mpps_median),
                row.runs.to_string(),
                row.packets.to_string(),
                row.offered_mpps_median.map_or_else(none, |mpps| format!("{mpps:.2}")),
                p50,
                p99,
                p999,
            ]
        });
        let rings: Vec<String> = self
            .rings
            .iter()
            .filter_map(|row| Some((row.flows, row.ring_latency?)))
            .map(|(flows, ring)| {
                let [p50, p99, p999] = micros(Some(ring));
                format!("{flows} flows {p50}, {p99}, {p999}")
            })
            .collect();
        let timed = match rings.is_empty() {
            true => "No latency: it needs a second core, for a source.\n".to_owned(),
            false => format!(
                "AT MPPS, P50 and the others: frames from another core at {:.0} % of what the worker bears, and how long they were under way, both rings\n\
                 included. The rings alone: {}.\n",
                LOAD * 100.0,
                rings.join("; ")
            ),
        };
        format!(
            "{}\n\n\
             NS/PACKET: CPU time of the worker, the median of the runs; MPPS: millions of packets in a second of it. Software rings in this process, no NIC.\n\
             {timed}",
            table(&header, rows)
        )
    }

    fn nics_text(&self) -> String {
        let header = [
            "FLOWS", "MOST PPS", "SENT PPS", "BACK PPS", "LOST", "LOSS", "P50 US", "P99 US", "P99.9 US",
            "RUNS", "SENT",
        ];
        let rows = self.nics.iter().map(|row| {
            let [p50, p99, p999] = micros(row.latency);
            vec![
                row.flows.to_string(),
                row.capacity_pps_median.map_or_else(none, |pps| format!("{pps:.0}")),
                format!("{:.0}", row.sent_pps_median),
                format!("{:.0}", row.pps_median),
                row.lost.to_string(),
                format!("{:.4}%", row.loss_percent),
                p50,
                p99,
                p999,
                row.runs.to_string(),
                row.sent.to_string(),
            ]
        });
        let mut text = format!(
            "{}\n\n\
             MOST: what comes back when as much as possible is sent. The others: at {}; how many came back, how many never did, and how long they were\n\
             away: both NICs, both drivers, the cable twice, and the worker.\n",
            table(&header, rows),
            match self.nics.first().and_then(|row| row.wanted_pps) {
                Some(wanted) => format!("the rate that was asked for, {wanted:.0} a second"),
                None => format!("{:.0} % of that", LOAD * 100.0),
            }
        );
        for port in &self.ports {
            let PortFigures { device, role, driver, link_mbps, rx_missed } = port;
            let link = link_mbps
                .map_or_else(|| "link of unknown speed".into(), |mbps| format!("link {mbps} Mbit/s"));
            text += &format!(
                "{role}: {device}, driver {driver}, {link}, {rx_missed} frames missed by a full receive queue\n"
            );
        }
        let mut others = BTreeMap::new();
        for (verdict, count) in self.nics.iter().flat_map(|row| &row.not_forwarded) {
            *others.entry(*verdict).or_insert(0) += count;
        }
        if !others.is_empty() {
            let others: Vec<String> =
                others.iter().map(|(verdict, count)| format!("{verdict} {count}")).collect();
            text += &format!(
                "Not forwarded by the worker, some of it from others on the cable: {}\n",
                others.join(", ")
            );
        }
        text
    }

    /// Everything that figures of another host could differ by.
    fn configuration(&self) -> String {
        let Some(host) = &self.host else { return String::new() };
        let Host { cpu, cores, bench_core, kernel, dpdk, rustc, .. } = host;
        let pages =
            self.rings.iter().map(|row| row.pages).chain(self.nics.iter().map(|row| row.pages)).next();
        let tsc = host.tsc_mhz.map_or_else(|| "TSC not constant".into(), |mhz| format!("TSC {mhz:.0} MHz"));
        let load = |load: Option<f64>| load.map_or_else(|| "unknown".into(), |load| format!("{load:.2}"));
        let source = self.source_core.map_or_else(String::new, |core| format!(", source on core {core}"));
        format!(
            "Worker: the one of turnpike-dataplane, on core {bench_core}{source}; full NAT of TCP over IPv4 with tracking, Maglev over {BACKENDS} backends of one\n\
             Service, counters, client quotas and resting ports on; frames of {FRAME_BYTES} bytes, both directions 1:1 in random order; flow table on {} pages,\n\
             packet memory on {}.\n\
             {cpu}; {cores} cores; {tsc}; Linux {kernel}; {dpdk}; {rustc}; load {} before, {} after.\n",
            pages.unwrap_or("no"),
            if host.huge_pages {
                "huge pages"
            } else {
                "ordinary pages (reserve huge ones: echo 512 > /proc/sys/vm/nr_hugepages)"
            },
            load(host.load_before),
            load(host.load_after),
        )
    }
}

fn none() -> String {
    "-".into()
}

/// In microseconds.
fn micros(times: Option<TailFigures>) -> [String; 3] {
    let Some(TailFigures { p50_ns, p99_ns, p999_ns }) = times else { return [none(), none(), none()] };
    [p50_ns, p99_ns, p999_ns].map(|ns| format!("{:.2}", ns / 1e3))
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header.to_vec());
    rows.for_each(|row| {
        table.add_row(row);
    });
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const TAIL: Tail = Tail { p50: 1_500.0, p99: 2_500.0, p999: 9_000.0 };

    fn host() -> Option<Host> {
        let mut host = Host::look(3, true);
        (host.load_after, host.tsc_mhz) = (Some(0.5), Some(2_500.0));
        Some(host)
    }

    fn over_rings() -> SelfReport {
        let timed = LatencyRun {
            capacity: 20e6,
            packets_per_turn: 64.0,
            offered: 16e6,
            ring: Tail { p50: 500.0, ..TAIL },
            worker: TAIL,
            changes_per_second: None,
            aged: 0,
            is_disturbed: false,
        };
        let alone = RingRow::new(1_000, 64, &[25.0, 20.0, 30.0], &[], PageKind::Ordinary).unwrap();
        let timed = RingRow::new(1_000_000, 128, &[50.0], &[timed], PageKind::Huge).unwrap();
        SelfReport { host: host(), source_core: Some(2), rings: vec![alone, timed], ..SelfReport::default() }
    }

    fn through_nics(rate: Option<f64>) -> SelfReport {
        let run = |capacity, lost, others: &[(&'static str, u64)]| NicRun {
            capacity,
            sent_rate: 8e6,
            rate: 7.9e6,
            sent: 1_000,
            lost,
            times: Some(TAIL),
            others: others.to_vec(),
        };
        let runs = [
            run(rate.is_none().then_some(10e6), 1, &[("other_mac", 2)]),
            run(rate.is_none().then_some(10e6), 0, &[("other_mac", 1)]),
        ];
        let port = PortFigures {
            device: "0000:01:00.0".into(),
            role: "worker",
            driver: "net_ice".into(),
            link_mbps: Some(25_000),
            rx_missed: 7,
        };
        let row = NicRow::new(1_000, rate, &runs, PageKind::Huge).unwrap();
        SelfReport { host: host(), nics: vec![row], ports: vec![port], ..SelfReport::default() }
    }

    fn words(text: &str, start: &str) -> String {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(start))
            .unwrap_or_else(|| panic!("{start}: {text}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rings_are_told_with_everything_that_they_depend_on() {
        let text = over_rings().text();
        assert_eq!(words(&text, "1000 "), "1000 25.00 20.00 40.00 3 64 - - - -");
        assert_eq!(words(&text, "1000000 "), "1000000 50.00 50.00 20.00 1 128 16.00 1.50 2.50 9.00");
        for part in [
            "The rings alone: 1000000 flows 0.50, 2.50, 9.00",
            "core 3, source on core 2",
            "64 bytes",
            "TSC 2500 MHz",
            "DPDK ",
            "rustc ",
            "Linux ",
            "0.50 after",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = serde_json::to_value(over_rings()).unwrap();
        assert_eq!((&json["frame_bytes"], &json["source_core"]), (&Value::from(64), &Value::from(2)));
        let row = &json["rings"][1];
        assert_eq!(
            (&row["flows"], &row["ns_per_packet_median"]),
            (&Value::from(1_000_000), &Value::from(50.0))
        );
        assert_eq!(
            (&row["latency"]["p50_ns"], &row["pages"]),
            (&Value::from(1_500.0), &Value::from("huge_2m"))
        );
        assert!(RingRow::new(1, 0, &[], &[], PageKind::Huge).is_err());
    }

    #[test]
    fn nics_are_told_with_their_drivers_and_what_was_lost() {
        let text = through_nics(None).text();
        assert_eq!(words(&text, "1000 "), "1000 10000000 8000000 7900000 1 0.0500% 1.50 2.50 9.00 2 2000");
        for part in
            ["80 % of that", "driver net_ice, link 25000 Mbit/s, 7 frames missed", "other_mac 3", "rustc "]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = through_nics(Some(8e6)).text();
        assert_eq!(words(&text, "1000 "), "1000 - 8000000 7900000 1 0.0500% 1.50 2.50 9.00 2 2000");
        assert!(text.contains("the rate that was asked for, 8000000 a second"), "{text}");
        let json = serde_json::to_value(through_nics(None)).unwrap();
        assert_eq!(
            (&json["nics"][0]["lost"], &json["ports"][0]["driver"]),
            (&Value::from(1), &Value::from("net_ice"))
        );
    }
}
