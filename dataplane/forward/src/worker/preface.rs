//! Segments of connections whose backend gets a header in front of the client's bytes ([`crate::proxy_protocol`]).

use super::Worker;
use crate::flow_table::{Candidate, Entry};
use crate::parse::Packet;
use crate::path::Path;
use crate::proxy_protocol::{self, backend_sends, carries, client_sends};
use crate::rewrite::Deltas;
use crate::verdict::{Tally, Verdict};
use turnpike_packet::io::{Frame, PacketIo};
use turnpike_packet::tcp::{self, flags};
use turnpike_packet::{checksum, ethernet, ip, mss};

impl<F: Frame> Worker<'_, F> {
    /// Translates a segment, with the header in front of its bytes where it goes there, and sends it, or holds it until its next hop is known.
    #[cold]
    #[inline(never)]
    pub(super) fn forward_prefaced<K: Path, I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        mut frame: F,
        key: K,
        packet: Packet,
        flow: Candidate,
        ios: &mut [I],
    ) {
        let direction = flow.direction();
        let length = proxy_protocol::length(K::FAMILY);
        let table = K::flows_mut(&mut self.flows);
        let session = table.session_mut(flow.slot());
        let [client, backend] = *session.keys();
        let next_hop = session.next_hop[direction];
        let segment = frame.data().get(packet.l4()..).unwrap_or_default();
        let carries = direction == 0 && carries(session, segment);
        let link = self.shared.neighbours.link(next_hop);
        let out = usize::from(self.shared.neighbours.hop(next_hop).port);
        let more = if carries { length } else { 0 };
        let mtu = self.shared.gateway.ports().get(out).map_or(u16::MAX, |port| port.mtu);
        if K::packet_len(frame.data()).is_some_and(|len| len + usize::from(more) > usize::from(mtu)) {
            return self.too_big::<K, I>(port, &frame, mtu.saturating_sub(more), ios);
        }
        self.clamp(&mut frame, key, packet, [port, out]);
        let session = K::flows_mut(&mut self.flows).session_mut(flow.slot());
        let segment = frame.data_mut().get_mut(packet.l4()..).unwrap_or_default();
        if direction == 0 {
            client_sends(session, segment, length.into());
        } else {
            backend_sends(session, segment, length.into());
            // The client's first segment has to leave room for the header.
            if packet.tcp_flags() & flags::SYN != 0 && mss::lower(segment, length) {
                self.counters.add(Tally::MssClamped, 1);
            }
        }
        let mut session = *session;
        let keys = [client, backend];
        let deltas = Deltas::between(keys[direction], keys[direction ^ 1].reversed());
        session.l3_delta[direction] = deltas.l3;
        session.l4_delta[direction] = deltas.l4;
        // Bytes of a SYN (RFC 7413) would come in front of the header. Who gets no acknowledgement of them sends them again.
        let is_syn = direction == 0 && packet.tcp_flags() & flags::SYN != 0;
        if is_syn && let Err(verdict) = take_out(&mut frame, packet.l4()) {
            return self.counters.count(verdict);
        }
        if carries && let Err(verdict) = put_in(&mut frame, packet.l4(), &proxy_protocol::header(client)) {
            return self.counters.count(verdict);
        }
        let addressing = link.addressing(&self.sources[K::FAMILY as usize]);
        if !K::translate(&session, direction, packet, frame.data_mut(), addressing) {
            return self.expired::<K, I>(port, &frame, ios);
        }
        self.send_or_hold(frame, next_hop, ios);
    }
}

/// Puts bytes, an even number of them, in front of a segment's own. Lengths and checksums follow; a wrong one stays wrong.
fn put_in<F: Frame>(frame: &mut F, l4: usize, bytes: &[u8]) -> Result<(), Verdict> {
    let (headers, end) = bounds(frame, l4)?;
    if frame.data().len() < headers {
        return Err(Verdict::HeaderSplit);
    }
    if !frame.grow_front(bytes.len()) {
        return Err(Verdict::NoMemory);
    }
    let data = frame.data_mut();
    data.copy_within(bytes.len()..bytes.len() + headers, 0);
    data[headers..headers + bytes.len()].copy_from_slice(bytes);
    resize(data, l4, [end, end + bytes.len()], [0, checksum::ones_complement_sum(bytes)]);
    Ok(())
}

/// Takes a segment's own bytes away, in the same manner.
fn take_out<F: Frame>(frame: &mut F, l4: usize) -> Result<(), Verdict> {
    let (headers, end) = bounds(frame, l4)?;
    let bytes = frame.data().get(headers..end).ok_or(Verdict::HeaderSplit)?;
    let sum = checksum::ones_complement_sum(bytes);
    frame.truncate(headers);
    resize(frame.data_mut(), l4, [end, headers], [sum, 0]);
    Ok(())
}

/// Where the headers of a segment end, and its bytes.
fn bounds<F: Frame>(frame: &F, l4: usize) -> Result<(usize, usize), Verdict> {
    let head = frame.data();
    let offset = head.get(l4 + 12).map_or(0, |offset| usize::from(offset >> 4) * 4).max(tcp::HEADER);
    let end = ip::end(head).ok_or(Verdict::Truncated)?;
    Ok((l4 + offset, end.max(l4 + offset)))
}

/// What lengths and checksums say when a packet ends elsewhere, and some of its segment's bytes sum up to something else.
fn resize(data: &mut [u8], l4: usize, end: [usize; 2], sum: [u16; 2]) {
    let half = |data: &[u8], at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
    let lengths = end.map(|end| (end - l4) as u16);
    let of_segment = checksum::updated(half(data, l4 + 16), sum[0], sum[1]);
    let of_segment = checksum::updated(of_segment, lengths[0], lengths[1]);
    data[l4 + 16..l4 + 18].copy_from_slice(&of_segment.to_be_bytes());
    let at = ethernet::HEADER;
    let changed = |old: u16| old.wrapping_sub(lengths[0]).wrapping_add(lengths[1]);
    if half(data, 12) == ethernet::IPV4 {
        let (old, new) = (half(data, at + 2), changed(half(data, at + 2)));
        let sum = checksum::updated(half(data, at + 10), old, new);
        data[at + 2..at + 4].copy_from_slice(&new.to_be_bytes());
        data[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let new = changed(half(data, at + 4));
        data[at + 4..at + 6].copy_from_slice(&new.to_be_bytes());
    }
}
