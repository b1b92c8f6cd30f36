//! Listening for TCP connections, alike for all servers of the control plane.

use rustix::net::sockopt;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};
use tracing::warn;

/// A listener at an address. `[::]` listens for IPv6 alone, so that `0.0.0.0` can stand beside it.
pub fn tcp(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Connections of a process before this one may still be resting.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// What to do about an error of [`tcp`].
#[must_use]
pub fn mend(error: &io::Error) -> &'static str {
    const TOO_MANY_OPEN_FILES: i32 = 24;
    match error.raw_os_error() {
        Some(TOO_MANY_OPEN_FILES) => {
            "raise the limit of open files of this process (ulimit -Hn, LimitNOFILE=)"
        }
        _ => "is the address this host's and the port free? else configure another",
    }
}

/// How many files this process may have open.
#[must_use]
pub fn open_files() -> usize {
    getrlimit(Resource::Nofile).current.and_then(|files| files.try_into().ok()).unwrap_or(usize::MAX)
}

/// Takes as many open files as this process may: every health check port is one, and every connection.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!("cannot raise the limit of open files: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_families_stand_side_by_side() {
        let four = tcp("0.0.0.0:0".parse().unwrap(), 1).unwrap();
        let port = four.local_addr().unwrap().port();
        let six = tcp(SocketAddr::from(([0u16; 8], port)), 1).unwrap();
        assert_eq!(six.local_addr().unwrap().port(), port);
        let taken = tcp(SocketAddr::from(([0u8; 4], port)), 1).unwrap_err();
        assert!(mend(&taken).contains("the port free"), "{taken}");
    }

    #[test]
    fn too_few_files_have_a_mend_of_their_own() {
        assert!(mend(&io::Error::from_raw_os_error(24)).contains("open files"));
    }
}
