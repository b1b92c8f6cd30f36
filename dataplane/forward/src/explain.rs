//! What would become of a packet, asked without sending one: the question that is left for a worker, and what it finds.
//!
//! The worker that would get the packet answers between two of its turns, with the code and the tables that it handles packets by. Nothing is
//! changed for it: no flow is made, no port taken, no affinity begun, nothing counted; even the random numbers that ports are chosen by are put
//! back, so that a packet which comes next gets what was foretold.

use crate::address::Address;
use crate::flow_key::Key;
use crate::neighbour::NextHop;
use crate::parse::Kind;
use crate::service_table::Tables;
use crate::track::{Direction, State};
use crate::verdict::Verdict;
use std::sync::{Arc, OnceLock};

/// What is left for one worker to do between two of its turns. It is answered once.
#[derive(Debug)]
pub struct Errand {
    worker: usize,
    task: Task,
    answer: OnceLock<Answer>,
}

/// What there is to do.
#[derive(Debug)]
pub enum Task {
    /// Tell what would become of a packet.
    Explain(Question),
    /// End these flows, as far as they are still there.
    End(Vec<Doomed>),
}

/// What was found or done.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a worker puts nothing into boxes")]
pub enum Answer {
    /// What would become of the packet.
    Explained(Explanation),
    /// How many flows were ended.
    Ended(u64),
}

/// A packet that was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The port that it would come in on.
    pub port: usize,
    /// Its frame.
    pub frame: Vec<u8>,
}

/// A flow to be ended, by its place and by what its client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Its slot in the worker's table of its family.
    pub slot: u32,
    /// What the client's packets have.
    pub client: Tuple,
}

/// A five-tuple of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// IP protocol number.
    pub protocol: u8,
    /// Sender.
    pub source: (Address, u16),
    /// Receiver.
    pub destination: (Address, u16),
}

/// What one worker says about a packet.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The tables that it was answered by.
    pub tables: Arc<Tables>,
    /// The worker's clock.
    pub now_ms: u32,
    /// What the packet is.
    pub kind: Kind,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is of a live flow.
    Live {
        /// How it goes on.
        course: Course,
        /// State of its flow.
        state: State,
        /// How long the flow has been silent.
        idle_ms: u32,
        /// How long it may be.
        timeout_ms: u32,
    },
    /// It opens a flow.
    New {
        /// How it goes on.
        course: Course,
        /// A flow that has ended, or lost its backend, makes room for it.
        reopens: bool,
    },
    /// It ends here, as the verdict says.
    Ends(Verdict),
}

/// How a packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Packets of the client, as they come.
    pub client: Tuple,
    /// Packets of the backend, as they come. Where answers take another way: from the backend to the source of the outer packet.
    pub reply: Tuple,
    /// Which of the two it is.
    pub direction: Direction,
    /// Whether answers take another way, and packets go on in packets.
    pub is_one_way: bool,
    /// Whether the backend is told its client first.
    pub is_prefaced: bool,
    /// Who gets it next.
    pub next_hop: Option<NextHop>,
    /// Ethernet address of the next hop; none while it is not known, and frames wait for it.
    pub mac: Option<[u8; 6]>,
}

impl Tuple {
    /// The parts of a key.
    #[must_use]
    pub fn of<K: Key>(key: K) -> Self {
        Self {
            protocol: key.protocol(),
            source: (key.source_address(), key.source_port()),
            destination: (key.destination_address(), key.destination_port()),
        }
    }

    /// The key with these parts, if it is of that family.
    #[must_use]
    pub fn key<K: Key>(&self) -> Option<K> {
        let Self { protocol, source, destination } = *self;
        K::of(protocol, source.0, destination.0, source.1, destination.1)
    }

    /// That of a packet the other way.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { protocol: self.protocol, source: self.destination, destination: self.source }
    }
}

impl Course {
    /// The packet as it leaves; of a packet in a packet the inner one, which stays as it is.
    #[must_use]
    pub const fn leaves_as(&self) -> Tuple {
        match self.direction {
            _ if self.is_one_way => self.client,
            Direction::Forward => self.reply.reversed(),
            Direction::Reply => self.client.reversed(),
        }
    }

    /// The backend's address and port.
    #[must_use]
    pub const fn backend(&self) -> (Address, u16) {
        self.reply.source
    }
}

impl Errand {
    /// For this worker.
    #[must_use]
    pub fn new(worker: usize, task: Task) -> Arc<Self> {
        Arc::new(Self { worker, task, answer: OnceLock::new() })
    }

    /// What the worker has answered, if it has.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        self.answer.get()
    }

    /// The task, if it is this worker's and not done.
    pub(crate) fn task_of(&self, worker: usize) -> Option<&Task> {
        (self.worker == worker && self.answer.get().is_none()).then_some(&self.task)
    }

    /// It is done. The worker whose it is calls this once.
    pub(crate) fn done(&self, answer: Answer) {
        let _ = self.answer.set(answer);
    }
}
