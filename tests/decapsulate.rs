//! What a backend of `turnpike.dev/mode: dsr-ipip` needs, for kernels without tunnels: takes packets in packets from a raw socket and gives
//! the inner ones to the kernel through a TUN device. A kernel with tunnels does the same by `ip link add … type ipip`.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketType};
use std::os::fd::OwnedFd;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Longest packet, in bytes.
const PACKET_MAX: usize = 1 << 16;
/// Bytes that may wait for this program.
const WAITING_BYTES: usize = 8 << 20;

/// The end of tunnels for the lab.
#[derive(Parser)]
struct Arguments {
    /// Name of the TUN device through which inner packets come in.
    #[arg(long, default_value = "dsr0")]
    tun: String,
}

/// A socket that gets every packet of the machine with this protocol number.
fn raw(family: AddressFamily, protocol: Protocol) -> Result<OwnedFd> {
    let socket = rustix::net::socket(family, SocketType::RAW, Some(protocol))
        .with_context(|| format!("cannot open a raw socket of {protocol:?}; run as root"))?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, WAITING_BYTES)?;
    Ok(socket)
}

/// The inner packet of what a raw socket of IPv4 gives: all behind the outer header, whose length is in its first byte.
fn inner(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    packet.get(header..).filter(|inner| !inner.is_empty())
}

/// Hands on whatever comes, for ever.
fn hand_on(socket: &OwnedFd, tun: &SyncDevice, is_ipv4: bool) -> Result<()> {
    let mut packet = vec![0; PACKET_MAX];
    loop {
        let (length, _) = rustix::net::recv(socket, &mut packet[..], RecvFlags::empty())?;
        // A raw socket of IPv6 leaves the outer header out.
        let whole = packet.get(..length).unwrap_or_default();
        let inner = if is_ipv4 { inner(whole) } else { Some(whole) };
        if let Some(inner) = inner {
            // The kernel refuses what is no packet; others are not stopped by that.
            let _ = tun.send(inner);
        }
    }
}

fn main() -> Result<()> {
    let Arguments { tun } = Arguments::parse();
    let device = DeviceBuilder::new()
        .name(&tun)
        .layer(Layer::L3)
        .build_sync()
        .with_context(|| format!("cannot make the TUN device {tun}"))?;
    device.enabled(true).with_context(|| format!("cannot bring {tun} up"))?;
    let ipv4 = raw(AddressFamily::INET, rustix::net::ipproto::IPIP)?;
    let ipv6 = raw(AddressFamily::INET6, rustix::net::ipproto::IPV6).ok();
    std::thread::scope(|scope| {
        if let Some(ipv6) = &ipv6 {
            scope.spawn(|| hand_on(ipv6, &device, false));
        }
        hand_on(&ipv4, &device, true)
    })
}
