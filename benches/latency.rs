//! What a worker adds to the time that a packet is under way, at 80 % of the load that it can bear.
//!
//! A source on a core of its own sends packets of a million live flows over a software ring and times each until it is back. First as fast as
//! the worker takes them: that is its capacity. Then at 80 % of that, once to the worker, and once to a loop that only moves frames from one ring to
//! the other, which is the ring's own time. All three belong to one run; ratios and differences are of one run.

use crate::bed::{Bed, BedPlan, Clock, Effort, Post};
use crate::changes::change;
use crate::churn::{First, NEW_FLOWS, age_out, end_aged, first_packets, run_new};
use crate::clients::Clients;
use crate::frames::Deck;
use crate::line::Line;
use crate::source::{Pace, Times, Trip};
use crate::statistics::summary;
use crate::wire::{Sending, TRANSLATED, UNTOUCHED, Wire, forward, move_frames, while_sending};
use crate::world::World;
use anyhow::{Context, Result, anyhow, ensure};
use capsule::Eal;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use turnpike_forward::address::Family;
use turnpike_forward::verdict::Tally;
use turnpike_shm::{HugeMemory, Pages};

/// The name among the scenarios.
pub const NAME: &str = "latency/1M";
/// While tables are swapped and flows end by age.
pub const NAME_CHANGES: &str = "latency/1M/changes";
/// Live flows.
pub const FLOWS: u32 = 1_000_000;
/// Part of the capacity at which frames are timed.
pub const LOAD: f64 = 0.8;
/// The middle of the added times, in nanoseconds.
const ADDED_P50_NS_MAX: f64 = 2_000.0;
/// 99.9 % of the times, to those of the ring.
const P999_RATIO_MAX: f64 = 1.5;
/// Frames away at the same time when the capacity is looked for: more than two full bursts at each place where they can wait.
const AWAY_MAX: u64 = 512;
/// Runs one after the other. What else goes on in a machine comes and goes within fractions of a second: few of short runs meet it.
const RUNS_AT_ONCE: u32 = 5;
/// Undisturbed runs from which on there is a verdict.
const QUIET_MIN: usize = 3;
/// A frame on a ring that is away for so long is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// Cores of those who take part.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Of the worker.
    pub worker: u16,
    /// Of the source.
    pub source: u16,
    /// Of whoever changes endpoints.
    pub changer: u16,
}

impl Cores {
    /// Of these, ascending: the last is the worker's, so that the first, where the kernel has most of its own work, is nobody's who is measured.
    #[must_use]
    pub fn of(available: &[u16]) -> Option<Self> {
        let (&first, &worker) = (available.first()?, available.last()?);
        let source = available.iter().rev().nth(1).copied().unwrap_or(worker);
        Some(Self { worker, source, changer: first })
    }
}

/// Times of frames that were not exceeded by so many of them, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    /// By half.
    pub p50: f64,
    /// By 99 %.
    pub p99: f64,
    /// By 99.9 %.
    pub p999: f64,
}

impl Tail {
    /// Of these times; none of none.
    #[must_use]
    pub fn of(times: &Times) -> Option<Self> {
        let [p50, p99, p999] = [50.0, 99.0, 99.9].map(|percent| times.percentile_ns(percent));
        (times.count() > 0).then_some(Self { p50, p99, p999 })
    }
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencyRun {
    /// Packets a second of the worker when more come than it can take.
    pub capacity: f64,
    /// Packets of its turns then, on average.
    pub packets_per_turn: f64,
    /// Packets a second that were timed.
    pub offered: f64,
    /// Times of the ring.
    pub ring: Tail,
    /// Times through the worker.
    pub worker: Tail,
    /// Changes of endpoints a second that were published meanwhile.
    pub changes_per_second: Option<f64>,
    /// Flows that ended by their age meanwhile.
    pub aged: u64,
    /// Whether others ran on the worker's core while frames were timed.
    pub is_disturbed: bool,
}

/// Rings and cores, which serve one bed after the other.
#[derive(Debug)]
pub struct Stand {
    /// Where flows are opened and end.
    pub line: Line,
    /// Where frames are timed.
    pub wire: Wire,
    /// DPDK.
    pub eal: Eal,
    /// Who runs where.
    pub cores: Cores,
}

/// A bed whose latency is measured.
pub struct Bench<'m> {
    /// The worker and its flows.
    pub bed: Bed<'m>,
    newcomers: Option<Deck<12>>,
}

impl std::fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("plan", &self.bed.plan).finish_non_exhaustive()
    }
}

/// A bed of so many flows, with room for those that end by age if it has to.
#[must_use]
pub const fn plan(flows: u32, room: u32) -> BedPlan {
    let world = World { family: Family::V4, services: 1, udp: false };
    BedPlan { world, clients: Clients::Consecutive, flows, room, udp_percent: 0 }
}

impl<'m> Bench<'m> {
    /// Opens the flows of a plan. The calling thread is the worker's from now on.
    pub fn new(stand: &mut Stand, plan: BedPlan, memory: &'m mut [u8]) -> Result<Self> {
        let post = Post::of(&plan.world, plan.flows, 1)?.pop().context("no worker")?;
        let bed = Bed::new(plan, post, memory, &mut stand.line, Clock::WallAndCpu)?;
        let newcomers = match plan.room {
            0 => None,
            _ => Some(first_packets(&plan.world, plan.flows, First::Syn)?),
        };
        Ok(Self { bed, newcomers })
    }

    /// Some runs one after the other, of which each of the three parts takes so long altogether.
    pub fn run(&mut self, stand: &mut Stand, time: Duration, is_changing: bool) -> Result<Vec<LatencyRun>> {
        if !is_changing {
            return self.measure(stand, time);
        }
        let newcomers = self.newcomers.as_mut().context("there is no room for flows that end")?;
        run_new(&mut self.bed, &mut stand.line, Effort::Packets(u64::from(NEW_FLOWS)), newcomers)?;
        age_out(&mut self.bed, &mut stand.line)?;
        let (world, shared, stop) = (self.bed.plan.world, self.bed.shared.clone(), AtomicBool::new(false));
        let mut staging = std::mem::take(&mut self.bed.staging);
        let core = stand.cores.changer;
        let (runs, changed) = std::thread::scope(|scope| {
            let changer = scope.spawn(|| change(&world, &mut staging, &shared, core, &stop));
            let runs = self.measure(stand, time);
            stop.store(true, Ordering::Relaxed);
            (runs, changer.join())
        });
        self.bed.staging = staging;
        let rate = changed.map_err(|_| anyhow!("the changes ended in a panic"))??;
        let mut runs = runs?;
        ensure!(runs.iter().any(|run| run.aged > 0), "no flow ended by its age");
        end_aged(&mut self.bed, &mut stand.line)?;
        runs.iter_mut().for_each(|run| run.changes_per_second = Some(rate));
        Ok(runs)
    }

    fn measure(&mut self, stand: &mut Stand, time: Duration) -> Result<Vec<LatencyRun>> {
        let mut deck = self.bed.take_deck()?;
        let runs = (0..RUNS_AT_ONCE)
            .filter_map(|_| self.measure_with(stand, &mut deck, time / RUNS_AT_ONCE).transpose())
            .collect::<Result<Vec<_>>>();
        self.bed.give_deck(deck);
        let runs = runs?;
        ensure!(
            !runs.is_empty(),
            "worker and source were not running at the same time; are their cores busy?"
        );
        Ok(runs)
    }

    /// One run; none if the threads of both ends did not run at the same time.
    fn measure_with(
        &mut self,
        stand: &mut Stand,
        deck: &mut Deck<12>,
        time: Duration,
    ) -> Result<Option<LatencyRun>> {
        let (bed, Stand { wire, eal, cores, .. }) = (&mut self.bed, stand);
        let Wire { worker: queues, source, .. } = wire;
        let (eal, core, served_on, patience) = (*eal, cores.source, cores.worker, PATIENCE);
        let sending = |pace| Sending { eal, core, served_on, pace, time, patience };
        let before = bed.worker.counters().clone();

        source.expect_at(TRANSLATED);
        let flood = sending(Pace::Flood { away_max: AWAY_MAX });
        let (flooded, served) = while_sending(source, deck, flood, |stop| forward(bed, queues, stop))?;
        whole(&flooded)?;
        let capacity = flooded.rate();
        let paced = sending(Pace::PerSecond(capacity * LOAD));

        // At once: what the worker can bear changes with what else goes on in the machine.
        let (timed, _) = while_sending(source, deck, paced, |stop| forward(bed, queues, stop))?;
        whole(&timed)?;

        source.expect_at(UNTOUCHED);
        let (moved, ()) = while_sending(source, deck, paced, |stop| move_frames(queues, stop))?;
        whole(&moved)?;

        let after = bed.worker.counters();
        let aged = after.tally(Tally::FlowsClosed) - before.tally(Tally::FlowsClosed);
        bed.expect(&before, flooded.sent + timed.sent, 0, aged)?;
        let (Some(ring), Some(worker)) = (Tail::of(&moved.times), Tail::of(&timed.times)) else {
            return Ok(None);
        };
        Ok(Some(LatencyRun {
            capacity,
            packets_per_turn: served.packets as f64 / served.turns.max(1) as f64,
            offered: timed.rate(),
            ring,
            worker,
            changes_per_second: None,
            aged,
            is_disturbed: moved.is_disturbed || timed.is_disturbed,
        }))
    }
}

/// On a ring nothing is lost, and there is nobody else.
fn whole(trip: &Trip) -> Result<()> {
    let Trip { sent, received, foreign, .. } = trip;
    ensure!(sent == received && *foreign == 0, "{received} of {sent} frames came back, and {foreign} others");
    Ok(())
}

/// The thread of a worker whose latency is measured, ready to run.
#[derive(Debug)]
pub struct Latency {
    requests: Sender<(Duration, bool)>,
    outcomes: Receiver<Result<Vec<LatencyRun>>>,
}

impl Latency {
    /// Makes rings, table and flows.
    pub fn start(eal: Eal, cores: Cores, huge: bool, flows: u32) -> Result<Self> {
        let (requests, todo) = channel();
        let (tell, outcomes) = channel();
        let (ready, is_ready) = channel();
        std::thread::Builder::new().name("latency".into()).spawn(move || {
            if let Err(error) = work(eal, cores, huge, flows, &todo, &tell, &ready) {
                let _ = ready.send(Err(error));
            }
        })?;
        is_ready.recv().unwrap_or_else(|_| Err(anyhow!("the worker's thread ended")))?;
        Ok(Self { requests, outcomes })
    }

    /// Some runs one after the other, of which each of the three parts takes so long altogether.
    pub fn run(&self, time: Duration, is_changing: bool) -> Result<Vec<LatencyRun>> {
        self.requests.send((time, is_changing)).ok().context("the worker's thread has ended")?;
        self.outcomes.recv().context("the worker's thread has ended")?
    }
}

fn work(
    eal: Eal,
    cores: Cores,
    huge: bool,
    flows: u32,
    todo: &Receiver<(Duration, bool)>,
    tell: &Sender<Result<Vec<LatencyRun>>>,
    ready: &Sender<Result<()>>,
) -> Result<()> {
    capsule::pin_to_core(cores.worker)?;
    let _registered = capsule::register_thread(eal)?;
    let plan = plan(flows, NEW_FLOWS);
    let mut memory = HugeMemory::new(plan.memory_bytes(), if huge { Pages::Require } else { Pages::Never })?;
    let mut stand = Stand { line: Line::new(eal)?, wire: Wire::of_rings(eal)?, eal, cores };
    let mut bench = Bench::new(&mut stand, plan, memory.bytes_mut()).context(NAME)?;
    let _ = ready.send(Ok(()));
    while let Ok((time, is_changing)) = todo.recv() {
        let name = if is_changing { NAME_CHANGES } else { NAME };
        if tell.send(bench.run(&mut stand, time, is_changing).context(name)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Figures of all runs, as they are written for programs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatencyFigures {
    /// The name among the scenarios.
    pub name: &'static str,
    /// Part of the capacity at which frames were timed.
    pub load_percent: f64,
    /// Packets a second that the worker can bear, in millions: the middle of all runs.
    pub capacity_mpps_median: f64,
    /// Packets of its turns then: the middle of all runs. Far from 64 the source or the way between both cores is what bounds them.
    pub packets_per_turn_median: f64,
    /// Packets a second that were timed, in millions: the middle of all runs.
    pub offered_mpps_median: f64,
    /// What the worker adds to the middle of the ring's own times: the least of all runs.
    pub added_p50_ns_min: f64,
    /// The middle of all runs.
    pub added_p50_ns_median: f64,
    /// What that may be at most.
    pub added_p50_ns_at_most: f64,
    /// 99.9 % of the times through the worker to those of the ring: the least ratio of all runs.
    pub p999_ratio_min: f64,
    /// The middle of all runs.
    pub p999_ratio_median: f64,
    /// What that may be at most.
    pub p999_ratio_at_most: f64,
    /// Whether both medians are no more than they may be; none if the machine was quiet in too few runs to tell.
    pub holds: Option<bool>,
    /// Half of the frames were away no longer, on the ring alone: the middle of all runs.
    pub ring_p50_ns_median: f64,
    /// 99.9 % of them.
    pub ring_p999_ns_median: f64,
    /// Half of the frames were away no longer, through the worker.
    pub worker_p50_ns_median: f64,
    /// 99 % of them.
    pub worker_p99_ns_median: f64,
    /// 99.9 % of them.
    pub worker_p999_ns_median: f64,
    /// Changes of endpoints a second: the least of all runs.
    pub changes_per_second: Option<f64>,
    /// Flows that ended by their age while frames were timed, in all runs.
    pub flows_aged: u64,
    /// Live flows.
    pub flows: u32,
    /// What the worker added to the middle in each run, in the order of the runs.
    pub added_p50_ns_runs: Vec<f64>,
    /// 99.9 % of the times on the ring alone in each run.
    pub ring_p999_ns_runs: Vec<f64>,
    /// The same through the worker.
    pub worker_p999_ns_runs: Vec<f64>,
    /// How many runs the figures are of.
    pub runs: usize,
    /// How many runs had others on the worker's core.
    pub runs_disturbed: usize,
}

impl LatencyFigures {
    /// Figures of at least one run: of those in which nobody else ran on the worker's core, unless there is none.
    pub fn new(name: &'static str, all: &[LatencyRun], flows: u32) -> Result<Self> {
        let undisturbed: Vec<LatencyRun> = all.iter().filter(|run| !run.is_disturbed).copied().collect();
        let runs = if undisturbed.is_empty() { all } else { &undisturbed };
        let each = |figure: fn(&LatencyRun) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
        let of = |figure: fn(&LatencyRun) -> f64| {
            summary(&each(figure)).with_context(|| format!("{name} was not measured"))
        };
        let added = of(|run| run.worker.p50 - run.ring.p50)?;
        let ratio = of(|run| run.worker.p999 / run.ring.p999)?;
        Ok(Self {
            name,
            load_percent: LOAD * 100.0,
            capacity_mpps_median: of(|run| run.capacity / 1e6)?.median,
            packets_per_turn_median: of(|run| run.packets_per_turn)?.median,
            offered_mpps_median: of(|run| run.offered / 1e6)?.median,
            added_p50_ns_min: added.min,
            added_p50_ns_median: added.median,
            added_p50_ns_at_most: ADDED_P50_NS_MAX,
            p999_ratio_min: ratio.min,
            p999_ratio_median: ratio.median,
            p999_ratio_at_most: P999_RATIO_MAX,
            holds: (undisturbed.len() >= QUIET_MIN)
                .then_some(added.median <= ADDED_P50_NS_MAX && ratio.median <= P999_RATIO_MAX),
            ring_p50_ns_median: of(|run| run.ring.p50)?.median,
            ring_p999_ns_median: of(|run| run.ring.p999)?.median,
            worker_p50_ns_median: of(|run| run.worker.p50)?.median,
            worker_p99_ns_median: of(|run| run.worker.p99)?.median,
            worker_p999_ns_median: of(|run| run.worker.p999)?.median,
            changes_per_second: all.iter().filter_map(|run| run.changes_per_second).min_by(f64::total_cmp),
            flows_aged: runs.iter().map(|run| run.aged).sum(),
            flows,
            added_p50_ns_runs: each(|run| run.worker.p50 - run.ring.p50),
            ring_p999_ns_runs: each(|run| run.ring.p999),
            worker_p999_ns_runs: each(|run| run.worker.p999),
            runs: runs.len(),
            runs_disturbed: all.len() - undisturbed.len(),
        })
    }

    /// One line for people.
    #[must_use]
    pub fn text(&self) -> String {
        let meanwhile = self.changes_per_second.map_or_else(String::new, |rate| {
            format!(
                "; {rate:.0} swaps of tables a second, and {} flows ended by age meanwhile",
                self.flows_aged
            )
        });
        let disturbed = match (self.runs_disturbed, self.runs) {
            (0, _) => String::new(),
            (disturbed, runs) if disturbed == runs => ", all of them disturbed by other threads,".to_owned(),
            (disturbed, _) => format!(" ({disturbed} more were disturbed by other threads)"),
        };
        format!(
            "{}: half of the packets {:.2} us later than over the ring alone (least {:.2}, at most {:.2}), 99.9 % within {:.2} × its time (least {:.2}, at \
             most {:.2}): {}; medians of {} runs{disturbed} at {:.1} of {:.1} million packets a second, {:.0} a turn; ring {:.2} and {:.2} us, worker {:.2}, 99 % {:.2}, and \
             {:.2} us{meanwhile}.\n",
            self.name,
            self.added_p50_ns_median / 1e3,
            self.added_p50_ns_min / 1e3,
            self.added_p50_ns_at_most / 1e3,
            self.p999_ratio_median,
            self.p999_ratio_min,
            self.p999_ratio_at_most,
            match self.holds {
                Some(true) => "holds",
                Some(false) => "does NOT hold",
                None => "not judged, the machine was quiet in too few runs",
            },
            self.runs,
            self.offered_mpps_median,
            self.capacity_mpps_median,
            self.packets_per_turn_median,
            self.ring_p50_ns_median / 1e3,
            self.ring_p999_ns_median / 1e3,
            self.worker_p50_ns_median / 1e3,
            self.worker_p99_ns_median / 1e3,
            self.worker_p999_ns_median / 1e3,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ring: [f64; 2], worker: [f64; 2]) -> LatencyRun {
        let tail = |[p50, p999]: [f64; 2]| Tail { p50, p99: p999, p999 };
        LatencyRun {
            capacity: 10e6,
            packets_per_turn: 64.0,
            offered: 8e6,
            ring: tail(ring),
            worker: tail(worker),
            changes_per_second: None,
            aged: 3,
            is_disturbed: false,
        }
    }

    #[test]
    fn what_the_worker_adds_is_held_against_the_ring_of_the_same_run() {
        let good = run([500.0, 2_000.0], [2_500.0, 3_000.0]);
        let slow = run([500.0, 2_000.0], [2_501.0, 3_000.0]);
        let late = run([500.0, 2_000.0], [2_500.0, 3_010.0]);
        let figures = |runs: &[LatencyRun]| LatencyFigures::new(NAME, runs, FLOWS).unwrap();
        let all = figures(&[good, good, slow]);
        assert_eq!(
            (all.added_p50_ns_min, all.added_p50_ns_median, all.p999_ratio_median),
            (2_000.0, 2_000.0, 1.5)
        );
        assert_eq!((all.holds, all.runs, all.flows_aged), (Some(true), 3, 9));
        assert_eq!((all.capacity_mpps_median, all.offered_mpps_median, all.load_percent), (10.0, 8.0, 80.0));
        assert_eq!(figures(&[slow, slow, good]).holds, Some(false));
        assert_eq!(figures(&[late; 3]).holds, Some(false));
        let disturbed = LatencyRun { is_disturbed: true, ..late };
        let all = figures(&[disturbed, good, good, good, disturbed]);
        assert_eq!((all.holds, all.runs, all.runs_disturbed), (Some(true), 3, 2));
        assert!(all.text().contains("2 more were disturbed"), "{}", all.text());
        let few = figures(&[good, disturbed, good]);
        assert_eq!((few.holds, few.runs, few.runs_disturbed), (None, 2, 1));
        let none = figures(&[disturbed]);
        assert_eq!((none.holds, none.runs, none.runs_disturbed), (None, 1, 1));
        assert!(none.text().contains("all of them disturbed"), "{}", none.text());
        assert!(LatencyFigures::new(NAME, &[], FLOWS).is_err());
    }
}
