//! What a flow lives through: a small state machine per protocol and how long each state may be idle.

use crate::limits::{TCP_ESTABLISHED_TIMEOUT_MS, TCP_TRANSITORY_TIMEOUT_MS, UDP_TIMEOUT_MS};
use turnpike_packet::{sctp::chunk, tcp::flags};

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
    /// TCP or SCTP, the backend has.
    Established = 3,
    /// TCP or SCTP, the client has sent FIN or SHUTDOWN.
    ClientClosed = 4,
    /// TCP or SCTP, the backend has.
    BackendClosed = 5,
    /// TCP or SCTP, both sides have, or one has sent a reset or ABORT.
    Closed = 6,
    /// SCTP, somebody has sent an INIT although there is an association.
    Restarting = 7,
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
            _ => Self::Free,
        }
    }

    /// State of a flow that a first packet of this protocol opens.
    #[must_use]
    pub const fn opening(protocol: u8) -> Self {
        if protocol == 17 { Self::Udp } else { Self::Opening }
    }

    /// The state after a TCP segment with these flags.
    #[must_use]
    pub const fn after(self, direction: Direction, tcp_flags: u8) -> Self {
        if matches!(self, Self::Free | Self::Udp) {
            return self;
        }
        if tcp_flags & flags::RST != 0 {
            return Self::Closed;
        }
        if tcp_flags & flags::SYN != 0 {
            return match (self, direction, tcp_flags & flags::ACK != 0) {
                (Self::Opening, Direction::Reply, true) => Self::Established,
                (Self::Closed, Direction::Forward, false) => Self::Opening,
                _ => self,
            };
        }
        if tcp_flags & flags::FIN != 0 { self.closed_by(direction) } else { self }
    }

    /// The state after one side has said that it closes.
    const fn closed_by(self, direction: Direction) -> Self {
        match (self, direction) {
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

    /// How long the flow may be idle, in milliseconds.
    #[must_use]
    pub const fn timeout_ms(self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Udp => UDP_TIMEOUT_MS,
            Self::Established => TCP_ESTABLISHED_TIMEOUT_MS,
            Self::Opening | Self::ClientClosed | Self::BackendClosed | Self::Closed | Self::Restarting => {
                TCP_TRANSITORY_TIMEOUT_MS
            }
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Direction::{Forward, Reply};
    use super::*;
    use turnpike_packet::tcp::flags::{ACK, FIN, RST, SYN};

    #[test]
    fn a_connection_is_opened_used_and_closed() {
        let rows = [
            (Forward, SYN, State::Opening),
            (Forward, SYN, State::Opening),
            (Reply, SYN | ACK, State::Established),
            (Forward, ACK, State::Established),
            (Reply, ACK, State::Established),
            (Forward, FIN | ACK, State::ClientClosed),
            (Reply, ACK, State::ClientClosed),
            (Reply, FIN | ACK, State::Closed),
            (Forward, ACK, State::Closed),
            (Forward, SYN, State::Opening),
        ];
        let mut state = State::opening(6);
        for (i, (direction, flags, want)) in rows.into_iter().enumerate() {
            state = state.after(direction, flags);
            assert_eq!(state, want, "row {i}");
        }
    }

    #[test]
    fn a_reset_closes_from_either_side() {
        for direction in [Forward, Reply] {
            for state in [State::Opening, State::Established, State::ClientClosed, State::BackendClosed] {
                assert_eq!(state.after(direction, RST), State::Closed);
            }
        }
    }

    #[test]
    fn bytes_that_are_no_state_are_free() {
        for byte in 0..=255 {
            let state = State::from_byte(byte);
            assert!(state as u8 == byte || state == State::Free);
        }
    }
}
