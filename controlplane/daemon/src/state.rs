//! What the tasks of the control plane share: the objects, what was made of them, and how everything is.

use crate::dns::tally::Tally;
use crate::dns::touched::Touched;
use crate::etcd::Change;
use crate::etcd::guard::{self, Before};
use crate::etcd::list::Listed;
use crate::fill::Fill;
use crate::flow_census::FlowCensus;
use crate::health::pulse::Pulse;
use crate::http::Listeners;
use crate::metrics::latency::Latency;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;
use tracing::{error, info, warn};
use turnpike_desired::desired::Desired;
use turnpike_desired::object::{Kind, ObjectKey};
use turnpike_desired::registry::Registry;
use turnpike_desired::resolve::Resolver;
use turnpike_desired::settings::{Rules, Settings};
use turnpike_desired::tracker::{RegistryEvent, Tracker, ViewSize};
use turnpike_shm::monotonic_ms;
use turnpike_wire::admin::{DataplaneStatus, EtcdStatus, HeldBack};
use turnpike_wire::config::{ClusterMode, Config};
use turnpike_wire::update::Fleet;

/// What the cluster wants, as of a revision.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Services, backends and frontends.
    pub desired: Arc<Desired>,
    /// etcd revision.
    pub revision: i64,
}

/// The objects and what was made of them.
#[derive(Debug)]
pub struct Core {
    /// The objects.
    pub tracker: Tracker,
    /// What was made of them.
    pub resolver: Resolver,
    /// etcd revision they are of.
    pub revision: i64,
    /// What changed, for the names.
    pub touched: Touched,
    /// A newer view that is held back, because too much is gone from it.
    shadow: Option<Shadow>,
}

/// A view that is followed and not in force.
#[derive(Debug)]
struct Shadow {
    tracker: Tracker,
    revision: i64,
    /// What it is compared with when nothing is in force.
    remembered: ViewSize,
}

impl Core {
    /// The revision at which a key was written last, good or bad; 0: it is not there.
    #[must_use]
    pub fn written_at(&self, state: &State, kind: Kind, name: &ObjectKey) -> i64 {
        let tracker = &self.tracker;
        let good = match kind {
            Kind::Service => tracker.service(name).map(|t| t.revision),
            Kind::EndpointSlice => tracker.endpoint_slice(name).map(|t| t.revision),
            Kind::Pod => tracker.pod(name).map(|t| t.revision),
            Kind::Node => tracker.node(name).map(|t| t.revision),
            Kind::ServiceCidr => None,
        };
        let key = state.registry().key(kind, name);
        let bad =
            tracker.skipped().into_iter().find(|skipped| skipped.key == key).map(|skipped| skipped.revision);
        good.max(bad).unwrap_or(0)
    }
}

/// See the module.
#[derive(Debug)]
pub struct State {
    /// The configuration.
    pub config: Config,
    /// What of it validation and allocation need.
    pub rules: Rules,
    /// How the DNS server is.
    pub dns: Tally,
    /// How the servers of health checks and metrics are.
    pub listeners: Listeners,
    /// What waits to be adopted, since when.
    pub pulse: Pulse,
    /// What is done for the Services of a kube-apiserver.
    pub kubernetes: crate::kubernetes::Shared,
    /// How long changes take to be adopted.
    pub latency: Latency,
    /// The question how many flows are live.
    pub flow_census: FlowCensus,
    /// How full SNAT ports are.
    pub fill: Fill,
    registry: Registry,
    core: Mutex<Core>,
    etcd: Mutex<EtcdStatus>,
    /// When etcd said something last; 0: never.
    heard_ms: AtomicU64,
    dataplane: Mutex<DataplaneStatus>,
    wanted: watch::Sender<Option<Wanted>>,
    revision: watch::Sender<i64>,
    settled: watch::Sender<i64>,
    fleet: watch::Sender<Option<Fleet>>,
    /// Whether the load-balancer addresses that Turnpike keeps are known: without them some would seem to be gone.
    assigned: AtomicBool,
    reported: Mutex<BTreeSet<String>>,
    writing: tokio::sync::Mutex<()>,
}

impl State {
    /// State that knows nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let registry = Registry::new(&config.cluster.registry_prefix);
        let core = Core {
            tracker: Tracker::new(registry.clone(), &Kind::ALL),
            resolver: Resolver::new(Settings::from_config(&config)),
            revision: 0,
            touched: Touched::default(),
            shadow: None,
        };
        Self {
            rules: Rules::from_config(&config),
            dns: Tally::default(),
            listeners: Listeners::default(),
            pulse: Pulse::default(),
            kubernetes: crate::kubernetes::Shared::default(),
            latency: Latency::default(),
            assigned: AtomicBool::new(
                config.cluster.mode == ClusterMode::Standalone || config.cluster.pools.is_empty(),
            ),
            flow_census: FlowCensus::default(),
            fill: Fill::default(),
            registry,
            core: Mutex::new(core),
            etcd: Mutex::new(EtcdStatus { state: "connecting".into(), ..EtcdStatus::default() }),
            heard_ms: AtomicU64::new(0),
            dataplane: Mutex::new(DataplaneStatus { state: "absent".into(), ..DataplaneStatus::default() }),
            wanted: watch::Sender::new(None),
            revision: watch::Sender::new(0),
            settled: watch::Sender::new(0),
            fleet: watch::Sender::new(None),
            reported: Mutex::new(BTreeSet::new()),
            writing: tokio::sync::Mutex::new(()),
            config,
        }
    }

    /// Where the objects are in etcd.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A key of Turnpike's own.
    #[must_use]
    pub fn own_key(&self, below: &str) -> String {
        format!("{}/{below}", self.config.cluster.turnpike_prefix)
    }

    /// The objects, for as long as the guard lives; never held across a wait.
    pub fn core(&self) -> MutexGuard<'_, Core> {
        held(&self.core)
    }

    /// Changes or reads the state of the connection to etcd.
    pub fn etcd<T>(&self, body: impl FnOnce(&mut EtcdStatus) -> T) -> T {
        body(&mut held(&self.etcd))
    }

    /// Changes or reads what is known of the dataplane.
    pub fn dataplane<T>(&self, body: impl FnOnce(&mut DataplaneStatus) -> T) -> T {
        body(&mut held(&self.dataplane))
    }

    /// etcd has said something.
    pub fn heard(&self) {
        self.heard_ms.store(monotonic_ms().max(1), Ordering::Relaxed);
    }

    /// The state of the connection to etcd and of the view it gives.
    #[must_use]
    pub fn etcd_status(&self) -> EtcdStatus {
        let revision = self.core().revision;
        let heard = self.heard_ms.load(Ordering::Relaxed);
        let mut status = self.etcd(|etcd| etcd.clone());
        status.revision = revision;
        status.last_heard_ms = (heard > 0).then(|| monotonic_ms().saturating_sub(heard));
        status
    }

    /// Takes a full list: what is not in it is gone, unless that is so much that the list is held back ([`crate::etcd::guard`]).
    pub fn replace(&self, listed: &Listed) {
        let received = Instant::now();
        let mut core = self.core();
        let mut tracker = core.tracker.clone();
        for (part, objects) in &listed.parts {
            tracker.replace_part(*part, objects.iter().map(event));
        }
        listed.denied.iter().for_each(|part| tracker.forgo(*part));
        let remembered = if core.tracker.is_complete() {
            ViewSize::default()
        } else {
            let config = &self.config;
            guard::remembered(&config.gateway.state_dir, &config.cluster.registry_prefix).unwrap_or_default()
        };
        core.shadow = Some(Shadow { tracker, revision: listed.revision, remembered });
        self.judge(core, received);
    }

    /// Takes changes, all at once.
    pub fn change(&self, changes: &[Change], revision: i64) {
        let received = Instant::now();
        let mut core = self.core();
        if let Some(shadow) = &mut core.shadow {
            shadow.revision = revision;
            for change in changes {
                shadow.tracker.apply(&event(change));
            }
            return self.judge(core, received);
        }
        for change in changes {
            core.tracker.apply(&event(change));
            core.touched.mark(&self.registry, &change.key);
        }
        core.revision = revision;
        self.resolved(core, received);
    }

    /// Takes the view that is held back. None: nothing is.
    pub fn accept_view(&self) -> Option<HeldBack> {
        let core = self.core();
        let held = self.etcd(|etcd| etcd.held_back.take())?;
        warn!("the view of etcd that was held back is accepted");
        self.take_shadow(core, Instant::now());
        Some(held)
    }

    /// Sets the load-balancer addresses that Services have from Turnpike, of all that have some (Kubernetes mode).
    pub fn assign(&self, assigned: &BTreeMap<ObjectKey, BTreeSet<IpAddr>>) {
        let mut core = self.core();
        let is_news = core.resolver.assign_all(assigned);
        if !self.assigned.swap(true, Ordering::Relaxed) || is_news {
            self.resolved(core, Instant::now());
        }
    }

    /// Whether [`State::assign`] was called, or need not be.
    #[must_use]
    pub fn is_assigned(&self) -> bool {
        self.assigned.load(Ordering::Relaxed)
    }

    /// Makes a newer view the state, or holds it back.
    fn judge(&self, core: MutexGuard<'_, Core>, received: Instant) {
        let Some(shadow) = &core.shadow else { return };
        let before = if core.tracker.is_complete() {
            Before::Known(&core.tracker)
        } else {
            Before::Remembered(shadow.remembered)
        };
        match guard::judge(before, &shadow.tracker, self.config.etcd.shrink_limit_percent) {
            Some(held) => self.etcd(|etcd| match &mut etcd.held_back {
                Some(known) => *known = HeldBack { since_unix_s: known.since_unix_s, ..held },
                none => {
                    error!("{}; what was known before stays in force", held.reason);
                    *none = Some(held);
                }
            }),
            None => {
                if self.etcd(|etcd| etcd.held_back.take()).is_some() {
                    info!("etcd is whole again");
                }
                self.take_shadow(core, received);
            }
        }
    }

    fn take_shadow(&self, mut core: MutexGuard<'_, Core>, received: Instant) {
        if let Some(shadow) = core.shadow.take() {
            core.tracker = shadow.tracker;
            core.revision = shadow.revision;
            core.touched.mark_all();
            self.resolved(core, received);
        }
    }

    fn resolved(&self, mut core: MutexGuard<'_, Core>, received: Instant) {
        let Core { tracker, resolver, revision, .. } = &mut *core;
        let revision = *revision;
        if self.assigned.load(Ordering::Relaxed)
            && let Some(desired) = resolver.resolve(tracker)
        {
            self.report(tracker, resolver);
            self.pulse.queued(revision, received);
            self.wanted.send_replace(Some(Wanted { desired, revision }));
        }
        drop(core);
        self.revision.send_replace(revision);
        if self.config.cluster.mode == ClusterMode::Kubernetes {
            self.settled.send_replace(revision);
        }
    }

    /// Says once what is wrong with objects, and once that it is no more.
    fn report(&self, tracker: &Tracker, resolver: &Resolver) {
        let skipped = tracker.skipped().into_iter().map(|s| format!("{}: {}", s.key, s.reason));
        let now: BTreeSet<String> =
            skipped.chain(resolver.problems().iter().map(ToString::to_string)).collect();
        let mut reported = held(&self.reported);
        now.difference(&reported).for_each(|problem| warn!("{problem}"));
        reported.difference(&now).for_each(|problem| info!("no longer: {problem}"));
        *reported = now;
    }

    /// Every worker works by this revision now.
    pub fn adopted(&self, revision: i64) {
        let now = Instant::now();
        for received in self.pulse.adopted(revision) {
            self.latency.adopted_after(now.saturating_duration_since(received));
        }
    }

    /// What the cluster wants now, and when that changes.
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<Option<Wanted>> {
        self.wanted.subscribe()
    }

    /// The etcd revision that is known.
    #[must_use]
    pub fn revision(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// The etcd revision up to which nothing is left for the controllers to write.
    #[must_use]
    pub fn settled(&self) -> watch::Receiver<i64> {
        self.settled.subscribe()
    }

    /// Controllers have nothing left to write at this revision.
    pub fn set_settled(&self, revision: i64) {
        self.settled.send_replace(revision);
    }

    /// Held while a request is planned, written and seen again, so that requests to one control plane do not overtake each other.
    pub async fn writing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.writing.lock().await
    }

    /// What the fleet shares, once it is known.
    #[must_use]
    pub fn fleet(&self) -> Option<Fleet> {
        *self.fleet.borrow()
    }

    /// The fleet's settings are known.
    pub fn set_fleet(&self, fleet: Fleet) {
        self.fleet.send_replace(Some(fleet));
    }
}

fn event(change: &Change) -> RegistryEvent<'_> {
    RegistryEvent { key: &change.key, value: change.value.as_deref(), mod_revision: change.revision }
}

/// A task that panicked while it held the lock left plain data, which is replaced as a whole by the next change.
pub(crate) fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
