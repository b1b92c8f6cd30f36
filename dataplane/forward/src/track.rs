//! What a flow lives through: a small state machine per protocol and how long each state may be idle.

use crate::limits::{SCTP_ESTABLISHED_TIMEOUT_MS, SCTP_TRANSITORY_TIMEOUT_MS, TCP_RESET_HELD_MS};
use turnpike_packet::{ipv4, sctp::chunk};
use turnpike_wire::limits::{TCP_ESTABLISHED_TIMEOUT_S_MIN, TCP_TRANSITORY_TIMEOUT_S_MIN, UDP_TIMEOUT_S_MIN};
use turnpike_wire::update::{Midstream, Tracking};

/// The least times that any Service may set: who was idle for less needs no look at its Service.
pub const LEAST_TRACKING: Tracking = Tracking {
    tcp_established_s: TCP_ESTABLISHED_TIMEOUT_S_MIN,
    tcp_transitory_s: TCP_TRANSITORY_TIMEOUT_S_MIN,
    udp_s: UDP_TIMEOUT_S_MIN,
    midstream: Midstream::Reset,
};

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From the client to the Service.
    Forward = 0,
    /// From the backend to the client.
    Reply = 1,
}

impl Direction {
    /// From a bit.
    #[inline(always)]
    #[must_use]
    pub const fn from_bit(bit: usize) -> Self {
        if bit & 1 == 0 { Self::Forward } else { Self::Reply }
    }
}

/// State of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The slot holds no flow.
    Free = 0,
    /// UDP.
    Udp = 1,
    /// TCP or SCTP, opened by the client; the backend has not answered the SYN, or not acknowledged the cookie.
    Opening = 2,
    /// TCP, the client has acknowledged the backend's SYN; SCTP, the backend has acknowledged the cookie.
    Established = 3,
    /// TCP or SCTP, the client has sent FIN or SHUTDOWN.
    ClientClosed = 4,
    /// TCP or SCTP, the backend has.
    BackendClosed = 5,
    /// TCP or SCTP, both sides have, or the opening was refused; SCTP, one has sent an ABORT.
    Closed = 6,
    /// SCTP, somebody has sent an INIT although there is an association.
    Restarting = 7,
    /// TCP, the backend has sent a SYN, which the client has not acknowledged.
    Answered = 8,
    /// TCP, was open, one side has sent a reset, and nothing has contradicted it.
    Reset = 9,
    /// TCP, the beginning was not seen, and the backend has not confirmed that it is open.
    Adopted = 10,
    /// UDP whose answers take another way ([`crate::one_way`]), as all states that follow.
    OneWayUdp = 11,
    /// TCP or SCTP, opened by the client.
    OneWayOpening = 12,
    /// TCP or SCTP, the client has acknowledged something or echoed a cookie.
    OneWay = 13,
    /// TCP or SCTP, the client has said that it closes.
    OneWayClosed = 14,
}

impl State {
    /// From its byte; what no state is counts as free.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Udp,
            2 => Self::Opening,
            3 => Self::Established,
            4 => Self::ClientClosed,
            5 => Self::BackendClosed,
            6 => Self::Closed,
            7 => Self::Restarting,
            8 => Self::Answered,
            9 => Self::Reset,
            10 => Self::Adopted,
            11 => Self::OneWayUdp,
            12 => Self::OneWayOpening,
            13 => Self::OneWay,
            14 => Self::OneWayClosed,
            _ => Self::Free,
        }
    }

    /// State of a flow that a first packet of this protocol opens.
    #[must_use]
    pub const fn opening(protocol: u8) -> Self {
        if protocol == 17 { Self::Udp } else { Self::Opening }
    }

    /// The same of a flow whose answers take another way.
    #[must_use]
    pub const fn one_way(self) -> Self {
        match self {
            Self::Udp => Self::OneWayUdp,
            _ => Self::OneWayOpening,
        }
    }

    /// Whether its answers take another way.
    #[must_use]
    pub const fn is_one_way(self) -> bool {
        matches!(self, Self::OneWayUdp | Self::OneWayOpening | Self::OneWay | Self::OneWayClosed)
    }

    /// Whether it is one of UDP.
    #[must_use]
    pub const fn is_udp(self) -> bool {
        matches!(self, Self::Udp | Self::OneWayUdp)
    }

    /// The state after one side has said that it closes.
    #[must_use]
    pub const fn closed_by(self, direction: Direction) -> Self {
        match (self, direction) {
            (Self::Adopted, _) => Self::Closed,
            (Self::Opening | Self::Established | Self::Restarting, Direction::Forward) => Self::ClientClosed,
            (Self::Opening | Self::Established | Self::Restarting, Direction::Reply) => Self::BackendClosed,
            (Self::ClientClosed, Direction::Reply) | (Self::BackendClosed, Direction::Forward) => {
                Self::Closed
            }
            _ => self,
        }
    }

    /// The state after an SCTP packet that proved to be of the association, by the type of the chunk that decides about it. A shutdown
    /// counts as acknowledged when its answer is seen, whether or not that is complete.
    #[must_use]
    pub const fn after_chunk(self, direction: Direction, kind: u8) -> Self {
        match (self, kind) {
            (Self::Free | Self::Udp, _) => self,
            (_, chunk::ABORT | chunk::SHUTDOWN_COMPLETE) => Self::Closed,
            (_, chunk::SHUTDOWN | chunk::SHUTDOWN_ACK) => self.closed_by(direction),
            (Self::Opening, chunk::COOKIE_ACK) | (Self::Restarting, _) => Self::Established,
            _ => self,
        }
    }

    /// The state after an INIT for an SCTP association that is there.
    #[must_use]
    pub const fn restarted(self) -> Self {
        match self {
            Self::Free | Self::Udp | Self::Opening => self,
            _ => Self::Restarting,
        }
    }

    /// How long a flow of an IP protocol may be idle, in milliseconds. A TCP connection that one side has closed is open as long as it likes (RFC
    /// 6146 section 3.5.2.2, RFC 5382 REQ-2); an SCTP association that is shut down is not.
    #[must_use]
    pub const fn timeout_ms(self, protocol: u8, tracking: &Tracking) -> u32 {
        let is_sctp = protocol == ipv4::SCTP;
        match self {
            Self::Free => 0,
            Self::Udp | Self::OneWayUdp => tracking.udp_s * 1_000,
            Self::Established | Self::OneWay if is_sctp => SCTP_ESTABLISHED_TIMEOUT_MS,
            _ if is_sctp => SCTP_TRANSITORY_TIMEOUT_MS,
            Self::Established | Self::ClientClosed | Self::BackendClosed | Self::OneWay => {
                tracking.tcp_established_s * 1_000
            }
            Self::Reset => TCP_RESET_HELD_MS,
            Self::Opening
            | Self::Answered
            | Self::Adopted
            | Self::Closed
            | Self::Restarting
            | Self::OneWayOpening
            | Self::OneWayClosed => tracking.tcp_transitory_s * 1_000,
        }
    }

    /// Its name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Udp => "udp",
            Self::Opening => "opening",
            Self::Established => "established",
            Self::ClientClosed => "client_closed",
            Self::BackendClosed => "backend_closed",
            Self::Closed => "closed",
            Self::Restarting => "restarting",
            Self::Answered => "answered",
            Self::Reset => "reset",
            Self::Adopted => "adopted",
            Self::OneWayUdp => "one_way_udp",
            Self::OneWayOpening => "one_way_opening",
            Self::OneWay => "one_way",
            Self::OneWayClosed => "one_way_closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_state_are_free() {
        for byte in 0..=255 {
            let state = State::from_byte(byte);
            assert!(state as u8 == byte || state == State::Free);
        }
    }

    #[test]
    fn nothing_ends_before_the_least_time() {
        let tracking = Tracking::default();
        for protocol in [ipv4::TCP, ipv4::UDP, ipv4::SCTP] {
            for state in (1..=14).map(State::from_byte) {
                let (least, usual) =
                    (state.timeout_ms(protocol, &LEAST_TRACKING), state.timeout_ms(protocol, &tracking));
                assert!((120_000..=usual).contains(&least), "{state:?} of {protocol}: {least} ms");
            }
        }
    }
}
