//! From the configuration to open queues: cores, environment, packet memory, ports. Everything that this host may lack is looked for
//! before the environment starts, so that each lack has one clear error.

use crate::numa::{self, Layout};
use capsule::{
    Device, Eal, EalConfig, Memory, Mempool, Port, PortConfig, Queue, available_cores, free_hugepages_mb,
    isolated_cores,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use turnpike_forward::limits::{EXCEPTION_FRAMES, FRAGMENTS_HELD_MAX};
use turnpike_packet::faults::UNDER_WAY_MAX;
use turnpike_wire::config::{self, Dataplane, Hugepages};
use turnpike_wire::limits::{PORTS_MAX, WORKERS_MAX};

/// Buffers each queue pair may have in its descriptors and on its way, in rounded numbers: the driver's rings, bursts, a thread's cache.
const BUFFERS_PER_QUEUE: u32 = 4_096;
/// Buffers each worker may hold beside that: waiting for next hops, or handed to it by each other worker.
const BUFFERS_PER_WORKER: u32 = 1_024;
/// MiB of packet memory left for everything that is no buffer: the driver's rings and EAL's own.
const OVERHEAD_MB: u64 = 16;

/// Where the kernel describes the host.
const SYS: &str = "/sys";

/// Why the dataplane cannot start on this host.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("dataplane.workers names no core; name one core for each worker, e.g. workers = [1]")]
    NoWorkers,
    #[error("dataplane.workers names {got} cores; at most {WORKERS_MAX} can be served")]
    TooManyWorkers { got: usize },
    #[error("dataplane.workers names core {0} twice; each worker needs a core of its own")]
    CoreTwice(u16),
    #[error(
        "dataplane.workers: core {core} is not on this host or not given to this process; it may use {available}"
    )]
    NoCore { core: u16, available: String },
    #[error(
        "dataplane.ports names no port; add one, e.g. [[dataplane.ports]] with device = \"net_af_packet0,iface=eth1\""
    )]
    NoPorts,
    #[error("dataplane.ports names {got} ports; at most {PORTS_MAX} can be served")]
    TooManyPorts { got: usize },
    #[error("port {port}: {source}")]
    Device { port: String, source: capsule::DeviceError },
    #[error(
        "port {port}: device {device} needs root (CAP_NET_RAW and CAP_NET_ADMIN); run turnpike-dataplane as root"
    )]
    NoRoot { port: String, device: String },
    #[error(
        "dataplane.memory_mb = {memory_mb} is too little for {queues} queue pairs and {workers} workers: set at least {least_mb}"
    )]
    TooLittleMemory { memory_mb: u32, queues: u32, workers: u32, least_mb: u64 },
    #[error("{0}")]
    Eal(#[from] capsule::EalError),
    #[error("{0}")]
    Mempool(#[from] capsule::MempoolError),
    #[error("port {port}: {source}")]
    Port { port: String, source: capsule::PortError },
}

/// Open devices, and for each worker its queue of each of them, in the order in which the configuration names them first.
#[derive(Debug)]
pub(crate) struct Io {
    pub(crate) eal: Eal,
    pub(crate) devices: Vec<Port>,
    /// For each port of the configuration, the number of its device.
    pub(crate) device_of: Vec<usize>,
    pub(crate) queues: Vec<Vec<Queue>>,
    /// What is received into, of the first device: for frames that come from elsewhere.
    pub(crate) pool: Mempool,
    pub(crate) huge: bool,
    pub(crate) layout: Layout,
}

impl Io {
    /// The device of each port of the configuration.
    pub(crate) fn of_ports(&self) -> impl Iterator<Item = &Port> {
        self.device_of.iter().map(|&device| &self.devices[device])
    }
}

/// What must be true of this host, found without changing anything. The devices come back as they will be opened, ports that share one once.
pub(crate) fn check(dataplane: &Dataplane) -> Result<Vec<Device>, OpenError> {
    check_cores(&dataplane.workers, &[available_cores(), isolated_cores()].concat())?;
    match dataplane.ports.len() {
        0 => return Err(OpenError::NoPorts),
        got if got > PORTS_MAX => return Err(OpenError::TooManyPorts { got }),
        _ => {}
    }
    let workers = dataplane.workers.len();
    let mut devices = Vec::new();
    for shared in dataplane.devices() {
        let ports: Vec<_> = shared.ports.iter().map(|&port| &dataplane.ports[port]).collect();
        devices.push(check_device(&ports, workers)?);
    }
    buffers(dataplane, memory(dataplane))?;
    Ok(devices)
}

/// Starts the environment and opens every device with one queue pair for each worker.
pub(crate) fn open(dataplane: &Dataplane) -> Result<Io, OpenError> {
    let devices = check(dataplane)?;
    let memory = memory(dataplane);
    let huge = matches!(memory, Memory::Huge { .. });
    if !huge && dataplane.hugepages == Hugepages::Auto {
        tracing::warn!(
            wanted_mb = dataplane.memory_mb,
            free_mb = free_hugepages_mb(),
            "too few huge pages are free: packet memory is in ordinary pages, which is slower"
        );
    }
    let pci = devices
        .iter()
        .filter_map(|d| if let Device::Pci(address) = d { Some(address.clone()) } else { None });
    let layout = Layout::of(Path::new(SYS), &dataplane.workers, &devices);
    let shared = dataplane.devices();
    let names = |device: &config::PortDevice| {
        let names = device.ports.iter().map(|&port| dataplane.ports[port].name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let names: Vec<String> = shared.iter().map(names).collect();
    let named: Vec<&str> = names.iter().map(String::as_str).collect();
    for far in layout.misplaced(&dataplane.workers, &named) {
        tracing::warn!("{far}");
    }
    let split = split(dataplane, memory, &layout, Path::new(SYS));
    let nodes = split.iter().filter_map(|part| part.0.filter(|_| huge)).collect();
    let eal = Eal::start(&EalConfig { memory, pci: pci.collect(), nodes })?;
    let mut pools = BTreeMap::new();
    for &(node, buffers) in &split {
        pools.insert(node, Mempool::on_node(eal, buffers, Mempool::DATA_ROOM, node)?);
    }
    let of_device = |device| pools.get(&layout.pool_of(device)).or_else(|| pools.values().next()).copied();
    let pool = of_device(0).ok_or(OpenError::NoPorts)?;
    let workers = dataplane.workers.len();
    let mut io = Io {
        eal,
        devices: Vec::new(),
        device_of: vec![0; dataplane.ports.len()],
        queues: (0..workers).map(|_| Vec::new()).collect(),
        pool,
        huge,
        layout: layout.clone(),
    };
    for (number, ((shared, device), names)) in shared.iter().zip(&devices).zip(&names).enumerate() {
        let config = PortConfig {
            queues: workers as u16,
            mtu: shared.mtu,
            one_pool: pools.len() == 1,
            ..PortConfig::default()
        };
        let pool = of_device(number).unwrap_or(pool);
        let (port, queues) = Port::open(eal, device, &config, pool)
            .map_err(|source| OpenError::Port { port: names.clone(), source })?;
        tracing::info!(
            port = names,
            device = port.device(),
            driver = port.driver(),
            mac = %mac_text(port.info().mac),
            mtu = port.info().mtu,
            offloads = %port.offloads(),
            "port is open"
        );
        shared.ports.iter().for_each(|&port| io.device_of[port] = number);
        io.devices.push(port);
        for (worker, queue) in io.queues.iter_mut().zip(queues) {
            worker.push(queue);
        }
    }
    Ok(io)
}

fn check_cores(workers: &[u16], available: &[u16]) -> Result<(), OpenError> {
    match workers.len() {
        0 => return Err(OpenError::NoWorkers),
        got if got > WORKERS_MAX => return Err(OpenError::TooManyWorkers { got }),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for &core in workers {
        if !seen.insert(core) {
            return Err(OpenError::CoreTwice(core));
        }
        if !available.contains(&core) {
            let cores: Vec<String> = available.iter().map(u16::to_string).collect();
            return Err(OpenError::NoCore { core, available: format!("cores {}", cores.join(", ")) });
        }
    }
    Ok(())
}

/// The device that these ports share, which is at least one.
fn check_device(ports: &[&config::Port], workers: usize) -> Result<Device, OpenError> {
    let Some(port) = ports.first() else { return Err(OpenError::NoPorts) };
    let named = |source| OpenError::Device { port: port.name.clone(), source };
    let device = with_queues(port.device.parse().map_err(named)?, workers);
    device.check().map_err(named)?;
    let with_tap = ports.iter().any(|port| port.exception.is_some());
    if (needs_root(&device) || with_tap) && !may_use_raw_sockets() {
        return Err(OpenError::NoRoot { port: port.name.clone(), device: device.to_string() });
    }
    Ok(device)
}

/// net_af_packet has as many queues as it is asked for; it is asked for one a worker where the device string says nothing of it.
fn with_queues(device: Device, workers: usize) -> Device {
    match device {
        Device::Virtual { name, arguments }
            if name.starts_with("net_af_packet") && workers > 1 && !arguments.contains("qpairs=") =>
        {
            Device::Virtual { name, arguments: format!("{arguments},qpairs={workers}") }
        }
        other => other,
    }
}

fn needs_root(device: &Device) -> bool {
    matches!(device, Device::Pci(_))
        || device.kernel_interface().is_some()
        || device.port_name().starts_with("net_tap")
}

/// Whether this process has CAP_NET_ADMIN (12) and CAP_NET_RAW (13).
fn may_use_raw_sockets() -> bool {
    const NEEDED: u64 = 1 << 12 | 1 << 13;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & NEEDED == NEEDED)
}

fn memory(dataplane: &Dataplane) -> Memory {
    memory_with(dataplane.hugepages, dataplane.memory_mb, free_hugepages_mb())
}

fn memory_with(hugepages: Hugepages, mb: u32, free_mb: u64) -> Memory {
    match hugepages {
        Hugepages::Require => Memory::Huge { mb },
        Hugepages::Auto if free_mb >= u64::from(mb) => Memory::Huge { mb },
        Hugepages::Auto | Hugepages::Never => Memory::Ordinary { mb },
    }
}

/// The pools that packet memory is split into, by node, with the buffers of each: one for each node that has devices, if every one of them has the huge pages and the memory
/// is enough for all; else one.
fn split(dataplane: &Dataplane, memory: Memory, layout: &Layout, sys: &Path) -> Vec<(Option<u32>, u32)> {
    let pools = layout.pools();
    let Memory::Huge { mb } = memory else { return vec![(None, all_buffers(dataplane))] };
    let share_mb = u64::from(mb).div_ceil(pools.len().max(1) as u64);
    let mut parts = Vec::new();
    for (node, devices) in pools {
        let buffers = buffers_of(dataplane, devices);
        let needed_mb = Mempool::bytes(buffers, Mempool::DATA_ROOM, memory).div_ceil(1 << 20) + OVERHEAD_MB;
        let free_mb = node.map(|node| numa::free_hugepages_mb(sys, node).unwrap_or(0));
        if needed_mb > share_mb || free_mb.is_some_and(|free_mb| free_mb < share_mb) {
            tracing::warn!(
                node,
                needed_mb,
                share_mb,
                free_mb,
                "packet memory is not on the NUMA nodes of its devices: a node has too few huge pages, or dataplane.memory_mb is too little for all nodes"
            );
            return vec![(None, all_buffers(dataplane))];
        }
        parts.push((node, buffers));
    }
    parts
}

fn all_buffers(dataplane: &Dataplane) -> u32 {
    buffers_of(dataplane, dataplane.devices().len() as u32)
}

/// How many packet buffers are made for this many devices: what they and workers may hold.
fn buffers_of(dataplane: &Dataplane, devices: u32) -> u32 {
    let workers = dataplane.workers.len() as u32;
    let queues = workers * devices;
    let rings = if dataplane.ports.iter().any(|port| port.exception.is_some()) { workers + 1 } else { 0 };
    let under_way = if dataplane.faults.is_some() { 2 * UNDER_WAY_MAX as u32 } else { 0 };
    queues * (BUFFERS_PER_QUEUE + under_way)
        + workers * workers * BUFFERS_PER_WORKER
        + workers * FRAGMENTS_HELD_MAX as u32
        + rings * EXCEPTION_FRAMES as u32
}

/// How many packet buffers are made for all devices, if there is memory for them.
fn buffers(dataplane: &Dataplane, memory: Memory) -> Result<u32, OpenError> {
    let buffers = all_buffers(dataplane);
    let least_mb = Mempool::bytes(buffers, Mempool::DATA_ROOM, memory).div_ceil(1 << 20) + OVERHEAD_MB;
    if least_mb > u64::from(dataplane.memory_mb) {
        let workers = dataplane.workers.len() as u32;
        let queues = workers * dataplane.devices().len() as u32;
        return Err(OpenError::TooLittleMemory { memory_mb: dataplane.memory_mb, queues, workers, least_mb });
    }
    Ok(buffers)
}

/// An Ethernet address as people write it.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataplane(workers: &[u16], devices: &[&str], memory_mb: u32) -> Dataplane {
        let port = |device: &&str| config::Port {
            name: "wan".into(),
            device: (*device).into(),
            vlan: None,
            addresses: vec![],
            gateway: None,
            gateway6: None,
            router_advertisements: false,
            routes: vec![],
            exception: None,
            mtu: None,
        };
        Dataplane {
            workers: workers.to_vec(),
            memory_mb,
            ports: devices.iter().map(port).collect(),
            ..Dataplane::default()
        }
    }

    #[test]
    fn what_the_host_lacks_is_named_with_the_mend() {
        let core = available_cores()[0];
        let rows = [
            (dataplane(&[], &["net_null0"], 256), "workers = [1]"),
            (dataplane(&[core, core], &["net_null0"], 256), "twice"),
            (dataplane(&[60_000], &["net_null0"], 256), "core 60000 is not on this host"),
            (dataplane(&[core], &[], 256), "[[dataplane.ports]]"),
            (
                dataplane(&[core], &["net_af_packet0,iface=nosuchif0"], 256),
                "port wan: no network interface \"nosuchif0\"",
            ),
            (dataplane(&[core], &["ffff:ff:1f.7"], 256), "port wan: no PCI device ffff:ff:1f.7"),
            (dataplane(&[core], &["?"], 256), "neither a PCI address"),
            (dataplane(&[core], &["net_null0"], 20), "memory_mb = 20 is too little"),
        ];
        for (dataplane, mend) in rows {
            let message = check(&dataplane).unwrap_err().to_string();
            assert!(message.contains(mend), "{message}");
        }
        assert_eq!(check(&dataplane(&[core], &["net_null0"], 256)).unwrap().len(), 1);
        let mut shared = dataplane(&[core], &["net_null0", "net_null0", "net_null1"], 256);
        shared.ports[1].vlan = Some(100);
        assert_eq!(check(&shared).unwrap().len(), 2, "ports that are told apart by VLAN have one device");
    }

    #[test]
    fn the_memory_named_as_enough_is_enough() {
        for memory in [Memory::Ordinary { mb: 1 }, Memory::Huge { mb: 1 }] {
            let mut small = dataplane(&[0, 1, 2], &["net_null0", "net_null1"], 1);
            let Err(OpenError::TooLittleMemory { least_mb, .. }) = buffers(&small, memory) else {
                panic!("1 MiB is enough?")
            };
            small.memory_mb = least_mb as u32;
            let held = 3 * FRAGMENTS_HELD_MAX as u32;
            let without = 6 * BUFFERS_PER_QUEUE + 9 * BUFFERS_PER_WORKER + held;
            assert_eq!(buffers(&small, memory).unwrap(), without);
            small.memory_mb *= 2;
            small.ports[0].exception = Some("tp-wan".into());
            assert_eq!(buffers(&small, memory).unwrap(), without + 4 * EXCEPTION_FRAMES as u32);
            small.faults = Some(config::Faults::default());
            let faulty = without + 4 * EXCEPTION_FRAMES as u32 + 12 * UNDER_WAY_MAX as u32;
            assert_eq!(buffers(&small, memory).unwrap(), faulty);
        }
    }

    #[test]
    fn packet_memory_is_split_over_nodes_that_have_it() {
        let host = tempfile::tempdir().unwrap();
        let reserve = |node: u32, pages: u32| {
            let size = format!("devices/system/node/node{node}/hugepages/hugepages-2048kB");
            std::fs::create_dir_all(host.path().join(&size)).unwrap();
            std::fs::write(host.path().join(size).join("free_hugepages"), pages.to_string()).unwrap();
        };
        reserve(0, 128);
        reserve(1, 128);
        let two = dataplane(&[0], &["net_null0", "net_null1"], 256);
        let one = buffers_of(&two, 1);
        let layout = |nodes: &[Option<u32>]| Layout { workers: vec![Some(0)], devices: nodes.to_vec() };
        let far = layout(&[Some(0), Some(1)]);
        let split_of =
            |dataplane: &Dataplane, layout: &Layout, memory| split(dataplane, memory, layout, host.path());
        let huge = Memory::Huge { mb: 256 };
        assert_eq!(split_of(&two, &far, huge), [(Some(0), one), (Some(1), one)]);
        let both = all_buffers(&two);
        assert_eq!(split_of(&two, &layout(&[Some(1), Some(1)]), huge), [(Some(1), both)]);
        assert_eq!(split_of(&two, &layout(&[None, None]), huge), [(Some(0), both)], "where the workers are");
        assert_eq!(split_of(&two, &far, Memory::Ordinary { mb: 256 }), [(None, both)]);
        let little = Memory::Huge { mb: 2 * OVERHEAD_MB as u32 };
        assert_eq!(split_of(&two, &far, little), [(None, both)], "not enough for two pools");
        reserve(1, 63);
        assert_eq!(split_of(&two, &far, huge), [(None, both)], "node 1 has too few");
        let unknown = Layout { workers: vec![None], devices: vec![None, None] };
        assert_eq!(split_of(&two, &unknown, huge), [(None, both)]);
    }

    #[test]
    fn huge_pages_as_the_setting_says() {
        let rows = [
            (Hugepages::Auto, 256, Memory::Huge { mb: 256 }),
            (Hugepages::Auto, 255, Memory::Ordinary { mb: 256 }),
            (Hugepages::Require, 0, Memory::Huge { mb: 256 }),
            (Hugepages::Never, 1_000, Memory::Ordinary { mb: 256 }),
        ];
        for (setting, free_mb, wanted) in rows {
            assert_eq!(memory_with(setting, 256, free_mb), wanted, "{setting:?} with {free_mb} MiB free");
        }
    }

    #[test]
    fn af_packet_gets_a_queue_for_each_worker() {
        let rows = [
            ("net_af_packet0,iface=gw0", 1, "net_af_packet0,iface=gw0"),
            ("net_af_packet0,iface=gw0", 3, "net_af_packet0,iface=gw0,qpairs=3"),
            ("net_af_packet0,iface=gw0,qpairs=2", 3, "net_af_packet0,iface=gw0,qpairs=2"),
            ("net_af_xdp0,iface=gw0", 3, "net_af_xdp0,iface=gw0"),
        ];
        for (given, workers, wanted) in rows {
            assert_eq!(with_queues(given.parse().unwrap(), workers).to_string(), wanted);
        }
    }
}
