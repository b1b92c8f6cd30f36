//! Errands between two turns: what would become of a packet, and flows that are to end.

use super::Worker;
use super::steady::{Findings, Seen};
use crate::explain::{Answer, Course, Doomed, Explanation, Outcome, Question, Task, Tuple};
use crate::flow_key::{FlowKey, FlowKey6};
use crate::flow_table::{Candidate, Entry};
use crate::local;
use crate::parse::{Kind, Packet};
use crate::path::Path;
use crate::select::is_bad_source;
use crate::track::{Direction, State};
use crate::verdict::{Tally, Verdict};
use arrayvec::ArrayVec;
use turnpike_packet::ethernet;
use turnpike_packet::io::Frame;

impl<F: Frame> Worker<'_, F> {
    /// Does what was left for this worker, if something was.
    pub(super) fn run_errand(&mut self) {
        let errand = self.shared.errand();
        let Some(open) = &*errand else { return };
        let Some(task) = open.task_of(self.id) else { return };
        let answer = match task {
            Task::Explain(question) => Answer::Explained(self.explain(question)),
            Task::End(doomed) => {
                Answer::Ended(doomed.iter().filter(|doomed| self.end(doomed)).count() as u64)
            }
        };
        open.done(answer);
    }

    /// What would become of a packet. Nothing is changed for it.
    #[cold]
    fn explain(&mut self, question: &Question) -> Explanation {
        let is_ipv6 = question.frame.get(12..14) == Some(&ethernet::IPV6.to_be_bytes());
        let (kind, outcome) = match is_ipv6 && self.flows.v6.capacity() > 0 {
            true => self.explain_as::<FlowKey6>(question),
            false => self.explain_as::<FlowKey>(question),
        };
        Explanation { tables: self.tables.clone(), now_ms: self.now_ms, kind, outcome }
    }

    fn explain_as<K: Path>(&mut self, Question { port, frame }: &Question) -> (Kind, Outcome) {
        let Some(mac_bits) = self.ports.get(*port).map(|port| port.mac_bits) else {
            return (Kind::Bad(Verdict::OtherMac), Outcome::Ends(Verdict::OtherMac));
        };
        let (key, packet) = K::read(frame, frame.len(), mac_bits);
        let outcome = match packet.kind() {
            Kind::Flow => self.explain_flow(key, packet),
            Kind::Echo => Outcome::Ends(self.explain_echo(*port, key)),
            Kind::Bad(verdict) => Outcome::Ends(verdict),
            // Questions are about packets of flows and echo requests.
            _ => Outcome::Ends(Verdict::OtherEthertype),
        };
        let outcome = match outcome {
            Outcome::Ends(
                verdict @ (Verdict::OwnAddress | Verdict::SnatNoFlow | Verdict::OtherEthertype),
            ) => Outcome::Ends(self.foresee_exception(*port, frame, verdict)),
            outcome => outcome,
        };
        (packet.kind(), outcome)
    }

    fn explain_echo<K: Path>(&self, port: usize, key: K) -> Verdict {
        if self.is_kernels(port, key.destination_address()) {
            Verdict::OwnAddress
        } else if !local::is_ours(key.destination_address(), &self.tables, &self.shared) {
            self.chooser().unanswered(key)
        } else if is_bad_source(key.source_address(), &self.tables, &self.shared) {
            Verdict::BadSource
        } else {
            Verdict::EchoReplied
        }
    }

    fn explain_flow<K: Path>(&mut self, key: K, packet: Packet) -> Outcome {
        let found = K::flows(&self.flows).find(key);
        let reopens = found.is_some_and(|found| packet.asks() && self.is_reopened_by_asking::<K>(found));
        if let Some(found) = found.filter(|_| !reopens) {
            let session = K::flows(&self.flows).session(found.slot());
            let state = session.state();
            let timeout_ms = state.timeout_ms(key.protocol(), &self.tables.tracking(session.keys()[0]));
            let idle_ms = self.now_ms.wrapping_sub(session.last_seen);
            let direction = Direction::from_bit(found.direction());
            return Outcome::Live {
                course: self.course::<K>(session, direction),
                state,
                idle_ms,
                timeout_ms,
            };
        }
        // What a choice moves on beside the flow itself is put back.
        let (random, counters) = (self.pool.random().clone(), self.counters.clone());
        let mut findings = Findings::<K>::new();
        findings.seen.push(Seen { key, packet, candidate: found.unwrap_or(Candidate::NONE) });
        let mut foreseen = ArrayVec::new();
        self.foresee(&findings, &mut foreseen);
        let foreseen = foreseen.first().and_then(Option::as_ref);
        let chosen = self.choose(key, packet, foreseen, true);
        self.pool.set_random(random);
        self.counters = counters;
        match chosen {
            Ok(session) if reopens || K::flows(&self.flows).has_room_for(&session) => {
                Outcome::New { course: self.course::<K>(&session, Direction::Forward), reopens }
            }
            Ok(_) => Outcome::Ends(Verdict::FlowTableFull),
            Err(verdict) => Outcome::Ends(verdict),
        }
    }

    /// How packets of a flow go on.
    fn course<K: Path>(&self, session: &K::Session, direction: Direction) -> Course {
        let [client, reply] = *session.keys();
        let towards = match direction {
            Direction::Forward => reply.source_address(),
            Direction::Reply => client.source_address(),
        };
        let next_hop = self.shared.route(towards);
        let link = next_hop.and_then(|hop| self.shared.neighbours.find(hop));
        let link = link.map(|index| self.shared.neighbours.link(index)).filter(|link| link.is_resolved());
        Course {
            client: Tuple::of(client),
            reply: Tuple::of(reply),
            direction,
            is_one_way: session.state().is_one_way(),
            is_prefaced: session.is_prefaced(),
            next_hop,
            mac: link.map(|link| link.mac()),
        }
    }

    /// Ends a flow, if it is still the one that is meant.
    fn end(&mut self, doomed: &Doomed) -> bool {
        match doomed.client.key::<FlowKey>() {
            Some(key) => self.end_as(key, doomed.slot as usize),
            None => doomed.client.key::<FlowKey6>().is_some_and(|key| self.end_as(key, doomed.slot as usize)),
        }
    }

    fn end_as<K: Path>(&mut self, key: K, slot: usize) -> bool {
        let table = K::flows_mut(&mut self.flows);
        let is_there = slot < table.capacity() as usize && table.is_of(Candidate::from_client(slot), key);
        if !is_there || table.session(slot).state() == State::Free {
            return false;
        }
        table.remove(slot, self.now_ms);
        self.counters.add(Tally::FlowsClosed, 1);
        self.counters.set(Tally::FlowsLive, self.flows.live());
        true
    }
}
