//! Any one of the objects: its kind, its name, its metadata.

use crate::k8s::{EndpointSlice, Node, ObjectMeta, Pod, Service, ServiceCidr};
use serde::Serialize;
use std::fmt;

/// Kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// `v1 Service`
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`
    EndpointSlice,
    /// `v1 Pod`
    Pod,
    /// `v1 Node`
    Node,
    /// `networking.k8s.io/v1 ServiceCIDR`
    #[serde(rename = "ServiceCIDR")]
    ServiceCidr,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Service, Self::EndpointSlice, Self::Pod, Self::Node, Self::ServiceCidr];

    /// The API version that is read and written; no other is.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Pod | Self::Node => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::ServiceCidr => "networking.k8s.io/v1",
        }
    }

    /// Its name in manifests and envelopes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        }
    }

    /// Whether its objects live in namespaces.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        matches!(self, Self::Service | Self::EndpointSlice | Self::Pod)
    }

    /// The kind of that API version and name.
    #[must_use]
    pub fn from_type(api_version: &str, name: &str) -> Option<Self> {
        Self::from_name(name).filter(|kind| kind.api_version() == api_version)
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Namespace and name: one object among those of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// Empty for objects of the whole cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object in a namespace.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key of the object that has this metadata.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self::new(&metadata.namespace, &metadata.name)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Any one of the objects.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `v1 Service`
    Service(Box<Service>),
    /// `discovery.k8s.io/v1 EndpointSlice`
    EndpointSlice(Box<EndpointSlice>),
    /// `v1 Pod`
    Pod(Box<Pod>),
    /// `v1 Node`
    Node(Box<Node>),
    /// `networking.k8s.io/v1 ServiceCIDR`
    ServiceCidr(Box<ServiceCidr>),
}

impl Object {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Pod(_) => Kind::Pod,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }

    /// Its namespace and name.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        ObjectKey::of(self.metadata())
    }

    /// Its metadata.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Service(o) => &o.metadata,
            Self::EndpointSlice(o) => &o.metadata,
            Self::Pod(o) => &o.metadata,
            Self::Node(o) => &o.metadata,
            Self::ServiceCidr(o) => &o.metadata,
        }
    }

    /// Its metadata, to change.
    #[must_use]
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Service(o) => &mut o.metadata,
            Self::EndpointSlice(o) => &mut o.metadata,
            Self::Pod(o) => &mut o.metadata,
            Self::Node(o) => &mut o.metadata,
            Self::ServiceCidr(o) => &mut o.metadata,
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.key())
    }
}

impl From<Service> for Object {
    fn from(object: Service) -> Self {
        Self::Service(Box::new(object))
    }
}

impl From<EndpointSlice> for Object {
    fn from(object: EndpointSlice) -> Self {
        Self::EndpointSlice(Box::new(object))
    }
}

impl From<Pod> for Object {
    fn from(object: Pod) -> Self {
        Self::Pod(Box::new(object))
    }
}

impl From<Node> for Object {
    fn from(object: Node) -> Self {
        Self::Node(Box::new(object))
    }
}

impl From<ServiceCidr> for Object {
    fn from(object: ServiceCidr) -> Self {
        Self::ServiceCidr(Box::new(object))
    }
}
