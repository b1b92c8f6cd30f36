//! Sends small datagrams to every port of an address in turn, at a given rate, and says how many there were.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::Parser;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

/// Datagrams sent between two looks at the clock.
const AT_ONCE: u64 = 32;

/// A flood for the lab.
#[derive(Parser)]
struct Arguments {
    /// Whom to flood.
    target: Ipv4Addr,
    /// Datagrams a second.
    #[arg(long, default_value_t = 50_000)]
    rate: u64,
    /// For how long, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

fn main() -> Result<()> {
    let Arguments { target, rate, seconds } = Arguments::parse();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let (started, length) = (Instant::now(), Duration::from_secs(seconds));
    let (mut sent, mut tried) = (0u64, 0u64);
    while started.elapsed() < length {
        if tried >= started.elapsed().as_micros() as u64 * rate / 1_000_000 {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        for _ in 0..AT_ONCE {
            let port = 1 + (tried % 65_535) as u16;
            // Answers such as "port unreachable" come back as errors of later calls; a flood does not care.
            sent += u64::from(socket.send_to(b"flood", (target, port)).is_ok());
            tried += 1;
        }
    }
    println!("{sent}");
    Ok(())
}
