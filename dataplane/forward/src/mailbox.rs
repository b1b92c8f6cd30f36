//! How workers get new tables, and how the control thread learns that they have.
//!
//! A worker looks once a turn, one load while nothing is new. Old tables are freed by the control thread, which keeps them until no worker
//! holds them, so that no worker ever frees memory.

use crate::address::{Address, Family};
use crate::affinity::Affinities;
use crate::announce::Announcements;
use crate::census::Census;
use crate::explain::Errand;
use crate::gateway::Gateway;
use crate::memberships::Memberships;
use crate::neighbour::{Neighbours, NextHop};
use crate::routers::Routers;
use crate::service_table::Tables;
use crate::tunnel::PathMtus;
use crate::watch::Watch;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use turnpike_packet::mld::Record;

/// What the workers of one dataplane share.
#[derive(Debug)]
pub struct Shared {
    /// What does not change.
    pub gateway: Gateway,
    /// Next hops.
    pub neighbours: Neighbours,
    /// How long packets in packets may be.
    pub path_mtus: PathMtus,
    /// Routers that say so themselves.
    pub routers: Routers,
    /// Which backends clients were given.
    pub affinities: Affinities,
    /// Addresses that are to be announced.
    pub announcements: Announcements,
    /// Addresses whose groups are to be reported.
    pub memberships: Memberships,
    census: ArcSwapOption<Census>,
    errand: ArcSwapOption<Errand>,
    watch: ArcSwapOption<Watch>,
    tables: Arc<ArcSwap<Tables>>,
    adopted: Vec<Adopted>,
}

/// On a line of its own, written by one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Adopted(AtomicU64);

// Two lines, since processors fetch them in pairs: no two workers write one.
const _: () = assert!(align_of::<Adopted>() == 128 && size_of::<Adopted>() == 128);

impl Shared {
    /// Shared state with empty tables.
    #[must_use]
    pub fn new(gateway: Gateway) -> Arc<Self> {
        let announces = gateway.announces();
        let routers = Routers::new(gateway.ports().iter().map(|port| port.hears_routers));
        let adopted = (0..gateway.workers()).map(|_| Adopted::default()).collect();
        Arc::new(Self {
            gateway,
            neighbours: Neighbours::new(),
            routers,
            path_mtus: PathMtus::default(),
            affinities: Affinities::new(),
            announcements: Announcements::new(announces),
            memberships: Memberships::new(),
            census: ArcSwapOption::empty(),
            errand: ArcSwapOption::empty(),
            watch: ArcSwapOption::empty(),
            tables: Arc::new(ArcSwap::from_pointee(Tables::empty())),
            adopted,
        })
    }

    /// Hands new tables to all workers, asks for the next hops of backends that were not there before, and announces addresses that were not.
    /// The caller keeps the returned old tables until [`Shared::adopted_serial`] has passed them and nobody else holds them.
    pub fn publish(&self, tables: Arc<Tables>) -> Arc<Tables> {
        let old = self.tables.load_full();
        for service in tables.services.new_since(&old.services) {
            for backend in &service.backends {
                let hop = self.route(backend.address);
                if let Some(index) = hop.and_then(|h| self.neighbours.index(h)) {
                    self.neighbours.want(index);
                }
            }
        }
        if self.announcements.are_wanted() {
            self.announcements.add(tables.addresses_new_since(&old));
        }
        self.memberships.add(tables.addresses_new_since(&old), Record::Joined);
        self.tables.swap(tables)
    }

    /// Announces every address of the gateway: at its start, and when a link has come back.
    pub fn announce_all(&self) {
        let tables = self.tables.load();
        if self.announcements.are_wanted() {
            self.announcements.add(self.own().chain(tables.addresses()));
        }
        self.memberships.add(self.own().chain(tables.addresses()), Record::Joined);
    }

    /// Reports the groups of every address, if a querier's time for that has come.
    pub fn report_memberships(&self) {
        if self.memberships.take_wanted() {
            self.memberships.add(self.own().chain(self.tables.load().addresses()), Record::Current);
        }
    }

    /// Addresses that are the gateway's whatever Services there are.
    fn own(&self) -> impl Iterator<Item = Address> + '_ {
        let snat = [Family::V4, Family::V6].into_iter().flat_map(|family| self.gateway.snat(family));
        self.gateway.own().chain(snat.copied())
    }

    /// Where a packet to `destination` goes next: by a route that is named, or to a router that says so itself.
    #[must_use]
    pub fn route(&self, destination: Address) -> Option<NextHop> {
        let heard = || self.routers.any().filter(|_| destination.family() == Family::V6);
        self.gateway.route(destination).or_else(heard)
    }

    /// The tables in force.
    #[must_use]
    pub fn tables(&self) -> Arc<Tables> {
        self.tables.load_full()
    }

    /// The serial of the tables that every worker has adopted.
    #[must_use]
    pub fn adopted_serial(&self) -> u64 {
        (0..self.adopted.len()).map(|w| self.adopted_by(w)).min().unwrap_or(0)
    }

    /// The serial of the tables that one worker has adopted.
    #[must_use]
    pub fn adopted_by(&self, worker: usize) -> u64 {
        self.adopted.get(worker).map_or(0, |a| a.0.load(Ordering::Acquire))
    }

    /// Opens a census, in place of one that is open, or ends it. The caller keeps it until nobody else holds it.
    pub fn ask(&self, census: Option<Arc<Census>>) {
        self.census.store(census);
    }

    /// The census that is open.
    pub(crate) fn census(&self) -> arc_swap::Guard<Option<Arc<Census>>> {
        self.census.load()
    }

    /// Leaves an errand for a worker in place of one that is there, or takes it away. Workers look once a millisecond. The caller keeps it until
    /// nobody else holds it.
    pub fn leave(&self, errand: Option<Arc<Errand>>) {
        self.errand.store(errand);
    }

    /// The errand that is left.
    pub(crate) fn errand(&self) -> arc_swap::Guard<Option<Arc<Errand>>> {
        self.errand.load()
    }

    /// Opens a watch, in place of one that is open, or ends it. The caller keeps it until nobody else holds it.
    pub fn open_watch(&self, watch: Option<Arc<Watch>>) {
        self.watch.store(watch);
    }

    /// The watch that is open.
    pub(crate) fn watch(&self) -> arc_swap::Guard<Option<Arc<Watch>>> {
        self.watch.load()
    }

    pub(crate) const fn swap(&self) -> &Arc<ArcSwap<Tables>> {
        &self.tables
    }

    pub(crate) fn adopt(&self, worker: usize, serial: u64) {
        self.adopted[worker].0.store(serial, Ordering::Release);
    }
}
