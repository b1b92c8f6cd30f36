//! Frames that are written many at a time: templates of what all packets of a kind have in common, and the ends in which they differ.

use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use turnpike_forward::hash::{Random, scale};
use turnpike_packet::checksum::ones_complement_sum;
use turnpike_packet::flight::Flight;
use turnpike_packet::tcp::{self, flags};
use turnpike_packet::{ethernet, udp};

/// Bytes of the shortest Ethernet frame without its check sequence.
const SHORTEST: usize = 60;
/// First sequence number of every sender.
const INITIAL_SEQUENCE: u32 = 999;
/// Least packets before the order repeats: more than a branch predictor learns.
const ORDER_MIN: usize = 1 << 16;

/// Both addresses and both ports of a packet, as they stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends<const N: usize>([u8; N]);

/// Of a packet of IPv4.
pub type Ends4 = Ends<12>;
/// Of a packet of IPv6.
pub type Ends6 = Ends<36>;

impl<const N: usize> Ends<N> {
    /// Bytes of an address.
    const ADDRESS: usize = (N - 4) / 2;
    /// Where they stand in a frame without options and extensions.
    const AT: usize = ethernet::HEADER + if Self::ADDRESS == 4 { 12 } else { 8 };
    /// Where the header of TCP or UDP starts.
    const L4: usize = Self::AT + 2 * Self::ADDRESS;

    /// From one end to the other; none if they are of another family.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Option<Self> {
        let flight = Flight { source_mac: [0; 6], destination_mac: [0; 6], source, destination };
        (source.is_ipv4() == destination.is_ipv4()).then(|| Self::of(&udp::datagram(&flight, &[])))?
    }

    /// Those of a frame; none if it is shorter.
    #[must_use]
    pub fn of(frame: &[u8]) -> Option<Self> {
        let is_of_family = frame.get(ethernet::HEADER)? >> 4 == if Self::ADDRESS == 4 { 4 } else { 6 };
        let ends = frame.get(Self::AT..Self::L4 + 4)?.try_into().ok()?;
        is_of_family.then_some(Self(ends))
    }

    /// Those of an answer.
    #[must_use]
    pub fn back(self) -> Self {
        let mut back = [0; N];
        let (a, l4) = (Self::ADDRESS, 2 * Self::ADDRESS);
        back[..a].copy_from_slice(&self.0[a..l4]);
        back[a..l4].copy_from_slice(&self.0[..a]);
        back[l4..l4 + 2].copy_from_slice(&self.0[l4 + 2..]);
        back[l4 + 2..].copy_from_slice(&self.0[l4..l4 + 2]);
        Self(back)
    }
}

/// Bytes of the number that a frame can carry, at its end.
const STAMP: usize = 6;

/// The number in a frame of IPv4 to this Ethernet address; none if it is another frame.
#[must_use]
pub fn stamp_of(frame: &[u8], destination: [u8; 6]) -> Option<u64> {
    let is_ours = frame.len() == SHORTEST && frame[..6] == destination && frame[12..14] == [8, 0];
    let (_, stamp) = frame.split_last_chunk::<STAMP>().filter(|_| is_ours)?;
    Some(stamp.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// What the packets of one kind have in common.
#[derive(Clone, Debug)]
pub struct Template {
    frame: Vec<u8>,
    /// Where the checksum of TCP or UDP stands.
    checksum: usize,
    /// One's complement sum of the IPv4 header without its addresses.
    header_sum: u16,
    /// The same of segment and pseudo header without addresses and ports.
    segment_sum: u16,
}

impl Template {
    /// The kind of a TCP segment of which both senders have sent `sent` bytes before, the SYN among them, at `[source, destination]`.
    pub fn tcp(flight: &Flight, sent: [u32; 2], tcp_flags: u8, payload: &[u8]) -> Result<Self> {
        let [sequence, acknowledged] = sent.map(|sent| INITIAL_SEQUENCE + sent);
        let acknowledged = if tcp_flags & flags::ACK == 0 { 0 } else { acknowledged };
        let mut frame = tcp::segment(flight, sequence, acknowledged, tcp_flags, payload);
        frame.resize(frame.len().max(SHORTEST), 0);
        Self::of(frame, 16)
    }

    /// The kind of a UDP datagram.
    pub fn udp(flight: &Flight, payload: &[u8]) -> Result<Self> {
        let mut frame = udp::datagram(flight, payload);
        frame.resize(frame.len().max(SHORTEST), 0);
        Self::of(frame, 6)
    }

    fn of(frame: Vec<u8>, checksum: usize) -> Result<Self> {
        let is_v4 = frame.get(ethernet::HEADER).context("an empty frame")? >> 4 == 4;
        let (ends, l4) =
            if is_v4 { (Ends4::AT..Ends4::L4 + 4, Ends4::L4) } else { (Ends6::AT..Ends6::L4 + 4, Ends6::L4) };
        let checksum = l4 + checksum;
        ensure!(frame.len() >= checksum + 2, "a frame of {} bytes is too short", frame.len());
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        // The sum with the checksum in it would be all ones; so without it, it is the checksum's complement.
        let segment_sum = less(!word(checksum), ones_complement_sum(&frame[ends.clone()]));
        let header_checksum = ethernet::HEADER + 10;
        let addresses = ends.start..ends.end - 4;
        let header_sum =
            if is_v4 { less(!word(header_checksum), ones_complement_sum(&frame[addresses])) } else { 0 };
        Ok(Self { frame, checksum, header_sum, segment_sum })
    }

    /// Bytes of its frames.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.frame.len()
    }

    /// Writes a number into the payload of a frame that [`Template::write`] has written: it passes a NAT unchanged. Only its lower 48 bits.
    #[inline]
    fn stamp(&self, number: u64, frame: &mut [u8]) {
        let payload = frame.len() - STAMP;
        let sum = |at: usize, len: usize| ones_complement_sum(&frame[at..at + len]);
        let without = less(!sum(self.checksum, 2), sum(payload, STAMP));
        let number = &number.to_be_bytes()[8 - STAMP..];
        let segment = !more(without, ones_complement_sum(number));
        let segment = if segment == 0 { u16::MAX } else { segment };
        frame[self.checksum..self.checksum + 2].copy_from_slice(&segment.to_be_bytes());
        frame[payload..].copy_from_slice(number);
    }

    /// Whether its frames are empty; none are.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.frame.is_empty()
    }

    /// Writes the packet between these ends over a frame, which must be as long as [`Template::len`].
    #[inline]
    pub fn write<const N: usize>(&self, ends: &Ends<N>, frame: &mut [u8]) {
        frame.copy_from_slice(&self.frame);
        frame[Ends::<N>::AT..Ends::<N>::AT + N].copy_from_slice(&ends.0);
        let segment = !more(self.segment_sum, ones_complement_sum(&ends.0));
        // RFC 768: zero would say that there is none; TCP knows both zeros as one.
        let segment = if segment == 0 { u16::MAX } else { segment };
        frame[self.checksum..self.checksum + 2].copy_from_slice(&segment.to_be_bytes());
        if Ends::<N>::ADDRESS == 4 {
            let header = !more(self.header_sum, ones_complement_sum(&ends.0[..8]));
            frame[ethernet::HEADER + 10..ethernet::HEADER + 12].copy_from_slice(&header.to_be_bytes());
        }
    }
}

const fn more(a: u16, b: u16) -> u16 {
    let sum = a as u32 + b as u32;
    (sum as u16) + (sum >> 16) as u16
}

const fn less(a: u16, b: u16) -> u16 {
    more(a, !b)
}

/// An endless sequence of packets in an order without pattern, each as often as any other.
#[derive(Debug)]
pub struct Deck<const N: usize> {
    templates: Vec<Template>,
    cards: Vec<Card<N>>,
    next: usize,
}

#[derive(Clone, Copy, Debug)]
struct Card<const N: usize> {
    ends: Ends<N>,
    template: u8,
}

impl<const N: usize> Deck<N> {
    /// Of these packets, each with the place of its template, all templates of one length. None of none.
    #[must_use]
    pub fn new(
        templates: Vec<Template>,
        packets: impl IntoIterator<Item = (Ends<N>, u8)>,
        mut random: Random,
    ) -> Option<Self> {
        let mut cards: Vec<Card<N>> =
            packets.into_iter().map(|(ends, template)| Card { ends, template }).collect();
        let is_made = |card: &Card<N>| usize::from(card.template) < templates.len();
        if cards.is_empty()
            || !cards.iter().all(is_made)
            || !templates.is_sorted_by(|a, b| a.len() == b.len())
        {
            return None;
        }
        let packets = cards.len();
        while cards.len() < ORDER_MIN {
            cards.extend_from_within(..packets);
        }
        for last in (1..cards.len()).rev() {
            cards.swap(last, scale(random.next(), last as u32 + 1) as usize);
        }
        Some(Self { templates, cards, next: 0 })
    }

    /// Bytes of its frames.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.templates.first().map_or(0, Template::len)
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.cards.capacity() * size_of::<Card<N>>()
    }

    /// Packets until they come again in the same order.
    #[must_use]
    pub const fn period(&self) -> usize {
        self.cards.len()
    }

    /// Writes the next packet over a frame of [`Deck::frame_len`].
    #[inline]
    pub fn write_next(&mut self, frame: &mut [u8]) {
        let card = &self.cards[self.next];
        self.next = if self.next + 1 == self.cards.len() { 0 } else { self.next + 1 };
        self.templates[usize::from(card.template)].write(&card.ends, frame);
    }

    /// The same with a number that is found again by [`stamp_of`] wherever the frame comes out. For frames of IPv4, whose last six bytes are payload.
    #[inline]
    pub fn write_next_stamped(&mut self, number: u64, frame: &mut [u8]) {
        let template = usize::from(self.cards[self.next].template);
        self.write_next(frame);
        self.templates[template].stamp(number, frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{MAC, ROUTER_MAC, World, flight};
    use std::collections::BTreeMap;
    use turnpike_forward::address::Family;
    use turnpike_forward::hash::Secret;
    use turnpike_packet::flight::{check, ends};

    fn random() -> Random {
        Random::new(&Secret::new([1, 2, 3, 4]), 7)
    }

    const PAYLOAD: &[u8; 6] = b"bench!";

    fn templates(flight: &Flight) -> Vec<Template> {
        vec![
            Template::tcp(flight, [0, 0], flags::SYN, &[]).unwrap(),
            Template::tcp(flight, [1, 1], flags::ACK | flags::PSH, PAYLOAD).unwrap(),
            Template::udp(flight, &[7; 18]).unwrap(),
        ]
    }

    fn written_alike<const N: usize>(family: Family) {
        let world = World { family, services: 1, udp: true };
        let made_of = flight(world.client(70_000), world.vip(0));
        for n in [0, 1, 65_535, 65_536, 200_000] {
            let flight = flight(world.client(n), world.vip(0));
            let ends = Ends::<N>::new(flight.source, flight.destination).unwrap();
            for (at, template) in templates(&made_of).iter().enumerate() {
                let mut frame = vec![0xa5; template.len()];
                template.write(&ends, &mut frame);
                assert_eq!(check(&frame), Ok(()));
                assert_eq!(frame, templates(&flight)[at].frame);
                assert_eq!(Ends::of(&frame), Some(ends));
                let answer = flight.back();
                assert_eq!(Ends::of(&tcp::segment(&answer, 1, 2, flags::ACK, &[])), Some(ends.back()));
            }
        }
    }

    #[test]
    fn what_a_template_writes_is_what_is_built_whole() {
        written_alike::<12>(Family::V4);
        written_alike::<36>(Family::V6);
    }

    #[test]
    fn a_number_is_found_again_behind_right_checksums() {
        let world = World { family: Family::V4, services: 1, udp: true };
        let templates = templates(&flight(world.client(0), world.vip(0)));
        for at in [1, 2] {
            let ends = Ends4::new(world.client(5), world.vip(0)).unwrap();
            let mut deck = Deck::new(templates[at..=at].to_vec(), [(ends, 0)], random()).unwrap();
            let mut frame = vec![0; deck.frame_len()];
            for number in [0, 1, 77_777, 0x1234_5678_9abc, 0xffff_ffff_ffff] {
                deck.write_next_stamped(number, &mut frame);
                assert_eq!((check(&frame), Ends4::of(&frame)), (Ok(()), Some(ends)));
                assert_eq!(stamp_of(&frame, MAC), Some(number));
                assert_eq!(stamp_of(&frame, ROUTER_MAC), None);
                assert_eq!(stamp_of(&frame[..59], MAC), None);
            }
            deck.write_next_stamped(u64::MAX, &mut frame);
            assert_eq!(stamp_of(&frame, MAC), Some(0xffff_ffff_ffff), "the lower 48 bits");
        }
        assert_eq!(stamp_of(&[], MAC), None);
    }

    #[test]
    fn a_checksum_that_comes_out_as_zero_is_written_as_ones() {
        let world = World { family: Family::V4, services: 1, udp: true };
        let template = Template::udp(&flight(world.client(0), world.vip(0)), &[0; 18]).unwrap();
        let mut written = 0;
        for n in 0..400_000 {
            let ends = Ends4::new(world.client(n), world.vip(0)).unwrap();
            let mut frame = vec![0; template.len()];
            template.write(&ends, &mut frame);
            assert_ne!(frame[40..42], [0, 0]);
            written += u32::from(frame[40..42] == [0xff, 0xff]);
        }
        assert!(written > 0);
    }

    #[test]
    fn ends_are_of_one_family() {
        let [v4, v6]: [SocketAddr; 2] = ["198.18.0.1:1", "[2001:db8::1]:1"].map(|end| end.parse().unwrap());
        assert!(Ends4::new(v4, v4).is_some() && Ends6::new(v6, v6).is_some());
        assert!(Ends4::new(v6, v6).is_none() && Ends6::new(v4, v4).is_none() && Ends6::new(v4, v6).is_none());
        assert_eq!((Ends4::of(&[]), Ends4::of(&[0x45; 30])), (None, None));
    }

    #[test]
    fn every_direction_comes_equally_often_with_right_checksums_and_in_no_order() {
        let world = World { family: Family::V4, services: 1, udp: false };
        let there = |n| Ends4::new(world.client(n), world.vip(0)).unwrap();
        let packets = (0..100).flat_map(|n| [(there(n), 1), (there(n).back(), 1)]);
        let templates = templates(&flight(world.client(0), world.vip(0)));
        let mut deck =
            Deck::new(vec![templates[1].clone(), templates[1].clone()], packets, random()).unwrap();
        let mut seen: BTreeMap<_, u32> = BTreeMap::new();
        let mut in_order = 0;
        let mut before = None;
        let period = deck.period();
        for _ in 0..period {
            let mut frame = vec![0xa5; deck.frame_len()];
            deck.write_next(&mut frame);
            assert_eq!(check(&frame), Ok(()));
            let ends = ends(&frame).unwrap();
            in_order += u32::from(before.is_some_and(|b| b < ends));
            before = Some(ends);
            *seen.entry(ends).or_default() += 1;
        }
        assert_eq!(seen.len(), 200);
        assert!(seen.values().all(|&n| n as usize == period / 200), "{seen:?}");
        let share = f64::from(in_order) / period as f64;
        assert!((0.45..0.55).contains(&share), "{share} of the packets follow a lesser one");
    }

    #[test]
    fn a_deck_needs_packets_and_their_templates() {
        let world = World { family: Family::V4, services: 1, udp: false };
        let template = || templates(&flight(world.client(0), world.vip(0)))[1].clone();
        let ends = Ends4::new(world.client(0), world.vip(0)).unwrap();
        assert!(Deck::<12>::new(vec![template()], [], random()).is_none());
        assert!(Deck::new(vec![template()], [(ends, 1)], random()).is_none());
        let longer = Template::udp(&flight(world.client(0), world.vip(0)), &[0; 100]).unwrap();
        assert!(Deck::new(vec![template(), longer], [(ends, 0)], random()).is_none());
    }
}
