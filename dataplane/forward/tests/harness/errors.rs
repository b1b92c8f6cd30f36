//! ICMP errors as routers and hosts make them.

use super::{Bed, MAC, ROUTER_MAC};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use turnpike_packet::checksum::checksum;
use turnpike_packet::icmpv4::Complaint;
use turnpike_packet::{icmpv6, ipv4};

pub const CLIENT_ROUTER: &str = "198.51.100.1";
pub const POD_ROUTER: &str = "10.244.0.254";

/// An error that `from` makes about a frame that left the gateway, as it comes back: with type, code and the four bytes behind the checksum,
/// quoting so many bytes.
pub fn error(from: &str, about: &[u8], (kind, code, rest): (u8, u8, [u8; 4]), quoted: usize) -> Vec<u8> {
    let packet = &about[14..];
    let packet = &packet[..quoted.min(packet.len())];
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(packet);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let to = u32::from_be_bytes(*about[26..].first_chunk().unwrap());
    let from: u32 = from.parse::<Ipv4Addr>().unwrap().into();
    let mut frame = [&MAC[..], &ROUTER_MAC, &[8, 0]].concat();
    frame.extend(ipv4::header(ipv4::ICMP, from, to, message.len()).unwrap());
    frame.extend(message);
    frame
}

/// "Fragmentation needed" with this MTU, quoting as Linux does.
pub fn too_big(from: &str, about: &[u8], mtu: u16) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    error(from, about, (3, 4, [0, 0, high, low]), 548)
}

/// What a router says over IPv6 about a frame that left the gateway.
pub fn error6(about: &[u8], complaint: Complaint) -> Vec<u8> {
    let mut error = [0; icmpv6::ERROR_FRAME_MAX];
    let router = 0x2001_0db8_00ff << 80 | 1;
    let arrives = [&MAC[..], &ROUTER_MAC].concat();
    let about = [&arrives, &about[12..]].concat();
    let len = icmpv6::error(&about, router, complaint, &mut error).unwrap();
    [&arrives, &error[12..len]].concat()
}

/// Source and destination of a frame's IP packet.
pub fn addresses(frame: &[u8]) -> [String; 2] {
    [26, 30].map(|at| Ipv4Addr::from(*frame[at..].first_chunk::<4>().unwrap()).to_string())
}

/// What a frame with an error quotes, as the beginning of a frame: no two of its bytes behind the Ethernet header are made here.
pub fn quoted(frame: &[u8]) -> Vec<u8> {
    let header = 14 + usize::from(frame[14] & 0x0f) * 4;
    [&frame[..14], &frame[header + 8..]].concat()
}

impl Bed {
    /// Sends one frame and gives the counters that moved, other than those of bytes, and what left.
    pub fn delta(&mut self, frame: &[u8]) -> (BTreeMap<&'static str, u64>, Vec<Vec<u8>>) {
        let before = self.counts();
        self.nic.inject(frame);
        self.turn();
        let sent = self.take();
        let mut after = self.counts();
        after.retain(|name, value| {
            *value -= before.get(name).copied().unwrap_or(0);
            *value != 0 && !name.ends_with("_bytes")
        });
        (after, sent)
    }

    /// Everything the flow tables hold.
    pub fn flows(&self) -> Vec<String> {
        let flows = self.workers.iter().map(turnpike_forward::worker::Worker::flows);
        let v4 = flows.clone().flat_map(|f| f.v4.iter().map(|(n, s)| format!("{n} {s:?}")));
        v4.chain(flows.flat_map(|f| f.v6.iter().map(|(n, s)| format!("{n} {s:?}")))).collect()
    }
}
