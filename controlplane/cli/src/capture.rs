//! `turnpike capture`: packets into a pcapng file, before and after translation, with their verdicts.

use crate::pcapng::{Packet, Pcapng, Point};
use crate::watching::{self, Which, summary};
use anyhow::{Context, Result, bail};
use std::fs::OpenOptions;
use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use turnpike_wire::dataplane::{Passing, Sighting};

/// How often progress is shown, and what was written becomes visible to others.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// What the command line says.
#[derive(clap::Args)]
pub struct Arguments {
    /// The file to write; - for standard output, for example into wireshark -k -i -.
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Bytes of each frame that are kept.
    #[arg(long, value_name = "BYTES", default_value_t = 9_216, value_parser = clap::value_parser!(u32).range(64..=9_216))]
    snaplen: u32,
    /// Only frames as they came in, before translation.
    #[arg(long, conflicts_with_all = ["after", "both"])]
    before: bool,
    /// Only frames as they left, after translation.
    #[arg(long, conflicts_with = "both")]
    after: bool,
    /// Frames as they came in and as they left; so it is without this.
    #[arg(long)]
    both: bool,
}

/// Writes packets until enough were seen.
pub fn run(config: &Path, arguments: Arguments) -> Result<()> {
    let Arguments { write, which, snaplen, before, after, both: _ } = arguments;
    let is_stdout = write.as_os_str() == "-";
    let name = write.display().to_string();
    let out: Box<dyn Write> = if is_stdout {
        if std::io::stdout().is_terminal() {
            bail!("a capture is no text: write it to a file with -w FILE, or pipe it into wireshark -k -i -");
        }
        Box::new(std::io::stdout().lock())
    } else {
        // What clients send is nobody else's business.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&write);
        Box::new(file.with_context(|| format!("cannot write {name}"))?)
    };
    let failed = || format!("cannot write {name}");
    let mut file = Pcapng::begin(BufWriter::new(out), snaplen).with_context(failed)?;
    // Before the first packet, so that who reads along knows what it is.
    file.flush().with_context(failed)?;
    let (mut written, mut shown) = (0u64, Instant::now());
    let is_watched = std::io::stderr().is_terminal();
    let file_of = std::cell::RefCell::new(file);
    let count = std::cell::Cell::new(0u64);
    let failure = std::cell::RefCell::new(None);
    let see = |sighting: Sighting| {
        let mut file = file_of.borrow_mut();
        let comment = comment(&sighting);
        let frames = [
            (Point::Before, !after, std::slice::from_ref(&sighting.came)),
            (Point::After, !before, &sighting.left),
        ];
        for (point, _, frames) in frames.into_iter().filter(|(_, wanted, _)| *wanted) {
            for frame in frames {
                // What waited has come in before and was written then.
                if point == Point::Before && sighting.from == "held" {
                    continue;
                }
                written += 1;
                write_frame(&mut file, sighting.time_us, point, frame, &comment).with_context(failed)?;
            }
        }
        count.set(written);
        Ok(())
    };
    let look = || {
        if shown.elapsed() >= LOOK_PERIOD {
            shown = Instant::now();
            if let Err(error) = file_of.borrow_mut().flush() {
                failure.borrow_mut().get_or_insert(error);
            }
            if is_watched && !is_stdout {
                let _ = write!(std::io::stderr(), "\r{} frames", count.get());
            }
        }
    };
    let watched = watching::run(config, which, snaplen, see, look, || failure.borrow().is_some())?;
    if let Some(error) = failure.into_inner() {
        return Err(error).with_context(failed);
    }
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    file_of.into_inner().end(now_us, watched.lost).with_context(failed)?;
    let start = if is_watched && !is_stdout { "\r" } else { "" };
    let _ = writeln!(std::io::stderr(), "{start}{name}: {} frames of {}", count.get(), summary(&watched));
    Ok(())
}

fn write_frame<W: Write>(
    file: &mut Pcapng<W>,
    time_us: u64,
    point: Point,
    frame: &Passing,
    comment: &str,
) -> std::io::Result<()> {
    let bytes = unhex(&frame.hex);
    let Passing { port, frame_bytes, .. } = frame;
    file.write(&Packet { port, point, time_us, frame_bytes: *frame_bytes, bytes: &bytes, comment })
}

/// What is said of a packet: verdicts, then what it is of.
fn comment(sighting: &Sighting) -> String {
    let Sighting { verdicts, worker, number, service, backend, from, .. } = sighting;
    let mut text = format!("verdict {}; worker {worker} packet {number} from {from}", verdicts.join(", "));
    for (what, value) in [("service", service), ("backend", backend)] {
        if let Some(value) = value {
            text.push_str(&format!("; {what} {value}"));
        }
    }
    text
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
    hex.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
