//! `forwarding`: what a packet of a live flow costs the production worker, beside what it costs `dpdk-testpmd`.
//!
//! Floor and subject take turns on the same core, many short runs of each; `scripts/bench` builds and starts it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use turnpike_benches::floor::{FloorRun, Mode, Testpmd};
use turnpike_benches::host::{self, Host};
use turnpike_benches::report::{FloorFigures, Report, ScenarioFigures};
use turnpike_benches::subject::{Clock, Scenario, Subject, SubjectRun};

const SCENARIOS: &[(&str, u32)] = &[
    ("established/1", 1),
    ("established/1k", 1_000),
    ("established/100k", 100_000),
    ("established/1M", 1_000_000),
];

/// Forwarding cost over a software ring, with dpdk-testpmd interleaved.
#[derive(Parser)]
#[command(name = "forwarding", version)]
struct Arguments {
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fewer and shorter runs: about ten seconds, for a first look.
    #[arg(long)]
    quick: bool,
    /// Only this scenario; may be given several times.
    #[arg(long, value_name = "SCENARIO")]
    only: Vec<String>,
    /// Without testpmd and so without ratios, for profilers.
    #[arg(long)]
    no_floor: bool,
    /// Times by the wall alone, for valgrind.
    #[arg(long)]
    wall: bool,
    /// Packet memory and flow tables on ordinary pages.
    #[arg(long)]
    ordinary_pages: bool,
    /// Runs of each scenario [default: 15, quick: 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    runs: Option<u32>,
    /// Length of a run in milliseconds [default: 300, quick: 150].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    run_ms: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forwarding: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let scenarios = chosen(&arguments.only)?;
    let runs = arguments.runs.unwrap_or(if arguments.quick { 5 } else { 15 });
    let time = Duration::from_millis(arguments.run_ms.unwrap_or(if arguments.quick { 150 } else { 300 }));
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

    let mut floors = if arguments.no_floor { None } else { Some(Testpmd::start(core, idle_core, huge)?) };
    say(&format!("opening {} flows", scenarios.iter().map(|s| u64::from(s.flows)).sum::<u64>()));
    let subject = Subject::start(core, huge, scenarios.clone(), clock)?;
    let measured = measure(&subject, floors.as_mut(), scenarios.len(), runs, time)?;
    drop(floors);
    host.load_after = host::load();

    let command = Testpmd::command(core, idle_core, huge).join(" ");
    let figures = |mode: Mode, runs: &[FloorRun]| {
        FloorFigures::new(format!("dpdk-testpmd {}", mode.name()), runs, command.clone())
    };
    let (mut floor, mut other_floors) = (None, Vec::new());
    if !arguments.no_floor {
        floor = Some(figures(Mode::FiveTupleSwap, &measured.five_tuple_swap.concat())?);
        other_floors.push(figures(Mode::MacSwap, &measured.mac_swap)?);
    }
    let mut rows = Vec::new();
    for (n, scenario) in scenarios.iter().enumerate() {
        let prepared = *subject.prepared().get(n).context("a scenario was not prepared")?;
        let (runs, floors) = (&measured.subject[n], &measured.five_tuple_swap[n]);
        rows.push(ScenarioFigures::new(scenario, prepared, runs, floors, host.tsc_mhz)?);
    }
    let report = Report { host, floor, other_floors, scenarios: rows };
    print!("{}", report.text());
    std::io::stdout().flush()?;
    if let Some(file) = &arguments.json {
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The scenarios of these names; all, if none is named.
fn chosen(names: &[String]) -> Result<Vec<Scenario>> {
    let all = || SCENARIOS.iter().map(|&(name, flows)| Scenario { name: name.into(), flows });
    if names.is_empty() {
        return Ok(all().collect());
    }
    let known: Vec<&str> = SCENARIOS.iter().map(|s| s.0).collect();
    names
        .iter()
        .map(|name| {
            all()
                .find(|s| s.name == *name)
                .with_context(|| format!("no scenario is called {name}; there are {}", known.join(", ")))
        })
        .collect()
}

/// The runs of each scenario, and of the floor before each of them.
struct Measured {
    subject: Vec<Vec<SubjectRun>>,
    five_tuple_swap: Vec<Vec<FloorRun>>,
    mac_swap: Vec<FloorRun>,
}

fn measure(
    subject: &Subject,
    mut floors: Option<&mut Testpmd>,
    scenarios: usize,
    runs: u32,
    time: Duration,
) -> Result<Measured> {
    let mut measured = Measured {
        subject: vec![Vec::new(); scenarios],
        five_tuple_swap: vec![Vec::new(); scenarios],
        mac_swap: Vec::new(),
    };
    for round in 1..=runs {
        say(&format!("round {round} of {runs}"));
        for scenario in 0..scenarios {
            if let Some(testpmd) = &mut floors {
                measured.five_tuple_swap[scenario].push(testpmd.run(Mode::FiveTupleSwap, time)?);
            }
            measured.subject[scenario].push(subject.run(scenario, time)?);
        }
        if let Some(testpmd) = &mut floors {
            measured.mac_swap.push(testpmd.run(Mode::MacSwap, time)?);
        }
    }
    Ok(measured)
}

/// Progress, for people who wait.
fn say(what: &str) {
    let mut terminal = std::io::stderr().lock();
    let end = if terminal.is_terminal() { "\x1b[K\r" } else { "\n" };
    let _ = write!(terminal, "{what}{end}");
}
