//! Limits that more than one program must agree on. One meaning, one place.

/// Largest encoded [`crate::update::Update`] or [`crate::event::Event`], in bytes.
pub const RECORD_BYTES_MAX: usize = 32 << 10;
/// Longest [`crate::update::ServiceKey`], in bytes: two DNS labels of 63 and 253, a port name of 63, a protocol, separators.
pub const SERVICE_KEY_BYTES_MAX: usize = 400;
/// Most Service ports (namespace, name, port, protocol) one dataplane holds.
pub const SERVICES_MAX: usize = 65_536;
/// Most frontends (address, protocol, port) one dataplane holds.
pub const FRONTENDS_MAX: usize = 262_144;
/// Most backends of one Service port.
pub const BACKENDS_PER_SERVICE_MAX: usize = 16_384;
/// Most backends over all Service ports.
pub const BACKENDS_MAX: usize = 1_048_576;
/// Most source ranges of one Service port, after those that lie in others are merged.
pub const SOURCE_RANGES_MAX: usize = 1024;
/// Most Service networks, and most pod networks.
pub const NETWORKS_MAX: usize = 1024;
/// Most health check ports outside of the NodePort range.
pub const HEALTH_CHECK_PORTS_MAX: usize = 1024;
/// Longest session affinity, in seconds (Kubernetes: one day).
pub const AFFINITY_TIMEOUT_S_MAX: u32 = 86_400;
/// Least time an established TCP flow may be idle, in seconds, and the default (RFC 5382 REQ-5: two hours and four minutes).
pub const TCP_ESTABLISHED_TIMEOUT_S_MIN: u32 = 7_440;
/// Least time a TCP flow that opens or closes may be idle, in seconds, and the default (RFC 5382 REQ-5: four minutes).
pub const TCP_TRANSITORY_TIMEOUT_S_MIN: u32 = 240;
/// Least time a UDP flow may be idle, in seconds (RFC 4787 REQ-5: two minutes).
pub const UDP_TIMEOUT_S_MIN: u32 = 120;
/// How long a UDP flow may be idle by default, in seconds (RFC 4787 REQ-5 recommends five minutes).
pub const UDP_TIMEOUT_S_DEFAULT: u32 = 300;
/// Longest time that any flow may be idle, in seconds: a week.
pub const FLOW_TIMEOUT_S_MAX: u32 = 604_800;
/// Lowest source port towards backends: the well-known ports are left alone (RFC 6056 section 3.2).
pub const SNAT_PORT_MIN: u16 = 1024;
/// Most ranges of ports that a configuration excludes from SNAT.
pub const EXCLUDED_PORT_RANGES_MAX: usize = 64;
/// Fewest ports that what is excluded must leave on each SNAT address.
pub const SNAT_PORTS_MIN: usize = 1024;
/// How long a SNAT port rests by default, in seconds (RFC 6888 REQ-8).
pub const SNAT_REST_S_DEFAULT: u32 = 120;
/// How long it may rest at most, in seconds: an hour.
pub const SNAT_REST_S_MAX: u32 = 3_600;
/// Most SNAT ports of one worker that rest by default.
pub const RESTING_PORTS_DEFAULT: u32 = 1 << 16;
/// The most that can be set.
pub const RESTING_PORTS_MAX: u32 = 1 << 24;
/// Largest weight of a backend (`turnpike.dev/weight`); 0 takes no new flows.
pub const WEIGHT_MAX: u16 = 256;
/// Most workers of one dataplane.
pub const WORKERS_MAX: usize = 64;
/// Most ports (NICs) of one dataplane.
pub const PORTS_MAX: usize = 16;
/// Most static routes of one port.
pub const ROUTES_MAX: usize = 4096;
/// Bytes of the ring that carries updates down.
pub const UPDATE_RING_BYTES: usize = 8 << 20;
/// Bytes of the ring that carries events up.
pub const EVENT_RING_BYTES: usize = 1 << 20;
/// How often either process beats in the shared region, in milliseconds.
pub const HEARTBEAT_PERIOD_MS: u64 = 100;
/// A peer that has not beaten for this long is taken for dead, in milliseconds.
pub const HEARTBEAT_LOST_MS: u64 = 1000;
