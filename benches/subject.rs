//! The subject: the worker loop that production runs, on a port made of software rings in this process.
//!
//! One thread, pinned and known to DPDK, is generator, worker and sink in turn. It writes the headers of a chunk of frames and puts them on
//! the receive ring; then, timed, the worker turns until the ring is drained; then it takes the frames off the transmit ring, counts them,
//! and uses them again.

use crate::asking::ask;
use crate::bed::{Bed, BedPlan, Clock, Effort, Post, Prepared, SubjectRun, resident_bytes};
use crate::changes::change;
use crate::churn::{Connections, first_packets, run_connections, run_new};
use crate::frames::Deck;
use crate::line::Line;
use crate::scenario::{Load, Scenario};
use anyhow::{Context, Result, anyhow};
use capsule::{Eal, EalConfig, Memory};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use turnpike_shm::{HugeMemory, Pages};

const EAL_MB: u32 = 64;

/// Starts DPDK, with what the benchmarks want of it.
pub fn start_eal(huge: bool) -> Result<Eal> {
    let memory = if huge { Memory::Huge { mb: EAL_MB } } else { Memory::Ordinary { mb: EAL_MB } };
    Ok(Eal::start(&EalConfig { memory, pci: Vec::new(), nodes: Vec::new() })?)
}

/// Where and on what the subject runs.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Core of the worker.
    pub core: u16,
    /// Core of the thread that changes endpoints.
    pub other_core: u16,
    /// Whether packet memory and flow tables are on huge pages.
    pub huge: bool,
    /// What runs are timed by.
    pub clock: Clock,
}

/// The thread of the subject, ready to run any of its scenarios.
#[derive(Debug)]
pub struct Subject {
    requests: Sender<(usize, Effort)>,
    outcomes: Receiver<Result<SubjectRun>>,
    prepared: Vec<Prepared>,
}

impl Subject {
    /// Makes port, tables and flows of all scenarios.
    pub fn start(eal: Eal, place: Place, scenarios: Vec<Scenario>) -> Result<Self> {
        let (requests, todo) = channel();
        let (tell, outcomes) = channel();
        let (ready, is_ready) = channel();
        std::thread::Builder::new().name("subject".into()).spawn(move || {
            if let Err(error) = work(eal, place, &scenarios, &todo, &tell, &ready) {
                let _ = ready.send(Err(error));
            }
        })?;
        let prepared = is_ready.recv().unwrap_or_else(|_| Err(anyhow!("the subject's thread ended")))?;
        Ok(Self { requests, outcomes, prepared })
    }

    /// Memory of the scenarios, in their order.
    #[must_use]
    pub fn prepared(&self) -> &[Prepared] {
        &self.prepared
    }

    /// Runs a scenario.
    pub fn run(&self, scenario: usize, effort: Effort) -> Result<SubjectRun> {
        self.requests.send((scenario, effort)).ok().context("the subject's thread has ended")?;
        self.outcomes.recv().context("the subject's thread has ended")?
    }
}

/// The plans of some scenarios, each once, and which of them each scenario has.
fn plans(scenarios: &[Scenario]) -> (Vec<BedPlan>, Vec<usize>) {
    let mut plans: Vec<BedPlan> = Vec::new();
    let mut of = Vec::new();
    for scenario in scenarios {
        let known = plans.iter().position(|plan| *plan == scenario.bed);
        of.push(known.unwrap_or_else(|| {
            plans.push(scenario.bed);
            plans.len() - 1
        }));
    }
    (plans, of)
}

/// The life of the subject's thread.
fn work(
    eal: Eal,
    place: Place,
    scenarios: &[Scenario],
    todo: &Receiver<(usize, Effort)>,
    tell: &Sender<Result<SubjectRun>>,
    ready: &Sender<Result<Vec<Prepared>>>,
) -> Result<()> {
    capsule::pin_to_core(place.core)?;
    let _registered = capsule::register_thread(eal)?;
    let pages = if place.huge { Pages::Require } else { Pages::Never };
    let mut line = Line::new(eal)?;

    let (plans, bed_of) = plans(scenarios);
    let mut memories: Vec<Option<HugeMemory>> = plans.iter().map(|_| None).collect();
    let mut beds = Vec::new();
    let mut prepared = Vec::new();
    for (plan, memory) in plans.iter().zip(&mut memories) {
        let before = resident_bytes()?;
        let memory = memory.insert(HugeMemory::new(plan.memory_bytes(), pages)?);
        let kind = memory.pages();
        let post = Post::of(&plan.world, plan.flows, 1)?.pop().context("no worker")?;
        let bed = Bed::new(*plan, post, memory.bytes_mut(), &mut line, place.clock);
        let bed = bed.with_context(|| format!("making {} flows, {plan:?}", plan.flows))?;
        let grown = resident_bytes()?.saturating_sub(before);
        prepared.push(Prepared {
            table_bytes: plan.table_bytes(),
            resident_bytes: grown.saturating_sub(bed.traffic_bytes()),
            pages: kind,
        });
        beds.push(bed);
    }
    let mut sources = scenarios.iter().map(Source::new).collect::<Result<Vec<_>>>()?;
    let _ = ready.send(Ok(bed_of.iter().map(|&bed| prepared[bed]).collect()));
    while let Ok((at, effort)) = todo.recv() {
        let outcome = match (scenarios.get(at), sources.get_mut(at)) {
            (Some(scenario), Some(source)) => {
                source.run(&mut beds[bed_of[at]], &mut line, place, effort).with_context(|| scenario.name)
            }
            _ => Err(anyhow!("there is no scenario {at}")),
        };
        if tell.send(outcome).is_err() {
            break;
        }
    }
    Ok(())
}

/// What a scenario sends.
#[derive(Debug)]
enum Source {
    /// Packets of the flows that stay.
    Established,
    /// The same while endpoints change.
    Changing,
    /// The same while somebody asks.
    Asked,
    New(Deck<12>),
    Connections(Connections),
}

impl Source {
    fn new(scenario: &Scenario) -> Result<Self> {
        let BedPlan { world, flows, .. } = scenario.bed;
        Ok(match scenario.load {
            Load::Established => Self::Established,
            Load::Changing => Self::Changing,
            Load::Asked => Self::Asked,
            Load::New(first) => Self::New(first_packets(&world, flows, first)?),
            Load::Connections => Self::Connections(Connections::new(&world, flows)?),
        })
    }

    /// One run.
    fn run(
        &mut self,
        bed: &mut Bed<'_>,
        line: &mut Line,
        place: Place,
        effort: Effort,
    ) -> Result<SubjectRun> {
        let mut rate = None;
        let elapsed = match self {
            Self::Established => bed.run_established(line, effort)?,
            Self::New(deck) => run_new(bed, line, effort, deck)?,
            Self::Asked => {
                let (shared, stop) = (bed.shared.clone(), AtomicBool::new(false));
                std::thread::scope(|scope| {
                    let asker = scope.spawn(|| ask(&shared, place.other_core, &stop));
                    let elapsed = bed.run_established(line, effort);
                    stop.store(true, Ordering::Relaxed);
                    asker.join().map_err(|_| anyhow!("the questions ended in a panic"))??;
                    elapsed
                })?
            }
            Self::Connections(connections) => run_connections(bed, line, effort, connections)?,
            Self::Changing => {
                let (world, shared, stop) = (bed.plan.world, bed.shared.clone(), AtomicBool::new(false));
                let mut staging = std::mem::take(&mut bed.staging);
                let (elapsed, changed) = std::thread::scope(|scope| {
                    let changer =
                        scope.spawn(|| change(&world, &mut staging, &shared, place.other_core, &stop));
                    let elapsed = bed.run_established(line, effort);
                    stop.store(true, Ordering::Relaxed);
                    (elapsed, changer.join())
                });
                bed.staging = staging;
                rate = Some(changed.map_err(|_| anyhow!("the changes ended in a panic"))??);
                elapsed?
            }
        };
        Ok(elapsed.run(rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::churn::First;
    use crate::clients::Clients;
    use crate::frames::Ends4;
    use crate::latency::{Cores, Latency};
    use crate::line::CHUNK;
    use crate::pair::Pair;
    use crate::world::World;
    use std::time::Duration;
    use turnpike_forward::address::Family;
    use turnpike_forward::flow_key::{FlowKey, FlowKey6};
    use turnpike_forward::flow_table::FlowTable;
    use turnpike_packet::io::BURST;
    use turnpike_shm::PageKind;

    const IPV4: World = World { family: Family::V4, services: 1, udp: false };
    const FLOWS: BedPlan =
        BedPlan { world: IPV4, clients: Clients::Consecutive, flows: 100, room: 0, udp_percent: 0 };

    fn scenario(bed: BedPlan, load: Load) -> Scenario {
        Scenario { name: "one of a test", bed, load, limit: None }
    }

    fn start(scenarios: &[Scenario]) -> Subject {
        let cores = capsule::available_cores();
        let (core, other_core) = (*cores.last().unwrap(), cores[0]);
        let place = Place { core, other_core, huge: false, clock: Clock::WallAndCpu };
        Subject::start(start_eal(false).unwrap(), place, scenarios.to_vec()).unwrap()
    }

    // One test: a process has one environment of DPDK.
    #[test]
    fn flows_are_live_and_every_packet_of_a_run_is_forwarded_and_counted() {
        let one = BedPlan { flows: 1, ..FLOWS };
        let mixed = BedPlan { world: World { udp: true, ..IPV4 }, udp_percent: 25, ..FLOWS };
        let ipv6 = BedPlan { world: World { family: Family::V6, ..IPV4 }, ..FLOWS };
        let many = BedPlan { world: World { services: 20, ..IPV4 }, ..FLOWS };
        let chosen = BedPlan { clients: Clients::Chosen, ..FLOWS };
        let room = BedPlan { world: World { udp: true, ..IPV4 }, room: crate::churn::NEW_FLOWS, ..FLOWS };
        let scenarios = [
            scenario(one, Load::Established),
            scenario(FLOWS, Load::Established),
            scenario(mixed, Load::Established),
            scenario(ipv6, Load::Established),
            scenario(many, Load::Established),
            scenario(many, Load::Changing),
            scenario(many, Load::Asked),
            scenario(chosen, Load::Established),
            scenario(room, Load::New(First::Syn)),
            scenario(room, Load::Connections),
            scenario(room, Load::New(First::Datagram)),
            scenario(room, Load::Connections),
        ];
        let subject = start(&scenarios);
        assert_eq!(subject.prepared().len(), scenarios.len());
        assert_eq!(subject.prepared()[1].pages, PageKind::Ordinary);
        assert_eq!(subject.prepared()[1].table_bytes, FlowTable::<FlowKey>::memory_bytes(100));
        assert_eq!(subject.prepared()[3].table_bytes, FlowTable::<FlowKey6>::memory_bytes(100));
        let of_room = subject.prepared()[7];
        assert!(of_room.resident_bytes >= of_room.table_bytes, "{of_room:?}");
        for at in (0..scenarios.len()).chain([0]) {
            let run = subject.run(at, Effort::Time(Duration::from_millis(5))).unwrap();
            assert_eq!((run.packets % CHUNK as u64, run.dropped), (0, 0));
            assert_eq!(run.turns, run.packets / BURST as u64, "every turn has a full burst");
            assert!(run.cpu_ns_per_packet > 0.0 && run.cpu_ns_per_packet <= run.wall_ns_per_packet);
            let timed_ms = run.wall_ns_per_packet * run.packets as f64 / 1e6;
            assert!(timed_ms >= 5.0, "{timed_ms} ms were timed");
            assert_eq!(run.changes_per_second.is_some(), scenarios[at].load == Load::Changing);
        }
        let run = subject.run(1, Effort::Packets(1_000)).unwrap();
        assert_eq!(run.packets, 1_024, "whole chunks");
        assert!(subject.run(scenarios.len(), Effort::Packets(1)).is_err());

        // Two workers share what a gateway has, and neither gets a packet of the other's.
        let cores = capsule::available_cores();
        let eal = start_eal(false).unwrap();
        let pair = Pair::start(eal, [cores[0], *cores.last().unwrap()], false, 500).unwrap();
        for _ in 0..3 {
            let run = pair.run(Effort::Time(Duration::from_millis(5))).unwrap();
            assert!(run.alone.iter().chain(&run.together).all(|&ns| ns > 0.0), "{run:?}");
        }

        // Frames are timed through the worker and beside it, and flows end meanwhile.
        let Some(cores) = Cores::of(&cores).filter(|cores| cores.source != cores.worker) else { return };
        let latency = Latency::start(eal, cores, false, 500).unwrap();
        for is_changing in [false, true, false, true] {
            let runs = latency.run(Duration::from_millis(100), is_changing).unwrap();
            for run in &runs {
                assert!(run.capacity > 0.0 && run.offered > 0.0 && run.offered < run.capacity, "{run:?}");
                assert!(run.ring.p50 > 0.0 && run.worker.p50 > 0.0, "{run:?}");
                assert!([run.ring, run.worker].iter().all(|t| t.p50 <= t.p99 && t.p99 <= t.p999), "{run:?}");
                assert_eq!(run.changes_per_second.is_some(), is_changing);
            }
            assert_eq!(runs.iter().any(|run| run.aged > 0), is_changing);
        }
    }

    #[test]
    fn equal_beds_are_made_once() {
        let one = scenario(FLOWS, Load::Established);
        let other = scenario(BedPlan { flows: 7, ..FLOWS }, Load::Established);
        let (plans, of) = plans(&[one, other, scenario(FLOWS, Load::Changing)]);
        assert_eq!((plans.len(), of), (2, vec![0, 1, 0]));
    }

    #[test]
    fn newcomers_are_none_of_those_that_stay() {
        let stays = Ends4::new(IPV4.client(99), IPV4.vip(0)).unwrap();
        let mut deck = first_packets(&IPV4, 100, First::Syn).unwrap();
        assert_eq!(deck.period(), crate::churn::NEW_FLOWS as usize);
        let mut frame = vec![0; deck.frame_len()];
        let mut seen = std::collections::HashSet::new();
        for _ in 0..deck.period() {
            deck.write_next(&mut frame);
            let ends = Ends4::of(&frame).unwrap();
            assert!(ends != stays && seen.insert(ends));
        }
    }
}
