//! What the dataplane tells the control plane.

use crate::update::FrontendKey;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// One record up the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Every worker has adopted this generation.
    Adopted {
        /// Of [`crate::update::Commit`].
        generation: u64,
        /// Of [`crate::update::Commit`].
        revision: i64,
    },
    /// The dataplane cannot go on with what it has been told; the control plane must send a full snapshot.
    ResyncNeeded {
        /// What was wrong, for people.
        reason: String,
    },
    /// A transaction was refused as a whole; the state before it is still in force.
    Refused {
        /// The refused generation.
        generation: u64,
        /// What was wrong, for people.
        reason: String,
    },
    /// A next hop answered, or stopped answering.
    Neighbour {
        /// The next hop.
        address: IpAddr,
        /// Its Ethernet address while it answers.
        mac: Option<[u8; 6]>,
    },
    /// Part of the answer to [`crate::update::Update::CountFlows`]: flows of one frontend with one backend. Several workers answer for
    /// themselves, so one pair may come several times.
    FlowCount {
        /// Of the request.
        question: u64,
        /// Whom the clients addressed.
        frontend: FrontendKey,
        /// Who serves them.
        backend: SocketAddr,
        /// How many.
        flows: u64,
    },
    /// The end of the answer.
    FlowsCounted {
        /// Of the request.
        question: u64,
        /// All flows, also those that no [`Event::FlowCount`] had room for.
        flows: u64,
    },
}
