//! What the gateway answers itself: ARP, echo requests, port unreachable, resets.

use crate::mailbox::Shared;
use crate::neighbour::NextHop;
use crate::parse::{ETHERNET, IPV4, Parsed};
use crate::service_table::Tables;
use arrayvec::ArrayVec;
use std::net::Ipv4Addr;
use turnpike_packet::arp::{self, ArpPacket, Operation};
use turnpike_packet::checksum;

/// Longest frame that is made here: Ethernet and the 576 bytes an ICMP error may have (RFC 1812 section 4.3.2.3).
pub const ANSWER_BYTES_MAX: usize = ETHERNET + 576;

/// A frame of our own making.
pub type Answer = ArrayVec<u8, ANSWER_BYTES_MAX>;
