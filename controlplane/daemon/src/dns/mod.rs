//! Names of Services: a DNS server of the Kubernetes DNS specification 1.1.0 (rule D1), on hickory's messages.
//!
//! A question's walk: [`server`] → [`message`] (bytes → question) → [`answer`] ([`zone`]: which node of the tree; [`index`]: what the cluster
//! has) → [`message`] (answer → bytes that fit) → [`server`]. Other names go on to [`upstream`]. The names' walk: `state` → [`touched`] →
//! [`follow`] → [`names`] → [`index`].
//!
//! It runs on a thread of its own: a flood of questions does not hold up what comes from etcd. The sockets' loops are our own, and not those of
//! hickory-server, because they bound what they take: questions at work, connections, and times.

pub mod answer;
pub mod datagram;
pub mod follow;
pub mod index;
pub mod message;
pub mod names;
pub mod reverse;
pub mod server;
pub mod sockets;
pub mod tally;
pub mod touched;
pub mod upstream;
pub mod zone;

use crate::state::State;
use anyhow::{Context, Result};
use message::Transport;
use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use tokio::sync::Semaphore;

/// Starts the server, if an address is configured. Errors are those of the settings; sockets that fail are tried again.
pub fn start(state: &Arc<State>) -> Result<()> {
    let config = &state.config.dns;
    if config.listen.is_empty() {
        return Ok(());
    }
    let zone = zone::Zone::new(&config.zone, config.ttl_s, addresses(state))
        .with_context(|| format!("dns.zone: {:?} is no domain", config.zone))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the DNS server")?;
    let state = state.clone();
    std::thread::Builder::new()
        .name("dns".into())
        .spawn(move || runtime.block_on(serve(state, zone)))
        .context("cannot start a thread")?;
    Ok(())
}

/// Serves for ever.
async fn serve(state: Arc<State>, zone: zone::Zone) {
    let index = Arc::new(RwLock::new(index::Index::default()));
    let server = Arc::new(server::Server::new(state.clone(), zone, index.clone()));
    let connections = Arc::new(Semaphore::new(sockets::CONNECTIONS_MAX));
    for address in &state.config.dns.listen {
        for transport in [Transport::Udp, Transport::Tcp] {
            tokio::spawn(sockets::listen(server.clone(), *address, transport, connections.clone()));
        }
    }
    tokio::spawn(follow::follow(state, index));
    if let Some(upstream) = server.upstream() {
        upstream.look_for_circles(server.tally()).await;
    }
    std::future::pending::<()>().await;
}

/// The addresses that the zone gives for this server: where it listens, or every one of the gateway's where it listens on all.
fn addresses(state: &State) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = state.config.dns.listen.iter().map(std::net::SocketAddr::ip).collect();
    if addresses.iter().any(IpAddr::is_unspecified) {
        addresses.retain(|address| !address.is_unspecified());
        addresses.extend(state.config.own_addresses());
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
