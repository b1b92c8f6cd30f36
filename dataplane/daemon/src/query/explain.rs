//! `turnpike explain`: from a question to a worker's answer, and that in words.

use super::{Errands, Sources};
use std::net::SocketAddr;
use turnpike_forward::address::Address;
use turnpike_forward::affinity::Client;
use turnpike_forward::explain::{Answer, Explanation, Outcome, Question, Task, Tuple};
use turnpike_forward::flow_key::{FlowKey, FlowKey6, Key};
use turnpike_forward::select::Chooser;
use turnpike_forward::track::Direction;
use turnpike_forward::verdict::Verdict;
use turnpike_packet::flight::Flight;
use turnpike_packet::tcp::flags::SYN;
use turnpike_packet::{ipv4, sctp, tcp, udp};
use turnpike_wire::dataplane::{
    Affinity, Asked, AskedProtocol, Course, Ends, Explained, Frontend, LiveFlow, MaglevChoice, Tunnel,
};
use turnpike_wire::update::FrontendKind;
use turnpike_wire::verdicts::text_of;

/// Of nobody; a packet's Ethernet source decides nothing.
const SOME_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0];

/// What would become of a packet, or why that cannot be told.
pub(super) fn explain(
    sources: &Sources,
    errands: &Errands,
    asked: Asked,
    port: Option<&str>,
) -> Result<Explained, String> {
    let gateway = &sources.shared.gateway;
    let port = match port {
        Some(name) => sources.ports.iter().position(|port| port == name).ok_or_else(|| {
            format!("there is no port {name}; those of this gateway are {}", sources.ports.join(", "))
        })?,
        None => {
            let source = Address::from(asked.source.ip());
            let hop = sources.shared.route(source).ok_or_else(|| {
                format!(
                    "no port leads to {}; say on which one the packet comes in with --port",
                    asked.source.ip()
                )
            })?;
            usize::from(hop.port)
        }
    };
    let Some(mac) = gateway.ports().get(port).map(|port| port.mac) else {
        return Err("the gateway has no such port".into());
    };
    let tuple = tuple(&asked);
    let (worker, steering) = owner(sources, port, &tuple);
    let question = Question { port, frame: frame(&asked, mac) };
    let explanation =
        errands.run(&sources.shared, worker, Task::Explain(question), |errand| match errand.answer() {
            Some(Answer::Explained(explanation)) => Some(explanation.clone()),
            _ => None,
        })?;
    Ok(told(sources, &asked, &tuple, (port, worker, steering), &explanation))
}

/// The first packet of what is asked about.
fn frame(asked: &Asked, destination_mac: [u8; 6]) -> Vec<u8> {
    let Asked { source, destination, .. } = *asked;
    let flight = Flight { source_mac: SOME_MAC, destination_mac, source, destination };
    match asked.protocol {
        AskedProtocol::Tcp => tcp::segment(&flight, 1, 0, SYN, b""),
        AskedProtocol::Udp => udp::datagram(&flight, b"?"),
        AskedProtocol::Sctp => sctp::packet(&flight, 0, &[(sctp::chunk::INIT, 0, &sctp::init(1, 1))]),
        AskedProtocol::Icmp => flight.echo_request(1, 1, b"?"),
    }
}

fn tuple(asked: &Asked) -> Tuple {
    let protocol = match asked.protocol {
        AskedProtocol::Tcp => ipv4::TCP,
        AskedProtocol::Udp => ipv4::UDP,
        AskedProtocol::Sctp => ipv4::SCTP,
        AskedProtocol::Icmp => ipv4::ICMP,
    };
    let end = |end: SocketAddr| (Address::from(end.ip()), end.port());
    Tuple { protocol, source: end(asked.source), destination: end(asked.destination) }
}

/// The worker that gets a packet, and how.
fn owner(sources: &Sources, port: usize, tuple: &Tuple) -> (usize, &'static str) {
    let gateway = &sources.shared.gateway;
    let steering = &gateway.ports()[port].steering;
    if gateway.workers() == 1 {
        return (0, "one worker");
    }
    let family = tuple.source.0.family();
    let how = if steering.is_by_program(family) { "handoff" } else { "rss" };
    let owner = match (tuple.key::<FlowKey>(), tuple.key::<FlowKey6>()) {
        (Some(key), _) => steering.owner(key, gateway, &sources.secret),
        (None, Some(key)) => steering.owner(key, gateway, &sources.secret),
        (None, None) => 0,
    };
    (owner, how)
}

fn told(
    sources: &Sources,
    asked: &Asked,
    tuple: &Tuple,
    (port, worker, steering): (usize, usize, &str),
    explanation: &Explanation,
) -> Explained {
    let Explanation { tables, now_ms, outcome, .. } = explanation;
    let (course, verdict, client) = match outcome {
        Outcome::Live { course, .. } | Outcome::New { course, .. } => {
            (Some(course), Verdict::Forwarded, course.client)
        }
        Outcome::Ends(verdict) => (None, *verdict, *tuple),
    };
    let chooser = Chooser {
        tables,
        shared: &sources.shared,
        secret: &sources.secret,
        worker,
        now_ms: *now_ms,
        is_trial: true,
    };
    let frontend = match (client.key::<FlowKey>(), client.key::<FlowKey6>()) {
        (Some(key), _) => frontend(&chooser, key),
        (None, Some(key)) => frontend(&chooser, key),
        (None, None) => None,
    };
    let flow = match outcome {
        Outcome::Live { course, state, idle_ms, timeout_ms } => Some(LiveFlow {
            state: state.name().into(),
            direction: match course.direction {
                Direction::Forward => "to_backend".into(),
                Direction::Reply => "to_client".into(),
            },
            idle_ms: *idle_ms,
            timeout_ms: *timeout_ms,
        }),
        _ => None,
    };
    let waits = course.is_some_and(|course| course.mac.is_none());
    let port_name = |port: usize| sources.ports.get(port).cloned().unwrap_or_else(|| port.to_string());
    Explained {
        packet: asked.to_string(),
        port: port_name(port),
        worker: worker as u32,
        steering: steering.into(),
        generation: tables.generation,
        revision: tables.revision,
        frontend,
        flow,
        verdict: verdict.name().into(),
        meaning: text_of(verdict.name()).map_or_else(|| verdict.meaning().trim(), |text| text.meaning).into(),
        mend: match waits {
            true => mend(Verdict::NextHopUnresolved),
            false => mend(verdict),
        }
        .map(str::to_owned),
        course: course.map(|course| Course {
            is_new: matches!(outcome, Outcome::New { .. }),
            reopens: matches!(outcome, Outcome::New { reopens: true, .. }),
            backend: end(course.backend()),
            seen_as: end(if course.is_one_way { course.client.source } else { course.reply.destination }),
            leaves_as: ends(&course.leaves_as()),
            tunnel: course.is_one_way.then(|| Tunnel {
                source: course.reply.destination.0.ip(),
                destination: course.reply.source.0.ip(),
            }),
            proxy_protocol: course.is_prefaced,
            next_hop: course.next_hop.map(|hop| hop.address.ip().to_string()),
            out: course.next_hop.map(|hop| port_name(usize::from(hop.port))),
            mac: course.mac.map(crate::open_io::mac_text),
        }),
    }
}

/// What to do about a packet that got nowhere; none where nothing is wrong.
fn mend(verdict: Verdict) -> Option<&'static str> {
    text_of(verdict.name()).filter(|text| text.is_drop).map(|text| text.mend)
}

/// What a client meets at the frontend that its packets are addressed to.
fn frontend<K: Key>(chooser: &Chooser<'_>, key: K) -> Option<Frontend> {
    let tables = chooser.tables;
    let entry = tables.frontend(key)?;
    let service = tables.service(entry.service)?;
    let treatment = chooser.treatment(entry, key);
    let source = key.source_address();
    let is_guarded = entry.kind == FrontendKind::LoadBalancer && service.sources.has(K::FAMILY);
    let affinity = (service.affinity_timeout_s > 0).then(|| {
        let client = Client { service: service.id, address: source };
        let affinities = &chooser.shared.affinities;
        let remembered =
            affinities.remembered(client, service.affinity_timeout_s, chooser.now_ms, chooser.secret);
        let backend = remembered.and_then(|((handle, port), _)| service.backend_called(handle, port));
        Affinity {
            timeout_s: service.affinity_timeout_s,
            backend: backend.map(|backend| end((backend.address, backend.port))),
            age_ms: remembered.map(|(_, age_ms)| age_ms),
        }
    });
    let slot = service.slot(treatment.set, key, &tables.maglev_key);
    Some(Frontend {
        service: service.key.0.clone(),
        kind: entry.kind,
        client_is_inside: tables.networks().pods.contains(source),
        action: treatment.action,
        set: treatment.set,
        mode: treatment.mode,
        source_ranges: is_guarded.then(|| service.sources.contains(source)),
        backends: service.backends.len() as u32,
        backends_for_new: service.backends.iter().filter(|b| b.takes_new(treatment.set)).count() as u32,
        affinity,
        maglev: slot.map(|(slot, slots, backend)| MaglevChoice {
            slot,
            slots,
            backend: end((backend.address, backend.port)),
        }),
    })
}

/// An address and port in words.
pub(super) fn end((address, port): (Address, u16)) -> String {
    SocketAddr::new(address.ip(), port).to_string()
}

/// A tuple in words.
pub(super) fn ends(tuple: &Tuple) -> Ends {
    Ends {
        protocol: protocol_name(tuple.protocol),
        source: end(tuple.source),
        destination: end(tuple.destination),
    }
}

/// An IP protocol in words.
pub(super) fn protocol_name(protocol: u8) -> String {
    match protocol {
        ipv4::TCP => "tcp".into(),
        ipv4::UDP => "udp".into(),
        ipv4::SCTP => "sctp".into(),
        ipv4::ICMP | turnpike_packet::ipv6::ICMP => "icmp".into(),
        other => other.to_string(),
    }
}
