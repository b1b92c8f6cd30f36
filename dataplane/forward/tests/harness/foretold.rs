//! What a worker says beforehand about a packet, and what then becomes of it.

use super::{Bed, ends};
use std::net::SocketAddr;
use std::sync::Arc;
use turnpike_forward::explain::{Answer, Course, Errand, Explanation, Outcome, Question, Task};
use turnpike_forward::flow_key::{FlowKey, FlowKey6, Key};
use turnpike_forward::hash::Secret;
use turnpike_forward::verdict::{Tally, Verdict};
use turnpike_packet::flight;

/// The secret of a bed's workers.
const SECRET: Secret = Secret::new([11, 22, 33, 44]);

impl Bed {
    /// The worker that owns packets with the tuple of this frame.
    fn owner_of(&self, frame: &[u8]) -> usize {
        let gateway = &self.shared.gateway;
        let Some((source, destination)) = flight::ends(frame) else { return 0 };
        let protocol = if source.is_ipv4() { frame[23] } else { frame[20] };
        let (from, to) = (source.ip().into(), destination.ip().into());
        let steering = &gateway.ports()[0].steering;
        let (source, destination) = (source.port(), destination.port());
        match FlowKey::of(protocol, from, to, source, destination) {
            Some(key) => steering.owner(key, gateway, &SECRET),
            None => FlowKey6::of(protocol, from, to, source, destination)
                .map_or(0, |key| steering.owner(key, gateway, &SECRET)),
        }
    }

    fn fated(&self, verdict: Verdict) -> u64 {
        self.workers.iter().map(|w| w.counters().verdict(verdict)).sum()
    }

    fn opened(&self) -> u64 {
        self.workers.iter().map(|w| w.counters().tally(Tally::FlowsOpened)).sum()
    }

    /// Leaves an errand and gives what the worker answers.
    pub fn run_errand(&mut self, worker: usize, task: Task) -> Errand {
        let errand = Errand::new(worker, task);
        self.shared.leave(Some(Arc::clone(&errand)));
        self.now_ms += 1;
        self.turn();
        self.shared.leave(None);
        self.turn();
        Arc::try_unwrap(errand).expect("the workers have let it go")
    }

    /// What would become of a frame.
    pub fn explain(&mut self, frame: &[u8]) -> Explanation {
        let owner = self.owner_of(frame);
        let errand = self.run_errand(owner, Task::Explain(Question { port: 0, frame: frame.to_vec() }));
        match errand.answer() {
            Some(Answer::Explained(explanation)) => explanation.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Asks twice what would become of a frame, then sends it: asking changes nothing, and what was foretold happens. Gives what left.
    #[track_caller]
    pub fn foretold(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let fates: Vec<u64> = Verdict::ALL.iter().map(|&v| self.fated(v)).collect();
        let (opened_before, affinities) = (self.opened(), self.shared.affinities.len());
        let first = self.explain(frame).outcome;
        let foretold = self.explain(frame).outcome;
        if let (Outcome::New { course: first, .. }, Outcome::New { course, .. }) = (first, foretold) {
            assert_eq!(first, course, "asked twice");
        }
        assert!(Verdict::ALL.iter().zip(&fates).all(|(&v, &f)| self.fated(v) == f), "asking counts nothing");
        assert!(self.shared.affinities.len() <= affinities, "asking begins no affinity");
        assert_eq!(self.opened(), opened_before, "asking makes no flow");
        let sent = self.exchange(&[frame.to_vec()]);
        let moved = Verdict::ALL.iter().zip(fates).filter(|&(&v, before)| self.fated(v) != before);
        let moved: Vec<Verdict> = moved.map(|(&v, _)| v).filter(|&v| v != Verdict::HandedOff).collect();
        match foretold {
            Outcome::Ends(Verdict::Rejected) => {
                assert!(matches!(moved[..], [Verdict::Rejected | Verdict::RejectLimited]), "{moved:?}");
            }
            Outcome::Ends(verdict) => assert_eq!(moved, [verdict], "{foretold:?}"),
            Outcome::Live { course, .. } | Outcome::New { course, .. } => {
                let opens = matches!(foretold, Outcome::New { .. });
                assert_eq!(self.opened() - opened_before, u64::from(opens), "{foretold:?}");
                if course.mac.is_some() {
                    assert_eq!(moved, [Verdict::Forwarded], "{foretold:?}");
                    check_leaving(&course, &sent);
                } else {
                    assert_eq!(moved, [], "{foretold:?}: it waits for its next hop");
                }
            }
        }
        sent
    }
}

/// The frame that left is the one that was foretold, to the last port.
#[track_caller]
fn check_leaving(course: &Course, sent: &[Vec<u8>]) {
    assert_eq!(sent.len(), 1, "{course:?}");
    if course.is_one_way {
        return;
    }
    let leaves = course.leaves_as();
    let end =
        |(address, port): (turnpike_forward::address::Address, u16)| SocketAddr::new(address.ip(), port);
    assert_eq!(ends(&sent[0]), (end(leaves.source), end(leaves.destination)), "{course:?}");
    assert_eq!(Some(&sent[0][..6]), course.mac.as_ref().map(|mac| &mac[..]));
}
