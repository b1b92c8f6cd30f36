//! `turnpike plan`: what applying objects would change, from a copy of the state to which they are applied.
//!
//! The copy goes the way that the real thing goes: the same plan as `turnpike apply`, the same slice controller, the same resolver. Only
//! etcd is left out.

use crate::flow_census::Census;
use crate::standalone::apply::{Plan, known, plan_apply, ready};
use crate::standalone::slices;
use crate::standalone::transaction::Obstacles;
use crate::state::{Core, State};
use anyhow::{Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use turnpike_desired::desired::{Desired, ResolvedBackend, ResolvedService};
use turnpike_desired::envelope;
use turnpike_desired::manifest::to_json;
use turnpike_desired::object::{Kind, Object, ObjectKey};
use turnpike_desired::tracker::{RegistryEvent, Tracker};
use turnpike_wire::admin::{
    Difference, FieldChange, FrontendView, Planned, PlannedBackend, PlannedFlows, PlannedFrontend,
    PlannedObject,
};
use turnpike_wire::update::{Protocol, ServiceKey};

/// Rounds of the slice controller; two are enough, one to write and one to find nothing left.
const ROUNDS_MAX: usize = 8;
/// How long the dataplane has for counting its flows: a busy worker looks at some hundred thousand a second only, so that it stays fast.
const COUNT_LIMIT: Duration = Duration::from_secs(20);

/// Tells what applying the objects would change. Writes nothing.
pub async fn plan(state: &State, objects: &[Value]) -> Result<Planned> {
    ready(state)?;
    let (mut planned, before, after) = {
        let core = state.core();
        let plan = plan_apply(state, &core, objects, &Obstacles::new())?;
        let before = core.resolver.desired();
        let after = simulate(state, &core, &plan)?;
        let planned = Planned { objects: told(&core, plan), ..Planned::default() };
        (planned, before, after)
    };
    planned.frontends = frontends(&before, &after);
    planned.backends = backends(&before, &after);
    match census(state).await {
        Ok(census) => planned.flows = Some(flows(&census, &before, &after)),
        Err(reason) => planned.flows_unknown = Some(reason.to_string()),
    }
    Ok(planned)
}

/// The state there would be.
fn simulate(state: &State, core: &Core, plan: &Plan) -> Result<Arc<Desired>> {
    let (mut tracker, mut resolver) = (core.tracker.clone(), core.resolver.clone());
    let revision = core.revision + 1;
    let write = |tracker: &mut Tracker, key: &str, value: Option<&[u8]>| {
        tracker.apply(&RegistryEvent { key: key.as_bytes(), value, mod_revision: revision });
    };
    plan.changes.writes().for_each(|(key, value)| write(&mut tracker, key, value));
    for _ in 0..ROUNDS_MAX {
        let outstanding = slices::outstanding(&tracker);
        if outstanding.is_empty() {
            break;
        }
        for slice in outstanding.iter().flat_map(|changes| &changes.put) {
            let object = Object::EndpointSlice(Box::new(slice.clone()));
            let key = state.registry().key(Kind::EndpointSlice, &object.key());
            write(&mut tracker, &key, Some(&envelope::encode(&object)));
        }
        for slice in outstanding.iter().flat_map(|changes| &changes.delete) {
            write(&mut tracker, &state.registry().key(Kind::EndpointSlice, slice), None);
        }
    }
    match resolver.resolve(&mut tracker) {
        Some(desired) => Ok(desired),
        None => bail!("etcd has not been read yet; turnpike status says why, try again when it is connected"),
    }
}

/// The objects, and what differs of those that are there.
fn told(core: &Core, plan: Plan) -> Vec<PlannedObject> {
    let objects = plan.results.into_iter().zip(plan.objects).map(|(change, object)| {
        let key = ObjectKey::new(&change.object.namespace, &change.object.name);
        let mut fields = Vec::new();
        if let Some((old, _)) = known(core, object.kind(), &key) {
            differences("", Some(&to_json(&old, 0)), Some(&to_json(&object, 0)), &mut fields);
        }
        PlannedObject { object: change.object, outcome: change.outcome, fields, warnings: change.warnings }
    });
    objects.collect()
}

/// Goes through two values side by side.
fn differences(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<FieldChange>) {
    match (before, after) {
        (before, after) if before == after => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                let below = match path {
                    "" => key.clone(),
                    // Keys of labels and annotations have dots of their own.
                    _ if key.contains(['.', '/']) => format!("{path}[{key}]"),
                    _ => format!("{path}.{key}"),
                };
                differences(&below, old.get(key), new.get(key), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for index in 0..old.len().max(new.len()) {
                differences(&format!("{path}[{index}]"), old.get(index), new.get(index), found);
            }
        }
        (before, after) => {
            found.push(FieldChange { path: path.to_owned(), before: before.cloned(), after: after.cloned() });
        }
    }
}

fn difference<T: PartialEq>(before: Option<T>, after: Option<T>) -> Option<(Difference, T)> {
    match (before, after) {
        (None, Some(after)) => Some((Difference::Appears, after)),
        (Some(before), None) => Some((Difference::Goes, before)),
        (Some(before), Some(after)) if before != after => Some((Difference::Changes, after)),
        _ => None,
    }
}

fn frontends(before: &Desired, after: &Desired) -> Vec<PlannedFrontend> {
    let views = |desired: &Desired| -> BTreeMap<(Protocol, IpAddr, u16), FrontendView> {
        desired.views().into_iter().map(|view| ((view.protocol, view.address, view.port), view)).collect()
    };
    // Revisions differ by themselves, and backends are told apart.
    let bare = |view: &FrontendView| FrontendView { from_revision: 0, backends: Vec::new(), ..view.clone() };
    let (old, new) = (views(before), views(after));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let changed = keys.into_iter().filter_map(|key| {
        let (old, new) = (old.get(key), new.get(key));
        let (change, _) = difference(old.map(bare), new.map(bare))?;
        Some(PlannedFrontend { change, frontend: new.or(old)?.clone() })
    });
    changed.collect()
}

fn backends(before: &Desired, after: &Desired) -> Vec<PlannedBackend> {
    let keys: BTreeSet<&ServiceKey> = before.services.keys().chain(after.services.keys()).collect();
    let mut found = Vec::new();
    for key in keys {
        let (old, new) = (before.services.get(key), after.services.get(key));
        let Some(service) = new.or(old) else { continue };
        let of = |service: Option<&Arc<ResolvedService>>, address: &SocketAddr| -> Option<ResolvedBackend> {
            service.and_then(|service| service.backends.get(address).cloned())
        };
        let addresses = old.into_iter().chain(new).flat_map(|service| service.backends.keys());
        for address in addresses.collect::<BTreeSet<_>>() {
            let Some((change, backend)) = difference(of(old, address), of(new, address)) else { continue };
            found.push(PlannedBackend {
                change,
                namespace: service.owner.namespace.clone(),
                service: service.owner.name.clone(),
                port_name: service.port_name.clone(),
                protocol: service.protocol,
                backend: backend.view(),
            });
        }
    }
    found
}

/// Asks the dataplane.
async fn census(state: &State) -> Result<Arc<Census>> {
    let there = state.dataplane(|d| d.state.clone());
    if there != "serving" {
        bail!("there is no dataplane to ask ({there})");
    }
    match timeout(COUNT_LIMIT, state.flow_census.ask()).await {
        Ok(Ok(census)) => Ok(census),
        Ok(Err(_)) => bail!("the question was given up; try again"),
        Err(_) => {
            bail!("the dataplane did not answer within {COUNT_LIMIT:?}; turnpike status says how it is")
        }
    }
}

/// What would become of the flows. Only UDP flows are ever ended, and only towards a backend that serves (rules U1, U3, U5).
fn flows(census: &Census, before: &Desired, after: &Desired) -> PlannedFlows {
    let mut planned = PlannedFlows { live: census.flows, ..PlannedFlows::default() };
    for (frontend, backend, flows) in &census.pairs {
        let service_of =
            |desired: &Desired| desired.frontends.get(frontend).map(|f| f.frontend.service.clone());
        let (old, new) = (service_of(before), service_of(after));
        let service = new.as_ref().and_then(|key| after.services.get(key));
        let now = service.and_then(|service| service.backends.get(backend));
        let knew = old.as_ref().and_then(|key| before.services.get(key)?.backends.get(backend));
        let serves = |backend: Option<&ResolvedBackend>| backend.is_some_and(|b| b.backend.serving);
        let others_serve =
            service.is_some_and(|service| service.backends.values().any(|b| b.backend.serving));
        let is_news = old != new || serves(knew);
        if frontend.protocol == Protocol::Udp && is_news && !serves(now) && others_serve {
            planned.ends += flows;
        } else if old != new || (knew.is_some() && now.is_none()) {
            planned.stay += flows;
        }
    }
    planned.touched = planned.ends + planned.stay;
    planned
}

#[cfg(test)]
mod tests {
    use super::differences;
    use serde_json::json;

    #[test]
    fn fields_that_differ_are_named_by_their_paths() {
        let before = json!({"metadata": {"labels": {"a.b/c": "x", "same": "1"}}, "spec": {"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}});
        let after = json!({"metadata": {"labels": {"a.b/c": "y", "same": "1"}}, "spec": {"ports": [{"port": 8080}], "clusterIP": "10.96.0.1"}});
        let mut found = Vec::new();
        differences("", Some(&before), Some(&after), &mut found);
        let lines: Vec<String> = found
            .iter()
            .map(|f| {
                let text = |value: &Option<serde_json::Value>| {
                    value.as_ref().map_or("-".into(), ToString::to_string)
                };
                format!("{} {} {}", f.path, text(&f.before), text(&f.after))
            })
            .collect();
        assert_eq!(
            lines,
            [
                "metadata.labels[a.b/c] \"x\" \"y\"",
                "spec.clusterIP - \"10.96.0.1\"",
                "spec.ports[0].port 80 8080",
                "spec.ports[1] {\"port\":81} -",
                "spec.type \"NodePort\" -",
            ]
        );
    }
}
