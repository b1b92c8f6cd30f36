//! The sockets: UDP datagrams and TCP connections (RFC 7766), everything bounded. An address that cannot be listened on, or is lost, is tried
//! again; it never ends the control plane.

use super::datagram::Datagrams;
use super::message::{HEADER_BYTES, Transport};
use super::server::{Met, Server};
use super::tally::Count;
use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::{info, warn};

/// Wait before an address is tried again.
const AGAIN: Duration = Duration::from_secs(3);
/// Largest datagram read; questions are far smaller.
const DATAGRAM_BYTES: usize = 4_096;
/// Datagrams that may wait for other servers at a time.
const DATAGRAMS_MAX: usize = 1_024;
/// TCP connections at a time over all addresses; further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 512;
/// Questions of one connection that are worked on at a time; the connection is read no further meanwhile.
const PIPELINE_MAX: usize = 16;
/// How long a connection may rest between questions, take for one, or leave an answer unread.
const IDLE: Duration = Duration::from_secs(10);
/// Connections that wait to be taken.
const BACKLOG: u32 = 256;
/// Failures of a socket in a row after which it is made anew.
const FAILURES_MAX: u32 = 16;

/// Listens on one address for ever.
pub async fn listen(
    server: Arc<Server>,
    address: SocketAddr,
    transport: Transport,
    connections: Arc<Semaphore>,
) {
    loop {
        let ended = match transport {
            Transport::Udp => datagrams(&server, address).await,
            Transport::Tcp => streams(&server, address, &connections).await,
        };
        if let Err(error) = ended {
            let text = format!("{error:#}");
            let name = transport.name();
            if server.tally().set_listener(address, name, Some(text.clone())) {
                warn!("DNS: cannot listen on {address} ({name}): {text}; trying again");
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn heard(server: &Server, address: SocketAddr, transport: Transport) {
    let name = transport.name();
    if server.tally().set_listener(address, name, None) {
        info!("DNS: listening on {address} ({name})");
    }
}

const MEND: &str = "is the address this host's and the port free? else change dns.listen";

fn bind_udp(address: SocketAddr) -> Result<Datagrams> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None).context("no socket")?;
    if address.is_ipv6() {
        // Each family has a listener of its own.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address).context(MEND)?;
    Ok(Datagrams::new(UdpSocket::from_std(std::net::UdpSocket::from(socket))?)?)
}

/// Whether an answer may be sent there.
fn is_answerable(client: SocketAddr) -> bool {
    let is_one_host = match client.ip() {
        IpAddr::V4(ip) => !ip.is_broadcast() && !ip.is_multicast() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
    };
    client.port() != 0 && is_one_host
}

async fn datagrams(server: &Arc<Server>, address: SocketAddr) -> Result<()> {
    let socket = Arc::new(bind_udp(address)?);
    heard(server, address, Transport::Udp);
    let waiting = Arc::new(Semaphore::new(DATAGRAMS_MAX));
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let mut failures = 0;
    loop {
        let (length, client) = match socket.receive(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                failures += 1;
                if failures >= FAILURES_MAX {
                    return Err(error).context("the socket fails");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        failures = 0;
        server.tally().add(Count::QueriesUdp);
        if !is_answerable(client.address) {
            server.tally().add(Count::Dropped);
            continue;
        }
        match server.meet(&buffer[..length], Transport::Udp) {
            Met::Silence => {}
            Met::Bytes(bytes) => {
                // An answer that cannot be sent is one that was lost on the way: the client asks again.
                let _ = socket.send(&bytes, client).await;
            }
            Met::Later(later) => {
                let Ok(permit) = waiting.clone().try_acquire_owned() else {
                    server.tally().add(Count::Dropped);
                    continue;
                };
                let (server, socket) = (server.clone(), socket.clone());
                tokio::spawn(async move {
                    if let Some(bytes) = server.later(later).await {
                        let _ = socket.send(&bytes, client).await;
                    }
                    drop(permit);
                });
            }
        }
    }
}

async fn streams(server: &Arc<Server>, address: SocketAddr, connections: &Arc<Semaphore>) -> Result<()> {
    let listener = crate::listen::tcp(address, BACKLOG).context(MEND)?;
    heard(server, address, Transport::Tcp);
    let mut failures = 0;
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // No descriptors are left, or the client is gone already.
                failures += 1;
                if failures >= FAILURES_MAX {
                    return Err(error).context("the socket fails");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        failures = 0;
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            server.tally().add(Count::ConnectionsRefused);
            continue;
        };
        if !is_answerable(client) {
            continue;
        }
        server.tally().add(Count::Connections);
        let server = server.clone();
        tokio::spawn(async move {
            connection(server, stream).await;
            drop(permit);
        });
    }
}

/// One connection: questions are read one after the other, answers are written as they come.
async fn connection(server: Arc<Server>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.into_split();
    let (answers, mut ready) = mpsc::channel::<Vec<u8>>(PIPELINE_MAX);
    let writing = async {
        while let Some(bytes) = ready.recv().await {
            let Ok(length) = u16::try_from(bytes.len()) else { continue };
            let framed = [&length.to_be_bytes(), bytes.as_slice()].concat();
            if !matches!(timeout(IDLE, writer.write_all(&framed)).await, Ok(Ok(()))) {
                return;
            }
        }
        let _ = timeout(IDLE, writer.shutdown()).await;
    };
    let reading = async {
        let at_work = Arc::new(Semaphore::new(PIPELINE_MAX));
        while let Ok(Some(bytes)) = timeout(IDLE, frame(&mut reader)).await {
            server.tally().add(Count::QueriesTcp);
            match server.meet(&bytes, Transport::Tcp) {
                // A stream with something else on it is no DNS client.
                Met::Silence => break,
                Met::Bytes(bytes) => {
                    if answers.send(bytes).await.is_err() {
                        break;
                    }
                }
                Met::Later(later) => {
                    let Ok(permit) = at_work.clone().acquire_owned().await else { break };
                    let (server, answers) = (server.clone(), answers.clone());
                    tokio::spawn(async move {
                        if let Some(bytes) = server.later(later).await {
                            let _ = answers.send(bytes).await;
                        }
                        drop(permit);
                    });
                }
            }
        }
        // The writer ends when the last answer is written.
        drop(answers);
    };
    tokio::pin!(reading, writing);
    tokio::select! {
        () = &mut reading => writing.await,
        () = &mut writing => {}
    }
}

/// The next message of a connection; none: it has ended, or sends what is no message.
async fn frame(reader: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let length = usize::from(reader.read_u16().await.ok()?);
    if length < HEADER_BYTES {
        return None;
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::is_answerable;

    #[test]
    fn only_hosts_with_ports_are_answered() {
        for (client, may) in [
            ("192.0.2.7:40000", true),
            ("[2001:db8::7]:40000", true),
            ("127.0.0.1:1", true),
            ("192.0.2.7:0", false),
            ("255.255.255.255:53", false),
            ("224.0.0.251:5353", false),
            ("0.0.0.0:53", false),
            ("[::]:53", false),
            ("[ff02::fb]:5353", false),
        ] {
            assert_eq!(is_answerable(client.parse().unwrap()), may, "{client}");
        }
    }
}
