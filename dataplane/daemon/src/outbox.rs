//! What the dataplane has to say to the control plane, kept as state until the ring takes it: bounded however long nobody listens.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use turnpike_forward::census::{Census, Count};
use turnpike_shm::{Producer, PushError};
use turnpike_wire::codec::encode_event;
use turnpike_wire::event::Event;

/// Least time between two requests for a snapshot: a control plane that cannot do better is not driven round in circles.
const RESYNC_PERIOD: Duration = Duration::from_secs(1);
/// Refusals kept for a control plane that does not listen; older ones give way.
const REFUSALS_MAX: usize = 16;
/// Places of a census looked at per call.
const CENSUS_PLACES_PER_CALL: usize = 1 << 16;
/// Longest reason sent, in bytes.
const REASON_BYTES_MAX: usize = 1_024;

/// Where events go.
pub(crate) trait Sink {
    /// Takes one record, or says that there is no room now.
    fn push(&mut self, record: &[u8]) -> Result<(), PushError>;
}

impl Sink for Producer {
    fn push(&mut self, record: &[u8]) -> Result<(), PushError> {
        Self::push(self, record)
    }
}

type Mac = Option<[u8; 6]>;

/// What is still to be said.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    adopted: Option<(u64, i64)>,
    refused: VecDeque<(u64, String)>,
    resync: Option<String>,
    resync_sent: Option<Instant>,
    /// What the listener knows of next hops, and which of them have changed since.
    neighbours: HashMap<IpAddr, Mac>,
    changed: HashMap<IpAddr, Mac>,
    /// A census that is being told, and at which place.
    answer: Option<(Arc<Census>, usize)>,
    record: Vec<u8>,
}

impl Outbox {
    /// Another control plane listens. It knows no next hop, and what its predecessor did wrong is not its business.
    pub(crate) fn new_listener(&mut self) {
        self.refused.clear();
        self.resync = None;
        self.resync_sent = None;
        self.answer = None;
        for (address, mac) in self.neighbours.drain().filter(|(_, mac)| mac.is_some()) {
            self.changed.entry(address).or_insert(mac);
        }
    }

    /// Every worker has adopted this. An older one not yet sent is not worth sending.
    pub(crate) fn adopted(&mut self, generation: u64, revision: i64) {
        self.adopted = Some((generation, revision));
    }

    /// A transaction was refused; a snapshot is needed.
    pub(crate) fn refuse(&mut self, generation: u64, reason: String) {
        if self.refused.len() == REFUSALS_MAX {
            self.refused.pop_front();
        }
        self.resync(format!("generation {generation} was refused: {reason}"));
        self.refused.push_back((generation, reason));
    }

    /// A snapshot is needed.
    pub(crate) fn resync(&mut self, reason: String) {
        self.resync = Some(reason);
    }

    /// A next hop is as said.
    pub(crate) fn neighbour(&mut self, address: IpAddr, mac: Mac) {
        if self.neighbours.get(&address).copied().flatten() == mac {
            self.changed.remove(&address);
        } else {
            self.changed.insert(address, mac);
        }
    }

    /// A census is done; an answer not yet given in full gives way to it.
    pub(crate) fn answer(&mut self, census: Arc<Census>) {
        self.answer = Some((census, 0));
    }

    /// Nobody waits any more for the answer that is being given.
    pub(crate) fn forget_answer(&mut self) {
        self.answer = None;
    }

    /// Sends what the ring takes; the rest waits.
    pub(crate) fn send(&mut self, sink: &mut impl Sink, now: Instant) {
        if self.send_urgent(sink, now).is_none() {
            return;
        }
        while let Some((&address, &mac)) = self.changed.iter().next() {
            if self.push(sink, &Event::Neighbour { address, mac }).is_none() {
                return;
            }
            self.changed.remove(&address);
            self.neighbours.insert(address, mac);
        }
        if let Some((census, at)) = self.answer.take() {
            self.answer = self.tell(sink, &census, at).map(|at| (census, at));
        }
    }

    /// Tells of a census from place `at` on; gives the place to go on from, if it is not at its end.
    fn tell(&mut self, sink: &mut impl Sink, census: &Census, at: usize) -> Option<usize> {
        let question = census.question();
        for at in at..at + CENSUS_PLACES_PER_CALL {
            let event = match census.place(at) {
                Some(None) => continue,
                Some(Some(Count { frontend, backend, flows })) => {
                    Event::FlowCount { question, frontend, backend, flows }
                }
                None => Event::FlowsCounted { question, flows: census.flows() },
            };
            let is_last = matches!(event, Event::FlowsCounted { .. });
            match self.push(sink, &event) {
                None => return Some(at),
                Some(()) if is_last => return None,
                Some(()) => {}
            }
        }
        Some(at + CENSUS_PLACES_PER_CALL)
    }

    fn send_urgent(&mut self, sink: &mut impl Sink, now: Instant) -> Option<()> {
        while let Some((generation, reason)) = self.refused.front() {
            let event = Event::Refused { generation: *generation, reason: shortened(reason) };
            self.push(sink, &event)?;
            self.refused.pop_front();
        }
        let may_ask = self.resync_sent.is_none_or(|sent| now.duration_since(sent) >= RESYNC_PERIOD);
        if let Some(reason) = self.resync.as_deref().filter(|_| may_ask) {
            let event = Event::ResyncNeeded { reason: shortened(reason) };
            self.push(sink, &event)?;
            self.resync = None;
            self.resync_sent = Some(now);
        }
        if let Some((generation, revision)) = self.adopted {
            self.push(sink, &Event::Adopted { generation, revision })?;
            self.adopted = None;
        }
        Some(())
    }

    /// None: no room now, try again. A record that can never be sent counts as sent.
    fn push(&mut self, sink: &mut impl Sink, event: &Event) -> Option<()> {
        if let Err(error) = encode_event(event, &mut self.record) {
            tracing::error!(%error, ?event, "an event cannot be written down");
            return Some(());
        }
        match sink.push(&self.record) {
            Ok(()) => Some(()),
            Err(PushError::Full) => None,
            Err(error @ PushError::TooLong { .. }) => {
                tracing::error!(%error, ?event, "an event does not fit the ring");
                Some(())
            }
        }
    }
}

/// The first [`REASON_BYTES_MAX`] bytes, cut between characters.
fn shortened(text: &str) -> String {
    let end = (0..=REASON_BYTES_MAX.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_forward::flow_key::FlowKey;
    use turnpike_wire::codec::decode_event;

    /// Takes up to `room` records.
    struct Room {
        room: usize,
        taken: Vec<Event>,
    }

    impl Sink for Room {
        fn push(&mut self, record: &[u8]) -> Result<(), PushError> {
            self.room = self.room.checked_sub(1).ok_or(PushError::Full)?;
            self.taken.push(decode_event(record).unwrap());
            Ok(())
        }
    }

    fn sent(outbox: &mut Outbox, room: usize, now: Instant) -> Vec<Event> {
        let mut sink = Room { room, taken: Vec::new() };
        outbox.send(&mut sink, now);
        sink.taken
    }

    const HOP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn neighbour(mac: Mac) -> Event {
        Event::Neighbour { address: HOP, mac }
    }

    #[test]
    fn what_finds_no_room_waits_and_the_latest_counts() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.adopted(1, 10);
        assert_eq!(sent(&mut outbox, 0, now), []);
        outbox.adopted(2, 20);
        outbox.neighbour(HOP, Some(MAC));
        let adopted = Event::Adopted { generation: 2, revision: 20 };
        assert_eq!(sent(&mut outbox, 1, now), [adopted]);
        assert_eq!(sent(&mut outbox, 9, now), [neighbour(Some(MAC))]);
        assert_eq!(sent(&mut outbox, 9, now), []);
    }

    #[test]
    fn next_hops_are_told_when_they_change_and_to_each_new_listener() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.neighbour(HOP, None);
        assert_eq!(sent(&mut outbox, 9, now), [], "not answering is what is assumed");
        outbox.neighbour(HOP, Some(MAC));
        outbox.neighbour(HOP, Some(MAC));
        assert_eq!(sent(&mut outbox, 9, now), [neighbour(Some(MAC))]);
        outbox.neighbour(HOP, None);
        outbox.neighbour(HOP, Some(MAC));
        assert_eq!(sent(&mut outbox, 9, now), [], "a change that undoes itself is none");
        outbox.new_listener();
        assert_eq!(sent(&mut outbox, 9, now), [neighbour(Some(MAC))]);
        outbox.neighbour(HOP, None);
        assert_eq!(sent(&mut outbox, 9, now), [neighbour(None)]);
    }

    #[test]
    fn an_answer_is_given_as_far_as_there_is_room() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        let census = |question| {
            let census = Census::new(question, 2);
            for (worker, n) in [(0, 1), (0, 1), (0, 2), (1, 1)] {
                census.count(worker, &[FlowKey::new(6, n, n, 7, 80), FlowKey::new(6, n + 8, 9, 8080, 7)]);
            }
            census
        };
        let given = |events: &[Event]| {
            let rows = events.iter().map(|event| match event {
                Event::FlowCount { question, frontend, backend, flows } => {
                    (*question, format!("{frontend} {backend}"), *flows)
                }
                Event::FlowsCounted { question, flows } => (*question, String::new(), *flows),
                other => panic!("{other:?}"),
            });
            rows.collect::<std::collections::BTreeSet<_>>()
        };
        let row = |question, text: &str, flows| (question, text.to_owned(), flows);
        outbox.answer(census(5));
        assert_eq!(sent(&mut outbox, 0, now), []);
        let mut events = sent(&mut outbox, 2, now);
        events.extend(sent(&mut outbox, 1, now));
        events.extend(sent(&mut outbox, 9, now));
        assert_eq!(events.len(), 4);
        assert_eq!(events.last(), Some(&Event::FlowsCounted { question: 5, flows: 4 }));
        let (one, two) = ("TCP 0.0.0.1:80 0.0.0.9:8080", "TCP 0.0.0.2:80 0.0.0.10:8080");
        assert_eq!(given(&events), [row(5, one, 2), row(5, two, 1), row(5, one, 1), row(5, "", 4)].into());

        outbox.answer(census(6));
        assert_eq!(sent(&mut outbox, 1, now).len(), 1);
        outbox.answer(census(7));
        assert!(given(&sent(&mut outbox, 9, now)).iter().all(|row| row.0 == 7), "the later question counts");
        outbox.answer(census(8));
        outbox.new_listener();
        assert_eq!(sent(&mut outbox, 9, now), [], "who asked is gone");
    }

    #[test]
    fn snapshots_are_asked_for_once_a_second_at_most() {
        let (mut outbox, start) = (Outbox::default(), Instant::now());
        outbox.refuse(7, "a".repeat(5_000));
        let events = sent(&mut outbox, 9, start);
        assert!(
            matches!(&events[..], [Event::Refused { generation: 7, reason }, Event::ResyncNeeded { .. }] if reason.len() == 1_024)
        );
        outbox.resync("again".into());
        assert_eq!(sent(&mut outbox, 9, start + Duration::from_millis(999)), []);
        assert_eq!(
            sent(&mut outbox, 9, start + Duration::from_secs(1)),
            [Event::ResyncNeeded { reason: "again".into() }]
        );
        (0..100).for_each(|generation| outbox.refuse(generation, String::new()));
        assert_eq!(sent(&mut outbox, 99, start).len(), REFUSALS_MAX);
    }
}
