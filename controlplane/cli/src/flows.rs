//! `turnpike flows`: live flows, listed, counted and ended.

use crate::Format;
use crate::dataplane::Dataplane;
use crate::print::encoded;
use crate::watching::interrupted;
use anyhow::{Result, bail};
use ipnet::IpNet;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::Ordering;
use turnpike_wire::dataplane::{Flow, FlowQuery, FlowsFound, Progress, Reply, Request};

/// What the command line says.
#[derive(clap::Args)]
pub struct Arguments {
    /// Of this Service: NAME, NAMESPACE/NAME or NAMESPACE/NAME:PORT-NAME.
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Of this client, or of clients in this network.
    #[arg(long, value_name = "ADDRESS|NETWORK", value_parser = network)]
    client: Option<IpNet>,
    /// To this backend: an address, an address and port, or a network.
    #[arg(long, value_name = "ADDRESS[:PORT]|NETWORK", value_parser = backend)]
    backend: Option<Backend>,
    /// In this state, e.g. established.
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only count.
    #[arg(long)]
    count: bool,
    /// End all that are found; their peers are reset when they send the next segment.
    #[arg(long)]
    kill: bool,
    /// With --kill: every flow there is.
    #[arg(long, requires = "kill", conflicts_with_all = ["service", "client", "backend", "state"])]
    all: bool,
    /// List at most so many; 0: all.
    #[arg(long, value_name = "N", default_value_t = 1_000, conflicts_with = "count")]
    limit: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// A backend as it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Backend {
    network: IpNet,
    port: Option<u16>,
}

/// The answer as scripts read it.
#[derive(Serialize)]
struct Found {
    found: u64,
    ended: u64,
    torn: u64,
    complete: bool,
    flows: Vec<Flow>,
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from).ok();
    address.or_else(|| text.parse().ok()).ok_or_else(|| {
        format!("{text:?} is neither an address such as 198.51.100.7 nor a network such as 198.51.100.0/24")
    })
}

fn backend(text: &str) -> Result<Backend, String> {
    match text.parse::<SocketAddr>() {
        Ok(end) => Ok(Backend { network: end.ip().into(), port: Some(end.port()) }),
        Err(_) => network(text).map(|network| Backend { network, port: None }),
    }
}

/// Asks and prints.
pub fn run(config: &Path, arguments: Arguments) -> Result<()> {
    let Arguments { service, client, backend, state, count, kill, all, limit, output } = arguments;
    let has_filter = service.is_some() || client.is_some() || backend.is_some() || state.is_some();
    if kill && !has_filter && !all {
        bail!(
            "--kill without a filter would end every flow; name some with --service, --client, --backend or --state, or say --all"
        );
    }
    let limit = match (count || kill, limit) {
        (true, _) => 0,
        (false, 0) => u64::MAX,
        (false, limit) => limit,
    };
    let (network, port) = backend.map(|backend| (backend.network, backend.port)).unzip();
    let query =
        FlowQuery { service, client, backend: network, backend_port: port.flatten(), state, limit, kill };
    let mut dataplane = Dataplane::connect(config)?;
    let stop = interrupted()?;
    dataplane.send(&Request::Flows(query))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let is_seen = std::io::stderr().is_terminal();
    let (mut flows, mut is_enough, mut listed) = (Vec::new(), false, 0u64);
    let found = loop {
        if !is_enough && stop.load(Ordering::Relaxed) {
            is_enough = true;
            dataplane.enough();
        }
        match dataplane.next()? {
            Some(Reply::Flow(flow)) => {
                listed += 1;
                match output {
                    Format::Table => row(&mut out, &flow, listed == 1)?,
                    _ => flows.push(flow),
                }
            }
            Some(Reply::Progress(progress)) if is_seen => show(&progress),
            Some(Reply::Progress(_)) | None => {}
            Some(Reply::Flows(found)) => break found,
            Some(_) => bail!("the dataplane gave another answer than asked for"),
        }
    };
    if is_seen {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    let FlowsFound { found, ended, torn } = found;
    match output {
        Format::Table if count && !kill => writeln!(out, "{found}")?,
        Format::Table => {
            out.flush()?;
            let _ = writeln!(std::io::stderr(), "{}", summary(found, ended, torn, listed, kill, is_enough));
        }
        _ => encoded(&Found { found, ended, torn, complete: !is_enough, flows }, output)?,
    }
    Ok(out.flush()?)
}

fn row(out: &mut impl Write, flow: &Flow, is_first: bool) -> std::io::Result<()> {
    if is_first {
        writeln!(
            out,
            "{:<5} {:<28} {:<24} {:<28} {:<24} {:<15} {:>9}",
            "PROTO", "CLIENT", "FRONTEND", "BACKEND", "SEEN-AS", "STATE", "SILENT"
        )?;
    }
    let Flow { protocol, client, frontend, backend, seen_as, state, idle_ms, .. } = flow;
    // Formatted apart, because widths count for texts alone.
    let [client, frontend, backend, seen_as] =
        [client, frontend, backend, seen_as].map(SocketAddr::to_string);
    let silent = format!("{}.{} s", idle_ms / 1_000, idle_ms % 1_000 / 100);
    writeln!(
        out,
        "{protocol:<5} {client:<28} {frontend:<24} {backend:<28} {seen_as:<24} {state:<15} {silent:>9}"
    )
}

fn show(progress: &Progress) {
    let Progress { looked_at, places, found, ended } = progress;
    let percent = looked_at * 100 / (*places).max(1);
    let ended = if *ended > 0 { format!(", {ended} ended") } else { String::new() };
    let _ = write!(std::io::stderr(), "\r\x1b[Klooked at {percent} %: {found} flows{ended}");
}

fn summary(found: u64, ended: u64, torn: u64, listed: u64, kill: bool, is_enough: bool) -> String {
    let mut text = format!("{found} flows");
    if kill {
        text.push_str(&format!(", {ended} ended"));
    } else if listed < found {
        text.push_str(&format!(", {listed} listed; --limit 0 lists all"));
    }
    if torn > 0 {
        text.push_str(&format!("; {torn} more began or ended while they were looked at"));
    }
    if is_enough {
        text.push_str("; interrupted before the end");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_and_clients_are_named_in_many_ways() {
        let rows = [
            ("10.244.0.1", "10.244.0.1/32", None),
            ("10.244.0.1:8080", "10.244.0.1/32", Some(8080)),
            ("10.244.0.0/16", "10.244.0.0/16", None),
            ("[fd00::1]:53", "fd00::1/128", Some(53)),
            ("fd00::/64", "fd00::/64", None),
        ];
        for (text, network, port) in rows {
            let wanted = Backend { network: network.parse().unwrap(), port };
            assert_eq!(backend(text), Ok(wanted), "{text}");
        }
        for text in ["", "web", "10.244.0.1:x", "10.0.0.0/33"] {
            assert!(backend(text).is_err() && network(text).is_err(), "{text}");
        }
    }
}
