//! The capture-file twin of a NIC: what arrives is read from one pcap file, what is sent is written to another.

use crate::io::{BURST, Burst, Frame, HEADROOM, PacketIo, PortInfo};
use crate::memory::{grow_front, trim_front};
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, PcapError};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest frame that can be made, in bytes.
const FRAME_BYTES_MAX: usize = 65_535;

/// A frame from a capture.
#[derive(Debug)]
pub struct PcapFrame {
    bytes: Vec<u8>,
    /// Bytes that can be put in front.
    headroom: usize,
}

impl PcapFrame {
    const fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, headroom: HEADROOM }
    }
}

impl Frame for PcapFrame {
    fn data(&self) -> &[u8] {
        &self.bytes
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn frame_len(&self) -> usize {
        self.bytes.len()
    }

    fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    fn trim_front(&mut self, len: usize) -> bool {
        trim_front(&mut self.bytes, &mut self.headroom, len)
    }

    fn grow_front(&mut self, len: usize) -> bool {
        grow_front(&mut self.bytes, &mut self.headroom, len)
    }

    fn rss_hash(&self) -> Option<u32> {
        None
    }
}

/// Why a capture cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened or made.
    #[error("cannot open the capture {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is no capture of Ethernet frames.
    #[error("{path} is no pcap file of Ethernet frames: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A queue pair between two capture files.
pub struct PcapIo {
    info: PortInfo,
    arriving: Option<PcapReader<BufReader<File>>>,
    sent: PcapWriter<BufWriter<File>>,
    damaged: Option<PcapError>,
}

impl std::fmt::Debug for PcapIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PcapIo")
            .field("info", &self.info)
            .field("damaged", &self.damaged)
            .finish_non_exhaustive()
    }
}

impl PcapIo {
    /// Reads frames from `arriving`, writes to `sent`, which is replaced.
    pub fn new(info: PortInfo, arriving: &Path, sent: &Path) -> Result<Self, CaptureError> {
        let open = |path: &Path, source| CaptureError::Open { path: path.to_owned(), source };
        let format = |path: &Path, reason: String| CaptureError::Format { path: path.to_owned(), reason };
        let file = File::open(arriving).map_err(|e| open(arriving, e))?;
        let reader = PcapReader::new(BufReader::new(file)).map_err(|e| format(arriving, e.to_string()))?;
        if reader.header().datalink != DataLink::ETHERNET {
            return Err(format(arriving, format!("its link type is {:?}", reader.header().datalink)));
        }
        let file = File::create(sent).map_err(|e| open(sent, e))?;
        let writer = PcapWriter::new(BufWriter::new(file)).map_err(|e| format(sent, e.to_string()))?;
        Ok(Self { info, arriving: Some(reader), sent: writer, damaged: None })
    }

    /// What stopped the reading before the end of the file, if anything did.
    #[must_use]
    pub const fn damaged(&self) -> Option<&PcapError> {
        self.damaged.as_ref()
    }

    /// The next frame; a damaged file ends where the damage starts.
    fn next(&mut self) -> Option<PcapFrame> {
        match self.arriving.as_mut()?.next_packet()? {
            Ok(packet) => Some(PcapFrame::new(packet.data.into_owned())),
            Err(damage) => {
                self.arriving = None;
                self.damaged = Some(damage);
                None
            }
        }
    }
}

impl PacketIo for PcapIo {
    type Frame = PcapFrame;

    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn rx(&mut self, into: &mut Burst<PcapFrame>) -> usize {
        let before = into.len();
        while into.len() < BURST
            && let Some(frame) = self.next()
        {
            into.push(frame);
        }
        into.len() - before
    }

    fn tx(&mut self, from: &mut Burst<PcapFrame>) -> usize {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let writes = from.iter().take_while(|frame| {
            let (len, data) = (frame.bytes.len() as u32, Cow::Borrowed(frame.bytes.as_slice()));
            self.sent.write_packet(&PcapPacket { timestamp: now, orig_len: len, data }).is_ok()
        });
        let sent = writes.count();
        from.drain(..sent);
        sent
    }

    fn alloc(&mut self, data: &[u8]) -> Option<PcapFrame> {
        (data.len() <= FRAME_BYTES_MAX).then(|| PcapFrame::new(data.to_vec()))
    }
}
