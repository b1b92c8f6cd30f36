//! `turnpike drops`: which packets got nowhere, how fast their number grows, what that means and what to do about it.

use crate::{Format, print};
use anyhow::{Result, bail, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};
use turnpike_wire::admin::DataplaneStatus;
use turnpike_wire::verdicts::{VERDICTS, VerdictText};

/// What is asked for.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Also verdicts that no packet has had.
    #[arg(long)]
    all: bool,
    /// Go on and print them again and again, until Ctrl-C.
    #[arg(short, long)]
    watch: bool,
    /// Time over which rates are measured, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

fn seconds(text: &str) -> Result<f64> {
    let seconds: f64 = text.parse()?;
    ensure!((0.1..=3_600.0).contains(&seconds), "0.1 to 3600 seconds, not {text}");
    Ok(seconds)
}

/// One verdict that drops.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Drop {
    verdict: &'static str,
    /// Since the dataplane started, of all workers.
    packets: u64,
    packets_per_second: f64,
    meaning: &'static str,
    mend: &'static str,
}

/// Prints them; `status` asks how the dataplane is.
pub(crate) fn run(wanted: Wanted, status: impl Fn() -> Result<DataplaneStatus>) -> Result<()> {
    let mut before = (counted(&status()?)?, Instant::now());
    loop {
        sleep(Duration::from_secs_f64(wanted.interval));
        let now = (counted(&status()?)?, Instant::now());
        let found = drops(&before.0, &now.0, now.1 - before.1, wanted.all);
        match wanted.output {
            Format::Table => write!(std::io::stdout(), "{}", text(&found))?,
            _ => print::encoded(&found, wanted.output)?,
        }
        if !wanted.watch {
            return Ok(());
        }
        if wanted.output == Format::Table {
            writeln!(std::io::stdout())?;
        }
        std::io::stdout().flush()?;
        before = now;
    }
}

/// Packets of each verdict, of all workers.
fn counted(dataplane: &DataplaneStatus) -> Result<BTreeMap<&'static str, u64>> {
    if dataplane.workers.is_empty() {
        bail!(
            "there is no dataplane whose packets could be counted ({}); turnpike status says more",
            dataplane.state
        );
    }
    let of = |text: &VerdictText| dataplane.workers.iter().filter_map(|w| w.counters.get(text.name)).sum();
    Ok(VERDICTS.iter().map(|text| (text.name, of(text))).collect())
}

/// The verdicts that drop, fastest first, then by packets.
fn drops(
    before: &BTreeMap<&'static str, u64>,
    now: &BTreeMap<&'static str, u64>,
    passed: Duration,
    all: bool,
) -> Vec<Drop> {
    let count = |counts: &BTreeMap<&str, u64>, name| counts.get(name).copied().unwrap_or(0);
    let mut found: Vec<Drop> = VERDICTS
        .iter()
        .filter(|text| text.is_drop)
        .map(|text| {
            let packets = count(now, text.name);
            // A dataplane that started meanwhile has counted all of them since.
            let more = packets.checked_sub(count(before, text.name)).unwrap_or(packets);
            Drop {
                verdict: text.name,
                packets,
                packets_per_second: more as f64 / passed.as_secs_f64().max(f64::MIN_POSITIVE),
                meaning: text.meaning,
                mend: text.mend,
            }
        })
        .filter(|drop| all || drop.packets > 0)
        .collect();
    found.sort_by(|a, b| {
        let by_rate = b.packets_per_second.total_cmp(&a.packets_per_second);
        by_rate.then(b.packets.cmp(&a.packets))
    });
    found
}

fn text(found: &[Drop]) -> String {
    if found.is_empty() {
        return "nothing was dropped\n".into();
    }
    let mut table = print::table(["VERDICT", "PACKETS", "A SECOND", "MEANING", "WHAT TO DO"]);
    for drop in found {
        let rate = match drop.packets_per_second {
            0.0 => "-".into(),
            rate => format!("{rate:.1}"),
        };
        table.add_row([drop.verdict, &drop.packets.to_string(), &rate, drop.meaning, drop.mend]);
    }
    table.lines().map(|line| line.trim().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_wire::admin::WorkerStatus;

    fn dataplane(workers: &[&[(&str, u64)]]) -> DataplaneStatus {
        let worker = |counters: &&[(&str, u64)]| WorkerStatus {
            counters: counters.iter().map(|&(name, count)| (name.to_owned(), count)).collect(),
            ..WorkerStatus::default()
        };
        DataplaneStatus { workers: workers.iter().map(worker).collect(), ..DataplaneStatus::default() }
    }

    fn seen(before: &DataplaneStatus, now: &DataplaneStatus, all: bool) -> Vec<(&'static str, u64, f64)> {
        let found = drops(&counted(before).unwrap(), &counted(now).unwrap(), Duration::from_secs(2), all);
        found.into_iter().map(|drop| (drop.verdict, drop.packets, drop.packets_per_second)).collect()
    }

    #[test]
    fn workers_are_added_up_and_what_grows_comes_first() {
        let before =
            dataplane(&[&[("forwarded", 9), ("no_frontend", 100), ("bad_l4", 5)], &[("no_frontend", 7)]]);
        let now =
            dataplane(&[&[("forwarded", 99), ("no_frontend", 100), ("bad_l4", 8)], &[("no_frontend", 7)]]);
        assert_eq!(seen(&before, &now, false), [("bad_l4", 8, 1.5), ("no_frontend", 107, 0.0)]);
        let all = seen(&before, &now, true);
        assert_eq!(all.len(), VERDICTS.iter().filter(|text| text.is_drop).count());
        assert!(!all.iter().any(|(verdict, ..)| *verdict == "forwarded"));
    }

    #[test]
    fn a_dataplane_that_started_anew_has_no_rate_below_zero() {
        let (before, now) = (dataplane(&[&[("bad_l4", 50)]]), dataplane(&[&[("bad_l4", 4)]]));
        assert_eq!(seen(&before, &now, false), [("bad_l4", 4, 2.0)]);
    }

    #[test]
    fn without_a_dataplane_it_says_so() {
        let none = DataplaneStatus { state: "absent".into(), ..DataplaneStatus::default() };
        let said = counted(&none).unwrap_err().to_string();
        assert!(said.contains("absent") && said.contains("turnpike status"), "{said}");
        assert_eq!(text(&[]), "nothing was dropped\n");
    }

    #[test]
    fn intervals_have_bounds() {
        assert_eq!(seconds("2.5").unwrap(), 2.5);
        for text in ["0", "-1", "3601", "NaN", "inf", "soon"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
