//! Requests and answers of the dataplane's own Unix socket, which answers whether or not a control plane is there.
//!
//! A connection carries any number of exchanges: one [`Request`] as JSON on a line, then [`Reply`] lines as JSON until one that is the last
//! ([`Reply::is_last`]). Names are stable; units stand in the names.

use crate::update::{Action, BackendSet, FrontendKind, Mode};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Longest request line, in bytes.
pub const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Longest reply line, in bytes: a sighting with the bytes of a jumbo frame on each side.
pub const REPLY_BYTES_MAX: usize = 1 << 20;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What would become of a packet.
    Explain {
        /// Which.
        packet: Asked,
        /// Name of the port that it would come in on; without one, of the port that leads to its source.
        port: Option<String>,
    },
    /// Watch packets: replies are [`Reply::Sighting`]s, then [`Reply::Watched`].
    Watch(Watch),
    /// Look at live flows: replies are [`Reply::Flow`]s and [`Reply::Progress`], then [`Reply::Flows`].
    Flows(FlowQuery),
}

/// Which packets to watch, and how much of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// A [`crate::filter::Filter`].
    pub filter: String,
    /// How many packets at most; none: until the end of the connection or of the time.
    pub count: Option<u64>,
    /// For how long.
    pub duration_ms: Option<u64>,
    /// Every how many-th packet of those that the filter lets through.
    pub sample: u32,
    /// Bytes of each frame.
    pub snap_bytes: u32,
}

/// Which flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowQuery {
    /// Of this Service: NAME, NAMESPACE/NAME or NAMESPACE/NAME:PORT-NAME.
    pub service: Option<String>,
    /// Of clients in this network.
    pub client: Option<ipnet::IpNet>,
    /// To backends in this network.
    pub backend: Option<ipnet::IpNet>,
    /// And with this port.
    pub backend_port: Option<u16>,
    /// In this state.
    pub state: Option<String>,
    /// How many to list at most; all are counted.
    pub limit: u64,
    /// End all that are found.
    pub kill: bool,
}

/// A packet that is asked about: `tcp 198.51.100.7:40000 203.0.113.10:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Asked {
    /// What it is.
    pub protocol: AskedProtocol,
    /// From whom.
    pub source: SocketAddr,
    /// To whom, of the same family.
    pub destination: SocketAddr,
}

/// What a packet that is asked about can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedProtocol {
    /// A TCP segment that opens a connection.
    Tcp,
    /// A datagram.
    Udp,
    /// An SCTP packet that opens an association.
    Sctp,
    /// An echo request of the addresses' family.
    Icmp,
}

impl AskedProtocol {
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, source, destination } = self;
        match protocol {
            AskedProtocol::Icmp => write!(f, "icmp {} {}", source.ip(), destination.ip()),
            _ => write!(f, "{} {source} {destination}", protocol.name()),
        }
    }
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write it as 'tcp 198.51.100.7:40000 203.0.113.10:80' (or udp, sctp), \
            'tcp [2001:db8::7]:40000 [2001:db8::80]:80', or 'icmp 198.51.100.7 203.0.113.10'";
        let words: Vec<&str> = text.split_whitespace().collect();
        let [protocol, source, destination] = words[..] else {
            return Err(format!("a packet has a protocol, a source and a destination; {FORM}"));
        };
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => AskedProtocol::Tcp,
            "udp" => AskedProtocol::Udp,
            "sctp" => AskedProtocol::Sctp,
            "icmp" | "icmp6" => AskedProtocol::Icmp,
            other => return Err(format!("{other:?} is no protocol that is forwarded; {FORM}")),
        };
        let end = |text: &str| -> Result<SocketAddr, String> {
            match protocol {
                AskedProtocol::Icmp => text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 0)).ok(),
                _ => text.parse().ok(),
            }
            .ok_or_else(|| format!("{text:?} is no {} end; {FORM}", protocol.name()))
        };
        let (source, destination) = (end(source)?, end(destination)?);
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(format!("{} and {} are of two IP families", source.ip(), destination.ip()));
        }
        Ok(Self { protocol, source, destination })
    }
}

impl TryFrom<String> for Asked {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Asked> for String {
    fn from(asked: Asked) -> Self {
        asked.to_string()
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// What would become of a packet.
    Explained(Box<Explained>),
    /// One packet that was watched.
    Sighting(Box<Sighting>),
    /// The end of a watch.
    Watched(Watched),
    /// One flow.
    Flow(Flow),
    /// How far the look at flows is.
    Progress(Progress),
    /// The end of a look at flows.
    Flows(FlowsFound),
    /// It could not be done.
    Error {
        /// Why, and the mend.
        message: String,
    },
}

impl Reply {
    /// Whether no other line follows for the same request.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        !matches!(self, Self::Sighting(_) | Self::Flow(_) | Self::Progress(_))
    }
}

/// A packet's ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// `tcp`, `udp`, `sctp`, `icmp`, or the number of another IP protocol.
    pub protocol: String,
    /// Address and port.
    pub source: String,
    /// Address and port.
    pub destination: String,
}

/// What would become of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The packet.
    pub packet: String,
    /// The port that it would come in on.
    pub port: String,
    /// The worker that would handle it.
    pub worker: u32,
    /// How it would come there: `one worker`, `rss` or `handoff`.
    pub steering: String,
    /// Generation of the tables that were looked at, and the etcd revision they are of.
    pub generation: u64,
    /// The etcd revision.
    pub revision: i64,
    /// The frontend that it is addressed to.
    pub frontend: Option<Frontend>,
    /// The live flow that it is of.
    pub flow: Option<LiveFlow>,
    /// The verdict by name.
    pub verdict: String,
    /// What the verdict means.
    pub meaning: String,
    /// What to do, where the packet ends here and should not.
    pub mend: Option<String>,
    /// How it goes on, if it does.
    pub course: Option<Course>,
}

/// A frontend and what its Service has for the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontend {
    /// The Service port: NAMESPACE/NAME:PORT-NAME/PROTOCOL/FAMILY.
    pub service: String,
    /// Which face.
    pub kind: FrontendKind,
    /// Whether the client is a pod of the cluster.
    pub client_is_inside: bool,
    /// What new flows of the client meet.
    pub action: Action,
    /// Whom they are chosen from.
    pub set: BackendSet,
    /// How they are carried.
    pub mode: Mode,
    /// Whether source ranges guard this frontend; if so, whether the client is in one.
    pub source_ranges: Option<bool>,
    /// Backends, and how many of them take new flows of the set.
    pub backends: u32,
    /// How many take new flows.
    pub backends_for_new: u32,
    /// Session affinity, if the Service has it.
    pub affinity: Option<Affinity>,
    /// What Maglev says.
    pub maglev: Option<MaglevChoice>,
}

/// Session affinity of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// How long it lasts behind the last new flow.
    pub timeout_s: u32,
    /// The backend that the client was given last, if that is remembered.
    pub backend: Option<String>,
    /// How long ago.
    pub age_ms: Option<u32>,
}

/// A slot of a Maglev table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaglevChoice {
    /// Its number, from 0.
    pub slot: u32,
    /// How many the table has.
    pub slots: u32,
    /// Whose it is.
    pub backend: String,
}

/// A live flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveFlow {
    /// Its state.
    pub state: String,
    /// Which way the packet goes: `to_backend` or `to_client`.
    pub direction: String,
    /// How long it has been silent.
    pub idle_ms: u32,
    /// How long it may be.
    pub timeout_ms: u32,
}

/// How a packet goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Course {
    /// Whether it opens the flow.
    pub is_new: bool,
    /// Whether a flow that has ended or lost its backend makes room for it.
    pub reopens: bool,
    /// The backend.
    pub backend: String,
    /// The address and port that the backend sees as its client's.
    pub seen_as: String,
    /// The packet as it leaves.
    pub leaves_as: Ends,
    /// The outer packet, where it goes on in another.
    pub tunnel: Option<Tunnel>,
    /// Whether the backend is told its client by the PROXY protocol.
    pub proxy_protocol: bool,
    /// Who gets it next.
    pub next_hop: Option<String>,
    /// The port that it leaves through.
    pub out: Option<String>,
    /// Ethernet address of the next hop; none while it is not known, and packets wait for it.
    pub mac: Option<String>,
}

/// An outer packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
}

/// A packet that was watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Which worker saw it.
    pub worker: u32,
    /// Which one it is of those that this worker told.
    pub number: u64,
    /// When, in microseconds since 1970, to a millisecond.
    pub time_us: u64,
    /// Where it came in.
    pub came: Passing,
    /// `wire`, or `worker` if another one handed it over, or `held` if it waited here for its next hop.
    pub from: String,
    /// What it was.
    pub packet: String,
    /// The frontend's Service port.
    pub service: Option<String>,
    /// The flow before: its state, none if there was none.
    pub flow_before: Option<String>,
    /// The flow behind it.
    pub flow_after: Option<String>,
    /// The backend of the flow.
    pub backend: Option<String>,
    /// Its verdicts, with what was held and is let go with it: `held` if it has none yet.
    pub verdicts: Vec<String>,
    /// What left, with answers.
    pub left: Vec<Passing>,
    /// How many more frames left.
    pub left_more: u32,
}

/// A frame at a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passing {
    /// Name of the port.
    pub port: String,
    /// Length of the frame.
    pub frame_bytes: u32,
    /// Its ends, if it has some.
    pub ends: Option<Ends>,
    /// Its first bytes, as hexadecimal digits.
    pub hex: String,
}

/// The end of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Sightings that were told.
    pub told: u64,
    /// Packets that the filter let through and that found no room.
    pub lost: u64,
    /// Why it ended: `count`, `time` or `stopped`.
    pub why: String,
}

/// A live flow in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The worker that has it.
    pub worker: u32,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The client.
    pub client: SocketAddr,
    /// Whom the client addresses.
    pub frontend: SocketAddr,
    /// The Service port that has the frontend now.
    pub service: Option<String>,
    /// The backend.
    pub backend: SocketAddr,
    /// The address and port that the backend sees as its client's.
    pub seen_as: SocketAddr,
    /// Its state.
    pub state: String,
    /// How long it has been silent.
    pub idle_ms: u32,
}

/// How far a look at flows is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Places looked at.
    pub looked_at: u64,
    /// Of so many.
    pub places: u64,
    /// Flows found.
    pub found: u64,
    /// Flows ended.
    pub ended: u64,
}

/// The end of a look at flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsFound {
    /// Flows found.
    pub found: u64,
    /// Flows ended.
    pub ended: u64,
    /// Places that changed while they were looked at, each time.
    pub torn: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read_as_they_are_written() {
        for text in [
            "tcp 198.51.100.7:40000 203.0.113.10:80",
            "udp [2001:db8::7]:5 [2001:db8::80]:53",
            "icmp ::1 ::2",
        ] {
            assert_eq!(text.parse::<Asked>().unwrap().to_string(), text);
        }
        let rows = [
            ("tcp 1.2.3.4:5", "a protocol, a source and a destination"),
            ("gre 1.2.3.4:5 1.2.3.4:5", "no protocol"),
            ("tcp 1.2.3.4 1.2.3.4:5", "no tcp end"),
            ("icmp 1.2.3.4:5 1.2.3.4", "no icmp end"),
            ("udp 1.2.3.4:5 [::1]:5", "two IP families"),
        ];
        for (text, wanted) in rows {
            let error = text.parse::<Asked>().unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn requests_are_lines() {
        let text = r#"{"verb":"explain","packet":"tcp 1.2.3.4:5 6.7.8.9:10","port":null}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert!(serde_json::from_str::<Request>(r#"{"verb":"explain","packet":"x"}"#).is_err());
    }
}
