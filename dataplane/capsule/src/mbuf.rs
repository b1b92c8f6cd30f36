//! [`Mbuf`]: one frame in DPDK's memory, owned.
//!
//! The fields of `rte_mbuf` are read by offset (see `dpdk-sys`), so [`Mbuf::data`] is three loads in the caller's own code.

use crate::mempool::Mempool;
use dpdk_sys as sys;
use std::fmt;
use std::ptr::NonNull;
use turnpike_packet::io::Frame;

/// A frame of one or more segments. Dropping it gives the buffers back, from any thread.
///
/// Its layout is that of a pointer to `rte_mbuf`: an array of frames is what DPDK calls a burst.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: an Mbuf is the only owner of its buffers; pools take them back from any thread.
unsafe impl Send for Mbuf {}

/// The frame is longer than one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frame's {frame_len} bytes do not fit into its first buffer")]
pub struct NoRoom {
    /// Length over all segments, in bytes.
    pub frame_len: usize,
}

impl Mbuf {
    /// # Safety
    /// `raw` is the head of a chain of buffers that came from a pool or a driver, has valid lengths, and belongs to the caller.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: NonNull<sys::rte_mbuf>) -> Self {
        Self(raw)
    }

    /// # Safety
    /// `T` is the type of the field at `offset` of `rte_mbuf`.
    #[inline]
    unsafe fn field<T: Copy>(&self, offset: u32) -> T {
        // SAFETY: the buffer is ours; the caller names the field's own offset and type.
        unsafe { field::<T>(self.0, offset).read() }
    }

    #[inline]
    fn first_segment(&self) -> (*mut u8, usize) {
        // SAFETY: offsets and types are those of rte_mbuf; `tests/constants.rs` of dpdk-sys checks the widths.
        unsafe {
            let buffer: *mut u8 = self.field(sys::SHIM_MBUF_BUF_ADDR);
            let offset: u16 = self.field(sys::SHIM_MBUF_DATA_OFF);
            let len: u16 = self.field(sys::SHIM_MBUF_DATA_LEN);
            (buffer.add(usize::from(offset)), usize::from(len))
        }
    }

    /// Number of segments, at least 1.
    #[inline]
    #[must_use]
    pub fn segments(&self) -> usize {
        // SAFETY: offset and type of nb_segs.
        usize::from(unsafe { self.field::<u16>(sys::SHIM_MBUF_NB_SEGS) })
    }

    /// Whether it is one buffer that belongs to `pool`, holds its own bytes and has one owner: what a driver may give back without a look at it.
    #[inline]
    pub(crate) fn is_plain_of(&self, pool: Mempool) -> bool {
        const FOREIGN: u64 = sys::RTE_MBUF_F_INDIRECT | sys::RTE_MBUF_F_EXTERNAL;
        // SAFETY: offsets and types of refcnt, nb_segs, ol_flags and pool, all in the first line of rte_mbuf. The count is changed by owners only, and no
        // one else has this buffer where it is 1.
        unsafe {
            self.field::<u16>(sys::SHIM_MBUF_NB_SEGS) == 1
                && self.field::<u16>(sys::SHIM_MBUF_REFCNT) == 1
                && self.field::<u64>(sys::SHIM_MBUF_OL_FLAGS) & FOREIGN == 0
                && self.field::<*mut sys::rte_mempool>(sys::SHIM_MBUF_POOL) == pool.as_ptr()
        }
    }

    /// Moves all bytes into the first segment. The frame is unchanged if that has no room for them.
    pub fn linearize(&mut self) -> Result<(), NoRoom> {
        // SAFETY: the chain is ours alone, as no code of this crate shares a buffer.
        match unsafe { sys::shim_pktmbuf_linearize(self.0.as_ptr()) } {
            0 => Ok(()),
            _ => Err(NoRoom { frame_len: self.frame_len() }),
        }
    }

    /// Makes `data` the only bytes of a frame of one segment; false, and the frame unchanged, if it does not fit.
    #[inline]
    pub(crate) fn fill(&mut self, data: &[u8]) -> bool {
        // SAFETY: offsets and types of buf_len and data_off.
        let room = unsafe {
            let buffer_len: u16 = self.field(sys::SHIM_MBUF_BUF_LEN);
            let offset: u16 = self.field(sys::SHIM_MBUF_DATA_OFF);
            buffer_len.saturating_sub(offset)
        };
        let Some(len) = u16::try_from(data.len()).ok().filter(|len| *len <= room && self.segments() == 1)
        else {
            return false;
        };
        // SAFETY: the buffer has `room` bytes behind its data offset, `data` is no longer, and cannot overlap memory that is ours
        // alone; then both lengths of the only segment.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), self.first_segment().0, data.len());
            field::<u16>(self.0, sys::SHIM_MBUF_DATA_LEN).write(len);
            field::<u32>(self.0, sys::SHIM_MBUF_PKT_LEN).write(u32::from(len));
        }
        true
    }

    /// Cuts a chain to `len` bytes, fewer than it has: the segment in which byte `len` lies becomes the last one.
    fn cut(&mut self, len: usize) {
        let mut segment = self.0;
        let mut before = 0;
        let mut kept: u16 = 1;
        loop {
            // SAFETY: `segment` is one of our chain; offset and type of data_len and next.
            let (here, next) = unsafe {
                let here = usize::from(field::<u16>(segment, sys::SHIM_MBUF_DATA_LEN).read());
                (here, field::<*mut sys::rte_mbuf>(segment, sys::SHIM_MBUF_NEXT).read())
            };
            let Some(following) = NonNull::new(next).filter(|_| before + here < len) else {
                let last = (len - before).min(here) as u16;
                // SAFETY: as above; the tail is unlinked first, so it is a chain of its own that can be freed.
                unsafe {
                    field::<u16>(segment, sys::SHIM_MBUF_DATA_LEN).write(last);
                    field::<*mut sys::rte_mbuf>(segment, sys::SHIM_MBUF_NEXT).write(std::ptr::null_mut());
                    field::<u16>(self.0, sys::SHIM_MBUF_NB_SEGS).write(kept);
                    field::<u32>(self.0, sys::SHIM_MBUF_PKT_LEN).write((before + usize::from(last)) as u32);
                    sys::shim_pktmbuf_free(next);
                }
                return;
            };
            before += here;
            kept += 1;
            segment = following;
        }
    }

    /// The bytes of all segments one after the other at the start of `into`, and how many they are; none when there is no room for them.
    pub fn copy_into(&self, into: &mut [u8]) -> Option<usize> {
        let mut copied = 0;
        let mut next = Some(self.0);
        while let Some(segment) = next {
            // SAFETY: `segment` is one of our chain, which is not changed through &self; offsets and types are those of rte_mbuf, and the
            // bytes from its data offset on, as many as its length says, are initialised memory of its buffer.
            let data = unsafe {
                let buffer = field::<*mut u8>(segment, sys::SHIM_MBUF_BUF_ADDR).read();
                let offset = usize::from(field::<u16>(segment, sys::SHIM_MBUF_DATA_OFF).read());
                let len = usize::from(field::<u16>(segment, sys::SHIM_MBUF_DATA_LEN).read());
                next = NonNull::new(field::<*mut sys::rte_mbuf>(segment, sys::SHIM_MBUF_NEXT).read());
                std::slice::from_raw_parts(buffer.add(offset), len)
            };
            into.get_mut(copied..copied + data.len())?.copy_from_slice(data);
            copied += data.len();
        }
        Some(copied)
    }

    /// Puts the segments of `tail` behind this frame's own, without copying; gives `tail` back if the frame would get too long for its fields.
    pub fn append(&mut self, tail: Self) -> Result<(), Self> {
        let lengths = (
            u16::try_from(self.segments() + tail.segments()),
            u32::try_from(self.frame_len() + tail.frame_len()),
        );
        let (Ok(segments), Ok(frame_len)) = lengths else { return Err(tail) };
        let mut last = self.0;
        // SAFETY: walks and writes fields of chains that are ours; `tail` is forgotten below, so each buffer keeps one owner.
        unsafe {
            while let Some(next) = NonNull::new(field::<*mut sys::rte_mbuf>(last, sys::SHIM_MBUF_NEXT).read())
            {
                last = next;
            }
            field::<*mut sys::rte_mbuf>(last, sys::SHIM_MBUF_NEXT).write(tail.0.as_ptr());
            field::<u16>(self.0, sys::SHIM_MBUF_NB_SEGS).write(segments);
            field::<u32>(self.0, sys::SHIM_MBUF_PKT_LEN).write(frame_len);
        }
        std::mem::forget(tail);
        Ok(())
    }
}

/// Where a field of `rte_mbuf` lies.
#[inline]
fn field<T>(mbuf: NonNull<sys::rte_mbuf>, offset: u32) -> *mut T {
    mbuf.as_ptr().cast::<u8>().wrapping_add(offset as usize).cast()
}

impl Frame for Mbuf {
    #[inline]
    fn data(&self) -> &[u8] {
        let (start, len) = self.first_segment();
        // SAFETY: the first segment's bytes are initialised memory of a buffer that is ours as long as &self.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        let (start, len) = self.first_segment();
        // SAFETY: as above, and &mut self excludes every other access.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    #[inline(always)]
    fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let (start, _) = self.first_segment();
            // SAFETY: a prefetch reads nothing and cannot fault.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.cast()) };
        }
    }

    #[inline]
    fn frame_len(&self) -> usize {
        // SAFETY: offset and type of pkt_len.
        unsafe { self.field::<u32>(sys::SHIM_MBUF_PKT_LEN) as usize }
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        if len < self.frame_len() {
            self.cut(len);
        }
    }

    #[inline]
    fn trim_front(&mut self, len: usize) -> bool {
        let (_, here) = self.first_segment();
        if len > here {
            return false;
        }
        // SAFETY: offsets and types are those of rte_mbuf; `len` is at most data_len, so that every sum below fits its type, and the data
        // offset stays within the buffer.
        unsafe {
            let offset = self.field::<u16>(sys::SHIM_MBUF_DATA_OFF) + len as u16;
            let frame_len = self.field::<u32>(sys::SHIM_MBUF_PKT_LEN) - len as u32;
            field::<u16>(self.0, sys::SHIM_MBUF_DATA_OFF).write(offset);
            field::<u16>(self.0, sys::SHIM_MBUF_DATA_LEN).write((here - len) as u16);
            field::<u32>(self.0, sys::SHIM_MBUF_PKT_LEN).write(frame_len);
        }
        true
    }

    #[inline]
    fn grow_front(&mut self, len: usize) -> bool {
        let (_, here) = self.first_segment();
        // SAFETY: offset and type of data_off.
        let room = usize::from(unsafe { self.field::<u16>(sys::SHIM_MBUF_DATA_OFF) });
        if len > room {
            return false;
        }
        // SAFETY: as above; the `len` bytes in front of the data lie in the same buffer, whose memory the pool was given zeroed. Offset and
        // length add up to at most the buffer's length, which is a u16.
        unsafe {
            let frame_len = self.field::<u32>(sys::SHIM_MBUF_PKT_LEN) + len as u32;
            field::<u16>(self.0, sys::SHIM_MBUF_DATA_OFF).write((room - len) as u16);
            field::<u16>(self.0, sys::SHIM_MBUF_DATA_LEN).write((here + len) as u16);
            field::<u32>(self.0, sys::SHIM_MBUF_PKT_LEN).write(frame_len);
        }
        true
    }

    #[inline]
    fn rss_hash(&self) -> Option<u32> {
        // SAFETY: offsets and types of ol_flags and hash.rss.
        unsafe {
            let flags: u64 = self.field(sys::SHIM_MBUF_OL_FLAGS);
            (flags & u64::from(sys::RTE_MBUF_F_RX_RSS_HASH) != 0).then(|| self.field(sys::SHIM_MBUF_RSS_HASH))
        }
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the chain is ours and no one uses it after this.
        unsafe { sys::shim_pktmbuf_free(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("frame_len", &self.frame_len())
            .field("segments", &self.segments())
            .finish()
    }
}
