//! What Turnpike gives to Services that a kube-apiserver keeps: load-balancer addresses, kept in etcd under Turnpike's own prefix
//! ([`addresses`], decided by [`plan`]), and written to their status through the Kubernetes API if a kubeconfig says how ([`status`]).

pub mod addresses;
pub mod plan;
pub mod record;
pub mod status;

use crate::etcd::client::Connector;
use crate::state::{Core, State};
use anyhow::Result;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use turnpike_desired::allocate::ADDRESS_CONDITION;
use turnpike_desired::k8s::{Condition, LoadBalancerIngress, Service};
use turnpike_desired::object::ObjectKey;
use turnpike_wire::admin::KubernetesStatus;

/// Which Service has which of Turnpike's addresses, as etcd says.
pub type Tenancies = BTreeMap<IpAddr, record::Entry>;

/// What the tasks of this module share with the rest.
#[derive(Debug)]
pub struct Shared {
    tenancies: watch::Sender<Arc<Tenancies>>,
    problems: Mutex<BTreeMap<ObjectKey, String>>,
    status: Mutex<KubernetesStatus>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            tenancies: watch::Sender::new(Arc::default()),
            problems: Mutex::default(),
            status: Mutex::new(KubernetesStatus { state: "off".into(), ..KubernetesStatus::default() }),
        }
    }
}

impl Shared {
    /// Who has what, as it was seen last.
    #[must_use]
    pub fn tenancies(&self) -> watch::Receiver<Arc<Tenancies>> {
        self.tenancies.subscribe()
    }

    /// Why Services lack an address.
    #[must_use]
    pub fn problems(&self) -> BTreeMap<ObjectKey, String> {
        held(&self.problems).clone()
    }

    fn set_problems(&self, problems: BTreeMap<ObjectKey, String>) {
        *held(&self.problems) = problems;
    }

    /// How writing to the API goes.
    pub fn status<T>(&self, body: impl FnOnce(&mut KubernetesStatus) -> T) -> T {
        body(&mut held(&self.status))
    }
}

/// Starts both tasks. An error is one of the kubeconfig.
pub async fn start(state: &Arc<State>, connector: &Connector) -> Result<()> {
    if let Some(file) = &state.config.kubernetes.kubeconfig {
        status::client(file, state.config.kubernetes.context.as_deref()).await?;
        tokio::spawn(status::control(state.clone(), connector.clone(), file.clone()));
    }
    tokio::spawn(addresses::control(state.clone(), connector.clone()));
    Ok(())
}

/// A Service as it is shown: with the addresses it has from Turnpike, or why it lacks one, whether or not its status says so.
#[must_use]
pub fn shown(
    core: &Core,
    problems: &BTreeMap<ObjectKey, String>,
    key: &ObjectKey,
    service: &Service,
) -> Service {
    let mut service = service.clone();
    let ingress = &mut service.status.load_balancer.ingress;
    for address in core.resolver.assigned(key).into_iter().flatten() {
        if !ingress.iter().any(|told| told.ip.parse() == Ok(*address)) {
            let (ip, ip_mode) = (address.to_string(), Some("VIP".into()));
            ingress.push(LoadBalancerIngress { ip, ip_mode, ..Default::default() });
        }
    }
    if let Some(problem) = problems.get(key) {
        service.status.conditions.push(Condition {
            r#type: ADDRESS_CONDITION.into(),
            status: "False".into(),
            reason: "NotAssigned".into(),
            message: problem.clone(),
            ..Default::default()
        });
    }
    service
}

/// Plain data is whole whatever happened to who held it.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
