//! The real source on the etcd of a real cluster: its snapshot restored, every recorded event written again, and after each of the 54 steps
//! every object compared with what the API said, and what is resolved with what is resolved from the API's objects alone. The same while
//! history is compacted, connections break, and etcd stops, is partitioned and goes back.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::cluster::{BASE, Replay, Step, restored, revision_of, steps};
use bed::etcd::Etcd;
use bed::proxy::Proxy;
use bed::wait;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use turnpike_controlplane::etcd::client::Connector;
use turnpike_controlplane::etcd::source;
use turnpike_controlplane::state::State;
use turnpike_desired::resolve::Resolver;
use turnpike_desired::settings::Settings;
use turnpike_wire::admin::EtcdStatus;
use turnpike_wire::config::Config;

/// A source that follows an etcd, and what watches over it.
struct Follower {
    state: Arc<State>,
    runtime: Runtime,
    /// Whether what is wanted was ever without frontends after it had some.
    was_emptied: Arc<AtomicBool>,
    published: Arc<AtomicUsize>,
    _folder: TempDir,
}

impl Follower {
    fn new(endpoint: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("turnpike-follower-").tempdir().unwrap();
        let text = format!(
            "[gateway]\nstate_dir = \"{}\"\n[cluster]\nmode = \"kubernetes\"\n[etcd]\nendpoints = [\"{endpoint}\"]\n",
            folder.path().display()
        );
        let config = Config::parse(&text, Path::new("test.toml")).unwrap();
        let connector = Connector::new(&config.etcd).unwrap();
        let state = Arc::new(State::new(config));
        let runtime = Runtime::new().unwrap();
        runtime.spawn(source::follow(connector, state.clone()));
        let was_emptied = Arc::new(AtomicBool::new(false));
        let published = Arc::new(AtomicUsize::new(0));
        let (emptied, count, mut wanted) = (was_emptied.clone(), published.clone(), state.wanted());
        runtime.spawn(async move {
            while wanted.changed().await.is_ok() {
                let now = wanted.borrow_and_update().clone().unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                emptied.fetch_or(now.desired.frontends.is_empty(), Ordering::Relaxed);
            }
        });
        Self { state, runtime, was_emptied, published, _folder: folder }
    }

    fn status(&self) -> EtcdStatus {
        self.state.etcd_status()
    }

    fn wait_for(&self, step: &Step) {
        wait(&format!("step {}", step.number), || self.status().revision >= step.revision);
    }

    /// What is known and what is resolved is what the API's objects make.
    fn assert_at(&self, step: &Step) {
        let core = self.state.core();
        step.assert_known(&core.tracker);
        let mut truth = step.tracker();
        let mut resolver = Resolver::new(Settings::from_config(&self.state.config));
        let expected = resolver.resolve(&mut truth).unwrap();
        let (ours, theirs) = (core.resolver.desired().views(), expected.views());
        assert_eq!(ours, theirs, "step {} ({})", step.number, step.what);
        assert_eq!(core.resolver.desired(), expected, "step {} ({})", step.number, step.what);
        let told: Vec<String> = core.resolver.problems().iter().map(ToString::to_string).collect();
        let expected: Vec<String> = resolver.problems().iter().map(ToString::to_string).collect();
        assert_eq!(told, expected, "step {} ({})", step.number, step.what);
        assert!(!ours.is_empty() && !self.was_emptied.load(Ordering::Relaxed), "step {}", step.number);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        std::mem::replace(&mut self.runtime, tokio::runtime::Builder::new_current_thread().build().unwrap())
            .shutdown_timeout(Duration::from_secs(1));
    }
}

fn endpoint(etcd: &Etcd) -> String {
    format!("http://{}", etcd.address())
}

#[test]
fn every_step_of_a_real_cluster_is_what_its_api_says() {
    let (etcd, steps) = (restored(), steps());
    let follower = Follower::new(&endpoint(&etcd));
    let mut replay = Replay::new();
    for step in &steps {
        replay.up_to(&etcd, step.revision);
        follower.wait_for(step);
        follower.assert_at(step);
        assert_eq!(follower.status().revision, step.revision);
    }
    let status = follower.status();
    assert_eq!((status.state.as_str(), status.relists, status.reconnects), ("connected", 0, 0));
    assert_eq!((status.last_error, status.warnings, status.held_back), (None, Vec::new(), None));
    assert!(status.last_heard_ms.is_some_and(|ms| ms < 10_000) && status.member.contains("etcd 3."));
    assert!(follower.published.load(Ordering::Relaxed) >= 20);
}

#[test]
fn steps_that_come_all_at_once_end_in_the_same_state() {
    let (etcd, steps) = (restored(), steps());
    let follower = Follower::new(&endpoint(&etcd));
    let last = steps.last().unwrap();
    Replay::new().up_to(&etcd, last.revision);
    follower.wait_for(last);
    follower.assert_at(last);
    // A source that begins now lists what the other one was told.
    let late = Follower::new(&endpoint(&etcd));
    late.wait_for(last);
    late.assert_at(last);
}

#[test]
fn steps_are_caught_up_over_broken_connections_and_compacted_history() {
    let (etcd, steps) = (restored(), steps());
    let proxy = Proxy::new(etcd.address());
    let follower = Follower::new(&proxy.endpoint());
    follower.wait_for(&steps[0]);
    let mut replay = Replay::new();
    let (mut compactions, mut breaks) = (0, 0);
    for step in &steps[1..] {
        let known = &steps[usize::try_from(step.number).unwrap() - 1];
        match step.number % 9 {
            // Away while it happens.
            3 => {
                proxy.turn(None);
                wait("the loss", || follower.status().state == "disconnected");
                replay.up_to(&etcd, step.revision);
                follower.assert_at(known);
                proxy.turn(Some(etcd.address()));
                breaks += 1;
            }
            // The same, and history is forgotten.
            6 => {
                proxy.turn(None);
                wait("the loss", || follower.status().state == "disconnected");
                replay.up_to(&etcd, step.revision);
                etcd.with(async |client| client.compact(step.revision, None).await.unwrap());
                follower.assert_at(known);
                proxy.turn(Some(etcd.address()));
                compactions += 1;
            }
            // Cut off in the middle.
            8 => {
                replay.up_to(&etcd, i64::midpoint(known.revision, step.revision));
                proxy.turn(Some(etcd.address()));
                replay.up_to(&etcd, step.revision);
                breaks += 1;
            }
            // History is forgotten while it is followed.
            1 => {
                replay.up_to(&etcd, step.revision);
                etcd.with(async |client| client.compact(step.revision - 1, None).await.unwrap());
            }
            _ => replay.up_to(&etcd, step.revision),
        }
        follower.wait_for(step);
        follower.assert_at(step);
    }
    let status = follower.status();
    // A watch on which nothing ever came goes on where it began, if the server is too old to say more; that may be forgotten at any break.
    assert!((1..=compactions + breaks).contains(&status.relists), "{} relists", status.relists);
    assert!(status.reconnects >= compactions + breaks, "{} reconnects", status.reconnects);
}

#[test]
fn the_last_good_state_stays_in_force_until_etcd_is_back() {
    let steps = steps();
    let (etcd, backup) = (restored(), restored());
    let proxy = Proxy::new(etcd.address());
    let follower = Follower::new(&proxy.endpoint());
    let mut replay = Replay::new();
    replay.up_to(&etcd, steps[15].revision);
    follower.wait_for(&steps[15]);

    // etcd stops, and starts again with what it had.
    let folder = etcd.stop();
    wait("the end of etcd", || follower.status().state == "disconnected");
    follower.assert_at(&steps[15]);
    assert!(follower.status().last_error.unwrap().contains(&proxy.endpoint()));
    let etcd = Etcd::start_in(folder, "http", &[]);
    proxy.turn(Some(etcd.address()));
    replay.up_to(&etcd, steps[20].revision);
    follower.wait_for(&steps[20]);
    follower.assert_at(&steps[20]);
    assert_eq!(follower.status().relists, 0);

    // The network swallows everything and closes nothing.
    proxy.silence(true);
    replay.up_to(&etcd, steps[30].revision);
    wait("the silence to be noticed", || follower.status().state == "disconnected");
    follower.assert_at(&steps[20]);
    proxy.silence(false);
    follower.wait_for(&steps[30]);
    follower.assert_at(&steps[30]);

    // Restored from the older snapshot: the past is the truth now.
    let etcd = backup;
    assert_eq!(etcd.with(revision_of), BASE);
    proxy.turn(Some(etcd.address()));
    wait("the past", || follower.status().revision == BASE);
    follower.assert_at(&steps[0]);
    assert_eq!((follower.status().relists, follower.status().held_back), (1, None));
    let mut replay = Replay::new();
    replay.up_to(&etcd, steps[1].revision);
    follower.wait_for(&steps[1]);
    follower.assert_at(&steps[1]);
}

#[test]
fn an_etcd_that_went_back_and_came_further_than_before_is_another_history() {
    let steps = steps();
    let etcd = restored();
    let proxy = Proxy::new(etcd.address());
    let follower = Follower::new(&proxy.endpoint());
    Replay::new().up_to(&etcd, steps[3].revision);
    follower.wait_for(&steps[3]);
    proxy.turn(None);
    wait("the loss", || follower.status().state == "disconnected");
    drop(etcd);

    // The same cluster by its number, restored, and written to until its revision is beyond what was known.
    let other = restored();
    let beyond = steps[3].revision + 5;
    other.with(async |client| {
        while revision_of(client).await < beyond {
            client.put("/registry/leases/x/y", "", None).await.unwrap();
        }
    });
    proxy.turn(Some(other.address()));
    wait("the other history", || follower.status().revision >= beyond);
    assert_eq!(follower.status().relists, 1);
    follower.assert_at(&Step { revision: beyond, ..steps.into_iter().next().unwrap() });
}
