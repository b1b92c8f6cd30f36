//! Where each object is in etcd: prefix and kind and name ↔ key.
//!
//! A Service's walk starts here: `registry` → [`crate::envelope`] → [`crate::tracker`] → [`crate::resolve`] → [`crate::diff`].

use crate::object::{Kind, ObjectKey};

/// What is listed and watched as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// All objects of a kind.
    Objects(Kind),
    /// The networks of service addresses of clusters that have no ServiceCIDR objects yet.
    ServiceRanges,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 6] = [
        Self::Objects(Kind::Service),
        Self::Objects(Kind::EndpointSlice),
        Self::Objects(Kind::Pod),
        Self::Objects(Kind::Node),
        Self::Objects(Kind::ServiceCidr),
        Self::ServiceRanges,
    ];

    /// Whether nothing can be forwarded without it.
    #[must_use]
    pub const fn is_required(self) -> bool {
        matches!(self, Self::Objects(Kind::Service | Kind::EndpointSlice))
    }
}

/// Names below `ranges/` whose values are networks; `servicenodeports` is none.
const SERVICE_RANGES: [&str; 2] = ["serviceips", "secondaryserviceips"];

/// The tree of Kubernetes objects in one etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    prefix: String,
}

/// Path of a kind below the prefix. Services and Nodes have names from before there were rules.
const fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "services/specs",
        Kind::EndpointSlice => "endpointslices",
        Kind::Pod => "pods",
        Kind::Node => "minions",
        Kind::ServiceCidr => "servicecidrs",
    }
}

impl Registry {
    /// The tree below `prefix`, with or without slashes at its ends, e.g. `/registry`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let trimmed = prefix.trim_matches('/');
        Self { prefix: if trimmed.is_empty() { String::new() } else { format!("/{trimmed}") } }
    }

    /// What to list and watch for all objects of `kind`. Ends with a slash, so that no other kind's keys match.
    #[must_use]
    pub fn list_prefix(&self, kind: Kind) -> String {
        format!("{}/{}/", self.prefix, path(kind))
    }

    /// What to list and watch for a part. Ends with a slash.
    #[must_use]
    pub fn part_prefix(&self, part: Part) -> String {
        match part {
            Part::Objects(kind) => self.list_prefix(kind),
            Part::ServiceRanges => format!("{}/ranges/", self.prefix),
        }
    }

    /// Whether a key holds a network of service addresses.
    #[must_use]
    pub fn is_service_range(&self, key: &[u8]) -> bool {
        let below = key.strip_prefix(self.prefix.as_bytes()).and_then(|key| key.strip_prefix(b"/ranges/"));
        below.is_some_and(|name| SERVICE_RANGES.iter().any(|range| range.as_bytes() == name))
    }

    /// The key of one object.
    #[must_use]
    pub fn key(&self, kind: Kind, object: &ObjectKey) -> String {
        let prefix = self.list_prefix(kind);
        if kind.is_namespaced() {
            format!("{prefix}{}/{}", object.namespace, object.name)
        } else {
            format!("{prefix}{}", object.name)
        }
    }

    /// The object a key belongs to, if it is one of a kind that is read.
    #[must_use]
    pub fn parse(&self, key: &[u8]) -> Option<(Kind, ObjectKey)> {
        let below = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        Kind::ALL.into_iter().find_map(|kind| {
            let rest = below.strip_prefix(path(kind))?.strip_prefix('/')?;
            let (namespace, name) = if kind.is_namespaced() { rest.split_once('/')? } else { ("", rest) };
            let sound =
                !name.is_empty() && !name.contains('/') && namespace.is_empty() != kind.is_namespaced();
            sound.then(|| (kind, ObjectKey::new(namespace, name)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, Registry};
    use crate::object::{Kind, ObjectKey};

    #[test]
    fn keys_are_those_of_the_apiserver_and_read_back() {
        let rows = [
            (Kind::Service, "shop", "web", "/registry/services/specs/shop/web"),
            (Kind::EndpointSlice, "shop", "web-x7", "/registry/endpointslices/shop/web-x7"),
            (Kind::Pod, "shop", "web-0", "/registry/pods/shop/web-0"),
            (Kind::Node, "", "node-a", "/registry/minions/node-a"),
            (Kind::ServiceCidr, "", "kubernetes", "/registry/servicecidrs/kubernetes"),
        ];
        for prefix in ["/registry", "registry/", "/registry/"] {
            let registry = Registry::new(prefix);
            for (kind, namespace, name, key) in rows {
                let object = ObjectKey::new(namespace, name);
                assert_eq!(registry.key(kind, &object), key);
                assert!(key.starts_with(&registry.list_prefix(kind)), "{key}");
                assert_eq!(registry.parse(key.as_bytes()), Some((kind, object)), "{key}");
            }
        }
    }

    #[test]
    fn networks_of_service_addresses_are_told_from_other_ranges() {
        let registry = Registry::new("/registry");
        let rows = [
            ("/registry/ranges/serviceips", true),
            ("/registry/ranges/secondaryserviceips", true),
            ("/registry/ranges/servicenodeports", false),
            ("/registry/ranges/", false),
            ("/other/ranges/serviceips", false),
        ];
        for (key, is_range) in rows {
            assert_eq!(registry.is_service_range(key.as_bytes()), is_range, "{key}");
            assert_eq!(registry.parse(key.as_bytes()), None, "{key}");
        }
        assert_eq!(registry.part_prefix(Part::ServiceRanges), "/registry/ranges/");
        let required: Vec<Part> = Part::ALL.into_iter().filter(|part| part.is_required()).collect();
        assert_eq!(required, [Part::Objects(Kind::Service), Part::Objects(Kind::EndpointSlice)]);
    }

    #[test]
    fn other_keys_are_no_objects() {
        let registry = Registry::new("/registry");
        for key in [
            "/registry/services/endpoints/shop/web",
            "/registry/services/specs/web",
            "/registry/services/specs//web",
            "/registry/services/specs/shop/",
            "/registry/services/specs/shop/web/x",
            "/registry/podsecuritypolicy/restricted",
            "/registry/pods",
            "/registry/minions/",
            "/registryservices/specs/shop/web",
            "/other/services/specs/shop/web",
            "compact_rev_key",
            "",
        ] {
            assert_eq!(registry.parse(key.as_bytes()), None, "{key}");
        }
        assert_eq!(registry.parse(b"/registry/pods/a/\xff"), None);
        assert_eq!(Registry::new("/").key(Kind::Node, &ObjectKey::new("", "a")), "/minions/a");
    }
}
