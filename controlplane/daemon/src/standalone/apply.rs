//! `turnpike apply` and `turnpike delete`.

use crate::etcd::client::Connector;
use crate::standalone::transaction::{Changes, Obstacles, Outcome};
use crate::state::{Core, State};
use anyhow::{Result, anyhow, bail};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;
use tracing::debug;
use turnpike_desired::k8s::Time;
use turnpike_desired::manifest::Manifest;
use turnpike_desired::object::{Kind, Object, ObjectKey};
use turnpike_desired::words::SOURCE_RANGES_ANNOTATION;
use turnpike_desired::{allocate, defaults, endpoint_slices, manifest, validate};
use turnpike_wire::admin::{Change, ObjectName};
use turnpike_wire::config::ClusterMode;

/// Attempts to write before giving up, when somebody else keeps writing in between.
const ATTEMPTS: u32 = 40;
/// How long news of what overtook a request are waited for, a random part of it at least.
const NEWS_LIMIT: Duration = Duration::from_millis(100);
/// How long a change may take until it has come back from etcd and everything that follows from it is written.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Everything that is to be written for a request.
pub(super) struct Plan {
    pub(super) changes: Changes,
    pub(super) results: Vec<Change>,
    /// The applied objects as they would be, beside `results`.
    pub(super) objects: Vec<Object>,
    /// The revision of the state it was made from.
    revision: i64,
}

impl Plan {
    pub(super) fn at(revision: i64) -> Self {
        Self { changes: Changes::default(), results: Vec::new(), objects: Vec::new(), revision }
    }
}

/// Creates or changes objects, all or none. When it returns, what follows from them is in force.
pub async fn apply(state: &State, connector: &Connector, objects: &[Value]) -> Result<Vec<Change>> {
    ready(state)?;
    carry_out(state, connector, |obstacles| plan_apply(state, &state.core(), objects, obstacles)).await
}

/// Does all that [`apply`] does but writing.
pub fn dry_run(state: &State, objects: &[Value]) -> Result<Vec<Change>> {
    ready(state)?;
    plan_apply(state, &state.core(), objects, &Obstacles::new()).map(|plan| plan.results)
}

/// Deletes objects, all or none; all of them must be there, unless `ignore_not_found`.
pub async fn delete(
    state: &State,
    connector: &Connector,
    objects: &[ObjectName],
    ignore_not_found: bool,
) -> Result<Vec<Change>> {
    ready(state)?;
    carry_out(state, connector, |_| plan_delete(state, objects, ignore_not_found)).await
}

/// Refuses changes where a kube-apiserver makes them.
pub fn only_standalone(state: &State) -> Result<()> {
    if state.config.cluster.mode == ClusterMode::Kubernetes {
        bail!(
            "in kubernetes mode the objects belong to the Kubernetes API: use kubectl; Turnpike only reads them"
        );
    }
    Ok(())
}

pub(super) fn ready(state: &State) -> Result<()> {
    only_standalone(state)?;
    if !state.core().tracker.is_complete() {
        bail!("etcd has not been read yet; turnpike status says why, try again when it is connected");
    }
    Ok(())
}

/// Plans and writes until nobody has written in between.
pub(super) async fn carry_out(
    state: &State,
    connector: &Connector,
    plan: impl Fn(&Obstacles) -> Result<Plan>,
) -> Result<Vec<Change>> {
    let mut client = connector.connect().await?;
    let mut obstacles = Obstacles::new();
    for attempt in 0..ATTEMPTS {
        let turn = state.writing().await;
        let Plan { changes, mut results, revision, .. } = plan(&obstacles)?;
        if changes.is_empty() {
            return Ok(results);
        }
        match changes.commit(&mut client).await? {
            Outcome::Done(written) => {
                // The next request plans with what this one wrote.
                let _ = timeout(SETTLE_LIMIT, state.revision().wait_for(|known| *known >= written)).await;
                drop(turn);
                settle(state, written, &mut results).await;
                return Ok(results);
            }
            Outcome::Overtaken(found) => {
                drop(turn);
                debug!(attempt, ?found, "somebody else wrote in between");
                obstacles = found;
                // What overtook us is on its way here; planning before it has come would end the same.
                let _ = timeout(NEWS_LIMIT, state.revision().wait_for(|known| *known > revision)).await;
                tokio::time::sleep(Duration::from_micros(random(NEWS_LIMIT.as_micros() as u64 / 4))).await;
            }
        }
    }
    bail!("others wrote in between {ATTEMPTS} times; nothing was changed, try again")
}

/// Waits until what was written has come back and the controllers have nothing left to write.
async fn settle(state: &State, revision: i64, results: &mut [Change]) {
    let mut settled = state.settled();
    let done = settled.wait_for(|settled| *settled >= revision);
    if !matches!(timeout(SETTLE_LIMIT, done).await, Ok(Ok(_)))
        && let Some(first) = results.first_mut()
    {
        first.warnings.push(format!(
            "written at revision {revision}, but not in force after {SETTLE_LIMIT:?}; turnpike status says why"
        ));
    }
}

pub(super) fn plan_apply(
    state: &State,
    core: &Core,
    objects: &[Value],
    obstacles: &Obstacles,
) -> Result<Plan> {
    let mut plan = Plan::at(core.revision);
    let mut taken = allocate::Allocations::of(core.tracker.services().map(|(_, s)| s.object.as_ref()));
    let mut errors: Vec<String> = Vec::new();
    let mut seen: BTreeSet<(Kind, ObjectKey)> = BTreeSet::new();
    for value in objects.iter().cloned().flat_map(manifest::flatten) {
        match planned(state, core, value, &taken) {
            Ok(one) => {
                let (kind, key) = (one.object.kind(), one.object.key());
                if !seen.insert((kind, key.clone())) {
                    errors.push(format!("{kind} {key} is there twice; leave one out"));
                    continue;
                }
                if let Object::Service(service) = &one.object {
                    taken.remove(&key);
                    taken.add(service);
                }
                if one.outcome != "unchanged" {
                    plan.changes.put(state, &one.object, one.old.as_ref(), one.written_at);
                }
                let (outcome, warnings) = (one.outcome.into(), one.warnings);
                plan.results.push(Change { object: name(kind, &key), outcome, warnings });
                plan.objects.push(one.object);
            }
            Err(told) => errors.extend(told),
        }
    }
    plan.changes.take_over(state, core, obstacles);
    if errors.is_empty() { Ok(plan) } else { Err(anyhow!("{}; nothing was changed", errors.join("\n"))) }
}

/// One object as it would be written.
struct Planned {
    object: Object,
    old: Option<Object>,
    written_at: i64,
    outcome: &'static str,
    warnings: Vec<String>,
}

/// Reads, completes, checks and allocates; or everything that is wrong.
fn planned(
    state: &State,
    core: &Core,
    value: Value,
    taken: &allocate::Allocations,
) -> Result<Planned, Vec<String>> {
    let one = |error: &dyn std::fmt::Display| vec![error.to_string()];
    let Manifest { mut object, unused_fields } = manifest::from_json(value).map_err(|error| one(&error))?;
    let (kind, key) = (object.kind(), named(&object));
    let known = known(core, kind, &key);
    let written_at = core.written_at(state, kind, &key);
    let old = known.as_ref().map(|(old, _)| old);
    precondition(&object, old, written_at).map_err(|error| one(&format!("{kind} {key}: {error}")))?;
    defaults::apply(&mut object, old, state.rules.first_family());
    validate::validate(&object, &state.rules)
        .and_then(|()| old.map_or(Ok(()), |old| validate::validate_update(old, &object)))
        .map_err(|error| one(&error))?;
    if let Object::Service(service) = &mut object {
        allocate::service(service, &state.rules, taken, &mut random)
            .map_err(|shortages| shortages.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    }
    stamp(&mut object);
    let outcome = match &known {
        // A bad value behind the good one is written over.
        Some((old, good_at)) if *old == object && *good_at == written_at => "unchanged",
        _ if written_at > 0 => "configured",
        _ => "created",
    };
    let warnings = warnings(&object, &unused_fields);
    Ok(Planned { old: known.map(|(old, _)| old), object, written_at, outcome, warnings })
}

/// What an object says of the version that it is to replace must be true.
fn precondition(object: &Object, old: Option<&Object>, written_at: i64) -> Result<(), String> {
    let metadata = object.metadata();
    let stated = metadata.resource_version.as_str();
    if !stated.is_empty() && stated != written_at.to_string() {
        return Err(if written_at == 0 {
            "metadata.resourceVersion: cannot be set on what is not there yet; leave it out".into()
        } else {
            format!(
                "metadata.resourceVersion: {stated} is not the latest version, which is {written_at}: somebody has changed it; get it anew and apply your change to that, or leave resourceVersion out"
            )
        });
    }
    match old.map(|old| old.metadata().uid.as_str()) {
        Some(uid) if !metadata.uid.is_empty() && metadata.uid != uid => Err(format!(
            "metadata.uid: {} is another object of that name; the one that is there has {uid}; leave uid out",
            metadata.uid
        )),
        _ => Ok(()),
    }
}

/// What is odd about an object and no error.
fn warnings(object: &Object, unused_fields: &[String]) -> Vec<String> {
    let mut warnings: Vec<String> =
        unused_fields.iter().map(|field| format!("{field} is not used by Turnpike and not kept")).collect();
    if let Object::Service(service) = object {
        let conditions = &service.status.conditions;
        let waiting = conditions.iter().filter(|condition| condition.r#type == allocate::ADDRESS_CONDITION);
        warnings.extend(waiting.map(|condition| condition.message.clone()));
        if service.spec.load_balancer_source_ranges.is_empty()
            && service.metadata.annotations.contains_key(SOURCE_RANGES_ANNOTATION)
        {
            warnings.push(format!(
                "metadata.annotations[{SOURCE_RANGES_ANNOTATION}] is not enforced; write spec.loadBalancerSourceRanges"
            ));
        }
    }
    warnings
}

fn plan_delete(state: &State, objects: &[ObjectName], ignore_not_found: bool) -> Result<Plan> {
    let core = state.core();
    let mut plan = Plan::at(core.revision);
    let mut missing = Vec::new();
    for wanted in objects {
        let kind = Kind::from_name(&wanted.kind)
            .ok_or_else(|| anyhow!("{}: Turnpike knows Service, Pod, Node and EndpointSlice", wanted.kind))?;
        let key = ObjectKey::new(&wanted.namespace, &wanted.name);
        let revision = core.written_at(state, kind, &key);
        if revision == 0 {
            missing.push(format!("{kind} {key}"));
            plan.results.push(Change {
                object: name(kind, &key),
                outcome: "not found".into(),
                warnings: Vec::new(),
            });
            continue;
        }
        let good = known(&core, kind, &key);
        plan.changes.delete(state, kind, &key, good.as_ref().map(|(object, _)| object), revision);
        if kind == Kind::Service {
            let in_namespace = core.tracker.endpoint_slices().filter(|(k, _)| k.namespace == key.namespace);
            let slices = in_namespace.map(|(_, slice)| slice.object.as_ref());
            for slice in endpoint_slices::of_deleted(&key, slices) {
                let revision = core.written_at(state, Kind::EndpointSlice, &slice);
                plan.changes.delete(state, Kind::EndpointSlice, &slice, None, revision);
            }
        }
        plan.results.push(Change {
            object: name(kind, &key),
            outcome: "deleted".into(),
            warnings: Vec::new(),
        });
    }
    if missing.is_empty() || ignore_not_found {
        Ok(plan)
    } else {
        Err(anyhow!(
            "not there: {}; nothing was changed (--ignore-not-found goes on without them)",
            missing.join(", ")
        ))
    }
}

/// The key an object will have once it has its defaults.
fn named(object: &Object) -> ObjectKey {
    let mut whole = object.clone();
    defaults::apply(&mut whole, None, turnpike_desired::desired::Family::V4);
    whole.key()
}

/// The last good version of an object, and the revision it was written at.
pub(super) fn known(core: &Core, kind: Kind, key: &ObjectKey) -> Option<(Object, i64)> {
    let tracker = &core.tracker;
    match kind {
        Kind::Service => {
            tracker.service(key).map(|t| (Object::Service(Box::new(t.object.as_ref().clone())), t.revision))
        }
        Kind::EndpointSlice => tracker
            .endpoint_slice(key)
            .map(|t| (Object::EndpointSlice(Box::new(t.object.as_ref().clone())), t.revision)),
        Kind::Pod => tracker.pod(key).map(|t| (Object::Pod(Box::new(t.object.as_ref().clone())), t.revision)),
        Kind::Node => {
            tracker.node(key).map(|t| (Object::Node(Box::new(t.object.as_ref().clone())), t.revision))
        }
        Kind::ServiceCidr => None,
    }
}

pub(super) fn name(kind: Kind, key: &ObjectKey) -> ObjectName {
    ObjectName { kind: kind.name().into(), namespace: key.namespace.clone(), name: key.name.clone() }
}

/// Gives a new object its identity, and new conditions their time.
pub fn stamp(object: &mut Object) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed());
    let now = Time { seconds: Some(now), nanos: Some(0) };
    object.metadata_mut().stamp(&uuid::Uuid::new_v4().to_string(), now);
    if let Object::Service(service) = object {
        let conditions = &mut service.status.conditions;
        let undated = conditions.iter_mut().filter(|condition| condition.last_transition_time.is_unset());
        undated.for_each(|condition| condition.last_transition_time = now);
    }
}

/// A number below `bound`.
pub(super) fn random(bound: u64) -> u64 {
    let uuid = uuid::Uuid::new_v4();
    // Bytes 6 and 8 hold the version and the variant.
    let [a, b, c, d, e, f, .., g, h] = *uuid.as_bytes();
    let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    ((u128::from(number) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::random;

    #[test]
    fn random_numbers_fill_their_range() {
        let drawn: std::collections::BTreeSet<u64> = (0..2_000).map(|_| random(16)).collect();
        assert_eq!(drawn, (0..16).collect());
        assert_eq!(random(1), 0);
    }
}
