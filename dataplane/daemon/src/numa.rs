//! Where cores and devices of this host are, and so where packet memory should be: on the node of the device that fills it.

use capsule::Device;
use std::collections::BTreeMap;
use std::path::Path;
use turnpike_wire::topology::{self, Place, misplaced};

/// NUMA nodes of what the dataplane uses. On a host of one node all are none: nothing is far from anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Of each worker's core.
    pub(crate) workers: Vec<Option<u32>>,
    /// Of each device.
    pub(crate) devices: Vec<Option<u32>>,
}

impl Layout {
    /// As the kernel says under `sys`.
    pub(crate) fn of(sys: &Path, cores: &[u16], devices: &[Device]) -> Self {
        if topology::nodes(sys).len() < 2 {
            return Self { workers: vec![None; cores.len()], devices: vec![None; devices.len()] };
        }
        let of_device = |device: &Device| match device {
            Device::Pci(address) => topology::node_of_pci(sys, address),
            Device::Virtual { .. } => topology::node_of_interface(sys, device.kernel_interface()?),
        };
        Self {
            workers: cores.iter().map(|&core| topology::node_of_core(sys, u32::from(core))).collect(),
            devices: devices.iter().map(of_device).collect(),
        }
    }

    /// The node whose memory each device's frames should be in: its own, else that of the first worker.
    fn wanted(&self) -> Vec<Option<u32>> {
        let fallback = self.workers.first().copied().flatten();
        self.devices.iter().map(|node| node.or(fallback)).collect()
    }

    /// The pools that packet memory is split into: for each its node and how many devices receive into it. There is one where nodes do not matter, or are not known.
    pub(crate) fn pools(&self) -> BTreeMap<Option<u32>, u32> {
        let mut pools = BTreeMap::new();
        for node in self.wanted() {
            *pools.entry(node).or_insert(0) += 1;
        }
        pools
    }

    /// The node of the pool that a device receives into.
    pub(crate) fn pool_of(&self, device: usize) -> Option<u32> {
        self.wanted().get(device).copied().flatten()
    }

    /// Workers and devices that are far from each other; `ports` are the names of each device's.
    pub(crate) fn misplaced(&self, cores: &[u16], ports: &[&str]) -> Vec<String> {
        let workers = (0..).zip(cores).zip(&self.workers);
        let places: Vec<Place> = workers
            .map(|((worker, &core), &node)| Place { worker, core: u32::from(core), node, flow_node: None })
            .collect();
        let ports: Vec<_> = ports.iter().copied().zip(self.devices.iter().copied()).collect();
        misplaced(&places, &ports)
    }
}

/// MiB of huge pages of every size that a node has free; none where the kernel does not say.
pub(crate) fn free_hugepages_mb(sys: &Path, node: u32) -> Option<u64> {
    let sizes = std::fs::read_dir(sys.join(format!("devices/system/node/node{node}/hugepages"))).ok()?;
    let mb_of = |size: std::fs::DirEntry| {
        let name = size.file_name();
        let page_kb: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let free = std::fs::read_to_string(size.path().join("free_hugepages")).ok()?;
        Some(page_kb.saturating_mul(free.trim().parse().ok()?) / 1024)
    };
    Some(sizes.flatten().filter_map(mb_of).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A host of two nodes with four cores each, a NIC on each, and one that is on none.
    fn host() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let files = [
            ("devices/system/node/online", "0-1"),
            ("devices/system/node/node0/cpulist", "0-3"),
            ("devices/system/node/node1/cpulist", "4-7"),
            ("devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "100"),
            ("devices/system/node/node1/hugepages/hugepages-1048576kB/free_hugepages", "2"),
            ("devices/system/node/node1/hugepages/hugepages-64kB/free_hugepages", "many"),
            ("bus/pci/devices/0000:01:00.0/numa_node", "0"),
            ("bus/pci/devices/0000:81:00.0/numa_node", "1"),
            ("class/net/eth1/device/numa_node", "1"),
        ];
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn layout(sys: &Path, cores: &[u16], devices: &[&str]) -> Layout {
        let devices: Vec<Device> = devices.iter().map(|device| device.parse().unwrap()).collect();
        Layout::of(sys, cores, &devices)
    }

    #[test]
    fn packet_memory_is_where_its_device_is() {
        let host = host();
        // Cores, devices, pools by node with their devices.
        type Row = (&'static [u16], &'static [&'static str], &'static [(Option<u32>, u32)]);
        let rows: &[Row] = &[
            (&[1], &["0000:01:00.0"], &[(Some(0), 1)]),
            (&[1], &["0000:81:00.0"], &[(Some(1), 1)]),
            (&[1], &["0000:01:00.0", "0000:81:00.0"], &[(Some(0), 1), (Some(1), 1)]),
            (&[4], &["net_null0", "net_af_packet0,iface=eth1"], &[(Some(1), 2)]),
            (&[4], &["net_null0", "0000:01:00.0"], &[(Some(0), 1), (Some(1), 1)]),
            (&[99], &["net_null0"], &[(None, 1)]),
        ];
        for (cores, devices, wanted) in rows {
            let layout = layout(host.path(), cores, devices);
            assert_eq!(layout.pools(), wanted.iter().copied().collect(), "{devices:?} with cores {cores:?}");
            let shares: u32 = layout.pools().values().sum();
            assert_eq!(shares as usize, devices.len(), "each device has a pool");
        }
        let both = layout(host.path(), &[1], &["0000:01:00.0", "0000:81:00.0"]);
        assert_eq!([0, 1, 2].map(|device| both.pool_of(device)), [Some(0), Some(1), None]);
    }

    #[test]
    fn a_host_of_one_node_has_nothing_far() {
        let root = tempfile::tempdir().unwrap();
        for online in [None, Some("0\n")] {
            if let Some(text) = online {
                fs::create_dir_all(root.path().join("devices/system/node")).unwrap();
                fs::write(root.path().join("devices/system/node/online"), text).unwrap();
            }
            let layout = layout(root.path(), &[0, 1], &["net_null0"]);
            assert_eq!(layout, Layout { workers: vec![None, None], devices: vec![None] });
            assert_eq!(layout.pools(), [(None, 1)].into_iter().collect());
        }
    }

    #[test]
    fn queues_far_from_their_worker_are_named() {
        let host = host();
        let layout = layout(host.path(), &[1, 5], &["0000:01:00.0", "net_null0"]);
        let found = layout.misplaced(&[1, 5], &["wan", "lan"]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("worker 1 on core 5 is on NUMA node 1, its queue of port wan on node 0"));
    }

    #[test]
    fn huge_pages_of_a_node_are_added_up_over_sizes() {
        let host = host();
        assert_eq!(free_hugepages_mb(host.path(), 1), Some(200 + 2048));
        assert_eq!(free_hugepages_mb(host.path(), 0), None);
    }
}
