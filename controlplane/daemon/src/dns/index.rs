//! All names, found by namespace and Service, and by address.

use super::names::Names;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use turnpike_desired::object::ObjectKey;

/// Whom an address belongs to: a Service, or one of its hostnames.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The Service.
    pub service: ObjectKey,
    /// The hostname of an endpoint; none: the Service itself.
    pub host: Option<String>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// Every Service object, also those without names: their namespaces exist.
    namespaces: HashMap<String, HashMap<String, Option<Names>>>,
    addresses: BTreeMap<IpAddr, BTreeSet<Owner>>,
    networks: Vec<IpNet>,
    revision: Option<i64>,
    named: usize,
}

impl Index {
    /// Puts the names of a Service in place of those before. The Service exists, even if it has none.
    pub fn put(&mut self, service: &ObjectKey, names: Option<Names>) {
        self.forget_addresses(service);
        if let Some(names) = &names {
            self.named += 1;
            for (address, host) in names.reverse() {
                let owner = Owner { service: service.clone(), host: host.map(str::to_owned) };
                self.addresses.entry(address).or_default().insert(owner);
            }
        }
        self.namespaces.entry(service.namespace.clone()).or_default().insert(service.name.clone(), names);
    }

    /// The Service is gone.
    pub fn remove(&mut self, service: &ObjectKey) {
        self.forget_addresses(service);
        if let Some(services) = self.namespaces.get_mut(&service.namespace) {
            services.remove(&service.name);
            if services.is_empty() {
                self.namespaces.remove(&service.namespace);
            }
        }
    }

    fn forget_addresses(&mut self, service: &ObjectKey) {
        let services = self.namespaces.get_mut(&service.namespace);
        let old = services.and_then(|services| services.get_mut(&service.name)).and_then(Option::take);
        let Some(old) = old else { return };
        self.named -= 1;
        for (address, host) in old.reverse() {
            let Some(owners) = self.addresses.get_mut(&address) else { continue };
            owners.remove(&Owner { service: service.clone(), host: host.map(str::to_owned) });
            if owners.is_empty() {
                self.addresses.remove(&address);
            }
        }
    }

    /// The networks of cluster addresses, and the revision of all this.
    pub fn complete(&mut self, networks: Vec<IpNet>, revision: i64) {
        self.networks = networks;
        self.revision = Some(revision);
    }

    /// etcd revision of the names; none before the first complete view of the cluster.
    #[must_use]
    pub const fn revision(&self) -> Option<i64> {
        self.revision
    }

    /// Whether there is a Service in that namespace.
    #[must_use]
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// The names of a Service.
    #[must_use]
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Names> {
        self.namespaces.get(namespace)?.get(name)?.as_ref()
    }

    /// Whom an address belongs to.
    pub fn owners(&self, address: IpAddr) -> impl Iterator<Item = &Owner> {
        self.addresses.get(&address).into_iter().flatten()
    }

    /// Whether an address of this network belongs to somebody.
    #[must_use]
    pub fn has_address_in(&self, network: IpNet) -> bool {
        self.addresses.range(network.network()..=network.broadcast()).next().is_some()
    }

    /// The networks of cluster addresses.
    #[must_use]
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// Services that have names.
    #[must_use]
    pub const fn named(&self) -> usize {
        self.named
    }

    /// Addresses that lead back to names.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.addresses.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{Index, Names};
    use std::collections::BTreeMap;
    use turnpike_desired::object::ObjectKey;

    fn at(addresses: &[&str]) -> Option<Names> {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        Some(Names::Addressed { addresses, ports: BTreeMap::new() })
    }

    #[test]
    fn what_is_replaced_or_removed_leaves_nothing_behind() {
        let mut index = Index::default();
        let (web, db) = (ObjectKey::new("shop", "web"), ObjectKey::new("shop", "db"));
        let shared = "10.96.0.1".parse().unwrap();
        index.put(&web, at(&["10.96.0.1", "fd00::1"]));
        index.put(&db, at(&["10.96.0.1"]));
        assert_eq!((index.named(), index.addresses(), index.owners(shared).count()), (2, 2, 2));
        index.put(&web, at(&["10.96.0.2"]));
        assert_eq!((index.named(), index.addresses(), index.owners(shared).count()), (2, 2, 1));
        assert!(index.has_address_in("10.96.0.0/16".parse().unwrap()));
        assert!(!index.has_address_in("fd00::/8".parse().unwrap()));
        index.put(&db, None);
        assert_eq!((index.named(), index.owners(shared).count()), (1, 0));
        assert!(index.service("shop", "db").is_none() && index.service("shop", "web").is_some());
        index.remove(&web);
        assert!(index.has_namespace("shop"), "a Service without names is one");
        index.remove(&db);
        index.remove(&db);
        assert!(!index.has_namespace("shop"));
        assert_eq!((index.named(), index.addresses()), (0, 0));
    }
}
