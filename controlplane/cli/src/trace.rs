//! `turnpike trace`: real packets through the stages of the path, as they come.

use crate::Format;
use crate::watching::{self, Which, summary};
use anyhow::Result;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use turnpike_wire::dataplane::{Ends, Passing, Sighting};

/// Bytes of each frame that the dataplane needs to tell headers.
const SNAP_BYTES: u32 = 128;

/// What the command line says.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// How to print: json is one object a line, yaml one document a packet.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Prints packets until enough were seen.
pub fn run(config: &Path, arguments: Arguments) -> Result<()> {
    let Arguments { which, output } = arguments;
    let mut out = std::io::stdout().lock();
    let see = |sighting: Sighting| {
        let text = match output {
            Format::Table => text(&sighting)?,
            Format::Json => serde_json::to_string(&sighting)? + "\n",
            Format::Yaml => format!("---\n{}", serde_saphyr::to_string(&sighting)?),
        };
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    };
    let watched = watching::run(config, which, SNAP_BYTES, see, || (), || false)?;
    let _ = writeln!(std::io::stderr(), "{}", summary(&watched));
    Ok(())
}

/// One packet for people.
fn text(sighting: &Sighting) -> Result<String> {
    let Sighting { worker, number, packet, came, from, left, left_more, .. } = sighting;
    let mut out = String::new();
    writeln!(
        out,
        "{} worker {worker} packet {number}: {packet}{}",
        clock(sighting.time_us),
        ends(came.ends.as_ref())
    )?;
    let origin = match from.as_str() {
        "wire" => "from the wire".to_owned(),
        "worker" => "from another worker".to_owned(),
        _ => "after it waited for its next hop".to_owned(),
    };
    writeln!(out, "  received   on {}, {} bytes, {origin}", came.port, came.frame_bytes)?;
    match (&sighting.flow_before, &sighting.flow_after) {
        (None, None) => writeln!(out, "  looked up  no flow")?,
        (None, Some(after)) => writeln!(out, "  looked up  no flow; made one, {after}")?,
        (Some(before), None) => writeln!(out, "  looked up  flow {before}, which ended")?,
        (Some(before), Some(after)) if before == after => writeln!(out, "  looked up  flow {before}")?,
        (Some(before), Some(after)) => writeln!(out, "  looked up  flow {before}, then {after}")?,
    }
    if let Some(service) = &sighting.service {
        let backend = sighting.backend.as_ref().map_or_else(String::new, |backend| format!(" at {backend}"));
        writeln!(out, "  chosen     {service}{backend}")?;
    }
    for Passing { port, frame_bytes, ends: to, .. } in left {
        if to.is_some() && *to != came.ends {
            writeln!(out, "  rewritten {}", ends(to.as_ref()))?;
        }
        writeln!(out, "  sent       out of {port}, {frame_bytes} bytes")?;
    }
    if *left_more > 0 {
        writeln!(out, "  sent       {left_more} more frames")?;
    }
    writeln!(out, "  verdict    {}", sighting.verdicts.join(", "))?;
    Ok(out)
}

fn ends(ends: Option<&Ends>) -> String {
    ends.map_or_else(String::new, |ends| format!(" {} > {}", ends.source, ends.destination))
}

/// The time of day (UTC).
fn clock(time_us: u64) -> String {
    let (ms, s) = (time_us / 1_000 % 1_000, time_us / 1_000_000);
    format!("{:02}:{:02}:{:02}.{ms:03}", s / 3_600 % 24, s / 60 % 60, s % 60)
}
