//! Who has a frontend when several Services want it: the oldest, always the same one, whatever the order of events.

use crate::desired::{Problem, ProblemKind, ResolvedFrontend};
use crate::object::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use turnpike_wire::update::{FrontendKey, FrontendKind, ServiceKey};

/// Order of precedence: creation time, then name. A Service without a creation time comes last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    created_unix_seconds: i64,
    owner: ObjectKey,
    service: ServiceKey,
    kind: FrontendKind,
}

/// Every wish for every frontend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    by_key: BTreeMap<FrontendKey, BTreeMap<Rank, Arc<ResolvedFrontend>>>,
    /// Frontends that more than one wants.
    contested: BTreeSet<FrontendKey>,
}

fn rank(frontend: &ResolvedFrontend, created: Option<i64>) -> Rank {
    Rank {
        created_unix_seconds: created.unwrap_or(i64::MAX),
        owner: frontend.owner.clone(),
        service: frontend.frontend.service.clone(),
        kind: frontend.frontend.kind,
    }
}

impl Claims {
    /// Adds a wish of a Service created then.
    pub(crate) fn add(&mut self, frontend: Arc<ResolvedFrontend>, created: Option<i64>) {
        let (key, rank) = (frontend.frontend.key, rank(&frontend, created));
        let wishes = self.by_key.entry(key).or_default();
        wishes.insert(rank, frontend);
        if wishes.len() > 1 {
            self.contested.insert(key);
        }
    }

    /// Takes a wish back; `created` as it was when it was added.
    pub(crate) fn remove(&mut self, frontend: &ResolvedFrontend, created: Option<i64>) {
        let key = frontend.frontend.key;
        if let Some(wishes) = self.by_key.get_mut(&key) {
            wishes.remove(&rank(frontend, created));
            if wishes.len() <= 1 {
                self.contested.remove(&key);
            }
            if wishes.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }

    /// Who has the frontend.
    pub(crate) fn winner(&self, key: &FrontendKey) -> Option<&Arc<ResolvedFrontend>> {
        self.by_key.get(key).and_then(|wishes| wishes.values().next())
    }

    /// Who does not have a frontend, and because of whom.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = Problem> {
        let contested = self.contested.iter().filter_map(|key| self.by_key.get_key_value(key));
        contested.flat_map(|(key, wishes)| {
            let mut wishes = wishes.values();
            let winner = wishes.next().map(|winner| winner.owner.to_string()).unwrap_or_default();
            wishes.map(move |loser| Problem {
                object: format!("Service {}", loser.owner),
                kind: ProblemKind::Conflict,
                message: format!("{key} is taken by Service {winner}, which is older; give one of them another port or address"),
            })
        })
    }
}
