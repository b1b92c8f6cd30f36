//! ICMP errors for IPv4 made by others (RFC 792, RFC 1812 section 4.3.2): what they are about, and the same error about the same packet
//! with other addresses and ports, as a NAT must have it (RFC 5508 sections 4.2 and 5).
//!
//! An error quotes the beginning of the packet it is about: its IP header and at least eight bytes behind it, which hold the ports.

use crate::{checksum, icmpv4, ipv4};

/// Longest ICMP message that is looked at, in bytes: errors quote one packet of an ordinary link at most, and every byte is summed twice.
pub const MESSAGE_MAX: usize = 1_500;
/// Least MTU a link can have (RFC 791 section 3.2); 0 is said by routers older than RFC 1191.
const MTU_MIN: u16 = 68;
/// Bytes in front of the quoted packet.
const HEADER: usize = 8;
/// Least bytes behind the header of the quoted packet.
const QUOTED_L4: usize = 8;

/// Addresses and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
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

/// Why an ICMP message is not one that can be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is no error that is passed on, or one about something else than the first fragment of TCP, UDP or SCTP.
    Other,
    /// It contradicts itself: a checksum, a length, or an MTU that no link has.
    Bad,
}

/// Whether an ICMP type is an error that is passed on (RFC 5508 section 4.2). Source quench is obsolete (RFC 6633), redirects are for one link.
#[must_use]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, icmpv4::UNREACHABLE | icmpv4::TIME_EXCEEDED | icmpv4::PARAMETER_PROBLEM)
}

impl Quoted {
    /// Reads an ICMP message, from its type to the end of its IP packet. Its checksum and that of the quoted IP header are checked, that of
    /// the quoted transport header cannot be (RFC 5508 REQ-3).
    pub fn read(message: &[u8]) -> Result<Self, Unusable> {
        let (Some(&[kind, code, _, _, _, _, mtu_high, mtu_low]), Some(packet)) =
            (message.first_chunk::<HEADER>(), message.get(HEADER..))
        else {
            return Err(Unusable::Bad);
        };
        if !is_error(kind) {
            return Err(Unusable::Other);
        }
        let Some(fixed) = packet.first_chunk::<{ ipv4::HEADER }>() else { return Err(Unusable::Bad) };
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let total_len = usize::from(word(fixed, 2));
        if message.len() > MESSAGE_MAX || fixed[0] >> 4 != 4 || header_len < ipv4::HEADER {
            return Err(Unusable::Bad);
        }
        let (Some(header), Some(l4)) =
            (packet.get(..header_len), packet.get(header_len..).and_then(<[u8]>::first_chunk::<QUOTED_L4>))
        else {
            return Err(Unusable::Bad);
        };
        let mtu = u16::from_be_bytes([mtu_high, mtu_low]);
        let is_about_mtu = kind == icmpv4::UNREACHABLE && code == icmpv4::FRAGMENTATION_NEEDED;
        if total_len < header_len + QUOTED_L4
            || is_about_mtu && mtu != 0 && mtu < MTU_MIN
            || checksum::ones_complement_sum(header) != 0xffff
            || checksum::ones_complement_sum(message) != 0xffff
        {
            return Err(Unusable::Bad);
        }
        let is_later_fragment = (fixed[6] & 0x1f) | fixed[7] != 0;
        if is_later_fragment || !matches!(fixed[9], ipv4::TCP | ipv4::UDP | ipv4::SCTP) {
            return Err(Unusable::Other);
        }
        let address = |at: usize| u32::from(word(fixed, at)) << 16 | u32::from(word(fixed, at + 2));
        let ends = Ends {
            source: address(12),
            destination: address(16),
            source_port: word(l4, 0),
            destination_port: word(l4, 2),
        };
        Ok(Self { protocol: fixed[9], ends, l4: HEADER + header_len })
    }

    /// Where the quoted transport header starts in the ICMP message.
    #[must_use]
    pub const fn l4(&self) -> usize {
        self.l4
    }

    /// Lowers the MTU that `message` complains about by this many bytes; [`Self::translate`] makes its checksum right. What it says about
    /// anything else stays, as does the 0 of routers older than RFC 1191.
    pub fn lower_mtu(message: &mut [u8], by: u16) {
        if let Some([icmpv4::UNREACHABLE, icmpv4::FRAGMENTATION_NEEDED, _, _, _, _, mtu @ ..]) =
            message.first_chunk_mut::<HEADER>()
            && *mtu != [0; 2]
        {
            *mtu = u16::from_be_bytes(*mtu).saturating_sub(by).max(MTU_MIN).to_be_bytes();
        }
    }

    /// Gives the quoted packet in `message`, from which this was read, other ends. Checksums: those of the ICMP message and the quoted IP
    /// header, and that of the quoted TCP or UDP header if it is there; SCTP's is over all of the packet and stays (a receiver knows the
    /// association by ports and tag, RFC 9260 section 10).
    pub fn translate(&self, message: &mut [u8], to: Ends) {
        let Some((head, l4)) = message.split_at_mut_checked(self.l4) else { return };
        let Some(ip) = head.get_mut(HEADER..).and_then(<[u8]>::first_chunk_mut::<{ ipv4::HEADER }>) else {
            return;
        };
        let mut addresses = Change::default();
        addresses.put(ip, 12, (to.source >> 16) as u16);
        addresses.put(ip, 14, to.source as u16);
        addresses.put(ip, 16, (to.destination >> 16) as u16);
        addresses.put(ip, 18, to.destination as u16);
        let sum = addresses.applied(word(ip, 10));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut ends = addresses;
        if l4.len() >= QUOTED_L4 {
            ends.put(l4, 0, to.source_port);
            ends.put(l4, 2, to.destination_port);
            let at = match self.protocol {
                ipv4::TCP => Some(16),
                ipv4::UDP => Some(6).filter(|&at| word(l4, at) != 0),
                _ => None,
            };
            if let Some(at) = at.filter(|&at| l4.len() >= at + 2) {
                let sum = match (ends.applied(word(l4, at)), self.protocol) {
                    (0, ipv4::UDP) => 0xffff,
                    (sum, _) => sum,
                };
                l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
        }
        message[2..4].fill(0);
        let sum = checksum::checksum(message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Words that were changed, as what they add to a checksum (RFC 1624 equation 3).
#[derive(Clone, Copy, Default)]
struct Change(u32);

impl Change {
    fn put(&mut self, bytes: &mut [u8], at: usize, new: u16) {
        self.0 += u32::from(!word(bytes, at)) + u32::from(new);
        bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
    }

    const fn applied(self, checksum: u16) -> u16 {
        let sum = self.0 + !checksum as u32;
        let sum = (sum >> 16) + (sum & 0xffff);
        !((sum >> 16) + (sum & 0xffff)) as u16
    }
}

const fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests;
