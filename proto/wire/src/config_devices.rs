//! Devices of the ports: one each, or one for several ports that are told apart by VLAN.

use crate::config::{Dataplane, Port};
use crate::config_rules::Broken;
use std::collections::BTreeSet;

/// The numbers that a VLAN can have (IEEE 802.1Q): 0 stands for none, and 4095 is reserved.
const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;

/// A device and the ports that share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDevice<'a> {
    /// As it is written in the configuration.
    pub device: &'a str,
    /// Its ports, by their places in [`Dataplane::ports`].
    pub ports: Vec<usize>,
    /// Longest IP packet that one of its ports wants to send, in bytes; none: what the device has.
    pub mtu: Option<u16>,
}

impl Dataplane {
    /// The devices of all ports, in the order in which they are named first.
    #[must_use]
    pub fn devices(&self) -> Vec<PortDevice<'_>> {
        let mut devices: Vec<PortDevice<'_>> = Vec::new();
        for (at, port) in self.ports.iter().enumerate() {
            match devices.iter_mut().find(|known| known.device == port.device) {
                Some(known) => {
                    known.ports.push(at);
                    known.mtu = known.mtu.max(port.mtu);
                }
                None => devices.push(PortDevice { device: &port.device, ports: vec![at], mtu: port.mtu }),
            }
        }
        devices
    }
}

/// Refuses numbers that no VLAN has, ports that cannot be told apart, and a device that is written in two ways.
pub(crate) fn check(ports: &[Port]) -> Result<(), Broken> {
    let mut taken = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        let broken = |message| Err(Broken::new(format!("dataplane.ports {:?}", port.name), message));
        if let Some(vlan) = port.vlan.filter(|vlan| !VLANS.contains(vlan)) {
            return broken(format!(
                "vlan = {vlan} is not {} to {}; leave it out for frames without a tag",
                VLANS.start(),
                VLANS.end()
            ));
        }
        let name = device_name(port);
        if let Some(other) =
            ports[..at].iter().find(|other| device_name(other) == name && other.device != port.device)
        {
            return broken(format!(
                "device {:?} is port {:?}'s device {name} with other arguments; write both alike, or take another device",
                port.device, other.name
            ));
        }
        if !taken.insert((name, port.vlan)) {
            let frames =
                port.vlan.map_or_else(|| "frames without a tag".into(), |vlan| format!("vlan {vlan}"));
            return broken(format!(
                "device {name} is another port's already for {frames}; give each port a device or a vlan of its own"
            ));
        }
    }
    Ok(())
}

/// What tells a device from others: its name without arguments.
fn device_name(port: &Port) -> &str {
    port.device.split(',').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    /// A configuration with these ports: device, VLAN, MTU.
    fn parse(ports: &[(&str, Option<u16>, Option<u16>)]) -> Result<Config, String> {
        let mut text = String::new();
        for (at, (device, vlan, mtu)) in ports.iter().enumerate() {
            text += &format!(
                "[[dataplane.ports]]\nname = \"p{at}\"\ndevice = \"{device}\"\naddresses = [\"10.9.{at}.1/24\"]\n"
            );
            text += &vlan.map(|vlan| format!("vlan = {vlan}\n")).unwrap_or_default();
            text += &mtu.map(|mtu| format!("mtu = {mtu}\n")).unwrap_or_default();
        }
        Config::parse(&text, Path::new("t.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn ports_share_a_device_by_vlan() {
        let config = parse(&[
            ("net_null0", Some(100), Some(9_000)),
            ("net_null1", None, None),
            ("net_null0", None, None),
            ("net_null0", Some(4_094), Some(1_400)),
        ])
        .unwrap();
        let first = PortDevice { device: "net_null0", ports: vec![0, 2, 3], mtu: Some(9_000) };
        let second = PortDevice { device: "net_null1", ports: vec![1], mtu: None };
        assert_eq!(config.dataplane.devices(), [first, second]);
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        let rows = [
            (vec![("net_null0", Some(0))], "\"p0\": vlan = 0 is not 1 to 4094"),
            (vec![("net_null0", Some(4_095))], "\"p0\": vlan = 4095 is not 1 to 4094"),
            (
                vec![("net_null0", None), ("net_null0", None)],
                "\"p1\": device net_null0 is another port's already for frames",
            ),
            (
                vec![("net_null0", Some(7)), ("net_null0", Some(7))],
                "\"p1\": device net_null0 is another port's already for vlan 7",
            ),
            (
                vec![("net_null0", Some(7)), ("net_null0,copy=1", Some(8))],
                "\"p1\": device \"net_null0,copy=1\" is port \"p0\"'s",
            ),
        ];
        for (ports, needle) in rows {
            let ports: Vec<_> = ports.into_iter().map(|(device, vlan)| (device, vlan, None)).collect();
            let said = parse(&ports).unwrap_err();
            assert!(said.contains(needle), "{needle:?} is not in {said:?}");
        }
    }
}
