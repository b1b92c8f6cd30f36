//! What the dataplane's counter pages are called, beside the counters that `forward` names: labels and further counters, for the process
//! that writes them and for those that read them.

use std::fmt;

/// Counters of a worker's page that are no packet's fate; all others before [`WORKER_COUNTERS`] are verdicts.
pub const WORKER_TALLIES: [&str; 31] = [
    "rx_packets",
    "rx_bytes",
    "tx_packets",
    "tx_bytes",
    "flows_opened",
    "flows_adopted",
    "flows_closed",
    "udp_flows_cleaned",
    "tcp_ignored",
    "affinities_evicted",
    "clients_forgotten",
    "snat_rests_cut",
    "snat_rests_broken",
    "flows_live",
    "arp_requests",
    "arp_announcements",
    "neighbour_solicitations",
    "neighbour_announcements",
    "listener_reports",
    "icmp_sent",
    "icmp_translated",
    "mss_clamped",
    "resets_sent",
    "held_frames",
    "fragments_made",
    "fragments_held",
    "from_kernel",
    "from_kernel_refused",
    "from_kernel_lost",
    "busy_turns",
    "idle_turns",
];

/// Whether a counter of a worker's page counts packets by their fate.
#[must_use]
pub fn is_verdict(name: &str) -> bool {
    !WORKER_TALLIES.contains(&name) && !WORKER_COUNTERS.contains(&name)
}

/// Counters of a worker's page behind those of the packet path. The last three say where it is: the NUMA node of its core, the page size of its flow table in
/// bytes, and the NUMA node of that; [`NO_NODE`] where it is not known.
pub const WORKER_COUNTERS: [&str; 8] = [
    "core",
    "generation",
    "flows_max",
    "ipv6_flows_live",
    "ipv6_flows_max",
    "numa_node",
    "flow_page_bytes",
    "flow_numa_node",
];

/// What a counter that names a NUMA node says of none.
pub const NO_NODE: u64 = u64::MAX;

/// The node that a counter names.
#[must_use]
pub fn node_of(counter: u64) -> Option<u32> {
    u32::try_from(counter).ok()
}

/// Counters of a port's page. `link_up` is 0 or 1. Of a port that shares its device by VLAN, frames and bytes are those of its own that workers
/// took and gave, and all else up to `nic_rx_no_memory` is the device's. Frames lost before a worker saw them are in the four from `nic_rx_missed` on; three
/// are of the port's tap: frames that the kernel took, that it sent, and that were lost between it and the workers. The last two are of frames whose hash was held against
/// the queue they came to, where the NIC leaves hashes with frames: how many, and how many belong to another queue.
pub const PORT_COUNTERS: [&str; 14] = [
    "link_up",
    "nic_rx_frames",
    "nic_rx_bytes",
    "nic_tx_frames",
    "nic_tx_bytes",
    "nic_rx_missed",
    "nic_rx_errors",
    "nic_tx_errors",
    "nic_rx_no_memory",
    "tap_to_kernel",
    "tap_from_kernel",
    "tap_lost",
    "nic_hash_checked",
    "nic_hash_astray",
];

/// Counters of the gateway's page. `control_alive` is 0 or 1.
pub const GATEWAY_COUNTERS: [&str; 11] = [
    "control_alive",
    "control_planes",
    "records",
    "snapshots",
    "transactions",
    "refused_transactions",
    "undecodable_records",
    "ring_corruptions",
    "next_hops",
    "next_hops_resolved",
    "uptime_ms",
];

/// The label of a port's page: eight words with a tab between, since a device string holds commas and equals signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortLabel {
    /// Name in the configuration.
    pub name: String,
    /// DPDK device.
    pub device: String,
    /// Driver.
    pub driver: String,
    /// Ethernet address, as `02:00:00:00:00:01`.
    pub mac: String,
    /// How packets find their worker: `rss` or `handoff`.
    pub steering: String,
    /// Its VLAN; none: frames without a tag.
    pub vlan: Option<u16>,
    /// The NUMA node of its device; none: virtual, or the host has one node.
    pub node: Option<u32>,
    /// What its driver does beside receiving and sending: `none`, or words with commas between.
    pub offloads: String,
}

/// What a label says of a port without a VLAN, or of no node.
const NONE: &str = "-";

impl PortLabel {
    /// Reads a label; none if it is no port's.
    #[must_use]
    pub fn parse(label: &str) -> Option<Self> {
        let words: Vec<&str> = label.split('\t').collect();
        let [name, device, driver, mac, steering, vlan, node, offloads] = words.as_slice() else {
            return None;
        };
        let own = |word: &&str| (*word).to_owned();
        let vlan = if *vlan == NONE { None } else { Some(vlan.parse().ok()?) };
        let node = if *node == NONE { None } else { Some(node.parse().ok()?) };
        Some(Self {
            name: own(name),
            device: own(device),
            driver: own(driver),
            mac: own(mac),
            steering: own(steering),
            vlan,
            node,
            offloads: own(offloads),
        })
    }
}

impl fmt::Display for PortLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, device, driver, mac, steering, vlan, node, offloads } = self;
        let vlan = vlan.map_or_else(|| NONE.into(), |vlan| vlan.to_string());
        let node = node.map_or_else(|| NONE.into(), |node| node.to_string());
        write!(f, "{name}\t{device}\t{driver}\t{mac}\t{steering}\t{vlan}\t{node}\t{offloads}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_back_as_they_went() {
        for (vlan, node) in [(None, None), (Some(1), Some(0)), (Some(4094), None), (None, Some(1))] {
            let label = PortLabel {
                name: "wan".into(),
                device: "net_af_packet0,iface=gw0,qpairs=2".into(),
                driver: "net_af_packet".into(),
                mac: "02:00:00:00:00:01".into(),
                steering: "handoff".into(),
                vlan,
                node,
                offloads: "rss-hash,fast-free".into(),
            };
            assert_eq!(PortLabel::parse(&label.to_string()), Some(label));
        }
        let six = "a\tb\tc\td\te\t7";
        let wrong = ["\tx\tnone", "\t-\tnone\tmore", "\t-", ""].map(|end| format!("{six}{end}"));
        for other in wrong.iter().map(String::as_str).chain(["", "wan", "a\tb\tc\td\te\tf\t-\tnone"]) {
            assert_eq!(PortLabel::parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_counter_of_a_node_may_say_none() {
        assert_eq!([0, 1, NO_NODE].map(node_of), [Some(0), Some(1), None]);
    }
}
