//! The last step of a packet's walk: from the worker's burst into a NIC's transmit queue.

use crate::mbuf::Mbuf;
use crate::mempool::Mempool;
use dpdk_sys as sys;
use turnpike_packet::io::{Burst, Frame};

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

/// Makes sure that every frame of `from` is one buffer of `pool` that nobody shares, for drivers that give buffers back without a look at them. What is not so is copied, or dropped
/// where it fits no buffer or there is none; returns how many.
#[inline]
pub(crate) fn own(from: &mut Burst<Mbuf>, pool: Mempool) -> u64 {
    if from.iter().all(|frame| frame.is_plain_of(pool)) {
        return 0;
    }
    make_own(from, pool)
}

#[cold]
fn make_own(from: &mut Burst<Mbuf>, pool: Mempool) -> u64 {
    let mut dropped = 0;
    from.retain(|frame| {
        if frame.segments() > 1 && frame.linearize().is_err() {
            dropped += 1;
            return false;
        }
        if !frame.is_plain_of(pool) {
            let Some(copy) = pool.alloc(frame.data()) else {
                dropped += 1;
                return false;
            };
            *frame = copy;
        }
        true
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Eal, EalConfig, Memory};

    #[test]
    fn what_a_driver_gives_back_without_a_look_is_one_buffer_of_the_own_pool() {
        let memory = Memory::Ordinary { mb: 64 };
        let eal = Eal::start(&EalConfig { memory, pci: vec![], nodes: vec![] }).unwrap();
        let (own_pool, other) =
            (Mempool::new(eal, 127, 2048).unwrap(), Mempool::new(eal, 127, 2048).unwrap());
        let bytes = |of: u8, len: usize| vec![of; len];
        let mut burst = Burst::new();
        burst.push(own_pool.alloc(&bytes(1, 60)).unwrap());
        assert!(burst[0].is_plain_of(own_pool) && !burst[0].is_plain_of(other));
        assert_eq!((own(&mut burst, own_pool), burst.len()), (0, 1), "nothing to do");

        burst.push(other.alloc(&bytes(2, 60)).unwrap());
        let mut chain = own_pool.alloc(&bytes(3, 100)).unwrap();
        chain.append(other.alloc(&bytes(4, 50)).unwrap()).unwrap();
        burst.push(chain);
        let mut long = own_pool.alloc(&bytes(5, 2048)).unwrap();
        long.append(own_pool.alloc(&bytes(6, 1)).unwrap()).unwrap();
        burst.push(long);
        burst.push(own_pool.alloc(&bytes(7, 60)).unwrap());
        assert_eq!(own(&mut burst, own_pool), 1, "one is longer than a buffer");
        assert!(burst.iter().all(|frame| frame.is_plain_of(own_pool)));
        let sent: Vec<Vec<u8>> = burst.iter().map(|frame| frame.data().to_vec()).collect();
        let chained = [bytes(3, 100), bytes(4, 50)].concat();
        assert_eq!(sent, [bytes(1, 60), bytes(2, 60), chained, bytes(7, 60)]);
        assert_eq!((own_pool.available(), other.available()), (127 - 4, 127), "the rest is given back");

        let held: Vec<Mbuf> = std::iter::from_fn(|| own_pool.alloc(&[])).collect();
        burst.push(other.alloc(&bytes(8, 60)).unwrap());
        assert_eq!((own(&mut burst, own_pool), burst.len()), (1, 4), "no buffer for a copy");
        drop((burst, held));
        assert_eq!((own_pool.available(), other.available()), (127, 127), "nothing is lost");
    }
}
