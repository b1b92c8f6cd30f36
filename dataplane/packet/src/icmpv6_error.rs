//! ICMP errors for IPv6 made by others (RFC 4443 section 3): what they are about, and the same error about the same packet with other
//! addresses and ports. The twin of [`crate::icmpv4_error`].

pub use crate::icmpv4_error::{MESSAGE_MAX, Unusable};
use crate::{checksum, icmpv6, ipv4, ipv6};

/// Bytes in front of the quoted packet.
const HEADER: usize = 8;
/// Least bytes behind the headers of the quoted packet.
const QUOTED_L4: usize = 8;

/// Addresses and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Source address.
    pub source: u128,
    /// Destination address.
    pub destination: u128,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

/// What an error is about, as far as it quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// From and to whom it went.
    pub ends: Ends,
    /// Where its transport header starts in the ICMP message.
    l4: usize,
}

/// Whether an ICMP type is an error that is passed on.
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, icmpv6::UNREACHABLE | icmpv6::TOO_BIG | icmpv6::TIME_EXCEEDED | icmpv6::PARAMETER_PROBLEM)
}

impl Quoted {
    /// Reads an ICMP message between two addresses, from its type to the end of its IP packet. Its checksum is checked; that of the quoted
    /// transport header cannot be.
    pub fn read(message: &[u8], source: u128, destination: u128) -> Result<Self, Unusable> {
        let (Some(&[kind, _, _, _, mtu @ ..]), Some(packet)) =
            (message.first_chunk::<HEADER>(), message.get(HEADER..))
        else {
            return Err(Unusable::Bad);
        };
        if !is_error(kind) {
            return Err(Unusable::Other);
        }
        let Some(fixed) = packet.first_chunk::<{ ipv6::HEADER }>() else { return Err(Unusable::Bad) };
        let payload_len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        // RFC 8201 section 4: a node must not take a path for narrower than the least MTU.
        let is_too_narrow = kind == icmpv6::TOO_BIG && u32::from_be_bytes(mtu) < u32::from(ipv6::MTU_MIN);
        if message.len() > MESSAGE_MAX
            || fixed[0] >> 4 != 6
            || is_too_narrow
            || checksum::transport_sum6(source, destination, ipv6::ICMP, message) != 0xffff
        {
            return Err(Unusable::Bad);
        }
        let Ok(walk) = ipv6::walk(fixed[6], &packet[ipv6::HEADER..], payload_len) else {
            return Err(Unusable::Bad);
        };
        let is_later_fragment = walk.fragment.is_some_and(|fragment| fragment.offset > 0);
        if is_later_fragment || !matches!(walk.protocol, ipv4::TCP | ipv4::UDP | ipv4::SCTP) {
            return Err(Unusable::Other);
        }
        let at = ipv6::HEADER + walk.offset;
        let Some(l4) = packet.get(at..).and_then(<[u8]>::first_chunk::<QUOTED_L4>) else {
            return Err(Unusable::Bad);
        };
        if payload_len < walk.offset + QUOTED_L4 {
            return Err(Unusable::Bad);
        }
        let address = |at: usize| fixed[at..at + 16].iter().fold(0, |n, &byte| n << 8 | u128::from(byte));
        let ends = Ends {
            source: address(8),
            destination: address(24),
            source_port: u16::from_be_bytes([l4[0], l4[1]]),
            destination_port: u16::from_be_bytes([l4[2], l4[3]]),
        };
        Ok(Self { protocol: walk.protocol, ends, l4: HEADER + at })
    }

    /// Where the quoted transport header starts in the ICMP message.
    #[must_use]
    pub const fn l4(&self) -> usize {
        self.l4
    }

    /// Lowers the MTU that `message` complains about by this many bytes, to 1280 at the least; [`Self::translate`] makes its checksum right.
    /// What it says about anything else stays.
    pub fn lower_mtu(message: &mut [u8], by: u16) {
        if let Some([icmpv6::TOO_BIG, _, _, _, mtu @ ..]) = message.first_chunk_mut::<HEADER>() {
            *mtu = u32::from_be_bytes(*mtu).saturating_sub(by.into()).max(ipv6::MTU_MIN.into()).to_be_bytes();
        }
    }

    /// Gives the quoted packet in `message`, from which this was read, other ends, and the message the checksum that belongs to its own new
    /// addresses. The checksum of the quoted TCP or UDP header follows if it is there; SCTP's covers no addresses that changed.
    pub fn translate(&self, message: &mut [u8], to: Ends, source: u128, destination: u128) {
        let Some((head, l4)) = message.split_at_mut_checked(self.l4) else { return };
        let Some(ip) = head.get_mut(HEADER..).and_then(<[u8]>::first_chunk_mut::<{ ipv6::HEADER }>) else {
            return;
        };
        if let Some(ports) = l4.first_chunk_mut::<4>() {
            let pseudo = |ends: &Ends| {
                let mut bytes = [0; 36];
                bytes[..16].copy_from_slice(&ends.source.to_be_bytes());
                bytes[16..32].copy_from_slice(&ends.destination.to_be_bytes());
                bytes[32..34].copy_from_slice(&ends.source_port.to_be_bytes());
                bytes[34..].copy_from_slice(&ends.destination_port.to_be_bytes());
                checksum::ones_complement_sum(&bytes)
            };
            let (old, new) = (pseudo(&self.ends), pseudo(&to));
            ports[..2].copy_from_slice(&to.source_port.to_be_bytes());
            ports[2..].copy_from_slice(&to.destination_port.to_be_bytes());
            let at = match self.protocol {
                ipv4::TCP => Some(16),
                ipv4::UDP => Some(6),
                _ => None,
            };
            // Some tunnels have none (RFC 6936), and that stays.
            let has_sum = |sum: &[u8; 2]| self.protocol == ipv4::TCP || *sum != [0; 2];
            if let Some(sum) =
                at.and_then(|at| l4.get_mut(at..)?.first_chunk_mut::<2>().filter(|sum| has_sum(sum)))
            {
                let updated = checksum::updated(u16::from_be_bytes(*sum), old, new);
                *sum = if updated == 0 { [0xff; 2] } else { updated.to_be_bytes() };
            }
        }
        ip[8..24].copy_from_slice(&to.source.to_be_bytes());
        ip[24..].copy_from_slice(&to.destination.to_be_bytes());
        message[2..4].fill(0);
        let sum = !checksum::transport_sum6(source, destination, ipv6::ICMP, message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
