//! Packets over IPv4 that do not fit the link they leave through and may be fragmented ([`turnpike_packet::pieces`]).

use super::Worker;
use crate::limits::PIECES_MAX;
use crate::parse::ETHERNET;
use crate::verdict::{Tally, Verdict};
use arrayvec::ArrayVec;
use turnpike_packet::io::{Frame, PacketIo};
use turnpike_packet::pieces::{header_len, pieces};

impl<F: Frame> Worker<'_, F> {
    /// Sends a finished frame in fragments of at most `mtu` bytes, or holds them until its next hop is known.
    pub(super) fn send_in_pieces<I: PacketIo<Frame = F>>(
        &mut self,
        mut frame: F,
        next_hop: u16,
        mtu: u16,
        ios: &mut [I],
    ) {
        // The receiver tells datagrams apart by addresses and identification, and this gateway gives several clients one address.
        if let Some(header) = frame.data_mut().get_mut(ETHERNET..).and_then(<[u8]>::first_chunk_mut::<8>)
            && header[6] & 0x3f == 0
            && header[7] == 0
        {
            header[4..6].copy_from_slice(&(self.fragments.identify() as u16).to_be_bytes());
        }
        let out = usize::from(self.shared.neighbours.hop(next_hop).port);
        match self.cut(&frame, out, mtu, ios) {
            Ok(pieces) => pieces.into_iter().for_each(|piece| self.send_or_hold(piece, next_hop, ios)),
            Err(verdict) => self.counters.count(verdict),
        }
    }

    /// The fragments of the packet in a frame, each in a frame of its own from the memory of port `out`. They count as packets of their own from
    /// here on.
    pub(super) fn cut<I: PacketIo<Frame = F>>(
        &mut self,
        frame: &F,
        out: usize,
        mtu: u16,
        ios: &mut [I],
    ) -> Result<ArrayVec<F, PIECES_MAX>, Verdict> {
        let data = frame.data();
        let Some((link, packet)) = data.split_at_checked(ETHERNET) else { return Err(Verdict::Truncated) };
        let (Some(header_len), Some(cuts)) = (header_len(packet), pieces(packet, mtu)) else {
            return Err(Verdict::TooBig);
        };
        let device = self.ports.get(out).map_or(0, |port| port.device);
        let io = ios.get_mut(device).ok_or(Verdict::TooBig)?;
        let mut made = ArrayVec::new();
        for piece in cuts {
            // Its bytes, and in front of them as many others as headers have.
            let from = piece.start - header_len;
            let bytes = data.get(from..ETHERNET + piece.end).ok_or(Verdict::TooBig)?;
            let mut new = io.alloc(bytes).ok_or(Verdict::NoMemory)?;
            let (new_link, new_packet) =
                new.data_mut().split_at_mut_checked(ETHERNET).ok_or(Verdict::NoMemory)?;
            new_link.copy_from_slice(link);
            new_packet[..header_len].copy_from_slice(&packet[..header_len]);
            piece.finish(new_packet);
            made.try_push(new).map_err(|_| Verdict::TooBig)?;
        }
        self.counters.add(Tally::FragmentsMade, made.len().saturating_sub(1) as u64);
        Ok(made)
    }
}
