//! `tables`: Turnpike's flow table beside hashbrown and DPDK's `rte_hash`; `scripts/bench tables` builds and starts it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use turnpike_benches::contenders::BATCH;
use turnpike_benches::contest::{self, Kind, Match, Outcome, SIZES};
use turnpike_benches::host::{self, Host};
use turnpike_benches::tables_report::{LeftOut, TablesReport};

/// Flow tables: look-ups that hit and miss, singly and in batches, inserts, and memory, by entries, fill and pages.
#[derive(Parser)]
#[command(name = "tables", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Up to 10 million entries and fewer runs: less than two minutes.
    #[arg(long)]
    quick: bool,
    /// Only tables for so many entries; may be given several times.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1_024..=200_000_000))]
    entries: Vec<u32>,
    /// Only this table; may be given several times.
    #[arg(long, value_name = "TABLE", value_enum)]
    table: Vec<Kind>,
}

#[derive(Subcommand)]
enum Part {
    /// One table of one size, in this process; tells what was measured as JSON.
    One {
        /// Which table.
        #[arg(value_enum)]
        table: Kind,
        /// Entries that it is made for.
        #[arg(value_parser = clap::value_parser!(u32).range(1_024..=200_000_000))]
        entries: u32,
        /// Runs of each kind of look-up.
        #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=100))]
        rounds: u16,
        /// On pages of 2 MiB.
        #[arg(long)]
        huge: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.part {
        Some(Part::One { table, entries, rounds, huge }) => core()
            .and_then(|core| one(Match { kind: table, entries, huge, rounds: usize::from(rounds), core })),
        None => all(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tables: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The core that everything is measured on.
fn core() -> Result<u16> {
    capsule::available_cores().last().copied().context("this process may use no core")
}

fn one(of: Match) -> Result<()> {
    capsule::pin_to_core(of.core)?;
    let outcome = contest::measure(of)?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn all(arguments: &Arguments) -> Result<()> {
    let (rounds, sizes) = if arguments.quick { (5, &SIZES[..3]) } else { (15, &SIZES[..]) };
    let sizes = if arguments.entries.is_empty() { sizes } else { &arguments.entries };
    let kinds = if arguments.table.is_empty() { &Kind::ALL[..] } else { &arguments.table };
    let core = core()?;
    let mut report = TablesReport {
        host: Host::look(core, true),
        command: command(arguments),
        rounds,
        batch: BATCH,
        rows: Vec::new(),
        inserts: Vec::new(),
        left_out: Vec::new(),
    };
    for &entries in sizes {
        for huge in [false, true] {
            for &kind in kinds {
                let of = Match { kind, entries, huge, rounds, core };
                let pages = if huge { "2 MiB" } else { "4 KiB" };
                say(&format!("{}, {entries} entries, pages of {pages}", kind.name()));
                if let Some(reason) = too_big(of) {
                    report.left_out.push(LeftOut { table: kind, entries, huge_pages: huge, reason });
                    continue;
                }
                let outcome = play(of).with_context(|| format!("{} for {entries} entries", kind.name()))?;
                report.rows.extend(outcome.rows);
                report.inserts.extend(outcome.inserts);
            }
        }
    }
    report.host.load_after = host::load();
    print!("{}", report.text());
    std::io::stdout().flush()?;
    if let Some(file) = &arguments.json {
        let mut json = serde_json::to_string_pretty(&report)?;
        json.push('\n');
        std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// How to have the same measured again.
fn command(arguments: &Arguments) -> String {
    let mut words = vec!["./scripts/bench tables".to_owned()];
    if arguments.quick {
        words.push("--quick".into());
    }
    words.extend(arguments.entries.iter().map(|entries| format!("--entries {entries}")));
    words.extend(arguments.table.iter().map(|table| format!("--table {}", table.name())));
    words.join(" ")
}

/// Why there is no memory for a table, if there is none.
fn too_big(of: Match) -> Option<String> {
    let needed = of.kind.memory_bytes(of.entries, of.rounds) >> 20;
    let free = host::free_mb(of.huge)?;
    let what = if of.huge { "MiB of huge pages" } else { "MiB" };
    (needed as u64 > free).then(|| format!("it needs {needed} {what}, and {free} are free"))
}

/// Has a match played in a process of its own.
fn play(of: Match) -> Result<Outcome> {
    let program = std::env::current_exe().context("this program does not know where it is")?;
    let mut command = Command::new(program);
    let (entries, rounds) = (of.entries.to_string(), of.rounds.to_string());
    command.args(["one", of.kind.name(), &entries, "--rounds", &rounds]).stdin(Stdio::null());
    if of.huge {
        // The allocator of the C library, which hashbrown's memory comes from, takes huge pages for everything then.
        command.arg("--huge").env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=2");
    }
    let output =
        command.stderr(Stdio::inherit()).output().context("cannot start the part of the benchmark")?;
    ensure!(output.status.success(), "its part of the benchmark ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("its part of the benchmark told no figures")
}

/// Progress, for people who wait.
fn say(what: &str) {
    let mut terminal = std::io::stderr().lock();
    let end = if terminal.is_terminal() { "\x1b[K\r" } else { "\n" };
    let _ = write!(terminal, "{what}{end}");
}
