//! A switch for the lab, where kernels have no VLAN interfaces: one trunk that carries tags (IEEE 802.1Q), and access ports without, each of
//! a VLAN of its own. All of them are taps of this process.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use std::str::FromStr;
use std::sync::Arc;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Longest frame with a tag.
const FRAME_BYTES_MAX: usize = 65_536;
/// Bytes of both Ethernet addresses.
const ADDRESSES: usize = 12;
/// EtherType of a tag.
const TAG: [u8; 2] = [0x81, 0];
const TAG_BYTES: usize = 4;

/// A switch for the lab: one trunk, and access ports.
#[derive(Parser)]
struct Arguments {
    /// The interface that carries tags.
    trunk: String,
    /// Interfaces without tags, as NAME=VLAN; one may be a NAME alone, whose frames have no tag on the trunk either.
    #[arg(required = true)]
    access: Vec<Access>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Access {
    name: String,
    vlan: Option<u16>,
}

impl FromStr for Access {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, vlan)) = text.split_once('=') else {
            return Ok(Self { name: text.into(), vlan: None });
        };
        match vlan.parse() {
            Ok(vlan @ 1..=4094) => Ok(Self { name: name.into(), vlan: Some(vlan) }),
            _ => Err(format!("{vlan:?} is no VLAN, which is 1 to 4094")),
        }
    }
}

fn main() -> Result<()> {
    let Arguments { trunk, access } = Arguments::parse();
    for (at, port) in access.iter().enumerate() {
        ensure!(access[..at].iter().all(|other| other.vlan != port.vlan), "{:?} is there twice", port.vlan);
    }
    let trunk = Arc::new(tap(&trunk)?);
    let ports = access.iter().map(|port| Ok((port.vlan, Arc::new(tap(&port.name)?))));
    let ports = ports.collect::<Result<Vec<_>>>()?;
    for (vlan, port) in &ports {
        let (vlan, port, trunk) = (*vlan, Arc::clone(port), Arc::clone(&trunk));
        std::thread::spawn(move || {
            pass(&port, |frame| {
                if let Some(frame) = tagged(frame, vlan) {
                    // A trunk that is full or down loses frames, as switches do.
                    let _ = trunk.send(&frame);
                }
            })
        });
    }
    pass(&trunk, |frame| {
        if let Some((vlan, frame)) = untagged(frame)
            && let Some((_, port)) = ports.iter().find(|(of, _)| *of == vlan)
        {
            let _ = port.send(&frame);
        }
    })
}

fn tap(name: &str) -> Result<SyncDevice> {
    let made = DeviceBuilder::new().name(name).layer(Layer::L2).inherit_enable_state().build_sync();
    made.with_context(|| format!("cannot make the tap {name}"))
}

/// Takes frames until the interface is gone.
fn pass(from: &SyncDevice, mut each: impl FnMut(&[u8])) -> Result<()> {
    let mut frame = vec![0; FRAME_BYTES_MAX];
    loop {
        match from.recv(&mut frame) {
            Ok(len) => each(&frame[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => bail!("cannot read: {error}"),
        }
    }
}

/// A frame of an access port as the trunk carries it. Hosts on access ports have no business with tags.
fn tagged(frame: &[u8], vlan: Option<u16>) -> Option<Vec<u8>> {
    let (addresses, rest) = frame.split_at_checked(ADDRESSES)?;
    if rest.starts_with(&TAG) {
        return None;
    }
    Some(match vlan {
        None => frame.to_vec(),
        Some(vlan) => [addresses, &TAG, &vlan.to_be_bytes(), rest].concat(),
    })
}

/// The VLAN of a frame of the trunk, and the frame without its tag.
fn untagged(frame: &[u8]) -> Option<(Option<u16>, Vec<u8>)> {
    let (addresses, rest) = frame.split_at_checked(ADDRESSES)?;
    if !rest.starts_with(&TAG) {
        return Some((None, frame.to_vec()));
    }
    let vlan = u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]) & 0x0fff;
    Some((Some(vlan).filter(|vlan| *vlan != 0), [addresses, &rest[TAG_BYTES..]].concat()))
}
