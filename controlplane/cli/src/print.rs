//! Answers for people and for scripts: tables, JSON, YAML.

use crate::describe::waits_for;
use crate::{Format, Listing};
use anyhow::Result;
use clap::ValueEnum;
use comfy_table::Table;
use serde::Serialize;
use serde_json::Value;
use std::io::Write;
use turnpike_wire::admin::{
    DataplaneStatus, DnsStatus, EtcdStatus, KubernetesStatus, ListenerStatus, ObjectName, Status,
};
use turnpike_wire::pages::is_verdict;
use turnpike_wire::topology::{Place, misplaced};

/// What the user types for a listing.
pub fn word(listing: Listing) -> String {
    listing.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

/// An object as kubectl names it.
pub fn object(name: &ObjectName) -> String {
    match name.namespace.as_str() {
        "" | "default" => format!("{}/{}", name.kind.to_lowercase(), name.name),
        namespace => format!("{}/{} (namespace {namespace})", name.kind.to_lowercase(), name.name),
    }
}

/// A list.
pub fn items(listing: Listing, items: &[Value], format: Format) -> Result<()> {
    match format {
        Format::Table => {
            let columns = columns(listing);
            let mut table = table(columns.iter().map(|c| c.0));
            for item in items {
                table.add_row(columns.iter().map(|(_, cell)| cell(item)));
            }
            print(&table)
        }
        _ => encoded(&items, format),
    }
}

/// The connection to etcd, and what is wrong with it or with the view it gives.
fn etcd(out: &mut impl Write, etcd: &EtcdStatus) -> Result<()> {
    let private = if etcd.private { ", private" } else { "" };
    let heard = etcd.last_heard_ms.map(|ms| format!(", heard {ms} ms ago")).unwrap_or_default();
    writeln!(out, "etcd       {} at {}{private}{heard}", etcd.state, etcd.endpoints.join(", "))?;
    if let Some(held) = &etcd.held_back {
        writeln!(
            out,
            "           HELD BACK: {} of {} services and {} of {} endpoints are left",
            held.services_now, held.services_before, held.endpoints_now, held.endpoints_before
        )?;
        writeln!(out, "           {}", held.reason)?;
    }
    if let Some(error) = &etcd.last_error {
        writeln!(out, "           last error: {error}")?;
    }
    if etcd.reconnects + etcd.relists > 0 {
        writeln!(out, "           {} reconnects, {} full lists", etcd.reconnects, etcd.relists)?;
    }
    for warning in &etcd.warnings {
        writeln!(out, "           warning: {warning}")?;
    }
    Ok(())
}

/// The DNS server, and which of its sockets and of the servers above it are in trouble.
fn dns(out: &mut impl Write, dns: &DnsStatus) -> Result<()> {
    if dns.listeners.is_empty() {
        return Ok(());
    }
    let DnsStatus { zone, state, services, addresses, .. } = dns;
    writeln!(out, "dns        {state} {zone}: {services} services, {addresses} addresses")?;
    for peer in dns.listeners.iter().chain(&dns.upstream) {
        if let Some(error) = &peer.last_error {
            writeln!(out, "           {} {} {}: {error}", peer.address, peer.transport, peer.state)?;
        }
    }
    Ok(())
}

/// What goes back to the Kubernetes API, and which servers for other machines do not listen.
fn others(out: &mut impl Write, status: &Status) -> Result<()> {
    let KubernetesStatus { state, server, written, last_error } = &status.kubernetes;
    if !server.is_empty() {
        writeln!(out, "kubernetes {state} at {server}: {written} changes written")?;
        if let Some(error) = last_error {
            writeln!(out, "           last error: {error}")?;
        }
    }
    for listener in &status.listeners {
        if let Some(error) = &listener.last_error {
            let ListenerStatus { address, purpose, state, .. } = listener;
            writeln!(out, "listener   {address} for {purpose} {state}: {error}")?;
        }
    }
    Ok(())
}

/// The state of the gateway.
pub fn status(status: &Status, format: Format) -> Result<()> {
    if format != Format::Table {
        return encoded(status, format);
    }
    let mut out = std::io::stdout().lock();
    let (etcd, objects, dataplane) = (&status.etcd, &status.objects, &status.dataplane);
    writeln!(out, "gateway    {} (turnpike {}, {} mode)", status.gateway, status.version, status.mode)?;
    self::etcd(&mut out, etcd)?;
    let pid = dataplane.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
    writeln!(out, "dataplane  {}{pid}", dataplane.state)?;
    let adoption = dataplane.last_adoption_us.map(|us| format!(", in {us} µs")).unwrap_or_default();
    writeln!(
        out,
        "state      etcd revision {} → published {} (generation {}) → adopted {} (generation {}){adoption}",
        etcd.revision,
        dataplane.published_revision,
        dataplane.published_generation,
        dataplane.adopted_revision,
        dataplane.adopted_generation
    )?;
    writeln!(
        out,
        "objects    {} services, {} endpoint slices, {} pods, {} nodes → {} frontends, {} backends",
        objects.services,
        objects.endpoint_slices,
        objects.pods,
        objects.nodes,
        objects.frontends,
        objects.backends
    )?;
    dns(&mut out, &status.dns)?;
    others(&mut out, status)?;
    if let Some(start) = &dataplane.start {
        writeln!(out, "flows      {start}")?;
    }
    if let Some(complaint) = &dataplane.last_complaint {
        writeln!(out, "complaint  {complaint} ({} transactions refused)", dataplane.refused)?;
    }
    for warning in &status.fill.warnings {
        writeln!(out, "filling    {warning}")?;
    }
    for far in placement(dataplane) {
        writeln!(out, "placement  {far}")?;
    }
    for skipped in &objects.skipped {
        writeln!(out, "skipped    {} (revision {}): {}", skipped.key, skipped.revision, skipped.reason)?;
    }
    if !dataplane.workers.is_empty() {
        writeln!(out)?;
        let mut table =
            table(["WORKER", "CORE", "NODE", "FLOWS", "OF", "PAGES", "RECEIVED", "FORWARDED", "OTHER FATES"]);
        for worker in &dataplane.workers {
            let count = |name: &str| worker.counters.get(name).copied().unwrap_or(0);
            let (received, forwarded) = (count("rx_packets"), count("forwarded"));
            table.add_row([
                worker.worker.to_string(),
                worker.core.to_string(),
                node(worker.numa_node.map(u64::from)),
                worker.flows.to_string(),
                worker.flows_max.to_string(),
                pages(worker.flow_page_bytes),
                received.to_string(),
                forwarded.to_string(),
                other_fates(worker.counters.iter()),
            ]);
        }
        drop(out);
        print(&table)?;
    }
    Ok(())
}

/// Workers that are far from queues that they serve, or from their flow tables.
fn placement(dataplane: &DataplaneStatus) -> Vec<String> {
    let places: Vec<Place> = dataplane
        .workers
        .iter()
        .map(|worker| Place {
            worker: worker.worker,
            core: worker.core,
            node: worker.numa_node,
            flow_node: worker.flow_numa_node,
        })
        .collect();
    let ports: Vec<_> = dataplane.ports.iter().map(|port| (port.name.as_str(), port.numa_node)).collect();
    misplaced(&places, &ports)
}

fn node(node: Option<u64>) -> String {
    node.map_or_else(|| "-".into(), |node| node.to_string())
}

/// The size of a page as people say it.
fn pages(bytes: u64) -> String {
    match bytes {
        0 => "-".into(),
        _ if bytes >= 1 << 30 => format!("{} GiB", bytes >> 30),
        _ if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

/// Counters of packets that were not forwarded, the largest first.
fn other_fates<'a>(counters: impl Iterator<Item = (&'a String, &'a u64)>) -> String {
    let mut fates: Vec<_> =
        counters.filter(|(name, n)| **n > 0 && is_verdict(name) && *name != "forwarded").collect();
    fates.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    fates.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
}

type Column = (&'static str, fn(&Value) -> String);

/// The columns of a listing.
fn columns(listing: Listing) -> Vec<Column> {
    const NAMESPACE: Column = ("NAMESPACE", |v| text(v, "/metadata/namespace"));
    const NAME: Column = ("NAME", |v| text(v, "/metadata/name"));
    match listing {
        Listing::Services => vec![
            NAMESPACE,
            NAME,
            ("TYPE", |v| text(v, "/spec/type")),
            ("CLUSTER-IP", |v| text(v, "/spec/clusterIP")),
            ("EXTERNAL-IP", external_addresses),
            ("PORTS", |v| list(v, "/spec/ports", service_port)),
        ],
        Listing::Endpoints => vec![
            ("NAMESPACE", |v| text(v, "/namespace")),
            ("SERVICE", |v| text(v, "/service")),
            ("PORT", |v| text(v, "/port_name")),
            ("ENDPOINTS", |v| {
                list(v, "/endpoints", |e| format!("{}:{}", text(e, "/address"), text(e, "/port")))
            }),
        ],
        Listing::Endpointslices => vec![
            NAMESPACE,
            NAME,
            ("TYPE", |v| text(v, "/addressType")),
            ("PORTS", |v| list(v, "/ports", |p| text(p, "/port"))),
            ("ENDPOINTS", |v| list(v, "/endpoints", |e| text(e, "/addresses/0"))),
        ],
        Listing::Pods => vec![
            NAMESPACE,
            NAME,
            ("PHASE", |v| text(v, "/status/phase")),
            ("IP", |v| text(v, "/status/podIP")),
            ("NODE", |v| text(v, "/spec/nodeName")),
        ],
        Listing::Nodes => {
            vec![NAME, ("ADDRESSES", |v| list(v, "/status/addresses", |a| text(a, "/address")))]
        }
        Listing::Frontends => vec![
            ("NAMESPACE", |v| text(v, "/namespace")),
            ("SERVICE", |v| text(v, "/service")),
            ("PORT", |v| text(v, "/port_name")),
            ("KIND", |v| text(v, "/kind")),
            ("ADDRESS", |v| format!("{} {}:{}", text(v, "/protocol"), text(v, "/address"), text(v, "/port"))),
            ("ACTION", |v| text(v, "/action")),
            ("BACKENDS", |v| {
                list(v, "/backends", |b| format!("{}:{}", text(b, "/address"), text(b, "/port")))
            }),
        ],
        Listing::Backends => vec![
            ("NAMESPACE", |v| text(v, "/namespace")),
            ("SERVICE", |v| text(v, "/service")),
            ("PORT", |v| text(v, "/port_name")),
            ("ADDRESS", |v| format!("{}:{}", text(v, "/address"), text(v, "/port"))),
            ("STATE", |v| text(v, "/state")),
            ("WEIGHT", |v| text(v, "/weight")),
            ("NODE", |v| text(v, "/node")),
        ],
        Listing::Gateways => {
            vec![("NAME", |v| text(v, "/name")), ("ADDRESSES", |v| list(v, "/addresses", plain))]
        }
        Listing::Ports => vec![
            ("NAME", |v| text(v, "/name")),
            ("DEVICE", |v| text(v, "/device")),
            ("DRIVER", |v| text(v, "/driver")),
            ("VLAN", |v| v["vlan"].as_u64().map_or_else(|| "-".into(), |vlan| vlan.to_string())),
            ("MAC", |v| text(v, "/mac")),
            ("LINK", |v| if v["link_up"] == true { "up".into() } else { "down".into() }),
            ("STEERING", |v| text(v, "/steering")),
            ("NODE", |v| node(v["numa_node"].as_u64())),
            ("OFFLOADS", |v| text(v, "/offloads")),
        ],
        Listing::Workers => vec![
            ("WORKER", |v| text(v, "/worker")),
            ("CORE", |v| text(v, "/core")),
            ("NODE", |v| node(v["numa_node"].as_u64())),
            ("GENERATION", |v| text(v, "/generation")),
            ("FLOWS", |v| text(v, "/flows")),
            ("OF", |v| text(v, "/flows_max")),
            ("PAGES", |v| pages(v["flow_page_bytes"].as_u64().unwrap_or(0))),
            ("FLOWS-NODE", |v| node(v["flow_numa_node"].as_u64())),
        ],
    }
}

/// As kubectl: the load-balancer addresses, or that they are waited for; external addresses; the name of an ExternalName Service.
fn external_addresses(service: &Value) -> String {
    let mut shown = list(service, "/status/loadBalancer/ingress", |i| match text(i, "/ip") {
        ip if ip.is_empty() => text(i, "/hostname"),
        ip => ip,
    });
    let is_public = service["spec"]["type"] == "LoadBalancer";
    for more in [list(service, "/spec/externalIPs", plain), text(service, "/spec/externalName")] {
        if !more.is_empty() {
            shown = if shown.is_empty() { more } else { format!("{shown},{more}") };
        }
    }
    if is_public && (shown.is_empty() || waits_for(service).is_some()) {
        shown = if shown.is_empty() { "<pending>".into() } else { format!("{shown},<pending>") };
    }
    if shown.is_empty() { "<none>".into() } else { shown }
}

fn service_port(port: &Value) -> String {
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    match port["nodePort"].as_u64().unwrap_or(0) {
        0 => format!("{}/{protocol}", text(port, "/port")),
        node_port => format!("{}:{node_port}/{protocol}", text(port, "/port")),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The text at a place of a value; empty if there is none.
pub fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).map(plain).unwrap_or_default()
}

/// The cells of the list at a place of a value, with commas between.
pub fn list(value: &Value, pointer: &str, cell: fn(&Value) -> String) -> String {
    let items = value.pointer(pointer).and_then(Value::as_array);
    items.map(|items| items.iter().map(cell).collect::<Vec<_>>().join(",")).unwrap_or_default()
}

pub(crate) fn table<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    table
}

fn print(table: &Table) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for line in table.lines() {
        writeln!(out, "{}", line.trim())?;
    }
    Ok(())
}

/// Prints a value as JSON or YAML.
pub fn encoded<T: Serialize>(value: &T, format: Format) -> Result<()> {
    let text = match format {
        Format::Yaml => serde_saphyr::to_string(value)?,
        _ => serde_json::to_string_pretty(value)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
