//! [`Device`]: what a device string means, checked against this host before DPDK sees it, so that errors name the mend.

use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A NIC as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    /// A PCI address in full, e.g. `0000:01:00.0`.
    Pci(String),
    /// A virtual device: name and arguments as DPDK takes them.
    Virtual {
        /// Driver and number, e.g. `net_af_packet0`.
        name: String,
        /// Everything behind the first comma, e.g. `iface=gw0`.
        arguments: String,
    },
}

/// Why a device string names no device of this host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Neither a PCI address nor a virtual device.
    #[error(
        "device {0:?} is neither a PCI address (0000:01:00.0) nor a DPDK virtual device (net_af_packet0,iface=eth1)"
    )]
    Unreadable(String),
    /// No such PCI device.
    #[error("no PCI device {0} on this host; `dpdk-devbind.py --status-dev net` lists those there are")]
    NoPci(String),
    /// A PCI device that DPDK's drivers cannot have as it is bound.
    #[error(
        "PCI device {address} is bound to the kernel driver {driver}; give it to DPDK: dpdk-devbind.py --bind=vfio-pci {address}"
    )]
    KernelBound {
        /// Its address.
        address: String,
        /// The driver that has it.
        driver: String,
    },
    /// The kernel interface under a virtual device is missing.
    #[error("no network interface {interface:?} for device {device}; `ip link` lists those there are")]
    NoInterface {
        /// The interface.
        interface: String,
        /// The device that wants it.
        device: String,
    },
}

/// Virtual devices that put themselves on an interface the kernel already has; the others name one they make, or none.
const ON_KERNEL_INTERFACE: &[&str] = &["net_af_packet", "net_af_xdp", "net_pcap"];

/// Kernel drivers through which DPDK drives a NIC; mlx4 and mlx5 devices stay with the kernel driver.
const DPDK_CAN_SHARE: &[&str] = &["vfio-pci", "uio_pci_generic", "igb_uio", "mlx5_core", "mlx4_core", "mana"];

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        if let Some(address) = pci_address(text) {
            return Ok(Self::Pci(address));
        }
        let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let named =
            name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(plain) && name.len() < 64;
        if !named || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(DeviceError::Unreadable(text.to_owned()));
        }
        Ok(Self::Virtual { name: name.to_owned(), arguments: arguments.to_owned() })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => f.write_str(address),
            Self::Virtual { name, arguments } if arguments.is_empty() => f.write_str(name),
            Self::Virtual { name, arguments } => write!(f, "{name},{arguments}"),
        }
    }
}

impl Device {
    /// The name under which ethdev lists it.
    #[must_use]
    pub fn port_name(&self) -> &str {
        match self {
            Self::Pci(address) => address,
            Self::Virtual { name, .. } => name,
        }
    }

    /// The kernel interface a virtual device sits on, if it sits on one.
    #[must_use]
    pub fn kernel_interface(&self) -> Option<&str> {
        match self {
            Self::Virtual { name, arguments } if ON_KERNEL_INTERFACE.iter().any(|d| name.starts_with(d)) => {
                arguments.split(',').find_map(|argument| argument.strip_prefix("iface="))
            }
            _ => None,
        }
    }

    /// Whether this host has what the device needs.
    pub fn check(&self) -> Result<(), DeviceError> {
        match self {
            Self::Pci(address) => check_pci(address, Path::new("/sys/bus/pci/devices")),
            Self::Virtual { .. } => match self.kernel_interface() {
                Some(interface) if !interface_exists(interface) => Err(DeviceError::NoInterface {
                    interface: interface.to_owned(),
                    device: self.to_string(),
                }),
                _ => Ok(()),
            },
        }
    }
}

/// `[DOMAIN:]BUS:DEVICE.FUNCTION` in hexadecimal, as its full lower-case form.
fn pci_address(text: &str) -> Option<String> {
    let (front, function) = text.rsplit_once('.')?;
    let mut parts = front.rsplit(':');
    let (device, bus, domain) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0000"));
    let hex =
        |s: &str, digits: usize| (1..=digits).contains(&s.len()) && s.chars().all(|c| c.is_ascii_hexdigit());
    let function: u8 = function.parse().ok().filter(|f| *f < 8)?;
    if parts.next().is_some() || !hex(domain, 4) || !hex(bus, 2) || !hex(device, 2) {
        return None;
    }
    Some(format!("{domain:0>4}:{bus:0>2}:{device:0>2}.{function}").to_ascii_lowercase())
}

fn check_pci(address: &str, devices: &Path) -> Result<(), DeviceError> {
    let folder = devices.join(address);
    if !folder.exists() {
        return Err(DeviceError::NoPci(address.to_owned()));
    }
    let bound = std::fs::read_link(folder.join("driver")).ok();
    match bound.as_deref().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned()) {
        Some(driver) if !DPDK_CAN_SHARE.contains(&driver.as_str()) => {
            Err(DeviceError::KernelBound { address: address.to_owned(), driver })
        }
        _ => Ok(()),
    }
}

fn interface_exists(name: &str) -> bool {
    socket(AddressFamily::INET, SocketType::DGRAM, None)
        .is_ok_and(|probe| name_to_index(&probe, name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_what_they_mean() {
        let rows: &[(&str, Option<&str>)] = &[
            ("0000:01:00.0", Some("0000:01:00.0")),
            ("01:00.1", Some("0000:01:00.1")),
            ("00FF:aB:1f.7", Some("00ff:ab:1f.7")),
            ("net_ring0", Some("net_ring0")),
            ("net_af_packet0,iface=gw0,qpairs=2", Some("net_af_packet0,iface=gw0,qpairs=2")),
            (
                "net_pcap1,rx_pcap=/tmp/a.pcap,tx_pcap=/tmp/b.pcap",
                Some("net_pcap1,rx_pcap=/tmp/a.pcap,tx_pcap=/tmp/b.pcap"),
            ),
            ("", None),
            ("01:00.8", None),
            ("0000:001:00.0", None),
            ("a:b:c:d.0", None),
            ("net af,iface=x", None),
            ("net_tap0,iface=x\n", None),
            ("/etc/passwd", None),
        ];
        for (text, wanted) in rows {
            let found = text.parse::<Device>().ok().map(|d| d.to_string());
            assert_eq!(found.as_deref(), *wanted, "{text:?}");
        }
    }

    #[test]
    fn missing_things_are_named_with_the_mend() {
        let pci = "ffff:ff:1f.7".parse::<Device>().unwrap().check().unwrap_err();
        assert_eq!(pci, DeviceError::NoPci("ffff:ff:1f.7".into()));
        let device: Device = "net_af_xdp0,iface=nosuchif0,queue_count=2".parse().unwrap();
        let message = device.check().unwrap_err().to_string();
        assert!(message.contains("nosuchif0") && message.contains("ip link"), "{message}");
        "net_tap0,iface=made_by_the_driver".parse::<Device>().unwrap().check().unwrap();
    }

    #[test]
    fn a_nic_of_the_kernel_is_refused_by_name() {
        let sysfs = tempfile::tempdir().unwrap();
        let device = sysfs.path().join("0000:01:00.0");
        std::fs::create_dir_all(&device).unwrap();
        assert_eq!(
            check_pci("0000:01:00.0", sysfs.path()),
            Ok(()),
            "bound to nothing: DPDK says what it thinks"
        );
        for (driver, refused) in [("ixgbe", true), ("vfio-pci", false), ("mlx5_core", false)] {
            let link = device.join("driver");
            std::os::unix::fs::symlink(format!("../../../bus/pci/drivers/{driver}"), &link).unwrap();
            let outcome = check_pci("0000:01:00.0", sysfs.path());
            assert_eq!(outcome.is_err(), refused, "{driver}: {outcome:?}");
            std::fs::remove_file(&link).unwrap();
        }
    }
}
