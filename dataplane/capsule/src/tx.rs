//! The last step of a packet's walk: from the worker's burst into a NIC's transmit queue.

use crate::mbuf::Mbuf;
use dpdk_sys as sys;
use turnpike_packet::io::Burst;

/// Sends a prefix of `from` and returns how many; the rest moves to the front of `from`.
///
/// # Safety
/// The port is started and has this transmit queue, no other thread uses the queue during the call, and the driver can send each frame as it is.
#[inline]
pub(crate) unsafe fn burst(port: u16, queue: u16, from: &mut Burst<Mbuf>) -> usize {
    if from.is_empty() {
        return 0;
    }
    let frames = from.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
    // SAFETY: the array holds from.len() pointers to frames that are ours. The driver owns the first `sent` of them afterwards, which are
    // given up at once. The caller vouches for port and queue.
    unsafe {
        let sent = usize::from(sys::shim_eth_tx_burst(port, queue, frames, from.len() as u16));
        forget_front(from, sent);
        sent
    }
}

/// Makes sure that no frame of `from` has more than one segment, for drivers that send only the first. Frames that cannot be made so are dropped; returns how many.
#[inline]
pub(crate) fn linearize(from: &mut Burst<Mbuf>) -> u64 {
    let mut dropped = 0;
    from.retain(|frame| {
        let keep = frame.segments() == 1 || frame.linearize().is_ok();
        dropped += u64::from(!keep);
        keep
    });
    dropped
}

/// Takes the first `count` frames out of `from` without dropping them, and moves the others to the front.
///
/// # Safety
/// Someone else owns the first `count` frames, and `count` is at most `from.len()`.
#[inline]
pub(crate) unsafe fn forget_front(from: &mut Burst<Mbuf>, count: usize) {
    let left = from.len() - count;
    // SAFETY: `count + left` frames are initialised; those that stay are moved down, and the length says so.
    unsafe {
        from.set_len(left);
        if left != 0 {
            let frames = from.as_mut_ptr();
            std::ptr::copy(frames.add(count), frames, left);
        }
    }
}
