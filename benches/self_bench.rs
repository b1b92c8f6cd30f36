//! The benchmark that users run on hosts of their own: the production worker over software rings, or through two of the host's NICs.
//!
//! Rings: what a packet costs in CPU time, how many a second that is, and how long packets are under way at 80 % of it. NICs: a source on one
//! port sends packets of live flows over a cable to the other, whose worker translates them and sends them back; how many a second come back,
//! how many are lost, and how long they were away, all with the drivers of both.

use crate::bed::Effort;
use crate::host::Host;
use crate::latency::{Bench, Cores, LOAD, LatencyRun, Stand, Tail, plan};
use crate::line::Line;
use crate::self_report::{NicRow, PortFigures, RingRow, SelfReport};
use crate::source::{Pace, Trip};
use crate::wire::{Sending, Wire, forward, while_sending};
use anyhow::{Context, Result, anyhow, bail, ensure};
use capsule::{Device, Eal, EalConfig, Memory, Port, free_hugepages_mb};
use rustix::thread::{CapabilitySet, capabilities};
use std::time::{Duration, Instant};
use turnpike_forward::verdict::Verdict;
use turnpike_shm::{HugeMemory, Pages};

/// MiB of packet memory: buffers of all rings or NICs, and what DPDK keeps for itself.
const EAL_MB: u32 = 128;
/// Runs for each number of flows.
const ROUNDS: u32 = 5;
/// Least time of one part of a run: less says little.
const PART_MIN: Duration = Duration::from_millis(20);
/// How long the links of both NICs may take to come up.
const LINK_PATIENCE: Duration = Duration::from_secs(10);
/// A frame that is away for so long is lost: the queues of NICs are emptied sooner.
const NIC_PATIENCE: Duration = Duration::from_millis(300);
/// Frames a second, and for how long, that show whether the two NICs are joined.
const PROBE: (f64, Duration) = (1_000.0, Duration::from_millis(100));

/// Which pages packet memory and flow tables are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hugepages {
    /// Huge ones if there are enough.
    Auto,
    /// Huge ones or none.
    Require,
    /// Ordinary ones.
    Never,
}

/// Two NICs, and what goes through them.
#[derive(Clone, Debug, PartialEq)]
pub struct Nics {
    /// The worker's.
    pub port: Device,
    /// Where frames come from, and where they are counted.
    pub sink: Device,
    /// Frames a second; none: the most that come back are looked for, and 80 % of that.
    pub rate: Option<f64>,
}

/// What is to be measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Numbers of live flows, one after the other.
    pub flows: Vec<u32>,
    /// How long each is measured, about.
    pub time: Duration,
    /// Pages.
    pub hugepages: Hugepages,
    /// NICs; none: software rings.
    pub nics: Option<Nics>,
}

/// Measures all of it. `say` is told what goes on.
pub fn run(wanted: &Plan, say: impl Fn(&str) + Sync) -> Result<SelfReport> {
    let available = capsule::available_cores();
    let cores = Cores::of(&available).context("this process may use no core")?;
    let Cores { worker, source, .. } = cores;
    if let Some(nics) = &wanted.nics {
        check(nics)?;
        ensure!(
            source != worker,
            "two cores are needed, one for the worker and one for the source; this process may use core {worker} alone"
        );
    }
    let huge = pages(wanted, free_hugepages_mb())?;
    let mut host = Host::look(worker, huge);
    let memory = if huge { Memory::Huge { mb: EAL_MB } } else { Memory::Ordinary { mb: EAL_MB } };
    let devices = wanted.nics.iter().flat_map(|nics| [&nics.port, &nics.sink]);
    let pci = devices.filter_map(|device| match device {
        Device::Pci(address) => Some(address.clone()),
        Device::Virtual { .. } => None,
    });
    let eal = Eal::start(&EalConfig { memory, pci: pci.collect(), nodes: Vec::new() })?;
    // A thread of its own: only it is pinned and known to DPDK.
    let mut report = std::thread::scope(|scope| {
        let measuring = scope.spawn(|| {
            capsule::pin_to_core(worker)?;
            let _registered = capsule::register_thread(eal)?;
            match &wanted.nics {
                None => over_rings(wanted, eal, cores, huge, &say),
                Some(nics) => over_nics(wanted, nics, eal, cores, huge, &say),
            }
        });
        measuring.join().unwrap_or_else(|_| Err(anyhow!("the worker's thread ended in a panic")))
    })?;
    host.load_after = crate::host::load();
    report.host = Some(host);
    report.source_core = (source != worker).then_some(source);
    Ok(report)
}

/// What the NICs need of the host, before anything is begun.
fn check(nics: &Nics) -> Result<()> {
    ensure!(
        nics.port.port_name() != nics.sink.port_name(),
        "--port and --sink name the same device {}; give each one of its own (net_af_packet0, net_af_packet1)",
        nics.port.port_name()
    );
    for (option, device) in [("--port", &nics.port), ("--sink", &nics.sink)] {
        device.check().with_context(|| option)?;
    }
    let raw = CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN;
    let may = capabilities(None).is_ok_and(|own| own.effective.contains(raw));
    ensure!(may, "NICs need root (CAP_NET_RAW and CAP_NET_ADMIN); run turnpike bench as root");
    Ok(())
}

/// Bytes of the flow table of so many flows.
const fn table_bytes(flows: u32) -> usize {
    plan(flows, 0).memory_bytes()
}

/// Whether huge pages are taken; an error if they have to be and are too few.
fn pages(wanted: &Plan, free_mb: u64) -> Result<bool> {
    let most = wanted.flows.iter().copied().max().unwrap_or(0);
    let needed_mb = u64::from(EAL_MB) + (table_bytes(most) as u64).div_ceil(2 << 20) * 2;
    let is_enough = free_mb >= needed_mb;
    match wanted.hugepages {
        Hugepages::Never => Ok(false),
        Hugepages::Auto => Ok(is_enough),
        Hugepages::Require if is_enough => Ok(true),
        Hugepages::Require => bail!(
            "{needed_mb} MiB of huge pages are needed and {free_mb} MiB are free; reserve more: echo {} > /proc/sys/vm/nr_hugepages \
             on top of those in use, or measure with --hugepages auto",
            needed_mb.div_ceil(2)
        ),
    }
}

fn memory(flows: u32, huge: bool) -> Result<HugeMemory> {
    let pages = if huge { Pages::Require } else { Pages::Never };
    HugeMemory::new(table_bytes(flows), pages).with_context(|| format!("the flow table of {flows} flows"))
}

/// How long each of so many parts of a round takes.
fn part(time: Duration, parts: u32) -> Duration {
    (time / (ROUNDS * parts)).max(PART_MIN)
}

fn over_rings(wanted: &Plan, eal: Eal, cores: Cores, huge: bool, say: &impl Fn(&str)) -> Result<SelfReport> {
    let mut stand = Stand { line: Line::new(eal)?, wire: Wire::of_rings(eal)?, eal, cores };
    let has_source = cores.source != cores.worker;
    let time = part(wanted.time, if has_source { 4 } else { 1 });
    let mut rows = Vec::new();
    for &flows in &wanted.flows {
        say(&format!("opening {flows} flows"));
        let mut memory = memory(flows, huge)?;
        let kind = memory.pages();
        let mut bench = Bench::new(&mut stand, plan(flows, 0), memory.bytes_mut())?;
        let (mut costs, mut times): (Vec<f64>, Vec<LatencyRun>) = (Vec::new(), Vec::new());
        let mut packets = 0;
        for round in 1..=ROUNDS {
            say(&format!("{flows} flows, round {round} of {ROUNDS}"));
            let run = bench.bed.run_established(&mut stand.line, Effort::Time(time))?.run(None);
            costs.push(run.cpu_ns_per_packet);
            packets += run.packets;
            if has_source {
                times.extend(bench.run(&mut stand, time, false)?);
            }
        }
        rows.push(RingRow::new(flows, packets, &costs, &times, kind)?);
    }
    Ok(SelfReport { rings: rows, ..SelfReport::default() })
}

fn over_nics(
    wanted: &Plan,
    nics: &Nics,
    eal: Eal,
    cores: Cores,
    huge: bool,
    say: &impl Fn(&str),
) -> Result<SelfReport> {
    let mut stand =
        Stand { line: Line::new(eal)?, wire: Wire::of_nics(eal, &nics.port, &nics.sink)?, eal, cores };
    say("waiting for both links");
    wait_for_links(&stand.wire.ports)?;
    let time = part(wanted.time, if nics.rate.is_some() { 1 } else { 2 });
    let mut rows = Vec::new();
    let mut is_joined = false;
    for &flows in &wanted.flows {
        say(&format!("opening {flows} flows"));
        let mut memory = memory(flows, huge)?;
        let kind = memory.pages();
        let mut bench = Bench::new(&mut stand, plan(flows, 0), memory.bytes_mut())?;
        if !is_joined {
            probe(&mut bench, &mut stand, nics)?;
            is_joined = true;
        }
        let mut runs = Vec::new();
        for round in 1..=ROUNDS {
            say(&format!("{flows} flows, round {round} of {ROUNDS}"));
            let capacity = match nics.rate {
                Some(_) => None,
                None => {
                    Some(send(&mut bench, &mut stand, Pace::Flood { away_max: u64::MAX }, time)?.0.rate())
                }
            };
            let rate = nics.rate.or(capacity.map(|capacity| capacity * LOAD)).filter(|rate| *rate >= 1.0);
            let rate =
                rate.context("next to nothing comes back under full load; say how much to send with --rate")?;
            let (trip, others) = send(&mut bench, &mut stand, Pace::PerSecond(rate), time)?;
            runs.push(NicRun::of(&trip, capacity, others));
        }
        rows.push(NicRow::new(flows, nics.rate, &runs, kind)?);
    }
    let ports = stand.wire.ports.iter().zip(["worker", "source and sink"]);
    let ports = ports.map(|(port, role)| PortFigures::of(port, role)).collect();
    Ok(SelfReport { nics: rows, ports, ..SelfReport::default() })
}

/// One run through NICs.
#[derive(Clone, Debug, PartialEq)]
pub struct NicRun {
    /// Frames a second that came back when as many as possible were sent, if that was looked for.
    pub capacity: Option<f64>,
    /// Frames a second that were sent.
    pub sent_rate: f64,
    /// Frames a second that came back.
    pub rate: f64,
    /// Frames that were sent.
    pub sent: u64,
    /// Frames that did not come back.
    pub lost: u64,
    /// How long the others were away; none if there were none.
    pub times: Option<Tail>,
    /// Packets that the worker did not forward, by their fate; some are of others on the cable.
    pub others: Vec<(&'static str, u64)>,
}

impl NicRun {
    fn of(trip: &Trip, capacity: Option<f64>, others: Vec<(&'static str, u64)>) -> Self {
        Self {
            capacity,
            sent_rate: trip.sent as f64 / trip.seconds,
            rate: trip.rate(),
            sent: trip.sent,
            lost: trip.lost(),
            times: Tail::of(&trip.times),
            others,
        }
    }
}

/// Sends through the worker, and gives what it did with packets that it did not forward.
fn send(
    bench: &mut Bench<'_>,
    stand: &mut Stand,
    pace: Pace,
    time: Duration,
) -> Result<(Trip, Vec<(&'static str, u64)>)> {
    let Stand { wire: Wire { worker, source, .. }, eal, cores, .. } = stand;
    let (core, served_on) = (cores.source, cores.worker);
    let sending = Sending { eal: *eal, core, served_on, pace, time, patience: NIC_PATIENCE };
    let before = bench.bed.worker.counters().clone();
    let mut deck = bench.bed.take_deck()?;
    let outcome = while_sending(source, &mut deck, sending, |stop| forward(&mut bench.bed, worker, stop));
    bench.bed.give_deck(deck);
    let (trip, _) = outcome?;
    ensure!(trip.sent > 0, "no frame was sent: the port takes none, or its link is down");
    let after = bench.bed.worker.counters();
    let others = Verdict::ALL.iter().filter(|&&verdict| verdict != Verdict::Forwarded);
    let others = others.map(|&verdict| (verdict.name(), after.verdict(verdict) - before.verdict(verdict)));
    Ok((trip, others.filter(|(_, count)| *count > 0).collect()))
}

/// Both ends must see each other before anything is measured.
fn probe(bench: &mut Bench<'_>, stand: &mut Stand, nics: &Nics) -> Result<()> {
    let forwarded = |bench: &Bench<'_>| bench.bed.worker.counters().verdict(Verdict::Forwarded);
    let before = forwarded(bench);
    let (trip, others) = send(bench, stand, Pace::PerSecond(PROBE.0), PROBE.1)?;
    let arrived = forwarded(bench) - before;
    let Nics { port, sink, .. } = nics;
    let (sent, received) = (trip.sent, trip.received);
    ensure!(
        arrived > 0,
        "none of {sent} frames from {sink} arrived at {port}: join the two with a cable (virtual ones: the two ends of one veth pair), \
         and set kernel interfaces up (ip link set IF up); \
         what else the worker saw: {others:?}"
    );
    ensure!(
        received > 0,
        "{arrived} of {sent} frames from {sink} were forwarded by {port}, and none came back to {sink}; is the cable between these two?"
    );
    Ok(())
}

fn wait_for_links(ports: &[Port; 2]) -> Result<()> {
    let until = Instant::now() + LINK_PATIENCE;
    while let Some(down) = ports.iter().find(|port| !port.link().up) {
        ensure!(
            Instant::now() < until,
            "the link of {} is down; join both ports with a cable, and set kernel interfaces up (ip link set IF up)",
            down.device()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(hugepages: Hugepages) -> Plan {
        Plan { flows: vec![1, 1_000_000, 1_000], time: Duration::from_secs(1), hugepages, nics: None }
    }

    #[test]
    fn pages_are_as_wished_and_counted_for_the_largest_table() {
        let rows = [
            (Hugepages::Never, u64::MAX, Some(false)),
            (Hugepages::Auto, 220, Some(true)),
            (Hugepages::Auto, 219, Some(false)),
            (Hugepages::Require, 220, Some(true)),
            (Hugepages::Require, 219, None),
        ];
        for (setting, free_mb, want) in rows {
            assert_eq!(pages(&wanted(setting), free_mb).ok(), want, "{setting:?} with {free_mb}");
        }
        let mend = pages(&wanted(Hugepages::Require), 7).unwrap_err().to_string();
        assert!(mend.contains("/proc/sys/vm/nr_hugepages") && mend.contains("--hugepages auto"), "{mend}");
    }

    #[test]
    fn what_the_nics_lack_is_named_with_the_mend() {
        let nics = |port: &str, sink: &str| Nics {
            port: port.parse().unwrap(),
            sink: sink.parse().unwrap(),
            rate: None,
        };
        let why = |port, sink| format!("{:#}", check(&nics(port, sink)).unwrap_err());
        let same = why("net_af_packet0,iface=lo", "net_af_packet0,iface=lo");
        assert!(same.contains("same device net_af_packet0"), "{same}");
        let missing = why("net_null0", "net_af_packet1,iface=nosuchif0");
        assert!(missing.contains("--sink") && missing.contains("ip link"), "{missing}");
        let pci = why("ffff:ff:1f.7", "net_null0");
        assert!(pci.contains("--port") && pci.contains("dpdk-devbind.py"), "{pci}");
    }

    #[test]
    fn a_part_of_a_run_is_never_too_short() {
        assert_eq!(part(Duration::from_secs(10), 4), Duration::from_millis(500));
        assert_eq!(part(Duration::from_millis(1), 4), PART_MIN);
    }
}
