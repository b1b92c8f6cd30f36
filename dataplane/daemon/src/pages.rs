//! The counter pages other processes read: one a worker, one a port, one for the gateway. Each has one writer, which overwrites whole words.

use crate::conversation::ConversationTally;
use crate::exception::TapTally;
use crate::open_io::{Io, mac_text};
use capsule::{HashCheck, Stats};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use turnpike_forward::gateway::Gateway;
use turnpike_forward::verdict::Counters;
use turnpike_forward::worker::{Traffic, Worker};
use turnpike_packet::io::Frame;
use turnpike_shm::{CounterFile, CounterPage, KIND_GATEWAY, KIND_PORT, KIND_WORKER, PageSpec, ShmError};
use turnpike_wire::config::Dataplane;
use turnpike_wire::pages::{GATEWAY_COUNTERS, NO_NODE, PORT_COUNTERS, PortLabel, WORKER_COUNTERS};

/// The pages of one dataplane, each for its writer.
pub(crate) struct Pages {
    pub(crate) workers: Vec<WorkerPage>,
    pub(crate) ports: Vec<PortPage>,
    pub(crate) gateway: GatewayPage,
}

/// A worker's page.
pub(crate) struct WorkerPage {
    page: CounterPage,
    core: u16,
    memory: FlowMemory,
    /// Where it tells what has crossed ports that share their device.
    told: Vec<(usize, Arc<ToldTraffic>)>,
}

/// Where a worker and its flow table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowMemory {
    /// NUMA node of the worker's core.
    pub(crate) node: Option<u32>,
    /// Bytes of a page of its flow table.
    pub(crate) page_bytes: usize,
    /// NUMA node of that.
    pub(crate) flow_node: Option<u32>,
}

/// What one worker last told of the traffic of one port.
#[derive(Debug, Default)]
struct ToldTraffic([AtomicU64; 4]);

/// A port's page.
pub(crate) struct PortPage {
    page: CounterPage,
    /// What has crossed its tap, if it has one.
    tap: Option<Arc<TapTally>>,
    /// What each worker tells of it, if it shares its device.
    traffic: Vec<Arc<ToldTraffic>>,
}

/// The gateway's page.
pub(crate) struct GatewayPage(CounterPage);

/// What the control thread counts, in the order of [`GATEWAY_COUNTERS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GatewayCounters {
    pub(crate) control_alive: bool,
    pub(crate) conversation: ConversationTally,
    pub(crate) next_hops: u64,
    pub(crate) next_hops_resolved: u64,
    pub(crate) uptime_ms: u64,
}

/// Makes the file in `folder`.
pub(crate) fn create(
    folder: &Path,
    dataplane: &Dataplane,
    io: &Io,
    gateway: &Gateway,
) -> Result<Pages, ShmError> {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let mut specs = Vec::new();
    for (index, core) in (0u32..).zip(&dataplane.workers) {
        let names = Counters::names().chain(WORKER_COUNTERS).map(str::to_owned).collect();
        specs.push(PageSpec { kind: KIND_WORKER, index, label: format!("core {core}"), names });
    }
    let nodes = io.device_of.iter().map(|&device| io.layout.devices.get(device).copied().flatten());
    for (index, (((named, port), side), node)) in
        (0u32..).zip(dataplane.ports.iter().zip(io.of_ports()).zip(gateway.ports()).zip(nodes))
    {
        let label = PortLabel {
            name: named.name.clone(),
            device: port.device().to_owned(),
            driver: port.driver().to_owned(),
            mac: mac_text(port.info().mac),
            steering: side.steering.name().to_owned(),
            vlan: named.vlan,
            node,
            offloads: port.offloads().to_string(),
        };
        specs.push(PageSpec {
            kind: KIND_PORT,
            index,
            label: label.to_string(),
            names: owned(&PORT_COUNTERS),
        });
    }
    specs.push(PageSpec {
        kind: KIND_GATEWAY,
        index: 0,
        label: "gateway".into(),
        names: owned(&GATEWAY_COUNTERS),
    });

    let mut pages = CounterFile::create(folder, &specs)?.into_iter();
    let workers = dataplane.workers.iter().zip(&mut pages);
    let mut workers: Vec<_> = workers
        .map(|(&core, page)| WorkerPage { page, core, memory: FlowMemory::UNKNOWN, told: Vec::new() })
        .collect();
    let ports = (0..dataplane.ports.len()).zip(&mut pages);
    let ports = ports.map(|(port, page)| {
        let mut traffic = Vec::new();
        for worker in workers.iter_mut().filter(|_| gateway.is_trunked(port)) {
            let told = Arc::<ToldTraffic>::default();
            worker.told.push((port, Arc::clone(&told)));
            traffic.push(told);
        }
        PortPage { page, tap: None, traffic }
    });
    let ports = ports.collect();
    let gateway = pages.next().map(GatewayPage).ok_or(ShmError::Counters { reason: "a page is missing" })?;
    Ok(Pages { workers, ports, gateway })
}

impl FlowMemory {
    const UNKNOWN: Self = Self { node: None, page_bytes: 0, flow_node: None };
}

impl WorkerPage {
    /// Says where the worker and its flow table are; shown with the counters.
    pub(crate) fn placed(&mut self, memory: FlowMemory) {
        self.memory = memory;
    }

    /// Shows a worker's counters and the generation it works by, and tells what has crossed ports that share their device.
    pub(crate) fn show<F: Frame>(&mut self, worker: &Worker<'_, F>) {
        self.page.set_all(worker.counters().values());
        let (v4, v6) = (&worker.flows().v4, &worker.flows().v6);
        let most = u64::from(v4.capacity()) + u64::from(v6.capacity());
        let of_ipv6 = [v6.live(), v6.capacity()].map(u64::from);
        let FlowMemory { node, page_bytes, flow_node } = self.memory;
        let of_node = |node: Option<u32>| node.map_or(NO_NODE, u64::from);
        let further: [u64; WORKER_COUNTERS.len()] = [
            u64::from(self.core),
            worker.tables().generation,
            most,
            of_ipv6[0],
            of_ipv6[1],
            of_node(node),
            page_bytes as u64,
            of_node(flow_node),
        ];
        for (at, value) in (Counters::COUNT..).zip(further) {
            self.page.set(at, value);
        }
        for (port, told) in &self.told {
            told.tell(&worker.traffic(*port).unwrap_or_default());
        }
    }
}

impl PortPage {
    /// The same page, on which is also shown what crosses the port's tap.
    pub(crate) fn with_tap(self, tap: Option<Arc<TapTally>>) -> Self {
        Self { tap, ..self }
    }

    /// Shows what the driver of its device counts, and what has crossed the tap. Of ports that share a device the workers know the traffic.
    pub(crate) fn show(&mut self, stats: &Stats, hashes: HashCheck, up: bool) {
        let traffic = if self.traffic.is_empty() {
            [stats.rx_frames, stats.rx_bytes, stats.tx_frames, stats.tx_bytes]
        } else {
            std::array::from_fn(|at| self.traffic.iter().map(|told| told.0[at].load(Ordering::Relaxed)).sum())
        };
        let [rx_frames, rx_bytes, tx_frames, tx_bytes] = traffic;
        let tap = |counter: fn(&TapTally) -> &AtomicU64| {
            self.tap.as_ref().map_or(0, |tap| counter(tap).load(Ordering::Relaxed))
        };
        let (to_kernel, from_kernel, lost) =
            (tap(|t| &t.to_kernel), tap(|t| &t.from_kernel), tap(|t| &t.lost));
        self.page.set_all(&[
            u64::from(up),
            rx_frames,
            rx_bytes,
            tx_frames,
            tx_bytes,
            stats.rx_missed,
            stats.rx_errors,
            stats.tx_errors,
            stats.rx_no_memory,
            to_kernel,
            from_kernel,
            lost,
            hashes.checked,
            hashes.astray,
        ]);
    }
}

impl ToldTraffic {
    fn tell(&self, traffic: &Traffic) {
        let counts = [traffic.rx_frames, traffic.rx_bytes, traffic.tx_frames, traffic.tx_bytes];
        for (word, count) in self.0.iter().zip(counts) {
            word.store(count, Ordering::Relaxed);
        }
    }
}

impl GatewayPage {
    /// Shows what the control thread counts.
    pub(crate) fn show(&mut self, counters: &GatewayCounters) {
        self.0.set_all(&counters.values());
    }
}

impl GatewayCounters {
    const fn values(&self) -> [u64; GATEWAY_COUNTERS.len()] {
        [
            self.control_alive as u64,
            self.conversation.control_planes,
            self.conversation.records,
            self.conversation.snapshots,
            self.conversation.transactions,
            self.conversation.refused_transactions,
            self.conversation.undecodable_records,
            self.conversation.ring_corruptions,
            self.next_hops,
            self.next_hops_resolved,
            self.uptime_ms,
        ]
    }
}

#[cfg(test)]
mod tests {
    use turnpike_forward::verdict::{Counters, Tally, Verdict};
    use turnpike_wire::pages::{WORKER_TALLIES, is_verdict};

    #[test]
    fn those_who_read_the_pages_know_verdicts_from_tallies() {
        let tallies: Vec<&str> = Tally::ALL.iter().map(|tally| tally.name()).collect();
        assert_eq!(tallies, WORKER_TALLIES);
        let verdicts: Vec<&str> = Counters::names().filter(|name| is_verdict(name)).collect();
        assert_eq!(verdicts.len(), Verdict::ALL.len());
    }
}
