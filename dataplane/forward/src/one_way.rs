//! What the client's packets alone show of a flow whose backend answers past the gateway (`dsr-ipip`).
//!
//! RFC 7857 speaks of what both sides say; here one is silent. So a SYN opens, the segment that acknowledges the backend's SYN makes the flow
//! established, and a FIN or a reset of the client begins its end: the flow then has the short time-out, renewed by whatever the client still
//! sends. A half-closed connection whose client says nothing for that long is forgotten, which a gateway that hears both sides would not do.
//!
//! A FIN or a reset counts near the newest sequence number alone (after RFC 5961), so nobody who cannot see a connection can end it. Everything else
//! keeps the flow alive: the other side's numbers, by which more could be told, are not known, and a client that sent by another way for
//! a while must not lose its backend. What a forged segment gains is a flow that lives for longer.
//!
//! Next: the worker puts the packet into another ([`turnpike_packet::ipip`]).

use crate::track::State;
use turnpike_packet::sctp::{self, chunk};
use turnpike_packet::tcp::flags::{ACK, FIN, RST, SYN};
use turnpike_packet::tcp_segment::Segment;

/// How far from the newest sequence number a FIN or a reset may be, either way: what is on its way at once on most paths.
const NEAR: u32 = 1 << 16;
/// How far ahead of it a segment may be to be the newest: as much as is lost at once on its way here, at most.
const AHEAD: u32 = 1 << 20;
/// Stands in [`OneWay::detail`] of a flow that a reset or an ABORT has closed, which a later packet contradicts.
const BROKEN_OFF: u8 = 1;
/// Stands there when an INIT has come for an association that is open.
const ASKED_AGAIN: u8 = 2;

/// What is remembered of such a flow beside its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneWay {
    /// One of the states of which [`State::is_one_way`] is true.
    pub state: State,
    /// TCP: the newest sequence number. SCTP: the tag that the client's packets carry, once it is known.
    pub newest: u32,
    /// What else has to be known.
    pub detail: u8,
}

impl OneWay {
    /// Of a first packet: TCP with a SYN, SCTP with an INIT, or any datagram.
    #[must_use]
    pub const fn opening(protocol: u8) -> Self {
        Self { state: State::opening(protocol).one_way(), newest: 0, detail: 0 }
    }

    /// Of a TCP connection whose beginning nobody saw.
    #[must_use]
    pub const fn adopted(segment: &Segment) -> Self {
        let state = if segment.has(FIN) { State::OneWayClosed } else { State::OneWay };
        Self { state, newest: segment.sequence, detail: 0 }
    }

    /// Takes note of a TCP segment. `false` when it says nothing, and so must not keep the flow alive.
    pub fn segment(&mut self, segment: &Segment) -> bool {
        if segment.has(SYN) {
            // One for a connection that is open is answered by the backend (RFC 5961 section 4.2), and a closed flow was removed.
            let opens = self.state == State::OneWayOpening && !segment.has(RST);
            if opens {
                self.newest = segment.sequence.wrapping_add(1);
            }
            return opens;
        }
        let is_near = segment.sequence.wrapping_sub(self.newest).wrapping_add(NEAR) <= 2 * NEAR;
        if segment.has(RST) {
            if is_near {
                (self.state, self.detail) = (State::OneWayClosed, BROKEN_OFF);
            }
            return is_near;
        }
        if !segment.has(ACK) {
            return false;
        }
        if segment.sequence.wrapping_sub(self.newest) <= AHEAD {
            self.newest = segment.sequence;
        }
        match self.state {
            State::OneWayOpening if is_near => self.state = State::OneWay,
            State::OneWayClosed if is_near && self.detail == BROKEN_OFF => {
                (self.state, self.detail) = (State::OneWay, 0);
            }
            _ => {}
        }
        if is_near && segment.has(FIN) {
            self.state = State::OneWayClosed;
        }
        true
    }

    /// The same of an SCTP packet, by the chunk that decides about it and its verification tag: who knows the tag that the client echoed the
    /// backend's cookie with can end the association (RFC 9260 section 8.5.1).
    pub fn chunk(&mut self, kind: u8, tag: u32) -> bool {
        let learns = self.state == State::OneWayOpening || self.detail == ASKED_AGAIN;
        match kind {
            chunk::INIT => {
                if !learns {
                    self.detail = ASKED_AGAIN;
                }
                self.state == State::OneWayOpening
            }
            chunk::COOKIE_ECHO if learns => {
                *self = Self { state: State::OneWay, newest: tag, detail: 0 };
                true
            }
            chunk::ABORT | chunk::SHUTDOWN | chunk::SHUTDOWN_ACK | chunk::SHUTDOWN_COMPLETE => {
                let is_proven = tag == self.newest && tag != 0;
                if is_proven {
                    self.detail = if kind == chunk::ABORT { BROKEN_OFF } else { 0 };
                    self.state = State::OneWayClosed;
                }
                is_proven
            }
            _ => {
                if self.state == State::OneWayClosed && self.detail == BROKEN_OFF {
                    (self.state, self.detail) = (State::OneWay, 0);
                }
                true
            }
        }
    }

    /// The same of a packet whose transport header starts `head`: `chunk` is the one that decides about an SCTP packet, none of other protocols.
    pub fn observe(&mut self, chunk: Option<u8>, head: &[u8]) -> bool {
        match (self.state, chunk) {
            (State::OneWayUdp, _) => true,
            (_, Some(kind)) => sctp::verification_tag(head).is_some_and(|tag| self.chunk(kind, tag)),
            (_, None) => Segment::read(head).is_some_and(|segment| self.segment(&segment)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: u8, sequence: u32) -> Segment {
        Segment { sequence, acknowledgement: 7, flags, window: 100, scale: None }
    }

    fn open() -> OneWay {
        let mut flow = OneWay::opening(6);
        assert!(flow.segment(&segment(SYN, 999)) && flow.segment(&segment(ACK, 1_000)));
        assert_eq!(flow, OneWay { state: State::OneWay, newest: 1_000, detail: 0 });
        flow
    }

    #[test]
    fn syn_opens_an_acknowledgement_establishes_fin_and_reset_close() {
        assert_eq!(OneWay::opening(17).state, State::OneWayUdp);
        assert!(OneWay::opening(17).observe(None, b""));
        let mut flow = OneWay::opening(6);
        assert_eq!(flow.state, State::OneWayOpening);
        // A SYN again, with another number; then something that is of neither.
        assert!(flow.segment(&segment(SYN, 5)) && flow.segment(&segment(SYN, 999)));
        assert!(flow.segment(&segment(ACK, 900_000_000)));
        assert_eq!((flow.state, flow.newest), (State::OneWayOpening, 1_000));
        for flags in [FIN | ACK, RST, RST | ACK] {
            let mut flow = open();
            assert!(flow.segment(&segment(flags, 1_010)));
            assert_eq!(flow.state, State::OneWayClosed, "{flags:#x}");
        }
    }

    #[test]
    fn rfc5961_3_2_who_does_not_see_the_numbers_closes_nothing() {
        for flags in [RST, FIN | ACK, SYN, SYN | ACK, 0, FIN] {
            let mut flow = open();
            for sequence in (0..=u32::MAX).step_by(1 << 20).filter(|s| *s != 0) {
                flow.segment(&segment(flags, sequence.wrapping_add(1_000)));
            }
            assert_eq!(flow.state, State::OneWay, "{flags:#x}");
        }
    }

    #[test]
    fn the_newest_number_follows_what_was_lost_and_nothing_else() {
        let mut flow = open();
        for (sequence, newest) in
            [(1_001, 1_001), (900, 1_001), (1_001 + AHEAD, 1_001 + AHEAD), (7, 1_001 + AHEAD)]
        {
            assert!(flow.segment(&segment(ACK, sequence)), "it lives on");
            assert_eq!((flow.newest, flow.state), (newest, State::OneWay), "{sequence}");
        }
        // Around the end of numbers.
        let mut flow = OneWay { newest: u32::MAX, ..flow };
        assert!(flow.segment(&segment(ACK, 3)) && flow.newest == 3);
        assert!(flow.segment(&segment(RST, u32::MAX)) && flow.state == State::OneWayClosed);
    }

    #[test]
    fn rfc7857_2_2_who_goes_on_after_a_reset_does_not_believe_in_it() {
        let mut flow = open();
        assert!(flow.segment(&segment(RST, 1_000)) && flow.segment(&segment(ACK, 1_000)));
        assert_eq!(flow.state, State::OneWay);
        // After a FIN there are acknowledgements of what the backend still sends, and the FIN again.
        assert!(flow.segment(&segment(FIN | ACK, 1_000)) && flow.segment(&segment(ACK, 1_001)));
        assert!(flow.segment(&segment(FIN | ACK, 1_000)));
        assert_eq!(flow.state, State::OneWayClosed);
    }

    #[test]
    fn adopted_connections_are_open_or_closing() {
        assert_eq!(OneWay::adopted(&segment(ACK, 9)).state, State::OneWay);
        assert_eq!(OneWay::adopted(&segment(ACK | FIN, 9)).state, State::OneWayClosed);
    }

    #[test]
    fn rfc9260_8_5_1_the_tag_of_the_echoed_cookie_ends_an_association() {
        let mut flow = OneWay::opening(132);
        for (kind, tag, counts, state) in [
            (chunk::INIT, 0, true, State::OneWayOpening),
            (chunk::ABORT, 0, false, State::OneWayOpening),
            (chunk::COOKIE_ECHO, 77, true, State::OneWay),
            (chunk::DATA, 77, true, State::OneWay),
            (chunk::SHUTDOWN, 78, false, State::OneWay),
            (chunk::ABORT, 0, false, State::OneWay),
            (chunk::COOKIE_ECHO, 78, true, State::OneWay),
            (chunk::ABORT, 78, false, State::OneWay),
            (chunk::ABORT, 77, true, State::OneWayClosed),
            (chunk::DATA, 77, true, State::OneWay),
            (chunk::INIT, 0, false, State::OneWay),
            (chunk::COOKIE_ECHO, 80, true, State::OneWay),
            (chunk::SHUTDOWN, 77, false, State::OneWay),
            (chunk::SHUTDOWN, 80, true, State::OneWayClosed),
            (chunk::DATA, 80, true, State::OneWayClosed),
            (chunk::SHUTDOWN_COMPLETE, 80, true, State::OneWayClosed),
        ] {
            assert_eq!((flow.chunk(kind, tag), flow.state), (counts, state), "chunk {kind} tag {tag}");
        }
    }

    #[test]
    fn what_is_cut_off_says_nothing() {
        assert!(!open().observe(None, &[0; 19]) && !open().observe(Some(chunk::DATA), &[0; 4]));
    }
}
