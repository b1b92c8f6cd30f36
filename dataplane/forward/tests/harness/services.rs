//! Services as rows, and what a client of theirs sees.

use super::{Bed, ends, from};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use turnpike_packet::tcp::{self, flags};
use turnpike_packet::udp;
use turnpike_wire::update::{
    Action, Backend, BackendSet, BackendState, Cluster, Fleet, Frontend, FrontendKey, FrontendKind, Mode,
    Protocol, Service, ServiceKey, Tracking, Treatment, Update,
};

pub const NODE_PORT: &str = "192.0.2.1:30080";
pub const EXTERNAL_IP: &str = "203.0.113.90:80";
pub const LOCAL: Treatment = Treatment { action: Action::Forward, set: BackendSet::Local, mode: Mode::Dnat };
pub const DNAT: Treatment = Treatment { action: Action::Forward, set: BackendSet::Cluster, mode: Mode::Dnat };
pub const DIRECT: Treatment =
    Treatment { action: Action::Forward, set: BackendSet::Cluster, mode: Mode::DsrIpip };
pub const REJECT: Treatment = Treatment { action: Action::Reject, set: BackendSet::Cluster, mode: Mode::Nat };
pub const DROP: Treatment = Treatment { action: Action::Drop, set: BackendSet::Cluster, mode: Mode::Nat };

/// Where backends are and in what they take part: `c` the Cluster set, `l` the Local set, `s` serving, `t` terminating.
pub fn backend(address: &str, how: &str) -> Backend {
    Backend {
        address: address.parse().unwrap(),
        weight: 1,
        state: if how.contains('t') { BackendState::Terminating } else { BackendState::Ready },
        in_cluster_set: how.contains('c'),
        in_local_set: how.contains('l'),
        serving: how.contains('s'),
    }
}

/// One Service port with its frontends.
#[derive(Clone)]
pub struct Port {
    pub name: String,
    pub protocol: Protocol,
    pub affinity_timeout_s: u32,
    pub source_ranges: Vec<String>,
    pub tracking: Tracking,
    pub proxy_protocol: bool,
    pub backends: Vec<Backend>,
    pub frontends: Vec<(String, FrontendKind, Treatment, Treatment)>,
}

impl Port {
    /// A Service port whose backends are all in both sets.
    pub fn new(name: &str, protocol: Protocol, backends: &[&str]) -> Self {
        Self {
            name: name.into(),
            protocol,
            affinity_timeout_s: 0,
            source_ranges: Vec::new(),
            tracking: Tracking::default(),
            proxy_protocol: false,
            backends: backends.iter().map(|a| backend(a, "cls")).collect(),
            frontends: Vec::new(),
        }
    }

    pub fn on(self, address: &str, kind: FrontendKind) -> Self {
        self.with(address, kind, Treatment::FORWARD, Treatment::FORWARD)
    }

    pub fn with(mut self, address: &str, kind: FrontendKind, outside: Treatment, inside: Treatment) -> Self {
        self.frontends.push((address.into(), kind, outside, inside));
        self
    }

    pub fn sticky(mut self, timeout_s: u32) -> Self {
        self.affinity_timeout_s = timeout_s;
        self
    }

    pub fn guarded(mut self, ranges: &[&str]) -> Self {
        self.source_ranges = ranges.iter().map(|r| (*r).to_owned()).collect();
        self
    }

    /// Whose backends are told their clients.
    pub fn prefaced(mut self) -> Self {
        self.proxy_protocol = true;
        self
    }

    pub fn tracked(mut self, tracking: Tracking) -> Self {
        self.tracking = tracking;
        self
    }

    pub fn backends(mut self, rows: &[(&str, &str)]) -> Self {
        self.backends = rows.iter().map(|(address, how)| backend(address, how)).collect();
        self
    }

    pub fn key(&self) -> ServiceKey {
        ServiceKey(format!("default/{}:/{}/IPv4", self.name, self.protocol))
    }

    pub fn updates(&self) -> Vec<Update> {
        let key = self.key();
        let mut updates = vec![Update::PutService(Service {
            key: key.clone(),
            affinity_timeout_s: self.affinity_timeout_s,
            source_ranges: self.source_ranges.iter().map(|r| r.parse().unwrap()).collect(),
            tracking: self.tracking,
            proxy_protocol: self.proxy_protocol,
        })];
        updates.extend(self.backends.iter().map(|b| Update::PutBackend(key.clone(), *b)));
        for (address, kind, outside, inside) in &self.frontends {
            updates.push(Update::PutFrontend(Frontend {
                key: frontend_key(address, self.protocol),
                service: key.clone(),
                kind: *kind,
                outside: *outside,
                inside: *inside,
            }));
        }
        updates
    }
}

pub fn frontend_key(address: &str, protocol: Protocol) -> FrontendKey {
    let address: SocketAddr = address.parse().unwrap();
    FrontendKey { address: address.ip(), port: address.port(), protocol }
}

/// Services in 10.96.0.0/16 and fd96::/112, pods in 10.244.0.0/16 and fd00::/16.
pub fn cluster() -> Update {
    Update::PutCluster(Cluster {
        service_networks: vec!["10.96.0.0/16".parse().unwrap(), "fd96::/112".parse().unwrap()],
        pod_networks: vec!["10.244.0.0/16".parse().unwrap(), "fd00::/16".parse().unwrap()],
        ..Default::default()
    })
}

impl Bed {
    /// These Services and no others, by a snapshot, and time for the clean-up that may follow.
    pub fn put(&mut self, ports: &[Port]) {
        let mut updates = vec![
            Update::Reset,
            Update::PutFleet(Fleet { maglev_key: [5, 6], node_ports: (30_000, 32_767) }),
            cluster(),
        ];
        updates.extend(ports.iter().flat_map(Port::updates));
        self.commit(&updates);
        self.know_router();
        self.settle();
    }

    /// Idle turns enough for a walk over every flow.
    pub fn settle(&mut self) {
        (0..16).for_each(|_| self.turn());
    }

    /// A client's first segment; the backend it went to, and from whom as the backend sees it.
    pub fn connect(&mut self, client: &str, frontend: &str) -> Option<(SocketAddr, SocketAddr)> {
        let frame = tcp::segment(&from(client, frontend), 1, 0, flags::SYN, b"");
        self.outcome(&frame, client)
    }

    /// A segment of an open connection.
    pub fn go_on(&mut self, client: &str, frontend: &str) -> Option<(SocketAddr, SocketAddr)> {
        let frame = tcp::segment(&from(client, frontend), 2, 1, flags::ACK, b"data");
        self.outcome(&frame, client)
    }

    /// A datagram.
    pub fn ask(&mut self, client: &str, frontend: &str) -> Option<(SocketAddr, SocketAddr)> {
        self.outcome(&udp::datagram(&from(client, frontend), b"query"), client)
    }

    /// Source and destination with which a frame was sent on; none when it was not, or only answered.
    fn outcome(&mut self, frame: &[u8], client: &str) -> Option<(SocketAddr, SocketAddr)> {
        let client: SocketAddr = client.parse().unwrap();
        self.know_router();
        let sent = self.exchange(&[frame.to_vec()]);
        let on = sent.iter().find(|f| f[23] != 1 && ends(f).1 != client);
        on.map(|f| ends(f))
    }

    /// The backend of a client's new connection, as text.
    #[track_caller]
    pub fn backend_of(&mut self, client: &str, frontend: &str) -> String {
        let (_, backend) = self.connect(client, frontend).unwrap_or_else(|| panic!("{:?}", self.counts()));
        backend.to_string()
    }

    /// The backends of a hundred new connections of one client.
    pub fn backends_of(&mut self, client_ip: &str, frontend: &str, first_port: u16) -> BTreeSet<String> {
        (0..100).map(|n| self.backend_of(&format!("{client_ip}:{}", first_port + n), frontend)).collect()
    }

    /// How one counter stands.
    pub fn count(&self, name: &str) -> u64 {
        self.counts().get(name).copied().unwrap_or(0)
    }
}
