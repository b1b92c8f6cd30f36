//! Writing pcapng (draft-ietf-opsawg-pcapng): one interface for each port and point of the path, packets with comments, and at the end what was lost.

use std::io::{self, Write};

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const ETHERNET: u16 = 1;

const COMMENT: u16 = 1;
const SECTION_PROGRAM: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_DESCRIPTION: u16 = 3;
const PACKET_FLAGS: u16 = 2;
const STATISTICS_LOST: u16 = 5;

/// Longest comment, in bytes.
const COMMENT_BYTES_MAX: usize = 1_000;

/// Which way a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// It came in.
    Before,
    /// It left.
    After,
}

impl Point {
    const fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }

    const fn description(self) -> &'static str {
        match self {
            Self::Before => "as frames came in, before translation",
            Self::After => "as frames left, after translation",
        }
    }
}

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Name of the port.
    pub port: &'a str,
    /// Where in the path.
    pub point: Point,
    /// Microseconds since 1970.
    pub time_us: u64,
    /// Length of the frame.
    pub frame_bytes: u32,
    /// Its first bytes.
    pub bytes: &'a [u8],
    /// What is said of it.
    pub comment: &'a str,
}

/// A file under way.
pub struct Pcapng<W: Write> {
    out: W,
    snap_bytes: u32,
    interfaces: Vec<(String, Point)>,
}

impl<W: Write> Pcapng<W> {
    /// Begins a file whose packets have at most so many bytes.
    pub fn begin(mut out: W, snap_bytes: u32) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_le_bytes());
        body.extend([1, 0, 0, 0]);
        body.extend(u64::MAX.to_le_bytes());
        option(&mut body, SECTION_PROGRAM, concat!("turnpike ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut body, 0, b"");
        block(&mut out, SECTION, &body)?;
        Ok(Self { out, snap_bytes, interfaces: Vec::new() })
    }

    /// A packet, behind the description of its interface if that is new.
    pub fn write(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let Packet { port, point, time_us, frame_bytes, bytes, comment } = *packet;
        let interface = self.interface(port, point)?;
        let mut body = Vec::with_capacity(bytes.len() + comment.len() + 64);
        body.extend(interface.to_le_bytes());
        body.extend(((time_us >> 32) as u32).to_le_bytes());
        body.extend((time_us as u32).to_le_bytes());
        body.extend((bytes.len() as u32).to_le_bytes());
        body.extend(frame_bytes.to_le_bytes());
        padded(&mut body, bytes);
        let end = comment.floor_char_boundary(COMMENT_BYTES_MAX);
        option(&mut body, COMMENT, &comment.as_bytes()[..end]);
        // 1: in, 2: out.
        let flags: u32 = if point == Point::Before { 1 } else { 2 };
        option(&mut body, PACKET_FLAGS, &flags.to_le_bytes());
        option(&mut body, 0, b"");
        block(&mut self.out, PACKET, &body)
    }

    /// Makes everything that was written visible.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the file with what was lost.
    pub fn end(mut self, time_us: u64, lost: u64) -> io::Result<()> {
        // What was lost is of no known interface: it is said of the first.
        if !self.interfaces.is_empty() {
            let mut body = Vec::new();
            body.extend(0u32.to_le_bytes());
            body.extend(((time_us >> 32) as u32).to_le_bytes());
            body.extend((time_us as u32).to_le_bytes());
            option(&mut body, STATISTICS_LOST, &lost.to_le_bytes());
            option(&mut body, 0, b"");
            block(&mut self.out, STATISTICS, &body)?;
        }
        self.out.flush()
    }

    fn interface(&mut self, port: &str, point: Point) -> io::Result<u32> {
        let known = self.interfaces.iter().position(|(name, at)| name == port && *at == point);
        if let Some(known) = known {
            return Ok(known as u32);
        }
        let mut body = Vec::new();
        body.extend(ETHERNET.to_le_bytes());
        body.extend([0, 0]);
        body.extend(self.snap_bytes.to_le_bytes());
        option(&mut body, INTERFACE_NAME, format!("{port} {}", point.word()).as_bytes());
        option(&mut body, INTERFACE_DESCRIPTION, point.description().as_bytes());
        option(&mut body, 0, b"");
        block(&mut self.out, INTERFACE, &body)?;
        self.interfaces.push((port.to_owned(), point));
        Ok(self.interfaces.len() as u32 - 1)
    }
}

/// A block around its body, which ends on a word.
fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let len = (body.len() as u32 + 12).to_le_bytes();
    let whole = [&kind.to_le_bytes()[..], &len, body, &len].concat();
    out.write_all(&whole)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    padded(body, value);
}

fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every block: its kind and its body; panics where lengths contradict.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut blocks = Vec::new();
        while !bytes.is_empty() {
            let len = word(bytes, 4) as usize;
            assert!(len.is_multiple_of(4) && word(bytes, len - 4) as usize == len);
            blocks.push((word(bytes, 0), bytes[8..len - 4].to_vec()));
            bytes = &bytes[len..];
        }
        blocks
    }

    #[test]
    fn interfaces_come_before_their_packets_and_once() {
        let mut file = Vec::new();
        let mut pcapng = Pcapng::begin(&mut file, 64).unwrap();
        let long = "ä".repeat(1_000);
        let packet = Packet {
            port: "wan",
            point: Point::Before,
            time_us: 0x1_0000_0002,
            frame_bytes: 100,
            bytes: &[7; 61],
            comment: &long,
        };
        pcapng.write(&packet).unwrap();
        pcapng.write(&Packet { point: Point::After, comment: "forwarded", ..packet }).unwrap();
        pcapng.write(&packet).unwrap();
        pcapng.end(5, 9).unwrap();
        let blocks = blocks(&file);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION, INTERFACE, PACKET, INTERFACE, PACKET, PACKET, STATISTICS]);
        assert!(String::from_utf8_lossy(&blocks[1].1).contains("wan before"));
        assert!(String::from_utf8_lossy(&blocks[3].1).contains("wan after"));
        let of = |at: usize| blocks[at].1[0];
        assert_eq!([of(2), of(4), of(5)], [0, 1, 0], "each packet names its interface");
        assert_eq!(blocks[2].1[4..12], [1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(blocks[2].1[12..20], [61, 0, 0, 0, 100, 0, 0, 0]);
    }
}
