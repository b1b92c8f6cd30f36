//! What a gateway knows of one TCP connection, written for reading. Numbers are compared as whole signed distances, states are words.

use super::talk::Side;
use turnpike_packet::tcp::flags::{ACK, FIN, RST, SYN};
use turnpike_packet::tcp_segment::Segment;

/// What one side said last of what it wants to get.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    /// The sequence number it expects next.
    pub next: u32,
    /// What it takes from there on, as its header has it.
    pub window: u16,
    /// The scale it offered in its SYN; none when it offered none.
    pub scale: Option<u8>,
}

/// Where two numbers were seen roughly: in which 64 MiB of all.
#[derive(Clone, Copy, Debug)]
struct Stray {
    side: Side,
    sequence: u32,
    acknowledgement: u32,
}

/// A connection as the gateway sees it.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    pub state: &'static str,
    pub client: Wants,
    pub backend: Wants,
    stray: Option<Stray>,
    /// The backend has sent a FIN before the handshake was over.
    closed_early: bool,
}

/// From `from` to `to`, the short way around.
fn distance(from: u32, to: u32) -> i64 {
    i64::from(to.wrapping_sub(from) as i32)
}

impl Model {
    /// What a client's first segment makes, if it makes something.
    pub fn open(segment: &Segment, adopts: bool) -> Option<Self> {
        let client = Wants { next: segment.acknowledgement, window: segment.window, scale: Some(14) };
        let backend = Wants { next: segment.sequence, window: u16::MAX, scale: Some(14) };
        let has = |flag| segment.has(flag);
        let state = match (has(SYN), has(ACK), has(RST), has(FIN)) {
            (true, false, false, false) => {
                let client = Wants { next: 0, window: segment.window, scale: segment.scale };
                let backend = Wants { next: segment.sequence.wrapping_add(1), window: 0, scale: Some(0) };
                return Some(Self { state: "opening", client, backend, stray: None, closed_early: false });
            }
            (false, true, false, fin) if adopts => {
                if fin {
                    "closed"
                } else {
                    "adopted"
                }
            }
            _ => return None,
        };
        Some(Self { state, client, backend, stray: None, closed_early: false })
    }

    /// Whether a client's SYN begins a new flow in the place of this one.
    pub fn gives_way(&self) -> bool {
        ["closed", "reset", "adopted"].contains(&self.state)
    }

    /// The short or the long time, in seconds.
    pub fn may_idle_s(&self) -> u32 {
        match self.state {
            "established" | "client_closed" | "backend_closed" => 7_440,
            _ => 240,
        }
    }

    pub fn wants(&mut self, side: Side) -> &mut Wants {
        match side {
            Side::Client => &mut self.client,
            Side::Backend => &mut self.backend,
        }
    }

    fn is_synchronized(&self) -> bool {
        !["opening", "answered"].contains(&self.state)
    }

    /// Takes note of a segment; whether it counts.
    pub fn see(&mut self, side: Side, segment: &Segment) -> bool {
        if segment.has(RST) {
            self.see_reset(side, segment)
        } else if segment.has(SYN) {
            self.see_syn(side, segment)
        } else {
            segment.has(ACK) && self.see_more(side, segment)
        }
    }

    fn see_reset(&mut self, side: Side, segment: &Segment) -> bool {
        let synchronized = self.is_synchronized();
        let peer = *self.wants(side.other());
        let refuses = self.state == "opening" && side == Side::Backend;
        let counts = if refuses {
            let acknowledged = distance(self.backend.next, segment.acknowledgement);
            segment.has(ACK) && (0..=65_535).contains(&acknowledged)
        } else {
            let scale = if synchronized { peer.shift() } else { 0 };
            (0..=i64::from(peer.window) << scale).contains(&distance(peer.next, segment.sequence))
        };
        if !counts || self.state == "reset" {
            return false;
        }
        if !synchronized {
            (self.client.scale, self.backend.scale) = (None, None);
        }
        let was_open = ["established", "client_closed", "backend_closed"].contains(&self.state);
        self.state = if was_open { "reset" } else { "closed" };
        true
    }

    fn see_syn(&mut self, side: Side, segment: &Segment) -> bool {
        let has_ack = segment.has(ACK);
        match (self.state, side, has_ack) {
            ("opening", Side::Client, false) => self.introduce(side, segment),
            ("opening" | "answered", Side::Backend, _) => {
                if has_ack {
                    self.backend.next = segment.acknowledgement;
                }
                self.introduce(side, segment);
                self.state = "answered";
            }
            ("answered", Side::Client, true) => return self.see_confirmation(segment),
            ("answered", Side::Client, false) => {
                return self.backend.next == segment.sequence.wrapping_add(1);
            }
            _ => return false,
        }
        true
    }

    fn introduce(&mut self, side: Side, segment: &Segment) {
        let first = segment.sequence.wrapping_add(1);
        self.closed_early &= self.wants(side.other()).next == first;
        self.wants(side.other()).next = first;
        let own = self.wants(side);
        (own.window, own.scale) = (segment.window, segment.scale);
    }

    fn see_confirmation(&mut self, segment: &Segment) -> bool {
        let acknowledged = distance(self.client.next, segment.acknowledgement);
        let ahead = distance(self.backend.next, segment.sequence);
        if !(0..=65_535).contains(&acknowledged)
            || !(-65_535..=i64::from(self.backend.window)).contains(&ahead)
        {
            return false;
        }
        match (self.backend.scale, self.client.scale) {
            (None, _) => self.client.scale = None,
            (Some(_), None) => self.client.scale = Some(14),
            _ => {}
        }
        let rounded_up = |window: u16, wants: Wants| u32::from(window).div_ceil(1 << wants.shift()) as u16;
        self.backend.window = rounded_up(self.backend.window, self.backend);
        self.client.next = segment.acknowledgement;
        self.client.window =
            if segment.has(SYN) { rounded_up(segment.window, self.client) } else { segment.window };
        self.state = if self.closed_early { "backend_closed" } else { "established" };
        self.see_fin(Side::Client, segment);
        true
    }

    fn see_more(&mut self, side: Side, segment: &Segment) -> bool {
        match (self.state, side) {
            ("opening", _) => return false,
            ("answered", Side::Client) => return self.see_confirmation(segment),
            ("answered", Side::Backend) => {
                let ahead = distance(self.client.next, segment.sequence);
                let counts = (-1..=i64::from(self.client.window)).contains(&ahead);
                self.closed_early |= counts && segment.has(FIN);
                return counts;
            }
            _ => {}
        }
        if !self.fits(side, segment) && !self.is_confirmed(side, segment) {
            return false;
        }
        let own = self.wants(side);
        let advance = distance(own.next, segment.acknowledgement);
        if advance > 0 || advance == 0 && segment.window > own.window {
            (own.next, own.window) = (segment.acknowledgement, segment.window);
        }
        if self.state == "reset" || self.state == "adopted" && side == Side::Backend {
            self.state = "established";
        }
        self.see_fin(side, segment);
        true
    }

    fn fits(&mut self, side: Side, segment: &Segment) -> bool {
        let (own, peer) = (*self.wants(side), *self.wants(side.other()));
        let in_units = |distance: i64, wants: Wants| distance.div_euclid(1 << wants.shift());
        let ahead = in_units(distance(peer.next, segment.sequence), peer);
        let newer = in_units(distance(own.next, segment.acknowledgement), own);
        (-65_536..=i64::from(peer.window)).contains(&ahead) && (-65_536..=65_536).contains(&newer)
    }

    /// Both sides are elsewhere and agree about where.
    fn is_confirmed(&mut self, side: Side, segment: &Segment) -> bool {
        let (sequence, acknowledgement) = (segment.sequence >> 26, segment.acknowledgement >> 26);
        let is_near = |a: u32, b: u32| [63, 0, 1].contains(&(a.wrapping_sub(b) % 64));
        let agrees = |other: Stray| {
            other.side != side
                && is_near(other.sequence, acknowledgement)
                && is_near(other.acknowledgement, sequence)
        };
        if self.stray.is_some_and(agrees) {
            self.stray = None;
            self.wants(side.other()).next = segment.sequence;
            self.wants(side).next = segment.acknowledgement;
            return true;
        }
        self.stray = Some(Stray { side, sequence, acknowledgement });
        false
    }

    fn see_fin(&mut self, side: Side, segment: &Segment) {
        if segment.has(FIN) {
            self.state = match (self.state, side) {
                ("established", Side::Client) => "client_closed",
                ("established", Side::Backend) => "backend_closed",
                ("client_closed", Side::Backend) | ("backend_closed", Side::Client) | ("adopted", _) => {
                    "closed"
                }
                (same, _) => same,
            };
        }
    }
}

impl Wants {
    fn shift(self) -> u8 {
        self.scale.unwrap_or(0)
    }
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}
