//! `turnpike explain`: what would become of a packet, in lines.

use crate::Format;
use crate::dataplane::Dataplane;
use crate::print::encoded;
use anyhow::{Result, bail};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use turnpike_wire::dataplane::{Asked, Course, Explained, Frontend, Reply, Request};

/// What the command line says.
#[derive(clap::Args)]
pub struct Arguments {
    /// The packet: 'tcp 198.51.100.7:40000 203.0.113.10:80', or udp, sctp, or 'icmp 198.51.100.7 203.0.113.10' (addresses of IPv6 in brackets where a port follows).
    #[arg(value_name = "PACKET")]
    packet: Asked,
    /// The port that it comes in on; without it, the one that leads to its source.
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Asks and prints.
pub fn run(config: &Path, arguments: Arguments) -> Result<()> {
    let Arguments { packet, port, output } = arguments;
    let Reply::Explained(explained) = Dataplane::connect(config)?.ask(&Request::Explain { packet, port })?
    else {
        bail!("the dataplane gave another answer than asked for")
    };
    match output {
        Format::Table => Ok(std::io::stdout().write_all(text(&explained)?.as_bytes())?),
        _ => encoded(&explained, output),
    }
}

/// The answer for people.
fn text(explained: &Explained) -> Result<String> {
    let Explained { packet, port, worker, steering, frontend, flow, verdict, meaning, mend, course, .. } =
        explained;
    let mut out = String::new();
    writeln!(out, "packet    {packet}, in on {port}")?;
    writeln!(out, "worker    {worker} ({steering})")?;
    match frontend {
        Some(frontend) => about_frontend(&mut out, frontend)?,
        None => writeln!(out, "frontend  none has this address, port and protocol")?,
    }
    match flow {
        Some(flow) => writeln!(
            out,
            "flow      {}, {}, silent for {} of {}",
            flow.state,
            flow.direction.replace('_', " "),
            seconds(flow.idle_ms),
            seconds(flow.timeout_ms)
        )?,
        None => writeln!(out, "flow      none is live")?,
    }
    if let Some(course) = course {
        about_course(&mut out, course)?;
    }
    writeln!(out, "verdict   {verdict}: {meaning}")?;
    if let Some(mend) = mend {
        writeln!(out, "mend      {mend}")?;
    }
    Ok(out)
}

fn about_frontend(out: &mut String, frontend: &Frontend) -> Result<()> {
    let Frontend { service, kind, client_is_inside, action, set, mode, .. } = frontend;
    let (kind, action, set, mode) = (word(kind), word(action), word(set), word(mode));
    writeln!(out, "frontend  {service}, {kind}")?;
    let place = if *client_is_inside { "a pod of the cluster" } else { "outside the cluster" };
    writeln!(out, "client    {place}: {action}, backends of set {set}, mode {mode}")?;
    match frontend.source_ranges {
        Some(true) => writeln!(out, "sources   the client is in one of the Service's source ranges")?,
        Some(false) => writeln!(out, "sources   the client is in none of the Service's source ranges")?,
        None => {}
    }
    let (new, all) = (frontend.backends_for_new, frontend.backends);
    writeln!(out, "backends  {new} of {all} take new flows")?;
    if let Some(affinity) = &frontend.affinity {
        let timeout_s = affinity.timeout_s;
        match (&affinity.backend, affinity.age_ms) {
            (Some(backend), Some(age_ms)) => {
                writeln!(out, "affinity  {backend}, given {} ago, for {timeout_s} s", seconds(age_ms))?;
            }
            (None, Some(_)) => writeln!(out, "affinity  to a backend that is gone, for {timeout_s} s")?,
            _ => writeln!(out, "affinity  to none yet, for {timeout_s} s")?,
        }
    }
    if let Some(choice) = &frontend.maglev {
        writeln!(out, "maglev    slot {} of {}: {}", choice.slot, choice.slots, choice.backend)?;
    }
    Ok(())
}

fn about_course(out: &mut String, course: &Course) -> Result<()> {
    let how = match (course.is_new, course.reopens) {
        (true, true) => "opens a flow in place of one that has ended",
        (true, false) => "opens a flow",
        (false, _) => "goes on in its flow",
    };
    writeln!(out, "course    {how}")?;
    let told = if course.proxy_protocol { ", told its client by the PROXY protocol" } else { "" };
    writeln!(out, "backend   {}, which sees {}{told}", course.backend, course.seen_as)?;
    let leaves = &course.leaves_as;
    writeln!(out, "leaves    {} {} {}", leaves.protocol, leaves.source, leaves.destination)?;
    if let Some(tunnel) = &course.tunnel {
        writeln!(out, "tunnel    in a packet {} {}", tunnel.source, tunnel.destination)?;
    }
    let none = || "none".to_owned();
    let (hop, port) = (course.next_hop.clone().unwrap_or_else(none), course.out.clone().unwrap_or_else(none));
    match &course.mac {
        Some(mac) => writeln!(out, "next hop  {hop} ({mac}) out of {port}")?,
        None => writeln!(
            out,
            "next hop  {hop} out of {port}, whose Ethernet address is not known: packets wait for it"
        )?,
    }
    Ok(())
}

/// A word as it stands in JSON.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn seconds(ms: u32) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}
