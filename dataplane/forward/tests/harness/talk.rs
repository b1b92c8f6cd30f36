//! A TCP connection or a UDP exchange through the gateway, told packet by packet.

use super::services::Port;
use super::{Bed, CLIENT, VIP, answer_to, from};
use std::collections::BTreeMap;
use turnpike_forward::track::State;
use turnpike_packet::flight::Flight;
use turnpike_packet::io::Spread;
use turnpike_packet::tcp_segment::Segment;
use turnpike_packet::udp;

/// What moved, and by how much; bytes are left out.
pub type Delta = BTreeMap<&'static str, i64>;

/// A packet came and was forwarded.
pub const PASSED: &[(&str, i64)] = &[("forwarded", 1), ("rx_packets", 1), ("tx_packets", 1)];
/// A segment came, was forwarded, and meant nothing.
pub const IGNORED: &[(&str, i64)] =
    &[("forwarded", 1), ("rx_packets", 1), ("tcp_ignored", 1), ("tx_packets", 1)];
/// A packet came, made a flow and was forwarded.
pub const OPENED: &[(&str, i64)] =
    &[("flows_live", 1), ("flows_opened", 1), ("forwarded", 1), ("rx_packets", 1), ("tx_packets", 1)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Backend,
}

/// The whole of what was seen of one packet.
#[derive(Debug)]
pub struct Seen {
    pub delta: Delta,
    /// State of the flow afterwards; none when there is none.
    pub state: Option<State>,
    /// Whether the packet counted as a sign of life.
    pub refreshed: bool,
    pub sent: Vec<Vec<u8>>,
}

/// One client and one backend; the backend's end is known from the first packet that reaches it.
pub struct Talk {
    pub bed: Bed,
    pub client: Flight,
    pub backend: Option<Flight>,
}

/// A segment with the largest window and no options.
pub fn segment(flags: u8, sequence: u32, acknowledgement: u32) -> Segment {
    Segment { sequence, acknowledgement, flags, window: u16::MAX, scale: None }
}

impl Talk {
    /// Through a gateway that serves this Service port alone.
    pub fn with(service: &Port) -> Self {
        let mut bed = Bed::bare(1, &Spread::Unknown, 4_096);
        bed.put(std::slice::from_ref(service));
        Self { bed, client: from(CLIENT, VIP), backend: None }
    }

    /// A millisecond later one side sends a segment.
    #[track_caller]
    pub fn say(&mut self, side: Side, segment: &Segment, payload: &[u8]) -> Seen {
        let frame = segment.frame(&self.flight(side), payload);
        self.send(side, &frame)
    }

    /// A millisecond later one side sends a datagram.
    #[track_caller]
    pub fn datagram(&mut self, side: Side) -> Seen {
        let frame = udp::datagram(&self.flight(side), b"datagram");
        self.send(side, &frame)
    }

    /// The flight of what a side sends.
    #[track_caller]
    pub fn flight(&self, side: Side) -> Flight {
        match side {
            Side::Client => self.client,
            Side::Backend => self.backend.unwrap(),
        }
    }

    /// A millisecond later a frame comes from a side's direction.
    pub fn send(&mut self, side: Side, frame: &[u8]) -> Seen {
        self.bed.now_ms += 1;
        let before = self.bed.counts();
        let sent = self.bed.exchange(&[frame.to_vec()]);
        let after = self.bed.counts();
        let mut delta = Delta::new();
        for &name in before.keys().chain(after.keys()).filter(|name| !name.ends_with("_bytes")) {
            let value = |counts: &BTreeMap<&str, u64>| counts.get(name).copied().unwrap_or_default() as i64;
            if value(&after) != value(&before) {
                delta.insert(name, value(&after) - value(&before));
            }
        }
        if let ([arrived], Side::Client, true) = (&sent[..], side, delta.contains_key("forwarded")) {
            self.backend = Some(answer_to(arrived));
        }
        let session = self.bed.workers[0].flows().v4.iter().next().map(|(_, session)| *session);
        Seen {
            delta,
            state: session.map(|s| s.state()),
            refreshed: session.is_some_and(|s| s.last_seen == self.bed.now_ms),
            sent,
        }
    }

    /// Time passes without a packet of the flow; the router is still there afterwards.
    pub fn wait_s(&mut self, seconds: u32) {
        self.bed.pass(seconds * 1_000);
        self.bed.know_router();
    }

    pub fn live(&self) -> u32 {
        self.bed.workers[0].flows().v4.live()
    }

    /// Every row in turn: who sends what, the state it leads to, whether it is a sign of life, all counters it moves.
    #[track_caller]
    pub fn walk(&mut self, rows: &[Row<'_>]) {
        for (i, &(side, segment, payload, state, refreshed, delta)) in rows.iter().enumerate() {
            let seen = self.say(side, &segment, payload);
            let want: Delta = delta.iter().copied().collect();
            assert_eq!(
                (seen.state, seen.refreshed, seen.delta),
                (Some(state), refreshed, want),
                "row {i}: {side:?} {segment:?}"
            );
        }
    }
}

/// A step of [`Talk::walk`].
pub type Row<'a> = (Side, Segment, &'a [u8], State, bool, &'a [(&'static str, i64)]);

/// A segment that passes and counts.
pub fn counts(side: Side, segment: Segment, state: State) -> Row<'static> {
    (side, segment, b"", state, true, PASSED)
}

/// A segment that passes and means nothing.
pub fn ignored(side: Side, segment: Segment, state: State) -> Row<'static> {
    (side, segment, b"", state, false, IGNORED)
}
