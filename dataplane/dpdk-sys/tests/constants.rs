//! Constants reach Rust through the C preprocessor and compiler; here is what they must be. Values of the DPDK ABI are given as numbers,
//! not by their DPDK names, so that a binding that went wrong cannot agree with itself.

use dpdk_sys as sys;
use std::ffi::CStr;

/// Widths in bytes with which `capsule` reads and writes the fields of `rte_mbuf`.
#[test]
fn mbuf_fields_have_the_widths_capsule_uses() {
    let rows = [
        ("data_off", sys::SHIM_MBUF_WIDTH_DATA_OFF, 2),
        ("refcnt", sys::SHIM_MBUF_WIDTH_REFCNT, 2),
        ("nb_segs", sys::SHIM_MBUF_WIDTH_NB_SEGS, 2),
        ("ol_flags", sys::SHIM_MBUF_WIDTH_OL_FLAGS, 8),
        ("pkt_len", sys::SHIM_MBUF_WIDTH_PKT_LEN, 4),
        ("data_len", sys::SHIM_MBUF_WIDTH_DATA_LEN, 2),
        ("hash.rss", sys::SHIM_MBUF_WIDTH_RSS_HASH, 4),
        ("buf_len", sys::SHIM_MBUF_WIDTH_BUF_LEN, 2),
    ];
    for (field, found, wanted) in rows {
        assert_eq!(found as usize, wanted, "width of rte_mbuf.{field}");
    }
}

#[test]
fn mbuf_offsets_are_aligned_distinct_and_inside() {
    let fields = [
        ("buf_addr", sys::SHIM_MBUF_BUF_ADDR, 8),
        ("data_off", sys::SHIM_MBUF_DATA_OFF, 2),
        ("refcnt", sys::SHIM_MBUF_REFCNT, 2),
        ("nb_segs", sys::SHIM_MBUF_NB_SEGS, 2),
        ("ol_flags", sys::SHIM_MBUF_OL_FLAGS, 8),
        ("pkt_len", sys::SHIM_MBUF_PKT_LEN, 4),
        ("data_len", sys::SHIM_MBUF_DATA_LEN, 2),
        ("hash.rss", sys::SHIM_MBUF_RSS_HASH, 4),
        ("buf_len", sys::SHIM_MBUF_BUF_LEN, 2),
        ("pool", sys::SHIM_MBUF_POOL, 8),
        ("next", sys::SHIM_MBUF_NEXT, 8),
    ];
    assert_eq!(sys::SHIM_MBUF_SIZE, 128, "rte_mbuf is two cache lines in every DPDK this crate knows");
    for (i, (name, offset, width)) in fields.iter().enumerate() {
        assert_eq!(offset % width, 0, "{name} is aligned to its width");
        assert!(offset + width <= sys::SHIM_MBUF_SIZE, "{name} is inside");
        for (other, at, wide) in &fields[i + 1..] {
            assert!(offset + width <= *at || at + wide <= *offset, "{name} and {other} overlap");
        }
    }
}

#[test]
fn constants_have_the_values_of_the_abi() {
    let rows: &[(&str, u64, u64)] = &[
        ("RTE_PKTMBUF_HEADROOM", u64::from(sys::RTE_PKTMBUF_HEADROOM), 128),
        ("RTE_ETH_RSS_IPV4", u64::from(sys::RTE_ETH_RSS_IPV4), 1 << 2),
        ("RTE_ETH_RSS_FRAG_IPV4", u64::from(sys::RTE_ETH_RSS_FRAG_IPV4), 1 << 3),
        ("RTE_ETH_RSS_NONFRAG_IPV4_TCP", u64::from(sys::RTE_ETH_RSS_NONFRAG_IPV4_TCP), 1 << 4),
        ("RTE_ETH_RSS_NONFRAG_IPV4_UDP", u64::from(sys::RTE_ETH_RSS_NONFRAG_IPV4_UDP), 1 << 5),
        ("RTE_ETH_RSS_IPV6", u64::from(sys::RTE_ETH_RSS_IPV6), 1 << 8),
        ("RTE_ETH_RSS_FRAG_IPV6", u64::from(sys::RTE_ETH_RSS_FRAG_IPV6), 1 << 9),
        ("RTE_ETH_RSS_NONFRAG_IPV6_TCP", u64::from(sys::RTE_ETH_RSS_NONFRAG_IPV6_TCP), 1 << 10),
        ("RTE_ETH_RSS_NONFRAG_IPV6_UDP", u64::from(sys::RTE_ETH_RSS_NONFRAG_IPV6_UDP), 1 << 11),
        ("RTE_ETH_RX_OFFLOAD_SCATTER", u64::from(sys::RTE_ETH_RX_OFFLOAD_SCATTER), 1 << 13),
        ("RTE_ETH_RX_OFFLOAD_RSS_HASH", u64::from(sys::RTE_ETH_RX_OFFLOAD_RSS_HASH), 1 << 19),
        ("RTE_ETH_TX_OFFLOAD_MULTI_SEGS", u64::from(sys::RTE_ETH_TX_OFFLOAD_MULTI_SEGS), 1 << 15),
        ("RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE", u64::from(sys::RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE), 1 << 16),
        ("RTE_MBUF_F_EXTERNAL", sys::RTE_MBUF_F_EXTERNAL, 1 << 61),
        ("RTE_MBUF_F_INDIRECT", sys::RTE_MBUF_F_INDIRECT, 1 << 62),
        ("RTE_MBUF_F_RX_RSS_HASH", u64::from(sys::RTE_MBUF_F_RX_RSS_HASH), 1 << 1),
        ("RTE_ETH_MQ_RX_NONE", u64::from(sys::RTE_ETH_MQ_RX_NONE), 0),
        ("RTE_ETH_MQ_RX_RSS", u64::from(sys::RTE_ETH_MQ_RX_RSS), 1),
        ("RTE_ETH_RETA_GROUP_SIZE", u64::from(sys::RTE_ETH_RETA_GROUP_SIZE), 64),
        ("RTE_ETH_NAME_MAX_LEN", u64::from(sys::RTE_ETH_NAME_MAX_LEN), 64),
        ("RING_F_SP_ENQ", u64::from(sys::RING_F_SP_ENQ), 1),
        ("RING_F_SC_DEQ", u64::from(sys::RING_F_SC_DEQ), 2),
    ];
    for (name, found, wanted) in rows {
        assert_eq!(found, wanted, "{name}");
    }
    const { assert!(sys::RTE_MAX_LCORE >= 64, "a worker of each of 64 cores can register") };
    const { assert!(sys::RTE_MAX_ETHPORTS >= 16) };
    const { assert!(sys::RTE_MEMPOOL_CACHE_MAX_SIZE >= 256) };
}

/// The process runs with the library the headers were of: the same year and month.
#[test]
fn the_library_is_the_release_of_the_headers() {
    // SAFETY: returns a static NUL-terminated string.
    let running = unsafe { CStr::from_ptr(sys::rte_version()) }.to_string_lossy().into_owned();
    let release: Vec<&str> = sys::BUILD_VERSION.split('.').take(2).collect();
    assert!(
        running.contains(&release.join(".")),
        "built against {}, runs with {running}",
        sys::BUILD_VERSION
    );
}

/// Thread-locals come through the shim: a thread that EAL does not know has no lcore, and an error number of its own.
#[test]
fn thread_locals_come_through_the_shim() {
    // SAFETY: both only read a thread-local.
    let (lcore, errno) = unsafe { (sys::shim_lcore_id(), sys::shim_errno()) };
    assert_eq!(lcore, u32::MAX, "LCORE_ID_ANY");
    assert_eq!(errno, 0);
}
