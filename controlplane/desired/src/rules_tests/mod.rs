//! The rules of traffic policies, topology, refusals, affinity, source ranges, health checks and UDP, each by its name in RULES.md.

mod flows;
mod guards;
mod health;
mod scope;
mod sets;
mod tracking;
mod treatments;

use crate::k8s::{EndpointHints, EndpointSlice, ForNode, ForZone, Service};
use crate::settings::Settings;
use crate::test_world::{World, mk_public, mk_service, mk_settings, mk_slice};
use std::net::IpAddr;
use turnpike_wire::admin::FrontendView;
use turnpike_wire::update::FrontendKind;

const CLIENT: &str = "198.51.100.7";
const POD: &str = "10.244.9.9";

/// A gateway that is no node; pods are in 10.244.0.0/16.
fn gateway() -> World {
    World::with(Settings { pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()], ..mk_settings() })
}

/// A gateway that is node-a in zone-a.
fn node_a() -> World {
    World::with(Settings {
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        node_name: "node-a".into(),
        zone: "zone-a".into(),
        ..mk_settings()
    })
}

/// The Service `shop/web` with a NodePort and a load-balancer address.
fn public() -> Service {
    let mut service = mk_service("shop/web", "10.96.0.10");
    mk_public(&mut service, "203.0.113.5");
    service.spec.ports[0].node_port = 30080;
    service
}

fn policies(external: &str, internal: &str) -> Service {
    let mut service = public();
    service.spec.external_traffic_policy = external.into();
    service.spec.internal_traffic_policy = Some(internal.into());
    service
}

/// A slice of `shop/web`; behind the address and its conditions (see [`mk_slice`]) each endpoint may have `@NODE`, `hint-zone:ZONE` and
/// `hint-node:NODE`.
fn slice(endpoints: &[&str]) -> EndpointSlice {
    let words: Vec<Vec<&str>> = endpoints.iter().map(|text| text.split(' ').collect()).collect();
    let firsts: Vec<&str> = words.iter().map(|words| words[0]).collect();
    let mut slice = mk_slice("shop/web-1", "web", &firsts);
    for (endpoint, words) in slice.endpoints.iter_mut().zip(&words) {
        for word in &words[1..] {
            if let Some(node) = word.strip_prefix('@') {
                endpoint.node_name = Some(node.into());
            } else if let Some(zone) = word.strip_prefix("hint-zone:") {
                let hints = endpoint.hints.get_or_insert_with(EndpointHints::default);
                hints.for_zones.push(ForZone { name: zone.into() });
            } else if let Some(node) = word.strip_prefix("hint-node:") {
                let hints = endpoint.hints.get_or_insert_with(EndpointHints::default);
                hints.for_nodes.push(ForNode { name: node.into() });
            }
        }
    }
    slice
}

/// What a client meets on a face: `forward nat 1 2` with the last bytes of the backends' addresses, `~` behind those that end.
fn meets(world: &mut World, kind: FrontendKind, client: &str) -> String {
    let client: IpAddr = client.parse().unwrap();
    let views = world.resolve().views_for(client);
    shown(views.iter().find(|view| view.kind == kind).unwrap_or_else(|| panic!("no {kind:?}")))
}

fn shown(view: &FrontendView) -> String {
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = word(serde_json::to_value(view.action).unwrap());
    if text == "forward" {
        text = format!("{text} {}", word(serde_json::to_value(view.mode).unwrap()));
        for backend in &view.backends {
            let address = backend.address.to_string();
            let last = address.rsplit(['.', ':']).next().unwrap_or_default().to_owned();
            let state = word(serde_json::to_value(backend.state).unwrap());
            text = format!("{text} {last}{}", if state == "ready" { "" } else { "~" });
        }
    }
    text
}
