//! What `turnpike get` and `turnpike status` show.

use crate::kubernetes;
use crate::state::{Core, State};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use turnpike_desired::manifest::to_json;
use turnpike_desired::object::{Object, ObjectKey};
use turnpike_shm::{CounterReader, KIND_PORT, KIND_WORKER, PageView};
use turnpike_wire::admin::{ObjectsStatus, PortStatus, Resource, Skipped, Status, WorkerStatus};
use turnpike_wire::config::ClusterMode;
use turnpike_wire::pages::{PORT_COUNTERS, PortLabel, node_of};

/// The items of a listing, of one namespace and name where they are given; frontends as `client` meets them.
#[must_use]
pub fn items(
    state: &State,
    resource: Resource,
    namespace: Option<&str>,
    name: Option<&str>,
    client: Option<IpAddr>,
) -> Vec<Value> {
    let wanted =
        |key: &ObjectKey| namespace.is_none_or(|n| n == key.namespace) && name.is_none_or(|n| n == key.name);
    let of_service = |item: &Value| {
        namespace.is_none_or(|n| item["namespace"] == n) && name.is_none_or(|n| item["service"] == n)
    };
    let named = |item: &Value, field: &str| {
        name.is_none_or(|n| {
            item[field] == n || item[field].as_u64().is_some_and(|number| n.parse() == Ok(number))
        })
    };
    let core = state.core();
    let tracker = &core.tracker;
    let unassigned = state.kubernetes.problems();
    match resource {
        Resource::Services => tracker
            .services()
            .filter(|(k, _)| wanted(k))
            .map(|(k, t)| {
                to_json(
                    &Object::Service(Box::new(kubernetes::shown(&core, &unassigned, k, &t.object))),
                    t.revision,
                )
            })
            .collect(),
        Resource::EndpointSlices => tracker
            .endpoint_slices()
            .filter(|(k, _)| wanted(k))
            .map(|(_, t)| to_json(&Object::EndpointSlice(Box::new(t.object.as_ref().clone())), t.revision))
            .collect(),
        Resource::Pods => tracker
            .pods()
            .filter(|(k, _)| wanted(k))
            .map(|(_, t)| to_json(&Object::Pod(Box::new(t.object.as_ref().clone())), t.revision))
            .collect(),
        Resource::Nodes => tracker
            .nodes()
            .filter(|(k, _)| name.is_none_or(|n| n == k.name))
            .map(|(_, t)| to_json(&Object::Node(Box::new(t.object.as_ref().clone())), t.revision))
            .collect(),
        Resource::Frontends => {
            let desired = core.resolver.desired();
            let views = client.map_or_else(|| desired.views(), |client| desired.views_for(client));
            views.iter().map(value).filter(of_service).collect()
        }
        Resource::Backends => backends(&core).into_iter().filter(of_service).collect(),
        Resource::Endpoints => endpoints(&core).into_iter().filter(of_service).collect(),
        Resource::Gateways => {
            let gateway = json!({"name": state.config.gateway_name(), "addresses": state.config.own_addresses(), "state": state.dataplane(|d| d.state.clone())});
            Some(gateway).into_iter().filter(|g| named(g, "name")).collect()
        }
        Resource::Ports => {
            pages(state).iter().filter_map(port).map(|p| value(&p)).filter(|p| named(p, "name")).collect()
        }
        Resource::Workers => {
            pages(state).iter().filter_map(worker).map(|w| value(&w)).filter(|w| named(w, "worker")).collect()
        }
    }
}

/// How the gateway is.
#[must_use]
pub fn status(state: &State) -> Status {
    let pages = pages(state);
    let mut dataplane = state.dataplane(|d| d.clone());
    dataplane.workers = pages.iter().filter_map(worker).collect();
    dataplane.ports = pages.iter().filter_map(port).collect();
    let etcd = state.etcd_status();
    let fill = state.fill.status(&state.config, &dataplane.workers);
    let core = state.core();
    Status {
        gateway: state.config.gateway_name(),
        version: env!("CARGO_PKG_VERSION").into(),
        mode: if state.config.cluster.mode == ClusterMode::Kubernetes { "kubernetes" } else { "standalone" }
            .into(),
        etcd,
        objects: objects(&core, state.kubernetes.problems()),
        dataplane,
        dns: state.dns.status(&state.config.dns.zone),
        kubernetes: state.kubernetes.status(|status| status.clone()),
        listeners: state.listeners.status(),
        fill,
    }
}

fn objects(core: &Core, unassigned: BTreeMap<ObjectKey, String>) -> ObjectsStatus {
    let (tracker, desired) = (&core.tracker, core.resolver.desired());
    let problems = core.resolver.problems().into_iter().map(|p| Skipped {
        key: p.object,
        revision: 0,
        reason: p.message,
    });
    let unassigned = unassigned.into_iter().map(|(service, reason)| Skipped {
        key: format!("Service {service}"),
        revision: 0,
        reason,
    });
    ObjectsStatus {
        services: tracker.services().len() as u64,
        endpoint_slices: tracker.endpoint_slices().len() as u64,
        pods: tracker.pods().len() as u64,
        nodes: tracker.nodes().len() as u64,
        frontends: desired.frontends.len() as u64,
        backends: desired.backend_count() as u64,
        skipped: tracker.skipped().into_iter().chain(problems).chain(unassigned).collect(),
    }
}

fn backends(core: &Core) -> Vec<Value> {
    let desired = core.resolver.desired();
    let mut items = Vec::new();
    for service in desired.services.values() {
        for backend in service.backends.values() {
            let mut item = value(&backend.view());
            item["namespace"] = service.owner.namespace.clone().into();
            item["service"] = service.owner.name.clone().into();
            item["port_name"] = service.port_name.clone().into();
            item["protocol"] = value(&service.protocol);
            items.push(item);
        }
    }
    items
}

fn endpoints(core: &Core) -> Vec<Value> {
    let desired = core.resolver.desired();
    let item = |service: &turnpike_desired::desired::ResolvedService| {
        json!({
            "namespace": service.owner.namespace,
            "service": service.owner.name,
            "port_name": service.port_name,
            "protocol": service.protocol,
            "endpoints": service.backends.values().map(|b| value(&b.view())).collect::<Vec<_>>(),
        })
    };
    desired.services.values().map(|s| item(s)).collect()
}

/// The counter pages, if there is a dataplane.
fn pages(state: &State) -> Vec<PageView> {
    CounterReader::open(&state.config.shm_folder()).map(|reader| reader.pages()).unwrap_or_default()
}

fn worker(page: &PageView) -> Option<WorkerStatus> {
    if page.kind != KIND_WORKER {
        return None;
    }
    let counters: BTreeMap<String, u64> = page.counters.iter().cloned().collect();
    let count = |name: &str| counters.get(name).copied().unwrap_or(0);
    let node = |name: &str| counters.get(name).copied().and_then(node_of);
    Some(WorkerStatus {
        worker: page.index,
        core: count("core") as u32,
        generation: count("generation"),
        flows: count("flows_live"),
        flows_max: count("flows_max"),
        ipv6_flows: count("ipv6_flows_live"),
        ipv6_flows_max: count("ipv6_flows_max"),
        numa_node: node("numa_node"),
        flow_page_bytes: count("flow_page_bytes"),
        flow_numa_node: node("flow_numa_node"),
        counters,
    })
}

fn port(page: &PageView) -> Option<PortStatus> {
    if page.kind != KIND_PORT {
        return None;
    }
    let label = PortLabel::parse(&page.label)?;
    let counters: BTreeMap<String, u64> = page.counters.iter().cloned().collect();
    Some(PortStatus {
        name: label.name,
        device: label.device,
        driver: label.driver,
        mac: label.mac,
        link_up: counters.get(PORT_COUNTERS[0]).is_some_and(|&up| up != 0),
        steering: label.steering,
        vlan: label.vlan,
        numa_node: label.node,
        offloads: label.offloads,
        counters,
    })
}

fn value<T: Serialize>(item: &T) -> Value {
    // These types have text keys and no floats, so they always become JSON.
    serde_json::to_value(item).unwrap_or(Value::Null)
}
