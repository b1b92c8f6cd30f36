//! One object's change as conditions and operations of an etcd transaction, its allocations included.
//!
//! What a Service holds — cluster addresses, NodePorts, load-balancer addresses — stands in a key of its own each, made only if it is not
//! there. So two gateways that give out the same address at the same time cannot both succeed, whatever they knew.

use crate::etcd::client::limited;
use crate::state::State;
use anyhow::Result;
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use std::collections::BTreeSet;
use turnpike_desired::envelope;
use turnpike_desired::k8s::Service;
use turnpike_desired::object::{Kind, Object, ObjectKey};

/// Conditions and operations that belong together.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    conditions: Vec<Compare>,
    operations: Vec<TxnOp>,
}

/// Whether a transaction was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At this revision.
    Done(i64),
    /// Somebody else has written in between; known at this revision.
    Overtaken(i64),
}

impl Changes {
    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The larger of the numbers of conditions and operations, which etcd limits.
    #[must_use]
    pub fn size(&self) -> usize {
        self.conditions.len().max(self.operations.len())
    }

    /// Takes another's conditions and operations.
    pub fn join(&mut self, other: Self) {
        self.conditions.extend(other.conditions);
        self.operations.extend(other.operations);
    }

    /// Nothing but this may have been written to a key since `revision`; 0: it is not there.
    pub fn expect(&mut self, key: &str, revision: i64) {
        self.conditions.push(Compare::mod_revision(key, CompareOp::Equal, revision));
    }

    /// Writes an object that was last written at `revision`, or was not there (0), and what it holds instead of what `old` held.
    pub fn put(&mut self, state: &State, object: &Object, old: Option<&Object>, revision: i64) {
        let key = state.registry().key(object.kind(), &object.key());
        self.expect(&key, revision);
        self.operations.push(TxnOp::put(key, envelope::encode(object), None));
        self.allocations(state, &object.key(), old.map(holds).unwrap_or_default(), holds(object));
    }

    /// Deletes an object that was last written at `revision`, and what it holds.
    pub fn delete(&mut self, state: &State, object: &Object, revision: i64) {
        let key = state.registry().key(object.kind(), &object.key());
        self.expect(&key, revision);
        self.operations.push(TxnOp::delete(key, None));
        self.allocations(state, &object.key(), holds(object), BTreeSet::new());
    }

    /// Deletes a slice, whoever wrote it last.
    pub fn delete_slice(&mut self, state: &State, slice: &ObjectKey) {
        self.operations.push(TxnOp::delete(state.registry().key(Kind::EndpointSlice, slice), None));
    }

    fn allocations(
        &mut self,
        state: &State,
        holder: &ObjectKey,
        old: BTreeSet<String>,
        new: BTreeSet<String>,
    ) {
        for taken in new.difference(&old) {
            let key = state.own_key(&format!("allocations/{taken}"));
            self.conditions.push(Compare::create_revision(key.clone(), CompareOp::Equal, 0));
            self.operations.push(TxnOp::put(key, holder.to_string(), None));
        }
        for freed in old.difference(&new) {
            self.operations.push(TxnOp::delete(state.own_key(&format!("allocations/{freed}")), None));
        }
    }

    /// Carries everything out at once, if all conditions hold.
    pub async fn commit(self, client: &mut Client) -> Result<Outcome> {
        let answer = limited(client.txn(Txn::new().when(self.conditions).and_then(self.operations))).await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(if answer.succeeded() { Outcome::Done(revision) } else { Outcome::Overtaken(revision) })
    }
}

/// What a Service holds, as keys below `allocations/`. Other objects hold nothing.
fn holds(object: &Object) -> BTreeSet<String> {
    match object {
        Object::Service(service) => held_by(service),
        _ => BTreeSet::new(),
    }
}

fn held_by(service: &Service) -> BTreeSet<String> {
    let spec = &service.spec;
    let cluster =
        spec.cluster_ips.iter().filter(|a| !a.is_empty() && *a != "None").map(|a| format!("cluster-ip/{a}"));
    let node_ports = spec.ports.iter().map(|p| p.node_port).chain([spec.health_check_node_port]);
    let node_ports = node_ports.filter(|p| *p != 0).map(|p| format!("node-port/{p}"));
    let public = service
        .status
        .load_balancer
        .ingress
        .iter()
        .filter(|i| !i.ip.is_empty())
        .map(|i| format!("load-balancer/{}", i.ip));
    cluster.chain(node_ports).chain(public).collect()
}
