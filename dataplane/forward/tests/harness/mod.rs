//! A gateway in memory: workers on a [`MemoryNic`], a client, and backends that answer. Every frame that leaves is checked.
#![allow(dead_code)]

pub mod errors;
pub mod fragmented;
pub mod services;
pub mod talk;
pub mod tcp_model;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use turnpike_forward::flow_key::Key;
use turnpike_forward::flow_table::FlowTable;
use turnpike_forward::gateway::{FlowRules, Gateway, GatewayPort, MssClamp};
use turnpike_forward::handoff::Handoff;
use turnpike_forward::hash::Secret;
use turnpike_forward::mailbox::Shared;
use turnpike_forward::neighbour::NextHop;
use turnpike_forward::stage::Staging;
use turnpike_forward::steering::Steering;
use turnpike_forward::verdict::Counters;
use turnpike_forward::worker::Worker;
use turnpike_packet::flight::{self, Flight};
use turnpike_packet::io::{PortInfo, Spread};
use turnpike_packet::memory::{MemoryFrame, MemoryIo, MemoryNic};
use turnpike_wire::update::{
    Backend, BackendState, Commit, Fleet, Frontend, FrontendKey, FrontendKind, Protocol, Service, ServiceKey,
    Tracking, Treatment, Update,
};

pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
pub const CLIENT: &str = "198.51.100.7:40000";
pub const VIP: &str = "203.0.113.80:80";
pub const CLUSTER_IP: &str = "10.96.0.10:80";
pub const SNAT: [u8; 4] = [10, 1, 0, 1];
pub const OWN6: &str = "2001:db8::1";
pub const SNAT6: &str = "2001:db8:1::1";

pub struct Bed {
    pub nic: MemoryNic,
    pub shared: Arc<Shared>,
    pub staging: Staging,
    pub workers: Vec<Worker<'static, MemoryFrame>>,
    ios: Vec<[MemoryIo; 1]>,
    pub now_ms: u32,
    generation: u64,
}

/// Whether a bed speaks IPv6, and how it knows its router.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ipv6 {
    Off,
    Named,
    Heard,
}

/// A flow table in memory that was full of rubbish.
pub fn table<K: Key>(flows: u32, secret: Secret) -> FlowTable<'static, K> {
    let bytes = FlowTable::<K>::memory_bytes(flows);
    let memory: &'static mut [u8] = Box::leak(vec![0xa5; bytes + 64].into_boxed_slice());
    let start = memory.as_ptr().align_offset(64);
    FlowTable::new(&mut memory[start..start + bytes], flows, secret).unwrap()
}

impl Bed {
    /// One worker, a Service `web` with three backends on a VIP and a ClusterIP for TCP and UDP, and a router that is known.
    pub fn new() -> Self {
        let mut bed = Self::bare(1, &Spread::Unknown, 4_096);
        bed.serve(&["10.244.0.1:8080", "10.244.0.2:8080", "10.244.0.3:8080"]);
        bed.know_router();
        bed
    }

    /// Workers without tables.
    pub fn bare(workers: usize, spread: &Spread, flows: u32) -> Self {
        Self::made(workers, spread, flows, 1500, Ipv6::Off, |gateway| gateway)
    }

    /// A worker without tables that announces the addresses it takes up.
    pub fn announcing() -> Self {
        Self::made(1, &Spread::Unknown, 64, 1500, Ipv6::Off, |gateway| gateway.announcing(true))
    }

    /// Workers without tables behind a port with this MTU.
    pub fn on_link(workers: usize, spread: &Spread, flows: u32, mtu: u16, clamp: MssClamp) -> Self {
        Self::made(workers, spread, flows, mtu, Ipv6::Off, |gateway| gateway.with_mss_clamp(clamp))
    }

    /// One worker that speaks both families, under these rules for new flows.
    pub fn under(rules: FlowRules, flows: u32) -> Self {
        Self::dual_under(1, &Spread::Unknown, rules, flows)
    }

    /// Workers that speak both families, each under these rules and with room for so many flows.
    pub fn dual_under(workers: usize, spread: &Spread, rules: FlowRules, flows: u32) -> Self {
        Self::made(workers, spread, flows, 1500, Ipv6::Named, |gateway| gateway.with_flow_rules(rules))
    }

    /// A worker that speaks both families and listens to routers.
    pub fn listening() -> Self {
        Self::made(1, &Spread::Unknown, 4_096, 1_500, Ipv6::Heard, |gateway| gateway)
    }

    /// Workers that speak both families.
    pub fn dual(workers: usize, spread: &Spread, mtu: u16) -> Self {
        Self::made(workers, spread, 4_096, mtu, Ipv6::Named, |gateway| gateway)
    }

    /// Workers without tables that put packets into packets from addresses of this network; they speak both families.
    pub fn tunnelling(network: &str, length: u8) -> Self {
        let network = (network.parse().unwrap(), length);
        Self::made(1, &Spread::Unknown, 4_096, 1500, Ipv6::Named, |gateway| {
            gateway.with_tunnel_sources([network])
        })
    }

    fn made(
        workers: usize,
        spread: &Spread,
        flows: u32,
        mtu: u16,
        ipv6: Ipv6,
        set: impl FnOnce(Gateway) -> Gateway,
    ) -> Self {
        let info = PortInfo { mac: MAC, mtu, spread: spread.clone() };
        let (mut addresses, mut snat) = (vec![([192, 0, 2, 1].into(), 24)], vec![SNAT.into()]);
        let is_dual = ipv6 != Ipv6::Off;
        if is_dual {
            addresses.push((OWN6.parse().unwrap(), 64));
            snat.push(SNAT6.parse().unwrap());
        }
        let port = GatewayPort {
            mac: MAC,
            addresses,
            gateway: Some([192, 0, 2, 254].into()),
            gateway6: (ipv6 == Ipv6::Named).then(|| "fe80::fe".parse().unwrap()),
            hears_routers: ipv6 == Ipv6::Heard,
            routes: vec![],
            steering: Steering::of(spread, workers),
            mtu,
        };
        let gateway = Gateway::new(vec![port], &snat, workers).unwrap();
        Self::of(set(gateway), info, flows)
    }

    /// The workers of a gateway whose ports have one device.
    pub fn of(gateway: Gateway, info: PortInfo, flows: u32) -> Self {
        let workers = gateway.workers();
        let shared = Shared::new(gateway);
        let secret = Secret::new([11, 22, 33, 44]);
        let nic = MemoryNic::new(info, workers);
        let made = Handoff::mesh(workers).into_iter().enumerate().map(|(id, handoff)| {
            let worker = Worker::new(id, shared.clone(), table(flows, secret), handoff, secret);
            if shared.gateway.speaks_ipv6() { worker.with_ipv6(table(flows, secret)) } else { worker }
        });
        Self {
            workers: made.collect(),
            ios: (0..workers).map(|w| [nic.io(w)]).collect(),
            nic,
            shared,
            staging: Staging::new(),
            now_ms: 1_000,
            generation: 0,
        }
    }

    /// Commits a transaction and lets the workers adopt it.
    pub fn commit(&mut self, updates: &[Update]) {
        for update in updates {
            assert!(self.staging.take(update.clone()).is_none());
        }
        self.generation += 1;
        let commit = Commit { generation: self.generation, revision: 1, records: updates.len() as u64 };
        let tables = self.staging.take(Update::Commit(commit)).unwrap().unwrap();
        let serial = tables.serial;
        self.shared.publish(tables);
        self.turn();
        assert_eq!(self.shared.adopted_serial(), serial);
    }

    /// Serves `web` with these backends.
    pub fn serve(&mut self, backends: &[&str]) {
        let mut updates =
            vec![Update::Reset, Update::PutFleet(Fleet { maglev_key: [5, 6], node_ports: (30_000, 32_767) })];
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let key = ServiceKey(format!("default/web:http/{protocol}"));
            updates.push(Update::PutService(Service {
                key: key.clone(),
                affinity_timeout_s: 0,
                source_ranges: vec![],
                tracking: Tracking::default(),
                proxy_protocol: false,
            }));
            for backend in backends {
                let address = backend.parse().unwrap();
                updates.push(Update::PutBackend(
                    key.clone(),
                    Backend {
                        address,
                        weight: 1,
                        state: BackendState::Ready,
                        in_cluster_set: true,
                        in_local_set: true,
                        serving: true,
                    },
                ));
            }
            for (address, kind) in [(VIP, FrontendKind::LoadBalancer), (CLUSTER_IP, FrontendKind::ClusterIp)]
            {
                let address: SocketAddr = address.parse().unwrap();
                let frontend = FrontendKey { address: address.ip(), port: address.port(), protocol };
                updates.push(Update::PutFrontend(Frontend {
                    key: frontend,
                    service: key.clone(),
                    kind,
                    outside: Treatment::FORWARD,
                    inside: Treatment::FORWARD,
                }));
            }
        }
        self.commit(&updates);
    }

    /// The router has answered ARP and neighbour discovery.
    pub fn know_router(&mut self) {
        for address in ["192.0.2.254", "fe80::fe"] {
            let router = NextHop { port: 0, address: address.parse::<IpAddr>().unwrap().into() };
            assert!(self.shared.neighbours.index(router).is_some());
            assert!(self.shared.neighbours.learn(router, ROUTER_MAC, self.now_ms));
        }
        self.take();
    }

    /// Every worker turns until none finds anything to do.
    pub fn turn(&mut self) {
        loop {
            let mut handled = 0;
            for (worker, io) in self.workers.iter_mut().zip(&mut self.ios) {
                handled += worker.turn(io, self.now_ms);
            }
            if handled == 0 {
                return;
            }
        }
    }

    /// Time passes in small steps.
    pub fn pass(&mut self, ms: u32) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.now_ms = (self.now_ms + 500).min(end);
            self.turn();
        }
    }

    /// What has left; each frame is checked.
    pub fn take(&self) -> Vec<Vec<u8>> {
        let sent = self.nic.take_sent();
        for frame in &sent {
            assert_eq!(flight::check(frame), Ok(()), "{frame:02x?}");
        }
        sent
    }

    /// Sends frames in one burst and gives what comes out.
    pub fn exchange(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        frames.iter().for_each(|f| self.nic.inject(f));
        self.turn();
        self.take()
    }

    /// Sends one frame that must be forwarded and gives what comes out.
    #[track_caller]
    pub fn pass_through(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut out = self.exchange(&[frame.to_vec()]);
        assert_eq!(out.len(), 1, "{:?}", self.counts());
        out.remove(0)
    }

    /// Counters of all workers that are not zero, without those that every turn moves.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for worker in &self.workers {
            for (name, &value) in Counters::names().zip(worker.counters().values()) {
                if value != 0 && !name.ends_with("_turns") {
                    *counts.entry(name).or_default() += value;
                }
            }
        }
        counts
    }
}

/// From the client to a frontend.
pub fn to(frontend: &str) -> Flight {
    from(CLIENT, frontend)
}

/// From a client to a frontend, through the router.
pub fn from(client: &str, frontend: &str) -> Flight {
    Flight {
        source_mac: ROUTER_MAC,
        destination_mac: MAC,
        source: client.parse().unwrap(),
        destination: frontend.parse().unwrap(),
    }
}

/// Addresses and ports of a frame with TCP, UDP or SCTP.
#[track_caller]
pub fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    flight::ends(frame).unwrap_or_else(|| panic!("no ends in {frame:02x?}"))
}

/// The flight of a backend's answer to a frame that it got.
pub fn answer_to(frame: &[u8]) -> Flight {
    let (source, destination) = ends(frame);
    Flight { source_mac: ROUTER_MAC, destination_mac: MAC, source: destination, destination: source }
}

impl Bed {
    /// Puts the same workers on a NIC that spreads in another way than they were told.
    pub fn replace_nic(&mut self, spread: &Spread) {
        let info = PortInfo { mac: MAC, mtu: 1500, spread: spread.clone() };
        self.nic = MemoryNic::new(info, self.workers.len());
        self.ios = (0..self.workers.len()).map(|w| [self.nic.io(w)]).collect();
    }
}
