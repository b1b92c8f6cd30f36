//! A cluster as a kube-apiserver stores it: Services of type ClusterIP, one EndpointSlice each, with the padding real objects have.

use prost::Message;
use std::net::Ipv4Addr;
use turnpike_desired::envelope::MAGIC;
use turnpike_desired::k8s::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, ObjectMeta, ObjectReference, Service,
    ServiceCidr, ServicePort, Time,
};
use turnpike_desired::object::Object;
use turnpike_desired::registry::Registry;

/// Nodes over which endpoints are spread.
const NODES: u32 = 500;
/// Namespaces over which Services are spread.
const NAMESPACES: u32 = 50;
/// Bytes of `metadata.managedFields` in each object, about as in recorded clusters. Nobody reads them, but they are carried.
const MANAGED_FIELDS_BYTES: usize = 400;
/// Its tag in `ObjectMeta`: field 17, length-delimited.
const MANAGED_FIELDS_TAG: [u8; 2] = [0x8a, 0x01];

/// How large the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
}

/// A key and a value of etcd.
pub type Stored = (String, Vec<u8>);

/// Writes objects of one cluster.
#[derive(Debug)]
pub struct Cluster {
    registry: Registry,
    size: Size,
}

impl Cluster {
    /// A cluster of that size under `prefix`.
    #[must_use]
    pub fn new(prefix: &str, size: Size) -> Self {
        Self { registry: Registry::new(prefix), size }
    }

    /// Everything it has at first.
    pub fn objects(&self) -> impl Iterator<Item = Stored> + '_ {
        let services = (0..self.size.services).map(|n| self.stored(&self.service(n).into()));
        let slices = (0..self.size.services).map(|n| self.slice(n, 0));
        std::iter::once(self.stored(&service_cidr().into())).chain(services).chain(slices)
    }

    /// The slice of Service `n` with its endpoints; the first of them has an address of its own in each `round`.
    #[must_use]
    pub fn slice(&self, n: u32, round: u32) -> Stored {
        let name = service_name(n);
        let mut metadata = meta(&slice_name(n), n);
        metadata.generate_name = format!("{name}-");
        metadata.labels.insert("kubernetes.io/service-name".into(), name);
        metadata.labels.insert(
            "endpointslice.kubernetes.io/managed-by".into(),
            "endpointslice-controller.k8s.io".into(),
        );
        let first = n * self.size.endpoints;
        let endpoints = (0..self.size.endpoints).map(|e| match e {
            0 => endpoint(
                first,
                Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 160, 0, 0)) + (first + round * 7) % (1 << 21)),
            ),
            _ => endpoint(first + e, Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + first + e)),
        });
        let port = EndpointPort {
            name: Some("http".into()),
            protocol: Some("TCP".into()),
            port: Some(8080),
            app_protocol: None,
        };
        let slice = EndpointSlice {
            metadata,
            endpoints: endpoints.collect(),
            ports: vec![port],
            address_type: "IPv4".into(),
        };
        self.stored(&slice.into())
    }

    fn service(&self, n: u32) -> Service {
        let mut service = Service { metadata: meta(&service_name(n), n), ..Service::default() };
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + n).to_string();
        let spec = &mut service.spec;
        spec.selector.insert("app".into(), service_name(n));
        spec.r#type = "ClusterIP".into();
        spec.cluster_ips = vec![address.clone()];
        spec.cluster_ip = address;
        spec.ip_families = vec!["IPv4".into()];
        spec.ip_family_policy = Some("SingleStack".into());
        spec.internal_traffic_policy = Some("Cluster".into());
        spec.session_affinity = "None".into();
        spec.ports = vec![ServicePort {
            name: "http".into(),
            protocol: "TCP".into(),
            port: 80,
            ..ServicePort::default()
        }];
        service
    }

    fn stored(&self, object: &Object) -> Stored {
        let (kind, raw) = (object.kind(), message(object));
        // Fields of a message may be written in parts; what reads them puts them together.
        let managed = field(&MANAGED_FIELDS_TAG, &[b'f'; MANAGED_FIELDS_BYTES]);
        let raw = [raw, field(&[0x0a], &managed)].concat();
        let type_meta =
            [field(&[0x0a], kind.api_version().as_bytes()), field(&[0x12], kind.name().as_bytes())];
        let envelope = [field(&[0x0a], &type_meta.concat()), field(&[0x12], &raw), vec![0x1a, 0, 0x22, 0]];
        (self.registry.key(kind, &object.key()), [MAGIC.to_vec(), envelope.concat()].concat())
    }
}

fn message(object: &Object) -> Vec<u8> {
    match object {
        Object::Service(o) => o.encode_to_vec(),
        Object::EndpointSlice(o) => o.encode_to_vec(),
        Object::Pod(o) => o.encode_to_vec(),
        Object::Node(o) => o.encode_to_vec(),
        Object::ServiceCidr(o) => o.encode_to_vec(),
    }
}

/// A length-delimited field.
fn field(tag: &[u8], content: &[u8]) -> Vec<u8> {
    let mut bytes = tag.to_vec();
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend(content);
    bytes
}

fn service_name(n: u32) -> String {
    format!("service-{n:05}")
}

fn slice_name(n: u32) -> String {
    format!("{}-x7k2p", service_name(n))
}

fn meta(name: &str, n: u32) -> ObjectMeta {
    ObjectMeta {
        name: name.into(),
        namespace: format!("team-{:02}", n % NAMESPACES),
        uid: format!("3f1c9a52-0b7e-4d7a-9c55-{n:012x}"),
        generation: 1,
        creation_timestamp: Time::from_unix_seconds(1_700_000_000),
        ..ObjectMeta::default()
    }
}

fn endpoint(at: u32, address: Ipv4Addr) -> Endpoint {
    let pod = ObjectReference {
        kind: "Pod".into(),
        namespace: format!("team-{:02}", at % NAMESPACES),
        name: format!("pod-6d4b75cb6d-{at:06}"),
        uid: format!("8a6e0804-2bd0-4672-b79d-{at:012x}"),
        ..ObjectReference::default()
    };
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) },
        target_ref: Some(pod),
        node_name: Some(format!("node-{:03}", at % NODES)),
        zone: Some(format!("zone-{}", at % 3)),
        ..Endpoint::default()
    }
}

fn service_cidr() -> ServiceCidr {
    let metadata = ObjectMeta { name: "kubernetes".into(), ..ObjectMeta::default() };
    let mut cidr = ServiceCidr { metadata, ..ServiceCidr::default() };
    cidr.spec.cidrs = vec!["10.96.0.0/12".into()];
    cidr
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;
    use turnpike_desired::object::Kind;
    use turnpike_desired::resolve::Resolver;
    use turnpike_desired::settings::Settings;
    use turnpike_desired::tracker::{RegistryEvent, Tracker};
    use turnpike_wire::config::Config;

    fn event((key, value): &Stored, revision: i64) -> RegistryEvent<'_> {
        RegistryEvent { key: key.as_bytes(), value: Some(value.as_slice()), mod_revision: revision }
    }

    fn addresses(tracker: &Tracker) -> BTreeSet<String> {
        let mut resolver = Resolver::new(Settings::from_config(&Config::default()));
        let mut tracker = tracker.clone();
        let desired = resolver.resolve(&mut tracker).unwrap();
        assert!(resolver.problems().is_empty(), "{:?}", resolver.problems());
        desired.services.values().flat_map(|s| s.backends.keys()).map(ToString::to_string).collect()
    }

    #[test]
    fn everything_is_understood_and_a_round_moves_one_endpoint() {
        let cluster = Cluster::new("/registry", Size { services: 30, endpoints: 4 });
        let objects: Vec<Stored> = cluster.objects().collect();
        let mut tracker = Tracker::new(Registry::new("/registry"), &Kind::ALL);
        for kind in Kind::ALL {
            let prefix = Registry::new("/registry").list_prefix(kind);
            let of_kind = objects.iter().filter(|(key, _)| key.starts_with(&prefix));
            tracker.replace_all(kind, of_kind.map(|stored| event(stored, 1)));
        }
        assert_eq!(tracker.skipped(), vec![]);
        let before = addresses(&tracker);
        assert_eq!(before.len(), 120);
        tracker.apply(&event(&cluster.slice(7, 3), 2));
        let after = addresses(&tracker);
        assert_eq!((before.difference(&after).count(), after.difference(&before).count()), (1, 1));
    }
}
