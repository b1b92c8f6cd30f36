//! What a frame that came is, and what it means to its flow.

use crate::association::Chunk;
use crate::frames::{Layout, is_error, is_v6, stated_len, sum_transport, word, wrongness};
use crate::harness::MAC;
use crate::nat::MTU;
use turnpike_packet::ipv4::{SCTP, TCP, UDP};
use turnpike_packet::tcp::flags::{ACK, FIN, RST, SYN};
use turnpike_packet::tcp_segment::Segment;
use turnpike_packet::{checksum, sctp, sctp::chunk};

/// What a packet means to its flow.
#[derive(Clone, Copy)]
pub enum What {
    Udp,
    Tcp(Segment),
    Sctp(Chunk),
}

impl What {
    pub fn of(frame: &[u8], layout: Layout) -> Self {
        let l4 = &frame[layout.l4..layout.end];
        match layout.protocol {
            TCP => Self::Tcp(Segment::read(l4).expect("a header was found")),
            SCTP => Self::Sctp(Chunk {
                kind: l4[12],
                flags: l4[13],
                tag: sctp::verification_tag(l4).expect("a header was found"),
                asks_for: sctp::initiate_tag(l4).unwrap_or(0),
            }),
            _ => Self::Udp,
        }
    }

    /// A SYN alone, or an INIT.
    pub fn asks(&self) -> bool {
        match self {
            Self::Udp => false,
            Self::Tcp(segment) => segment.flags & (SYN | ACK | RST | FIN) == SYN,
            Self::Sctp(of) => of.kind == chunk::INIT,
        }
    }
}

/// The verdict on a frame that contradicts itself, or that no NAT is for.
pub fn unreadable(frame: &[u8]) -> Option<&'static str> {
    if frame.len() < 14 {
        return Some("truncated");
    }
    if frame[..6] != MAC {
        return Some("other_mac");
    }
    match frame[12..14] {
        [8, 0] => unreadable4(frame),
        [0x86, 0xdd] => unreadable6(frame),
        _ => Some("other_ethertype"),
    }
}

fn unreadable4(frame: &[u8]) -> Option<&'static str> {
    if frame.len() < 34 {
        return Some("truncated");
    }
    let (header, total) = (usize::from(frame[14] & 0x0f) * 4, stated_len(frame, 14));
    if frame[14] >> 4 != 4 || header < 20 || total < header || 14 + total > frame.len() {
        return Some("bad_ipv4");
    }
    if checksum::ones_complement_sum(&frame[14..14 + header]) != 0xffff {
        return Some("bad_ipv4_checksum");
    }
    // The driver's options are no-operations and source routes.
    if frame[34..14 + header].iter().any(|&option| option == 131 || option == 137) {
        return Some("source_route");
    }
    unreadable_transport(frame)
}

fn unreadable6(frame: &[u8]) -> Option<&'static str> {
    if frame.len() < 54 {
        return Some("truncated");
    }
    if frame[14] >> 4 != 6 || 14 + stated_len(frame, 14) > frame.len() {
        return Some("bad_ipv6");
    }
    // The driver's routing headers come first and have segments left.
    if frame[20] == 43 {
        return Some("source_route");
    }
    unreadable_transport(frame)
}

fn unreadable_transport(frame: &[u8]) -> Option<&'static str> {
    let layout = Layout::at(frame, 14);
    let l4 = &frame[layout.l4..layout.end];
    let request = if layout.is_v6 { 128 } else { 8 };
    match layout.protocol {
        TCP if l4.len() < 20 || !(20..=l4.len()).contains(&(usize::from(l4[12] >> 4) * 4)) => Some("bad_l4"),
        UDP if l4.len() < 8 || !(8..=l4.len()).contains(&usize::from(word(l4, 4))) => Some("bad_l4"),
        // RFC 8200 section 8.1: over IPv6 a datagram has a checksum.
        UDP if layout.is_v6 && l4[6..8] == [0, 0] => Some("bad_l4"),
        SCTP => {
            let is_init = l4.get(12) == Some(&chunk::INIT);
            let is_whole = l4.len() >= 16 && l4[..2] != [0; 2] && l4[2..4] != [0; 2];
            (!is_whole || is_init != (l4[4..8] == [0; 4])).then_some("bad_l4")
        }
        TCP | UDP => None,
        _ if !layout.is_icmp() => Some("other_protocol"),
        _ if l4.len() < 8 => Some("bad_l4"),
        _ if l4[..2] == [request, 0] || is_error(layout, frame) => None,
        _ => Some("icmp"),
    }
}

/// The frame with the segment size of its SYN lowered to the MTU less two headers, and whether it was. The option comes first among the driver's.
pub fn clamped(frame: &[u8], layout: Layout) -> (Vec<u8>, bool) {
    let at = layout.l4 + 20;
    let has_option = layout.protocol == TCP && frame[layout.l4 + 12] >> 4 > 5 && frame[at..at + 2] == [2, 4];
    let most = MTU - if is_v6(frame) { 60 } else { 40 };
    if !has_option || frame[layout.l4 + 13] & SYN == 0 || word(frame, at + 2) <= most {
        return (frame.to_vec(), false);
    }
    let wrong_by = wrongness(frame, layout);
    let mut lowered = frame.to_vec();
    lowered[at + 2..at + 4].copy_from_slice(&most.to_be_bytes());
    sum_transport(&mut lowered, layout, wrong_by);
    (lowered, true)
}
