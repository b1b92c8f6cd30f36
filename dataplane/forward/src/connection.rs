//! What a TCP segment does to its flow: RFC 6146 section 3.5.2 and RFC 7857 section 2 for the states, RFC 5961 for what counts at all.
//!
//! A segment counts when its numbers fit what its receiver has said: the sequence number lies in the window that the receiver offered, or no
//! further before it than a window can be wide (retransmissions, keep-alives); the acknowledgement number is as near to the one before, either
//! way. A reset has to lie in the offered window itself. What does not count neither moves the state nor keeps the flow alive, so nobody who
//! cannot see a connection can end it or keep it. It is passed on all the same: the receiver answers it (RFC 9293 section 3.10.7.4), and that
//! answer is how peers that have lost a connection find out.
//!
//! The session remembers for each direction the acknowledgement and the window that its receiver sent last, and nothing of what was sent. So
//! a segment that is lost behind the gateway leaves no trace. Both sides may be elsewhere, when segments took another way for a while: then
//! each of them strays, and the flow follows as soon as one confirms the other.
//!
//! [`passes`] is the common case, on the packet path; [`observe`] is all of it. Next: [`crate::rewrite`].

use crate::flow_table::Life;
use crate::track::{Direction, State};
use std::hint::select_unpredictable;
use turnpike_packet::tcp::HEADER;
use turnpike_packet::tcp::flags::{ACK, FIN, RST, SYN};
use turnpike_packet::tcp_segment::{SCALE_MAX, Segment};

/// Stands where a SYN offered no window scale.
const NO_SCALE: u8 = 15;
/// Stands in [`Life::detail`] of a flow that opens when the backend has sent its FIN already.
const CLOSED_EARLY: u8 = 1;
/// The bits of [`Life::scales`] that are a scale.
const SCALE_BITS: u8 = 0x1f;
/// Units of its scale that no window exceeds: how far back numbers count.
const UNITS: i32 = 1 << 16;
/// Most data that a handshake acknowledges beside the SYN (RFC 7413).
const EARLY: u32 = 0xffff;
/// The first of the states in which segments pass without further thought, and how many more there are.
const FIRST_OPEN: u8 = State::Established as u8;
const MORE_OPEN: u8 = State::BackendClosed as u8 - FIRST_OPEN;

const _: () = assert!(State::ClientClosed as u8 == FIRST_OPEN + 1 && MORE_OPEN == 2);

/// Takes note of a segment with an acknowledgement that opens, closes and resets nothing. `false`, and no note, when the flow is not open or
/// the segment does not count: [`observe`] knows more then.
#[inline(always)]
pub fn passes(session: &mut Life, direction: usize, header: &[u8; HEADER]) -> bool {
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let acknowledgement = word(8);
    if session.state.wrapping_sub(FIRST_OPEN) > MORE_OPEN
        || !fits(session, direction, word(4), acknowledgement)
    {
        return false;
    }
    note(session, direction, acknowledgement, u16::from_be_bytes([header[14], header[15]]));
    true
}

/// Takes note of any segment. `false` when it does not count, and so must not keep the flow alive.
pub fn observe(session: &mut Life, direction: Direction, segment: &Segment) -> bool {
    if segment.has(RST) {
        reset(session, direction, segment)
    } else if segment.has(SYN) {
        open(session, direction, segment)
    } else if segment.has(ACK) {
        go_on(session, direction, segment)
    } else {
        // RFC 9293 section 3.10.7.4: without an acknowledgement it is dropped by whoever gets it.
        false
    }
}

/// Makes a new session that of a connection whose beginning nobody saw, from a segment of the client. Its windows are not known, so the
/// widest are taken.
pub fn adopt(session: &mut Life, segment: &Segment) {
    session.expected = [segment.sequence, segment.acknowledgement];
    session.windows = [u16::MAX, segment.window];
    session.scales = [SCALE_MAX; 2];
    session.set_state(if segment.has(FIN) { State::Closed } else { State::Adopted });
}

/// Whether a connection whose beginning nobody saw can be taken up with this segment.
#[must_use]
pub const fn can_be_adopted(tcp_flags: u8) -> bool {
    tcp_flags & (SYN | RST | ACK) == ACK
}

/// How far beyond [`Life::expected`] a reset of a direction may be. In a handshake windows stand unscaled (RFC 7323 section 2.2).
const fn window(session: &Life, direction: usize) -> u32 {
    let scale = match session.state() {
        State::Opening | State::Answered => 0,
        _ => scales(session)[direction & 1],
    };
    (session.windows[direction & 1] as u32) << scale
}

/// Whether both numbers of a segment fit what was said before. Distances are compared in units of the window's scale, of which no window has
/// more than [`UNITS`].
#[inline(always)]
const fn fits(session: &Life, direction: usize, sequence: u32, acknowledgement: u32) -> bool {
    let (here, there) = (direction & 1, direction & 1 ^ 1);
    // Shifts heed the low five bits alone.
    let ahead = sequence.wrapping_sub(session.expected[here]).cast_signed();
    let ahead = ahead.wrapping_shr(session.scales[here] as u32);
    let newer = acknowledgement.wrapping_sub(session.expected[there]).cast_signed();
    let newer = newer.wrapping_shr(session.scales[there] as u32);
    ahead.wrapping_add(UNITS).cast_unsigned() <= session.windows[here] as u32 + UNITS as u32
        && newer.wrapping_add(UNITS).cast_unsigned() <= 2 * UNITS as u32
}

/// The sender expects this next, and offers that much; unless it has said something newer already, which this segment was overtaken by. Of two
/// offers at one number the larger is the newer: nobody takes an offer back.
#[inline(always)]
fn note(session: &mut Life, direction: usize, acknowledgement: u32, window: u16) {
    let there = direction & 1 ^ 1;
    let (known, offered) = (session.expected[there], session.windows[there]);
    let advance = i64::from(acknowledgement.wrapping_sub(known).cast_signed());
    let is_news = (advance << 16) + i64::from(window) > i64::from(offered);
    // Half of all segments are news, in no order that a processor could learn.
    session.expected[there] = select_unpredictable(is_news, acknowledgement, known);
    session.windows[there] = select_unpredictable(is_news, window, offered);
}

const fn scales(session: &Life) -> [u8; 2] {
    let [a, b] = session.scales;
    [a & SCALE_BITS, b & SCALE_BITS]
}

/// What is remembered of the last segment that did not fit: 14 bits, six of them in the scales.
const fn stray(session: &Life) -> u16 {
    let [a, b] = session.scales;
    session.detail as u16 | (a as u16 >> 5) << 8 | (b as u16 >> 5) << 11
}

const fn set_stray(session: &mut Life, stray: u16) {
    let [a, b] = scales(session);
    session.scales = [a | (stray >> 8 << 5) as u8, b | (stray >> 11 << 5) as u8];
    session.detail = stray as u8;
}

/// A reset counts in the window alone (RFC 5961 section 3.2). One that refuses a SYN has no number of its own and is known by the SYN's, which
/// it acknowledges (RFC 9293 section 3.10.7.3). The flow is kept for a while (RFC 7857 section 2.2): the reset may not arrive, or
/// may not be meant.
fn reset(session: &mut Life, direction: Direction, segment: &Segment) -> bool {
    let here = direction as usize;
    let state = session.state();
    let counts = match (state, direction) {
        (State::Opening, Direction::Reply) => {
            segment.has(ACK) && segment.acknowledgement.wrapping_sub(session.expected[0]) <= EARLY
        }
        _ => segment.sequence.wrapping_sub(session.expected[here]) <= window(session, here),
    };
    if !counts || state == State::Reset {
        return false;
    }
    // What was never open has nothing to go back to, and agreed on no scale.
    if matches!(state, State::Opening | State::Answered) {
        session.scales = [0; 2];
        session.detail = 0;
    }
    let was_open = matches!(state, State::Established | State::ClientClosed | State::BackendClosed);
    session.set_state(if was_open { State::Reset } else { State::Closed });
    true
}

/// A SYN makes something of a flow that opens. On one that is open it means nothing: it is a stranger's, late, or from a peer that has lost the
/// connection, which the answer of the other side will make reset it (RFC 5961 section 4.2). A closed flow was removed before it came here.
fn open(session: &mut Life, direction: Direction, segment: &Segment) -> bool {
    let here = direction as usize;
    match (session.state(), direction) {
        (State::Opening, Direction::Forward) if !segment.has(ACK) => {
            say_hello(session, here, segment);
            true
        }
        // Also without ACK: both open at once (RFC 9293 section 3.5), and the client answers next.
        (State::Opening | State::Answered, Direction::Reply) => {
            if segment.has(ACK) {
                session.expected[here ^ 1] = segment.acknowledgement;
            }
            say_hello(session, here, segment);
            session.set_state(State::Answered);
            true
        }
        (State::Answered, Direction::Forward) if segment.has(ACK) => confirm(session, segment),
        (State::Answered, Direction::Forward) => segment.sequence.wrapping_add(1) == session.expected[here],
        _ => false,
    }
}

/// What a SYN says of its sender: where its numbers start, what it offers to take.
fn say_hello(session: &mut Life, here: usize, segment: &Segment) {
    let there = here ^ 1;
    let first = segment.sequence.wrapping_add(1);
    if session.expected[here] != first {
        session.detail = 0;
    }
    session.expected[here] = first;
    session.windows[there] = segment.window;
    session.scales[there] = segment.scale.unwrap_or(NO_SCALE);
}

/// The client acknowledges what the backend's SYN said. Nobody who has not seen it can, so the connection is open from here on.
fn confirm(session: &mut Life, segment: &Segment) -> bool {
    let early = segment.acknowledgement.wrapping_sub(session.expected[1]);
    let ahead = segment.sequence.wrapping_sub(session.expected[0]).wrapping_add(EARLY);
    if early > EARLY || ahead > EARLY + window(session, 0) {
        return false;
    }
    // Both have to offer a scale, or there is none (RFC 7323 section 2.2). The backend offers one only to a client that did; so if the client
    // seems not to have, it was in a SYN that went another way.
    let [backend, client] = match scales(session) {
        [NO_SCALE, _] => [0, 0],
        [backend, NO_SCALE] => [backend, SCALE_MAX],
        both => both,
    };
    session.scales = [backend, client];
    let window = if segment.has(SYN) { scaled_down(segment.window, client) } else { segment.window };
    session.windows = [scaled_down(session.windows[0], backend), window];
    session.expected[1] = segment.acknowledgement;
    let closed_early = session.detail == CLOSED_EARLY;
    session.detail = 0;
    session.set_state(if closed_early { State::BackendClosed } else { State::Established });
    finish(session, Direction::Forward, segment);
    true
}

/// A window of a SYN as later segments would state it, rounded up.
const fn scaled_down(window: u16, scale: u8) -> u16 {
    (window as u32).div_ceil(1 << scale) as u16
}

/// A segment without SYN or RST.
fn go_on(session: &mut Life, direction: Direction, segment: &Segment) -> bool {
    let state = session.state();
    match (state, direction) {
        (State::Opening, _) => return false,
        (State::Answered, Direction::Forward) => return confirm(session, segment),
        // Data before the handshake is over (RFC 7413), or even the end (RFC 9293 section 3.10.4).
        (State::Answered, Direction::Reply) => {
            let ahead = segment.sequence.wrapping_sub(session.expected[1]).wrapping_add(1);
            let counts = ahead <= u32::from(session.windows[1]) + 1;
            if counts && segment.has(FIN) {
                session.detail = CLOSED_EARLY;
            }
            return counts;
        }
        _ => {}
    }
    let (sequence, acknowledgement) = (segment.sequence, segment.acknowledgement);
    if !fits(session, direction as usize, sequence, acknowledgement)
        && !finds_back(session, direction, segment)
    {
        return false;
    }
    note(session, direction as usize, acknowledgement, segment.window);
    match (state, direction) {
        (State::Adopted, Direction::Reply) => session.set_state(State::Established),
        // Who says this after a reset does not believe in it, or has not heard of it (RFC 6146 section 3.5.2.2, TRANS).
        (State::Reset, _) => session.set_state(State::Established),
        _ => {}
    }
    finish(session, direction, segment);
    true
}

/// What a FIN does.
fn finish(session: &mut Life, direction: Direction, segment: &Segment) {
    if segment.has(FIN) {
        session.set_state(session.state().closed_by(direction));
    }
}

/// A segment that does not fit is remembered, and one of the other side that confirms it brings the flow back to where both are. A stranger
/// who guesses one side's numbers makes the other answer with its own, which fit, so that the guess is not confirmed.
fn finds_back(session: &mut Life, direction: Direction, segment: &Segment) -> bool {
    const REMEMBERED: u16 = 1 << 13;
    const OF_REPLY: u16 = 1 << 12;
    let here = direction as usize;
    let coarse = |number: u32| (number >> 26) as u16;
    let is_near = |a: u16, b: u16| a.wrapping_sub(b).wrapping_add(1) & 0x3f <= 2;
    let (sequence, acknowledgement) = (coarse(segment.sequence), coarse(segment.acknowledgement));
    let other = stray(session);
    let is_of_other = other & REMEMBERED != 0 && (other & OF_REPLY != 0) == (direction == Direction::Forward);
    if is_of_other && is_near(other >> 6, acknowledgement) && is_near(other, sequence) {
        set_stray(session, 0);
        session.expected = [segment.acknowledgement; 2];
        session.expected[here] = segment.sequence;
        return true;
    }
    set_stray(session, REMEMBERED | (here as u16) << 12 | sequence << 6 | acknowledgement);
    false
}

#[cfg(test)]
mod tests;
