//! The Services that are there, drawn anew again and again, and the clients that talk to them.

use crate::dice::Dice;
use crate::frames::Tuple;
use crate::harness::services::Port;
use crate::nat::{Nat, Rule};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use turnpike_packet::ipv4::{SCTP, TCP, UDP};
use turnpike_wire::update::FrontendKind::{ClusterIp, LoadBalancer};
use turnpike_wire::update::{Action, BackendSet, Midstream, Mode, Protocol, Tracking, Treatment};

/// Clients with one port and one frontend each.
pub const TALKS: usize = 4_096;
/// Hosts with backends.
const HOSTS: u8 = 5;

/// Where Services are: name, protocol, address over IPv4 and over IPv6, whether these are ClusterIPs.
const FRONTENDS: [(&str, Protocol, [&str; 2], bool); 10] = [
    ("web", Protocol::Tcp, ["203.0.113.80:80", "[2001:db8:80::80]:80"], false),
    ("tls", Protocol::Tcp, ["203.0.113.80:443", "[2001:db8:80::80]:443"], false),
    ("api", Protocol::Tcp, ["10.96.0.10:443", "[fd96::10]:443"], true),
    ("old", Protocol::Tcp, ["203.0.113.81:8080", "[2001:db8:80::81]:8080"], false),
    ("dns", Protocol::Udp, ["203.0.113.80:53", "[2001:db8:80::80]:53"], false),
    ("log", Protocol::Udp, ["10.96.0.10:514", "[fd96::10]:514"], true),
    ("ntp", Protocol::Udp, ["203.0.113.82:123", "[2001:db8:80::82]:123"], false),
    ("sig", Protocol::Sctp, ["203.0.113.83:36412", "[2001:db8:80::83]:36412"], false),
    ("dia", Protocol::Sctp, ["10.96.0.11:3868", "[fd96::11]:3868"], true),
    ("bye", Protocol::Tcp, ["203.0.113.84:80", "[2001:db8:80::84]:80"], false),
];

/// Services that sometimes keep clients with their backends, and for how many seconds.
const STICKY: [(&str, u32); 3] = [("tls", 60), ("dns", 10_800), ("dia", 240)];

/// The sources that may come to `old`.
const GUARDED: [&str; 2] = ["198.51.100.0/27", "2001:db8:c::/59"];

const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Sctp => SCTP,
    }
}

/// Rules drawn anew, for the model and for the workers.
pub fn rules(dice: &mut Dice, nat: &mut Nat) -> Vec<Port> {
    let mut ports = Vec::new();
    nat.rules.clear();
    for (family, (name, protocol, at, is_cluster_ip)) in
        FRONTENDS.into_iter().flat_map(|frontend| [(0, frontend), (1, frontend)])
    {
        let at = at[family];
        let tracking = Tracking {
            tcp_established_s: dice.one_of(&[7_440, 10_000]),
            tcp_transitory_s: dice.one_of(&[240, 300]),
            udp_s: dice.one_of(&[120, 300]),
            midstream: dice.one_of(&[Midstream::Reset, Midstream::Drop, Midstream::Forward]),
        };
        let action =
            dice.one_of(&[[Action::Forward; 6].as_slice(), &[Action::Reject, Action::Drop]].concat());
        let mode = dice.one_of(&[Mode::Nat, Mode::Dnat]);
        let treatment = Treatment { action, set: BackendSet::Cluster, mode };
        let rows: Vec<(String, &str)> = (1..=HOSTS)
            .filter(|_| !dice.clone().once_in(50) && dice.below(3) > 0)
            .map(|host| {
                let at = [format!("10.244.0.{host}:8080"), format!("[fd00::{host}]:8080")];
                let [v4, v6] = at;
                (if family == 0 { v4 } else { v6 }, if host == HOSTS { "s" } else { "cls" })
            })
            .collect();
        let is_sticky = dice.below(3) > 0;
        let sticky = STICKY.iter().find(|(of, _)| is_sticky && *of == name);
        let affinity_s = sticky.map_or(0, |(_, seconds)| *seconds);
        let sources = (name == "old").then_some(GUARDED[family]);
        let kind = if is_cluster_ip { ClusterIp } else { LoadBalancer };
        let borrowed: Vec<(&str, &str)> = rows.iter().map(|(at, how)| (&at[..], *how)).collect();
        let mut port = Port::new(&format!("{name}{family}"), protocol, &[])
            .backends(&borrowed)
            .with(at, kind, treatment, treatment);
        if let Some(sources) = sources {
            port = port.guarded(&[sources]);
        }
        ports.push(port.tracked(tracking).sticky(affinity_s));
        let backends =
            rows.iter().map(|(at, how)| (at.parse().unwrap(), (how.contains('c'), how.contains('s'))));
        let (backends, sources) = (backends.collect(), sources.map(|s| s.parse().unwrap()));
        let rule = Rule { is_cluster_ip, action, mode, sources, affinity_s, tracking, backends };
        nat.rules.insert((protocol_number(protocol), at.parse().unwrap()), rule);
    }
    ports
}

/// The `n`th client and whom it talks to: many outside, some that are pods and backends themselves. From one port of a client come as many talks
/// as there are frontends of its family, so that backends meet it by several ways, and each has three ports or more.
pub fn talk(n: usize) -> Tuple {
    let (family, frontend, client) = (n % 2, n / 2 % FRONTENDS.len(), n / 2 / FRONTENDS.len());
    let (_, protocol, at, _) = FRONTENDS[frontend];
    let host = client as u16 / 3;
    let pod = 1 + host / 8 % 4;
    let address = match (host % 8, family) {
        (0, 0) => Ipv4Addr::new(10, 244, 0, pod as u8).into(),
        (1, 0) => Ipv4Addr::new(10, 244, 3, host as u8).into(),
        (_, 0) => Ipv4Addr::new(198, 51, 100, host as u8).into(),
        (0, _) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, pod).into(),
        (1, _) => Ipv6Addr::new(0xfd00, 0, 0, 3, 0, 0, 0, host).into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, 0xc, host, 0, 0, 0, 7).into(),
    };
    let source = SocketAddr::new(address, 1 + (client as u16).wrapping_mul(251));
    Tuple { protocol: protocol_number(protocol), source, destination: at[family].parse().unwrap() }
}
