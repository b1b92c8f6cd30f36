//! `http-load`: real HTTP requests to one address, counted by who answered. One JSON object on standard output.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::{Parser, ValueEnum};
use std::time::Duration;
use turnpike_tests::load::{self, Load};

/// Sends HTTP requests and counts who answered.
#[derive(Parser)]
struct Arguments {
    /// What to ask, e.g. http://203.0.113.80/
    url: String,
    /// How many requests; without it, as many as fit into --seconds.
    #[arg(long, required_unless_present = "seconds")]
    requests: Option<u64>,
    /// How long to ask.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// A connection for each request, or one for many.
    #[arg(long, value_enum, default_value_t = Connections::New)]
    connections: Connections,
    /// How many ask at the same time.
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// Most requests a second; without it, as many as there can be.
    #[arg(long)]
    rate: Option<u32>,
    /// Longest time a request may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    timeout: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Connections {
    New,
    Keep,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let outcome = load::run(&Load {
        url: arguments.url,
        requests: arguments.requests,
        limit: arguments.seconds.map(Duration::from_secs_f64),
        keep_alive: matches!(arguments.connections, Connections::Keep),
        clients: arguments.clients.max(1),
        rate: arguments.rate,
        timeout: Duration::from_secs_f64(arguments.timeout),
    });
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
