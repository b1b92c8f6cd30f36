//! Default routers of IPv6 that say so themselves (RFC 4861 section 6.3.4), for ports that listen to them, and the questions for one (section
//! 6.3.7, RFC 7559).
//!
//! Any worker may hear a router; worker 0 asks for one and forgets those whose time is over. A router is known by the low half of its link-local
//! address (the high half is fe80::/64), so that it is one word.

use crate::address::Address;
use crate::limits::{ROUTER_ASK_FIRST_MS, ROUTER_ASK_MOST_MS};
use crate::neighbour::NextHop;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// fe80::/64.
const LINK_LOCAL: u128 = 0xfe80 << 112;

/// The routers of all ports.
#[derive(Debug)]
pub struct Routers(Box<[Option<Router>]>);

/// That of one port which listens.
#[derive(Debug, Default)]
struct Router {
    /// 0: none is known.
    interface: AtomicU64,
    until_ms: AtomicU32,
    asked_ms: AtomicU32,
    /// Time between two questions; 0 before the first.
    pause_ms: AtomicU32,
}

impl Routers {
    /// None is known yet. `listens` says of each port whether it listens.
    #[must_use]
    pub fn new(listens: impl Iterator<Item = bool>) -> Self {
        Self(listens.map(|listens| listens.then(Router::default)).collect())
    }

    /// Hears a router on a port, which is one for so long. The one that is known stays as long as it is one; another takes its place then.
    /// Returns whether it was heard.
    pub fn hear(&self, port: usize, source: Address, lifetime_s: u16, now_ms: u32) -> bool {
        let Some(Some(router)) = self.0.get(port) else { return false };
        let bits = source.bits();
        let interface = bits as u64;
        if bits >> 64 != LINK_LOCAL >> 64 || interface == 0 {
            return false;
        }
        let known = router.interface.load(Relaxed);
        if known != 0 && known != interface {
            return false;
        }
        if lifetime_s == 0 {
            router.interface.store(0, Relaxed);
            router.pause_ms.store(0, Relaxed);
        } else {
            router.until_ms.store(now_ms.wrapping_add(u32::from(lifetime_s) * 1_000), Relaxed);
            router.interface.store(interface, Relaxed);
        }
        true
    }

    /// The first port's with a router.
    #[must_use]
    pub fn any(&self) -> Option<NextHop> {
        (0u8..).zip(&self.0).find_map(|(port, router)| {
            let interface = router.as_ref()?.interface.load(Relaxed);
            (interface != 0)
                .then(|| NextHop { port, address: Address::v6(LINK_LOCAL | u128::from(interface)) })
        })
    }

    /// Forgets routers whose time is over, and gives the ports on which one is to be asked for now.
    pub fn keep(&self, now_ms: u32) -> impl Iterator<Item = usize> + '_ {
        self.0
            .iter()
            .enumerate()
            .filter(move |(_, router)| router.as_ref().is_some_and(|r| r.is_missed(now_ms)))
            .map(|(port, _)| port)
    }
}

impl Router {
    fn is_missed(&self, now_ms: u32) -> bool {
        if self.interface.load(Relaxed) != 0 {
            // At most 18 hours ahead, or over.
            if self.until_ms.load(Relaxed).wrapping_sub(now_ms) <= u32::from(u16::MAX) * 1_000 {
                return false;
            }
            self.interface.store(0, Relaxed);
            self.pause_ms.store(0, Relaxed);
        }
        let pause_ms = self.pause_ms.load(Relaxed);
        if pause_ms != 0 && now_ms.wrapping_sub(self.asked_ms.load(Relaxed)) < pause_ms {
            return false;
        }
        self.asked_ms.store(now_ms, Relaxed);
        self.pause_ms.store((pause_ms * 2).clamp(ROUTER_ASK_FIRST_MS, ROUTER_ASK_MOST_MS), Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(n: u128) -> Address {
        Address::v6(LINK_LOCAL | n)
    }

    #[test]
    fn a_router_is_asked_for_heard_kept_and_forgotten() {
        let routers = Routers::new([false, true].into_iter());
        assert_eq!(routers.keep(0).collect::<Vec<_>>(), [1], "only the port that listens");
        let asked: Vec<u32> = (1..100_000).filter(|&ms| routers.keep(ms).count() > 0).collect();
        assert_eq!(asked, [4_000, 12_000, 28_000, 60_000], "twice as long each time");
        assert!(!routers.hear(0, router(7), 10, 100_000), "a port that does not listen");
        assert!(!routers.hear(1, Address::v6(0x2001_0db8 << 96 | 7), 10, 100_000), "no link-local address");
        assert!(routers.hear(1, router(7), 10, 100_000));
        let known = Some(NextHop { port: 1, address: router(7) });
        assert_eq!((routers.any(), routers.keep(109_000).count()), (known, 0));
        assert!(!routers.hear(1, router(8), 10, 105_000), "the one that is known stays");
        assert!(routers.hear(1, router(7), 10, 105_000));
        assert_eq!((routers.keep(114_999).count(), routers.any()), (0, known));
        assert_eq!(
            (routers.keep(115_001).count(), routers.any()),
            (1, None),
            "its time is over, and it is asked for at once"
        );
        assert!(routers.hear(1, router(8), 65_535, 116_000));
        assert!(routers.hear(1, router(8), 0, 117_000), "it is none any more");
        assert_eq!(routers.any(), None);
    }

    #[test]
    fn the_clock_may_wrap() {
        let routers = Routers::new([true].into_iter());
        assert!(routers.hear(0, router(7), 1_800, u32::MAX - 1_000));
        assert_eq!((routers.keep(5_000).count(), routers.any().is_some()), (0, true));
        assert_eq!((routers.keep(1_800_000).count(), routers.any()), (1, None));
    }
}
