//! The choice for a packet of no live flow: which frontend it is for, which backend gets it, by which SNAT address and port.
//!
//! Everything a new flow needs is found here before anything is changed; the worker then inserts it. Next: [`crate::rewrite`].

use crate::flow_key::FlowKey;
use crate::flow_table::{FlowTable, Session};
use crate::local::is_ours;
use crate::mailbox::Shared;
use crate::port_pool::PortPool;
use crate::rewrite::Deltas;
use crate::service_table::Tables;
use crate::verdict::Verdict;
use turnpike_packet::tcp::flags;
use turnpike_wire::update::Action;

/// A new flow for a packet with this key and these TCP flags, or the verdict on the packet.
pub fn select(
    key: FlowKey,
    tcp_flags: u8,
    tables: &Tables,
    shared: &Shared,
    table: &FlowTable<'_>,
    pool: &mut PortPool,
) -> Result<Session, Verdict> {
    let Some(frontend) = tables.frontend(key) else { return Err(no_frontend(key, tables, shared)) };
    if is_bad_source(key.source(), tables, shared) {
        return Err(Verdict::BadSource);
    }
    match frontend.action {
        Action::Drop => return Err(Verdict::FrontendDrop),
        Action::Reject => return Err(Verdict::Rejected),
        Action::Forward => {}
    }
    const TCP: u8 = 6;
    if key.protocol() == TCP && tcp_flags & (flags::STATEFUL | flags::ACK) != flags::SYN {
        return Err(Verdict::TcpNoFlow);
    }
    let service = tables.service(frontend.service).ok_or(Verdict::Rejected)?;
    let backend = service.choose(key, &tables.maglev_key).ok_or(Verdict::Rejected)?;

    let gateway = &shared.gateway;
    let to_backend = gateway.route(backend.address).ok_or(Verdict::NoRoute)?;
    let to_client = gateway.route(key.source()).ok_or(Verdict::NoRoute)?;
    let next_hop = [
        shared.neighbours.index(to_backend).ok_or(Verdict::NextHopsFull)?,
        shared.neighbours.index(to_client).ok_or(Verdict::NextHopsFull)?,
    ];
    let steering = &gateway.ports()[usize::from(to_backend.port)].steering;
    let reply = pool
        .choose(gateway.snat(), (backend.address, backend.port), key.protocol(), steering, |k| {
            table.find(k).is_some()
        })
        .ok_or(Verdict::SnatExhausted)?;

    next_hop.into_iter().for_each(|index| shared.neighbours.want(index));
    let forward_deltas = Deltas::between(key, reply.reversed());
    let reply_deltas = Deltas::between(reply, key.reversed());
    let mut session = Session::new(key, reply);
    session.next_hop = next_hop;
    session.l3_delta = [forward_deltas.l3, reply_deltas.l3];
    session.l4_delta = [forward_deltas.l4, reply_deltas.l4];
    session.service = frontend.service;
    Ok(session)
}

/// Why nothing answers a packet's destination.
fn no_frontend(key: FlowKey, tables: &Tables, shared: &Shared) -> Verdict {
    let destination = key.destination();
    match tables.address(destination) {
        // Rule N4: an undefined port of a live ClusterIP is rejected.
        Some(usage) if usage.is_cluster_ip() => Verdict::Rejected,
        _ if shared.gateway.is_snat(destination) => Verdict::SnatNoFlow,
        _ if shared.gateway.is_own(destination) => Verdict::OwnAddress,
        Some(_) => Verdict::NoFrontend,
        None => Verdict::NotOurs,
    }
}

/// Sources that no client has: RFC 1122 section 3.2.1.3, RFC 1812 section 5.3.7, and addresses that are answered here.
#[must_use]
pub fn is_bad_source(source: u32, tables: &Tables, shared: &Shared) -> bool {
    let first = source >> 24;
    matches!(first, 0 | 127) || first >= 224 || is_ours(source, tables, shared)
}
