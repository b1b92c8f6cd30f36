//! ARP for IPv4 over Ethernet (RFC 826).

use crate::ethernet;

/// Length of a frame without padding, in bytes.
pub const FRAME: usize = ethernet::HEADER + 28;

/// Ethernet, IPv4, address lengths 6 and 4.
const FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What an ARP packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Who has the target address?
    Request = 1,
    /// The sender has the sender address.
    Reply = 2,
}

/// An ARP packet. Addresses are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// What it is for.
    pub operation: Operation,
    /// Ethernet address of the sender.
    pub sender_mac: [u8; 6],
    /// IPv4 address of the sender.
    pub sender: u32,
    /// Ethernet address of the target; not used in a request.
    pub target_mac: [u8; 6],
    /// IPv4 address of the target.
    pub target: u32,
}

impl Arp {
    /// Reads a frame whose EtherType is ARP. None when it is short, of other kinds of addresses, or of another operation.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(ethernet::HEADER..)?.first_chunk::<28>()?;
        let operation = match (packet[..6] == FIXED, u16::from_be_bytes([packet[6], packet[7]])) {
            (true, 1) => Operation::Request,
            (true, 2) => Operation::Reply,
            _ => return None,
        };
        let mac = |at: usize| {
            [packet[at], packet[at + 1], packet[at + 2], packet[at + 3], packet[at + 4], packet[at + 5]]
        };
        let address =
            |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        Some(Self {
            operation,
            sender_mac: mac(8),
            sender: address(14),
            target_mac: mac(18),
            target: address(24),
        })
    }

    /// The frame that carries it to `destination`.
    #[must_use]
    pub fn frame(&self, destination: [u8; 6]) -> [u8; FRAME] {
        let mut frame = [0; FRAME];
        frame[..14].copy_from_slice(&ethernet::header(destination, self.sender_mac, ethernet::ARP));
        frame[14..20].copy_from_slice(&FIXED);
        frame[20..22].copy_from_slice(&(self.operation as u16).to_be_bytes());
        frame[22..28].copy_from_slice(&self.sender_mac);
        frame[28..32].copy_from_slice(&self.sender.to_be_bytes());
        frame[32..38].copy_from_slice(&self.target_mac);
        frame[38..42].copy_from_slice(&self.target.to_be_bytes());
        frame
    }
}

/// The request, to everybody on the link, for the Ethernet address of `target`.
#[must_use]
pub fn request(mac: [u8; 6], source: u32, target: u32) -> [u8; FRAME] {
    let operation = Operation::Request;
    Arp { operation, sender_mac: mac, sender: source, target_mac: [0; 6], target }.frame(ethernet::BROADCAST)
}

/// The announcement, to everybody on the link, that `address` is at `mac` (RFC 5227 section 2.3).
#[must_use]
pub fn announcement(mac: [u8; 6], address: u32) -> [u8; FRAME] {
    request(mac, address, address)
}

/// The answer to a request: its target is at `mac`.
#[must_use]
pub fn reply(request: &Arp, mac: [u8; 6]) -> [u8; FRAME] {
    Arp {
        operation: Operation::Reply,
        sender_mac: mac,
        sender: request.target,
        target_mac: request.sender_mac,
        target: request.sender,
    }
    .frame(request.sender_mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_and_its_answer() {
        let question = request([2, 0, 0, 0, 0, 9], 0xc000_02fe, 0xc000_0201);
        let golden = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0,
            0, 9, 192, 0, 2, 254, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1,
        ];
        assert_eq!(question, golden);
        let parsed = Arp::parse(&question).unwrap();
        let answer = Arp::parse(&reply(&parsed, [2, 0, 0, 0, 0, 1])).unwrap();
        assert_eq!(
            (answer.operation, answer.sender, answer.target),
            (Operation::Reply, parsed.target, parsed.sender)
        );
        assert_eq!((answer.sender_mac, answer.target_mac), ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]));
    }

    #[test]
    fn an_announcement_asks_for_its_own_sender() {
        let parsed = Arp::parse(&announcement([2, 0, 0, 0, 0, 1], 0xcb00_7150)).unwrap();
        assert_eq!(
            (parsed.operation, parsed.sender, parsed.target),
            (Operation::Request, 0xcb00_7150, 0xcb00_7150)
        );
        assert_eq!((parsed.sender_mac, parsed.target_mac), ([2, 0, 0, 0, 0, 1], [0; 6]));
    }

    #[test]
    fn what_is_not_arp_for_ipv4_over_ethernet_is_refused() {
        let good = request([2, 0, 0, 0, 0, 9], 1, 2);
        for len in 0..FRAME {
            assert_eq!(Arp::parse(&good[..len]), None);
        }
        for at in 14..22 {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert_eq!(Arp::parse(&bad), None, "byte {at}");
        }
    }
}
