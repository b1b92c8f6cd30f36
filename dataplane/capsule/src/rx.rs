//! The first step of a packet's walk: from a NIC's receive queue into the worker's burst. Next: `forward/worker`.

use crate::mbuf::Mbuf;
use dpdk_sys as sys;
use turnpike_packet::io::Burst;

/// Appends received frames to `into`, in place, up to its capacity, and returns how many.
///
/// # Safety
/// The port is started and has this receive queue, and no other thread uses the queue during the call.
#[inline]
pub(crate) unsafe fn burst(port: u16, queue: u16, into: &mut Burst<Mbuf>) -> usize {
    let (held, room) = (into.len(), into.remaining_capacity());
    if room == 0 {
        return 0;
    }
    // SAFETY: there are `room` slots behind the first `held`, and Mbuf is laid out as a pointer to rte_mbuf; the driver fills a prefix of
    // them with frames it gives up, and says how many. The caller vouches for port and queue.
    unsafe {
        let free = into.as_mut_ptr().add(held).cast::<*mut sys::rte_mbuf>();
        let received = usize::from(sys::shim_eth_rx_burst(port, queue, free, room as u16));
        into.set_len(held + received);
        received
    }
}
