//! What an SCTP packet does to its flow (RFC 9260): only one with the right verification tag moves its state or keeps it alive, so nobody
//! who cannot see an association can end it. Next: [`crate::rewrite`].
//!
//! Each side chooses the tag that packets to it carry. Both are learned when a COOKIE ACK answers a COOKIE ECHO: the answering side sends it only
//! once it has its own cookie back, which nobody can guess. An INIT alone proves nothing. It may come from a side that has restarted (section
//! 5.2.2), or from somebody who pretends to be one; either way the flow is *restarting* and ends soon, unless a packet with an old tag shows
//! that the association lives, or cookies that there is a new one.
//!
//! Deliberately nothing here drops a packet: what a wrong tag means is for the endpoints to say.

use crate::flow_table::Life;
use crate::parse::Packet;
use crate::track::{Direction, State};
use turnpike_packet::sctp::{self, chunk};

/// Takes note of a packet of a flow; `head` is the beginning of its SCTP packet. `false` when it proved nothing and began nothing, and so must not
/// keep the flow alive.
pub fn observe(session: &mut Life, direction: Direction, packet: Packet, head: &[u8]) -> bool {
    let (Some((kind, flags)), Some(tag)) = (packet.chunk(), sctp::verification_tag(head)) else {
        return false;
    };
    let (here, there) = (direction as usize, direction as usize ^ 1);
    let state = session.state();
    match (state, kind) {
        (_, chunk::INIT) => {
            if state == State::Opening && session.expected[there] == 0 {
                session.expected[there] = sctp::initiate_tag(head).unwrap_or_default();
            }
            let begins = state.restarted() != state;
            if begins {
                session.set_state(state.restarted());
                session.detail = 0;
            }
            // However long it was silent, from now on it has the time of one that opens to show that it lives; another INIT brings no more.
            return begins;
        }
        (State::Opening | State::Restarting, chunk::COOKIE_ECHO) if tag != session.expected[here] => {
            echo(session, here, tag);
            return false;
        }
        (State::Opening | State::Restarting, chunk::COOKIE_ACK) => {
            if let Some(echoed) = echoed(session, there) {
                session.expected[here] = tag;
                session.expected[there] = echoed;
            }
        }
        _ => {}
    }
    // Section 8.5.1: these two may carry the tag of the other direction instead, and say so.
    let may_reflect = matches!(kind, chunk::ABORT | chunk::SHUTDOWN_COMPLETE);
    let side = if may_reflect && flags & chunk::REFLECTED != 0 { there } else { here };
    let is_proven = tag != 0 && tag == session.expected[side];
    if is_proven {
        session.set_state(state.after_chunk(direction, kind));
    }
    is_proven
}

/// The tag of the latest COOKIE ECHO that has not been acknowledged yet, if it went in this direction. It lies where other protocols keep the
/// difference of their checksums.
fn echoed(session: &Life, direction: usize) -> Option<u32> {
    let [high, low] = session.l4_delta;
    (usize::from(session.detail) == direction + 1).then_some(u32::from(high) << 16 | u32::from(low))
}

fn echo(session: &mut Life, direction: usize, tag: u32) {
    session.l4_delta = [(tag >> 16) as u16, tag as u16];
    session.detail = direction as u8 + 1;
}

#[cfg(test)]
mod tests {
    use super::Direction::{Forward, Reply};
    use super::*;
    use crate::flow_key::FlowKey;
    use crate::flow_table::{Entry, Session};
    use crate::parse::{L4, parse};
    use crate::rewrite::mac_bits;
    use proptest::prelude::*;
    use turnpike_packet::flight::Flight;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const C: u32 = 0x0c11_e471;
    const B: u32 = 0x0bac_ce4d;
    const NEW_C: u32 = 0x1c11_e471;
    const NEW_B: u32 = 0x1bac_ce4d;
    const FOREIGN: u32 = 0x6666_6666;

    /// A step: direction, verification tag, chunk type, chunk flags, value, state after it, whether it keeps the flow alive.
    type Step<'a> = (Direction, u32, u8, u8, &'a [u8], State, bool);

    fn plain(direction: Direction, tag: u32, kind: u8, state: State, alive: bool) -> Step<'static> {
        (direction, tag, kind, 0, b"", state, alive)
    }

    fn flight() -> Flight {
        Flight {
            source_mac: MAC,
            destination_mac: MAC,
            source: "198.51.100.7:40000".parse().unwrap(),
            destination: "203.0.113.80:80".parse().unwrap(),
        }
    }

    fn session() -> Session {
        Session::new(FlowKey::new(132, 1, 2, 3, 4), FlowKey::new(132, 5, 6, 7, 8))
    }

    #[track_caller]
    fn walk(session: &mut Session, steps: &[Step<'_>]) {
        for (i, &(direction, tag, kind, flags, value, state, alive)) in steps.iter().enumerate() {
            let frame = sctp::packet(&flight(), tag, &[(kind, flags, value)]);
            let (_, packet) = parse(&frame, frame.len(), mac_bits(MAC));
            assert_eq!(packet.chunk(), Some((kind, flags)), "step {i}");
            let got = observe(session, direction, packet, &frame[L4..]);
            assert_eq!((session.state(), got), (state, alive), "step {i}");
        }
    }

    fn established() -> Session {
        let mut session = session();
        walk(
            &mut session,
            &[
                (Forward, 0, chunk::INIT, 0, &sctp::init(C, 1), State::Opening, false),
                (Reply, C, chunk::INIT_ACK, 0, &sctp::init(B, 1), State::Opening, true),
                plain(Forward, B, chunk::COOKIE_ECHO, State::Opening, false),
                plain(Reply, C, chunk::COOKIE_ACK, State::Established, true),
            ],
        );
        assert_eq!(session.expected, [B, C]);
        session
    }

    #[test]
    fn rfc9260_5_1_an_association_opens_lives_and_closes() {
        walk(
            &mut established(),
            &[
                plain(Forward, B, chunk::DATA, State::Established, true),
                plain(Reply, C, chunk::SACK, State::Established, true),
                plain(Reply, C, chunk::HEARTBEAT, State::Established, true),
                plain(Forward, B, chunk::HEARTBEAT_ACK, State::Established, true),
                plain(Forward, B, chunk::SHUTDOWN, State::ClientClosed, true),
                plain(Reply, C, chunk::DATA, State::ClientClosed, true),
                plain(Reply, C, chunk::SHUTDOWN_ACK, State::Closed, true),
                plain(Forward, B, chunk::SHUTDOWN_COMPLETE, State::Closed, true),
            ],
        );
        walk(
            &mut established(),
            &[
                plain(Reply, C, chunk::SHUTDOWN, State::BackendClosed, true),
                plain(Forward, B, chunk::SHUTDOWN_ACK, State::Closed, true),
                (Reply, B, chunk::SHUTDOWN_COMPLETE, chunk::REFLECTED, b"", State::Closed, true),
            ],
        );
    }

    #[test]
    fn rfc9260_8_5_1_only_the_right_tag_ends_an_association() {
        for kind in
            [chunk::ABORT, chunk::SHUTDOWN_COMPLETE, chunk::SHUTDOWN, chunk::SHUTDOWN_ACK, chunk::DATA]
        {
            for direction in [Forward, Reply] {
                let other = if direction == Forward { C } else { B };
                for tag in [FOREIGN, other] {
                    walk(&mut established(), &[plain(direction, tag, kind, State::Established, false)]);
                }
            }
        }
        for kind in [chunk::ABORT, chunk::SHUTDOWN_COMPLETE] {
            for (direction, own, other) in [(Forward, B, C), (Reply, C, B)] {
                walk(&mut established(), &[plain(direction, own, kind, State::Closed, true)]);
                let reflected =
                    |tag, state, alive| (direction, tag, kind, chunk::REFLECTED, &b""[..], state, alive);
                walk(&mut established(), &[reflected(other, State::Closed, true)]);
                walk(&mut established(), &[reflected(own, State::Established, false)]);
            }
        }
    }

    #[test]
    fn a_backend_that_refuses_ends_the_flow() {
        let mut session = session();
        walk(
            &mut session,
            &[
                (Forward, 0, chunk::INIT, 0, &sctp::init(C, 1), State::Opening, false),
                plain(Reply, FOREIGN, chunk::ABORT, State::Opening, false),
                plain(Reply, C, chunk::ABORT, State::Closed, true),
            ],
        );
    }

    #[test]
    fn the_cookie_that_comes_back_last_counts() {
        let mut session = session();
        walk(
            &mut session,
            &[
                (Forward, 0, chunk::INIT, 0, &sctp::init(C, 1), State::Opening, false),
                (Forward, 0, chunk::INIT, 0, &sctp::init(NEW_C, 1), State::Opening, false),
                (Reply, C, chunk::INIT_ACK, 0, &sctp::init(B, 1), State::Opening, true),
                (Reply, NEW_C, chunk::INIT_ACK, 0, &sctp::init(NEW_B, 1), State::Opening, false),
                plain(Forward, B, chunk::COOKIE_ECHO, State::Opening, false),
                plain(Forward, NEW_B, chunk::COOKIE_ECHO, State::Opening, false),
                plain(Reply, NEW_C, chunk::COOKIE_ACK, State::Established, true),
                plain(Forward, NEW_B, chunk::DATA, State::Established, true),
            ],
        );
    }

    #[test]
    fn a_pretended_init_does_not_spoil_a_handshake() {
        let foreign = (Forward, 0, chunk::INIT, 0, &sctp::init(FOREIGN, 1)[..], State::Opening, false);
        walk(
            &mut session(),
            &[
                foreign,
                (Forward, 0, chunk::INIT, 0, &sctp::init(C, 1), State::Opening, false),
                foreign,
                (Reply, C, chunk::INIT_ACK, 0, &sctp::init(B, 1), State::Opening, false),
                plain(Forward, B, chunk::COOKIE_ECHO, State::Opening, false),
                foreign,
                plain(Reply, C, chunk::COOKIE_ACK, State::Established, true),
                plain(Forward, B, chunk::DATA, State::Established, true),
                plain(Forward, FOREIGN, chunk::ABORT, State::Established, false),
            ],
        );
    }

    #[test]
    fn rfc9260_5_2_2_either_side_may_restart() {
        for (first, second, own, peer) in [(Forward, Reply, NEW_C, NEW_B), (Reply, Forward, NEW_B, NEW_C)] {
            let mut session = established();
            walk(
                &mut session,
                &[
                    (first, 0, chunk::INIT, 0, &sctp::init(own, 1), State::Restarting, true),
                    (second, own, chunk::INIT_ACK, 0, &sctp::init(peer, 1), State::Restarting, false),
                    plain(first, peer, chunk::COOKIE_ECHO, State::Restarting, false),
                    plain(second, own, chunk::COOKIE_ACK, State::Established, true),
                    plain(first, peer, chunk::DATA, State::Established, true),
                    plain(second, own, chunk::ABORT, State::Closed, true),
                ],
            );
            assert_eq!(session.expected, [NEW_B, NEW_C]);
        }
    }

    #[test]
    fn a_pretended_restart_changes_nothing_for_an_association_that_lives() {
        walk(
            &mut established(),
            &[
                (Forward, 0, chunk::INIT, 0, &sctp::init(FOREIGN, 1), State::Restarting, true),
                (Reply, FOREIGN, chunk::INIT_ACK, 0, &sctp::init(NEW_B, 1), State::Restarting, false),
                plain(Reply, FOREIGN, chunk::ABORT, State::Restarting, false),
                plain(Forward, FOREIGN, chunk::COOKIE_ECHO, State::Restarting, false),
                plain(Reply, C, chunk::HEARTBEAT, State::Established, true),
                plain(Reply, FOREIGN, chunk::COOKIE_ACK, State::Established, false),
                plain(Forward, B, chunk::HEARTBEAT_ACK, State::Established, true),
            ],
        );
    }

    proptest! {
        /// Somebody who sees nothing can pretend to be one side; whatever they send, the association they want to end or to take over goes on.
        #[test]
        fn blind_packets_of_one_side_never_win(
            direction in prop::sample::select(vec![Forward, Reply]),
            packets in prop::collection::vec((0u8..16, 0u8..2, 1u32..6), 1..40),
        ) {
            let mut session = established();
            for (kind, chunk_flags, tag) in packets {
                let frame = match kind {
                    chunk::INIT => sctp::packet(&flight(), 0, &[(kind, 0, &sctp::init(tag, 1))]),
                    _ => sctp::packet(&flight(), tag, &[(kind, chunk_flags, b"1234567890abcdef")]),
                };
                let (_, packet) = parse(&frame, frame.len(), mac_bits(MAC));
                let begins = kind == chunk::INIT && session.state() == State::Established;
                prop_assert_eq!(observe(&mut session, direction, packet, &frame[L4..]), begins);
                prop_assert!(matches!(session.state(), State::Established | State::Restarting));
            }
            prop_assert_eq!(session.expected, [B, C]);
            walk(&mut session, &[plain(Forward, B, chunk::HEARTBEAT, State::Established, true)]);
        }
    }

    #[test]
    fn a_cookie_acknowledged_out_of_nowhere_restarts_nothing() {
        walk(
            &mut established(),
            &[
                (Forward, 0, chunk::INIT, 0, &sctp::init(FOREIGN, 1), State::Restarting, true),
                plain(Reply, FOREIGN, chunk::COOKIE_ACK, State::Restarting, false),
                plain(Forward, B, chunk::DATA, State::Established, true),
            ],
        );
    }
}
