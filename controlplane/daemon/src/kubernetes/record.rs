//! One load-balancer address in etcd: `PREFIX/addresses/ADDRESS`, with the Services that have it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;
use turnpike_desired::object::ObjectKey;

/// The value of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who has the address; several where they share it.
    pub services: BTreeSet<Tenant>,
}

/// A Service that has an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tenant {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Tenant {
    /// The Service's key.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.namespace, &self.name)
    }
}

impl From<&ObjectKey> for Tenant {
    fn from(key: &ObjectKey) -> Self {
        Self { namespace: key.namespace.clone(), name: key.name.clone() }
    }
}

/// A record and when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it says; none: nothing that can be read, so the address is left alone.
    pub record: Option<Record>,
    /// etcd `mod_revision`.
    pub revision: i64,
}

impl Entry {
    /// Reads a value.
    #[must_use]
    pub fn read(value: &[u8], revision: i64) -> Self {
        Self { record: serde_json::from_slice(value).ok(), revision }
    }

    /// Who has the address.
    pub fn tenants(&self) -> impl Iterator<Item = ObjectKey> {
        self.record.iter().flat_map(|record| &record.services).map(Tenant::key)
    }
}

/// The address a key is of.
#[must_use]
pub fn address_of(prefix: &str, key: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(key).ok()?.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_nonsense_is_left_alone() {
        let services = [Tenant { namespace: "shop".into(), name: "web".into() }].into();
        let record = Record { services };
        let entry = Entry::read(&serde_json::to_vec(&record).unwrap(), 7);
        assert_eq!(entry, Entry { record: Some(record), revision: 7 });
        assert_eq!(entry.tenants().collect::<Vec<_>>(), [ObjectKey::new("shop", "web")]);
        for nonsense in [&b"{"[..], b"", b"[]", b"\xff"] {
            assert_eq!(Entry::read(nonsense, 7).record, None);
        }
        assert_eq!(address_of("/t/addresses/", b"/t/addresses/203.0.113.5"), "203.0.113.5".parse().ok());
        assert_eq!(address_of("/t/addresses/", b"/t/addresses/web"), None);
        assert_eq!(address_of("/t/addresses/", b"/elsewhere/203.0.113.5"), None);
    }
}
