//! [`Offloads`]: what of a driver's offer a port turns on. Deliberately few: ARCHITECTURE.md says which are left off, and why.

use crate::mempool::Mempool;
use dpdk_sys as sys;
use std::fmt;

/// Bytes of a frame beside its IP packet: Ethernet header, two tags, check sequence.
const FRAMING: u32 = 26;

/// What a port's driver does beside receiving and sending frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Received frames carry the hash by which their queue was chosen; it is held against the queue they came to.
    pub rss_hash: bool,
    /// Frames longer than one buffer are received into several.
    pub scatter: bool,
    /// Frames of several buffers are sent as they are; without it they are made one before.
    pub segments: bool,
    /// Sent buffers go back to the pool many at a time, without a look at each. What may be sent so is checked before: one buffer, of the port's
    /// own pool, shared with no one.
    pub fast_free: bool,
}

impl Offloads {
    /// What to turn on at a port whose IP packets are at most `mtu` bytes long. `spreads`: by hash; `one_pool`: almost everything it sends comes from its own
    /// pool.
    pub(crate) fn of(offer: &sys::rte_eth_dev_info, mtu: u16, spreads: bool, one_pool: bool) -> Self {
        let (rx, tx) = (offer.rx_offload_capa, offer.tx_offload_capa);
        let fits_one_buffer = u32::from(mtu) + FRAMING <= u32::from(Mempool::DATA_ROOM);
        let fast_free = fits_one_buffer && one_pool && tx & FAST_FREE != 0;
        Self {
            rss_hash: spreads && rx & RSS_HASH != 0,
            scatter: !fits_one_buffer && rx & SCATTER != 0,
            // The two exclude each other. What this port may send fits one buffer, so nothing is lost; and drivers have faster code for it.
            segments: !fast_free && tx & SEGMENTS != 0,
            fast_free,
        }
    }

    pub(crate) const fn rx_bits(self) -> u64 {
        (if self.rss_hash { RSS_HASH } else { 0 }) | (if self.scatter { SCATTER } else { 0 })
    }

    pub(crate) const fn tx_bits(self) -> u64 {
        (if self.segments { SEGMENTS } else { 0 }) | (if self.fast_free { FAST_FREE } else { 0 })
    }

    /// How frames must be for the driver to send them.
    pub(crate) const fn sending(self) -> Sending {
        match self {
            Self { fast_free: true, .. } => Sending::FastFree,
            Self { segments: true, .. } => Sending::AsTheyAre,
            _ => Sending::OneSegment,
        }
    }
}

const RSS_HASH: u64 = sys::RTE_ETH_RX_OFFLOAD_RSS_HASH as u64;
const SCATTER: u64 = sys::RTE_ETH_RX_OFFLOAD_SCATTER as u64;
const SEGMENTS: u64 = sys::RTE_ETH_TX_OFFLOAD_MULTI_SEGS as u64;
const FAST_FREE: u64 = sys::RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE as u64;

/// How frames must be for a driver to send them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sending {
    AsTheyAre,
    /// Of one segment each.
    OneSegment,
    /// Of one segment each, from the port's own pool, shared with no one.
    FastFree,
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.rss_hash, "rss-hash"),
            (self.scatter, "scatter"),
            (self.segments, "multi-segment"),
            (self.fast_free, "fast-free"),
        ];
        let on: Vec<&str> = all.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        f.write_str(if on.is_empty() { "none" } else { "" })?;
        f.write_str(&on.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(rx: u64, tx: u64) -> sys::rte_eth_dev_info {
        sys::rte_eth_dev_info { rx_offload_capa: rx, tx_offload_capa: tx, ..Default::default() }
    }

    #[test]
    fn what_is_turned_on_is_offered_and_fits_the_port() {
        const ALL: u64 = u64::MAX;
        // Offer of receiving and sending, MTU, by hash, one pool, what is on.
        let rows = [
            ("nothing is offered", (0, 0, 9000, true, true), "none"),
            ("everything is, one queue", (ALL, ALL, 1500, false, true), "fast-free"),
            ("everything is, several queues", (ALL, ALL, 1500, true, true), "rss-hash,fast-free"),
            ("pools of several nodes", (ALL, ALL, 1500, true, false), "rss-hash,multi-segment"),
            ("jumbo frames", (ALL, ALL, 9000, true, true), "rss-hash,scatter,multi-segment"),
            ("the longest that fits one buffer", (ALL, ALL, 2022, false, true), "fast-free"),
            ("one byte more", (ALL, ALL, 2023, false, true), "scatter,multi-segment"),
            ("no fast free", (ALL, ALL & !FAST_FREE, 1500, false, true), "multi-segment"),
            ("fast free alone", (0, FAST_FREE, 1500, true, true), "fast-free"),
            ("fast free alone, jumbo frames", (0, FAST_FREE, 9000, true, true), "none"),
        ];
        for (name, (rx, tx, mtu, spreads, one_pool), wanted) in rows {
            let on = Offloads::of(&offer(rx, tx), mtu, spreads, one_pool);
            assert_eq!(on.to_string(), wanted, "{name}");
            assert_eq!((on.rx_bits() & !rx, on.tx_bits() & !tx), (0, 0), "{name}: only what is offered");
            assert!(!(on.fast_free && on.segments), "{name}: they exclude each other");
        }
    }

    #[test]
    fn how_frames_must_be_follows() {
        let rows = [
            (Offloads::default(), Sending::OneSegment),
            (Offloads { segments: true, ..Offloads::default() }, Sending::AsTheyAre),
            (Offloads { fast_free: true, ..Offloads::default() }, Sending::FastFree),
        ];
        for (offloads, wanted) in rows {
            assert_eq!(offloads.sending(), wanted, "{offloads}");
        }
    }
}
