/* What bindgen sees: the DPDK headers, and the shim's own names for what DPDK gives only as inline code or field paths. */
#ifndef TURNPIKE_SHIM_H
#define TURNPIKE_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_hash.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_version.h>

/*
 * Offsets of rte_mbuf's fields, in bytes. The fields moved into anonymous groups in DPDK 24.11, so Rust goes by offset and
 * the C compiler says what it is in the installed version.
 */
enum shim_mbuf_offset {
	SHIM_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	SHIM_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	SHIM_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt),
	SHIM_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	SHIM_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	SHIM_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	SHIM_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	SHIM_MBUF_RSS_HASH = offsetof(struct rte_mbuf, hash.rss),
	SHIM_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	SHIM_MBUF_POOL = offsetof(struct rte_mbuf, pool),
	SHIM_MBUF_NEXT = offsetof(struct rte_mbuf, next),
	SHIM_MBUF_SIZE = sizeof(struct rte_mbuf)
};

/* Widths of the same fields, in bytes, so that a test can refuse a DPDK that changed one. */
enum shim_mbuf_width {
	SHIM_MBUF_WIDTH_DATA_OFF = sizeof(((struct rte_mbuf *)0)->data_off),
	SHIM_MBUF_WIDTH_REFCNT = sizeof(((struct rte_mbuf *)0)->refcnt),
	SHIM_MBUF_WIDTH_NB_SEGS = sizeof(((struct rte_mbuf *)0)->nb_segs),
	SHIM_MBUF_WIDTH_OL_FLAGS = sizeof(((struct rte_mbuf *)0)->ol_flags),
	SHIM_MBUF_WIDTH_PKT_LEN = sizeof(((struct rte_mbuf *)0)->pkt_len),
	SHIM_MBUF_WIDTH_DATA_LEN = sizeof(((struct rte_mbuf *)0)->data_len),
	SHIM_MBUF_WIDTH_RSS_HASH = sizeof(((struct rte_mbuf *)0)->hash.rss),
	SHIM_MBUF_WIDTH_BUF_LEN = sizeof(((struct rte_mbuf *)0)->buf_len)
};

/* Thread-locals. */
int shim_errno(void);
unsigned int shim_lcore_id(void);

/* The state of a port's link; rte_eth_link is a union of bit fields from DPDK 24.11 on. Returns 0, or a negative errno. */
int shim_eth_link_get(uint16_t port, int *up, uint32_t *speed_mbps);

/* Inline code of the fast path. */
uint16_t shim_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count);
uint16_t shim_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count);
struct rte_mbuf *shim_pktmbuf_alloc(struct rte_mempool *pool);
void shim_pktmbuf_free(struct rte_mbuf *frame);
int shim_pktmbuf_linearize(struct rte_mbuf *frame);
unsigned int shim_ring_enqueue_burst(struct rte_ring *ring, void *const *items, unsigned int count);
unsigned int shim_ring_dequeue_burst(struct rte_ring *ring, void **items, unsigned int count);
unsigned int shim_ring_count(const struct rte_ring *ring);
unsigned int shim_ring_free_count(const struct rte_ring *ring);

#endif
