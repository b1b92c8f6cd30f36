//! `turnpike-bench`: the benchmark for users on hosts of their own; `turnpike bench` starts it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use capsule::Device;
use clap::{Parser, ValueEnum};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use turnpike_benches::self_bench::{self, Hugepages, Nics, Plan};

/// What a packet costs on this host: over software rings, or through two of its NICs that a cable joins.
#[derive(Parser)]
#[command(name = "turnpike-bench", version)]
struct Arguments {
    /// Live flows; may be given several times.
    #[arg(long, value_name = "N", default_values_t = [1, 1_000, 100_000, 1_000_000], value_parser = clap::value_parser!(u32).range(1..=64_000_000))]
    flows: Vec<u32>,
    /// Seconds for each number of flows, about.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The worker's NIC, as dataplane.ports names it.
    #[arg(long, value_name = "DEVICE", requires = "sink")]
    port: Option<Device>,
    /// The NIC at the other end of its cable, where frames come from and are counted.
    #[arg(long, value_name = "DEVICE", requires = "port")]
    sink: Option<Device>,
    /// Frames a second through the NICs; without it 80 % of the most that comes back.
    #[arg(long, value_name = "N", requires = "port", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rate: Option<u64>,
    /// Pages of packet memory and flow tables.
    #[arg(long, value_enum, default_value_t = Pages::Auto)]
    hugepages: Pages,
}

/// As `dataplane.hugepages`.
#[derive(Clone, Copy, ValueEnum)]
enum Pages {
    /// Huge ones if enough are free.
    Auto,
    /// Huge ones, or an error.
    Require,
    /// Ordinary ones.
    Never,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let Arguments { flows, seconds, json, port, sink, rate, hugepages } = arguments;
    let nics = port.zip(sink).map(|(port, sink)| Nics { port, sink, rate: rate.map(|rate| rate as f64) });
    let hugepages = match hugepages {
        Pages::Auto => Hugepages::Auto,
        Pages::Require => Hugepages::Require,
        Pages::Never => Hugepages::Never,
    };
    // Before anything is measured, which takes its time.
    let file = json.map(|path| {
        let file = std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()));
        file.map(|file| (path, file))
    });
    let file = file.transpose()?;
    let report = self_bench::run(&Plan { flows, time: Duration::from_secs(seconds), hugepages, nics }, say)?;
    if let Some((path, mut file)) = file {
        let json = serde_json::to_string_pretty(&report)?;
        writeln!(file, "{json}").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(report.text().as_bytes()).and_then(|()| out.flush()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}

/// Progress, for people who wait.
fn say(what: &str) {
    let mut terminal = std::io::stderr().lock();
    let end = if terminal.is_terminal() { "\x1b[K\r" } else { "\n" };
    let _ = write!(terminal, "{what}{end}");
}
