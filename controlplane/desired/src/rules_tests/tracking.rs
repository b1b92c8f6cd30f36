//! How flows are followed, by annotation: RFC 5382 REQ-5 and RFC 4787 REQ-5 say the least.

use super::{gateway, public};
use turnpike_wire::update::{Midstream, Tracking};

/// What holds for a Service with one annotation, and what its owner is told.
fn annotated(name: &str, value: &str) -> (Tracking, Vec<String>) {
    let mut service = public();
    service.metadata.annotations.insert(name.into(), value.into());
    let mut world = gateway();
    let desired = world.put(service).resolve();
    let mut found = desired.services.values().map(|s| s.service.tracking);
    let first = found.next().unwrap();
    assert!(found.all(|other| other == first), "one Service, one way");
    (first, world.problems().iter().map(|problem| format!("{problem:?}")).collect())
}

#[test]
fn rfc5382_req5_rfc4787_req5_time_outs_are_set_by_service_and_never_below_the_least() {
    let usual = Tracking::default();
    assert_eq!((usual.tcp_established_s, usual.tcp_transitory_s, usual.udp_s), (7_440, 240, 300));
    let established = |s| Tracking { tcp_established_s: s, ..usual };
    let transitory = |s| Tracking { tcp_transitory_s: s, ..usual };
    let udp = |s| Tracking { udp_s: s, ..usual };
    let rows = [
        ("turnpike.dev/tcp-established-timeout", "7440", established(7_440), true),
        ("turnpike.dev/tcp-established-timeout", "604800", established(604_800), true),
        ("turnpike.dev/tcp-established-timeout", "7439", usual, false),
        ("turnpike.dev/tcp-established-timeout", "604801", usual, false),
        ("turnpike.dev/tcp-established-timeout", "2h4m", usual, false),
        ("turnpike.dev/tcp-transitory-timeout", "240", transitory(240), true),
        ("turnpike.dev/tcp-transitory-timeout", "900", transitory(900), true),
        ("turnpike.dev/tcp-transitory-timeout", "239", usual, false),
        ("turnpike.dev/tcp-transitory-timeout", "-240", usual, false),
        ("turnpike.dev/udp-timeout", "120", udp(120), true),
        ("turnpike.dev/udp-timeout", "3600", udp(3_600), true),
        ("turnpike.dev/udp-timeout", "119", usual, false),
        ("turnpike.dev/udp-timeout", "", usual, false),
        ("turnpike.dev/udp-timeout", "99999999999999999999", usual, false),
    ];
    for (name, value, expected, honoured) in rows {
        let (tracking, told) = annotated(name, value);
        assert_eq!(tracking, expected, "{name}: {value:?}");
        assert_eq!(told.len(), usize::from(!honoured), "{name}: {value:?} {told:?}");
        assert!(told.iter().all(|t| t.contains(name) && t.contains("default")), "{told:?}");
    }
}

#[test]
fn segments_in_the_middle_of_unknown_connections_have_a_policy() {
    let rows = [
        ("reset", Midstream::Reset, true),
        ("drop", Midstream::Drop, true),
        ("forward", Midstream::Forward, true),
        ("Forward", Midstream::Reset, false),
        ("", Midstream::Reset, false),
    ];
    for (value, expected, honoured) in rows {
        let (tracking, told) = annotated("turnpike.dev/tcp-midstream", value);
        assert_eq!(
            (tracking.midstream, told.len()),
            (expected, usize::from(!honoured)),
            "{value:?} {told:?}"
        );
    }
}

#[test]
fn backends_are_told_their_clients_if_the_service_says_so_and_all_of_them_by_full_nat() {
    let resolved = |annotations: &[(&str, &str)]| {
        let mut service = public();
        service.spec.external_traffic_policy = "Local".into();
        for (name, value) in annotations {
            service.metadata.annotations.insert((*name).into(), (*value).into());
        }
        let mut world = gateway();
        let desired = world.put(service).resolve();
        let told = desired.services.values().all(|s| s.service.proxy_protocol);
        let by_nat = desired.frontends.values().all(|f| {
            [f.frontend.outside.mode, f.frontend.inside.mode] == [turnpike_wire::update::Mode::Nat; 2]
        });
        (told, by_nat, world.problems().len())
    };
    let proxy = "turnpike.dev/proxy-protocol";
    let rows: [(&[_], _); 6] = [
        (&[], (false, false, 0)),
        (&[(proxy, "v2")], (true, true, 0)),
        (&[(proxy, "v2"), ("turnpike.dev/mode", "nat")], (true, true, 0)),
        (&[(proxy, "v2"), ("turnpike.dev/mode", "dnat")], (false, false, 1)),
        (&[(proxy, "v1")], (false, false, 1)),
        (&[(proxy, "")], (false, false, 1)),
    ];
    for (annotations, wanted) in rows {
        assert_eq!(resolved(annotations), wanted, "{annotations:?}");
    }
}
