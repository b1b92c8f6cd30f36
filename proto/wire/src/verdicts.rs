//! What every verdict means and what to do about it: the words of `turnpike drops`, of `turnpike explain` and of the guide.

/// A verdict in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictText {
    /// Its name in counter pages, metrics and listings.
    pub name: &'static str,
    /// Whether its packets got neither on nor to who was to get them.
    pub is_drop: bool,
    /// What became of the packet.
    pub meaning: &'static str,
    /// What to do about many of them.
    pub mend: &'static str,
}

/// The words for a verdict.
#[must_use]
pub fn text_of(name: &str) -> Option<&'static VerdictText> {
    VERDICTS.iter().find(|text| text.name == name)
}

const fn passes(name: &'static str, meaning: &'static str, mend: &'static str) -> VerdictText {
    VerdictText { name, is_drop: false, meaning, mend }
}

const fn drops(name: &'static str, meaning: &'static str, mend: &'static str) -> VerdictText {
    VerdictText { name, is_drop: true, meaning, mend }
}

/// Every verdict, in the order of the guide.
pub const VERDICTS: &[VerdictText] = &[
    passes("forwarded", "translated and handed to a transmit queue", "nothing"),
    passes("arp_handled", "an ARP packet that was answered or learned from", "nothing"),
    passes("arp_ignored", "an ARP packet that concerns nobody here", "nothing"),
    drops(
        "arp_bad",
        "malformed, or somebody claims an address of ours",
        "growing: look for a second host with one of the gateway's addresses or VIPs",
    ),
    passes(
        "ndp_handled",
        "a neighbour solicitation or advertisement that was answered or learned from",
        "nothing",
    ),
    passes("ndp_ignored", "a message of neighbour discovery that concerns nobody here", "nothing"),
    drops(
        "ndp_bad",
        "breaks RFC 4861 section 7.1, or somebody claims an address of ours",
        "growing: look for a second host with one of the gateway's addresses or VIPs",
    ),
    passes(
        "echo_replied",
        "a ping to a VIP or an own address, answered (with a tap its kernel answers for own addresses)",
        "nothing",
    ),
    drops(
        "rejected",
        "answered with ICMP port unreachable: no usable backend, or no such port of a ClusterIP",
        "`turnpike get frontends`: rows with `reject`; are the pods ready, do the selector's labels match?",
    ),
    drops(
        "reject_limited",
        "to be answered (reject or ping), but 1000 answers a second of this worker were used up",
        "a flood, or very many clients of a Service without backends",
    ),
    drops(
        "tcp_no_flow",
        "a TCP segment of no known flow that opens none; answered with a reset within the limit",
        "expected after a restart of the dataplane that began empty and for connections idle over 2 h 4 min (`turnpike.dev/tcp-established-timeout`); else a scan",
    ),
    drops(
        "tcp_no_flow_drop",
        "the same for a Service with `turnpike.dev/tcp-midstream: drop`, without an answer",
        "as `tcp_no_flow`",
    ),
    drops(
        "sctp_no_flow",
        "an SCTP packet of no known association that opens none; answered with an ABORT (to a SHUTDOWN ACK: SHUTDOWN COMPLETE) within the limit, but not if it ends, reports or echoes a cookie itself (RFC 9260 section 8.4)",
        "as `tcp_no_flow`; a second path of a multi-homed peer, which is not supported",
    ),
    drops(
        "frontend_drop",
        "its frontend says drop: a Local traffic policy and no usable endpoint on this node, or source ranges that cannot be read",
        "`turnpike get frontends`: rows with `drop`; `turnpike describe service` says why",
    ),
    drops(
        "source_range",
        "for a load-balancer address, from a client in none of the Service's `loadBalancerSourceRanges`",
        "nothing, or add the client's network to the Service",
    ),
    drops(
        "unallocated_cluster_ip",
        "for an address of a Service network that no Service has",
        "a client still uses the address of a deleted Service, or scans",
    ),
    drops(
        "no_frontend",
        "for a VIP, on a port that no Service defines",
        "compare the client's port with `turnpike get frontends`",
    ),
    drops(
        "snat_no_flow",
        "for a SNAT address, from no backend of a live flow",
        "late replies of closed flows; much of it after a restart of the dataplane that began empty",
    ),
    drops(
        "own_address",
        "for an address of the gateway itself, on no frontend",
        "a port scan, or a daemon you expected on this address: give the port an `exception`",
    ),
    passes(
        "to_kernel",
        "given to the host's kernel through the port's tap; also ARP answers that Turnpike learned from as well",
        "nothing; `tap_lost` of the port says what the kernel did not take",
    ),
    drops(
        "kernel_limited",
        "for the host's kernel, over the limits",
        "a flood to the gateway's own address, or a transfer to it over some 600 Mbit/s",
    ),
    drops(
        "kernel_full",
        "for the host's kernel, but the ring to the tap was full",
        "the exception thread has no core to itself: leave it one that no worker has; or a flood",
    ),
    drops(
        "not_ours",
        "for no address that is answered here; also answers of pods to clients whose address they see, of no live flow, and of pods with `dsr-ipip` whose default route is the gateway",
        "the network routes too much to the gateway, or the dataplane was restarted",
    ),
    drops(
        "other_mac",
        "the Ethernet destination is another host",
        "flooding or a promiscuous link; without a tap, broadcasts other than ARP count here too",
    ),
    drops(
        "bad_source",
        "the source is one of our own addresses, a VIP, loopback, multicast or zero",
        "spoofing, or a loop: a reply's route leads back here",
    ),
    drops(
        "flow_table_full",
        "no room in the flow table",
        "raise `dataplane.flows_per_worker`, add workers; look for a flood of SYNs",
    ),
    drops(
        "client_quota",
        "the client has `dataplane.client_flows_max` flows on this worker already",
        "a flood from one address; or many people or a proxy behind one: raise the quota",
    ),
    drops(
        "snat_exhausted",
        "no free port towards the chosen backend, on a SNAT address or (`Local`, `dnat`) the client's own; `filling` in the status warns before",
        "more `dataplane.snat.addresses`, more backends",
    ),
    drops(
        "no_route",
        "no route to the backend or to the client",
        "give a port a `gateway`, or an address in that network",
    ),
    drops(
        "next_hop_unresolved",
        "the next hop did not answer ARP within a second, or over 128 frames waited",
        "is the router or pod there? is its VLAN right? the control plane logs `next hop … does not answer`",
    ),
    drops(
        "next_hops_full",
        "over 65,536 neighbours",
        "the connected network is too large for one link; put a router between",
    ),
    drops(
        "tx_full",
        "the transmit queue stayed full",
        "the link is saturated, or its driver stopped: `nic_tx_errors`, `link_up`",
    ),
    drops(
        "too_big",
        "longer than the next port's MTU, or with `dsr-ipip` than what the way to the backend leaves; answered with ICMP fragmentation needed, within the limit on answers, as it must not be fragmented; or, where it may be, than 32 fragments hold",
        "normal while senders learn the path's MTU; if it keeps growing, somebody drops ICMP on the way to the sender: set `dataplane.mss_clamp`",
    ),
    drops(
        "ttl_expired",
        "time to live would reach zero; answered with ICMP time exceeded within the limit on answers",
        "a routing loop, or a traceroute",
    ),
    passes(
        "handed_off",
        "passed to the worker that owns its flow, where it has a verdict of its own",
        "normal with steering `handoff`, and for SCTP; with `rss` it should stay near zero for TCP and UDP",
    ),
    drops(
        "handoff_full",
        "the ring to the owning worker was full",
        "one worker is overloaded: more workers, or a NIC with RSS",
    ),
    drops(
        "truncated",
        "shorter than an Ethernet header, or than the headers it announces",
        "a broken sender or cable",
    ),
    drops(
        "header_split",
        "a header is spread over segments of the frame",
        "a driver with very small buffers; report it",
    ),
    drops("bad_ipv4", "version, header length or total length contradict each other", "a broken sender"),
    drops(
        "bad_ipv6",
        "an IPv6 header or its extension headers contradict themselves or are more than eight or 192 bytes, or an address is IPv4-mapped",
        "a broken sender",
    ),
    drops(
        "bad_ipv4_checksum",
        "the IPv4 header checksum is wrong",
        "a broken sender, or a link whose offload leaves it open",
    ),
    drops(
        "bad_l4",
        "TCP, UDP or SCTP data offset, length, first chunk or verification tag contradicts the packet",
        "a broken sender",
    ),
    drops(
        "source_route",
        "carries a source route, or IP options that do not add up (RFC 7126)",
        "somebody probes",
    ),
    drops(
        "fragment",
        "a fragment of something else than TCP or UDP, such as a long ping or SCTP, or one for an own address without a tap",
        "lower the sender's MTU",
    ),
    drops(
        "fragment_bad",
        "a fragment that no datagram has: its first bytes are too few for a TCP or UDP header or rewrite one, it is empty, or it ends where none may",
        "somebody tries to get past a filter",
    ),
    drops(
        "fragment_overlap",
        "of a datagram of which two fragments overlap or contradict each other: all that is held of it, and all that comes later (RFC 5722)",
        "a few: a sender so fast that its identifications come again while a datagram with a lost fragment is remembered (RFC 4963); many: an attack",
    ),
    drops("fragment_duplicate", "a fragment that has come before", "a network that repeats frames"),
    drops(
        "fragment_timeout",
        "held 15 s for the first fragment of its datagram, which did not come",
        "frames are lost before the gateway, or somebody sends such fragments on purpose",
    ),
    drops(
        "fragments_full",
        "no room for another datagram or held frame, or the share of its source is used up; and all that comes of that datagram",
        "a flood of fragments; others are served on",
    ),
    drops(
        "fragment_no_flow",
        "a later fragment of a datagram whose first one made no flow",
        "see what became of the first ones",
    ),
    drops(
        "icmp",
        "ICMP other than an echo request or an error about the first packet of TCP, UDP or SCTP",
        "nothing",
    ),
    drops(
        "icmp_bad",
        "an ICMP error that contradicts itself: a wrong checksum, less than 28 bytes or more than 1,492 quoted, an MTU below 68, or not sent to the source of the packet it is about",
        "somebody makes errors up, or a broken router",
    ),
    drops(
        "icmp_no_flow",
        "an ICMP error about no live flow",
        "late errors; many of them: somebody tries to disturb connections",
    ),
    passes(
        "tunnel_error",
        "an ICMP error about a packet in a packet (`dsr-ipip`): its MTU was noted, and its client was told where it concerns one (RFC 2003 section 4)",
        "many that are not sizes: a backend does not unpack (protocol unreachable), or the way to it is broken",
    ),
    drops("other_protocol", "neither TCP, UDP, SCTP nor ICMP", "nothing here forwards GRE, IPsec"),
    drops(
        "other_vlan",
        "of a VLAN that no port of the device has, or with several tags",
        "the switch sends VLANs that are not for the gateway: leave them off its trunk; or a port lacks its `vlan`",
    ),
    drops(
        "other_ethertype",
        "neither IP nor ARP, and IPv6 where no port has an IPv6 address; with a tap the kernel gets them",
        "nothing",
    ),
    drops(
        "no_memory",
        "an ARP answer could not be made or queued: packet memory ran out, or the transmit queue is full; or a frame has no room in front for an outer header",
        "raise `dataplane.memory_mb`; see `tx_full`",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the guide's table.
    fn rows() -> String {
        let row = |text: &VerdictText| format!("| `{}` | {} | {} |\n", text.name, text.meaning, text.mend);
        VERDICTS.iter().map(row).collect()
    }

    #[test]
    fn the_guide_says_the_same() {
        let guide = include_str!("../../../GUIDE.md");
        for row in rows().lines() {
            assert!(guide.contains(row), "GUIDE.md lacks the row, or has another: {row}");
        }
        let table = guide.split("| verdict | meaning | what to do |").nth(1).unwrap();
        let table = table.split("\n\n").next().unwrap();
        assert_eq!(table.lines().filter(|line| line.starts_with("| `")).count(), VERDICTS.len());
    }

    #[test]
    fn every_verdict_has_words() {
        for text in VERDICTS {
            assert!(!text.meaning.is_empty() && !text.mend.is_empty(), "{}", text.name);
            assert_eq!(text_of(text.name), Some(text));
        }
        assert_eq!(text_of("nothing"), None);
    }
}
