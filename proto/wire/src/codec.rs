//! One ring record: a version byte, then the postcard encoding of an [`Update`] or [`Event`].
//!
//! Decoding is total: any bytes give a value or a [`CodecError`], never a panic, and allocate no more than the record's own length.

use crate::event::Event;
use crate::limits::{
    AFFINITY_TIMEOUT_S_MAX, FLOW_TIMEOUT_S_MAX, HEALTH_CHECK_PORTS_MAX, NETWORKS_MAX, RECORD_BYTES_MAX,
    SERVICE_KEY_BYTES_MAX, SOURCE_RANGES_MAX, TCP_ESTABLISHED_TIMEOUT_S_MIN, TCP_TRANSITORY_TIMEOUT_S_MIN,
    UDP_TIMEOUT_S_MIN, WEIGHT_MAX,
};
use crate::update::{Backend, Cluster, FrontendKey, Service, ServiceKey, Tracking, Update};
use serde::{Serialize, de::DeserializeOwned};

/// Version of the words. Processes of different versions refuse each other's records by name.
pub const WIRE_VERSION: u8 = 5;

/// Why bytes are not a record, or a record cannot become bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Nothing there.
    #[error("record is empty")]
    Empty,
    /// Written by another version.
    #[error(
        "record has wire version {found}, this program speaks {WIRE_VERSION}: run the same release of both processes"
    )]
    Version {
        /// The version byte found.
        found: u8,
    },
    /// Longer than [`RECORD_BYTES_MAX`].
    #[error("record of {bytes} bytes is over the limit of {RECORD_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not the encoding of a record.
    #[error("record does not decode: {0}")]
    Malformed(String),
    /// Bytes are left over after the record.
    #[error("record has {bytes} bytes too many")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A value no honest sender writes.
    #[error("record holds an impossible value: {0}")]
    Impossible(&'static str),
}

/// Appends the record of `update` to `out` after clearing it.
pub fn encode_update(update: &Update, out: &mut Vec<u8>) -> Result<(), CodecError> {
    encode(update, out)
}

/// Appends the record of `event` to `out` after clearing it.
pub fn encode_event(event: &Event, out: &mut Vec<u8>) -> Result<(), CodecError> {
    encode(event, out)
}

/// Reads an update and checks every value in it against [`crate::limits`].
pub fn decode_update(record: &[u8]) -> Result<Update, CodecError> {
    let update = decode(record)?;
    check_update(&update)?;
    Ok(update)
}

/// Reads an event.
pub fn decode_event(record: &[u8]) -> Result<Event, CodecError> {
    decode(record)
}

fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    out.clear();
    out.push(WIRE_VERSION);
    let bytes =
        postcard::to_extend(value, std::mem::take(out)).map_err(|e| CodecError::Malformed(e.to_string()))?;
    *out = bytes;
    if out.len() > RECORD_BYTES_MAX {
        return Err(CodecError::TooLong { bytes: out.len() });
    }
    Ok(())
}

fn decode<T: DeserializeOwned>(record: &[u8]) -> Result<T, CodecError> {
    let (&version, body) = record.split_first().ok_or(CodecError::Empty)?;
    if version != WIRE_VERSION {
        return Err(CodecError::Version { found: version });
    }
    if record.len() > RECORD_BYTES_MAX {
        return Err(CodecError::TooLong { bytes: record.len() });
    }
    let (value, rest) = postcard::take_from_bytes(body).map_err(|e| CodecError::Malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(CodecError::Trailing { bytes: rest.len() });
    }
    Ok(value)
}

fn check_update(update: &Update) -> Result<(), CodecError> {
    match update {
        Update::Reset => Ok(()),
        Update::PutFleet(fleet) if fleet.node_ports.0 > fleet.node_ports.1 => {
            Err(CodecError::Impossible("NodePort range ends before it starts"))
        }
        Update::PutFleet(_) => Ok(()),
        Update::PutCluster(cluster) => check_cluster(cluster),
        Update::PutService(service) => check_service(service),
        Update::DropService(key) => check_key(key),
        Update::PutBackend(key, backend) => check_key(key).and_then(|()| check_backend(backend)),
        Update::DropBackend(key, _) => check_key(key),
        Update::PutFrontend(frontend) => {
            check_key(&frontend.service)?;
            check_frontend(&frontend.key)
        }
        Update::DropFrontend(key) => check_frontend(key),
        Update::Commit(commit) if commit.generation == 0 => Err(CodecError::Impossible("generation 0")),
        Update::Commit(_) | Update::CountFlows { .. } => Ok(()),
    }
}

fn check_cluster(cluster: &Cluster) -> Result<(), CodecError> {
    if cluster.service_networks.len() > NETWORKS_MAX || cluster.pod_networks.len() > NETWORKS_MAX {
        return Err(CodecError::Impossible("too many networks"));
    }
    if cluster.health_check_ports.len() > HEALTH_CHECK_PORTS_MAX {
        return Err(CodecError::Impossible("too many health check ports"));
    }
    Ok(())
}

fn check_service(service: &Service) -> Result<(), CodecError> {
    if service.affinity_timeout_s > AFFINITY_TIMEOUT_S_MAX {
        return Err(CodecError::Impossible("affinity time-out over its limit"));
    }
    if service.source_ranges.len() > SOURCE_RANGES_MAX {
        return Err(CodecError::Impossible("too many source ranges"));
    }
    check_tracking(&service.tracking)?;
    check_key(&service.key)
}

/// What the RFCs ask for at least, and what the clocks of the packet path can tell apart.
fn check_tracking(tracking: &Tracking) -> Result<(), CodecError> {
    let rows = [
        (tracking.tcp_established_s, TCP_ESTABLISHED_TIMEOUT_S_MIN, "time-out of established TCP flows"),
        (tracking.tcp_transitory_s, TCP_TRANSITORY_TIMEOUT_S_MIN, "time-out of TCP flows that open or close"),
        (tracking.udp_s, UDP_TIMEOUT_S_MIN, "time-out of UDP flows"),
    ];
    match rows.iter().find(|(seconds, least, _)| !(*least..=FLOW_TIMEOUT_S_MAX).contains(seconds)) {
        Some((_, _, what)) => Err(CodecError::Impossible(what)),
        None => Ok(()),
    }
}

fn check_key(key: &ServiceKey) -> Result<(), CodecError> {
    match key.0.len() {
        0 => Err(CodecError::Impossible("empty Service key")),
        n if n > SERVICE_KEY_BYTES_MAX => Err(CodecError::Impossible("Service key is too long")),
        _ => Ok(()),
    }
}

fn check_backend(backend: &Backend) -> Result<(), CodecError> {
    if backend.address.port() == 0 {
        return Err(CodecError::Impossible("backend port 0"));
    }
    if backend.weight > WEIGHT_MAX {
        return Err(CodecError::Impossible("weight over its limit"));
    }
    if backend.address.ip().is_unspecified() || backend.address.ip().is_multicast() {
        return Err(CodecError::Impossible("backend address is no host's"));
    }
    Ok(())
}

fn check_frontend(key: &FrontendKey) -> Result<(), CodecError> {
    if key.port == 0 {
        return Err(CodecError::Impossible("frontend port 0"));
    }
    if key.address.is_unspecified() || key.address.is_multicast() {
        return Err(CodecError::Impossible("frontend address is no host's"));
    }
    Ok(())
}
