//! [`Tables`]: what the workers look up, immutable once built. [`crate::stage`] builds them, [`crate::mailbox`] hands them out.

use crate::flow_key::FlowKey;
use crate::hash::Secret;
use crate::maglev::{Maglev, Member};
use hashbrown::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use turnpike_wire::update::{Action, Backend, BackendState, FrontendKey, FrontendKind, ServiceKey};

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
    pub(crate) frontends: Arc<FrontendMap>,
    pub(crate) services: Vec<Option<Arc<ServiceTable>>>,
}

/// Frontends by what packets are addressed to, and which addresses they make ours.
#[derive(Clone, Debug, Default)]
pub struct FrontendMap {
    entries: HashMap<u64, FrontendEntry>,
    addresses: HashMap<u32, AddressUse>,
}

/// What a frontend does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontendEntry {
    /// Index of its Service.
    pub service: u32,
    /// What happens to a packet of no live flow.
    pub action: Action,
    /// Which face of the Service it is.
    pub kind: FrontendKind,
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
    /// Its backends in order of address and port.
    pub backends: Box<[BackendEntry]>,
    maglev: Maglev,
}

/// A backend as packets are addressed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    /// Its address.
    pub address: u32,
    /// Its port.
    pub port: u16,
    /// Its share of new flows.
    pub weight: u16,
    /// Whether it is ready or terminating.
    pub state: BackendState,
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
            frontends: Arc::default(),
            services: Vec::new(),
        }
    }

    /// The frontend a packet is addressed to.
    #[inline]
    #[must_use]
    pub fn frontend(&self, key: FlowKey) -> Option<FrontendEntry> {
        let packed = pack(key.destination(), key.destination_port(), key.protocol());
        self.frontends.entries.get(&packed).copied()
    }

    /// How an address is used by frontends, if it is.
    #[inline]
    #[must_use]
    pub fn address(&self, address: u32) -> Option<AddressUse> {
        self.frontends.addresses.get(&address).copied()
    }

    /// The Service with this index.
    #[inline]
    #[must_use]
    pub fn service(&self, index: u32) -> Option<&Arc<ServiceTable>> {
        self.services.get(index as usize)?.as_ref()
    }

    /// Every Service.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceTable>> {
        self.services.iter().flatten()
    }

    /// How many frontends there are.
    #[must_use]
    pub fn frontend_count(&self) -> usize {
        self.frontends.entries.len()
    }
}

impl FrontendMap {
    /// Adds or replaces a frontend; one that is not IPv4 is not looked up here.
    pub(crate) fn put(&mut self, key: &FrontendKey, entry: FrontendEntry) {
        self.remove(key);
        let IpAddr::V4(address) = key.address else { return };
        let usage = self.addresses.entry(address.into()).or_default();
        *usage.count_of(entry.kind) += 1;
        self.entries.insert(packed(address, key), entry);
    }

    /// Removes a frontend, if it is there.
    pub(crate) fn remove(&mut self, key: &FrontendKey) {
        let IpAddr::V4(address) = key.address else { return };
        let Some(entry) = self.entries.remove(&packed(address, key)) else { return };
        if let Some(usage) = self.addresses.get_mut(&u32::from(address)) {
            *usage.count_of(entry.kind) -= 1;
            if *usage == AddressUse::default() {
                self.addresses.remove(&u32::from(address));
            }
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
    /// Builds the table of one Service; backends that are not IPv4 are left out of it.
    #[must_use]
    pub fn build<'b>(
        key: ServiceKey,
        backends: impl Iterator<Item = &'b Backend>,
        maglev_key: &Secret,
    ) -> Self {
        let mut entries: Vec<BackendEntry> = backends
            .filter_map(|b| match b.address {
                SocketAddr::V4(a) => Some(BackendEntry {
                    address: (*a.ip()).into(),
                    port: a.port(),
                    weight: b.weight,
                    state: b.state,
                }),
                SocketAddr::V6(_) => None,
            })
            .collect();
        entries.sort_by_key(|b| (b.address, b.port));
        let members: Vec<Member> = (0u16..)
            .zip(&entries)
            .map(|(position, b)| Member {
                identity: u64::from(b.address) << 16 | u64::from(b.port),
                weight: b.weight,
                position,
            })
            .collect();
        Self { key, maglev: Maglev::build(&members, maglev_key), backends: entries.into() }
    }

    /// The backend of a new flow; none when no backend takes new flows.
    #[must_use]
    pub fn choose(&self, client_key: FlowKey, maglev_key: &Secret) -> Option<&BackendEntry> {
        self.backends.get(usize::from(self.maglev.pick(maglev_key.hash(client_key))?))
    }

    /// Whether this is one of its backends.
    #[must_use]
    pub fn has_backend(&self, address: u32, port: u16) -> bool {
        self.backends.binary_search_by_key(&(address, port), |b| (b.address, b.port)).is_ok()
    }
}

fn packed(address: Ipv4Addr, key: &FrontendKey) -> u64 {
    pack(address.into(), key.port, key.protocol.number())
}

const fn pack(address: u32, port: u16, protocol: u8) -> u64 {
    (address as u64) << 32 | (port as u64) << 16 | protocol as u64
}
