//! The names of a real cluster, through its whole recorded life: after each of its 54 steps every Service has the names that the API's objects
//! ask for, and those that are gone have none.

use crate::asking::{free_port, tcp};
use crate::bed::cluster::{Replay, Step, restored, steps};
use crate::bed::wait;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use turnpike_controlplane::etcd::client::Connector;
use turnpike_controlplane::etcd::source;
use turnpike_controlplane::state::State;
use turnpike_desired::k8s::{EndpointSlice, Service};
use turnpike_desired::object::{Object, ObjectKey};
use turnpike_wire::config::Config;

/// By name and type: the data of the records; none: there is no such name.
type Expected = BTreeMap<(String, RecordType), Option<BTreeSet<String>>>;

#[test]
fn rule_d1_names_of_a_real_cluster_follow_its_life() {
    let (etcd, port) = (restored(), free_port());
    // Without the rest of a control plane, which would write into this etcd and take the recorded revisions.
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[gateway]\nstate_dir = {:?}\n[cluster]\nmode = \"kubernetes\"\n{}[dns]\nlisten = [\"127.0.0.1:{port}\"]\n",
        folder.path(),
        etcd.settings()
    );
    let config = Config::parse(&text, Path::new("test.toml")).unwrap();
    let connector = Connector::new(&config.etcd).unwrap();
    let state = Arc::new(State::new(config));
    turnpike_controlplane::dns::start(&state).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.spawn(source::follow(connector, state.clone()));
    wait("names", || state.dns.status("").state == "serving");
    let (mut replay, mut known) = (Replay::new(), BTreeSet::new());
    let mut counted = BTreeMap::new();
    for step in steps() {
        replay.up_to(&etcd, step.revision);
        let mut expected = of_step(&step);
        let names: BTreeSet<String> =
            expected.iter().filter(|(_, data)| data.is_some()).map(|((name, _), _)| name.clone()).collect();
        for key in known.difference(&expected.keys().cloned().collect()) {
            // A name that has become another's has no more records of the type.
            expected.insert(key.clone(), names.contains(&key.0).then(BTreeSet::new));
        }
        known.extend(expected.keys().cloned());
        for ((_, kind), data) in &expected {
            *counted.entry((*kind, data.is_some())).or_insert(0) += 1;
        }
        let start = Instant::now();
        while let Some(wrong) = first_wrong(port, &expected) {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "step {} ({}): {wrong}",
                step.number,
                step.what
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::PTR, RecordType::CNAME] {
        assert!(counted.get(&(kind, true)).is_some_and(|count| *count > 50), "{kind}: {counted:?}");
    }
    assert!(counted.get(&(RecordType::A, false)).is_some_and(|count| *count > 50), "{counted:?}");
}

/// What DNS must say after a step, from the API's objects alone.
fn of_step(step: &Step) -> Expected {
    let mut expected = Expected::new();
    let mut slices: BTreeMap<ObjectKey, Vec<&EndpointSlice>> = BTreeMap::new();
    for (object, _) in step.objects.values() {
        if let Object::EndpointSlice(slice) = object
            && let Some(name) = slice.metadata.labels.get("kubernetes.io/service-name")
        {
            slices.entry(ObjectKey::new(&slice.metadata.namespace, name)).or_default().push(slice);
        }
    }
    for (object, _) in step.objects.values() {
        if let Object::Service(service) = object {
            let of_it = slices.get(&object.key()).map_or(&[][..], Vec::as_slice);
            of_service(service, of_it, &mut expected);
        }
    }
    expected
}

fn of_service(service: &Service, slices: &[&EndpointSlice], expected: &mut Expected) {
    let name = format!("{}.{}.svc.cluster.local.", service.metadata.name, service.metadata.namespace);
    let spec = &service.spec;
    if spec.r#type == "ExternalName" {
        let target = format!("{}.", spec.external_name);
        expected.insert((name, RecordType::CNAME), Some([target].into()));
        return;
    }
    let is_headless = spec.cluster_ip == "None";
    let addresses: BTreeSet<String> = if is_headless {
        let ready = slices.iter().flat_map(|slice| {
            slice
                .endpoints
                .iter()
                .filter(|e| e.conditions.ready != Some(false) && slice.address_type != "FQDN")
        });
        ready.map(|endpoint| endpoint.addresses[0].clone()).collect()
    } else {
        spec.cluster_ips.iter().cloned().collect()
    };
    for (kind, is_v4) in [(RecordType::A, true), (RecordType::AAAA, false)] {
        let of_family = addresses.iter().filter(|a| a.contains('.') == is_v4).cloned().collect();
        expected.insert((name.clone(), kind), (!addresses.is_empty()).then_some(of_family));
    }
    if is_headless {
        return;
    }
    for address in &addresses {
        let reverse = Name::from(address.parse::<IpAddr>().unwrap()).to_ascii();
        expected.insert((reverse, RecordType::PTR), Some([name.clone()].into()));
    }
    for port in spec.ports.iter().filter(|port| !port.name.is_empty()) {
        let of_port = format!("_{}._{}.{name}", port.name, port.protocol.to_lowercase());
        let data = format!("0 100 {} {name}", port.port);
        expected.insert((of_port, RecordType::SRV), Some([data].into()));
    }
}

/// The first name that is not answered as it should be.
fn first_wrong(port: u16, expected: &Expected) -> Option<String> {
    let mut stream = tcp::open(port);
    expected.iter().find_map(|((name, kind), expected)| {
        let found = ask(&mut stream, name, *kind);
        (found != *expected).then(|| format!("{name} {kind}: {found:?} and not {expected:?}"))
    })
}

fn ask(stream: &mut TcpStream, name: &str, kind: RecordType) -> Option<BTreeSet<String>> {
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    tcp::send(stream, &[question.to_vec().unwrap()]);
    let answer = Message::from_vec(&tcp::receive(stream).unwrap()).unwrap();
    match answer.metadata.response_code {
        ResponseCode::NoError => {
            let of_kind = answer.answers.iter().filter(|record| record.record_type() == kind);
            Some(of_kind.map(|record| record.data.to_string()).collect())
        }
        ResponseCode::NXDomain => None,
        other => Some([other.to_string()].into()),
    }
}
