//! The status of the gateway as metrics.

use crate::state::State;
use crate::view;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;
use turnpike_wire::admin::{
    DataplaneStatus, EtcdStatus, FillStatus, ObjectsStatus, PortStatus, WorkerStatus,
};
use turnpike_wire::pages::{WORKER_TALLIES, is_verdict};

/// See the module.
#[derive(Debug)]
pub(super) struct Gateway {
    state: Arc<State>,
}

/// Counters of a worker's page that are no verdicts: what they are in the metrics, their text, and whether they only grow.
pub(super) const TALLIES: &[(&str, &str, &str, bool)] = &[
    ("rx_packets", "worker_received_packets", "Frames received", true),
    ("rx_bytes", "worker_received_bytes", "Bytes received", true),
    ("tx_packets", "worker_sent_packets", "Frames handed to transmit queues", true),
    ("tx_bytes", "worker_sent_bytes", "Bytes handed to transmit queues", true),
    ("flows_opened", "worker_flows_opened", "Flows made", true),
    ("flows_closed", "worker_flows_closed", "Flows that ended or aged out", true),
    ("flows_live", "worker_flows", "Flows that are live", false),
    ("flows_max", "worker_flows_limit", "Flows that a worker can hold", false),
    ("ipv6_flows_live", "worker_ipv6_flows", "Flows over IPv6 that are live", false),
    ("ipv6_flows_max", "worker_ipv6_flows_limit", "Flows over IPv6 that a worker can hold", false),
    ("held_frames", "worker_held_frames", "Frames that wait for a next hop", false),
    ("fragments_held", "worker_held_fragments", "Fragments that wait for the first of their datagram", false),
    ("generation", "worker_adopted_generation", "Generation that the worker has adopted", false),
];

/// The fates of packets, each under its own name.
const VERDICTS: (&str, &str) = ("packets", "Received frames by their one fate");
/// All other tallies, each under its own name.
const EVENTS: (&str, &str) = ("worker_events", "What a worker did that is no packet's fate");

impl Gateway {
    pub(super) const fn new(state: Arc<State>) -> Self {
        Self { state }
    }
}

impl Collector for Gateway {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = view::status(&self.state);
        let mut out = Out(encoder);
        out.labelled(
            "info",
            "Version and mode of the control plane",
            MetricType::Gauge,
            [(vec![("version", status.version.clone()), ("mode", status.mode.clone())], 1)],
        )?;
        etcd(&mut out, &status.etcd)?;
        objects(&mut out, &status.objects)?;
        dataplane(&mut out, &status.dataplane)?;
        workers(&mut out, &status.dataplane.workers)?;
        ports(&mut out, &status.dataplane.ports)?;
        fill(&mut out, &status.fill)
    }
}

fn fill(out: &mut Out<'_>, fill: &FillStatus) -> fmt::Result {
    out.gauge("snat_ports", "SNAT ports there are towards each backend and protocol", fill.snat_ports)?;
    let fullest = fill.backends.first().map_or(0, |backend| backend.ports);
    out.gauge("snat_ports_used_most", "SNAT ports in use towards the fullest backend", fullest)?;
    let over = [("70", fill.backends_over_70_percent), ("90", fill.backends_over_90_percent)];
    let lines = over.map(|(percent, count)| (vec![("percent", percent.to_owned())], count));
    let help = "Backends towards which more than so many percent of the SNAT ports are in use";
    out.labelled("snat_backends_filling", help, MetricType::Gauge, lines)
}

type Labels = Vec<(&'static str, String)>;

struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = ConstGauge::new(value as i64);
        metric.encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn seconds(&mut self, name: &str, help: &str, milliseconds: u64) -> fmt::Result {
        let metric = ConstGauge::new(milliseconds as f64 / 1_000.0);
        metric.encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = ConstCounter::new(value);
        metric.encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    /// One family with a line for each set of labels.
    fn labelled(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        lines: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in lines {
            let labels = LabelSet(labels);
            let line = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => ConstCounter::new(value).encode(line)?,
                _ => ConstGauge::new(value as i64).encode(line)?,
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct LabelSet(Labels);

impl EncodeLabelSet for LabelSet {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        use prometheus_client::encoding::EncodeLabel;
        self.0.iter().try_for_each(|(name, value)| (*name, value.as_str()).encode(encoder.encode_label()))
    }
}

fn etcd(out: &mut Out<'_>, etcd: &EtcdStatus) -> fmt::Result {
    out.gauge("etcd_connected", "1 while etcd is followed", u64::from(etcd.state == "connected"))?;
    out.gauge("etcd_revision", "Last etcd revision that was seen", etcd.revision.max(0) as u64)?;
    out.counter("etcd_reconnects", "Times the watch had to be made anew", etcd.reconnects)?;
    out.counter("etcd_relists", "Times everything had to be listed anew", etcd.relists)?;
    if let Some(milliseconds) = etcd.last_heard_ms {
        out.seconds("etcd_last_heard_seconds", "Time since etcd said something", milliseconds)?;
    }
    let held_back = u64::from(etcd.held_back.is_some());
    out.gauge("etcd_view_held_back", "1 while a view that lacks too much is held back", held_back)
}

fn objects(out: &mut Out<'_>, objects: &ObjectsStatus) -> fmt::Result {
    let kinds = [
        ("Service", objects.services),
        ("EndpointSlice", objects.endpoint_slices),
        ("Pod", objects.pods),
        ("Node", objects.nodes),
    ];
    let lines = kinds.map(|(kind, count)| (vec![("kind", kind.to_owned())], count));
    out.labelled("objects", "Objects in etcd", MetricType::Gauge, lines)?;
    out.gauge("frontends", "Addresses, ports and protocols that are answered", objects.frontends)?;
    out.gauge("backends", "Backends over all Service ports", objects.backends)?;
    let problems = objects.skipped.len() as u64;
    out.gauge("objects_with_problems", "Objects, or parts of them, that are not used", problems)
}

fn dataplane(out: &mut Out<'_>, dataplane: &DataplaneStatus) -> fmt::Result {
    let revision = |revision: i64| revision.max(0) as u64;
    out.gauge("dataplane_serving", "1 while a dataplane beats", u64::from(dataplane.state == "serving"))?;
    out.gauge("published_generation", "Last generation sent", dataplane.published_generation)?;
    out.gauge("published_revision", "etcd revision of it", revision(dataplane.published_revision))?;
    out.gauge("adopted_generation", "Last generation adopted by every worker", dataplane.adopted_generation)?;
    out.gauge("adopted_revision", "etcd revision of it", revision(dataplane.adopted_revision))?;
    out.counter("snapshots", "Full snapshots sent", dataplane.snapshots)?;
    out.counter("refused_transactions", "Transactions the dataplane refused", dataplane.refused)
}

fn workers(out: &mut Out<'_>, workers: &[WorkerStatus]) -> fmt::Result {
    let worker_label = |worker: &WorkerStatus| ("worker", worker.worker.to_string());
    for (counter, name, help, grows) in TALLIES {
        let kind = if *grows { MetricType::Counter } else { MetricType::Gauge };
        let lines = workers
            .iter()
            .filter_map(|worker| Some((vec![worker_label(worker)], *worker.counters.get(*counter)?)));
        out.labelled(name, help, kind, lines)?;
    }
    let named = |label: &'static str, wanted: fn(&str) -> bool| {
        workers.iter().flat_map(move |worker| {
            let shown = worker.counters.iter().filter(move |(name, _)| wanted(name));
            shown.map(move |(name, count)| (vec![worker_label(worker), (label, name.clone())], *count))
        })
    };
    let (name, help) = VERDICTS;
    out.labelled(name, help, MetricType::Counter, named("verdict", is_verdict))?;
    let (name, help) = EVENTS;
    out.labelled(name, help, MetricType::Counter, named("event", is_event))
}

/// Whether a counter is a tally without a metric of its own.
fn is_event(name: &str) -> bool {
    WORKER_TALLIES.contains(&name) && !TALLIES.iter().any(|(tally, ..)| *tally == name)
}

fn ports(out: &mut Out<'_>, ports: &[PortStatus]) -> fmt::Result {
    let port_label = |port: &PortStatus| ("port", port.name.clone());
    let up = ports.iter().map(|port| (vec![port_label(port)], u64::from(port.link_up)));
    out.labelled("port_up", "1 while the link is up", MetricType::Gauge, up)?;
    let lines = ports.iter().flat_map(|port| {
        let counters = port.counters.iter().filter(|(name, _)| name.as_str() != "link_up");
        counters.map(move |(name, count)| (vec![port_label(port), ("counter", name.clone())], *count))
    });
    out.labelled("port_counters", "Counters of the NIC by their names", MetricType::Counter, lines)
}
