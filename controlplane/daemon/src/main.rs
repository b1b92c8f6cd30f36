//! `turnpike-controlplane`: see the library of the same name.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use turnpike_wire::config::{Config, DEFAULT_PATH};

/// Turnpike's control plane: follows Services and endpoints in etcd and hands them to the dataplane.
#[derive(Parser)]
#[command(name = "turnpike-controlplane", version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Look whether everything the configuration names is there and can be used, and end.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("TURNPIKE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> Result<()> {
    let config = Config::load(&arguments.config)?;
    turnpike_controlplane::listen::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if arguments.check {
        runtime.block_on(turnpike_controlplane::run::check(&config))?;
        println!("{}: fine for the control plane", arguments.config.display());
        return Ok(());
    }
    runtime.block_on(turnpike_controlplane::run::run(config))
}
