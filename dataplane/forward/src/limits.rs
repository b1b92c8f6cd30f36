//! Limits and times of the packet path. Everything that is bounded is bounded here.

/// Buckets a flow may lie behind its home bucket; a flow that finds no room within them is refused.
pub const BUCKET_PROBES_MAX: usize = 16;
/// SNAT ports tried for one new flow on one SNAT address before it is refused.
pub const PORT_PROBES_MAX: u32 = 128;
/// SNAT ports found free but resting for one new flow before the one that has rested longest is taken.
pub const RESTING_PROBES_MAX: u32 = 16;
/// How long a TCP flow was silent at its end whose port need not rest, in milliseconds: two segment lifetimes (RFC 9293 section 3.4.2).
pub const TCP_SILENT_MS: u32 = 240_000;
/// Clients whose flows one worker counts apart: 13 bytes each.
pub const SUBSCRIBERS_MAX: usize = 1 << 16;
/// Addresses that may wait to be announced.
pub const ANNOUNCEMENTS_MAX: usize = 65_536;
/// When an announcement is repeated, in milliseconds (RFC 5227 section 1.1, ANNOUNCE_INTERVAL).
pub const ANNOUNCE_AGAIN_MS: u32 = 2_000;
/// Least time between two answers to queriers who want to know all groups, in milliseconds.
pub const MEMBERSHIPS_AGAIN_MS: u32 = 1_000;
/// How long a querier of version 1 is remembered, in milliseconds (RFC 3810 section 9.12: twice its interval and the time for an answer).
pub const OLD_QUERIER_MS: u32 = 260_000;
/// Addresses announced in a millisecond, at most: a link has other things to carry.
pub const ANNOUNCE_BUDGET: usize = 2;
/// Frames one worker holds while their next hop is being resolved.
pub const HELD_FRAMES_MAX: usize = 128;
/// How long a frame is held for its next hop, in milliseconds.
pub const HELD_MS: u32 = 1_000;
/// Next hops one dataplane knows.
pub const NEXT_HOPS_MAX: usize = 1 << 16;
/// Time between the first two questions for a router (RFC 4861 section 10, RTR_SOLICITATION_INTERVAL), and the most that it grows to (RFC 7559
/// section 2, MRT), in milliseconds.
pub const ROUTER_ASK_FIRST_MS: u32 = 4_000;
/// The most.
pub const ROUTER_ASK_MOST_MS: u32 = 3_600_000;
/// Next hops known, of whatever kind, from which on clients on connected networks get no new ones: a quarter is for backends and routers.
pub const CLIENT_NEXT_HOPS_MAX: usize = NEXT_HOPS_MAX / 4 * 3;
/// Least time between two questions for one next hop, in milliseconds (RFC 1122 section 2.3.2.1: one a second; RFC 4861 section 10,
/// RETRANS_TIMER).
pub const ARP_RETRY_MS: u32 = 1_000;
/// Unanswered questions after which a next hop is given up until it is wanted again.
pub const ARP_TRIES_MAX: u8 = 3;
/// Age at which the address of a next hop is asked for again, in milliseconds.
pub const ARP_REFRESH_MS: u32 = 30_000;
/// Next hops looked after per turn of worker 0.
pub const ARP_KEEPER_BUDGET: usize = 16;
/// Most flow slots looked at per turn for expiry.
pub const SWEEP_BUDGET: usize = 64;
/// Time in which every flow slot is looked at once, in milliseconds.
pub const SWEEP_PERIOD_MS: u32 = 15_000;
/// ICMP errors and TCP resets one worker makes per second; both together.
pub const ANSWERS_PER_SECOND: u32 = 1_000;
/// ICMP errors one worker sends per second to clients for whose flows there is no room: few, since many of them are a flood's.
pub const SHORTAGES_PER_SECOND: u32 = 100;
/// Frames one worker can have on their way to one other worker.
pub const HANDOFF_FRAMES: usize = 1_024;

/// Chunks of an SCTP packet that are looked at for one that opens or ends an association.
pub const SCTP_CHUNKS_MAX: usize = 16;
/// SCTP associations: as long as TCP flows by RFC 5382 REQ-5. An idle one is kept alive by heartbeats, every 30 s by default (RFC 9260
/// section 16).
pub const SCTP_ESTABLISHED_TIMEOUT_MS: u32 = 7_440_000;
/// SCTP associations that open or close.
pub const SCTP_TRANSITORY_TIMEOUT_MS: u32 = 240_000;
/// How long a TCP flow is kept after a reset, if nothing contradicts it: RFC 7857 section 2.2.
pub const TCP_RESET_HELD_MS: u32 = 240_000;

/// Backends whose path MTU is remembered, of those that get packets in packets: 8 bytes each.
pub const PATH_MTUS_MAX: usize = 1 << 12;
/// How long a path MTU is believed, in milliseconds (RFC 1191 section 6.3: ten minutes).
pub const PATH_MTU_MS: u32 = 600_000;

/// Clients whose session affinity is remembered, over all Services: 24 bytes each.
pub const AFFINITIES_MAX: usize = 1 << 19;
/// How often one choice of a backend is put into the table of affinities anew when other workers change the same place meanwhile.
pub const AFFINITY_TRIES_MAX: u32 = 16;
/// Buckets of affinities looked at for expiry per millisecond, by worker 0.
pub const AFFINITY_SWEEP_BUDGET: usize = 2;
/// Flow slots looked at for a census per turn that found packets: so few that who asks costs the packets of a full burst less than a twentieth.
pub const CENSUS_BUDGET: usize = 1;
/// Flow slots looked at per turn that found packets, for flows that must leave their backends.
pub const WALK_BUDGET: usize = 64;
/// The same for either per turn that found none.
pub const WALK_BUDGET_IDLE: usize = 1_024;
/// Pairs of frontend and backend that one worker counts apart in a census.
pub const CENSUS_PAIRS_MAX: usize = 1 << 14;
/// Places looked at for one pair.
pub const CENSUS_PROBES_MAX: usize = 32;

/// Frames that can be on their way from one worker to the host's kernel, and from the kernel to the port's worker.
pub const EXCEPTION_FRAMES: usize = 1_024;
/// Frames a second for the host's kernel, of each [`crate::exception::Class`] but the first, shared by the workers. One sender gets half:
/// 600 Mbit/s of whole frames, and what one thread writes into a tap in a third of its time.
pub const EXCEPTION_FRAMES_PER_SECOND: u32 = 100_000;
/// The same of frames to groups and of other Ethernet types.
pub const EXCEPTION_LINK_FRAMES_PER_SECOND: u32 = 2_000;
/// Senders to the kernel that are told apart by a worker; those beyond share.
pub const EXCEPTION_SENDERS: usize = 256;
/// Time whose frames may come at once, in milliseconds.
pub const EXCEPTION_BURST_MS: u32 = 64;

/// Datagrams one worker knows of whose first fragment is missing. Each takes about 600 bytes, like those beyond.
pub const FRAGMENT_WAITING_MAX: usize = 1_024;
/// Datagrams one worker knows of whose first fragment has come. At 10 Gbit/s and 0.1 % loss, 60 kB datagrams leave 300 incomplete ones in
/// their time.
pub const FRAGMENT_STARTED_MAX: usize = 4_096;
/// Frames one worker holds for the first fragments of their datagrams: a small part of the packet buffers.
pub const FRAGMENTS_HELD_MAX: usize = 1_024;
/// Fragments that one packet is cut into: of 1500 bytes for the least MTU a link can have, 68 bytes (RFC 791 section 3.2).
pub const PIECES_MAX: usize = 32;
/// Frames held for one datagram. The longest has 120 fragments on a link with the IPv4 minimum of 576 bytes that hosts must take.
pub const FRAGMENTS_HELD_PER_DATAGRAM: usize = 128;
/// Part of those three that one source may have, one in so many.
pub const FRAGMENT_SHARE: usize = 4;
/// Sources that are told apart by a worker; those beyond share.
pub const FRAGMENT_SOURCES: usize = 1_024;
/// Pieces of one datagram that are told apart; beyond, neighbours are joined.
pub const FRAGMENT_PIECES_MAX: usize = 128;
/// How long a datagram may wait for its first fragment, and then again for the others, in milliseconds. RFC 791 section 3.2 starts with 15 s;
/// both together are no longer than the 30 s that Linux waits, since a receiver waits as well.
pub const FRAGMENT_TIMEOUT_MS: u32 = 15_000;
/// Most datagrams that are given up in one turn because their time is over.
pub const FRAGMENT_SWEEP_BUDGET: usize = 64;

/// Notes that one worker can have under way to who watches.
pub const WATCH_NOTES_MAX: usize = 4_096;
/// Memory of all notes of a watch, in bytes.
pub const WATCH_BYTES_MAX: usize = 64 << 20;
/// Frames that leave for one packet and are kept: itself, or answers to it. Those beyond are counted.
pub const WATCH_LEFT_MAX: usize = 2;
/// Verdicts that are noted of one packet: its own, and of fragments that were held for it.
pub const WATCH_VERDICTS_MAX: usize = 8;
