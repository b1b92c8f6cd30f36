//! Frames and the wires they travel on.
//!
//! - [`io`]: the [`io::PacketIo`] trait: whole bursts in, whole bursts out. DPDK implements it in `capsule`.
//! - [`memory`] and [`pcap`]: its twins without DPDK, for tests and tools.
//! - [`ethernet`], [`arp`], [`ipv4`], [`ipv6`], [`icmpv4`], [`icmpv4_error`], [`icmpv6`], [`icmpv6_error`], [`ip`], [`ipip`], [`ndp`], [`sctp`], [`tcp`], [`mss`], [`udp`], [`vlan`]: one file per protocol.
//! - [`faults`]: a wire that loses, doubles, reorders and delays, around any [`io::PacketIo`], for tests.
//! - [`checksum`]: RFC 1071 sums and RFC 1624 updates. [`toeplitz`]: the hash of receive-side scaling.
//! - [`flight`]: whole frames, made and checked, for tests and tools. [`conformance`]: what every [`io::PacketIo`] must do.
#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod conformance;
pub mod ethernet;
pub mod faults;
pub mod flight;
pub mod icmpv4;
pub mod icmpv4_error;
pub mod icmpv6;
pub mod icmpv6_error;
pub mod io;
pub mod ip;
pub mod ipip;
pub mod ipv4;
pub mod ipv6;
pub mod memory;
pub mod mld;
pub mod mss;
pub mod ndp;
pub mod pcap;
pub mod pieces;
pub mod sctp;
pub mod tcp;
pub mod tcp_segment;
pub mod toeplitz;
pub mod udp;
pub mod vlan;
