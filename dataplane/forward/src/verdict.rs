//! [`Verdict`]: the one fate of every packet, and the counters of a worker.

/// Declares the closed enum, its names and its count in one place.
macro_rules! verdicts {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// The fate of a packet. Every received packet has exactly one, and each has one counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Verdict {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Verdict {
            /// Every verdict, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name in counter pages, metrics and listings.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What it means, for people.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }
        }
    };
}

verdicts! {
    /// Translated and handed to a transmit queue.
    Forwarded = "forwarded",
    /// An ARP packet that was answered or learned from.
    ArpHandled = "arp_handled",
    /// An ARP packet that concerns nobody here.
    ArpIgnored = "arp_ignored",
    /// An ARP packet that is malformed, or claims one of the gateway's own addresses.
    ArpBad = "arp_bad",
    /// A neighbour solicitation or advertisement that was answered or learned from.
    NdpHandled = "ndp_handled",
    /// A message of neighbour discovery that concerns nobody here.
    NdpIgnored = "ndp_ignored",
    /// A message of neighbour discovery that breaks RFC 4861 section 7.1, or claims one of the gateway's own addresses.
    NdpBad = "ndp_bad",
    /// An echo request to a VIP or an address of the gateway, answered.
    EchoReplied = "echo_replied",
    /// Answered with ICMP port unreachable: the Service has no usable backend, or the ClusterIP no such port.
    Rejected = "rejected",
    /// To be rejected, but the limit on answers was reached.
    RejectLimited = "reject_limited",
    /// A TCP segment of no known flow that opens none; answered with a reset within the limit on answers.
    TcpNoFlow = "tcp_no_flow",
    /// A TCP segment of no known flow that opens none, and whose Service wants such dropped in silence.
    TcpNoFlowDrop = "tcp_no_flow_drop",
    /// An SCTP packet of no known flow that opens none; answered as RFC 9260 section 8.4 asks within the limit on answers.
    SctpNoFlow = "sctp_no_flow",
    /// Dropped because its frontend says so.
    FrontendDrop = "frontend_drop",
    /// The client is in none of the Service's source ranges.
    SourceRange = "source_range",
    /// For an address of a Service network that no Service has.
    UnallocatedClusterIp = "unallocated_cluster_ip",
    /// For a VIP, on a port that no Service defines.
    NoFrontend = "no_frontend",
    /// For a SNAT address, from no backend of a live flow.
    SnatNoFlow = "snat_no_flow",
    /// For an address of the gateway itself, on no frontend.
    OwnAddress = "own_address",
    /// Given to the host's kernel through the tap of its port: for an address of the gateway, or no IP to one host.
    ToKernel = "to_kernel",
    /// For the host's kernel, but its share of frames a second is used up.
    KernelLimited = "kernel_limited",
    /// For the host's kernel, but the ring to its tap was full.
    KernelFull = "kernel_full",
    /// For no address that is answered here.
    NotOurs = "not_ours",
    /// The Ethernet destination is another host.
    OtherMac = "other_mac",
    /// Of a VLAN that no port of the device has, or with several tags.
    OtherVlan = "other_vlan",
    /// The source address is one of the gateway's own, a VIP, loopback, multicast or zero.
    BadSource = "bad_source",
    /// No room in the flow table.
    FlowTableFull = "flow_table_full",
    /// The client has as many flows as one may have.
    ClientQuota = "client_quota",
    /// No free SNAT port towards the chosen backend.
    SnatExhausted = "snat_exhausted",
    /// No route to the backend or to the client.
    NoRoute = "no_route",
    /// The next hop did not answer in time, or too many frames wait for next hops.
    NextHopUnresolved = "next_hop_unresolved",
    /// No room for another next hop.
    NextHopsFull = "next_hops_full",
    /// The transmit queue stayed full.
    TxFull = "tx_full",
    /// Longer than the next link takes, and must not be fragmented: answered with ICMP fragmentation needed, within the limit on answers. Or it
    /// may be, and had to be cut into too many fragments.
    TooBig = "too_big",
    /// Time to live would reach zero; answered with ICMP time exceeded within the limit on answers.
    TtlExpired = "ttl_expired",
    /// Passed to the worker that owns its flow, where it has a verdict of its own.
    HandedOff = "handed_off",
    /// The ring to the owning worker was full.
    HandoffFull = "handoff_full",
    /// Shorter than an Ethernet header, or than the headers it announces.
    Truncated = "truncated",
    /// A header is spread over segments of the frame.
    HeaderSplit = "header_split",
    /// An IPv4 header that contradicts itself: version, header length or total length.
    BadIpv4 = "bad_ipv4",
    /// The IPv4 header checksum is wrong.
    BadIpv4Checksum = "bad_ipv4_checksum",
    /// An IPv6 header or its extension headers contradict themselves or are too many: version, length, order, an IPv4-mapped address.
    BadIpv6 = "bad_ipv6",
    /// The TCP, UDP or SCTP header contradicts the packet: data offset, length, first chunk or verification tag.
    BadL4 = "bad_l4",
    /// Carries a source route (RFC 7126 section 4.3 and 4.4).
    SourceRoute = "source_route",
    /// A fragment of something else than TCP or UDP.
    Fragment = "fragment",
    /// A fragment that no datagram has: its first bytes are too few for a TCP or UDP header or rewrite one, it is empty, or it ends where
    /// none may.
    FragmentBad = "fragment_bad",
    /// Of a datagram of which two fragments overlap or contradict each other (RFC 5722): all that is held of it, and all that comes later.
    FragmentOverlap = "fragment_overlap",
    /// A fragment that has come before.
    FragmentDuplicate = "fragment_duplicate",
    /// Held for the first fragment of its datagram, which did not come in time.
    FragmentTimeout = "fragment_timeout",
    /// No room for another datagram or held frame, or the share of its source is used up; and all that comes of that datagram.
    FragmentsFull = "fragments_full",
    /// A later fragment of a datagram whose first one made no flow.
    FragmentNoFlow = "fragment_no_flow",
    /// ICMP other than an echo request or an error about TCP, UDP or SCTP.
    Icmp = "icmp",
    /// An ICMP error that contradicts itself: a checksum, a length, its destination, or an MTU that no link has.
    IcmpBad = "icmp_bad",
    /// An ICMP error about no live flow.
    IcmpNoFlow = "icmp_no_flow",
    /// An ICMP error about a packet in a packet: noted, and its client told where there is one (RFC 2003 section 4).
    TunnelError = "tunnel_error",
    /// An IP protocol that is not forwarded.
    OtherProtocol = "other_protocol",
    /// An Ethernet type that is not handled.
    OtherEthertype = "other_ethertype",
    /// Memory for frames ran out while an answer was to be made, or a frame has no room for a header in front.
    NoMemory = "no_memory",
}

/// Events of a worker that are no packet's fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tally {
    /// Frames received.
    RxPackets,
    /// Bytes received.
    RxBytes,
    /// Frames handed to transmit queues.
    TxPackets,
    /// Bytes handed to transmit queues.
    TxBytes,
    /// Flows made.
    FlowsOpened,
    /// TCP flows made of connections whose beginning was not seen; among those made.
    FlowsAdopted,
    /// Flows that ended or aged out.
    FlowsClosed,
    /// UDP flows that were ended because their backend serves no more.
    UdpFlowsCleaned,
    /// TCP segments that were passed on without any effect on their flow: outside its window, a SYN though it is open, a reset again.
    TcpIgnored,
    /// Session affinities that gave way to others, for lack of room.
    AffinitiesEvicted,
    /// Clients whose flows are no longer counted for their quota, for lack of room.
    ClientsForgotten,
    /// SNAT ports that rest for less than they should, for lack of room.
    SnatRestsCut,
    /// SNAT ports that got a flow although they rested, since no other was found.
    SnatRestsBroken,
    /// Flows that are live now.
    FlowsLive,
    /// ARP requests sent.
    ArpRequests,
    /// ARP announcements sent.
    ArpAnnouncements,
    /// Neighbour solicitations sent.
    NeighbourSolicitations,
    /// Unsolicited neighbour advertisements sent.
    NeighbourAnnouncements,
    /// Reports of groups of IPv6 sent.
    ListenerReports,
    /// ICMP errors sent.
    IcmpSent,
    /// ICMP errors of others that were translated to be passed on.
    IcmpTranslated,
    /// TCP segments whose announced segment size was lowered.
    MssClamped,
    /// TCP resets and SCTP aborts sent.
    ResetsSent,
    /// Frames that are held now for a next hop.
    HeldFrames,
    /// Fragments that packets were cut into, beyond one for each: they have fates of their own.
    FragmentsMade,
    /// Fragments that are held now for the first one of their datagram.
    FragmentsHeld,
    /// Frames of the host's kernel that were sent.
    FromKernel,
    /// Frames of the host's kernel that must not leave: from a VIP or a SNAT address, or longer than the MTU.
    FromKernelRefused,
    /// Frames of the host's kernel that found the transmit queue full.
    FromKernelLost,
    /// Turns that found packets.
    BusyTurns,
    /// Turns that found none.
    IdleTurns,
}

impl Tally {
    /// Every tally, in the order of the counters.
    pub const ALL: &[Self] = &[
        Self::RxPackets,
        Self::RxBytes,
        Self::TxPackets,
        Self::TxBytes,
        Self::FlowsOpened,
        Self::FlowsAdopted,
        Self::FlowsClosed,
        Self::UdpFlowsCleaned,
        Self::TcpIgnored,
        Self::AffinitiesEvicted,
        Self::ClientsForgotten,
        Self::SnatRestsCut,
        Self::SnatRestsBroken,
        Self::FlowsLive,
        Self::ArpRequests,
        Self::ArpAnnouncements,
        Self::NeighbourSolicitations,
        Self::NeighbourAnnouncements,
        Self::ListenerReports,
        Self::IcmpSent,
        Self::IcmpTranslated,
        Self::MssClamped,
        Self::ResetsSent,
        Self::HeldFrames,
        Self::FragmentsMade,
        Self::FragmentsHeld,
        Self::FromKernel,
        Self::FromKernelRefused,
        Self::FromKernelLost,
        Self::BusyTurns,
        Self::IdleTurns,
    ];

    /// Its name in counter pages, metrics and listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RxPackets => "rx_packets",
            Self::RxBytes => "rx_bytes",
            Self::TxPackets => "tx_packets",
            Self::TxBytes => "tx_bytes",
            Self::FlowsOpened => "flows_opened",
            Self::FlowsAdopted => "flows_adopted",
            Self::FlowsClosed => "flows_closed",
            Self::UdpFlowsCleaned => "udp_flows_cleaned",
            Self::TcpIgnored => "tcp_ignored",
            Self::AffinitiesEvicted => "affinities_evicted",
            Self::ClientsForgotten => "clients_forgotten",
            Self::SnatRestsCut => "snat_rests_cut",
            Self::SnatRestsBroken => "snat_rests_broken",
            Self::FlowsLive => "flows_live",
            Self::ArpRequests => "arp_requests",
            Self::ArpAnnouncements => "arp_announcements",
            Self::NeighbourSolicitations => "neighbour_solicitations",
            Self::NeighbourAnnouncements => "neighbour_announcements",
            Self::ListenerReports => "listener_reports",
            Self::IcmpSent => "icmp_sent",
            Self::IcmpTranslated => "icmp_translated",
            Self::MssClamped => "mss_clamped",
            Self::ResetsSent => "resets_sent",
            Self::HeldFrames => "held_frames",
            Self::FragmentsMade => "fragments_made",
            Self::FragmentsHeld => "fragments_held",
            Self::FromKernel => "from_kernel",
            Self::FromKernelRefused => "from_kernel_refused",
            Self::FromKernelLost => "from_kernel_lost",
            Self::BusyTurns => "busy_turns",
            Self::IdleTurns => "idle_turns",
        }
    }
}

const VERDICTS: usize = Verdict::ALL.len();
const COUNTERS: usize = VERDICTS + Tally::ALL.len();

/// Counters of one worker: verdicts first, then tallies. Written by the worker alone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct Counters([u64; COUNTERS]);

// What stands beside them in a worker is on other lines.
const _: () = assert!(align_of::<Counters>() == 64 && size_of::<Counters>().is_multiple_of(64));

impl Default for Counters {
    fn default() -> Self {
        Self([0; COUNTERS])
    }
}

impl Counters {
    /// How many there are.
    pub const COUNT: usize = COUNTERS;

    /// Their names, in order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Verdict::ALL.iter().map(|v| v.name()).chain(Tally::ALL.iter().map(|t| t.name()))
    }

    /// Their values, in the order of [`Counters::names`].
    #[must_use]
    pub const fn values(&self) -> &[u64; COUNTERS] {
        &self.0
    }

    /// Counts one packet.
    #[inline(always)]
    pub const fn count(&mut self, verdict: Verdict) {
        self.0[verdict as usize] += 1;
    }

    /// Counts `n` packets.
    #[inline(always)]
    pub const fn count_many(&mut self, verdict: Verdict, n: u64) {
        self.0[verdict as usize] += n;
    }

    /// Adds to a tally.
    #[inline(always)]
    pub const fn add(&mut self, tally: Tally, n: u64) {
        self.0[VERDICTS + tally as usize] += n;
    }

    /// Sets a tally that goes up and down.
    #[inline(always)]
    pub const fn set(&mut self, tally: Tally, n: u64) {
        self.0[VERDICTS + tally as usize] = n;
    }

    /// Packets with this verdict.
    #[must_use]
    pub const fn verdict(&self, verdict: Verdict) -> u64 {
        self.0[verdict as usize]
    }

    /// Value of a tally.
    #[must_use]
    pub const fn tally(&self, tally: Tally) -> u64 {
        self.0[VERDICTS + tally as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use turnpike_wire::verdicts::VERDICTS;

    #[test]
    fn every_verdict_has_words_and_no_other() {
        let names: BTreeSet<_> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
        let told: BTreeSet<_> = VERDICTS.iter().map(|text| text.name).collect();
        assert_eq!(names, told, "turnpike_wire::verdicts");
        assert_eq!(names.len(), VERDICTS.len());
    }

    #[test]
    fn names_are_distinct_and_in_order() {
        let names: Vec<_> = Counters::names().collect();
        assert_eq!(names.len(), Counters::COUNT);
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
        for (i, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, i);
        }
        for (i, tally) in Tally::ALL.iter().enumerate() {
            assert_eq!(*tally as usize, i);
        }
    }
}
