//! Watching: the way of a burst while somebody looks on ([`crate::watch`]).

use super::{Origin, Worker};
use crate::explain::Tuple;
use crate::flow_key::{FlowKey, FlowKey6};
use crate::flow_table::Entry;
use crate::path::Path;
use crate::verdict::Verdict;
use crate::watch::{From, Glimpse, Note, Watch, facts, side, tuple_of};
use arrayvec::ArrayVec;
use std::sync::Arc;
use turnpike_packet::io::{Burst, Frame, PacketIo, PortInfo};
use turnpike_wire::limits::PORTS_MAX;

/// A watch, and where this worker stands in it.
#[derive(Debug)]
pub(super) struct Observer {
    watch: Arc<Watch>,
    /// Packets that the filter has let through.
    seen: u64,
    /// Notes that were filled.
    told: u64,
}

/// A queue pair that takes no frame while one packet is looked at, so that what is sent for it can be told from all else.
struct Closed<'a, I>(&'a mut I);

impl<I: PacketIo> PacketIo for Closed<'_, I> {
    type Frame = I::Frame;

    fn info(&self) -> &PortInfo {
        self.0.info()
    }

    fn rx(&mut self, _: &mut Burst<I::Frame>) -> usize {
        0
    }

    fn tx(&mut self, _: &mut Burst<I::Frame>) -> usize {
        0
    }

    fn alloc(&mut self, data: &[u8]) -> Option<I::Frame> {
        self.0.alloc(data)
    }
}

impl<F: Frame> Worker<'_, F> {
    /// Begins the watch that is open, or ends one that is not any more.
    pub(super) fn look_for_watch(&mut self) {
        let open = self.shared.watch();
        let known = match (&*open, &self.observer) {
            (None, None) => true,
            (Some(open), Some(observer)) => Arc::ptr_eq(open, &observer.watch),
            _ => false,
        };
        if !known {
            // Who asked keeps it until nobody holds it.
            self.observer =
                open.as_ref().map(|watch| Observer { watch: Arc::clone(watch), seen: 0, told: 0 });
        }
    }

    /// A burst while somebody watches: what the filter lets through goes alone.
    #[cold]
    #[inline(never)]
    pub(super) fn observe<I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        burst: &mut Burst<F>,
        ios: &mut [I],
        origin: Origin,
    ) {
        let Some(mut observer) = self.observer.take() else { return self.walk(port, burst, ios, origin) };
        let from = if origin == Origin::Nic { From::Wire } else { From::Worker };
        let mut others = Burst::new();
        for frame in burst.drain(..) {
            let Some(mut note) = self.admit_note(&mut observer, frame.data(), None) else {
                others.push(frame);
                continue;
            };
            if !others.is_empty() {
                self.walk(port, &mut others, ios, origin);
            }
            note.begin(port, frame.frame_len(), frame.data(), from);
            self.walk_watched(port, frame, ios, origin, &mut note);
            self.give_note(&mut observer, note);
        }
        if !others.is_empty() {
            self.walk(port, &mut others, ios, origin);
        }
        self.observer = Some(observer);
    }

    /// A note for a frame that the filter may let through, if it is its turn and a note lies ready.
    fn admit_note(&self, observer: &mut Observer, data: &[u8], flow: Option<Glimpse>) -> Option<Box<Note>> {
        let tuple = tuple_of(data);
        let flow = flow.or_else(|| self.glimpse(tuple.as_ref()?));
        let service = self.service_of(&observer.watch, tuple.as_ref(), flow.as_ref());
        let facts = facts(data, tuple.as_ref(), flow.as_ref(), service);
        if observer.watch.filter().admits(&facts) == Some(false) {
            return None;
        }
        observer.seen += 1;
        if !observer.seen.is_multiple_of(observer.watch.sample().into()) {
            return None;
        }
        observer.watch.take_note(self.id)
    }

    /// The key of the Service port that a packet is for, if the filter wants to know.
    fn service_of(&self, watch: &Watch, tuple: Option<&Tuple>, flow: Option<&Glimpse>) -> Option<&str> {
        if !watch.filter().asks_for_service() {
            return None;
        }
        let client = flow.map(|flow| flow.client).or(tuple.copied());
        let frontend = client.and_then(|client| match client.key::<FlowKey>() {
            Some(key) => self.tables.frontend(key),
            None => self.tables.frontend(client.key::<FlowKey6>()?),
        });
        // What is for no Service is known to be for none.
        Some(
            frontend
                .and_then(|f| self.tables.service(f.service))
                .map_or("", |service| service.key.0.as_str()),
        )
    }

    /// One frame alone, and all that becomes of it.
    fn walk_watched<I: PacketIo<Frame = F>>(
        &mut self,
        port: usize,
        frame: F,
        ios: &mut [I],
        origin: Origin,
        note: &mut Note,
    ) {
        for out in 0..self.ports.len() {
            if let Some(io) = ios.get_mut(self.ports[out].device) {
                self.flush(out, io);
            }
        }
        let tuple = tuple_of(&note.came.bytes);
        note.flow[0] = tuple.as_ref().and_then(|tuple| self.glimpse(tuple));
        let queued: ArrayVec<usize, PORTS_MAX> = self.ports.iter().map(|port| port.tx.len()).collect();
        let counters = self.counters.clone();
        let mut alone = Burst::new();
        alone.push(frame);
        let mut closed: ArrayVec<Closed<'_, I>, PORTS_MAX> = ios.iter_mut().map(Closed).collect();
        self.walk(port, &mut alone, &mut closed, origin);
        for &verdict in Verdict::ALL {
            let moved = self.counters.verdict(verdict) - counters.verdict(verdict);
            (0..moved).try_for_each(|_| note.verdicts.try_push(verdict)).unwrap_or_default();
        }
        for (out, (port, before)) in self.ports.iter().zip(queued).enumerate() {
            port.tx.iter().skip(before).for_each(|frame| note.leaves(out, frame.frame_len(), frame.data()));
        }
        note.flow[1] = tuple.as_ref().and_then(|tuple| self.glimpse(tuple));
        note.now_ms = self.now_ms;
    }

    /// A frame that was held for its next hop leaves, or is given up.
    #[cold]
    pub(super) fn observe_held(&mut self, port: Option<usize>, frame: &F, verdict: Verdict) {
        let Some(mut observer) = self.observer.take() else { return };
        let (data, len) = (frame.data(), frame.frame_len());
        if let Some(tuple) = tuple_of(data)
            && let Some(flow) = self.glimpse(&tuple.reversed())
            && let Some(mut note) = self.admit_note(&mut observer, data, Some(flow))
        {
            note.begin(port.unwrap_or_default(), len, data, From::Held);
            note.flow = [Some(flow); 2];
            note.verdicts.push(verdict);
            note.now_ms = self.now_ms;
            port.into_iter().for_each(|port| note.leaves(port, len, data));
            self.give_note(&mut observer, note);
        }
        self.observer = Some(observer);
    }

    /// Tells a note if the filter lets its packet through now that all is known of it.
    fn give_note(&self, observer: &mut Observer, mut note: Box<Note>) {
        let tuple = tuple_of(&note.came.bytes);
        let flow = note.flow[1].or(note.flow[0]);
        let service = self.service_of(&observer.watch, tuple.as_ref(), flow.as_ref());
        let mut facts = facts(&note.came.bytes, tuple.as_ref(), flow.as_ref(), service);
        if facts.sides[1].is_none() {
            facts.sides[1] = note.left_as().as_ref().map(side);
        }
        let names: ArrayVec<&str, { crate::limits::WATCH_VERDICTS_MAX }> =
            note.verdicts.iter().map(|verdict| verdict.name()).collect();
        facts.verdicts = Some(&names);
        let is_told = observer.watch.filter().admits(&facts) == Some(true);
        if is_told {
            note.number = observer.told;
            observer.told += 1;
        }
        observer.watch.give(self.id, note, is_told);
    }

    /// The live flow that a packet with this tuple is of.
    fn glimpse(&self, tuple: &Tuple) -> Option<Glimpse> {
        match tuple.key::<FlowKey>() {
            Some(key) => self.glimpse_as(key),
            None if self.flows.v6.capacity() > 0 => self.glimpse_as(tuple.key::<FlowKey6>()?),
            None => None,
        }
    }

    fn glimpse_as<K: Path>(&self, key: K) -> Option<Glimpse> {
        let table = K::flows(&self.flows);
        let session = table.session(table.find(key)?.slot());
        let [client, reply] = *session.keys();
        Some(Glimpse { client: Tuple::of(client), reply: Tuple::of(reply), state: session.state() })
    }
}
