//! How long resolution takes: `cargo run --release -p turnpike-desired --example scale [SERVICES [ENDPOINTS_OF_EACH]]`.
//!
//! Prints the time from a full list to a first state with its snapshot, then of single changes: one endpoint, one new Service.
#![forbid(unsafe_code)]

use std::error::Error;
use std::time::{Duration, Instant};
use turnpike_desired::diff::{diff, snapshot};
use turnpike_desired::envelope;
use turnpike_desired::k8s::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, ObjectMeta, ObjectReference, Service,
    ServicePort,
};
use turnpike_desired::object::{Kind, Object};
use turnpike_desired::registry::Registry;
use turnpike_desired::resolve::Resolver;
use turnpike_desired::settings::Settings;
use turnpike_desired::tracker::{RegistryEvent, Tracker};
use turnpike_wire::update::Fleet;

/// Single changes of each sort.
const CHANGES: usize = 2000;

fn meta(name: String) -> ObjectMeta {
    ObjectMeta { namespace: "scale".into(), name, ..Default::default() }
}

fn service(n: usize) -> Service {
    let address = format!("10.{}.{}.{}", 96 + n / 60_000, n / 240 % 250, n % 240 + 1);
    let mut service = Service { metadata: meta(format!("s{n}")), ..Default::default() };
    service.spec.r#type = "ClusterIP".into();
    service.spec.cluster_ips = vec![address.clone()];
    service.spec.cluster_ip = address;
    service.spec.ip_families = vec!["IPv4".into()];
    let port = ServicePort { name: "http".into(), protocol: "TCP".into(), port: 80, ..Default::default() };
    service.spec.ports = vec![port];
    service
}

/// The slice of Service `n`; `round` moves its first endpoint.
fn slice(n: usize, endpoints: usize, round: usize) -> EndpointSlice {
    let mut slice = EndpointSlice {
        metadata: meta(format!("s{n}-1")),
        address_type: "IPv4".into(),
        ..Default::default()
    };
    slice.metadata.labels.insert("kubernetes.io/service-name".into(), format!("s{n}"));
    let (name, protocol) = (Some("http".into()), Some("TCP".into()));
    slice.ports = vec![EndpointPort { name, protocol, port: Some(8080), app_protocol: None }];
    slice.endpoints = (0..endpoints)
        .map(|e| {
            let at = n * endpoints + e;
            let address = if e == 0 && round != 0 {
                format!("172.{}.{}.{}", 16 + round / 62_500 % 8, round / 250 % 250, round % 250 + 1)
            } else {
                format!("10.{}.{}.{}", 128 + at / 62_500, at / 250 % 250, at % 250 + 1)
            };
            Endpoint {
                addresses: vec![address],
                conditions: EndpointConditions { ready: Some(true), ..Default::default() },
                node_name: Some(format!("node-{}", at % 500)),
                zone: Some(format!("zone-{}", at % 3)),
                target_ref: Some(ObjectReference {
                    kind: "Pod".into(),
                    name: format!("pod-{at}"),
                    ..Default::default()
                }),
                ..Default::default()
            }
        })
        .collect();
    slice
}

fn put(tracker: &mut Tracker, registry: &Registry, object: &Object, revision: i64) {
    let (key, value) = (registry.key(object.kind(), &object.key()), envelope::encode(object));
    tracker.apply(&RegistryEvent { key: key.as_bytes(), value: Some(&value), mod_revision: revision });
}

/// Prints the middle, the 99th of a hundred, and the worst.
fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    let worst = times.last().copied().unwrap_or_default();
    println!("{what}: median {:?}, p99 {:?}, worst {worst:?}", at(50), at(99));
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let services: usize = arguments.next().map_or(Ok(10_000), |text| text.parse())?;
    let endpoints: usize = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let registry = Registry::new("/registry");
    let mut tracker = Tracker::new(registry.clone(), &[Kind::Service, Kind::EndpointSlice]);
    tracker.replace_all(Kind::Service, []);
    tracker.replace_all(Kind::EndpointSlice, []);
    let mut revision = 1;
    let started = Instant::now();
    for n in 0..services {
        put(&mut tracker, &registry, &service(n).into(), revision);
        put(&mut tracker, &registry, &slice(n, endpoints, 0).into(), revision + 1);
        revision += 2;
    }
    println!(
        "{services} Services of {endpoints} endpoints made, encoded and tracked: {:?}",
        started.elapsed()
    );

    let settings = Settings { node_name: "node-7".into(), zone: "zone-1".into(), ..Default::default() };
    let mut resolver = Resolver::new(settings);
    let started = Instant::now();
    let mut state = resolver.resolve(&mut tracker).ok_or("not listed")?;
    println!("cold: resolved in {:?}", started.elapsed());
    let started = Instant::now();
    let updates = snapshot(&state, Fleet { maglev_key: [1, 2], node_ports: (30000, 32767) });
    println!("snapshot: {} updates in {:?}", updates.len(), started.elapsed());

    for (what, first) in [("one endpoint", 0), ("one new Service", services)] {
        let (mut resolving, mut differing) = (Vec::new(), Vec::new());
        let mut told = 0;
        for round in 1..=CHANGES {
            revision += 1;
            if first == 0 {
                let moved = slice(round * 7 % services, endpoints, round);
                put(&mut tracker, &registry, &moved.into(), revision);
            } else {
                put(&mut tracker, &registry, &service(first + round).into(), revision);
            }
            let started = Instant::now();
            let new = resolver.resolve(&mut tracker).ok_or("not listed")?;
            let problems = resolver.problems();
            resolving.push(started.elapsed());
            let started = Instant::now();
            told += diff(&state, &new).len();
            differing.push(started.elapsed());
            state = new;
            if let Some(problem) = problems.first() {
                return Err(problem.to_string().into());
            }
        }
        println!("{what}: {CHANGES} times, {told} updates");
        tell("  resolve", resolving);
        tell("  diff", differing);
    }
    Ok(())
}
