//! Devices that cannot be: one clear error each, and nothing half-open behind it.
#![allow(clippy::unwrap_used)]

use capsule::{Device, DeviceError, Eal, EalConfig, Memory, Mempool, Port, PortConfig, PortError};

fn open(device: &str) -> Result<Port, PortError> {
    let eal =
        Eal::start(&EalConfig { memory: Memory::Ordinary { mb: 64 }, pci: vec![], nodes: vec![] }).unwrap();
    let pool = Mempool::new(eal, 64, Mempool::DATA_ROOM).unwrap();
    let device: Device = device.parse()?;
    Port::open(eal, &device, &PortConfig::default(), pool).map(|(port, _queues)| port)
}

#[test]
fn each_error_names_the_device_and_the_mend() {
    let rows = [
        ("ffff:ff:1f.7", "no PCI device ffff:ff:1f.7", "dpdk-devbind.py"),
        ("net_af_packet0,iface=nosuchif0", "\"nosuchif0\"", "ip link"),
        ("net_af_xdp0,iface=nosuchif0", "\"nosuchif0\"", "ip link"),
        ("net_nosuchdriver0", "net_nosuchdriver0", "driver's name"),
        ("net_pcap0,rx_pcap=/nonexistent/a.pcap,tx_pcap=/nonexistent/b.pcap", "net_pcap0", "arguments"),
        ("net_af_packet0", "net_af_packet0", "arguments"),
        ("eth0:1?", "\"eth0:1?\"", "PCI address"),
    ];
    for (device, thing, mend) in rows {
        let message = open(device).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(thing) && message.contains(mend), "{device}: {message}");
    }
}

#[test]
fn a_device_is_opened_once_at_a_time() {
    let first = open("net_null7").unwrap();
    let message = open("net_null7").map(|_| ()).unwrap_err();
    assert_eq!(message, PortError::AlreadyOpen("net_null7".into()));
    drop(first);
    open("net_null7").unwrap();
}

#[test]
fn a_failed_device_can_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let device = format!("net_pcap7,tx_pcap={0}/out.pcap,rx_pcap={0}/in.pcap", folder.path().display());
    open(&device).unwrap_err();
    let file = std::fs::File::create(folder.path().join("in.pcap")).unwrap();
    drop(pcap_file::pcap::PcapWriter::new(file).unwrap());
    let port = open(&device).unwrap();
    assert_eq!((port.driver(), port.device()), ("net_pcap", device.as_str()));
}

/// Every NIC of this host belongs to its kernel driver or to nobody; Turnpike takes none that was not given to DPDK.
#[test]
fn nics_of_the_kernel_are_left_alone() {
    let Ok(devices) = std::fs::read_dir("/sys/bus/pci/devices") else { return };
    for entry in devices.flatten() {
        let device: Device = entry.file_name().to_string_lossy().parse().unwrap();
        match open(&device.to_string()).map(|_| ()).unwrap_err() {
            PortError::Device(DeviceError::KernelBound { .. }) | PortError::NotProbed(_) => {}
            other => panic!("{device}: {other}"),
        }
    }
}
