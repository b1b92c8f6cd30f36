//! `plot`: puts a result of `./scripts/bench --json` among those that are kept, with a picture beside it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use turnpike_benches::past::FILE;
use turnpike_benches::picture::Drawn;

/// Keeps a result and draws it.
#[derive(Parser)]
#[command(name = "plot", version)]
struct Arguments {
    /// What ./scripts/bench --json wrote.
    #[arg(value_name = "RESULT")]
    result: PathBuf,
    /// Where results are kept, each in a folder of its date and kind of host.
    #[arg(long, value_name = "FOLDER")]
    results: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(picture) => {
            println!("{}", picture.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("plot: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Draws, then writes both; gives where the picture is.
fn run(Arguments { result, results }: &Arguments) -> Result<PathBuf> {
    let text = fs::read_to_string(result).with_context(|| format!("cannot read {}", result.display()))?;
    let drawn = Drawn::read(&text).with_context(|| result.display().to_string())?;
    let svg = drawn.svg().with_context(|| result.display().to_string())?;
    let folder = folder_of(result, results, &drawn.host.kind)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let picture = folder.join("forwarding.svg");
    for (file, text) in [(folder.join(FILE), &text), (picture.clone(), &svg)] {
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(picture)
}

/// Where a result is already kept, or belongs by the day on which it was written.
fn folder_of(result: &Path, results: &Path, kind: &str) -> Result<PathBuf> {
    let result = result.canonicalize().with_context(|| format!("cannot find {}", result.display()))?;
    let is_kept = result.ends_with(FILE)
        && result.parent().and_then(Path::parent) == results.canonicalize().ok().as_deref();
    if let (true, Some(folder)) = (is_kept, result.parent()) {
        return Ok(folder.to_owned());
    }
    let written =
        fs::metadata(&result)?.modified().context("this file system does not say when a file was written")?;
    let day = jiff::Timestamp::try_from(written)?.to_zoned(jiff::tz::TimeZone::UTC).date();
    Ok(results.join(format!("{day}-{kind}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_belongs_to_its_day_and_host_and_stays_where_it_is_kept() {
        let folder = std::env::temp_dir().join(format!("turnpike-plot-{}", std::process::id()));
        let (result, results) = (folder.join("out.json"), folder.join("results"));
        fs::create_dir_all(&folder).unwrap();
        let scenarios = ["established/1", "established/1k"].map(
            |name| serde_json::json!({ "name": name, "flows": 1, "ns_per_packet_median": 20.5, "runs": 3 }),
        );
        let host = serde_json::json!({
            "kind": "made-up-2-cores", "cpu": "Made Up", "cores": 2, "kernel": "6.1", "dpdk": "22.11", "rustc": "1", "huge_pages": false
        });
        let text = serde_json::json!({ "host": host, "floor": null, "scenarios": scenarios }).to_string();
        fs::write(&result, &text).unwrap();
        let day = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_795_424_400);
        fs::File::options().append(true).open(&result).unwrap().set_modified(day).unwrap();

        let picture = run(&Arguments { result, results: results.clone() }).unwrap();
        let kept = results.join("2026-11-23-made-up-2-cores");
        assert_eq!(picture, kept.join("forwarding.svg"));
        assert!(fs::read_to_string(&picture).unwrap().contains("Turnpike 20.5"));
        assert_eq!(fs::read_to_string(kept.join(FILE)).unwrap(), text);

        // Another day it is drawn anew in the same place.
        fs::remove_file(&picture).unwrap();
        let again = run(&Arguments { result: kept.join(FILE), results }).unwrap();
        assert_eq!(again.canonicalize().unwrap(), picture.canonicalize().unwrap());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_no_result_is_named() {
        let missing = Arguments { result: "/nowhere/out.json".into(), results: "/nowhere".into() };
        assert!(format!("{:#}", run(&missing).unwrap_err()).contains("cannot read /nowhere/out.json"));
        let no_result = Arguments {
            result: concat!(env!("CARGO_MANIFEST_DIR"), "/peers.json").into(),
            results: "/nowhere".into(),
        };
        let why = format!("{:#}", run(&no_result).unwrap_err());
        assert!(why.contains("peers.json") && why.contains("no result of ./scripts/bench"), "{why}");
    }
}
