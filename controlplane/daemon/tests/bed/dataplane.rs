//! The other end of the rings: takes transactions as a dataplane would, and checks that every record makes sense where it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use turnpike_shm::{DataplaneSide, Popped, monotonic_ms};
use turnpike_wire::codec::{decode_update, encode_event};
use turnpike_wire::event::Event;
use turnpike_wire::limits::{EVENT_RING_BYTES, UPDATE_RING_BYTES};
use turnpike_wire::update::{
    Backend, Cluster, Commit, Fleet, Frontend, FrontendKey, Service, ServiceKey, Update,
};

/// What a dataplane has been told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    pub fleet: Option<Fleet>,
    pub cluster: Option<Cluster>,
    pub services: BTreeMap<ServiceKey, Service>,
    pub backends: BTreeMap<ServiceKey, BTreeMap<SocketAddr, Backend>>,
    pub frontends: BTreeMap<FrontendKey, Frontend>,
}

/// A dataplane of the test's own.
pub struct Dataplane {
    side: DataplaneSide,
    staged: Tables,
    records: u64,
    is_snapshot: bool,
    /// In force since the last commit.
    pub tables: Tables,
    pub commits: Vec<Commit>,
    pub snapshots: u64,
    /// Questions how many flows are live.
    pub questions: Vec<u64>,
    /// Whether commits are acknowledged.
    pub adopts: bool,
}

impl Dataplane {
    /// Makes its shared memory in the folder of the gateway `test` below `folder`.
    pub fn start(folder: &Path) -> Self {
        Self::start_with_ring(folder, UPDATE_RING_BYTES)
    }

    pub fn start_with_ring(folder: &Path, bytes: usize) -> Self {
        let side = DataplaneSide::create(&folder.join("turnpike-test"), bytes, EVENT_RING_BYTES).unwrap();
        side.beat(monotonic_ms());
        Self {
            side,
            staged: Tables::default(),
            records: 0,
            is_snapshot: false,
            tables: Tables::default(),
            commits: Vec::new(),
            snapshots: 0,
            questions: Vec::new(),
            adopts: true,
        }
    }

    pub fn beat(&self) {
        self.side.beat(monotonic_ms());
    }

    pub fn say(&mut self, event: &Event) {
        let mut bytes = Vec::new();
        encode_event(event, &mut bytes).unwrap();
        self.side.events().push(&bytes).unwrap();
    }

    /// Beats, and takes what is in the ring now.
    pub fn turn(&mut self) {
        self.beat();
        let mut bytes = Vec::new();
        loop {
            match self.side.updates().pop(&mut bytes).unwrap() {
                Popped::Nothing => return,
                Popped::NewEpoch => {
                    (self.staged, self.records, self.is_snapshot) = (self.tables.clone(), 0, false);
                }
                Popped::Record => self.take(decode_update(&bytes).unwrap()),
            }
        }
    }

    fn take(&mut self, update: Update) {
        if let Update::CountFlows { question } = update {
            // No part of a transaction.
            return self.questions.push(question);
        }
        self.records += 1;
        let staged = &mut self.staged;
        match update {
            Update::Reset => {
                // A snapshot may cut off a transaction that was never finished.
                *staged = Tables::default();
                (self.records, self.is_snapshot) = (1, true);
            }
            Update::PutFleet(fleet) => staged.fleet = Some(fleet),
            Update::PutService(service) => drop(staged.services.insert(service.key.clone(), service)),
            Update::DropService(key) => {
                assert!(staged.services.remove(&key).is_some(), "{key} is dropped and was not there");
                staged.backends.remove(&key);
                assert!(
                    staged.frontends.values().all(|f| f.service != key),
                    "{key} is dropped and still has frontends"
                );
            }
            Update::PutBackend(key, backend) => {
                assert!(staged.services.contains_key(&key), "a backend of {key}, which is not there");
                staged.backends.entry(key).or_default().insert(backend.address, backend);
            }
            Update::DropBackend(key, address) => {
                let dropped = staged.backends.get_mut(&key).and_then(|backends| backends.remove(&address));
                assert!(dropped.is_some(), "{address} of {key} is dropped and was not there");
            }
            Update::PutFrontend(frontend) => {
                assert!(staged.services.contains_key(&frontend.service), "{frontend:?} of no Service");
                staged.frontends.insert(frontend.key, frontend);
            }
            Update::DropFrontend(key) => {
                assert!(staged.frontends.remove(&key).is_some(), "{key} is dropped and was not there");
            }
            Update::PutCluster(cluster) => staged.cluster = Some(cluster),
            Update::CountFlows { .. } => {}
            Update::Commit(commit) => self.commit(commit),
        }
    }

    fn commit(&mut self, commit: Commit) {
        assert_eq!(commit.records, self.records - 1, "records of {commit:?}");
        if !self.is_snapshot {
            let last = self.commits.last().expect("the first transaction is a snapshot");
            assert_eq!(commit.generation, last.generation + 1);
        }
        self.snapshots += u64::from(self.is_snapshot);
        self.tables = self.staged.clone();
        (self.records, self.is_snapshot) = (0, false);
        self.commits.push(commit);
        if self.adopts {
            let Commit { generation, revision, .. } = commit;
            self.side.set_adopted(generation, revision);
            self.say(&Event::Adopted { generation, revision });
        }
    }

    /// Addresses of all backends.
    pub fn backend_addresses(&self) -> BTreeSet<String> {
        self.tables.backends.values().flat_map(|b| b.keys()).map(|address| address.ip().to_string()).collect()
    }
}
