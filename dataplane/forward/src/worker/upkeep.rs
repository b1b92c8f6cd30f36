//! The bounded upkeep between bursts: held frames, flows that idled out, UDP flows whose backend serves no more, a census when one is open,
//! and for worker 0 next hops and affinities.

use super::{Held, Worker};
use crate::address::Family;
use crate::announce::Repeats;
use crate::census::Census;
use crate::flow_key::{FlowKey, FlowKey6};
use crate::flow_table::Entry;
use crate::gateway::link_local;
use crate::limits::{
    AFFINITY_SWEEP_BUDGET, ANNOUNCE_BUDGET, ARP_KEEPER_BUDGET, CENSUS_BUDGET, FRAGMENT_SWEEP_BUDGET, HELD_MS,
    SWEEP_BUDGET, SWEEP_PERIOD_MS, WALK_BUDGET, WALK_BUDGET_IDLE,
};
use crate::local::is_ours;
use crate::memberships::Membership;
use crate::neighbour::Link;
use crate::path::{Flows, Path};
use crate::rewrite::set_link;
use crate::track::State;
use crate::verdict::{Tally, Verdict};
use arrayvec::ArrayVec;
use std::sync::Arc;
use turnpike_packet::io::{Frame, PacketIo};
use turnpike_packet::mld::{self, GROUPS_MAX, Record};
use turnpike_packet::{arp, ethernet, ndp};
use turnpike_wire::limits::PORTS_MAX;

/// Where the upkeep stands.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    swept_ms: u32,
    /// Position among the next hops.
    keeper: usize,
    /// Position among the affinities.
    affinities: usize,
    /// [`crate::service_table::Tables::udp_changed`] of the tables that the last clean-up was begun for.
    cleaned: u64,
    /// By family.
    cleaning: [Walk; 2],
    census: Option<Arc<Census>>,
    /// By family.
    counting: [Walk; 2],
    announced: Repeats,
    /// Those whose groups were reported once.
    joined: Repeats,
}

impl Upkeep {
    /// Of worker 0 or of any other, and of one that announces addresses or not.
    pub(super) fn new(is_first: bool, announces: bool) -> Self {
        Self { announced: Repeats::new(announces), joined: Repeats::new(is_first), ..Self::default() }
    }

    /// Begins a clean-up of UDP flows if the tables want one that was not begun yet. One that is under way starts anew from where it is.
    pub(super) fn clean(&mut self, wanted: u64, flows: &Flows<'_>) {
        if self.cleaned != wanted {
            self.cleaned = wanted;
            begin(&mut self.cleaning, flows);
        }
    }

    fn is_walk_due(&self) -> bool {
        self.cleaning.iter().chain(&self.counting).any(|walk| walk.is_due())
    }
}

/// Once around all slots of a flow table, in portions.
#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    at: usize,
    left: usize,
}

impl Walk {
    const fn begin(&mut self, slots: u32) {
        self.left = slots as usize;
    }

    const fn is_due(&self) -> bool {
        self.left > 0
    }

    /// The next slot of a table of so many.
    fn next(&mut self, slots: u32) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let slot = self.at;
        self.at = if slot + 1 >= slots as usize { 0 } else { slot + 1 };
        Some(slot)
    }
}

/// Begins a walk over both tables.
fn begin(walks: &mut [Walk; 2], flows: &Flows<'_>) {
    walks[Family::V4 as usize].begin(flows.v4.capacity());
    walks[Family::V6 as usize].begin(flows.v6.capacity());
}

impl<F: Frame> Worker<'_, F> {
    /// Whether it has something to do that it will not be woken for by a frame: frames wait for a next hop or a NIC, or it walks through its
    /// flows.
    #[must_use]
    pub fn has_more(&self) -> bool {
        let Upkeep { cleaning, counting, .. } = &self.upkeep;
        let waits = !self.held.is_empty() || self.ports.iter().any(|port| !port.tx.is_empty());
        waits || cleaning.iter().chain(counting).any(Walk::is_due)
    }

    /// The workers that it has handed frames to since the last call, as a set of bits: they may have to be woken.
    pub const fn take_handed_to(&mut self) -> u64 {
        std::mem::replace(&mut self.handed_to, 0)
    }

    /// The upkeep of a turn that handled so many frames.
    pub(super) fn keep_up<I: PacketIo<Frame = F>>(&mut self, ios: &mut [I], handled: usize) {
        if !self.held.is_empty() {
            self.release(ios);
        }
        if self.upkeep.is_walk_due() {
            let budget = |busy: usize| if handled > 0 { busy } else { WALK_BUDGET_IDLE };
            self.clean::<FlowKey>(budget(WALK_BUDGET));
            self.clean::<FlowKey6>(budget(WALK_BUDGET));
            self.counters.set(Tally::FlowsLive, self.flows.live());
            self.count::<FlowKey>(budget(CENSUS_BUDGET));
            self.count::<FlowKey6>(budget(CENSUS_BUDGET));
        }
        let elapsed_ms = self.now_ms.wrapping_sub(self.upkeep.swept_ms);
        if elapsed_ms > 0 {
            self.upkeep.swept_ms = self.now_ms;
            self.sweep::<FlowKey>(elapsed_ms);
            self.sweep::<FlowKey6>(elapsed_ms);
            self.counters.set(Tally::FlowsLive, self.flows.live());
            self.counters.set(Tally::HeldFrames, self.held.len() as u64);
            self.fragments.sweep(self.now_ms, FRAGMENT_SWEEP_BUDGET, &mut self.counters);
            self.counters.set(Tally::FragmentsHeld, self.fragments.held() as u64);
            self.look_for_questions();
            self.run_errand();
            self.look_for_watch();
            if self.id == 0 {
                self.keep_neighbours(ios);
                self.keep_routers(ios);
                self.announce(ios);
                self.report(ios);
                let Self { shared, upkeep, now_ms, .. } = self;
                shared.affinities.sweep(&mut upkeep.affinities, AFFINITY_SWEEP_BUDGET, *now_ms);
            }
        }
    }

    /// Ends flows that were idle for too long.
    fn sweep<K: Path>(&mut self, elapsed_ms: u32) {
        if self.tables.serial == 0 {
            // Flows that were adopted, and nobody has said yet how long they may be idle.
            return;
        }
        let table = K::flows_mut(&mut self.flows);
        let share = u64::from(table.capacity()) * u64::from(elapsed_ms) / u64::from(SWEEP_PERIOD_MS);
        let budget = SWEEP_BUDGET.max((share as usize).min(SWEEP_BUDGET * 16));
        let tables = &self.tables;
        let removed = table.sweep(self.now_ms, budget, |client| tables.tracking(client));
        self.counters.add(Tally::FlowsClosed, u64::from(removed));
        self.counters.set(Tally::ClientsForgotten, self.flows.clients_forgotten());
        self.counters.set(Tally::SnatRestsCut, self.flows.rests_cut());
    }

    /// Ends UDP flows whose backend serves no more while another one does (rules U1 to U4), so that their next packet finds one that does.
    /// What a flow is of is looked up by whom its client addresses: a flow cannot be taken for one of another Service.
    #[cold]
    fn clean<K: Path>(&mut self, budget: usize) {
        let table = K::flows_mut(&mut self.flows);
        for _ in 0..budget {
            let Some(slot) = self.upkeep.cleaning[K::FAMILY as usize].next(table.capacity()) else { return };
            let session = table.session(slot);
            if !session.state().is_udp() {
                continue;
            }
            let [client, backend] = *session.keys();
            let service = self.tables.frontend(client).and_then(|f| self.tables.service(f.service));
            if service.is_some_and(|s| s.is_deserted(backend.source_address(), backend.source_port())) {
                table.remove(slot, self.now_ms);
                self.counters.add(Tally::FlowsClosed, 1);
                self.counters.add(Tally::UdpFlowsCleaned, 1);
            }
        }
    }

    /// Begins the census that is open, if it is another than before.
    fn look_for_questions(&mut self) {
        let open = self.shared.census();
        let known = match (&*open, &self.upkeep.census) {
            (None, None) => true,
            (Some(open), Some(known)) => Arc::ptr_eq(open, known),
            _ => false,
        };
        if !known {
            // The control thread keeps what is let go here until nobody holds it.
            self.upkeep.census.clone_from(&open);
            self.upkeep.counting = [Walk::default(); 2];
            if open.is_some() {
                begin(&mut self.upkeep.counting, &self.flows);
            }
        }
    }

    /// Counts flows for the census.
    #[cold]
    fn count<K: Path>(&mut self, budget: usize) {
        let Some(census) = &self.upkeep.census else { return };
        let table = K::flows(&self.flows);
        for _ in 0..budget {
            let Some(slot) = self.upkeep.counting[K::FAMILY as usize].next(table.capacity()) else { return };
            let session = table.session(slot);
            if session.state() != State::Free {
                census.count(self.id, session.keys());
            }
            if self.upkeep.counting.iter().all(|walk| !walk.is_due()) {
                census.finish(self.id);
            }
        }
    }

    /// Looks after the next few next hops.
    fn keep_neighbours<I: PacketIo<Frame = F>>(&mut self, ios: &mut [I]) {
        let shared = self.shared.clone();
        let mut cursor = self.upkeep.keeper;
        for index in shared.neighbours.round(&mut cursor, ARP_KEEPER_BUDGET) {
            if shared.neighbours.keep(index, self.now_ms) {
                self.ask(index, ios);
            }
        }
        self.upkeep.keeper = cursor;
    }

    /// Asks for routers where none is known.
    fn keep_routers<I: PacketIo<Frame = F>>(&mut self, ios: &mut [I]) {
        let shared = self.shared.clone();
        for port in shared.routers.keep(self.now_ms) {
            let Some(mac) = self.ports.get(port).map(|p| p.mac) else { continue };
            if self.answer(port, &ndp::router_solicitation(mac, link_local(mac).bits()), ios) {
                self.counters.add(Tally::NeighbourSolicitations, 1);
            }
        }
    }

    /// Announces the next few addresses that are to be, and those that are due again.
    fn announce<I: PacketIo<Frame = F>>(&mut self, ios: &mut [I]) {
        if !self.shared.announcements.are_wanted() {
            return;
        }
        let shared = self.shared.clone();
        for _ in 0..ANNOUNCE_BUDGET {
            let new = shared.announcements.take();
            let Some(address) = new.or_else(|| self.upkeep.announced.take(self.now_ms)) else { return };
            // It may have been given up meanwhile.
            if !is_ours(address, &self.tables, &shared) {
                continue;
            }
            for port in shared.gateway.ports_of(address) {
                let mac = self.ports[port].mac;
                let (sent, tally) = match address.as_v4() {
                    Some(address) => {
                        (self.answer(port, &arp::announcement(mac, address), ios), Tally::ArpAnnouncements)
                    }
                    None => {
                        let announcement = ndp::announcement(mac, address.bits());
                        (self.answer(port, &announcement, ios), Tally::NeighbourAnnouncements)
                    }
                };
                self.counters.add(tally, u64::from(sent));
            }
            if new.is_some() {
                self.upkeep.announced.add(address, self.now_ms);
            }
        }
    }

    /// Reports the groups of the next few addresses that are to be, and of those that are due again.
    fn report<I: PacketIo<Frame = F>>(&mut self, ios: &mut [I]) {
        let shared = self.shared.clone();
        shared.memberships.look(self.now_ms);
        let is_old = shared.memberships.is_old(self.now_ms);
        let most = if is_old { ANNOUNCE_BUDGET } else { GROUPS_MAX };
        let mut next: ArrayVec<Membership, GROUPS_MAX> = ArrayVec::new();
        while next.len() < most {
            let new = shared.memberships.take();
            let again = || Some((self.upkeep.joined.take(self.now_ms)?, Record::Joined));
            let Some((address, record)) = new.or_else(again) else { break };
            if !is_ours(address, &self.tables, &shared) {
                continue;
            }
            if new.is_some() && record == Record::Joined {
                self.upkeep.joined.add(address, self.now_ms);
            }
            next.push((address, record));
        }
        for port in (0..self.ports.len()).take(if next.is_empty() { 0 } else { PORTS_MAX }) {
            let here = next.iter().filter(|(address, _)| shared.gateway.answers_on(port, *address));
            let here: ArrayVec<_, GROUPS_MAX> =
                here.map(|(address, record)| (address.bits(), *record)).collect();
            let mac = self.ports[port].mac;
            let source = link_local(mac).bits();
            let mut reports = 0;
            if is_old {
                for &(address, _) in &here {
                    reports += u64::from(self.answer(port, &mld::old_report(mac, source, address), ios));
                }
            } else if !here.is_empty() {
                reports += u64::from(self.answer(port, &mld::report(mac, source, &here), ios));
            }
            self.counters.add(Tally::ListenerReports, reports);
        }
    }

    /// Asks the link for the Ethernet address of a next hop.
    pub(super) fn ask<I: PacketIo<Frame = F>>(&mut self, next_hop: u16, ios: &mut [I]) {
        let hop = self.shared.neighbours.hop(next_hop);
        let port = usize::from(hop.port);
        let Some(mac) = self.ports.get(port).map(|p| p.mac) else { return };
        let Some(source) = self.shared.gateway.source_towards(port, hop.address) else { return };
        // Who was known is asked alone, once, whether it is still there.
        let known = self.shared.neighbours.may_be_stale(next_hop).map(Link::mac);
        let (sent, tally) = match (source.as_v4(), hop.address.as_v4()) {
            (Some(source), Some(target)) => {
                let mut question = arp::request(mac, source, target);
                question[..6].copy_from_slice(&known.unwrap_or(ethernet::BROADCAST));
                (self.answer(port, &question, ios), Tally::ArpRequests)
            }
            _ => {
                let (source, target) = (source.bits(), hop.address.bits());
                let question = match known {
                    Some(known) => ndp::probe(mac, source, known, target),
                    None => ndp::solicitation(mac, source, target),
                };
                (self.answer(port, &question, ios), Tally::NeighbourSolicitations)
            }
        };
        self.counters.add(tally, u64::from(sent));
    }

    /// Sends held frames whose next hop is known by now, and gives up those that waited for too long.
    #[cold]
    fn release<I: PacketIo<Frame = F>>(&mut self, ios: &mut [I]) {
        for _ in 0..self.held.len() {
            let Some(Held { mut frame, next_hop, since_ms }) = self.held.pop_front() else { break };
            let link = self.shared.neighbours.link(next_hop);
            if link.is_resolved() {
                set_link(frame.data_mut(), link.addressing(&self.sources[0]));
                self.observe_held(Some(link.port()), &frame, Verdict::Forwarded);
                self.send(link.port(), frame, ios);
            } else if self.now_ms.wrapping_sub(since_ms) >= HELD_MS {
                self.observe_held(None, &frame, Verdict::NextHopUnresolved);
                self.counters.count(Verdict::NextHopUnresolved);
            } else {
                self.held.push_back(Held { frame, next_hop, since_ms });
            }
        }
    }
}
