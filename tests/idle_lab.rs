//! What idle workers cost and what the first packet behind a pause pays: the share of a core that each uses in an idle lab, and round trips of
//! single datagrams through the gateway, beside those of workers that poll without rest. `./scripts/bench idle` runs it.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use turnpike_tests::bed::Lab;
use turnpike_tests::idleness::{Echo, RoundTrips, Share, ask, echo, shares, spare};

/// Figures of idle workers.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// How many first packets are timed with each setting.
    #[arg(long, default_value_t = 100)]
    questions: u32,
    /// The pause before each, in milliseconds.
    #[arg(long, default_value_t = 1_000)]
    pause_ms: u64,
    /// How long the workers are watched, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Cores of the workers, as in the configuration.
    #[arg(long, default_value = "[1]")]
    workers: String,
    /// Also write the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Part {
    /// Answers datagrams until its input ends: the pod's side.
    Echo {
        /// Where.
        at: SocketAddr,
        /// Cores that are others'.
        #[arg(long, value_delimiter = ',')]
        spare: Vec<usize>,
    },
    /// Asks and prints the round trips: the client's side.
    Ask {
        /// Whom.
        whom: SocketAddr,
        #[arg(long)]
        questions: u32,
        #[arg(long)]
        pause_ms: u64,
        /// Cores that are others'.
        #[arg(long, value_delimiter = ',')]
        spare: Vec<usize>,
    },
}

/// Figures of one setting of `dataplane.idle`.
#[derive(Serialize)]
struct Figures {
    idle: &'static str,
    shares: Vec<Share>,
    trips: RoundTrips,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.part {
        Some(Part::Echo { at, spare: cores }) => {
            spare(&cores)?;
            std::thread::spawn(|| {
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                std::process::exit(0);
            });
            echo(at)
        }
        Some(Part::Ask { whom, questions, pause_ms, spare: cores }) => {
            spare(&cores)?;
            let trips = ask(whom, questions, Duration::from_millis(pause_ms))?;
            println!("{}", serde_json::to_string(&trips)?);
            Ok(())
        }
        None => compare(&arguments),
    }
}

fn compare(arguments: &Arguments) -> Result<()> {
    println!(
        "{:>9}  {:>24}  {:>10} {:>10} {:>10} {:>10}  {:>4}",
        "idle", "share of a core, %", "least, us", "p50, us", "p99, us", "max, us", "lost"
    );
    let mut all = Vec::new();
    for idle in ["poll", "adaptive"] {
        let figures = measure(arguments, idle)?;
        let percents: Vec<String> =
            figures.shares.iter().map(|share| format!("{:.1}", share.percent)).collect();
        let at = |percent| figures.trips.percentile(percent).unwrap_or(f64::NAN);
        println!(
            "{:>9}  {:>24}  {:>10.0} {:>10.0} {:>10.0} {:>10.0}  {:>4}",
            idle,
            percents.join(", "),
            at(0),
            at(50),
            at(99),
            at(100),
            figures.trips.lost
        );
        all.push(figures);
    }
    let delay = |percent| Some(all[1].trips.percentile(percent)? - all[0].trips.percentile(percent)?);
    if let (Some(median), Some(most)) = (delay(50), delay(100)) {
        println!(
            "the first packet behind {} ms is later by: p50 {median:.0} us, max {most:.0} us",
            arguments.pause_ms
        );
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}

fn measure(arguments: &Arguments, idle: &'static str) -> Result<Figures> {
    let lab = Lab::with_idle("idle", &arguments.workers, idle)?;
    lab.serve()?;
    let echo = Echo::start(&lab)?;
    let shares = shares(&lab, Duration::from_secs(arguments.seconds))?;
    let trips = echo.ask(arguments.questions, Duration::from_millis(arguments.pause_ms))?;
    Ok(Figures { idle, shares, trips })
}
