//! Which device a port's frames come from and go to, and which of them are its own: a device may have one port, or several that are told
//! apart by VLAN (IEEE 802.1Q).

use arrayvec::ArrayVec;
use turnpike_packet::io::Frame;
use turnpike_packet::vlan::{self, Tagged};
use turnpike_wire::limits::PORTS_MAX;

/// Where a port is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Number of the device.
    pub device: usize,
    /// The VLAN whose frames are the port's; none: frames without a tag.
    pub vlan: Option<u16>,
}

/// Why ports cannot be attached so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Not one attachment for each port.
    #[error("{attached} attachments for {ports} ports")]
    Count {
        /// Attachments.
        attached: usize,
        /// Ports.
        ports: usize,
    },
    /// A number that no VLAN has.
    #[error("VLAN {0} is not 1 to 4094")]
    Vlan(u16),
    /// Two ports want the same frames.
    #[error("ports {0} and {1} want the same frames of one device")]
    Twice(usize, usize),
    /// Devices are numbered from 0 without a gap.
    #[error("device {0} has no port")]
    NoPort(usize),
}

/// What the frames of a device are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// All of one port, without tags.
    Plain(usize),
    /// Of several ports, or of a port that wants tags.
    Trunk(Trunk),
}

/// The ports of a device that carries VLANs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trunk {
    untagged: Option<u8>,
    /// VLAN and port.
    tagged: ArrayVec<(u16, u8), PORTS_MAX>,
}

impl Trunk {
    /// Takes the tag off a frame and says whose it is; none if it is nobody's. A tag without a VLAN, which states a priority, counts as none.
    #[inline]
    pub fn sort<F: Frame>(&self, frame: &mut F) -> Option<usize> {
        let port = match vlan::read(frame.data()) {
            Tagged::No => return self.untagged.map(usize::from),
            Tagged::Once(0) => self.untagged?,
            Tagged::Once(vlan) => self.tagged.iter().find(|(known, _)| *known == vlan)?.1,
            Tagged::Oddly => return None,
        };
        vlan::take_off(frame).then_some(port.into())
    }

    /// Its ports.
    #[must_use]
    pub fn ports(&self) -> ArrayVec<u8, PORTS_MAX> {
        self.untagged.into_iter().chain(self.tagged.iter().map(|(_, port)| *port)).take(PORTS_MAX).collect()
    }
}

/// One port a device, without VLANs.
#[must_use]
pub fn one_each(ports: usize) -> Vec<Attachment> {
    (0..ports).map(|device| Attachment { device, vlan: None }).collect()
}

/// What the frames of each device are, for so many ports that are attached so.
pub fn lines(ports: usize, attachments: &[Attachment]) -> Result<Vec<Line>, AttachError> {
    if attachments.len() != ports || ports > PORTS_MAX {
        return Err(AttachError::Count { attached: attachments.len(), ports });
    }
    for (at, one) in attachments.iter().enumerate() {
        if let Some(number) = one.vlan.filter(|number| !vlan::VLANS.contains(number)) {
            return Err(AttachError::Vlan(number));
        }
        if let Some(other) = attachments[..at].iter().position(|other| other == one) {
            return Err(AttachError::Twice(other, at));
        }
    }
    let devices =
        attachments.iter().map(|one| one.device.saturating_add(1)).max().unwrap_or(0).min(ports + 1);
    (0..devices).map(|device| line(device, attachments)).collect()
}

fn line(device: usize, attachments: &[Attachment]) -> Result<Line, AttachError> {
    let mut trunk = Trunk::default();
    for (port, one) in (0u8..).zip(attachments).filter(|(_, one)| one.device == device) {
        match one.vlan {
            None => trunk.untagged = Some(port),
            Some(vlan) => trunk.tagged.push((vlan, port)),
        }
    }
    match (trunk.untagged, trunk.tagged.is_empty()) {
        (None, true) => Err(AttachError::NoPort(device)),
        (Some(port), true) => Ok(Line::Plain(port.into())),
        _ => Ok(Line::Trunk(trunk)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_packet::io::{PacketIo, PortInfo, Spread};
    use turnpike_packet::memory::MemoryNic;
    use turnpike_packet::vlan::tagged;

    const fn at(device: usize, vlan: u16) -> Attachment {
        Attachment { device, vlan: if vlan == 0 { None } else { Some(vlan) } }
    }

    #[test]
    fn frames_find_their_port_and_lose_their_tag() {
        let Line::Trunk(trunk) = lines(3, &[at(0, 100), at(0, 0), at(0, 200)]).unwrap().remove(0) else {
            panic!("a device with VLANs is a trunk")
        };
        assert_eq!(trunk.ports().as_slice(), [1, 0, 2]);
        let frame = [7; 60];
        let info = PortInfo { mac: [2; 6], mtu: 1500, spread: Spread::Unknown };
        let mut io = MemoryNic::new(info, 1).io(0);
        let rows = [
            ("no tag", frame.to_vec(), Some(1)),
            ("a priority", tagged(&frame, 0xe000), Some(1)),
            ("VLAN 100", tagged(&frame, 100), Some(0)),
            ("VLAN 100 with a priority", tagged(&frame, 0xa000 | 100), Some(0)),
            ("VLAN 200", tagged(&frame, 200), Some(2)),
            ("VLAN 300", tagged(&frame, 300), None),
            ("VLAN 100 in VLAN 200", tagged(&tagged(&frame, 100), 200), None),
            ("VLAN 100 behind a priority", tagged(&tagged(&frame, 100), 0), None),
        ];
        for (what, bytes, wanted) in rows {
            let mut one = io.alloc(&bytes).unwrap();
            assert_eq!(trunk.sort(&mut one), wanted, "{what}");
            assert!(wanted.is_none() || one.data() == frame, "{what}");
        }
    }

    #[test]
    fn frames_without_a_tag_are_nobodys_where_all_ports_have_vlans() {
        let Line::Trunk(trunk) = lines(1, &[at(0, 100)]).unwrap().remove(0) else { panic!("a trunk") };
        let info = PortInfo { mac: [2; 6], mtu: 1500, spread: Spread::Unknown };
        let mut io = MemoryNic::new(info, 1).io(0);
        for bytes in [vec![7; 60], tagged(&[7; 60], 0), vec![7; 3], vec![]] {
            assert_eq!(trunk.sort(&mut io.alloc(&bytes).unwrap()), None);
        }
    }

    #[test]
    fn devices_have_one_port_each_or_several_by_vlan() {
        assert_eq!(lines(2, &one_each(2)).unwrap(), [Line::Plain(0), Line::Plain(1)]);
        assert!(matches!(
            lines(3, &[at(1, 5), at(0, 0), at(1, 0)]).as_deref(),
            Ok([Line::Plain(1), Line::Trunk(_)])
        ));
        let rows = [
            (vec![at(0, 0)], AttachError::Count { attached: 1, ports: 2 }),
            (vec![at(0, 1), at(0, 4_095)], AttachError::Vlan(4_095)),
            (vec![at(0, 9), at(0, 9)], AttachError::Twice(0, 1)),
            (vec![at(0, 0), at(2, 0)], AttachError::NoPort(1)),
            (vec![at(0, 0), at(usize::MAX, 0)], AttachError::NoPort(1)),
        ];
        for (attachments, wanted) in rows {
            assert_eq!(lines(2, &attachments), Err(wanted));
        }
    }
}
