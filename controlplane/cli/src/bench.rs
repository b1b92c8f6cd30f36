//! `turnpike bench`: the benchmark on this host, by the program beside this one that knows DPDK.

use crate::beside;
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

const PROGRAM: &str = "turnpike-bench";

/// What is measured.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Live flows; may be given several times [default: 1, 1000, 100000, 1000000].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64_000_000))]
    flows: Vec<u32>,
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds for each number of flows, about [default: 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: Option<u64>,
    /// Through NICs instead of software rings: the worker's, as dataplane.ports names it. Nobody else may have it meanwhile.
    #[arg(long, value_name = "DEVICE", requires = "sink")]
    port: Option<String>,
    /// The NIC at the other end of its cable, where frames come from and are counted.
    #[arg(long, value_name = "DEVICE", requires = "port")]
    sink: Option<String>,
    /// Frames a second through the NICs; without it 80 % of the most that comes back.
    #[arg(long, value_name = "N", requires = "port", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rate: Option<u64>,
    /// Pages of packet memory and flow tables [default: auto].
    #[arg(long, value_enum)]
    hugepages: Option<Hugepages>,
}

/// As `dataplane.hugepages`.
#[derive(Clone, Copy, ValueEnum)]
enum Hugepages {
    /// Huge ones if enough are free.
    Auto,
    /// Huge ones, or an error.
    Require,
    /// Ordinary ones.
    Never,
}

impl Arguments {
    /// The words for the other program.
    fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut put = |option: &str, value: OsString| words.extend([option.into(), value]);
        for flows in &self.flows {
            put("--flows", flows.to_string().into());
        }
        let texts = [
            ("--seconds", self.seconds.map(|seconds| seconds.to_string())),
            ("--port", self.port.clone()),
            ("--sink", self.sink.clone()),
            ("--rate", self.rate.map(|rate| rate.to_string())),
            (
                "--hugepages",
                self.hugepages.and_then(|pages| Some(pages.to_possible_value()?.get_name().to_owned())),
            ),
        ];
        for (option, value) in texts {
            if let Some(value) = value {
                put(option, value.into());
            }
        }
        if let Some(file) = &self.json {
            put("--json", file.into());
        }
        words
    }
}

/// Becomes that program.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let program = beside::program(PROGRAM);
    let error = Command::new(&program).args(arguments.words()).exec();
    let mend = match error.kind() {
        ErrorKind::NotFound => "; it belongs beside turnpike, install it with the other programs",
        _ => "",
    };
    Err(anyhow::Error::new(error).context(format!("cannot start {}{mend}", program.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn words(line: &str) -> Option<String> {
        let line = Line::try_parse_from(std::iter::once("bench").chain(line.split_whitespace())).ok()?;
        let words = line.arguments.words();
        Some(words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_was_said_is_handed_on() {
        assert_eq!(words("").as_deref(), Some(""));
        assert_eq!(
            words("--flows 7 --seconds 2 --flows 9").as_deref(),
            Some("--flows 7 --flows 9 --seconds 2")
        );
        let nics =
            "--port net_af_packet0,iface=a --sink 0000:01:00.1 --rate 5 --hugepages never --json out.json";
        assert_eq!(words(nics).as_deref(), Some(nics));
    }

    #[test]
    fn a_port_has_its_sink() {
        for wrong in [
            "--port a",
            "--sink b",
            "--rate 5",
            "--flows 0",
            "--flows 64000001",
            "--seconds 0",
            "--hugepages 1",
        ] {
            assert_eq!(words(wrong), None, "{wrong}");
        }
    }
}
