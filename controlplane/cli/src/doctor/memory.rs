//! Memory: huge pages for packets and flow tables, and the folder of the shared memory.

use super::{Finding, Findings, Patient};
use turnpike_wire::config::Hugepages;
use turnpike_wire::topology;

/// Bytes of a flow, index included, at most: of IPv4, of IPv6.
const FLOW_BYTES: [u64; 2] = [96, 160];

const SIZES_KB: [u64; 2] = [1 << 20, 2 << 10];

/// MiB that the dataplane takes: packets, and the flow tables of all workers, each in whole 2 MiB pages.
fn needed_mb(patient: &Patient<'_>) -> u64 {
    let dataplane = &patient.config.dataplane;
    let speaks_ipv6 = patient.config.own_addresses().iter().any(std::net::IpAddr::is_ipv6);
    let flows6 = dataplane.ipv6_flows_per_worker.unwrap_or(dataplane.flows_per_worker);
    let flows = [dataplane.flows_per_worker, if speaks_ipv6 { flows6 } else { 0 }];
    let table_mb = |(flows, bytes): (u32, u64)| (u64::from(flows) * bytes).div_ceil(2 << 20) * 2;
    let tables_mb: u64 = flows.into_iter().zip(FLOW_BYTES).map(table_mb).sum();
    u64::from(dataplane.memory_mb) + tables_mb * dataplane.workers.len() as u64
}

/// There are huge pages for it, where the workers are.
pub fn hugepages(patient: &Patient<'_>) -> Vec<Finding> {
    let (mut found, host, dataplane) = (Findings::of("hugepages"), patient.host, &patient.config.dataplane);
    if dataplane.hugepages == Hugepages::Never {
        return found.or_ok("dataplane.hugepages = \"never\": ordinary pages, which are slower");
    }
    if !host.has("sys/kernel/mm/hugepages") {
        let (message, mend) = (
            "this kernel has no huge pages",
            "boot a kernel with CONFIG_HUGETLBFS, or set dataplane.hugepages = \"never\"",
        );
        match dataplane.hugepages {
            Hugepages::Require => found.fail(message, mend),
            _ => found.warn(message, mend),
        }
        return found.or_ok("");
    }
    if patient.is_running() {
        let workers = patient.status.map(|status| status.dataplane.workers.as_slice()).unwrap_or_default();
        for worker in workers.iter().filter(|worker| (1..2 << 20).contains(&worker.flow_page_bytes)) {
            found.warn(
                format!("the flow table of worker {} is in ordinary pages", worker.worker),
                "reserve more huge pages (vm.nr_hugepages) and restart the dataplane",
            );
        }
        return found.or_ok("the dataplane has its huge pages");
    }
    let needed_mb = needed_mb(patient);
    let free = |folder: &str| -> u64 {
        let of_size = |kb: u64| {
            let folder = format!("{folder}/hugepages-{kb}kB");
            let count = |name: &str| host.number(format!("{folder}/{name}")).unwrap_or(0);
            count("free_hugepages").saturating_sub(count("resv_hugepages")).saturating_mul(kb) / 1024
        };
        SIZES_KB.map(of_size).iter().sum()
    };
    let free_mb = free("sys/kernel/mm/hugepages");
    if free_mb < needed_mb {
        let reserved = host.number("proc/sys/vm/nr_hugepages").unwrap_or(0);
        let pages = reserved + (needed_mb - free_mb).div_ceil(2);
        let message = format!(
            "{needed_mb} MiB of huge pages are wanted (packets and flow tables), {free_mb} MiB are free"
        );
        let mend = format!(
            "sysctl -w vm.nr_hugepages={pages}, and the same in /etc/sysctl.d/80-turnpike.conf; 1 GiB pages are reserved at boot: hugepagesz=1G hugepages={}",
            needed_mb.div_ceil(1024)
        );
        match dataplane.hugepages {
            Hugepages::Require => found.fail(message, mend),
            _ => found.warn(message, mend),
        }
        return found.or_ok("");
    }
    let nodes = topology::nodes(&host.sys());
    let used = |node: &u32| {
        let on_node = |core: &u16| topology::node_of_core(&host.sys(), u32::from(*core)) == Some(*node);
        dataplane.workers.iter().filter(|core| on_node(core)).count() as u64
    };
    for node in nodes.iter().filter(|_| nodes.len() > 1) {
        let wanted_mb =
            (needed_mb - u64::from(dataplane.memory_mb)) / dataplane.workers.len().max(1) as u64 * used(node);
        let folder = format!("sys/devices/system/node/node{node}/hugepages");
        let free_mb = free(&folder);
        if free_mb < wanted_mb {
            found.warn(
                format!("flow tables of workers on NUMA node {node} want {wanted_mb} MiB of huge pages, that node has {free_mb} MiB free"),
                format!("echo {} > /{folder}/hugepages-2048kB/nr_hugepages", wanted_mb.div_ceil(2)),
            );
        }
    }
    found.or_ok(format!("{needed_mb} MiB of huge pages are wanted, {free_mb} MiB are free"))
}

/// The folder of the shared memory is there.
pub fn shared(patient: &Patient<'_>) -> Vec<Finding> {
    let (mut found, folder) = (Findings::of("shared memory"), &patient.config.gateway.shm_dir);
    let inside = folder.strip_prefix("/").unwrap_or(folder);
    if !patient.host.path(inside).is_dir() {
        let shown = folder.display();
        found.fail(
            format!("gateway.shm_dir: there is no folder {shown}"),
            format!("mkdir -p {shown} && mount -t tmpfs tmpfs {shown}"),
        );
    }
    found.or_ok(format!("in {}", folder.display()))
}
