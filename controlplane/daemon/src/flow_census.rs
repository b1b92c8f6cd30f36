//! How many flows are live, by frontend and backend: a question to the dataplane. Asked by `turnpike plan` and [`crate::fill`]; the
//! publisher carries it.

use crate::state::held;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use turnpike_wire::event::Event;
use turnpike_wire::update::{FrontendKey, Update};

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All live flows.
    pub flows: u64,
    /// Flows of a frontend with a backend; a pair may come several times.
    pub pairs: Vec<(FrontendKey, SocketAddr, u64)>,
}

/// The question that is open, if any. Who asks while it is open gets its answer.
#[derive(Debug, Default)]
pub struct FlowCensus {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    question: u64,
    is_sent: bool,
    census: Census,
    askers: Vec<oneshot::Sender<Arc<Census>>>,
}

impl FlowCensus {
    /// Asks. What nobody waits for any more is asked anew.
    #[must_use]
    pub fn ask(&self) -> oneshot::Receiver<Arc<Census>> {
        let (asker, answer) = oneshot::channel();
        let mut open = held(&self.open);
        open.askers.retain(|asker| !asker.is_closed());
        if open.askers.is_empty() {
            *open = Open { question: open.question + 1, ..Open::default() };
        }
        open.askers.push(asker);
        answer
    }

    /// What is to be sent to the dataplane: once for each question.
    pub fn take_question(&self) -> Option<Update> {
        let mut open = held(&self.open);
        if open.is_sent || open.askers.is_empty() {
            return None;
        }
        open.is_sent = true;
        Some(Update::CountFlows { question: open.question })
    }

    /// A new dataplane has not heard the question.
    pub fn ask_again(&self) {
        let mut open = held(&self.open);
        open.is_sent = false;
        open.census = Census::default();
    }

    /// Takes part of an answer; what answers another question is left out.
    pub fn take(&self, event: &Event) {
        let mut open = held(&self.open);
        match *event {
            Event::FlowCount { question, frontend, backend, flows } if question == open.question => {
                open.census.pairs.push((frontend, backend, flows));
            }
            Event::FlowsCounted { question, flows } if question == open.question => {
                let mut census = std::mem::take(&mut open.census);
                census.flows = flows;
                let census = Arc::new(census);
                for asker in open.askers.drain(..) {
                    // Whoever asked may have gone.
                    let _ = asker.send(census.clone());
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FlowCensus;
    use turnpike_wire::event::Event;
    use turnpike_wire::update::{FrontendKey, Protocol, Update};

    #[test]
    fn a_question_is_sent_once_and_answered_by_its_own_answer() {
        let census = FlowCensus::default();
        assert_eq!(census.take_question(), None);
        let first = census.ask();
        assert_eq!(census.take_question(), Some(Update::CountFlows { question: 1 }));
        assert_eq!(census.take_question(), None);
        drop(first);
        let (mut second, mut third) = (census.ask(), census.ask());
        assert_eq!(census.take_question(), Some(Update::CountFlows { question: 2 }));
        census.ask_again();
        assert_eq!(census.take_question(), Some(Update::CountFlows { question: 2 }));
        let frontend =
            FrontendKey { address: "192.0.2.1".parse().unwrap(), port: 80, protocol: Protocol::Tcp };
        let backend = "10.244.0.1:8080".parse().unwrap();
        let count = |question, flows| Event::FlowCount { question, frontend, backend, flows };
        for event in [count(1, 5), count(2, 7), count(2, 1), Event::FlowsCounted { question: 1, flows: 5 }] {
            census.take(&event);
        }
        assert!(second.try_recv().is_err());
        census.take(&Event::FlowsCounted { question: 2, flows: 9 });
        let answer = second.try_recv().unwrap();
        assert_eq!(answer.flows, 9);
        assert_eq!(answer.pairs, [(frontend, backend, 7), (frontend, backend, 1)]);
        assert_eq!(third.try_recv().unwrap(), answer, "one answer for all who wait");
        assert_eq!(census.take_question(), None);
    }
}
