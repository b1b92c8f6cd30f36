//! The choice for a packet of no live flow: which frontend it is for, which backend gets it, by which source address and port.
//!
//! Only new flows come here, so what is refused here never harms one that lives (rule N2). Everything a new flow needs is found before
//! anything is changed, session affinity aside; the worker then inserts it. Next: [`crate::rewrite`].

use crate::address::Address;
use crate::affinity::{Client, Kept};
use crate::connection::can_be_adopted;
use crate::flow_key::Key;
use crate::flow_table::{Entry, FlowTable};
use crate::hash::{Random, Secret};
use crate::local::is_ours;
use crate::mailbox::Shared;
use crate::one_way::OneWay;
use crate::parse::Packet;
use crate::port_pool::{PortPool, Standing};
use crate::rewrite::{Deltas, Sums};
use crate::service_table::{BackendEntry, FrontendEntry, ServiceTable, Tables, set_of};
use crate::verdict::{Counters, Tally, Verdict};
use turnpike_packet::ipv4;
use turnpike_wire::update::{Action, BackendSet, FrontendKind, Midstream, Mode, Treatment};

/// What a choice is made by, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Chooser<'a> {
    /// The tables in force.
    pub tables: &'a Tables,
    /// What all workers share.
    pub shared: &'a Shared,
    /// The secret of all workers.
    pub secret: &'a Secret,
    /// Number of the worker whose flow it will be.
    pub worker: usize,
    /// The worker's clock, in milliseconds modulo 2³².
    pub now_ms: u32,
}

impl Chooser<'_> {
    /// A new flow for a packet with this key, or the verdict on the packet.
    pub fn select<K: Sums>(
        &self,
        key: K,
        packet: Packet,
        table: &FlowTable<'_, K>,
        pool: &mut PortPool,
        counters: &mut Counters,
    ) -> Result<K::Session, Verdict> {
        let Some(frontend) = self.tables.frontend(key) else { return Err(self.unanswered(key)) };
        if is_bad_source(key.source_address(), self.tables, self.shared) {
            return Err(Verdict::BadSource);
        }
        let service = self.tables.service(frontend.service).ok_or(Verdict::Rejected)?;
        // Rules L1, L3 and P3: load-balancer addresses alone are guarded, by ranges of their family.
        let is_guarded = frontend.kind == FrontendKind::LoadBalancer && service.sources.has(K::FAMILY);
        if is_guarded && !service.sources.contains(key.source_address()) {
            return Err(Verdict::SourceRange);
        }
        let Treatment { action, set, mode } = self.treatment(frontend, key);
        match action {
            Action::Drop => return Err(Verdict::FrontendDrop),
            Action::Reject => return Err(Verdict::Rejected),
            Action::Forward => {}
        }
        match key.protocol() {
            ipv4::TCP if !packet.asks() => match service.tracking.midstream {
                Midstream::Forward if can_be_adopted(packet.tcp_flags()) => {}
                Midstream::Drop => return Err(Verdict::TcpNoFlowDrop),
                Midstream::Forward | Midstream::Reset => return Err(Verdict::TcpNoFlow),
            },
            ipv4::SCTP if !packet.asks() => return Err(Verdict::SctpNoFlow),
            _ => {}
        }
        let is_prefaced = service.proxy_protocol && mode == Mode::Nat && key.protocol() == ipv4::TCP;
        if is_prefaced && !packet.asks() {
            // Where its stream begins is not known any more.
            return Err(Verdict::TcpNoFlow);
        }
        // Checked before anything is remembered: a flood that finds no room must not cost others their affinity.
        if table.is_full() {
            return Err(Verdict::FlowTableFull);
        }
        if !table.admits(key.source_address()) {
            return Err(Verdict::ClientQuota);
        }
        let backend = self.backend(service, set, key, counters).ok_or(Verdict::Rejected)?;
        // Rule S3: a Service port has one family. One that was given backends of another cannot reach them.
        if backend.address.family() != K::FAMILY {
            return Err(Verdict::Rejected);
        }

        let Shared { gateway, neighbours, .. } = self.shared;
        let to_backend = self.shared.route(backend.address).ok_or(Verdict::NoRoute)?;
        let to_client = self.shared.route(key.source_address()).ok_or(Verdict::NoRoute)?;
        let next_hop = [
            neighbours.index(to_backend).ok_or(Verdict::NextHopsFull)?,
            neighbours.index_of_client(to_client).ok_or(Verdict::NextHopsFull)?,
        ];
        // Rule A4: a backend that is its own client would answer itself directly, past the gateway, or get a packet from itself.
        let is_hairpin = backend.address == key.source_address();
        if mode == Mode::DsrIpip && !is_hairpin && backend.port == key.destination_port() {
            let hash = self.secret.hash(key).rotate_left(32);
            let source = gateway.tunnel_source(to_backend, K::FAMILY, hash).ok_or(Verdict::NoRoute)?;
            let back = K::of(key.protocol(), backend.address, source, backend.port, key.source_port());
            next_hop.into_iter().for_each(|index| neighbours.want(index));
            let mut session = K::Session::new(key, back.ok_or(Verdict::NoRoute)?);
            session.set_one_way(OneWay::opening(key.protocol()));
            session.next_hop = next_hop;
            session.last_seen = self.now_ms;
            return Ok(session);
        }
        let steering = &gateway.ports()[usize::from(to_backend.port)].steering;
        let at = (backend.address, backend.port);
        let reply = match mode {
            Mode::Dnat if !is_hairpin => {
                let comes_here = |reply: K| steering.owner(reply, gateway, self.secret) == self.worker;
                let is_taken = |reply: K| table.find(reply).is_some();
                pool.keep_address(
                    (key.source_address(), key.source_port()),
                    at,
                    key.protocol(),
                    comes_here,
                    is_taken,
                )
            }
            Mode::Dnat | Mode::Nat | Mode::DsrIpip => {
                let standing = |reply: K| match self.is_frontend(reply) {
                    true => Standing::Taken,
                    false => table.standing(reply, key.source_address(), self.now_ms),
                };
                let chosen = pool.choose(gateway.snat(K::FAMILY), at, key.protocol(), steering, standing);
                counters.add(Tally::SnatRestsBroken, u64::from(chosen.is_some_and(|c| c.breaks_rest)));
                chosen.map(|chosen| chosen.reply)
            }
        };
        let reply = reply.ok_or(Verdict::SnatExhausted)?;

        next_hop.into_iter().for_each(|index| neighbours.want(index));
        let forward_deltas = Deltas::between(key, reply.reversed());
        let reply_deltas = Deltas::between(reply, key.reversed());
        let mut session = K::Session::new(key, reply);
        session.next_hop = next_hop;
        if is_prefaced {
            session.preface();
        } else {
            session.l3_delta = [forward_deltas.l3, reply_deltas.l3];
            session.l4_delta = [forward_deltas.l4, reply_deltas.l4];
        }
        session.last_seen = self.now_ms;
        Ok(session)
    }

    /// The reply key that a new flow for a packet with this key will probably have, without choosing it.
    pub fn foresee<K: Sums>(&self, key: K, pool: &PortPool, foresight: &mut Random) -> Option<K> {
        let frontend = self.tables.frontend(key)?;
        let service = self.tables.service(frontend.service)?;
        let Treatment { action, set, mode } = self.treatment(frontend, key);
        if action != Action::Forward || mode != Mode::Nat {
            return None;
        }
        let backend = service.choose(set, key, &self.tables.maglev_key)?;
        let Shared { gateway, .. } = self.shared;
        let out = usize::from(self.shared.route(backend.address)?.port);
        let steering = &gateway.ports().get(out)?.steering;
        let at = (backend.address, backend.port);
        pool.foresee(foresight, gateway.snat(K::FAMILY), at, key.protocol(), steering)
    }

    /// Whether a reply key is also what clients may send to a frontend: a NodePort on an own address that SNAT uses too, outside of the range of
    /// NodePorts.
    fn is_frontend<K: Key>(&self, reply: K) -> bool {
        self.tables.address(reply.destination_address()).is_some() && self.tables.frontend(reply).is_some()
    }

    /// Whether a flow to a backend that has not answered yet may be given up for another: that backend is gone, and there are others.
    #[must_use]
    pub fn is_lost<K: Key>(&self, key: K, backend: (Address, u16)) -> bool {
        let Some(frontend) = self.tables.frontend(key) else { return false };
        let Some(service) = self.tables.service(frontend.service) else { return false };
        let Some(set) = set_of(self.treatment(frontend, key)) else { return false };
        service.backend(backend.0, backend.1).is_none()
            && service.choose(set, key, &self.tables.maglev_key).is_some()
    }

    /// What a frontend has for a client: pods of the cluster are inside, all others outside.
    fn treatment<K: Key>(&self, frontend: FrontendEntry, key: K) -> Treatment {
        let equal = frontend.inside == frontend.outside;
        if equal || !self.tables.networks.pods.contains(key.source_address()) {
            frontend.outside
        } else {
            frontend.inside
        }
    }

    /// The backend of a new flow: with session affinity the one its client has as long as that takes new flows of the set, else a fresh
    /// choice.
    fn backend<'s, K: Key>(
        &self,
        service: &'s ServiceTable,
        set: BackendSet,
        key: K,
        counters: &mut Counters,
    ) -> Option<&'s BackendEntry> {
        let fresh = || service.choose(set, key, &self.tables.maglev_key);
        if service.affinity_timeout_s == 0 {
            return fresh();
        }
        let client = Client { service: service.id, address: key.source_address() };
        let mut chosen = None;
        let (_, kept) = self.shared.affinities.stick(
            client,
            service.affinity_timeout_s,
            self.now_ms,
            self.secret,
            |remembered| {
                let remembered = remembered.and_then(|(handle, port)| service.backend_called(handle, port));
                chosen = remembered.filter(|b| b.takes_new(set)).or_else(fresh);
                chosen.map(|b| (b.handle, b.port))
            },
        );
        counters.add(Tally::AffinitiesEvicted, u64::from(kept == Kept::Evicted));
        chosen
    }

    /// Why nothing answers a packet's destination.
    #[must_use]
    pub fn unanswered<K: Key>(&self, key: K) -> Verdict {
        let destination = key.destination_address();
        match self.tables.address(destination) {
            // Rule N4: an undefined port of a live ClusterIP is rejected.
            Some(usage) if usage.is_cluster_ip() => Verdict::Rejected,
            _ if self.shared.gateway.is_snat(destination) => Verdict::SnatNoFlow,
            _ if self.shared.gateway.is_own(destination) => Verdict::OwnAddress,
            Some(_) => Verdict::NoFrontend,
            // Rule N4 again: an address that no Service has is dropped.
            None if self.tables.networks.services.contains(destination) => Verdict::UnallocatedClusterIp,
            None => Verdict::NotOurs,
        }
    }
}

/// Sources that no client has: [`Address::is_no_host`], and addresses that are answered here.
#[must_use]
pub fn is_bad_source(source: Address, tables: &Tables, shared: &Shared) -> bool {
    source.is_no_host() || is_ours(source, tables, shared)
}
