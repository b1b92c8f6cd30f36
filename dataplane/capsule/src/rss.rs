//! Receive-side scaling: what is asked of a driver, and what it says it really does.

use dpdk_sys as sys;
use turnpike_packet::io::{Rss, Spread};

/// The Toeplitz key set by default: the example key of the receive-side scaling specification, against which hashes can be checked. Fixed, so
/// that after a restart a flow's packets reach the same queue as before.
pub(crate) const DEFAULT_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Over addresses and ports: without both, nothing can be told of a packet.
const BY_PORTS: u64 = (sys::RTE_ETH_RSS_NONFRAG_IPV4_TCP | sys::RTE_ETH_RSS_NONFRAG_IPV4_UDP) as u64;

/// The same over IPv6.
const BY_PORTS6: u64 = (sys::RTE_ETH_RSS_NONFRAG_IPV6_TCP | sys::RTE_ETH_RSS_NONFRAG_IPV6_UDP) as u64;

/// What is asked for where the driver offers it; fragments and other protocols by their addresses.
const WANTED: u64 = BY_PORTS
    | BY_PORTS6
    | (sys::RTE_ETH_RSS_IPV4
        | sys::RTE_ETH_RSS_FRAG_IPV4
        | sys::RTE_ETH_RSS_IPV6
        | sys::RTE_ETH_RSS_FRAG_IPV6) as u64;

/// Drivers that keep a key and a table and spread by neither.
const PRETENDERS: &[&str] = &["net_null", "net_tap", "net_bonding", "net_failsafe"];

/// Most entries of an indirection table that is read back.
const RETA_MAX: u16 = 4096;

/// What a port is asked for.
pub(crate) struct Wish {
    /// Hash types; 0: do not spread by hash.
    pub(crate) types: u64,
    /// The key, as long as the driver wants it; empty: the driver's own.
    pub(crate) key: Vec<u8>,
}

impl Wish {
    /// What to ask of a port with `queues` queues, given what its driver offers.
    pub(crate) fn of(info: &sys::rte_eth_dev_info, queues: u16, key: &[u8]) -> Self {
        let types = if queues > 1 { WANTED & info.flow_type_rss_offloads } else { 0 };
        let length = if types == 0 { 0 } else { usize::from(info.hash_key_size) };
        Self { types, key: key.iter().copied().cycle().take(length).collect() }
    }
}

/// How the started port spreads packets: known only if the driver hashes by ports, and key and table can be read back from it.
pub(crate) fn spread(
    port: u16,
    driver: &str,
    info: &sys::rte_eth_dev_info,
    wish: &Wish,
    queues: u16,
) -> Spread {
    if wish.types & BY_PORTS != BY_PORTS || PRETENDERS.contains(&driver) {
        return Spread::Unknown;
    }
    let known = key(port, info.hash_key_size).zip(table(port, info.reta_size, queues));
    known.map_or(Spread::Unknown, |((key, types), reta)| {
        Spread::Rss(Rss { key, reta, ipv6: types & BY_PORTS6 == BY_PORTS6 })
    })
}

/// The key, and what is hashed by it.
fn key(port: u16, len: u8) -> Option<(Vec<u8>, u64)> {
    let mut key = vec![0u8; usize::from(len)];
    let mut conf =
        sys::rte_eth_rss_conf { rss_key: key.as_mut_ptr(), rss_key_len: len, ..Default::default() };
    // SAFETY: the port exists; conf points at `len` bytes for the key.
    let status = unsafe { sys::rte_eth_dev_rss_hash_conf_get(port, &raw mut conf) };
    let real =
        status == 0 && conf.rss_hf & BY_PORTS == BY_PORTS && key.len() >= 16 && key.iter().any(|b| *b != 0);
    real.then_some((key, conf.rss_hf))
}

fn table(port: u16, len: u16, queues: u16) -> Option<Vec<u16>> {
    if !len.is_power_of_two() || len > RETA_MAX {
        return None;
    }
    let group = sys::RTE_ETH_RETA_GROUP_SIZE as usize;
    let entry = sys::rte_eth_rss_reta_entry64 { mask: u64::MAX, ..Default::default() };
    let mut groups = vec![entry; usize::from(len).div_ceil(group)];
    // SAFETY: the port exists; there are enough groups for `len` entries.
    if unsafe { sys::rte_eth_dev_rss_reta_query(port, groups.as_mut_ptr(), len) } != 0 {
        return None;
    }
    let reta: Vec<u16> = groups.iter().flat_map(|g| g.reta).take(usize::from(len)).collect();
    reta.iter().all(|queue| *queue < queues).then_some(reta)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(types: u64, key_len: u8) -> sys::rte_eth_dev_info {
        sys::rte_eth_dev_info { flow_type_rss_offloads: types, hash_key_size: key_len, ..Default::default() }
    }

    #[test]
    fn the_wish_is_masked_by_the_offer() {
        let tcp = u64::from(sys::RTE_ETH_RSS_NONFRAG_IPV4_TCP);
        let rows = [
            ("no RSS at all", info(0, 0), 4, 0, 0),
            ("one queue needs none", info(u64::MAX, 40), 1, 0, 0),
            ("TCP only", info(tcp | 1 << 40, 40), 2, tcp, 40),
            ("everything, long key", info(u64::MAX, 52), 2, WANTED, 52),
        ];
        for (name, info, queues, types, key_len) in rows {
            let wish = Wish::of(&info, queues, &DEFAULT_KEY);
            assert_eq!((wish.types, wish.key.len()), (types, key_len), "{name}");
        }
        let wish = Wish::of(&info(u64::MAX, 52), 2, &DEFAULT_KEY);
        assert_eq!((wish.key[0], wish.key[40], wish.key[51]), (0x6d, 0x6d, 0x3d), "a short key is repeated");
    }
}
