//! The codec against arbitrary values and arbitrary bytes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ipnet::IpNet;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use turnpike_wire::codec::{
    CodecError, WIRE_VERSION, decode_event, decode_update, encode_event, encode_update,
};
use turnpike_wire::event::Event;
use turnpike_wire::limits::{
    AFFINITY_TIMEOUT_S_MAX, FLOW_TIMEOUT_S_MAX, HEALTH_CHECK_PORTS_MAX, NETWORKS_MAX, RECORD_BYTES_MAX,
    SERVICE_KEY_BYTES_MAX, SOURCE_RANGES_MAX, TCP_ESTABLISHED_TIMEOUT_S_MIN, TCP_TRANSITORY_TIMEOUT_S_MIN,
    UDP_TIMEOUT_S_MIN, WEIGHT_MAX,
};
use turnpike_wire::update::{
    Action, Backend, BackendSet, BackendState, Cluster, Commit, Fleet, Frontend, FrontendKey, FrontendKind,
    Midstream, Mode, Protocol, Service, ServiceKey, Tracking, Treatment, Update,
};

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
    let v6 = any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)));
    prop_oneof![v4, v6].prop_filter("a host's address", |a| !a.is_unspecified() && !a.is_multicast())
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    (address(), 1u16..).prop_map(|(address, port)| SocketAddr::new(address, port))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
}

fn service_key() -> impl Strategy<Value = ServiceKey> {
    prop_oneof!["[a-z0-9./:-]{1,400}", "\\PC{1,100}"].prop_map(ServiceKey)
}

fn backend() -> impl Strategy<Value = Backend> {
    let state = prop_oneof![Just(BackendState::Ready), Just(BackendState::Terminating)];
    (socket(), 0..=WEIGHT_MAX, state, any::<[bool; 3]>()).prop_map(
        |(address, weight, state, [in_cluster_set, in_local_set, serving])| Backend {
            address,
            weight,
            state,
            in_cluster_set,
            in_local_set,
            serving,
        },
    )
}

fn network() -> impl Strategy<Value = IpNet> {
    (address(), 0u8..=32).prop_map(|(address, length)| IpNet::new(address, length).unwrap())
}

fn treatment() -> impl Strategy<Value = Treatment> {
    let action = prop_oneof![Just(Action::Forward), Just(Action::Reject), Just(Action::Drop)];
    let set = prop_oneof![Just(BackendSet::Cluster), Just(BackendSet::Local)];
    let mode = prop_oneof![Just(Mode::Nat), Just(Mode::Dnat), Just(Mode::DsrIpip)];
    (action, set, mode).prop_map(|(action, set, mode)| Treatment { action, set, mode })
}

fn frontend_key() -> impl Strategy<Value = FrontendKey> {
    (address(), 1u16.., protocol()).prop_map(|(address, port, protocol)| FrontendKey {
        address,
        port,
        protocol,
    })
}

fn frontend() -> impl Strategy<Value = Frontend> {
    let kind = prop_oneof![
        Just(FrontendKind::ClusterIp),
        Just(FrontendKind::NodePort),
        Just(FrontendKind::LoadBalancer),
        Just(FrontendKind::ExternalIp),
    ];
    (frontend_key(), service_key(), kind, treatment(), treatment())
        .prop_map(|(key, service, kind, outside, inside)| Frontend { key, service, kind, outside, inside })
}

fn tracking() -> impl Strategy<Value = Tracking> {
    (
        TCP_ESTABLISHED_TIMEOUT_S_MIN..=FLOW_TIMEOUT_S_MAX,
        TCP_TRANSITORY_TIMEOUT_S_MIN..=FLOW_TIMEOUT_S_MAX,
        UDP_TIMEOUT_S_MIN..=FLOW_TIMEOUT_S_MAX,
        prop::sample::select(vec![Midstream::Reset, Midstream::Drop, Midstream::Forward]),
    )
        .prop_map(|(tcp_established_s, tcp_transitory_s, udp_s, midstream)| Tracking {
            tcp_established_s,
            tcp_transitory_s,
            udp_s,
            midstream,
        })
}

fn update() -> impl Strategy<Value = Update> {
    let fleet = (any::<[u64; 2]>(), any::<u16>(), any::<u16>()).prop_map(|(maglev_key, a, b)| {
        Update::PutFleet(Fleet { maglev_key, node_ports: (a.min(b), a.max(b)) })
    });
    let commit = (1u64.., any::<i64>(), any::<u64>())
        .prop_map(|(generation, revision, records)| Update::Commit(Commit { generation, revision, records }));
    let networks = || prop::collection::vec(network(), 0..20);
    let health_check_ports = prop::collection::vec(any::<u16>(), 0..20);
    let cluster = (networks(), networks(), health_check_ports).prop_map(
        |(service_networks, pod_networks, health_check_ports)| {
            Update::PutCluster(Cluster { service_networks, pod_networks, health_check_ports })
        },
    );
    let service = (service_key(), 0..=AFFINITY_TIMEOUT_S_MAX, networks(), tracking(), any::<bool>())
        .prop_map(|(key, affinity_timeout_s, source_ranges, tracking, proxy_protocol)| {
            Update::PutService(Service { key, affinity_timeout_s, source_ranges, tracking, proxy_protocol })
        });
    prop_oneof![
        Just(Update::Reset),
        fleet,
        cluster,
        service,
        service_key().prop_map(Update::DropService),
        (service_key(), backend()).prop_map(|(key, backend)| Update::PutBackend(key, backend)),
        (service_key(), socket()).prop_map(|(key, address)| Update::DropBackend(key, address)),
        frontend().prop_map(Update::PutFrontend),
        frontend_key().prop_map(Update::DropFrontend),
        any::<u64>().prop_map(|question| Update::CountFlows { question }),
        commit,
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (any::<u64>(), any::<i64>())
            .prop_map(|(generation, revision)| Event::Adopted { generation, revision }),
        "\\PC{0,200}".prop_map(|reason| Event::ResyncNeeded { reason }),
        (any::<u64>(), "\\PC{0,200}").prop_map(|(generation, reason)| Event::Refused { generation, reason }),
        (any::<u64>(), frontend_key(), socket(), any::<u64>()).prop_map(
            |(question, frontend, backend, flows)| Event::FlowCount { question, frontend, backend, flows }
        ),
        (any::<u64>(), any::<u64>()).prop_map(|(question, flows)| Event::FlowsCounted { question, flows }),
        (address(), any::<Option<[u8; 6]>>()).prop_map(|(address, mac)| Event::Neighbour { address, mac }),
    ]
}

fn update_record(update: &Update) -> Vec<u8> {
    let mut record = vec![0xa5; 7];
    encode_update(update, &mut record).unwrap();
    record
}

proptest! {
    #[test]
    fn updates_survive_the_ring(update in update()) {
        let record = update_record(&update);
        prop_assert_eq!(record[0], WIRE_VERSION);
        prop_assert_eq!(decode_update(&record), Ok(update));
    }

    #[test]
    fn events_survive_the_ring(event in event()) {
        let mut record = vec![0xa5; 7];
        encode_event(&event, &mut record).unwrap();
        prop_assert_eq!(decode_event(&record), Ok(event));
    }

    #[test]
    fn truncated_records_are_refused(update in update(), event in event(), cut: prop::sample::Index) {
        let record = update_record(&update);
        prop_assert!(decode_update(&record[..cut.index(record.len())]).is_err());
        let mut record = Vec::new();
        encode_event(&event, &mut record).unwrap();
        prop_assert!(decode_event(&record[..cut.index(record.len())]).is_err());
    }

    #[test]
    fn trailing_bytes_are_refused(update in update(), event in event(), extra in prop::collection::vec(any::<u8>(), 1..9)) {
        let bytes = extra.len();
        let mut record = update_record(&update);
        record.extend(&extra);
        prop_assert_eq!(decode_update(&record), Err(CodecError::Trailing { bytes }));
        encode_event(&event, &mut record).unwrap();
        record.extend(&extra);
        prop_assert_eq!(decode_event(&record), Err(CodecError::Trailing { bytes }));
    }

    /// Noise behind the right version byte; what decodes at all is a value that an honest sender could have sent.
    #[test]
    fn noise_never_panics(version in prop_oneof![Just(WIRE_VERSION), any::<u8>()], body in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut record = vec![version];
        record.extend(body);
        check_total(&record)?;
    }

    /// Records with a few bytes changed reach deeper than noise.
    #[test]
    fn spoilt_records_never_panic(update in update(), hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        let mut record = update_record(&update);
        for (at, value) in hits {
            let at = at.index(record.len());
            record[at] = value;
        }
        check_total(&record)?;
    }
}

fn check_total(record: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(update) = decode_update(record) {
        prop_assert_eq!(record[0], WIRE_VERSION);
        prop_assert_eq!(decode_update(&update_record(&update)), Ok(update));
    }
    if let Ok(event) = decode_event(record) {
        let mut again = Vec::new();
        encode_event(&event, &mut again).unwrap();
        prop_assert_eq!(decode_event(&again), Ok(event));
    }
    Ok(())
}

#[test]
fn versions_and_lengths_are_named() {
    assert_eq!(decode_update(&[]), Err(CodecError::Empty));
    assert_eq!(decode_event(&[]), Err(CodecError::Empty));
    let mut record = update_record(&Update::Reset);
    record[0] = WIRE_VERSION + 1;
    let error = decode_update(&record).unwrap_err();
    assert_eq!(error, CodecError::Version { found: WIRE_VERSION + 1 });
    assert!(error.to_string().contains("run the same release"), "{error}");
    let long = vec![WIRE_VERSION; RECORD_BYTES_MAX + 1];
    assert_eq!(decode_update(&long), Err(CodecError::TooLong { bytes: RECORD_BYTES_MAX + 1 }));
    let event = Event::ResyncNeeded { reason: "x".repeat(RECORD_BYTES_MAX) };
    assert!(matches!(encode_event(&event, &mut Vec::new()), Err(CodecError::TooLong { .. })));
}

/// A length that lies about gigabytes costs an error, not memory.
#[test]
fn lying_lengths_are_refused() {
    let key = Update::DropService(ServiceKey("a".into()));
    let record = update_record(&key);
    let mut lying = record[..2].to_vec();
    lying.extend([0xff, 0xff, 0xff, 0xff, 0x0f, b'a']);
    assert!(matches!(decode_update(&lying), Err(CodecError::Malformed(_))));
}

#[test]
fn impossible_values_are_refused() {
    let key = || ServiceKey("default/web:http/TCP/IPv4".into());
    let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
    let backend = |address, weight| {
        let backend = Backend {
            address: socket(address),
            weight,
            state: BackendState::Ready,
            in_cluster_set: true,
            in_local_set: false,
            serving: true,
        };
        Update::PutBackend(key(), backend)
    };
    let frontend = |address: &str| {
        let address = socket(address);
        FrontendKey { address: address.ip(), port: address.port(), protocol: Protocol::Udp }
    };
    let network: IpNet = "10.244.0.0/16".parse().unwrap();
    let service = |key, affinity_timeout_s, ranges| {
        let tracking = Tracking::default();
        Update::PutService(Service {
            key,
            affinity_timeout_s,
            source_ranges: vec![network; ranges],
            tracking,
            proxy_protocol: false,
        })
    };
    let tracked = |tracking| {
        let source_ranges = Vec::new();
        Update::PutService(Service {
            key: key(),
            affinity_timeout_s: 0,
            source_ranges,
            tracking,
            proxy_protocol: true,
        })
    };
    let usual = Tracking::default();
    let fleet = |node_ports| Update::PutFleet(Fleet { maglev_key: [1, 2], node_ports });
    let commit = |generation| Update::Commit(Commit { generation, revision: 1, records: 0 });
    let long = || ServiceKey("k".repeat(SERVICE_KEY_BYTES_MAX + 1));
    let rows = [
        (backend("10.244.0.1:0", 1), "backend port 0"),
        (backend("0.0.0.0:80", 1), "backend address is no host's"),
        (backend("[ff02::1]:80", 1), "backend address is no host's"),
        (backend("10.244.0.1:80", WEIGHT_MAX + 1), "weight over its limit"),
        (Update::DropFrontend(frontend("10.96.0.1:0")), "frontend port 0"),
        (Update::DropFrontend(frontend("224.0.0.1:53")), "frontend address is no host's"),
        (Update::DropFrontend(frontend("[::]:53")), "frontend address is no host's"),
        (service(ServiceKey(String::new()), 0, 0), "empty Service key"),
        (service(key(), AFFINITY_TIMEOUT_S_MAX + 1, 0), "affinity time-out over its limit"),
        (service(key(), 0, SOURCE_RANGES_MAX + 1), "too many source ranges"),
        (
            tracked(Tracking { tcp_established_s: TCP_ESTABLISHED_TIMEOUT_S_MIN - 1, ..usual }),
            "time-out of established TCP flows",
        ),
        (
            tracked(Tracking { tcp_transitory_s: TCP_TRANSITORY_TIMEOUT_S_MIN - 1, ..usual }),
            "time-out of TCP flows that open or close",
        ),
        (tracked(Tracking { udp_s: UDP_TIMEOUT_S_MIN - 1, ..usual }), "time-out of UDP flows"),
        (tracked(Tracking { udp_s: FLOW_TIMEOUT_S_MAX + 1, ..usual }), "time-out of UDP flows"),
        (
            Update::PutCluster(Cluster {
                pod_networks: vec![network; NETWORKS_MAX + 1],
                ..Default::default()
            }),
            "too many networks",
        ),
        (
            Update::PutCluster(Cluster {
                health_check_ports: vec![1; HEALTH_CHECK_PORTS_MAX + 1],
                ..Default::default()
            }),
            "too many health check ports",
        ),
        (Update::DropService(long()), "Service key is too long"),
        (Update::DropBackend(long(), socket("10.244.0.1:80")), "Service key is too long"),
        (fleet((2, 1)), "NodePort range ends before it starts"),
        (commit(0), "generation 0"),
    ];
    for (update, reason) in rows {
        assert_eq!(decode_update(&update_record(&update)), Err(CodecError::Impossible(reason)), "{update:?}");
    }
    let frontend = |service: ServiceKey, key| {
        let treatment = Treatment::FORWARD;
        Update::PutFrontend(Frontend {
            key,
            service,
            kind: FrontendKind::ClusterIp,
            outside: treatment,
            inside: treatment,
        })
    };
    let good = FrontendKey { address: Ipv4Addr::new(10, 96, 0, 1).into(), port: 53, protocol: Protocol::Udp };
    assert!(decode_update(&update_record(&frontend(key(), good))).is_ok());
    assert!(decode_update(&update_record(&frontend(long(), good))).is_err());
    assert!(decode_update(&update_record(&frontend(key(), FrontendKey { port: 0, ..good }))).is_err());
}
