//! What `trace` and `capture` have in common: which packets, until when, and how it ends.

use crate::dataplane::Dataplane;
use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use turnpike_wire::dataplane::{Reply, Request, Sighting, Watch, Watched};
use turnpike_wire::filter::Filter;

/// Which packets, and until when.
#[derive(clap::Args)]
pub struct Which {
    /// Which packets: 'tcp and host 198.51.100.7 and port 80', 'service shop/web and dropped', 'verdict source_range'; without it, all.
    #[arg(long, value_name = "FILTER", default_value = "")]
    filter: Text,
    /// Stop after so many packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop after this time: 10s, 500ms, 2m.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// Every Nth packet that the filter lets through.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
}

/// The text of a filter that is one.
#[derive(Clone, Debug)]
struct Text(String);

impl std::str::FromStr for Text {
    type Err = turnpike_wire::filter::FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Filter>().map(|_| Self(text.to_owned()))
    }
}

/// A time as people write it.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{unit:?} is no unit of time; write 500ms, 10s, 2m or 1h")),
    };
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    ms.filter(|&ms| ms > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is no time; write 500ms, 10s, 2m or 1h"))
}

/// The first SIGINT or SIGTERM sets the flag, a second one ends the program.
pub fn interrupted() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .context("cannot watch for signals")?;
    }
    Ok(flag)
}

/// Shows every sighting to `see` until all is told, or `is_over`. `look` is called now and then.
pub fn run(
    config: &Path,
    which: Which,
    snap_bytes: u32,
    mut see: impl FnMut(Sighting) -> Result<()>,
    mut look: impl FnMut(),
    is_over: impl Fn() -> bool,
) -> Result<Watched> {
    let Which { filter, count, time, sample } = which;
    let mut dataplane = Dataplane::connect(config)?;
    let duration_ms = time.map(|time| time.as_millis() as u64);
    let stop = interrupted()?;
    dataplane.send(&Request::Watch(Watch { filter: filter.0, count, duration_ms, sample, snap_bytes }))?;
    let mut is_enough = false;
    loop {
        if !is_enough && (stop.load(Ordering::Relaxed) || is_over()) {
            is_enough = true;
            dataplane.enough();
        }
        match dataplane.next()? {
            Some(Reply::Sighting(sighting)) => see(*sighting)?,
            Some(Reply::Watched(watched)) => return Ok(watched),
            Some(_) => bail!("the dataplane gave another answer than asked for"),
            None => {}
        }
        look();
    }
}

/// A summary in a sentence.
pub fn summary(watched: &Watched) -> String {
    let Watched { told, lost, .. } = watched;
    match lost {
        0 => format!("{told} packets"),
        _ => format!(
            "{told} packets; {lost} more were lost because they came faster than they were taken: narrow the filter, or take a --sample"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let rows = [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000), ("3", 3_000)];
        for (text, ms) in rows {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "0s", "-1s", "10 s", "1d", "99999999999999999999s", "9999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
