//! Datagrams cut into fragments as their senders do it, and put together again as their receivers do.

use std::collections::BTreeMap;
use turnpike_packet::{checksum, ipv4, ipv6};

const ETHERNET: usize = 14;

/// The fragments of a whole frame, each with at most `bytes` bytes of its datagram.
pub fn cut(frame: &[u8], id: u32, bytes: usize) -> Vec<Vec<u8>> {
    let bytes = bytes / 8 * 8;
    let is_v4 = frame[12] == 8;
    let header_len = if is_v4 { ipv4::HEADER } else { ipv6::HEADER };
    let (header, payload) = frame[ETHERNET..].split_at(header_len);
    let count = payload.len().div_ceil(bytes);
    let parts = payload.chunks(bytes).enumerate().map(|(n, part)| {
        let (offset, more) = ((n * bytes) as u16, n + 1 < count);
        let mut fragment = [&frame[..ETHERNET], header].concat();
        if is_v4 {
            let total = (header_len + part.len()) as u16;
            fragment[16..18].copy_from_slice(&total.to_be_bytes());
            fragment[18..20].copy_from_slice(&(id as u16).to_be_bytes());
            fragment[20..22].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
        } else {
            fragment[18..20].copy_from_slice(&((part.len() + 8) as u16).to_be_bytes());
            let next = std::mem::replace(&mut fragment[20], 44);
            fragment.extend([next, 0]);
            fragment.extend((offset | u16::from(more)).to_be_bytes());
            fragment.extend(id.to_be_bytes());
        }
        fragment.extend(part);
        seal(fragment)
    });
    parts.collect()
}

/// With a right IPv4 header checksum.
pub fn seal(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12] == 8 {
        let header_len = usize::from(frame[14] & 0x0f) * 4;
        frame[24..26].fill(0);
        let sum = checksum::checksum(&frame[14..14 + header_len]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// Addresses, protocol and identification: what a receiver knows a datagram by.
type Name = (Vec<u8>, u32);

/// A receiver without limits.
#[derive(Default)]
pub struct Receiver {
    /// For each datagram under way the frame of its first byte, and its parts by offset.
    parts: BTreeMap<Name, BTreeMap<u16, (bool, Vec<u8>)>>,
    heads: BTreeMap<Name, Vec<u8>>,
    /// The identifications of all that became whole.
    pub ids: Vec<Name>,
}

impl Receiver {
    /// Takes a frame; gives the whole one that it completes.
    #[track_caller]
    pub fn take(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let is_v4 = frame[12] == 8;
        let (name, offset, more, part) = if is_v4 {
            let name = ([&frame[26..34], &frame[23..24]].concat(), u32::from(word(18)));
            (name, (word(20) & 0x1fff) * 8, word(20) & 0x2000 != 0, &frame[34..14 + usize::from(word(16))])
        } else {
            assert_eq!(frame[20], 44);
            let id = u32::from(word(58)) << 16 | u32::from(word(60));
            let name = (frame[22..54].to_vec(), id);
            (name, word(56) & !7, word(56) & 1 != 0, &frame[62..54 + usize::from(word(18))])
        };
        if offset == 0 {
            self.heads.insert(name.clone(), frame.to_vec());
        }
        let parts = self.parts.entry(name.clone()).or_default();
        let before = parts.insert(offset, (more, part.to_vec()));
        assert!(before.is_none(), "two datagrams of one name are under way");
        let mut end = 0;
        for (&offset, (more, part)) in parts.iter() {
            if usize::from(offset) != end {
                return None;
            }
            end += part.len();
            if !more {
                break;
            }
        }
        if parts.values().all(|(more, _)| *more) {
            return None;
        }
        let payload: Vec<u8> = parts.values().flat_map(|(_, part)| part.iter().copied()).collect();
        assert_eq!(payload.len(), end);
        self.parts.remove(&name);
        let mut whole = self.heads.remove(&name)?;
        self.ids.push(name);
        if is_v4 {
            whole.truncate(34);
            whole[16..18].copy_from_slice(&((20 + end) as u16).to_be_bytes());
            whole[20..22].fill(0);
        } else {
            whole[20] = whole[54];
            whole.truncate(54);
            whole[18..20].copy_from_slice(&(end as u16).to_be_bytes());
        }
        whole.extend(payload);
        Some(seal(whole))
    }

    /// Datagrams that are not whole.
    pub fn incomplete(&self) -> usize {
        self.parts.len()
    }
}
