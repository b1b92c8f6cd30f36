//! The choice for a packet of no live flow: which frontend it is for, which backend gets it, by which source address and port.
//!
//! Only new flows come here, so what is refused here never harms one that lives (rule N2). [`Chooser::foresee`] finds out all that can be known
//! without changing anything, for a whole burst at a time, so that what each flow needs of the memory can be asked for ahead; then
//! [`Chooser::select`] makes one flow after the other, and the worker inserts it. Next: [`crate::rewrite`].

use crate::address::Address;
use crate::affinity::{Client, Kept};
use crate::connection::can_be_adopted;
use crate::flow_key::Key;
use crate::flow_table::{Entry, FlowTable};
use crate::hash::Secret;
use crate::local::is_ours;
use crate::mailbox::Shared;
use crate::one_way::OneWay;
use crate::parse::Packet;
use crate::port_pool::{PortPool, Standing};
use crate::rewrite::{Deltas, Sums};
use crate::service_table::{BackendEntry, FrontendEntry, Tables, set_of};
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

/// A new flow as far as it is known before anything is changed for it.
#[derive(Clone, Copy, Debug)]
pub struct Prospect<K> {
    /// Index of its Service.
    service: u32,
    set: BackendSet,
    mode: Mode,
    is_prefaced: bool,
    ends: Ends<K>,
}

/// Between whom a new flow will be.
#[derive(Clone, Copy, Debug)]
enum Ends<K> {
    /// That depends on which backend its client had before.
    UpToClient,
    /// There is no way between them.
    None(Verdict),
    Known(Way<K>),
}

/// How packets between the two ends of a flow go.
#[derive(Clone, Copy, Debug)]
struct Way<K> {
    /// The key of a packet from the backend straight to the client.
    back: K,
    /// The port towards the backend.
    out: u8,
    /// Towards the backend and towards the client, as far as they have an index.
    next_hop: [Option<u16>; 2],
}

impl Chooser<'_> {
    /// What a new flow for a packet with this key would be, or the verdict on the packet. Changes nothing.
    #[inline]
    pub fn foresee<K: Key>(&self, key: K, packet: Packet) -> Result<Prospect<K>, Verdict> {
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
        let ends = match (service.affinity_timeout_s, service.choose(set, key, &self.tables.maglev_key)) {
            (1.., _) => Ends::UpToClient,
            (0, Some(backend)) => self.way(backend, key).map_or_else(Ends::None, Ends::Known),
            (0, None) => Ends::None(Verdict::Rejected),
        };
        Ok(Prospect { service: frontend.service, set, mode, is_prefaced, ends })
    }

    /// How packets between a backend and the client with this key go.
    #[inline]
    fn way<K: Key>(&self, backend: &BackendEntry, key: K) -> Result<Way<K>, Verdict> {
        let client = (key.source_address(), key.source_port());
        // Rule S3: a Service port has one family. One that was given backends of another cannot reach them.
        let back = K::of(key.protocol(), backend.address, client.0, backend.port, client.1);
        let back = back.ok_or(Verdict::Rejected)?;
        let to_backend = self.shared.route(backend.address).ok_or(Verdict::NoRoute)?;
        let to_client = self.shared.route(client.0).ok_or(Verdict::NoRoute)?;
        let next_hop = [to_backend, to_client].map(|hop| self.shared.neighbours.find(hop));
        Ok(Way { back, out: to_backend.port, next_hop })
    }

    /// The reply key that a flow behind full NAT would have if nothing stood in the way.
    #[inline]
    pub fn first_reply<K: Key>(&self, prospect: &Prospect<K>, pool: &mut PortPool) -> Option<K> {
        let Ends::Known(Way { back, out, .. }) = prospect.ends else { return None };
        if prospect.mode != Mode::Nat {
            return None;
        }
        let gateway = &self.shared.gateway;
        let steering = &gateway.ports().get(usize::from(out))?.steering;
        let backend = (back.source_address(), back.source_port());
        pool.first(gateway.snat(K::FAMILY), backend, back.protocol(), steering)
    }

    /// The new flow for a packet with this key of which so much is known, or the verdict on the packet. `first` is the reply key to try before others.
    pub fn select<K: Sums>(
        &self,
        key: K,
        prospect: &Prospect<K>,
        first: Option<K>,
        table: &FlowTable<'_, K>,
        pool: &mut PortPool,
        counters: &mut Counters,
    ) -> Result<K::Session, Verdict> {
        // Checked before anything is remembered: a flood that finds no room must not cost others their affinity.
        if table.is_full() {
            return Err(Verdict::FlowTableFull);
        }
        if !table.admits(key.source_address()) {
            return Err(Verdict::ClientQuota);
        }
        let &Prospect { mode, is_prefaced, .. } = prospect;
        let Way { back, out, next_hop } = match prospect.ends {
            Ends::Known(way) => way,
            Ends::None(verdict) => return Err(verdict),
            Ends::UpToClient => {
                self.way(self.backend(prospect, key, counters).ok_or(Verdict::Rejected)?, key)?
            }
        };
        let at = (back.source_address(), back.source_port());
        let next_hop = match next_hop {
            [Some(to_backend), Some(to_client)] => [to_backend, to_client],
            _ => self.next_hops(at.0, key.source_address())?,
        };
        let Shared { gateway, neighbours, .. } = self.shared;
        // Rule A4: a backend that is its own client would answer itself directly, past the gateway, or get a packet from itself.
        let is_hairpin = at.0 == key.source_address();
        if mode == Mode::DsrIpip && !is_hairpin && at.1 == key.destination_port() {
            let hash = self.secret.hash(key).rotate_left(32);
            let to_backend = neighbours.hop(next_hop[0]);
            let source = gateway.tunnel_source(to_backend, K::FAMILY, hash).ok_or(Verdict::NoRoute)?;
            let back = K::of(key.protocol(), at.0, source, at.1, key.source_port());
            next_hop.into_iter().for_each(|index| neighbours.want(index));
            let mut session = K::Session::new(key, back.ok_or(Verdict::NoRoute)?);
            session.set_one_way(OneWay::opening(key.protocol()));
            session.next_hop = next_hop;
            session.last_seen = self.now_ms;
            return Ok(session);
        }
        let steering = &gateway.ports()[usize::from(out)].steering;
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
                match first.filter(|&first| standing(first) == Standing::Free) {
                    Some(first) => Some(first),
                    None => {
                        let chosen =
                            pool.choose(gateway.snat(K::FAMILY), at, key.protocol(), steering, standing);
                        counters
                            .add(Tally::SnatRestsBroken, u64::from(chosen.is_some_and(|c| c.breaks_rest)));
                        chosen.map(|chosen| chosen.reply)
                    }
                }
            }
        };
        let reply = reply.ok_or(Verdict::SnatExhausted)?;

        next_hop.into_iter().for_each(|index| neighbours.want(index));
        let mut session = K::Session::new(key, reply);
        session.next_hop = next_hop;
        if is_prefaced {
            session.preface();
        } else {
            let [forward, back] = Deltas::both_ways(key, reply);
            session.l3_delta = [forward.l3, back.l3];
            session.l4_delta = [forward.l4, back.l4];
        }
        session.last_seen = self.now_ms;
        Ok(session)
    }

    /// Next hops towards a backend and a client, which get an index if they have none.
    #[cold]
    fn next_hops(&self, backend: Address, client: Address) -> Result<[u16; 2], Verdict> {
        let neighbours = &self.shared.neighbours;
        let to_backend = self.shared.route(backend).ok_or(Verdict::NoRoute)?;
        let to_client = self.shared.route(client).ok_or(Verdict::NoRoute)?;
        Ok([
            neighbours.index(to_backend).ok_or(Verdict::NextHopsFull)?,
            neighbours.index_of_client(to_client).ok_or(Verdict::NextHopsFull)?,
        ])
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

    /// The backend of a new flow under session affinity: the one its client has as long as that takes new flows of the set, else a fresh choice.
    fn backend<K: Key>(
        &self,
        prospect: &Prospect<K>,
        key: K,
        counters: &mut Counters,
    ) -> Option<&BackendEntry> {
        let &Prospect { service, set, .. } = prospect;
        let service = self.tables.service(service)?;
        let fresh = || service.choose(set, key, &self.tables.maglev_key);
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
