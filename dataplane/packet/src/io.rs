//! [`PacketIo`]: one queue pair of one NIC, whole bursts at a time.
//!
//! The packet's walk starts and ends here: `capsule/rx → forward/worker → parse → select → rewrite → capsule/tx`.

use arrayvec::ArrayVec;

/// Most frames of one burst. 64 keeps enough cache misses in flight to hide DRAM behind each other.
pub const BURST: usize = 64;

/// Bytes every frame keeps free in front of its data when it is received or allocated.
pub const HEADROOM: usize = 128;

/// Up to [`BURST`] owned frames.
pub type Burst<F> = ArrayVec<F, BURST>;

/// One Ethernet frame, owned, from destination address to the last byte before the frame check sequence.
///
/// Dropping a frame gives its memory back.
pub trait Frame: Send {
    /// The bytes of the first segment: all of the frame if [`Frame::is_contiguous`].
    fn data(&self) -> &[u8];

    /// The bytes of the first segment, for writing.
    fn data_mut(&mut self) -> &mut [u8];

    /// Asks the cache for its first bytes.
    #[inline(always)]
    fn prefetch(&self) {}

    /// Length over all segments, in bytes.
    fn frame_len(&self) -> usize;

    /// Whether [`Frame::data`] is the whole frame.
    fn is_contiguous(&self) -> bool {
        self.data().len() == self.frame_len()
    }

    /// Cuts the frame to `len` bytes (Ethernet padding behind the IP packet). Longer than it is: no effect.
    fn truncate(&mut self, len: usize);

    /// Takes `len` bytes off the front; false, and the frame unchanged, if the first segment has fewer.
    #[must_use]
    fn trim_front(&mut self, len: usize) -> bool;

    /// Puts `len` bytes in front, whatever they hold; false, and the frame unchanged, if there is no room: a frame has [`HEADROOM`] when it is
    /// received or allocated, less what was put in front since, and what was taken off.
    #[must_use]
    fn grow_front(&mut self, len: usize) -> bool;

    /// The hash the NIC computed to choose the queue, if it did.
    fn rss_hash(&self) -> Option<u32>;
}

/// How a NIC spreads received packets over its queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Toeplitz hash over addresses and ports of IPv4 TCP and UDP, looked up in an indirection table.
    Rss(Rss),
    /// Some other way, or one queue: nothing can be told from the packet.
    Unknown,
}

/// The parameters of receive-side scaling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    /// The Toeplitz secret key, at least 16 bytes.
    pub key: Vec<u8>,
    /// Indirection table: queue of hash `h` is `reta[h % reta.len()]`; its length is a power of two.
    pub reta: Vec<u16>,
    /// TCP and UDP over IPv6 are hashed over addresses and ports, too.
    pub ipv6: bool,
}

/// What one queue pair's NIC can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// How receive queues are chosen.
    pub spread: Spread,
}

/// One receive queue and one transmit queue of one NIC, owned by one worker.
pub trait PacketIo: Send {
    /// Its frames.
    type Frame: Frame;

    /// What its NIC can do; the same at every call.
    fn info(&self) -> &PortInfo;

    /// Appends received frames to `into` up to its capacity and returns how many. Never waits.
    fn rx(&mut self, into: &mut Burst<Self::Frame>) -> usize;

    /// Sends a prefix of `from`, in order, and returns how many; the rest stays in `from`, moved to its front. Never waits.
    fn tx(&mut self, from: &mut Burst<Self::Frame>) -> usize;

    /// A new frame that holds a copy of `data`, or none when memory for frames has run out or `data` is too long.
    fn alloc(&mut self, data: &[u8]) -> Option<Self::Frame>;
}
