//! What every [`PacketIo`] must do, as checks that run on any of them: memory, capture files, DPDK rings, DPDK captures.

use crate::flight::Flight;
use crate::io::{BURST, Burst, Frame, HEADROOM, PacketIo};
use crate::udp;
use std::net::SocketAddr;

/// A queue pair and what is on the other side of it.
pub trait Wire {
    /// The queue pair under test.
    type Io: PacketIo;

    /// The queue pair.
    fn io(&mut self) -> &mut Self::Io;

    /// Frames arrive at the queue pair, in order.
    fn arrive(&mut self, frames: &[Vec<u8>]);

    /// Everything that the queue pair has sent by now, in order.
    fn departed(&mut self) -> Vec<Vec<u8>>;
}

/// Runs every check on a fresh wire each. Panics with the check's name where one fails.
pub fn run<W: Wire>(mut fresh: impl FnMut() -> W) {
    arriving_frames_are_read_whole_and_in_order(&mut fresh());
    a_burst_is_never_overfilled(&mut fresh());
    nothing_arrives_without_frames(&mut fresh());
    sent_frames_leave_whole_and_in_order(&mut fresh());
    an_empty_burst_sends_nothing(&mut fresh());
    received_frames_can_be_changed_and_sent(&mut fresh());
    bytes_come_off_the_front_and_go_on(&mut fresh());
    what_does_not_fit_is_not_made(&mut fresh());
    the_info_stays_the_same(&mut fresh());
}

/// Frames of many lengths, each different.
#[must_use]
pub fn frames(count: usize) -> Vec<Vec<u8>> {
    let mac = [2, 0, 0, 0, 0, 9];
    let lengths = [18, 19, 64, 100, 511, 512, 1_000, 1_472];
    let frame = |n: usize| {
        let flight = Flight {
            source_mac: mac,
            destination_mac: [2, 0, 0, 0, 0, 1],
            source: SocketAddr::from(([198, 51, 100, (n % 250) as u8], 1_024 + n as u16)),
            destination: SocketAddr::from(([203, 0, 113, 1], 80)),
        };
        udp::datagram(&flight, &vec![n as u8; lengths[n % lengths.len()]])
    };
    (0..count).map(frame).collect()
}

/// Takes bursts until none comes.
fn drain<I: PacketIo>(io: &mut I) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut burst = Burst::new();
        if io.rx(&mut burst) == 0 {
            return all;
        }
        for frame in &burst {
            assert!(frame.is_contiguous());
            assert_eq!(frame.data().len(), frame.frame_len());
            all.push(frame.data().to_vec());
        }
    }
}

fn arriving_frames_are_read_whole_and_in_order<W: Wire>(wire: &mut W) {
    let sent = frames(BURST * 3 + 7);
    wire.arrive(&sent);
    assert_eq!(drain(wire.io()), sent, "arriving_frames_are_read_whole_and_in_order");
}

fn a_burst_is_never_overfilled<W: Wire>(wire: &mut W) {
    let sent = frames(BURST + 10);
    wire.arrive(&sent);
    let mut burst = Burst::new();
    let first = wire.io().rx(&mut burst);
    assert_eq!((first, burst.len()), (BURST, BURST), "a_burst_is_never_overfilled: a full burst first");
    assert_eq!(wire.io().rx(&mut burst), 0, "a_burst_is_never_overfilled: no room, no frames");
    burst.truncate(BURST - 3);
    assert_eq!(wire.io().rx(&mut burst), 3, "a_burst_is_never_overfilled: as many as there is room for");
    assert_eq!(burst[BURST - 1].data(), sent[BURST + 2], "a_burst_is_never_overfilled: appended in order");
    drop(burst);
    assert_eq!(drain(wire.io()).len(), 7, "a_burst_is_never_overfilled: the rest stays");
}

fn nothing_arrives_without_frames<W: Wire>(wire: &mut W) {
    assert_eq!(wire.io().rx(&mut Burst::new()), 0, "nothing_arrives_without_frames");
}

fn sent_frames_leave_whole_and_in_order<W: Wire>(wire: &mut W) {
    let wanted = frames(BURST);
    let mut burst = Burst::new();
    for bytes in &wanted {
        burst.push(wire.io().alloc(bytes).expect("memory for a burst of frames"));
    }
    let mut left = burst.len();
    while left > 0 {
        let sent = wire.io().tx(&mut burst);
        assert!(sent > 0, "sent_frames_leave_whole_and_in_order: stuck with {left} frames");
        left -= sent;
        assert_eq!(burst.len(), left, "sent_frames_leave_whole_and_in_order: what was sent is gone");
    }
    assert_eq!(wire.departed(), wanted, "sent_frames_leave_whole_and_in_order");
}

fn an_empty_burst_sends_nothing<W: Wire>(wire: &mut W) {
    assert_eq!(wire.io().tx(&mut Burst::new()), 0, "an_empty_burst_sends_nothing");
    assert!(wire.departed().is_empty(), "an_empty_burst_sends_nothing");
}

fn received_frames_can_be_changed_and_sent<W: Wire>(wire: &mut W) {
    wire.arrive(&frames(2));
    let mut burst = Burst::new();
    wire.io().rx(&mut burst);
    burst[0].data_mut()[..6].copy_from_slice(&[6; 6]);
    burst[1].truncate(60);
    burst[1].truncate(1_000);
    wire.io().tx(&mut burst);
    let sent = wire.departed();
    let mut wanted = frames(2);
    wanted[0][..6].copy_from_slice(&[6; 6]);
    wanted[1].truncate(60);
    assert_eq!(sent, wanted, "received_frames_can_be_changed_and_sent");
}

fn bytes_come_off_the_front_and_go_on<W: Wire>(wire: &mut W) {
    const NAME: &str = "bytes_come_off_the_front_and_go_on";
    wire.arrive(&frames(1));
    let mut burst = Burst::new();
    wire.io().rx(&mut burst);
    burst.push(wire.io().alloc(&frames(2)[1]).expect("memory for one frame"));
    let mut wanted = frames(2);
    for (frame, wanted) in burst.iter_mut().zip(&mut wanted) {
        assert!(frame.trim_front(4) && frame.grow_front(4 + HEADROOM), "{NAME}: all headroom is there");
        frame.data_mut()[..4 + HEADROOM].fill(7);
        assert_eq!(frame.frame_len(), wanted.len() + HEADROOM, "{NAME}");
        assert!(!frame.grow_front(1 << 16) && !frame.trim_front(1 << 16), "{NAME}: no further than there is");
        assert!(frame.trim_front(HEADROOM - 8), "{NAME}");
        wanted.splice(..4, [7; 12]);
        assert_eq!((frame.data(), frame.frame_len()), (&wanted[..], wanted.len()), "{NAME}");
    }
    while !burst.is_empty() {
        assert!(wire.io().tx(&mut burst) > 0, "{NAME}: stuck");
    }
    assert_eq!(wire.departed(), wanted, "{NAME}: and all leave so");
}

fn what_does_not_fit_is_not_made<W: Wire>(wire: &mut W) {
    assert!(wire.io().alloc(&vec![0; 1 << 17]).is_none(), "what_does_not_fit_is_not_made");
    let frame = wire.io().alloc(&[7; 60]).expect("memory for one frame");
    assert_eq!(frame.data(), [7; 60], "what_does_not_fit_is_not_made: what fits is made");
}

fn the_info_stays_the_same<W: Wire>(wire: &mut W) {
    wire.arrive(&frames(3));
    let before = wire.io().info().clone();
    drain(wire.io());
    assert_eq!(*wire.io().info(), before, "the_info_stays_the_same");
    assert!(before.mtu >= 576, "the_info_stays_the_same: an MTU that IPv4 can use");
}
