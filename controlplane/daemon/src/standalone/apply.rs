//! `turnpike apply` and `turnpike delete`.

use crate::etcd::client::Connector;
use crate::etcd::private::TXN_OPERATIONS_MAX;
use crate::standalone::transaction::{Changes, Outcome};
use crate::state::{Core, State};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use std::time::{SystemTime, UNIX_EPOCH};
use turnpike_desired::k8s::Time;
use turnpike_desired::object::{Kind, Object, ObjectKey};
use turnpike_desired::{allocate, defaults, endpoint_slices, manifest, validate};
use turnpike_wire::admin::{Change, ObjectName};
use turnpike_wire::config::ClusterMode;

/// Attempts to write before giving up, when somebody else keeps writing in between.
const ATTEMPTS: usize = 10;
/// How long a change may take until it has come back from etcd and everything that follows from it is written.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// Most operations of a transaction in an etcd with its default settings.
const FOREIGN_OPERATIONS_MAX: usize = 128;

/// Everything that is to be written for a request.
struct Plan {
    /// One for each object that changes.
    parts: Vec<Changes>,
    results: Vec<Change>,
    /// The revision of the state it was made from.
    revision: i64,
}

/// Creates or changes objects. On an error nothing is changed, unless it says so.
pub async fn apply(state: &State, connector: &Connector, objects: &[Value]) -> Result<Vec<Change>> {
    only_standalone(state)?;
    carry_out(state, connector, || plan_apply(state, objects)).await
}

/// Deletes objects; all of them must be there, unless `ignore_not_found`.
pub async fn delete(
    state: &State,
    connector: &Connector,
    objects: &[ObjectName],
    ignore_not_found: bool,
) -> Result<Vec<Change>> {
    only_standalone(state)?;
    carry_out(state, connector, || plan_delete(state, objects, ignore_not_found)).await
}

fn only_standalone(state: &State) -> Result<()> {
    if state.config.cluster.mode == ClusterMode::Kubernetes {
        bail!(
            "in kubernetes mode the objects belong to the Kubernetes API: use kubectl; Turnpike only reads them"
        );
    }
    if !state.core().tracker.is_complete() {
        bail!("etcd has not been read yet; turnpike status says why, try again when it is connected");
    }
    Ok(())
}

/// Plans and writes until nobody has written in between.
async fn carry_out(
    state: &State,
    connector: &Connector,
    plan: impl Fn() -> Result<Plan>,
) -> Result<Vec<Change>> {
    let mut client = connector.connect().await?;
    for _ in 0..ATTEMPTS {
        let Plan { parts, results, revision } = plan()?;
        if parts.is_empty() {
            return Ok(results);
        }
        match write(state, &mut client, parts).await? {
            Outcome::Done(revision) => {
                settle(state, revision).await?;
                return Ok(results);
            }
            Outcome::Overtaken(seen) => {
                // What overtook us is on its way here; planning before it has come would end the same.
                let mut known = state.revision();
                let news = known.wait_for(|known| *known > revision);
                let _ = tokio::time::timeout(SETTLE_LIMIT.min(Duration::from_millis(500)), news).await;
                tracing::debug!(seen, "somebody else wrote in between");
            }
        }
    }
    bail!(
        "others kept writing the same objects, or an allocation under {} has no Service; nothing was changed by the last attempt, try again",
        state.own_key("allocations")
    )
}

/// Writes all parts in one transaction if etcd takes that many operations, else one object after another.
async fn write(state: &State, client: &mut etcd_client::Client, parts: Vec<Changes>) -> Result<Outcome> {
    let limit =
        if state.config.etcd.endpoints.is_empty() { TXN_OPERATIONS_MAX } else { FOREIGN_OPERATIONS_MAX };
    let mut outcome = Outcome::Overtaken(0);
    let mut batch = Changes::default();
    let mut parts = parts.into_iter().peekable();
    while let Some(part) = parts.next() {
        batch.join(part);
        if parts.peek().is_none_or(|next| batch.size() + next.size() > limit) {
            outcome = std::mem::take(&mut batch).commit(client).await.context("cannot write to etcd")?;
            if matches!(outcome, Outcome::Overtaken(_)) {
                return Ok(outcome);
            }
        }
    }
    Ok(outcome)
}

/// Waits until what was written has come back and the controllers have nothing left to write.
async fn settle(state: &State, revision: i64) -> Result<()> {
    let mut settled = state.settled();
    let done = settled.wait_for(|settled| *settled >= revision);
    match tokio::time::timeout(SETTLE_LIMIT, done).await {
        Ok(Ok(_)) => Ok(()),
        _ => bail!(
            "written at revision {revision}, but etcd has not shown it to us within {SETTLE_LIMIT:?}; turnpike status says how it is"
        ),
    }
}

fn plan_apply(state: &State, objects: &[Value]) -> Result<Plan> {
    let core = state.core();
    let mut plan = Plan { parts: Vec::new(), results: Vec::new(), revision: core.revision };
    let mut taken = allocate::Allocations::of(core.tracker.services().map(|(_, s)| s.object.as_ref()));
    let mut errors: Vec<String> = Vec::new();
    let mut seen: BTreeMap<(Kind, ObjectKey), ()> = BTreeMap::new();
    for value in objects.iter().cloned().flat_map(manifest::flatten) {
        let (mut object, unused) = match manifest::from_json(value) {
            Ok(manifest) => (manifest.object, manifest.unused_fields),
            Err(error) => {
                errors.push(error.to_string());
                continue;
            }
        };
        defaults::apply(&mut object, None);
        let known = known(&core, object.kind(), &object.key());
        defaults::apply(&mut object, known.as_ref().map(|k| &k.0));
        let checked = validate::validate(&object, &state.rules)
            .and_then(|()| known.as_ref().map_or(Ok(()), |(old, _)| validate::validate_update(old, &object)));
        if let Err(invalid) = checked {
            errors.push(invalid.to_string());
            continue;
        }
        if seen.insert((object.kind(), object.key()), ()).is_some() {
            errors.push(format!("{} {} is there twice; leave one out", object.kind().name(), object.key()));
            continue;
        }
        if let Object::Service(service) = &mut object {
            match allocate::service(service, &state.rules, &taken, &mut random) {
                Ok(()) => {
                    taken.remove(&ObjectKey::of(&service.metadata));
                    taken.add(service);
                }
                Err(shortages) => {
                    errors.extend(shortages.iter().map(ToString::to_string));
                    continue;
                }
            }
        }
        stamp(&mut object);
        let outcome = match &known {
            Some((old, _)) if *old == object => "unchanged",
            Some(_) => "configured",
            None => "created",
        };
        if outcome != "unchanged" {
            let mut part = Changes::default();
            part.put(state, &object, known.as_ref().map(|k| &k.0), known.as_ref().map_or(0, |k| k.1));
            plan.parts.push(part);
        }
        let warnings =
            unused.iter().map(|field| format!("{field} is not used by Turnpike and not kept")).collect();
        plan.results.push(Change {
            object: name(object.kind(), &object.key()),
            outcome: outcome.into(),
            warnings,
        });
    }
    if errors.is_empty() { Ok(plan) } else { Err(anyhow!("{}; nothing was changed", errors.join("\n"))) }
}

fn plan_delete(state: &State, objects: &[ObjectName], ignore_not_found: bool) -> Result<Plan> {
    let core = state.core();
    let mut plan = Plan { parts: Vec::new(), results: Vec::new(), revision: core.revision };
    let mut missing = Vec::new();
    for wanted in objects {
        let kind = Kind::from_name(&wanted.kind)
            .ok_or_else(|| anyhow!("{}: Turnpike knows Service, Pod, Node and EndpointSlice", wanted.kind))?;
        let key = ObjectKey::new(&wanted.namespace, &wanted.name);
        let Some((object, revision)) = known(&core, kind, &key) else {
            missing.push(format!("{} {key}", kind.name()));
            plan.results.push(Change {
                object: name(kind, &key),
                outcome: "not found".into(),
                warnings: Vec::new(),
            });
            continue;
        };
        let mut part = Changes::default();
        part.delete(state, &object, revision);
        if kind == Kind::Service {
            let slices = core.tracker.slices_of(&key).map(|s| s.object.as_ref());
            endpoint_slices::of_deleted(&key, slices)
                .iter()
                .for_each(|slice| part.delete_slice(state, slice));
        }
        plan.parts.push(part);
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

/// An object that is known, and the revision it was written at.
fn known(core: &Core, kind: Kind, key: &ObjectKey) -> Option<(Object, i64)> {
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

fn name(kind: Kind, key: &ObjectKey) -> ObjectName {
    ObjectName { kind: kind.name().into(), namespace: key.namespace.clone(), name: key.name.clone() }
}

/// Gives a new object its identity.
pub fn stamp(object: &mut Object) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed());
    object
        .metadata_mut()
        .stamp(&uuid::Uuid::new_v4().to_string(), Time { seconds: Some(now), nanos: Some(0) });
}

/// A number below `bound`.
fn random(bound: u64) -> u64 {
    ((uuid::Uuid::new_v4().as_u128() & u128::from(u64::MAX)) * u128::from(bound) >> 64) as u64
}
