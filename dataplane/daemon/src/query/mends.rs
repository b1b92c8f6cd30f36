//! What to do about a packet that ends here.

use turnpike_forward::verdict::Verdict;

/// What to do where a packet got this verdict and should have been forwarded; none where nothing is wrong.
pub(super) const fn mend(verdict: Verdict) -> Option<&'static str> {
    Some(match verdict {
        Verdict::Rejected | Verdict::RejectLimited => {
            "the Service has no backend that takes new flows here, or the ClusterIP no such port: turnpike describe service NAME shows endpoints and ports"
        }
        Verdict::TcpNoFlow | Verdict::TcpNoFlowDrop | Verdict::SctpNoFlow => {
            "the connection is not known: it ended, idled out, or began before this dataplane; the client has to open it again"
        }
        Verdict::FrontendDrop => {
            "the traffic policy of the Service is Local and no endpoint is on this node: add one, or set the policy to Cluster"
        }
        Verdict::SourceRange => "add the client's network to spec.loadBalancerSourceRanges of the Service",
        Verdict::UnallocatedClusterIp => {
            "no Service has this ClusterIP: turnpike get services lists those that are there"
        }
        Verdict::NoFrontend => {
            "the address is answered, this port and protocol are not: turnpike get frontends lists what is"
        }
        Verdict::SnatNoFlow => {
            "no live flow has this SNAT port towards this peer: turnpike flows lists those that are live"
        }
        Verdict::OwnAddress => {
            "packets for the gateway itself go to its kernel through a tap: set exception on this port in the configuration"
        }
        Verdict::NotOurs => {
            "no Service has this address and the gateway routes nothing else: check the address, or the route that sends it here"
        }
        Verdict::BadSource => "the source is an address of the gateway, of a Service, or of no host",
        Verdict::FlowTableFull => {
            "raise dataplane.flows_per_worker, or see with turnpike flows --count who has so many"
        }
        Verdict::ClientQuota => {
            "raise dataplane.client_flows_max, or see with turnpike flows --client what the client has"
        }
        Verdict::SnatExhausted => {
            "add addresses to dataplane.snat.addresses, or take ranges off dataplane.snat.excluded_ports"
        }
        Verdict::NoRoute => "add a route or a gateway to a port of the configuration",
        Verdict::NextHopsFull | Verdict::NextHopUnresolved => {
            "the next hop does not answer ARP or neighbour discovery: check the route and the link"
        }
        Verdict::OtherEthertype | Verdict::OtherMac => {
            "the gateway speaks this IP family only where a port has an address of it: add one to dataplane.ports"
        }
        Verdict::BadIpv6 => {
            "an IPv4-mapped address is no address of an IPv6 packet: ask with the IPv4 address"
        }
        _ => return None,
    })
}
