//! A small cluster for tests: objects in, lines that people can read out.

use crate::desired::Desired;
use crate::envelope;
use crate::k8s::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, LoadBalancerIngress, ObjectMeta,
    ObjectReference, Pod, Service, ServicePort, Time,
};
use crate::object::{Kind, Object};
use crate::registry::Registry;
use crate::resolve::Resolver;
use crate::settings::{LoadBalancerScope, Settings};
use crate::tracker::{RegistryEvent, Tracker};
use crate::words::SERVICE_NAME_LABEL;
use std::sync::Arc;
use turnpike_wire::config::PortRange;

/// Metadata of `namespace/name`.
pub(crate) fn mk_meta(name: &str) -> ObjectMeta {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let creation_timestamp = Time::from_unix_seconds(1_000);
    ObjectMeta { namespace: namespace.into(), name: name.into(), creation_timestamp, ..Default::default() }
}

/// A Service of type ClusterIP with the port `http` 80/TCP; `cluster_ip` may be empty or `None`.
pub(crate) fn mk_service(name: &str, cluster_ip: &str) -> Service {
    let mut service = Service { metadata: mk_meta(name), ..Default::default() };
    service.spec.r#type = "ClusterIP".into();
    service.spec.cluster_ip = cluster_ip.into();
    service.spec.cluster_ips = if cluster_ip.is_empty() { Vec::new() } else { vec![cluster_ip.into()] };
    service.spec.ip_families = vec![if cluster_ip.contains(':') { "IPv6" } else { "IPv4" }.into()];
    service.spec.ports = vec![mk_port("http", "TCP", 80)];
    service
}

/// A Service port.
pub(crate) fn mk_port(name: &str, protocol: &str, port: i32) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: protocol.into(),
        port,
        target_port: 8080.into(),
        ..Default::default()
    }
}

/// Gives a Service a load-balancer address.
pub(crate) fn mk_public(service: &mut Service, address: &str) {
    service.spec.r#type = "LoadBalancer".into();
    let ingress = LoadBalancerIngress { ip: address.into(), ..Default::default() };
    service.status.load_balancer.ingress.push(ingress);
}

/// A slice `name` of `service` with the port `http` 8080/TCP. An endpoint is an address, then `+` ready, `-` not ready, `~` serving
/// and terminating, `x` terminating; without a sign it has no conditions.
pub(crate) fn mk_slice(name: &str, service: &str, endpoints: &[&str]) -> EndpointSlice {
    let mut metadata = mk_meta(name);
    metadata.labels.insert(SERVICE_NAME_LABEL.into(), service.into());
    let six = endpoints.first().is_some_and(|text| text.contains(':'));
    EndpointSlice {
        metadata,
        endpoints: endpoints.iter().map(|text| mk_endpoint(text)).collect(),
        ports: vec![mk_endpoint_port("http", "TCP", 8080)],
        address_type: if six { "IPv6" } else { "IPv4" }.into(),
    }
}

fn mk_endpoint(text: &str) -> Endpoint {
    let address = text.trim_end_matches(['+', '-', '~', 'x']);
    let (ready, serving, terminating) = match &text[address.len()..] {
        "+" => (Some(true), Some(true), Some(false)),
        "-" => (Some(false), Some(false), Some(false)),
        "~" => (Some(false), Some(true), Some(true)),
        "x" => (Some(false), Some(false), Some(true)),
        _ => (None, None, None),
    };
    let conditions = EndpointConditions { ready, serving, terminating };
    Endpoint { addresses: vec![address.into()], conditions, ..Default::default() }
}

/// A slice port.
pub(crate) fn mk_endpoint_port(name: &str, protocol: &str, port: i32) -> EndpointPort {
    let (name, protocol) = (Some(name.into()), Some(protocol.into()));
    EndpointPort { name, protocol, port: Some(port), app_protocol: None }
}

/// What names a pod as the target of an endpoint.
pub(crate) fn mk_target(name: &str) -> Option<ObjectReference> {
    Some(ObjectReference { kind: "Pod".into(), name: name.into(), ..Default::default() })
}

/// A pod with an address, without conditions.
pub(crate) fn mk_pod(name: &str, labels: &[(&str, &str)], address: &str) -> Pod {
    let mut pod = Pod { metadata: mk_meta(name), ..Default::default() };
    pod.metadata.labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    pod.metadata.uid = format!("uid-of-{}", pod.metadata.name);
    pod.status.pod_ip = address.into();
    pod
}

/// The gateway of the tests: 192.0.2.1 and 2001:db8::1, pools 203.0.113.0/24 and 2001:db8:1b::/64.
pub(crate) fn mk_settings() -> Settings {
    let own = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
    let pools = ["203.0.113.0/24", "2001:db8:1b::/64"].map(|text| text.parse().unwrap());
    Settings {
        node_port_addresses: own.into(),
        own_addresses: own.into(),
        node_port_range: Some(PortRange { first: 30_000, last: 32_767 }),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        load_balancer_scope: LoadBalancerScope::Pools(pools.into()),
        ..Default::default()
    }
}

/// A tracker and a resolver over an imagined etcd.
pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) tracker: Tracker,
    pub(crate) resolver: Resolver,
    pub(crate) revision: i64,
}

impl World {
    /// An empty cluster that was listed.
    pub(crate) fn new() -> Self {
        Self::with(mk_settings())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let registry = Registry::new("/registry");
        let mut tracker = Tracker::new(registry.clone(), &[Kind::Service, Kind::EndpointSlice]);
        tracker.replace_all(Kind::Service, []);
        tracker.replace_all(Kind::EndpointSlice, []);
        Self { registry, tracker, resolver: Resolver::new(settings), revision: 100 }
    }

    /// Writes an object.
    pub(crate) fn put(&mut self, object: impl Into<Object>) -> &mut Self {
        let object = object.into();
        let key = self.registry.key(object.kind(), &object.key());
        self.put_bytes(&key, &envelope::encode(&object))
    }

    /// Writes any value.
    pub(crate) fn put_bytes(&mut self, key: &str, value: &[u8]) -> &mut Self {
        self.revision += 1;
        self.tracker.apply(&RegistryEvent {
            key: key.as_bytes(),
            value: Some(value),
            mod_revision: self.revision,
        });
        self
    }

    /// Deletes a key.
    pub(crate) fn delete(&mut self, key: &str) -> &mut Self {
        self.revision += 1;
        self.tracker.apply(&RegistryEvent { key: key.as_bytes(), value: None, mod_revision: self.revision });
        self
    }

    pub(crate) fn resolve(&mut self) -> Arc<Desired> {
        self.resolver.resolve(&mut self.tracker).unwrap()
    }

    /// Each frontend on a line: `TCP 10.96.0.10:80 cluster_ip forward 10.244.0.1:8080`; backends that terminate have a `~`, those with a
    /// weight other than 1 have it behind a `*`.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        lines(&self.resolve())
    }

    /// Each problem on a line.
    pub(crate) fn problems(&mut self) -> Vec<String> {
        self.resolve();
        self.resolver.problems().iter().map(ToString::to_string).collect()
    }
}

/// See [`World::lines`].
pub(crate) fn lines(desired: &Desired) -> Vec<String> {
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    for view in desired.views() {
        let kind = word(serde_json::to_value(view.kind).unwrap());
        let action = word(serde_json::to_value(view.action).unwrap());
        let address = std::net::SocketAddr::new(view.address, view.port);
        let mut line = format!("{} {address} {kind} {action}", view.protocol);
        for backend in view.backends {
            let state = word(serde_json::to_value(backend.state).unwrap());
            let address = std::net::SocketAddr::new(backend.address, backend.port);
            line += &format!(" {address}{}", if state == "ready" { "" } else { "~" });
            if backend.weight != 1 {
                line += &format!("*{}", backend.weight);
            }
        }
        lines.push(line);
    }
    lines
}
