//! The packet path: NAT and consistent hashing over bursts of frames, free of drivers, clocks and randomness.
//!
//! # The packet's walk
//! `capsule/rx` → [`worker`] → [`parse`] → [`flow_table`], and [`select`] for a packet of no live flow → [`rewrite`] → `capsule/tx`
//!
//! # The tables' walk
//! `proto/shm` ring → the daemon's control thread → [`stage`] → [`service_table`] → [`mailbox`] → [`worker`]
//!
//! # What stands beside the walks
//! [`maglev`] chooses backends, [`affinity`] remembers them, [`port_pool`] chooses source ports, [`steering`] and [`handoff`] the worker,
//! [`neighbour`] Ethernet addresses, [`routers`] routers that say so themselves; [`networks`] knows where clients are, [`census`] counts flows, [`shared_map`] keeps tables cheap to change;
//! [`fragments`] finds the flow of fragments; [`track`] knows the states of a flow, [`connection`] and [`association`] what TCP and SCTP do to them; [`icmp_error`] has the errors of
//! others about packets that were translated; [`local`] the answers the gateway makes itself, [`verdict`] every fate of a packet, [`limits`] every
//! bound. [`gateway`] is what stays the same while a dataplane runs, [`trunk`] which of a device's frames are whose. [`path`] says what is done
//! in another way for IPv6, in [`parse6`] and [`rewrite6`]; an [`address`] is of either family.
//!
//! # Invariants
//! - Nothing here allocates, locks, formats or calls the system between two turns of a worker, except to take new tables.
//! - No worker waits for another. Where two change one thing at once ([`affinity`], [`neighbour`]), the first to swap a word has decided.
//! - Every received frame gets exactly one [`verdict::Verdict`], and no frame leaves untranslated.
//! - Unsafe code is in [`cpu`] only.
#![deny(unsafe_code)]

pub mod address;
pub mod adoption;
pub mod affinity;
pub mod announce;
pub mod association;
pub mod census;
pub mod connection;
#[allow(unsafe_code)]
pub mod cpu;
pub mod exception;
pub mod explain;
pub mod flow_key;
pub mod flow_table;
pub mod fragments;
pub mod gateway;
pub mod handoff;
pub mod hash;
pub mod icmp_error;
pub mod limits;
pub mod local;
pub mod maglev;
pub mod mailbox;
pub mod memberships;
pub mod neighbour;
pub mod networks;
pub mod one_way;
pub mod parse;
pub mod parse6;
pub mod path;
pub mod port_pool;
pub mod proxy_protocol;
pub mod quarantine;
pub mod quota;
pub mod rewrite;
pub mod rewrite6;
pub mod routers;
pub mod select;
pub mod service_table;
pub mod shared_map;
pub mod stage;
pub mod steering;
pub mod track;
pub mod trunk;
pub mod tunnel;
pub mod verdict;
pub mod watch;
pub mod worker;
