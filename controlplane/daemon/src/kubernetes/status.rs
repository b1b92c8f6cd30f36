//! Writes load-balancer addresses to the status of Services through the Kubernetes API (rule C2).
//!
//! One gateway of the fleet writes, elected in etcd. A Service gets the finalizer before its first address is written, and loses it after its
//! status is cleared, so that no Service is gone while somebody still sends traffic to its address. Every write names the version it was
//! made for; whoever else wrote in between wins, and the next look sees it. Services of others are never touched: what is cleaned up is only
//! what the records say was ours.

use crate::etcd::client::{Connector, explain, limited};
use crate::kubernetes::Tenancies;
use crate::kubernetes::plan::{is_ending, recorded};
use crate::state::{Core, State};
use anyhow::{Context, Result, ensure};
use etcd_client::Client as Etcd;
use k8s_openapi::api::core::v1::Service as ApiService;
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use turnpike_desired::k8s::Service;
use turnpike_desired::object::ObjectKey;
use turnpike_desired::settings::Rules;

/// The finalizer of every load-balancer implementation (KEP-980).
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Time to live of the leader's lease, in seconds: so long nobody writes after a leader has died.
const LEASE_S: i64 = 10;
/// How often the lease is kept alive, and how often at least is looked for what is left to do.
const TICK: Duration = Duration::from_secs(3);
/// Longest time for a request.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Waits after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Time between two looks at least.
const ROUND: Duration = Duration::from_millis(50);
/// Time between two writes at least: 50 a second are no burden for an API server.
const PACE: Duration = Duration::from_millis(20);
/// Writes between two looks at most, so that none is made for what is long past.
const WRITES_MAX: usize = 50;
/// How long the version after a write may take to come to us; after that it is written again.
const ON_THE_WAY_MAX: Duration = Duration::from_secs(10);

/// A client by a kubeconfig.
pub async fn client(file: &Path, context: Option<&str>) -> Result<(kube::Client, String)> {
    let what = || format!("kubernetes.kubeconfig: {}", file.display());
    let kubeconfig = Kubeconfig::read_from(file).with_context(what)?;
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.with_context(what)?;
    config.connect_timeout = Some(REQUEST_MAX);
    config.read_timeout = Some(REQUEST_MAX);
    config.write_timeout = Some(REQUEST_MAX);
    let server = config.cluster_url.to_string();
    Ok((kube::Client::try_from(config).with_context(what)?, server))
}

/// Writes for as long as this gateway is elected, for ever. The kubeconfig is read again before each election: tokens and certificates change.
pub async fn control(state: Arc<State>, connector: Connector, file: PathBuf) {
    let mut said = String::new();
    loop {
        state.kubernetes.status(|status| status.state = "waiting".into());
        let led = async {
            let (api, server) = client(&file, state.config.kubernetes.context.as_deref()).await?;
            state.kubernetes.status(|status| status.server = server);
            lead(&state, &connector, &api).await
        };
        if let Err(error) = led.await {
            let text = format!("status of Services is not written: {error:#}");
            state.kubernetes.status(|status| status.last_error = Some(text.clone()));
            if text != said {
                warn!("{text}");
                said = text;
            }
        }
        tokio::time::sleep(RETRY.0).await;
    }
}

/// Campaigns, and writes once elected, until the lease is lost.
async fn lead(state: &State, connector: &Connector, api: &kube::Client) -> Result<()> {
    let mut etcd = connector.connect().await?;
    let lease = limited(etcd.lease_grant(LEASE_S, None)).await.context("cannot take a lease")?.id();
    let result = with_lease(state, &mut etcd, lease, api).await;
    // The next leader need not wait for the lease to run out.
    let _ = limited(etcd.lease_revoke(lease)).await;
    result
}

async fn with_lease(state: &State, etcd: &mut Etcd, lease: i64, api: &kube::Client) -> Result<()> {
    let (mut keeper, mut kept) = etcd.lease_keep_alive(lease).await.map_err(explain)?;
    let name = state.own_key("leaders/load-balancer-status");
    let mut candidate = etcd.clone();
    let campaign = candidate.campaign(name, state.config.gateway_name(), lease);
    tokio::pin!(campaign);
    loop {
        tokio::select! {
            elected = &mut campaign => break drop(elected.map_err(explain).context("cannot stand for election")?),
            () = tokio::time::sleep(TICK) => keep(&mut keeper, &mut kept).await?,
        }
    }
    info!("this gateway writes the status of Services");
    // Side by side: a slow API server must not cost the lease.
    tokio::select! {
        lost = async {
            loop {
                tokio::time::sleep(TICK).await;
                if let Err(error) = keep(&mut keeper, &mut kept).await {
                    break error;
                }
            }
        } => Err(lost),
        ended = write(state, api) => ended,
    }
}

/// Writes what is left to write, for as long as it is polled.
async fn write(state: &State, api: &kube::Client) -> Result<()> {
    let mut writer = Writer::default();
    let (mut revisions, mut tenancies) = (state.revision(), state.kubernetes.tenancies());
    loop {
        revisions.borrow_and_update();
        let known = tenancies.borrow_and_update().clone();
        let is_all = writer.round(state, &known, api).await;
        ensure!(
            !writer.is_stranger,
            "the API server does not know this gateway (401); the kubeconfig is read again"
        );
        tokio::time::sleep(ROUND).await;
        if !is_all {
            continue;
        }
        tokio::select! {
            changed = revisions.changed() => changed?,
            changed = tenancies.changed() => changed?,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

async fn keep(
    keeper: &mut etcd_client::LeaseKeeper,
    kept: &mut etcd_client::LeaseKeepAliveStream,
) -> Result<()> {
    limited(keeper.keep_alive()).await.context("cannot keep the lease")?;
    let answer = limited(kept.message()).await.context("cannot keep the lease")?;
    ensure!(answer.is_some_and(|answer| answer.ttl() > 0), "the lease has run out");
    Ok(())
}

/// One write to the API.
#[derive(Clone, Debug, PartialEq)]
struct Job {
    service: ObjectKey,
    /// etcd revision of the version it was made for, which is its `resourceVersion`.
    revision: i64,
    is_status: bool,
    patch: Value,
}

/// What is remembered between looks.
#[derive(Debug, Default)]
struct Writer {
    /// The version that was last written upon, and when: its successor is on the way.
    written: BTreeMap<ObjectKey, (i64, Instant)>,
    /// When to try again after a failure, and how long to wait after the next.
    failed: BTreeMap<ObjectKey, (Instant, Duration)>,
    /// The server knows neither token nor certificate (401).
    is_stranger: bool,
}

impl Writer {
    /// Whether everything was tried that can be now.
    async fn round(&mut self, state: &State, known: &Tenancies, api: &kube::Client) -> bool {
        let jobs = {
            let core = state.core();
            // What is missing from a view that is held back must not be cleaned up.
            if !core.tracker.is_complete() || state.etcd(|etcd| etcd.held_back.is_some()) {
                return true;
            }
            jobs(&core, known, &state.rules)
        };
        let left: BTreeSet<&ObjectKey> = jobs.iter().map(|job| &job.service).collect();
        self.written.retain(|service, _| left.contains(service));
        self.failed.retain(|service, _| left.contains(service));
        if self.failed.is_empty() {
            state.kubernetes.status(|status| {
                status.state = "writing".into();
                status.last_error = None;
            });
        }
        let now = Instant::now();
        let mut due = jobs.into_iter().filter(|job| self.is_due(job, now)).collect::<Vec<_>>().into_iter();
        for job in due.by_ref().take(WRITES_MAX) {
            if !self.carry_out(state, api, job).await {
                // The server does not answer; it will not answer the others.
                return true;
            }
            tokio::time::sleep(PACE).await;
        }
        due.len() == 0
    }

    fn is_due(&self, job: &Job, now: Instant) -> bool {
        let is_on_the_way = self.written.get(&job.service).is_some_and(|(revision, at)| {
            *revision == job.revision && now.saturating_duration_since(*at) < ON_THE_WAY_MAX
        });
        let waits = self.failed.get(&job.service).is_some_and(|(until, _)| *until > now);
        !is_on_the_way && !waits
    }

    /// Whether the server answered.
    async fn carry_out(&mut self, state: &State, api: &kube::Client, job: Job) -> bool {
        let services: Api<ApiService> = Api::namespaced(api.clone(), &job.service.namespace);
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&job.patch));
        let name = &job.service.name;
        let answer = async {
            if job.is_status {
                services.patch_status(name, &parameters, &patch).await
            } else {
                services.patch(name, &parameters, &patch).await
            }
        };
        let answer = tokio::time::timeout(REQUEST_MAX, answer).await;
        let has_answered = matches!(answer, Ok(Ok(_) | Err(kube::Error::Api(_))));
        match answer {
            Ok(Ok(_)) => {
                state.kubernetes.status(|status| status.written += 1);
                self.failed.remove(&job.service);
                self.written.insert(job.service, (job.revision, Instant::now()));
            }
            // Another version is on its way to us, or the Service's end is.
            Ok(Err(kube::Error::Api(said))) if matches!(said.code, 404 | 409) => {
                self.written.insert(job.service, (job.revision, Instant::now()));
            }
            Ok(Err(error)) => {
                self.is_stranger = matches!(&error, kube::Error::Api(said) if said.code == 401);
                self.fail(state, job.service, &tell(error));
            }
            Err(_) => self.fail(state, job.service, &format!("no answer within {REQUEST_MAX:?}")),
        }
        has_answered
    }

    fn fail(&mut self, state: &State, service: ObjectKey, reason: &str) {
        let text = format!("the status of Service {service} cannot be written: {reason}");
        let (_, wait) = self.failed.get(&service).copied().unwrap_or((Instant::now(), RETRY.0));
        self.failed.insert(service, (Instant::now() + wait, (wait * 2).min(RETRY.1)));
        state.kubernetes.status(|status| {
            if status.last_error.as_ref() != Some(&text) {
                warn!("{text}");
            }
            status.state = "failing".into();
            status.last_error = Some(text);
        });
    }
}

fn tell(error: kube::Error) -> String {
    match error {
        kube::Error::Api(said) if said.code == 401 => {
            format!("{} (401); is the token or certificate of the kubeconfig still good?", said.message)
        }
        kube::Error::Api(said) if said.code == 403 => format!(
            "{}; the user of the kubeconfig needs a ClusterRole with the verb patch on services and services/status",
            said.message
        ),
        kube::Error::Api(said) => format!("{} ({})", said.message, said.code),
        other => format!("{:#}", anyhow::Error::new(other)),
    }
}

/// What is left to write.
fn jobs(core: &Core, known: &Tenancies, rules: &Rules) -> Vec<Job> {
    let none = BTreeSet::new();
    let jobs = recorded(known).into_iter().filter_map(|(key, recorded)| {
        let tracked = core.tracker.service(&key)?;
        let assigned = core.resolver.assigned(&key).unwrap_or(&none);
        job(&tracked.object, tracked.revision, assigned, &recorded, rules)
    });
    jobs.collect()
}

/// The next write for a Service that is `recorded` with addresses, of which it is `assigned` those it may have; none: all is as it should be.
fn job(
    service: &Service,
    revision: i64,
    assigned: &BTreeSet<IpAddr>,
    recorded: &BTreeSet<IpAddr>,
    rules: &Rules,
) -> Option<Job> {
    let meta = &service.metadata;
    let write = |is_status, mut patch: Value| {
        patch["metadata"]["resourceVersion"] = revision.to_string().into();
        Some(Job { service: ObjectKey::of(meta), revision, is_status, patch })
    };
    let ingress = &service.status.load_balancer.ingress;
    if !assigned.is_empty() && !is_ending(service) {
        if !has_finalizer(service) {
            let mut finalizers = meta.finalizers.clone();
            finalizers.push(FINALIZER.into());
            return write(false, json!({"metadata": {"finalizers": finalizers}}));
        }
        let is_right = ingress.len() == assigned.len()
            && ingress.iter().all(|i| {
                i.ip_mode.as_deref() == Some("VIP") && i.ip.parse().is_ok_and(|ip| assigned.contains(&ip))
            });
        let entries: Vec<Value> =
            assigned.iter().map(|address| json!({"ip": address.to_string(), "ipMode": "VIP"})).collect();
        return if is_right {
            None
        } else {
            write(true, json!({"status": {"loadBalancer": {"ingress": entries}}}))
        };
    }
    let is_foreign = |i: &&turnpike_desired::k8s::LoadBalancerIngress| {
        !i.ip.parse().is_ok_and(|ip| recorded.contains(&ip))
    };
    let foreign: Vec<_> = ingress.iter().filter(is_foreign).collect();
    if foreign.len() != ingress.len() {
        return write(true, json!({"status": {"loadBalancer": {"ingress": foreign}}}));
    }
    if has_finalizer(service) && !is_of_others(service, rules) {
        let others: Vec<_> = meta.finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        return write(false, json!({"metadata": {"finalizers": others}}));
    }
    None
}

/// Whether nothing of an address is left on a Service that does not have it any more, and is `assigned` these. The finalizer goes last, and
/// only the record says that it is ours: without, nobody would take it off, and the Service could never be deleted.
#[must_use]
pub fn is_clean(service: &Service, address: IpAddr, assigned: &BTreeSet<IpAddr>, rules: &Rules) -> bool {
    let ingress = &service.status.load_balancer.ingress;
    let is_told = ingress.iter().any(|i| i.ip.parse() == Ok(address));
    let keeps_finalizer = !assigned.is_empty() && !is_ending(service);
    !is_told && (keeps_finalizer || !has_finalizer(service) || is_of_others(service, rules))
}

fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// Whether another load balancer looks after a Service: every implementation has the same finalizer, and there it is not ours.
fn is_of_others(service: &Service, rules: &Rules) -> bool {
    service.spec.r#type == "LoadBalancer" && !rules.load_balancer_class.is_ours(service)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
