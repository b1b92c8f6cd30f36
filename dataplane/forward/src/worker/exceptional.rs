//! What a worker gives to the host's kernel instead of a verdict of its own, and what it sends for it.

use super::Worker;
use crate::address::{Address, Family};
use crate::exception::{Class, Exception, Plan, Refusal};
use crate::gateway::is_link_local;
use crate::mailbox::Shared;
use crate::select::is_bad_source;
use crate::service_table::Tables;
use crate::verdict::{Tally, Verdict};
use turnpike_packet::arp::{Arp, Operation};
use turnpike_packet::icmpv4::UNREACHABLE;
use turnpike_packet::io::{BURST, Frame, PacketIo};
use turnpike_packet::{ethernet, ipv4, ipv6, vlan};

/// The other ICMP messages that quote a packet (RFC 1122 section 3.2.2).
const SOURCE_QUENCH: u8 = 4;
const REDIRECT: u8 = 5;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// What a frame's verdict is if the kernel does not get it, and how its sender is bounded if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passenger {
    class: Class,
    /// Who sent it: an address, of IPv4, of IPv6 or of Ethernet.
    sender: u128,
}

impl<F: Frame> Worker<'_, F> {
    /// Gives the worker its ends of the way to the kernel. On addresses that SNAT uses too, its flows then leave the kernel's ports alone.
    #[must_use]
    pub fn with_exception(mut self, exception: Exception<F>) -> Self {
        let gateway = &self.shared.gateway;
        let snat =
            [Family::V4, Family::V6].into_iter().flat_map(|family| gateway.snat(family).iter().copied());
        let both = snat.filter(|&address| exception.plan().has(address));
        self.pool.leave_to_kernel(both.collect(), exception.plan().ports());
        self.exception = Some(exception);
        self
    }

    /// A frame that Turnpike does nothing with, for the reason that `verdict` says: the kernel's, if it is for the kernel.
    pub(super) fn except(&mut self, port: usize, frame: F, verdict: Verdict) {
        let Some(exception) = &mut self.exception else { return self.counters.count(verdict) };
        let passenger =
            match passenger(frame.data(), port, verdict, exception.plan(), &self.tables, &self.shared) {
                Ok(passenger) => passenger,
                Err(verdict) => return self.counters.count(verdict),
            };
        let Passenger { class, sender } = passenger;
        let verdict = match exception.pass(port as u8, frame, class, sender, self.now_ms) {
            Ok(()) => Verdict::ToKernel,
            Err((_, Refusal::Limited)) => Verdict::KernelLimited,
            Err((_, Refusal::Full)) => Verdict::KernelFull,
        };
        self.counters.count(verdict);
    }

    /// The verdict that [`Worker::except`] would give, limits and full rings left aside.
    pub(super) fn foresee_exception(&self, port: usize, frame: &[u8], verdict: Verdict) -> Verdict {
        let Some(exception) = &self.exception else { return verdict };
        match passenger(frame, port, verdict, exception.plan(), &self.tables, &self.shared) {
            Ok(_) => Verdict::ToKernel,
            Err(verdict) => verdict,
        }
    }

    /// Whether echo requests to an address are the kernel's to answer.
    pub(super) fn is_kernels(&self, port: usize, address: Address) -> bool {
        let plan = self.exception.as_ref().map(Exception::plan);
        plan.is_some_and(|plan| plan.tap(port).is_some() && plan.has(address))
    }

    /// An ARP packet that the gateway has looked at and not answered: its kernel learns from answers and announcements too. Requests for
    /// addresses of the gateway never come here, so that the kernel does not answer them a second time.
    pub(super) fn share_arp(&mut self, port: usize, frame: F, verdict: Verdict) {
        let tells = Arp::parse(frame.data())
            .is_some_and(|arp| arp.operation == Operation::Reply || arp.sender == arp.target);
        self.share(port, frame, tells, verdict);
    }

    /// A message of neighbour discovery likewise. Solicitations for addresses that only the kernel has are its to answer.
    pub(super) fn share_neighbour_discovery(&mut self, port: usize, frame: F, verdict: Verdict) {
        self.share(port, frame, true, verdict);
    }

    fn share(&mut self, port: usize, frame: F, tells: bool, verdict: Verdict) {
        let now_ms = self.now_ms;
        let passed = match &mut self.exception {
            Some(exception) if tells && exception.plan().tap(port).is_some() => {
                exception.pass(port as u8, frame, Class::Link, 0, now_ms).is_ok()
            }
            _ => false,
        };
        self.counters.count(if passed { Verdict::ToKernel } else { verdict });
    }

    /// Sends up to a burst of the kernel's frames, as they are.
    pub(super) fn take_from_kernel<I: PacketIo<Frame = F>>(&mut self, ios: &mut [I]) -> usize {
        let mut taken = 0;
        while taken < BURST
            && let Some(exception) = &mut self.exception
            && let Some(handed) = exception.receive()
        {
            taken += 1;
            let port = usize::from(handed.port);
            let tally = if !may_leave(&handed.frame, port, exception.plan(), &self.tables, &self.shared) {
                Tally::FromKernelRefused
            } else if self.queue(port, handed.frame, ios) {
                Tally::FromKernel
            } else {
                Tally::FromKernelLost
            };
            self.counters.add(tally, 1);
        }
        taken
    }
}

/// Whether and as what a frame that came in on `port` goes to the kernel; else its verdict.
fn passenger(
    frame: &[u8],
    port: usize,
    verdict: Verdict,
    plan: &Plan,
    tables: &Tables,
    shared: &Shared,
) -> Result<Passenger, Verdict> {
    if plan.tap(port).is_none() {
        return Err(verdict);
    }
    match verdict {
        Verdict::OtherMac => to_group(frame, shared.gateway.ports()[port].mac).ok_or(verdict),
        Verdict::OtherEthertype => other_ethertype(frame).ok_or(verdict),
        // The kernel may have VLANs of its own behind the tap of a device that has none here.
        Verdict::OtherVlan if frame.first_chunk() == Some(&shared.gateway.ports()[port].mac) => {
            other_ethertype(frame).ok_or(verdict)
        }
        Verdict::OtherVlan => to_group(frame, shared.gateway.ports()[port].mac).ok_or(verdict),
        Verdict::OwnAddress
        | Verdict::SnatNoFlow
        | Verdict::Fragment
        | Verdict::Icmp
        | Verdict::IcmpNoFlow
        | Verdict::OtherProtocol => to_own_address(frame, port, verdict, plan, tables, shared),
        _ => Err(verdict),
    }
}

/// A frame to everybody or to a group, if it is not one of our own that came back.
fn to_group(frame: &[u8], mac: [u8; 6]) -> Option<Passenger> {
    let to_group = frame.first()? & 1 != 0;
    let source = frame.get(6..12)?;
    (to_group && source != mac && source[0] & 1 == 0).then_some(Passenger { class: Class::Link, sender: 0 })
}

/// A frame to our Ethernet address that is neither ARP nor of an IP that the gateway speaks.
fn other_ethertype(frame: &[u8]) -> Option<Passenger> {
    let header = frame.first_chunk::<{ ethernet::HEADER }>()?;
    if header[12..] != ethernet::IPV6.to_be_bytes() {
        return Some(Passenger { class: Class::Link, sender: 0 });
    }
    let sender = u128::from_be_bytes(*frame.get(22..)?.first_chunk()?);
    // fe80::/10 is on the link (RFC 4291 section 2.5.6).
    let class = if sender >> 118 == 0xfe80 >> 6 { Class::Neighbour } else { Class::Far };
    Some(Passenger { class, sender })
}

/// A packet over IP to our Ethernet address whose header was checked.
fn to_own_address(
    frame: &[u8],
    port: usize,
    verdict: Verdict,
    plan: &Plan,
    tables: &Tables,
    shared: &Shared,
) -> Result<Passenger, Verdict> {
    let Some([source, destination]) = Address::ends_of(frame) else { return Err(verdict) };
    if !plan.has(destination) {
        return Err(verdict);
    }
    if is_bad_source(source, tables, shared) {
        return Err(Verdict::BadSource);
    }
    let has_flows = shared.gateway.is_snat(destination);
    let may_be_of_flow = match verdict {
        // Which port it is for only the first one of them says.
        Verdict::Fragment => has_flows || tables.address(destination).is_some(),
        Verdict::Icmp | Verdict::IcmpNoFlow => has_flows && !is_about_kernel(frame, plan),
        _ => false,
    };
    if may_be_of_flow {
        return Err(verdict);
    }
    let hop = shared.gateway.route(source);
    let is_near = is_link_local(source)
        || hop.is_some_and(|hop| hop.address == source && usize::from(hop.port) == port);
    let class = if is_near { Class::Neighbour } else { Class::Far };
    Ok(Passenger { class, sender: source.bits() })
}

/// Whether an ICMP message to an address that SNAT uses too cannot be about a flow: it is no error, or it quotes a packet from one of the
/// kernel's ports, or of a protocol without ports.
fn is_about_kernel(frame: &[u8], plan: &Plan) -> bool {
    if frame.get(12..14) == Some(&ethernet::IPV6.to_be_bytes()) {
        return is_about_kernel6(frame, plan);
    }
    let Some(ip) = frame.get(ethernet::HEADER..) else { return false };
    let header_len = |ip: &[u8]| ip.first().map(|first| usize::from(first & 0x0f) * 4);
    let Some(message) = header_len(ip).and_then(|len| ip.get(len..)) else { return false };
    let Some(&kind) = message.first() else { return false };
    if !matches!(kind, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM) {
        return true;
    }
    let Some(quoted) = message.get(8..).filter(|quoted| quoted.len() >= 20) else { return false };
    let has_ports = matches!(quoted[9], ipv4::TCP | ipv4::UDP | ipv4::SCTP);
    let is_first = (quoted[6] & 0x1f) | quoted[7] == 0;
    let port = header_len(quoted).and_then(|len| quoted.get(len..)?.first_chunk()).copied();
    !has_ports || is_first && port.is_some_and(|port| plan.is_local_port(u16::from_be_bytes(port)))
}

/// The same for IPv6.
fn is_about_kernel6(frame: &[u8], plan: &Plan) -> bool {
    let walked = |packet: &[u8]| {
        let fixed = packet.first_chunk::<{ ipv6::HEADER }>()?;
        let payload_len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        let walk = ipv6::walk(fixed[6], &packet[ipv6::HEADER..], payload_len).ok()?;
        Some((walk, ipv6::HEADER + walk.offset))
    };
    let Some(packet) = frame.get(ethernet::HEADER..) else { return false };
    let Some(message) = walked(packet).and_then(|(_, at)| packet.get(at..)) else { return false };
    let Some(&kind) = message.first() else { return false };
    // RFC 4443 section 2.1: errors are those whose highest bit is 0.
    if kind & 0x80 != 0 {
        return true;
    }
    let Some(quoted) = message.get(8..) else { return false };
    let Some((walk, at)) = walked(quoted) else { return false };
    let has_ports = matches!(walk.protocol, ipv4::TCP | ipv4::UDP | ipv4::SCTP);
    let is_first = walk.fragment.is_none_or(|fragment| fragment.offset == 0);
    let port = quoted.get(at..).and_then(|l4| l4.first_chunk()).copied();
    !has_ports || is_first && port.is_some_and(|port| plan.is_local_port(u16::from_be_bytes(port)))
}

/// Whether a frame of the kernel may leave: not longer than the link takes, and not from an address that Turnpike alone speaks for.
fn may_leave<F: Frame>(frame: &F, port: usize, plan: &Plan, tables: &Tables, shared: &Shared) -> bool {
    let data = frame.data();
    let (Some(tap), Some(header)) = (plan.tap(port), data.first_chunk::<{ ethernet::HEADER }>()) else {
        return false;
    };
    let ethertype = u16::from_be_bytes([header[12], header[13]]);
    let is_tagged = vlan::is_tag(ethertype);
    let tag = if is_tagged { vlan::TAG_BYTES } else { 0 };
    // Which VLANs a device carries, and whose they are, is said by its ports alone.
    if frame.frame_len() > tap.frame_bytes_max + tag || is_tagged && shared.gateway.is_trunked(port) {
        return false;
    }
    let source = match ethertype {
        ethernet::IPV4 | ethernet::IPV6 => Address::ends_of(data).map(|[source, _]| source),
        ethernet::ARP => {
            let sender = data.get(ethernet::HEADER + 14..).and_then(|d| d.first_chunk()).copied();
            sender.map(|sender| Address::v4(u32::from_be_bytes(sender)))
        }
        _ => return true,
    };
    let Some(source) = source else { return false };
    plan.has(source) || !shared.gateway.is_snat(source) && tables.address(source).is_none()
}
