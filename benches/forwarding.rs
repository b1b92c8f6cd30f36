//! `forwarding`: what a packet of a live flow costs the production worker, beside what it costs `dpdk-testpmd`.
//!
//! Floor and subject take turns on the same core, many short runs of each; `scripts/bench` builds and starts it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use turnpike_benches::bed::{Clock, Effort};
use turnpike_benches::figures::{FloorFigures, Runs, ScenarioFigures};
use turnpike_benches::floor::{FloorRun, Mode, Testpmd};
use turnpike_benches::host::{self, Host};
use turnpike_benches::instructions::{Counts, MORE_MAX_PERCENT};
use turnpike_benches::latency::{self, Cores, Latency, LatencyFigures};
use turnpike_benches::pair::{self, Pair, PairFigures};
use turnpike_benches::past::Past;
use turnpike_benches::report::Report;
use turnpike_benches::scenario::{self, Scenario};
use turnpike_benches::subject::{Place, Subject, start_eal};

/// Forwarding cost over a software ring, with dpdk-testpmd interleaved.
#[derive(Parser)]
#[command(name = "forwarding", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Shorter runs: about two minutes.
    #[arg(long)]
    quick: bool,
    /// Only this scenario, and the one it is compared with; may be given several times.
    #[arg(long, value_name = "SCENARIO")]
    only: Vec<String>,
    /// Compare with the latest result of the same kind of host in this folder.
    #[arg(long, value_name = "FOLDER")]
    past: Option<PathBuf>,
    /// Without testpmd and so without ratios, for profilers.
    #[arg(long)]
    no_floor: bool,
    /// Times by the wall alone, for valgrind.
    #[arg(long)]
    wall: bool,
    /// Packet memory and flow tables on ordinary pages.
    #[arg(long)]
    ordinary_pages: bool,
    /// Runs of each scenario [default: 15].
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: u32,
    /// Length of a run in milliseconds [default: 300, quick: 100].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    run_ms: Option<u64>,
    /// Length of a run in packets, with a clock that goes on with them, so that each run has the same instructions.
    #[arg(long, value_name = "N", conflicts_with = "run_ms", requires = "no_floor")]
    run_packets: Option<u64>,
}

#[derive(Subcommand)]
enum Command {
    /// Counts the instructions of the established path under valgrind, and holds them against a file.
    Count {
        /// What they may be.
        #[arg(value_name = "FILE")]
        tree: PathBuf,
        /// Writes what is counted to the file instead.
        #[arg(long)]
        write: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let holds = match &arguments.command {
        Some(Command::Count { tree, write }) => count(tree, *write),
        None => run(&arguments).map(|()| true),
    };
    match holds {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("forwarding: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether a packet of the established path takes no more instructions than the file says.
fn count(file: &Path, write: bool) -> Result<bool> {
    let counts = Counts::take(&std::env::current_exe().context("this program does not know where it is")?)?;
    if write {
        std::fs::write(file, counts.text()).with_context(|| format!("cannot write {}", file.display()))?;
        print!("{}", counts.text());
        return Ok(true);
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let tree = Counts::read(&text).with_context(|| format!("{} is no file of counts", file.display()))?;
    let (lines, holds) = counts.against(&tree);
    lines.iter().for_each(|line| println!("{line}"));
    if !holds {
        let file = file.display();
        println!(
            "A packet takes over {MORE_MAX_PERCENT} % more instructions than {file} says. Find out why; if it is worth it, write the new \
             count down with ./scripts/instructions --write."
        );
    }
    Ok(holds)
}

fn run(arguments: &Arguments) -> Result<()> {
    let scenarios = scenario::chosen(&arguments.only, &[pair::NAME, latency::NAME, latency::NAME_CHANGES])?;
    let time = Duration::from_millis(arguments.run_ms.unwrap_or(if arguments.quick { 100 } else { 300 }));
    let effort = arguments.run_packets.map_or(Effort::Time(time), Effort::Packets);
    let cores = capsule::available_cores();
    let (Some(&idle_core), Some(&core)) = (cores.first(), cores.last()) else {
        bail!("this process may use no core")
    };
    ensure!(
        idle_core != core || arguments.no_floor,
        "two cores are needed: one to measure on, one for the rest; --no-floor measures on one"
    );
    let huge = !arguments.ordinary_pages;
    let clock = if arguments.wall { Clock::Wall } else { Clock::WallAndCpu };
    let mut host = Host::look(core, huge);
    let past = match &arguments.past {
        Some(folder) => Past::latest(folder, &host.kind)?,
        None => None,
    };

    let mut floors = if arguments.no_floor { None } else { Some(Testpmd::start(core, idle_core, huge)?) };
    say("opening flows");
    let eal = start_eal(huge)?;
    let place = Place { core, other_core: idle_core, huge, clock };
    let subject = Subject::start(eal, place, scenarios.clone())?;
    let wants =
        |scenario: &str| arguments.only.is_empty() || arguments.only.iter().any(|name| name == scenario);
    let wants_pair = wants(pair::NAME);
    let pair = match cores.len().checked_sub(2).and_then(|second| cores.get(second)) {
        Some(&second) if wants_pair => Some(Pair::start(eal, [core, second], huge, pair::FLOWS)?),
        _ => None,
    };
    let latencies = [(latency::NAME, false), (latency::NAME_CHANGES, true)];
    let mut latencies: Vec<_> = latencies
        .into_iter()
        .filter(|(name, _)| wants(name))
        .map(|(name, is)| (name, is, Vec::new()))
        .collect();
    let timed_on = Cores::of(&cores).filter(|cores| cores.source != cores.worker);
    let latency = match timed_on.filter(|_| !latencies.is_empty() && arguments.run_packets.is_none()) {
        Some(cores) => Some(Latency::start(eal, cores, huge, latency::FLOWS)?),
        None => None,
    };
    let mut pair_runs = Vec::new();
    let mut measured: Vec<Runs> = vec![Runs::default(); scenarios.len()];
    let mut mac_swap = Vec::new();
    for round in 1..=arguments.runs {
        say(&format!("round {round} of {}", arguments.runs));
        for (at, scenario) in scenarios.iter().enumerate() {
            let runs = &mut measured[at];
            if let Some(testpmd) = &mut floors {
                runs.floor.push(testpmd.run(Mode::FiveTupleSwap, time)?);
            }
            if let Some(other) = place_of(&scenarios, scenario.other()) {
                runs.other.push(subject.run(other, effort)?);
            }
            runs.subject.push(subject.run(at, effort)?);
        }
        if let Some(pair) = &pair {
            pair_runs.push(pair.run(effort)?);
        }
        if let Some(latency) = &latency {
            for (_, is_changing, runs) in &mut latencies {
                runs.extend(latency.run(time, *is_changing)?);
            }
        }
        if let Some(testpmd) = &mut floors {
            mac_swap.push(testpmd.run(Mode::MacSwap, time)?);
        }
    }
    drop(floors);
    host.load_after = host::load();

    let command = Testpmd::command(core, idle_core, huge).join(" ");
    let figures = |mode: Mode, runs: &[FloorRun]| {
        FloorFigures::new(format!("dpdk-testpmd {}", mode.name()), runs, command.clone())
    };
    let (mut floor, mut other_floors) = (None, Vec::new());
    if !arguments.no_floor {
        let all: Vec<FloorRun> = measured.iter().flat_map(|runs| runs.floor.iter().copied()).collect();
        floor = Some(figures(Mode::FiveTupleSwap, &all)?);
        other_floors.push(figures(Mode::MacSwap, &mac_swap)?);
    }
    let mut rows = Vec::new();
    for ((scenario, runs), &prepared) in scenarios.iter().zip(&measured).zip(subject.prepared()) {
        let mut row = ScenarioFigures::new(scenario, prepared, runs, host.tsc_mhz)?;
        row.change =
            past.as_ref().zip(row.to_floor()).and_then(|(past, now)| past.change(scenario.name, now));
        rows.push(row);
    }
    let two_workers = pair.map(|_| PairFigures::new(&pair_runs, pair::FLOWS)).transpose()?;
    let latency = match latency {
        Some(_) => {
            latencies.iter().map(|(name, _, runs)| LatencyFigures::new(name, runs, latency::FLOWS)).collect()
        }
        None => Ok(Vec::new()),
    };
    let latency = latency?;
    let compared_with = past.map(|past| past.name);
    let report = Report { host, floor, other_floors, compared_with, scenarios: rows, two_workers, latency };
    print!("{}", report.text());
    std::io::stdout().flush()?;
    if let Some(file) = &arguments.json {
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Where the scenario of this name is.
fn place_of(scenarios: &[Scenario], name: Option<&str>) -> Option<usize> {
    scenarios.iter().position(|scenario| Some(scenario.name) == name)
}

/// Progress, for people who wait.
fn say(what: &str) {
    let mut terminal = std::io::stderr().lock();
    let end = if terminal.is_terminal() { "\x1b[K\r" } else { "\n" };
    let _ = write!(terminal, "{what}{end}");
}
