//! The conformance suite on the twins that need no driver.
#![allow(clippy::unwrap_used)]

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;
use turnpike_packet::conformance::{self, Wire};
use turnpike_packet::io::{PortInfo, Spread};
use turnpike_packet::memory::{MemoryIo, MemoryNic};
use turnpike_packet::pcap::{CaptureError, PcapIo};

fn info() -> PortInfo {
    PortInfo { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, spread: Spread::Unknown }
}

struct MemoryWire {
    nic: MemoryNic,
    io: MemoryIo,
}

impl Wire for MemoryWire {
    type Io = MemoryIo;

    fn io(&mut self) -> &mut MemoryIo {
        &mut self.io
    }

    fn arrive(&mut self, frames: &[Vec<u8>]) {
        frames.iter().for_each(|f| self.nic.inject(f));
    }

    fn departed(&mut self) -> Vec<Vec<u8>> {
        self.nic.take_sent()
    }
}

#[test]
fn memory() {
    conformance::run(|| {
        let nic = MemoryNic::new(info(), 1);
        MemoryWire { io: nic.io(0), nic }
    });
}

/// Opens the files anew where frames arrive after it was made, since a capture is read from its start.
struct PcapWire {
    folder: tempfile::TempDir,
    io: Option<PcapIo>,
}

impl PcapWire {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, frames: &[Vec<u8>]) {
        let mut writer = PcapWriter::new(File::create(self.path("in.pcap")).unwrap()).unwrap();
        for frame in frames {
            writer.write_packet(&PcapPacket::new(Duration::ZERO, frame.len() as u32, frame)).unwrap();
        }
    }
}

impl Wire for PcapWire {
    type Io = PcapIo;

    fn io(&mut self) -> &mut PcapIo {
        if self.io.is_none() {
            self.io = Some(PcapIo::new(info(), &self.path("in.pcap"), &self.path("out.pcap")).unwrap());
        }
        self.io.as_mut().unwrap()
    }

    fn arrive(&mut self, frames: &[Vec<u8>]) {
        self.io = None;
        self.write(frames);
    }

    fn departed(&mut self) -> Vec<Vec<u8>> {
        self.io = None;
        let mut reader = PcapReader::new(File::open(self.path("out.pcap")).unwrap()).unwrap();
        std::iter::from_fn(|| reader.next_packet().map(|p| p.unwrap().data.into_owned())).collect()
    }
}

#[test]
fn pcap() {
    conformance::run(|| {
        let wire = PcapWire { folder: tempfile::tempdir().unwrap(), io: None };
        wire.write(&[]);
        wire
    });
}

#[test]
fn a_file_that_is_no_capture_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.pcap");
    let missing = PcapIo::new(info(), &path, &folder.path().join("out.pcap")).unwrap_err();
    assert!(
        matches!(&missing, CaptureError::Open { .. }) && missing.to_string().contains("in.pcap"),
        "{missing}"
    );
    std::fs::write(&path, b"no capture at all, but long enough").unwrap();
    let foreign = PcapIo::new(info(), &path, &folder.path().join("out.pcap")).unwrap_err();
    assert!(matches!(&foreign, CaptureError::Format { .. }), "{foreign}");
}
