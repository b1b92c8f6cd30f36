//! One request as one etcd transaction, with what its Services hold.
//!
//! What a Service holds — cluster addresses, NodePorts, load-balancer addresses — stands in a key of its own each, whose value is the
//! holder. It is made only if it is not there, so two gateways that give out the same address at the same time cannot both succeed,
//! whatever they knew. A key whose holder is gone (somebody deleted a Service past Turnpike) is taken over on condition that the holder
//! still is what it was known to be.
//!
//! A load-balancer address that is shared has a key for each port, below the sharing key: `load-balancer/ADDRESS/KEY/PROTOCOL/PORT`. Who
//! takes one makes sure that nobody has the address for itself or under another key; who takes the address for itself, that nobody has a
//! port of it. Both are conditions that a range of keys is empty.

use crate::etcd::client::limited;
use crate::state::{Core, State};
use anyhow::{Context, Result};
use etcd_client::{Client, Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse};
use std::collections::{BTreeMap, BTreeSet};
use turnpike_desired::allocate::sharing_key;
use turnpike_desired::envelope;
use turnpike_desired::k8s::Service;
use turnpike_desired::object::{Kind, Object, ObjectKey};

/// Conditions and writes that belong together.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Revision at which each key must have been written last; 0: it must not be there.
    expected: BTreeMap<String, i64>,
    /// New value of each key; none: deleted.
    written: BTreeMap<String, Option<Vec<u8>>>,
    /// Allocation keys that get a holder.
    taken: BTreeMap<String, ObjectKey>,
    /// Allocation keys that lose theirs.
    freed: BTreeSet<String>,
    /// Ranges of allocation keys, from the first to before the second, in which there may be none but those that are freed here.
    empty: BTreeSet<(String, String)>,
}

/// An allocation that was there when it should be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupied {
    /// Who holds it.
    pub holder: ObjectKey,
    /// When that was written.
    pub revision: i64,
}

/// Allocations that stood in the way, by key.
pub type Obstacles = BTreeMap<String, Occupied>;

/// Whether a transaction was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At this revision.
    Done(i64),
    /// Somebody else has written in between.
    Overtaken(Obstacles),
}

impl Changes {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.written.is_empty() && self.taken.is_empty() && self.freed.is_empty()
    }

    /// At most this many conditions, and at most this many operations, which etcd limits.
    #[must_use]
    pub fn size(&self) -> usize {
        let conditions = self.expected.len() + self.taken.len() + self.empty.len();
        conditions.max(self.written.len() + self.taken.len() + self.freed.len())
    }

    /// Takes another's conditions and writes.
    pub fn join(&mut self, other: Self) {
        self.expected.extend(other.expected);
        self.written.extend(other.written);
        self.taken.extend(other.taken);
        self.freed.extend(other.freed);
        self.empty.extend(other.empty);
    }

    /// The objects that would be written and deleted, by key.
    pub(super) fn writes(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.written.iter().map(|(key, value)| (key.as_str(), value.as_deref()))
    }

    /// Nothing but this may have been written to a key since `revision`; 0: it is not there.
    pub fn expect(&mut self, key: &str, revision: i64) {
        self.expected.insert(key.to_owned(), revision);
    }

    /// Writes an object that was last written at `revision`, or was not there (0), and what it holds instead of what `old` held.
    pub fn put(&mut self, state: &State, object: &Object, old: Option<&Object>, revision: i64) {
        let key = state.registry().key(object.kind(), &object.key());
        self.expect(&key, revision);
        self.written.insert(key, Some(envelope::encode(object)));
        let (before, after) = (old.map(holds).unwrap_or_default(), holds(object));
        let own_key = |held: &String| state.own_key(&format!("allocations/{held}"));
        self.taken.extend(after.difference(&before).map(|held| (own_key(held), object.key())));
        self.freed.extend(before.difference(&after).map(own_key));
        for held in after.difference(&before) {
            let ranges = excluded(held).into_iter();
            self.empty.extend(ranges.map(|(first, end)| (own_key(&first), own_key(&end))));
        }
    }

    /// Deletes an object that was last written at `revision`, and frees what its last good version held.
    pub fn delete(
        &mut self,
        state: &State,
        kind: Kind,
        name: &ObjectKey,
        good: Option<&Object>,
        revision: i64,
    ) {
        let key = state.registry().key(kind, name);
        self.expect(&key, revision);
        self.written.insert(key, None);
        let held = good.map(holds).unwrap_or_default();
        self.freed.extend(held.iter().map(|held| state.own_key(&format!("allocations/{held}"))));
    }

    /// Lets what stands in the way be taken over if its holder, as far as `core` knows, does not hold it.
    pub fn take_over(&mut self, state: &State, core: &Core, obstacles: &Obstacles) {
        for (key, occupied) in obstacles {
            let is_in_the_way = self.empty.iter().any(|(first, end)| first <= key && key < end);
            if is_in_the_way && !self.taken.contains_key(key) {
                self.freed.insert(key.clone());
            }
            if is_in_the_way || self.taken.contains_key(key) {
                let holder = state.registry().key(Kind::Service, &occupied.holder);
                self.expected
                    .entry(holder)
                    .or_insert_with(|| core.written_at(state, Kind::Service, &occupied.holder));
                self.expect(key, occupied.revision);
            }
        }
    }

    /// Carries everything out at once, if all conditions hold.
    pub async fn commit(self, client: &mut Client) -> Result<Outcome> {
        let Self { mut expected, mut written, taken, freed, empty } = self;
        let wanted: Vec<String> = taken.keys().cloned().collect();
        let looks = wanted.into_iter().map(|key| TxnOp::get(key, None));
        let looks = looks.chain(empty.iter().map(|(first, end)| {
            TxnOp::get(first.as_str(), Some(GetOptions::new().with_range(end.as_str())))
        }));
        let looks: Vec<TxnOp> = looks.collect();
        let gaps = empty.iter().flat_map(|(first, end)| gaps(first, end, &freed));
        let gaps: Vec<Compare> = gaps
            .map(|(first, end)| Compare::create_revision(first, CompareOp::Equal, 0).with_range(end))
            .collect();
        for key in freed {
            if !taken.contains_key(&key) {
                written.insert(key, None);
            } else {
                // It passes from one Service of this transaction to another; the first one's condition guards it.
                expected.insert(key, ANY);
            }
        }
        for (key, holder) in taken {
            expected.entry(key.clone()).or_insert(0);
            written.insert(key, Some(holder.to_string().into_bytes()));
        }
        let conditions = expected.into_iter().filter(|(_, revision)| *revision != ANY);
        let conditions: Vec<Compare> = conditions
            .map(|(key, revision)| Compare::mod_revision(key, CompareOp::Equal, revision))
            .chain(gaps)
            .collect();
        let writes: Vec<TxnOp> = written
            .into_iter()
            .map(|(key, value)| match value {
                Some(value) => TxnOp::put(key, value, None),
                None => TxnOp::delete(key, None),
            })
            .collect();
        let count = conditions.len().max(writes.len());
        let answer = limited(client.txn(Txn::new().when(conditions).and_then(writes).or_else(looks)))
            .await
            .with_context(|| mend(count))?;
        if answer.succeeded() {
            let header = answer.header().context("etcd answered without a header")?;
            return Ok(Outcome::Done(header.revision()));
        }
        let found = answer.op_responses().into_iter().flat_map(|response| match response {
            TxnOpResponse::Get(get) => get.kvs().iter().filter_map(occupied).collect(),
            _ => Vec::new(),
        });
        Ok(Outcome::Overtaken(found.collect()))
    }
}

/// No revision is negative: the key may be in any state.
const ANY: i64 = -1;

fn mend(operations: usize) -> String {
    format!(
        "cannot write to etcd (one transaction of {operations} operations; should it be too large, send less at once, or start etcd with larger --max-txn-ops and --max-request-bytes)"
    )
}

fn occupied(kv: &KeyValue) -> Option<(String, Occupied)> {
    let (namespace, name) = kv.value_str().ok()?.split_once('/')?;
    let occupied = Occupied { holder: ObjectKey::new(namespace, name), revision: kv.mod_revision() };
    Some((kv.key_str().ok()?.to_owned(), occupied))
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
    let ingress = service.status.load_balancer.ingress.iter().filter(|i| !i.ip.is_empty());
    let public = ingress.flat_map(|i| match sharing_key(service) {
        None => vec![format!("load-balancer/{}", i.ip)],
        Some(key) => {
            let ports = spec.ports.iter();
            ports.map(|p| format!("load-balancer/{}/{key}/{}/{}", i.ip, p.protocol, p.port)).collect()
        }
    });
    cluster.chain(node_ports).chain(public).collect()
}

/// The ranges of allocations, from the first to before the second, that nobody may have beside this one.
fn excluded(held: &str) -> Vec<(String, String)> {
    let mut segments = held.split('/');
    let (Some("load-balancer"), Some(address)) = (segments.next(), segments.next()) else {
        return Vec::new();
    };
    let address = format!("load-balancer/{address}");
    // '0' is the character after '/'.
    let (first, end) = (format!("{address}/"), format!("{address}0"));
    match segments.next() {
        None => vec![(first, end)],
        Some(key) => vec![
            (address.clone(), first.clone()),
            (first, format!("{address}/{key}/")),
            (format!("{address}/{key}0"), end),
        ],
    }
}

/// What is left of a range without these keys.
fn gaps(first: &str, end: &str, without: &BTreeSet<String>) -> Vec<(String, String)> {
    let mut gaps = Vec::new();
    let mut from = first.to_owned();
    for key in without.range(first.to_owned()..end.to_owned()) {
        if from < *key {
            gaps.push((from, key.clone()));
        }
        from = format!("{key}\0");
    }
    if from.as_str() < end {
        gaps.push((from, end.to_owned()));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::{excluded, gaps};
    use std::collections::BTreeSet;

    fn excludes(held: &str, other: &str) -> bool {
        excluded(held).iter().any(|(first, end)| first.as_str() <= other && other < end.as_str())
    }

    #[test]
    fn an_address_is_shared_under_one_key_or_not_at_all() {
        let rows = [
            ("load-balancer/10.0.0.1", "load-balancer/10.0.0.1/web/TCP/80", true),
            ("load-balancer/10.0.0.1", "load-balancer/10.0.0.10", false),
            ("load-balancer/10.0.0.1", "load-balancer/10.0.0.10/web/TCP/80", false),
            ("load-balancer/10.0.0.1/web/TCP/80", "load-balancer/10.0.0.1", true),
            ("load-balancer/10.0.0.1/web/TCP/80", "load-balancer/10.0.0.1/web/TCP/443", false),
            ("load-balancer/10.0.0.1/web/TCP/80", "load-balancer/10.0.0.1/web-b/TCP/443", true),
            ("load-balancer/10.0.0.1/web/TCP/80", "load-balancer/10.0.0.1/we/TCP/443", true),
            ("load-balancer/10.0.0.1/web/TCP/80", "load-balancer/10.0.0.1/webb/TCP/443", true),
            ("load-balancer/10.0.0.1/web/TCP/80", "load-balancer/10.0.0.10", false),
            ("load-balancer/fd00::1/web/TCP/80", "load-balancer/fd00::1/x/TCP/443", true),
            ("load-balancer/fd00::1", "load-balancer/fd00::10", false),
            ("node-port/30000", "node-port/30001", false),
        ];
        for (held, other, expected) in rows {
            assert_eq!(excludes(held, other), expected, "{held} and {other}");
        }
    }

    #[test]
    fn what_is_freed_in_the_same_transaction_is_not_in_the_way() {
        let freed: BTreeSet<String> = ["a", "b/1", "b/3", "c"].map(str::to_owned).into();
        let text = |(first, end): (&str, &str)| (first.to_owned(), end.to_owned());
        assert_eq!(gaps("b/", "b0", &freed), [("b/", "b/1"), ("b/1\0", "b/3"), ("b/3\0", "b0")].map(text));
        assert_eq!(gaps("d", "e", &freed), [("d", "e")].map(text));
        assert_eq!(gaps("a", "a\0", &freed), [("", ""); 0].map(text));
    }
}
