//! [`Tables`]: what the workers look up, immutable once built. [`crate::stage`] builds them, [`crate::mailbox`] hands them out.

use crate::address::Address;
use crate::flow_key::Key;
use crate::hash::Secret;
use crate::maglev::{Maglev, Member};
use crate::networks::Networks;
use crate::shared_map::{MapKey, SharedList, SharedMap};
use hashbrown::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use turnpike_wire::update::{
    Action, Backend, BackendSet, BackendState, FrontendKey, FrontendKind, Service, ServiceKey, Tracking,
    Treatment,
};

/// Everything that the control plane has committed, as of one generation.
#[derive(Debug)]
pub struct Tables {
    /// Counts the commits of this dataplane process; 0 before the first. Unlike the generation it never starts again.
    pub serial: u64,
    /// Generation of the commit; 0 before the first.
    pub generation: u64,
    /// etcd revision of the commit.
    pub revision: i64,
    /// Key of the Maglev hash, shared by the fleet.
    pub maglev_key: Secret,
    /// First and last NodePort.
    pub node_ports: (u16, u16),
    /// Serial of the tables that last changed which backends live UDP flows may stay with (rule U1).
    pub udp_changed: u64,
    pub(crate) networks: Arc<ClusterNetworks>,
    pub(crate) frontends: FrontendMap,
    pub(crate) services: SharedList<ServiceTable>,
}

/// The networks of the cluster, and which ports of the host it uses.
#[derive(Debug, Default)]
pub struct ClusterNetworks {
    /// Those of cluster addresses.
    pub services: Networks,
    /// Those of pods, whose clients are inside.
    pub pods: Networks,
    /// Health check ports of the host outside of the NodePort range.
    pub health_check_ports: Box<[u16]>,
}

/// Frontends by what packets are addressed to, and which addresses they make ours.
#[derive(Clone, Debug, Default)]
pub struct FrontendMap {
    entries: SharedMap<Target, FrontendEntry>,
    addresses: SharedMap<Address, AddressUse>,
}

/// What packets of a frontend are addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Target {
    address: Address,
    port: u16,
    protocol: u8,
}

impl MapKey for Target {
    fn word(self) -> u64 {
        self.address.word().wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ (u64::from(self.port) << 8 | u64::from(self.protocol))
    }
}

impl Hash for Target {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.word());
    }
}

impl From<&FrontendKey> for Target {
    fn from(key: &FrontendKey) -> Self {
        Self { address: key.address.into(), port: key.port, protocol: key.protocol.number() }
    }
}

/// What a frontend does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendEntry {
    /// Index of its Service in these tables.
    pub service: u32,
    /// Which face of the Service it is.
    pub kind: FrontendKind,
    /// What clients outside the cluster meet.
    pub outside: Treatment,
    /// What pods of the cluster meet.
    pub inside: Treatment,
}

/// How many frontends an address has, by whether it is a ClusterIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressUse {
    cluster: u32,
    others: u32,
}

impl AddressUse {
    /// Whether it is a ClusterIP, of which Turnpike answers every port (rule N4).
    #[must_use]
    pub const fn is_cluster_ip(self) -> bool {
        self.cluster > 0
    }
}

/// One Service port and its backends.
#[derive(Debug)]
pub struct ServiceTable {
    /// Identity.
    pub key: ServiceKey,
    /// The same identity as a number that is given out once, unlike an index: what remembers it cannot mean another Service port.
    pub id: u32,
    /// Session affinity, in seconds since the client's last new flow; 0: none.
    pub affinity_timeout_s: u32,
    /// Who may open flows to its load-balancer addresses; when empty, everyone (rules L1, L3).
    pub sources: Networks,
    /// How its flows are followed.
    pub tracking: Tracking,
    /// Whether backends behind full NAT are told their clients ([`crate::proxy_protocol`]).
    pub proxy_protocol: bool,
    /// Its backends in order of address and port.
    pub backends: Box<[BackendEntry]>,
    /// For each set that its frontends use; equal sets share one.
    choices: [Option<Arc<Maglev>>; 2],
}

/// Which sets of backends the frontends of a Service port use, by [`set_index`].
pub type UsedSets = [bool; 2];

/// The place of a set in [`UsedSets`].
#[must_use]
pub const fn set_index(set: BackendSet) -> usize {
    match set {
        BackendSet::Cluster => 0,
        BackendSet::Local => 1,
    }
}

/// The set a treatment chooses from, if it chooses.
#[must_use]
pub fn set_of(treatment: Treatment) -> Option<BackendSet> {
    (treatment.action == Action::Forward).then_some(treatment.set)
}

const SETS: [BackendSet; 2] = [BackendSet::Cluster, BackendSet::Local];

/// A backend as packets are addressed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    /// Its address.
    pub address: Address,
    /// What its address is called in 32 bits; among the backends of one Service port with its own port no other is called so.
    pub handle: u32,
    /// Its port.
    pub port: u16,
    /// Its share of new flows.
    pub weight: u16,
    /// Whether it is ready or terminating.
    pub state: BackendState,
    /// Whether live UDP flows may stay with it (rules U1, U2).
    pub serving: bool,
    sets: UsedSets,
}

impl BackendEntry {
    /// Whether it takes new flows of a set.
    #[must_use]
    pub const fn takes_new(&self, set: BackendSet) -> bool {
        self.sets[set_index(set)] && self.weight > 0
    }
}

impl Tables {
    /// Tables that answer nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            serial: 0,
            generation: 0,
            revision: 0,
            maglev_key: Secret::from_pair([0, 0]),
            node_ports: (1, 0),
            udp_changed: 0,
            networks: Arc::default(),
            frontends: FrontendMap::default(),
            services: SharedList::default(),
        }
    }

    /// The frontend a packet is addressed to.
    #[inline]
    #[must_use]
    pub fn frontend<K: Key>(&self, key: K) -> Option<FrontendEntry> {
        let address = key.destination_address();
        let target = Target { address, port: key.destination_port(), protocol: key.protocol() };
        self.frontends.entries.get(target).copied()
    }

    /// How an address is used by frontends, if it is.
    #[inline]
    #[must_use]
    pub fn address(&self, address: Address) -> Option<AddressUse> {
        self.frontends.addresses.get(address).copied()
    }

    /// The networks of the cluster.
    #[must_use]
    pub fn networks(&self) -> &ClusterNetworks {
        &self.networks
    }

    /// The Service with this index.
    #[inline]
    #[must_use]
    pub fn service(&self, index: u32) -> Option<&Arc<ServiceTable>> {
        self.services.get(index)
    }

    /// How the flows of the Service that a client's packets are for are followed; as usual where there is none any more.
    #[must_use]
    pub fn tracking<K: Key>(&self, client_key: K) -> Tracking {
        let service = self.frontend(client_key).and_then(|f| self.service(f.service));
        service.map_or_else(Tracking::default, |s| s.tracking)
    }

    /// Every Service.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceTable>> {
        self.services.iter()
    }

    /// The addresses that frontends make ours.
    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        self.frontends.addresses.keys()
    }

    /// Those of them that other tables have not.
    pub fn addresses_new_since<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Address> + 'a {
        self.frontends.addresses.keys_new_since(&other.frontends.addresses)
    }

    /// How many frontends there are.
    #[must_use]
    pub const fn frontend_count(&self) -> usize {
        self.frontends.entries.len()
    }
}

impl FrontendMap {
    /// Adds or replaces a frontend.
    pub(crate) fn put(&mut self, key: &FrontendKey, entry: FrontendEntry) {
        self.remove(key);
        let target = Target::from(key);
        let mut usage = self.addresses.get(target.address).copied().unwrap_or_default();
        *usage.count_of(entry.kind) += 1;
        self.addresses.insert(target.address, usage);
        self.entries.insert(target, entry);
    }

    /// Removes a frontend, if it is there.
    pub(crate) fn remove(&mut self, key: &FrontendKey) {
        let target = Target::from(key);
        let Some(entry) = self.entries.remove(target) else { return };
        let Some(mut usage) = self.addresses.get(target.address).copied() else { return };
        *usage.count_of(entry.kind) -= 1;
        if usage == AddressUse::default() {
            self.addresses.remove(target.address);
        } else {
            self.addresses.insert(target.address, usage);
        }
    }
}

impl AddressUse {
    const fn count_of(&mut self, kind: FrontendKind) -> &mut u32 {
        match kind {
            FrontendKind::ClusterIp => &mut self.cluster,
            _ => &mut self.others,
        }
    }
}

impl ServiceTable {
    /// Builds the table of one Service port. What it chooses by is taken from `former`, its table under the same Maglev key, where that would
    /// come out equal.
    #[must_use]
    pub fn build<'b>(
        service: &Service,
        id: u32,
        backends: impl Iterator<Item = &'b Backend>,
        used: UsedSets,
        maglev_key: &Secret,
        former: Option<&Self>,
    ) -> Self {
        let mut entries: Vec<BackendEntry> = backends
            .map(|b| {
                let address = Address::from(b.address.ip());
                BackendEntry {
                    address,
                    handle: handle(address),
                    port: b.address.port(),
                    weight: b.weight,
                    state: b.state,
                    serving: b.serving,
                    sets: SETS.map(|set| b.is_in(set)),
                }
            })
            .collect();
        entries.sort_by_key(|b| (b.address, b.port));
        tell_apart(&mut entries);
        let mut choices: [Option<Arc<Maglev>>; 2] = [None, None];
        let mut first: Option<Vec<Member>> = None;
        for (at, set) in SETS.into_iter().enumerate().filter(|&(at, _)| used[at]) {
            let members = members(&entries, set, maglev_key);
            choices[at] = match (&first, former.and_then(|f| f.choice_of(set, &members, maglev_key))) {
                (Some(same), _) if *same == members => choices[0].clone(),
                (_, Some(former)) => Some(Arc::clone(former)),
                _ => Some(Arc::new(Maglev::build(&members, maglev_key))),
            };
            first = Some(members);
        }
        Self {
            key: service.key.clone(),
            id,
            affinity_timeout_s: service.affinity_timeout_s,
            sources: Networks::of(&service.source_ranges),
            tracking: service.tracking,
            proxy_protocol: service.proxy_protocol,
            backends: entries.into(),
            choices,
        }
    }

    /// What it chooses by from a set, if that set has these members.
    fn choice_of(&self, set: BackendSet, wanted: &[Member], maglev_key: &Secret) -> Option<&Arc<Maglev>> {
        let choice = self.choices[set_index(set)].as_ref()?;
        (members(&self.backends, set, maglev_key) == wanted).then_some(choice)
    }

    /// Which sets it can choose from.
    #[must_use]
    pub const fn used_sets(&self) -> UsedSets {
        [self.choices[0].is_some(), self.choices[1].is_some()]
    }

    /// The backend of a new flow; none when no backend of the set takes new flows.
    #[must_use]
    pub fn choose<K: Key>(
        &self,
        set: BackendSet,
        client_key: K,
        maglev_key: &Secret,
    ) -> Option<&BackendEntry> {
        let choice = self.choices[set_index(set)].as_ref()?;
        self.backends.get(usize::from(choice.pick(maglev_key.hash(client_key))?))
    }

    /// Which slot of how many [`ServiceTable::choose`] looks at, and whose it is.
    #[must_use]
    pub fn slot<K: Key>(
        &self,
        set: BackendSet,
        client_key: K,
        maglev_key: &Secret,
    ) -> Option<(u32, u32, &BackendEntry)> {
        let choice = self.choices[set_index(set)].as_ref()?;
        let slot = choice.slot(maglev_key.hash(client_key));
        let backend = self.backends.get(usize::from(*choice.slots().get(slot as usize)?))?;
        Some((slot, choice.slots().len() as u32, backend))
    }

    /// The backend with this address and port.
    #[must_use]
    pub fn backend(&self, address: Address, port: u16) -> Option<&BackendEntry> {
        let at = self.backends.binary_search_by_key(&(address, port), |b| (b.address, b.port)).ok()?;
        self.backends.get(at)
    }

    /// The backend that is called so, with this port.
    #[must_use]
    pub fn backend_called(&self, handle: u32, port: u16) -> Option<&BackendEntry> {
        match self.backend(Address::v4(handle), port) {
            Some(backend) => Some(backend),
            None => self.backends.iter().find(|b| b.handle == handle && b.port == port),
        }
    }

    /// Whether a live UDP flow must leave this backend: it does not serve, and another one does (rules U1 to U3).
    #[must_use]
    pub fn is_deserted(&self, address: Address, port: u16) -> bool {
        !self.backend(address, port).is_some_and(|b| b.serving) && self.backends.iter().any(|b| b.serving)
    }

    /// The addresses and ports of the backends that serve.
    pub fn serving(&self) -> impl Iterator<Item = (Address, u16)> {
        self.backends.iter().filter(|b| b.serving).map(|b| (b.address, b.port))
    }
}

/// An IPv4 address as it is; of an IPv6 address a number in which few of them agree.
const fn handle(address: Address) -> u32 {
    match address.as_v4() {
        Some(address) => address,
        None => {
            let bits = address.bits();
            let mixed =
                (bits as u64 ^ ((bits >> 64) as u64).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed >> 32) as u32
        }
    }
}

/// Gives backends in order of address and port handles of their own, where those of one port agree.
fn tell_apart(backends: &mut [BackendEntry]) {
    let mut called: HashSet<(u32, u16)> = HashSet::with_capacity(backends.len());
    for backend in backends {
        while !called.insert((backend.handle, backend.port)) {
            backend.handle = backend.handle.wrapping_add(1);
        }
    }
}

/// Those who take new flows of a set.
fn members(backends: &[BackendEntry], set: BackendSet, maglev_key: &Secret) -> Vec<Member> {
    (0u16..)
        .zip(backends)
        .filter(|(_, b)| b.takes_new(set))
        .map(|(position, b)| Member {
            identity: match b.address.as_v4() {
                Some(address) => u64::from(address) << 16 | u64::from(b.port),
                None => maglev_key.address(b.address, u64::from(b.port)),
            },
            weight: b.weight,
            position,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_key::FlowKey;

    const KEY: Secret = Secret::from_pair([1, 2]);

    fn build(rows: &[(&str, &str, u16)], used: UsedSets, former: Option<&ServiceTable>) -> ServiceTable {
        let backends: Vec<Backend> = rows
            .iter()
            .map(|(address, how, weight)| Backend {
                address: address.parse().unwrap(),
                weight: *weight,
                state: BackendState::Ready,
                in_cluster_set: how.contains('c'),
                in_local_set: how.contains('l'),
                serving: how.contains('s'),
            })
            .collect();
        let service = Service {
            key: ServiceKey("a".into()),
            affinity_timeout_s: 0,
            source_ranges: vec![],
            tracking: Tracking::default(),
            proxy_protocol: false,
        };
        ServiceTable::build(&service, 1, backends.iter(), used, &KEY, former)
    }

    fn same(a: Option<&Arc<Maglev>>, b: Option<&Arc<Maglev>>) -> bool {
        a.zip(b).is_some_and(|(a, b)| Arc::ptr_eq(a, b))
    }

    #[test]
    fn a_choice_is_built_for_each_set_in_use_and_equal_sets_share_one() {
        let rows = [("10.0.0.1:80", "cls", 1), ("10.0.0.2:80", "cls", 1)];
        let both = build(&rows, [true, true], None);
        assert!(same(both.choices[0].as_ref(), both.choices[1].as_ref()));
        assert_eq!((both.backends.len(), both.used_sets()), (2, [true, true]));
        assert_eq!(build(&rows, [false, true], None).used_sets(), [false, true]);
        let apart = build(&[("10.0.0.1:80", "cls", 1), ("10.0.0.2:80", "cs", 1)], [true, true], None);
        assert!(!same(apart.choices[0].as_ref(), apart.choices[1].as_ref()));
        assert_eq!(apart.choices.map(|c| c.unwrap().slots().contains(&1)), [true, false]);
    }

    #[test]
    fn what_would_come_out_equal_is_taken_from_the_former_table() {
        let before = build(&[("10.0.0.1:80", "cls", 1), ("10.0.0.2:80", "cls", 1)], [true, true], None);
        // Whether it serves does not matter to the choice; who is in no set does not either, behind the others.
        let rows = [
            ("10.0.0.1:80", "cl", 1),
            ("10.0.0.2:80", "cls", 1),
            ("10.0.0.3:80", "s", 1),
            ("10.0.0.4:80", "cls", 0),
        ];
        let after = build(&rows, [true, false], Some(&before));
        assert!(same(before.choices[0].as_ref(), after.choices[0].as_ref()));
        let again = build(&rows, [true, true], Some(&after));
        assert!(same(after.choices[0].as_ref(), again.choices[1].as_ref()), "also for a set newly in use");
        // Places and weights do matter.
        for rows in [
            [("10.0.0.0:80", "s", 1), ("10.0.0.1:80", "cls", 1), ("10.0.0.2:80", "cls", 1)],
            [("10.0.0.1:80", "cls", 1), ("10.0.0.2:80", "cls", 2), ("10.0.0.3:80", "s", 1)],
        ] {
            let other = build(&rows, [true, false], Some(&before));
            assert!(!same(before.choices[0].as_ref(), other.choices[0].as_ref()), "{rows:?}");
            let key = FlowKey::new(6, 1, 2, 3, 4);
            let chosen = other.choose(BackendSet::Cluster, key, &KEY).unwrap();
            assert!(chosen.takes_new(BackendSet::Cluster));
        }
    }

    #[test]
    fn a_backend_is_deserted_when_another_serves() {
        let table = build(&[("10.0.0.1:53", "cls", 1), ("10.0.0.2:53", "", 1)], [true, false], None);
        let deserted = |host: u32, port| table.is_deserted(Address::v4(0x0a00_0000 + host), port);
        assert_eq!(
            [deserted(1, 53), deserted(2, 53), deserted(3, 53), deserted(1, 54)],
            [false, true, true, true]
        );
        let nobody = build(&[("10.0.0.2:53", "c", 1)], [true, false], None);
        assert!(
            !nobody.is_deserted(Address::v4(0x0a00_0002), 53)
                && !nobody.is_deserted(Address::v4(0x0a00_0009), 53)
        );
    }

    #[test]
    fn every_backend_of_a_port_has_a_handle_of_its_own() {
        let mut backends: Vec<BackendEntry> =
            build(&[("[2001:db8::1]:80", "cls", 1)], [true, false], None).backends.to_vec();
        let one = backends[0];
        backends.extend([one, BackendEntry { port: 81, ..one }, one]);
        tell_apart(&mut backends);
        let offsets: Vec<_> = backends.iter().map(|b| (b.handle.wrapping_sub(one.handle), b.port)).collect();
        assert_eq!(offsets, [(0, 80), (1, 80), (0, 81), (2, 80)]);
        let table =
            build(&[("[2001:db8::1]:80", "cls", 1), ("[2001:db8::2]:80", "cls", 1)], [true, false], None);
        for backend in &table.backends {
            assert_eq!(table.backend_called(backend.handle, 80), Some(backend));
            assert_eq!(table.backend(backend.address, 80), Some(backend));
        }
        assert_eq!(table.backend_called(table.backends[0].handle, 81), None);
    }
}
