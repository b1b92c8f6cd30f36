//! Sends large datagrams to an echo server and compares what comes back, or is that server. Says how many came back as they were sent.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use serde_json::json;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a question is asked: queues and sockets of a busy machine lose datagrams.
const ATTEMPTS: u32 = 3;

/// Large datagrams for the lab.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Sends every datagram back to where it came from.
    Echo {
        /// Where to listen.
        address: SocketAddr,
    },
    /// Asks.
    Ask {
        /// Whom.
        address: SocketAddr,
        /// Sizes of the datagrams, in bytes, in turn.
        #[arg(long, value_delimiter = ',', default_value = "60000")]
        bytes: Vec<usize>,
        /// Datagrams of each client.
        #[arg(long, default_value_t = 100)]
        count: usize,
        /// Clients, each with a socket of its own, at the same time.
        #[arg(long, default_value_t = 1)]
        clients: usize,
    },
}

/// What became of the datagrams of one client.
#[derive(Default)]
struct Tally {
    identical: u64,
    different: u64,
    /// Questions that were asked once more.
    again: u64,
    lost: u64,
}

fn main() -> Result<()> {
    match Arguments::parse().role {
        Role::Echo { address } => echo(address),
        Role::Ask { address, bytes, count, clients } => {
            let asked = std::thread::scope(|scope| {
                let clients: Vec<_> = (0..clients)
                    .map(|client| {
                        let bytes = &bytes;
                        scope.spawn(move || ask(client, address, bytes, count))
                    })
                    .collect();
                let joined = clients.into_iter().map(|client| client.join());
                joined
                    .map(|asked| asked.map_err(|_| anyhow!("a client panicked"))?)
                    .collect::<Result<Vec<_>>>()
            })?;
            let sum = |of: fn(&Tally) -> u64| asked.iter().map(of).sum::<u64>();
            let (identical, different) = (sum(|t| t.identical), sum(|t| t.different));
            let (again, lost) = (sum(|t| t.again), sum(|t| t.lost));
            println!(
                "{}",
                json!({"identical": identical, "different": different, "again": again, "lost": lost})
            );
            Ok(())
        }
    }
}

fn echo(address: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    let mut datagram = vec![0; 1 << 16];
    loop {
        match socket.recv_from(&mut datagram) {
            // Answers such as "port unreachable" come back as errors of later calls.
            Ok((length, from)) => drop(socket.send_to(&datagram[..length], from)),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
    }
}

fn ask(client: usize, address: SocketAddr, bytes: &[usize], count: usize) -> Result<Tally> {
    let mut socket = connected(address)?;
    let (mut tally, mut answer) = (Tally::default(), vec![0; 1 << 16]);
    for (n, &length) in bytes.iter().cycle().take(count).enumerate() {
        let question = content(client << 32 | n, length);
        for attempt in 1.. {
            socket.send(&question).with_context(|| format!("cannot send {length} bytes to {address}"))?;
            match socket.recv(&mut answer) {
                Ok(got) if answer[..got] == question[..] => tally.identical += 1,
                Ok(_) => tally.different += 1,
                Err(_) if attempt == ATTEMPTS => tally.lost += 1,
                Err(_) => {
                    tally.again += 1;
                    // What still comes to the old one is not taken for the answer to another question.
                    socket = connected(address)?;
                    continue;
                }
            }
            break;
        }
    }
    Ok(tally)
}

/// A socket that takes answers from the address it asks only.
fn connected(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Bytes that no two datagrams share (Marsaglia's xorshift).
fn content(seed: usize, length: usize) -> Vec<u8> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
