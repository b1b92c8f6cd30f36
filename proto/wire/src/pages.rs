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

/// Counters of a worker's page behind those of the packet path.
pub const WORKER_COUNTERS: [&str; 5] =
    ["core", "generation", "flows_max", "ipv6_flows_live", "ipv6_flows_max"];

/// Counters of a port's page. `link_up` is 0 or 1. Of a port that shares its device by VLAN, frames and bytes are those of its own that workers
/// took and gave, and all else up to `nic_rx_no_memory` is the device's. Frames lost before a worker saw them are in the four from `nic_rx_missed` on; the last three
/// are of the port's tap: frames that the kernel took, that it sent, and that were lost between it and the workers.
pub const PORT_COUNTERS: [&str; 12] = [
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

/// The label of a port's page: six words with a tab between, since a device string holds commas and equals signs.
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
}

/// What a label says of a port without a VLAN.
const UNTAGGED: &str = "-";

impl PortLabel {
    /// Reads a label; none if it is no port's.
    #[must_use]
    pub fn parse(label: &str) -> Option<Self> {
        let words: Vec<&str> = label.split('\t').collect();
        let [name, device, driver, mac, steering, vlan] = words.as_slice() else { return None };
        let own = |word: &&str| (*word).to_owned();
        let vlan = if *vlan == UNTAGGED { None } else { Some(vlan.parse().ok()?) };
        Some(Self {
            name: own(name),
            device: own(device),
            driver: own(driver),
            mac: own(mac),
            steering: own(steering),
            vlan,
        })
    }
}

impl fmt::Display for PortLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, device, driver, mac, steering, vlan } = self;
        write!(f, "{name}\t{device}\t{driver}\t{mac}\t{steering}\t")?;
        match vlan {
            Some(vlan) => write!(f, "{vlan}"),
            None => f.write_str(UNTAGGED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_back_as_they_went() {
        for vlan in [None, Some(1), Some(4094)] {
            let label = PortLabel {
                name: "wan".into(),
                device: "net_af_packet0,iface=gw0,qpairs=2".into(),
                driver: "net_af_packet".into(),
                mac: "02:00:00:00:00:01".into(),
                steering: "handoff".into(),
                vlan,
            };
            assert_eq!(PortLabel::parse(&label.to_string()), Some(label));
        }
        for other in ["", "wan", "a\tb\tc\td\te", "a\tb\tc\td\te\tf", "a\tb\tc\td\te\t7\tg"] {
            assert_eq!(PortLabel::parse(other), None, "{other:?}");
        }
    }
}
