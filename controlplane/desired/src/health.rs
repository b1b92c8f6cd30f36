//! The health check ports of load balancers that keep to local endpoints (rules H1 to H3): which Service each tells of, and how many it has.

use crate::desired::{Problem, ProblemKind};
use crate::object::ObjectKey;
use std::collections::BTreeMap;

/// What a health check port tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectKey,
    /// Distinct addresses of its local ready endpoints, over all its ports.
    pub local_endpoints: usize,
}

/// Who has a health check port when several Services want it: the oldest.
#[derive(Clone, Debug, Default)]
pub(crate) struct HealthChecks {
    by_port: BTreeMap<u16, BTreeMap<(i64, ObjectKey), usize>>,
}

impl HealthChecks {
    pub(crate) fn add(
        &mut self,
        port: u16,
        created: Option<i64>,
        service: ObjectKey,
        local_endpoints: usize,
    ) {
        let wishes = self.by_port.entry(port).or_default();
        wishes.insert((created.unwrap_or(i64::MAX), service), local_endpoints);
    }

    pub(crate) fn remove(&mut self, port: u16, created: Option<i64>, service: &ObjectKey) {
        if let Some(wishes) = self.by_port.get_mut(&port) {
            wishes.remove(&(created.unwrap_or(i64::MAX), service.clone()));
            if wishes.is_empty() {
                self.by_port.remove(&port);
            }
        }
    }

    /// Who has the port.
    pub(crate) fn winner(&self, port: u16) -> Option<HealthCheck> {
        let ((_, service), local_endpoints) = self.by_port.get(&port)?.first_key_value()?;
        Some(HealthCheck { service: service.clone(), local_endpoints: *local_endpoints })
    }

    /// Who does not have a port, and because of whom.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = Problem> {
        self.by_port.iter().filter(|(_, wishes)| wishes.len() > 1).flat_map(|(port, wishes)| {
            let mut wishes = wishes.keys().map(|(_, service)| service);
            let winner = wishes.next().map(ToString::to_string).unwrap_or_default();
            wishes.map(move |loser| Problem {
                object: format!("Service {loser}"),
                kind: ProblemKind::Conflict,
                message: format!(
                    "spec.healthCheckNodePort: {port} is taken by Service {winner}, which is older"
                ),
            })
        })
    }
}
