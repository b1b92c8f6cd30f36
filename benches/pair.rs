//! Two workers of one gateway, each on a core of its own, alone and at the same time: what they cost each other.
//!
//! Each has a port of rings and half of the flows, those that a NIC with RSS would bring it. Its packets a second of CPU time are counted while
//! the other one waits, and while both run.

use crate::bed::{Bed, BedPlan, Clock, Effort, Post};
use crate::clients::Clients;
use crate::line::Line;
use crate::statistics::summary;
use crate::world::World;
use anyhow::{Context, Result, anyhow};
use capsule::Eal;
use serde::Serialize;
use std::sync::mpsc::{Receiver, Sender, channel};
use turnpike_forward::address::Family;
use turnpike_shm::{HugeMemory, Pages};

/// Its name among the scenarios.
pub const NAME: &str = "two-workers/1M";
/// Live flows of each.
pub const FLOWS: u32 = 500_000;
/// Least packets a second of CPU time, of both at the same time to one alone.
const AT_LEAST: f64 = 1.95;

/// Two workers, ready to run.
#[derive(Debug)]
pub struct Pair {
    workers: Vec<(Sender<Effort>, Receiver<Result<f64>>)>,
}

/// Nanoseconds of CPU time a packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairRun {
    /// Of each while the other waited.
    pub alone: [f64; 2],
    /// Of each while both ran.
    pub together: [f64; 2],
}

impl PairRun {
    /// How many times the packets of one alone both forward in as much CPU time of each.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let rate = |ns: [f64; 2]| 1.0 / ns[0] + 1.0 / ns[1];
        let (together, alone) = (rate(self.together), rate(self.alone));
        together / (alone / 2.0)
    }
}

impl Pair {
    /// Makes ports, tables and flows, so many for each, on these cores.
    pub fn start(eal: Eal, cores: [u16; 2], huge: bool, flows: u32) -> Result<Self> {
        let world = World { family: Family::V4, services: 1, udp: false };
        let plan = BedPlan { world, clients: Clients::Consecutive, flows, room: 0, udp_percent: 0 };
        let mut workers = Vec::new();
        for (post, core) in Post::of(&world, flows, cores.len())?.into_iter().zip(cores) {
            let (requests, todo) = channel();
            let (tell, outcomes) = channel();
            let (ready, is_ready) = channel();
            std::thread::Builder::new().name("one of two".into()).spawn(move || {
                if let Err(error) = work(eal, core, huge, plan, post, &todo, &tell, &ready) {
                    let _ = ready.send(Err(error));
                }
            })?;
            is_ready.recv().unwrap_or_else(|_| Err(anyhow!("a worker's thread ended")))?;
            workers.push((requests, outcomes));
        }
        Ok(Self { workers })
    }

    /// One run of each alone, and one of both.
    pub fn run(&self, effort: Effort) -> Result<PairRun> {
        let mut run = PairRun { alone: [0.0; 2], together: [0.0; 2] };
        for (worker, ns) in self.workers.iter().zip(&mut run.alone) {
            ask(worker, effort)?;
            *ns = answer(worker)?;
        }
        for worker in &self.workers {
            ask(worker, effort)?;
        }
        for (worker, ns) in self.workers.iter().zip(&mut run.together) {
            *ns = answer(worker)?;
        }
        Ok(run)
    }
}

type Ends = (Sender<Effort>, Receiver<Result<f64>>);

fn ask((requests, _): &Ends, effort: Effort) -> Result<()> {
    requests.send(effort).ok().context("a worker's thread has ended")
}

fn answer((_, outcomes): &Ends) -> Result<f64> {
    outcomes.recv().context("a worker's thread has ended")?
}

/// The life of one worker's thread.
#[expect(clippy::too_many_arguments, reason = "they are what a thread is born with")]
fn work(
    eal: Eal,
    core: u16,
    huge: bool,
    plan: BedPlan,
    post: Post,
    todo: &Receiver<Effort>,
    tell: &Sender<Result<f64>>,
    ready: &Sender<Result<()>>,
) -> Result<()> {
    capsule::pin_to_core(core)?;
    let _registered = capsule::register_thread(eal)?;
    let pages = if huge { Pages::Require } else { Pages::Never };
    let mut memory = HugeMemory::new(plan.memory_bytes(), pages)?;
    let mut line = Line::new(eal)?;
    let mut bed = Bed::new(plan, post, memory.bytes_mut(), &mut line, Clock::WallAndCpu)
        .with_context(|| format!("making the flows of one of two workers, {plan:?}"))?;
    let _ = ready.send(Ok(()));
    while let Ok(effort) = todo.recv() {
        let elapsed = bed.run_established(&mut line, effort);
        let cost = elapsed.map(|elapsed| elapsed.run(None).cpu_ns_per_packet).context(NAME);
        if tell.send(cost).is_err() {
            break;
        }
    }
    Ok(())
}

/// What two workers do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairFigures {
    /// Its name among the scenarios.
    pub name: &'static str,
    /// Packets a second of CPU time, of both at the same time to one alone: the most of all runs.
    pub ratio_max: f64,
    /// The middle of all runs.
    pub ratio_median: f64,
    /// What that is to be at least.
    pub at_least: f64,
    /// Whether it is.
    pub holds: bool,
    /// CPU time of a packet while the other one waits: the middle of all runs.
    pub alone_ns_per_packet_median: f64,
    /// The same while both run.
    pub together_ns_per_packet_median: f64,
    /// Live flows of each.
    pub flows: u32,
    /// How many runs.
    pub runs: usize,
}

impl PairFigures {
    /// Figures of at least one run.
    pub fn new(runs: &[PairRun], flows: u32) -> Result<Self> {
        let of = |figure: fn(&PairRun) -> f64| {
            summary(&runs.iter().map(figure).collect::<Vec<_>>()).context("two workers were not measured")
        };
        let ratio = of(PairRun::ratio)?;
        let most = of(|run| -run.ratio())?;
        let mean = |ns: [f64; 2]| ns[0].midpoint(ns[1]);
        let alone = runs.iter().map(|run| mean(run.alone)).collect::<Vec<_>>();
        let together = runs.iter().map(|run| mean(run.together)).collect::<Vec<_>>();
        let median = |costs: &[f64]| summary(costs).map_or(f64::NAN, |s| s.median);
        Ok(Self {
            name: NAME,
            ratio_max: -most.min,
            ratio_median: ratio.median,
            at_least: AT_LEAST,
            holds: ratio.median >= AT_LEAST,
            alone_ns_per_packet_median: median(&alone),
            together_ns_per_packet_median: median(&together),
            flows,
            runs: runs.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_both_are_held_against_one_alone() {
        let run = PairRun { alone: [20.0, 20.0], together: [20.0, 20.0] };
        assert_eq!(run.ratio(), 2.0);
        let slower = PairRun { together: [25.0, 25.0], ..run };
        assert!((slower.ratio() - 1.6).abs() < 1e-9);
        let figures = PairFigures::new(&[run, slower, slower], 7).unwrap();
        assert_eq!((figures.ratio_max, figures.holds, figures.runs), (2.0, false, 3));
        assert!((figures.ratio_median - 1.6).abs() < 1e-9, "{figures:?}");
        assert_eq!((figures.alone_ns_per_packet_median, figures.together_ns_per_packet_median), (20.0, 25.0));
        assert!(PairFigures::new(&[run], 7).unwrap().holds);
        assert!(PairFigures::new(&[], 7).is_err());
    }
}
