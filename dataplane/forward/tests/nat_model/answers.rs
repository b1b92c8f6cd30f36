//! What the gateway says itself: refusals, complaints and answers to echo requests, all within a limit.

use crate::frames::{Complaint, Layout, Tuple, is_no_host, own_error, set_macs, sum_header, sum_transport};
use crate::harness::{MAC, ROUTER_MAC};
use crate::nat::{Fate, MTU, Nat, own};
use crate::reading::What;
use turnpike_packet::flight::Flight;
use turnpike_packet::sctp;
use turnpike_packet::sctp::chunk;
use turnpike_packet::tcp::flags::{ACK, FIN, RST, SYN};
use turnpike_packet::tcp_segment::Segment;

/// Answers of a second that one worker may make, and of those to clients who find no room.
const ANSWERS: u32 = 1_000;
const SHORTAGES: u32 = 100;

/// The answers of the second that runs: when it began, and how many were made or refused in it.
#[derive(Debug, Default)]
pub struct Answers {
    since_ms: u32,
    wanted: u32,
}

impl Answers {
    fn may(&mut self, most: u32, now_ms: u32) -> bool {
        if now_ms - self.since_ms >= 1_000 {
            *self = Self { since_ms: now_ms, wanted: 0 };
        }
        self.wanted += 1;
        self.wanted <= most
    }
}

impl Nat {
    /// Whether one more answer may be made in this second. Of several workers, each may make as many; the driver gives them so much time that
    /// none ever comes near.
    fn may_answer(&mut self) -> bool {
        self.workers > 1 || self.answers.may(ANSWERS, self.now_ms)
    }

    /// An echo request, which comes back from every address that is ours.
    pub fn echo(&mut self, frame: &[u8], layout: Layout) -> Fate {
        let Tuple { source, destination, .. } = layout.tuple(frame);
        if !self.is_ours(destination.ip()) {
            return Fate::Silent(self.unanswered(destination.ip()));
        }
        if self.is_bad_source(source.ip()) {
            return Fate::Silent("bad_source");
        }
        if !self.may_answer() {
            return Fate::Silent("reject_limited");
        }
        let mut reply = frame.to_vec();
        set_macs(&mut reply);
        reply[layout.ttl()] = 64;
        layout.set_addresses(&mut reply, destination.ip(), source.ip());
        sum_header(&mut reply, layout);
        reply[layout.l4] = if layout.is_v6 { 129 } else { 0 };
        sum_transport(&mut reply, layout, 0);
        Fate::Leaves("echo_replied", reply)
    }

    /// The gateway tells the sender of a packet what is wrong with it.
    pub fn complain(&mut self, verdict: &'static str, frame: &[u8], complaint: Complaint) -> Fate {
        let layout = Layout::at(frame, 14);
        let hosts = !is_no_host(layout.source(frame)) && !is_no_host(layout.destination(frame));
        if !hosts || !self.may_answer() {
            return Fate::Silent(verdict);
        }
        self.count("icmp_sent");
        Fate::Leaves(verdict, own_error(own(layout.is_v6), frame, complaint, MTU))
    }

    /// What becomes of a packet that may not make a flow.
    pub fn refuse(&mut self, verdict: &'static str, frame: &[u8], layout: Layout, what: &What) -> Fate {
        let Tuple { source, destination, .. } = layout.tuple(frame);
        let back =
            Flight { source_mac: MAC, destination_mac: ROUTER_MAC, source: destination, destination: source };
        let hosts = !is_no_host(source.ip()) && !is_no_host(destination.ip());
        match (verdict, what) {
            // RFC 5508 REQ-8.
            ("flow_table_full" | "client_quota" | "snat_exhausted", _) => {
                if !hosts || !self.shortages.may(SHORTAGES, self.now_ms) {
                    return Fate::Silent(verdict);
                }
                self.count("icmp_sent");
                Fate::Leaves(verdict, own_error(destination.ip(), frame, Complaint::Prohibited, MTU))
            }
            ("rejected", _) => {
                if !self.may_answer() {
                    return Fate::Silent("reject_limited");
                }
                if !hosts {
                    return Fate::Silent(verdict);
                }
                self.count("icmp_sent");
                Fate::Leaves(verdict, own_error(destination.ip(), frame, Complaint::PortUnreachable, MTU))
            }
            ("tcp_no_flow", What::Tcp(segment)) if !segment.has(RST) && self.may_answer() => {
                self.count("resets_sent");
                let header = usize::from(frame[layout.l4 + 12] >> 4) * 4;
                let data = (layout.end - layout.l4 - header) as u32;
                let length = data + u32::from(segment.has(SYN)) + u32::from(segment.has(FIN));
                let (sequence, acknowledgement, flags) = match segment.has(ACK) {
                    true => (segment.acknowledgement, 0, RST),
                    false => (0, segment.sequence.wrapping_add(length), RST | ACK),
                };
                // A reset offers no window.
                let reset = Segment { sequence, acknowledgement, flags, window: 0, scale: None };
                Fate::Leaves(verdict, reset.frame(&back, b""))
            }
            ("sctp_no_flow", What::Sctp(of)) => {
                let kind = match of.kind {
                    chunk::COOKIE_ECHO | chunk::COOKIE_ACK | chunk::ABORT => return Fate::Silent(verdict),
                    chunk::SHUTDOWN_COMPLETE | chunk::ERROR => return Fate::Silent(verdict),
                    chunk::SHUTDOWN_ACK => chunk::SHUTDOWN_COMPLETE,
                    _ => chunk::ABORT,
                };
                if !self.may_answer() {
                    return Fate::Silent(verdict);
                }
                self.count("resets_sent");
                Fate::Leaves(verdict, sctp::packet(&back, of.tag, &[(kind, 1, b"")]))
            }
            _ => Fate::Silent(verdict),
        }
    }
}
