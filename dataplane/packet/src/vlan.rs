//! VLAN tags (IEEE 802.1Q): four bytes behind the Ethernet addresses, the tag protocol identifier and the tag control information.

use crate::ethernet;
use crate::io::Frame;

/// EtherType of a tag, its protocol identifier.
pub const TAG: u16 = 0x8100;
/// EtherType of a service provider's tag (IEEE 802.1ad), in front of others.
pub const SERVICE_TAG: u16 = 0x88a8;
/// Length of a tag, in bytes.
pub const TAG_BYTES: usize = 4;
/// First and last number that a VLAN can have. 0 stands for none, and 4095 is reserved.
pub const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;

/// Bytes of both Ethernet addresses, which stand in front of a tag.
const ADDRESSES: usize = 12;
/// The tag control information without priority and drop eligibility.
const NUMBER: u16 = 0x0fff;

/// What a frame says about its VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tagged {
    /// No tag.
    No,
    /// One tag. 0: a priority but no VLAN.
    Once(u16),
    /// Several tags, or one that the frame ends in.
    Oddly,
}

/// Whether an EtherType is that of a tag.
#[must_use]
pub const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, TAG | SERVICE_TAG)
}

/// Reads the tag at the front of a frame.
#[inline]
#[must_use]
pub fn read(frame: &[u8]) -> Tagged {
    let word = |at: usize| frame.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    match (word(ADDRESSES), word(ADDRESSES + 2), word(ADDRESSES + TAG_BYTES)) {
        (Some(TAG), Some(control), Some(inner)) if !is_tag(inner) => Tagged::Once(control & NUMBER),
        (Some(TAG | SERVICE_TAG), ..) => Tagged::Oddly,
        _ => Tagged::No,
    }
}

/// Takes the tag off a frame that has one; false, and the frame unchanged, if its first segment is too short.
#[inline]
#[must_use]
pub fn take_off<F: Frame>(frame: &mut F) -> bool {
    let data = frame.data_mut();
    if data.len() < ethernet::HEADER + TAG_BYTES {
        return false;
    }
    data.copy_within(..ADDRESSES, TAG_BYTES);
    frame.trim_front(TAG_BYTES)
}

/// Puts a tag of a VLAN on a frame, without priority; false, and the frame unchanged, if it has no room in front or no addresses.
#[inline]
#[must_use]
pub fn put_on<F: Frame>(frame: &mut F, vlan: u16) -> bool {
    if frame.data().len() < ADDRESSES || !frame.grow_front(TAG_BYTES) {
        return false;
    }
    let data = frame.data_mut();
    data.copy_within(TAG_BYTES..TAG_BYTES + ADDRESSES, 0);
    data[ADDRESSES..ADDRESSES + 2].copy_from_slice(&TAG.to_be_bytes());
    data[ADDRESSES + 2..ADDRESSES + TAG_BYTES].copy_from_slice(&(vlan & NUMBER).to_be_bytes());
    true
}

/// The frame with a tag of this control information, as a copy, for tests and tools.
#[must_use]
pub fn tagged(frame: &[u8], control: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(ADDRESSES.min(frame.len()));
    [addresses, &TAG.to_be_bytes(), &control.to_be_bytes(), rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{HEADROOM, PacketIo, PortInfo, Spread};
    use crate::memory::{MemoryFrame, MemoryNic};

    const FRAME: [u8; 18] = [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0, b'd', b'a', b't', b'a'];

    fn frame(bytes: &[u8]) -> MemoryFrame {
        let info = PortInfo { mac: [2; 6], mtu: 1500, spread: Spread::Unknown };
        MemoryNic::new(info, 1).io(0).alloc(bytes).unwrap()
    }

    #[test]
    fn a_tag_goes_on_and_comes_off() {
        let mut one = frame(&FRAME);
        assert!(put_on(&mut one, 100));
        let golden = [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x81, 0, 0, 100, 8, 0, b'd', b'a', b't', b'a'];
        assert_eq!((one.data(), one.frame_len()), (&golden[..], 22));
        assert_eq!((read(&golden), tagged(&FRAME, 100)), (Tagged::Once(100), golden.to_vec()));
        assert!(take_off(&mut one));
        assert_eq!((one.data(), read(one.data())), (&FRAME[..], Tagged::No));
    }

    #[test]
    fn what_a_frame_says_of_its_vlan() {
        let with = |control| tagged(&FRAME, control);
        let service = |mut frame: Vec<u8>| {
            frame[12..14].copy_from_slice(&SERVICE_TAG.to_be_bytes());
            frame
        };
        let rows = [
            ("none", FRAME.to_vec(), Tagged::No),
            ("a number", with(4094), Tagged::Once(4094)),
            ("a number under a priority", with(0xf064), Tagged::Once(100)),
            ("a priority alone", with(0xe000), Tagged::Once(0)),
            ("two tags", tagged(&with(100), 200), Tagged::Oddly),
            ("a service tag", service(with(100)), Tagged::Oddly),
            ("a tag within a service tag", service(tagged(&with(100), 200)), Tagged::Oddly),
            ("a tag that the frame ends in", with(100)[..17].to_vec(), Tagged::Oddly),
            ("an EtherType that the frame ends in", FRAME[..13].to_vec(), Tagged::No),
            ("nothing", Vec::new(), Tagged::No),
        ];
        for (what, frame, wanted) in rows {
            assert_eq!(read(&frame), wanted, "{what}");
        }
    }

    #[test]
    fn frames_without_room_stay_as_they_are() {
        let mut short = frame(&FRAME[..17]);
        assert!(!take_off(&mut short));
        assert_eq!(short.data(), &FRAME[..17]);
        let mut no_addresses = frame(&FRAME[..11]);
        assert!(!put_on(&mut no_addresses, 1));
        let mut full = frame(&FRAME);
        assert!(full.grow_front(HEADROOM) && !put_on(&mut full, 1));
        assert_eq!(full.frame_len(), FRAME.len() + HEADROOM);
    }
}
