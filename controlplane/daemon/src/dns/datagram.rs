//! A UDP socket that answers from the address it was asked at: on a socket of all addresses the kernel would choose one, and clients drop
//! answers of another than they asked. Each datagram tells its destination (RFC 3542 section 6, `ip(7)` IP_PKTINFO), each answer its source.

use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// See the module.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
}

/// Who asked, and at which of this host's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Address and port of the client.
    pub address: SocketAddr,
    /// The address it asked, and the interface where that has no meaning without; none: the kernel did not say.
    own: Option<(IpAddr, u32)>,
}

impl Datagrams {
    /// Of a socket that is bound.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        if socket.local_addr()?.is_ipv4() {
            setsockopt(&socket, Ipv4PacketInfo, &true)?;
        } else {
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
        }
        Ok(Self { socket })
    }

    /// The next datagram: its bytes in `buffer`, their number, and from whom. What does not fit is cut.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Client)> {
        self.socket.async_io(Interest::READABLE, || self.try_receive(buffer)).await
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Client)> {
        let mut control = nix::cmsg_space!(in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let descriptor = self.socket.as_raw_fd();
        let received =
            recvmsg::<SockaddrStorage>(descriptor, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
        let address = received.address.as_ref().and_then(socket_address).ok_or(Errno::EAFNOSUPPORT)?;
        let own = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some((IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())), 0))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                let interface = if address.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
                Some((IpAddr::V6(address), interface))
            }
            _ => None,
        });
        Ok((received.bytes, Client { address, own }))
    }

    /// Sends an answer.
    pub async fn send(&self, bytes: &[u8], to: Client) -> io::Result<()> {
        self.socket.async_io(Interest::WRITABLE, || self.try_send(bytes, to)).await
    }

    fn try_send(&self, bytes: &[u8], to: Client) -> io::Result<()> {
        let parts = [IoSlice::new(bytes)];
        let (descriptor, address) = (self.socket.as_raw_fd(), SockaddrStorage::from(to.address));
        let send = |control: &[ControlMessage<'_>]| {
            sendmsg(descriptor, &parts, control, MsgFlags::MSG_DONTWAIT, Some(&address))
        };
        match to.own {
            Some((IpAddr::V4(own), _)) => {
                let own = in_addr { s_addr: u32::from_ne_bytes(own.octets()) };
                let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: own, ipi_addr: in_addr { s_addr: 0 } };
                send(&[ControlMessage::Ipv4PacketInfo(&info)])
            }
            Some((IpAddr::V6(own), ipi6_ifindex)) => {
                let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: own.octets() }, ipi6_ifindex };
                send(&[ControlMessage::Ipv6PacketInfo(&info)])
            }
            None => send(&[]),
        }?;
        Ok(())
    }
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddrV4::new(v4.ip(), v4.port()).into());
    }
    let v6 = storage.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id()).into())
}

#[cfg(test)]
mod tests {
    use super::Datagrams;
    use std::net::SocketAddr;
    use tokio::net::UdpSocket;

    #[tokio::test]
    async fn answers_come_from_the_address_that_was_asked() {
        for (all, asked, client) in [("0.0.0.0:0", "127.0.0.77", "127.0.0.1:0"), ("[::]:0", "::1", "[::1]:0")]
        {
            let socket = UdpSocket::bind(all).await.unwrap();
            let server = SocketAddr::new(asked.parse().unwrap(), socket.local_addr().unwrap().port());
            let datagrams = Datagrams::new(socket).unwrap();
            let client = UdpSocket::bind(client).await.unwrap();
            client.send_to(b"question", server).await.unwrap();
            let mut buffer = [0xa5; 5];
            let (length, from) = datagrams.receive(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..length], from.address), (&b"quest"[..], client.local_addr().unwrap()));
            datagrams.send(b"answer", from).await.unwrap();
            let mut buffer = [0; 16];
            let (length, answerer) = client.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..length], answerer), (&b"answer"[..], server));
        }
    }
}
