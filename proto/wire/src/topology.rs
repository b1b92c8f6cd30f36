//! NUMA nodes of this host as `/sys` tells them: of cores, of PCI devices, of network interfaces. Each question has a folder in place of `/sys`, so
//! that hosts can be made up. What is not there is not known: a kernel without NUMA, a virtual machine, a virtual device.

use std::path::Path;

/// Nodes looked at; Linux has no more.
const NODES_MAX: u32 = 1024;

/// The NUMA nodes that are online, ascending; none where the kernel does not say.
#[must_use]
pub fn nodes(sys: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(sys.join("devices/system/node/online")).unwrap_or_default();
    numbers(&text).into_iter().filter(|node| *node < NODES_MAX).collect()
}

/// The node of a core.
#[must_use]
pub fn node_of_core(sys: &Path, core: u32) -> Option<u32> {
    nodes(sys).into_iter().find(|node| {
        let cores = sys.join(format!("devices/system/node/node{node}/cpulist"));
        numbers(&std::fs::read_to_string(cores).unwrap_or_default()).contains(&core)
    })
}

/// The node of a PCI device, named by its address in full.
#[must_use]
pub fn node_of_pci(sys: &Path, address: &str) -> Option<u32> {
    node_in(&sys.join("bus/pci/devices").join(address))
}

/// The node of the device behind a network interface of the kernel; none for one that is virtual.
#[must_use]
pub fn node_of_interface(sys: &Path, name: &str) -> Option<u32> {
    node_in(&sys.join("class/net").join(name).join("device"))
}

/// -1 is what Linux says of a device of no node.
fn node_in(device: &Path) -> Option<u32> {
    std::fs::read_to_string(device.join("numa_node")).ok()?.trim().parse().ok()
}

/// Where a worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// From 0.
    pub worker: u32,
    /// Its core.
    pub core: u32,
    /// NUMA node of that.
    pub node: Option<u32>,
    /// NUMA node of its flow table.
    pub flow_node: Option<u32>,
}

/// What is far from each other and should not be: workers from the devices of ports (name and node) that they serve, and from their flow tables. Each with
/// the mend. Nothing is said of what is not known.
#[must_use]
pub fn misplaced(workers: &[Place], ports: &[(&str, Option<u32>)]) -> Vec<String> {
    let mut found = Vec::new();
    for Place { worker, core, node, flow_node } in workers {
        let Some(node) = node else { continue };
        for (port, of_port) in ports.iter().filter_map(|(port, of_port)| Some((port, (*of_port)?))) {
            if of_port != *node {
                found.push(format!(
                    "worker {worker} on core {core} is on NUMA node {node}, its queue of port {port} on node {of_port}: every packet crosses between \
                     them; give dataplane.workers cores of node {of_port} (/sys/devices/system/node/node{of_port}/cpulist)"
                ));
            }
        }
        if let Some(flow_node) = flow_node.filter(|flow_node| flow_node != node) {
            found.push(format!(
                "worker {worker} on core {core} is on NUMA node {node}, its flow table on node {flow_node}: that node had the free huge pages; reserve \
                 some on node {node} (/sys/devices/system/node/node{node}/hugepages) and restart the dataplane"
            ));
        }
    }
    found
}

/// The numbers of a list as Linux writes it, such as `0-3,8,10-11`, ascending. What is no such list gives what was readable of it.
#[must_use]
pub fn numbers(list: &str) -> Vec<u32> {
    const NUMBERS_MAX: u32 = 8192;
    let mut found = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) else {
            continue;
        };
        found.extend(first..=last.min(first.saturating_add(NUMBERS_MAX)));
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lists_as_linux_writes_them() {
        let rows: &[(&str, &[u32])] = &[
            ("0\n", &[0]),
            ("0-3,8,10-11\n", &[0, 1, 2, 3, 8, 10, 11]),
            ("5,1", &[1, 5]),
            ("", &[]),
            ("\n", &[]),
            ("(null)", &[]),
            ("3-1", &[]),
            ("a,2,-", &[2]),
        ];
        for (text, wanted) in rows {
            assert_eq!(numbers(text), *wanted, "{text:?}");
        }
        assert!(numbers("0-4294967295").len() < 10_000, "a list is bounded");
    }

    #[test]
    fn what_is_far_from_its_worker_is_told_with_the_mend() {
        let place = |worker, node, flow_node| Place { worker, core: 10 + worker, node, flow_node };
        type Ports = &'static [(&'static str, Option<u32>)];
        let rows: &[(Place, Ports, &[&str])] = &[
            (place(0, Some(0), Some(0)), &[("wan", Some(0)), ("lan", None)], &[]),
            (place(0, None, None), &[("wan", Some(1))], &[]),
            (
                place(3, Some(0), Some(0)),
                &[("wan", Some(1)), ("lan", Some(0))],
                &["worker 3 on core 13 is on NUMA node 0, its queue of port wan on node 1"],
            ),
            (
                place(1, Some(1), Some(0)),
                &[],
                &["its flow table on node 0: that node had the free huge pages; reserve some on node 1"],
            ),
            (place(1, Some(1), Some(0)), &[("wan", Some(0))], &["cores of node 0", "flow table on node 0"]),
        ];
        for (place, ports, wanted) in rows {
            let found = misplaced(&[*place], ports);
            assert_eq!(found.len(), wanted.len(), "{found:?}");
            for (found, wanted) in found.iter().zip(*wanted) {
                assert!(found.contains(wanted), "{found}");
            }
        }
    }

    #[test]
    fn nodes_of_a_made_up_host() {
        let root = tempfile::tempdir().unwrap();
        let sys = root.path();
        assert_eq!((nodes(sys), node_of_core(sys, 0)), (vec![], None), "a kernel without NUMA");
        let write = |path: &str, text: &str| {
            let path = sys.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("devices/system/node/online", "0-1\n");
        write("devices/system/node/node0/cpulist", "0-3\n");
        write("devices/system/node/node1/cpulist", "4-7\n");
        write("bus/pci/devices/0000:81:00.0/numa_node", "1\n");
        write("bus/pci/devices/0000:00:05.0/numa_node", "-1\n");
        write("class/net/eth0/device/numa_node", "0\n");
        write("class/net/veth0/ifindex", "7\n");
        assert_eq!(nodes(sys), [0, 1]);
        assert_eq!(
            [0, 3, 4, 7, 8].map(|core| node_of_core(sys, core)),
            [Some(0), Some(0), Some(1), Some(1), None]
        );
        assert_eq!(node_of_pci(sys, "0000:81:00.0"), Some(1));
        assert_eq!(node_of_pci(sys, "0000:00:05.0"), None);
        assert_eq!(node_of_pci(sys, "0000:ff:00.0"), None);
        assert_eq!(node_of_interface(sys, "eth0"), Some(0));
        assert_eq!(node_of_interface(sys, "veth0"), None);
    }
}
