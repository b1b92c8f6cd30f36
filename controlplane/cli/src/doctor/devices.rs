//! The ports' devices: whether DPDK can have them, whether their links are up and long enough, and how they spread frames over workers.

use super::{Finding, Findings, Host, Patient};
use std::path::Path;
use turnpike_wire::topology;

/// Kernel drivers through which DPDK drives a NIC.
const VFIO: &str = "vfio-pci";
const UIO: &[&str] = &["uio_pci_generic", "igb_uio"];
/// Drivers of NICs that DPDK and the kernel share.
const SHARED: &[&str] = &["mlx5_core", "mlx4_core", "mana"];
/// Virtual devices on an interface that the kernel already has.
const ON_INTERFACE: &[&str] = &["net_af_packet", "net_af_xdp", "net_pcap"];

/// What a device string names.
enum Named {
    Pci(String),
    Interface(String),
    Other,
}

fn named(device: &str) -> Named {
    let words = device.split([':', '.']).count();
    if !device.contains(',') && (words == 3 || words == 4) && device.contains(':') {
        let full = if words == 3 { format!("0000:{device}") } else { device.to_owned() };
        return Named::Pci(full.to_ascii_lowercase());
    }
    let interface = device.split(',').find_map(|argument| argument.strip_prefix("iface="));
    match interface.filter(|_| ON_INTERFACE.iter().any(|driver| device.starts_with(driver))) {
        Some(interface) => Named::Interface(interface.to_owned()),
        None => Named::Other,
    }
}

/// The NUMA node of a device.
pub fn node(sys: &Path, device: &str) -> Option<u32> {
    match named(device) {
        Named::Pci(address) => topology::node_of_pci(sys, &address),
        Named::Interface(interface) => topology::node_of_interface(sys, &interface),
        Named::Other => None,
    }
}

/// Each port's name with the PCI address of its device, where it has one; a device that several ports share once.
fn pci_devices(patient: &Patient<'_>) -> Vec<(String, String)> {
    let dataplane = &patient.config.dataplane;
    let devices = dataplane.devices();
    let of = |device: &turnpike_wire::config::PortDevice<'_>| match named(device.device) {
        Named::Pci(address) => Some((dataplane.ports.get(*device.ports.first()?)?.name.clone(), address)),
        _ => None,
    };
    devices.iter().filter_map(of).collect()
}

fn folder(address: &str) -> String {
    format!("sys/bus/pci/devices/{address}")
}

/// DPDK can have each device.
pub fn binding(patient: &Patient<'_>) -> Vec<Finding> {
    let (mut found, host) = (Findings::of("devices"), patient.host);
    for port in &patient.config.dataplane.ports {
        let name = &port.name;
        match named(&port.device) {
            Named::Pci(address) if !host.has(folder(&address)) => found.fail(
                format!("port {name}: there is no PCI device {address}"),
                "dpdk-devbind.py --status-dev net lists those there are",
            ),
            Named::Pci(address) => bound(&mut found, host, name, &address),
            Named::Interface(interface) if !host.has(format!("sys/class/net/{interface}")) => found.fail(
                format!("port {name}: there is no network interface {interface}"),
                format!("ip link lists those there are; set the device of port {name}"),
            ),
            Named::Interface(_) | Named::Other => {}
        }
        if port.exception.is_some() && !host.has("dev/net/tun") {
            found.fail(
                format!("port {name} has a tap to the kernel, and there is no /dev/net/tun"),
                "modprobe tun; in a container: --device /dev/net/tun",
            );
        }
    }
    found.or_ok("DPDK can have every port's device")
}

fn bound(found: &mut Findings, host: &Host, port: &str, address: &str) {
    let bind = format!("modprobe vfio-pci && dpdk-devbind.py --bind=vfio-pci {address}");
    match host.target(format!("{}/driver", folder(address))).as_deref() {
        Some(driver) if driver == VFIO || SHARED.contains(&driver) => {}
        Some(driver) if UIO.contains(&driver) => {
            found.warn(
                format!(
                    "port {port}: {address} is bound to {driver}, which lets the device write to all memory"
                ),
                bind,
            );
        }
        Some(driver) => {
            found.fail(format!("port {port}: {address} belongs to the kernel (driver {driver})"), bind);
        }
        None => found.fail(format!("port {port}: {address} has no driver"), bind),
    }
}

/// Devices that are given away whole are fenced by an IOMMU.
pub fn iommu(patient: &Patient<'_>) -> Vec<Finding> {
    let (mut found, host) = (Findings::of("iommu"), patient.host);
    let given: Vec<_> = pci_devices(patient)
        .into_iter()
        .filter(|(_, address)| {
            let driver = host.target(format!("{}/driver", folder(address)));
            host.has(folder(address)) && !driver.is_some_and(|driver| SHARED.contains(&driver.as_str()))
        })
        .collect();
    if given.is_empty() {
        return found.or_ok("no device needs VFIO");
    }
    let no_iommu = host.text("sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
    for (port, address) in given {
        let Some(group) = host.target(format!("{}/iommu_group", folder(&address))) else {
            let message = format!("port {port}: {address} is behind no IOMMU");
            let mend = "turn the IOMMU on in the firmware, add intel_iommu=on iommu=pt (AMD: amd_iommu=on iommu=pt) to the kernel's command line and reboot";
            match no_iommu.as_deref() {
                Some("Y" | "1") => found.warn(format!("{message}; VFIO is allowed without, and the device can write to all memory"), mend),
                _ => found.fail(message, format!("{mend}; on a virtual machine without one: echo Y > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode")),
            }
            continue;
        };
        let others = host.names(format!("sys/kernel/iommu_groups/{group}/devices"));
        for other in others.iter().filter(|other| **other != address) {
            let driver = host.target(format!("{}/driver", folder(other)));
            if let Some(driver) = driver.filter(|driver| driver != VFIO && driver != "pcieport") {
                found.fail(
                    format!("port {port}: {address} shares IOMMU group {group} with {other}, which the kernel has (driver {driver})"),
                    format!("dpdk-devbind.py --bind=vfio-pci {other}, or put the NIC into another slot"),
                );
            }
        }
    }
    found.or_ok("devices are behind an IOMMU")
}

/// Links of interfaces that the kernel knows are up.
pub fn links(patient: &Patient<'_>) -> Vec<Finding> {
    let (mut found, mut looked) = (Findings::of("links"), 0);
    for port in &patient.config.dataplane.ports {
        let Named::Interface(interface) = named(&port.device) else { continue };
        let Some(state) = patient.host.text(format!("sys/class/net/{interface}/operstate")) else { continue };
        looked += 1;
        if state == "down" || state == "lowerlayerdown" {
            found.warn(
                format!("port {}: the link of {interface} is down", port.name),
                format!("ip link set {interface} up; if it is, look at the cable and the other end"),
            );
        }
    }
    for port in patient.status.map(|status| status.dataplane.ports.as_slice()).unwrap_or_default() {
        if patient.is_running() && !port.link_up && matches!(named(&port.device), Named::Pci(_)) {
            found.warn(
                format!("port {}: the link of {} is down", port.name, port.device),
                "look at the cable and the other end",
            );
        }
        looked += 1;
    }
    match looked {
        0 => found.or_ok("links are seen once the dataplane runs"),
        _ => found.or_ok("links are up"),
    }
}

/// What ports are to send fits their devices.
pub fn mtu(patient: &Patient<'_>) -> Vec<Finding> {
    let mut found = Findings::of("mtu");
    let mut known = Vec::new();
    for port in &patient.config.dataplane.ports {
        let Named::Interface(interface) = named(&port.device) else { continue };
        let Some(has) = patient.host.number(format!("sys/class/net/{interface}/mtu")) else { continue };
        if let Some(wanted) = port.mtu.filter(|wanted| u64::from(*wanted) > has) {
            found.fail(
                format!("port {} wants packets of {wanted} bytes, {interface} takes {has}", port.name),
                format!("ip link set {interface} mtu {wanted}, or lower the mtu of port {}", port.name),
            );
        }
        known.push((port.name.as_str(), port.mtu.map_or(has, |wanted| has.min(wanted.into()))));
    }
    let (least, most) = (known.iter().min_by_key(|(_, mtu)| mtu), known.iter().max_by_key(|(_, mtu)| mtu));
    match (least, most) {
        (Some((small, least)), Some((large, most))) if least < most => found.warn(
            format!("port {large} takes packets of {most} bytes, port {small} of {least}: longer ones are answered with ICMP errors"),
            "give both sides the same MTU, or set dataplane.mss_clamp = \"auto\"",
        ),
        _ => {}
    }
    match known.first() {
        Some((_, mtu)) => found.or_ok(format!("packets of {mtu} bytes fit every port")),
        None => found.or_ok("MTUs are the devices' own"),
    }
}

/// NICs spread frames so that answers come to the worker of their flow.
pub fn spreading(patient: &Patient<'_>) -> Vec<Finding> {
    let (mut found, dataplane) = (Findings::of("rss"), &patient.config.dataplane);
    let workers = dataplane.workers.len();
    if workers < 2 {
        return found.or_ok("one worker: nothing to spread");
    }
    for port in dataplane.ports.iter().filter(|port| port.device.starts_with("net_af_xdp")) {
        let Named::Interface(interface) = named(&port.device) else { continue };
        let queues = patient.host.names(format!("sys/class/net/{interface}/queues"));
        let queues = queues.iter().filter(|queue| queue.starts_with("rx-")).count();
        if (1..workers).contains(&queues) {
            found.fail(
                format!("port {}: {interface} has {queues} receive queues for {workers} workers", port.name),
                format!("ethtool -L {interface} combined {workers}, and queue_count={workers} in the device string"),
            );
        }
    }
    for port in patient.status.map(|status| status.dataplane.ports.as_slice()).unwrap_or_default() {
        let astray = port.counters.get("nic_hash_astray").copied().unwrap_or(0);
        if astray > 0 {
            found.fail(
                format!(
                    "port {}: {} puts frames into other queues than its own hashes name ({astray} seen)",
                    port.name, port.driver
                ),
                "use one worker with this device, or another driver or firmware",
            );
        } else if port.steering == "handoff" {
            found.warn(
                format!(
                    "port {}: {} does not say how it spreads frames; workers hand answers over to each other",
                    port.name, port.driver
                ),
                "use a NIC whose driver tells its RSS key and table, or one worker",
            );
        }
    }
    match patient.status {
        Some(_) => found.or_ok("answers come to the workers of their flows"),
        None => {
            found.unknown("how NICs spread frames is seen once the dataplane runs");
            found.or_ok("")
        }
    }
}
