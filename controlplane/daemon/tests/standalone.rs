//! The standalone API over the admin socket, on a real private etcd.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::etcd::{dump_private, with_private};
use bed::{ControlPlane, pod, service, standalone, wait};
use etcd_client::{GetOptions, PutOptions};
use serde_json::json;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use turnpike_wire::admin::Resource;

fn small() -> String {
    standalone("203.0.113.0/30")
}

#[test]
fn what_is_applied_is_answered_and_what_is_deleted_leaves_nothing() {
    let turnpike = ControlPlane::connected(&small());
    let empty = dump_private(turnpike.folder());
    let objects = || {
        vec![
            service("web", "LoadBalancer"),
            pod("web-1", "web", "10.244.0.11"),
            pod("web-2", "web", "10.244.0.12"),
            pod("other", "other", "10.244.0.13"),
        ]
    };
    assert_eq!(turnpike.apply(objects()), ["created"; 4]);

    // No waiting: the answer to `apply` comes when everything that follows from it is in force.
    let frontends = turnpike.get(Resource::Frontends);
    let kinds: BTreeSet<&str> = frontends.iter().map(|f| f["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["cluster_ip", "load_balancer", "node_port"].into());
    for frontend in &frontends {
        assert_eq!(frontend["action"], "forward", "{frontend}");
        assert_eq!(frontend["backends"].as_array().unwrap().len(), 2, "{frontend}");
        assert_eq!(frontend["backends"][0]["port"], 8080, "{frontend}");
    }
    let written = turnpike.service("web");
    let ingress = &written["status"]["loadBalancer"]["ingress"][0];
    assert_eq!(*ingress, json!({"ip": "203.0.113.1", "ipMode": "VIP"}), "not the network's own address");

    let (before, revision) = (dump_private(turnpike.folder()), turnpike.status().etcd.revision);
    assert_eq!(turnpike.apply(objects()), ["unchanged"; 4]);
    assert_eq!(dump_private(turnpike.folder()), before, "an unchanged object is not written");
    assert_eq!(turnpike.status().etcd.revision, revision);

    let mut moved = objects();
    moved[1] = pod("web-1", "web", "10.244.0.99");
    assert_eq!(turnpike.apply(moved), ["unchanged", "configured", "unchanged", "unchanged"]);
    assert_eq!(turnpike.backends("web"), ["10.244.0.12", "10.244.0.99"]);

    let mut unready = pod("web-2", "web", "10.244.0.12");
    unready["status"]["conditions"][0]["status"] = "False".into();
    assert_eq!(turnpike.apply(vec![unready]), ["configured"]);
    assert_eq!(turnpike.backends("web"), ["10.244.0.99"]);

    for name in ["web-1", "web-2", "other"] {
        assert_eq!(turnpike.delete("Pod", name, false).unwrap()[0].outcome, "deleted");
    }
    assert!(
        turnpike.get(Resource::Frontends).iter().all(|f| f["action"] == "reject"),
        "a Service without endpoints rejects"
    );
    assert_eq!(turnpike.delete("Service", "web", false).unwrap()[0].outcome, "deleted");
    assert!(turnpike.get(Resource::Frontends).is_empty());
    assert_eq!(dump_private(turnpike.folder()), empty, "slices and allocations leave with their Service");

    let refused = turnpike.delete("Service", "web", false).unwrap_err();
    assert!(refused.contains("default/web") && refused.contains("ignore-not-found"), "{refused}");
    assert_eq!(turnpike.delete("Service", "web", true).unwrap()[0].outcome, "not found");
}

#[test]
fn a_request_that_is_wrong_anywhere_changes_nothing() {
    let turnpike = ControlPlane::connected(&small());
    let mut taken = service("web", "NodePort");
    taken["spec"]["ports"][0]["nodePort"] = 30080.into();
    taken["spec"]["clusterIP"] = "10.96.0.80".into();
    assert_eq!(turnpike.apply(vec![taken]), ["created"]);
    let before = dump_private(turnpike.folder());

    let with = |change: fn(&mut serde_json::Value)| {
        let mut bad = service("bad", "LoadBalancer");
        change(&mut bad);
        bad
    };
    let rows = [
        (
            "NodePort taken",
            vec![with(|s| s["spec"]["ports"][0]["nodePort"] = 30080.into())],
            vec!["30080", "default/web", "default/bad"],
        ),
        (
            "address taken",
            vec![with(|s| s["spec"]["clusterIP"] = "10.96.0.80".into())],
            vec!["10.96.0.80", "default/web"],
        ),
        (
            "port out of range",
            vec![with(|s| s["spec"]["ports"][0]["port"] = 70000.into())],
            vec!["default/bad", "spec.ports[0].port", "70000"],
        ),
        (
            "outside the pools",
            vec![with(|s| s["spec"]["loadBalancerIP"] = "198.51.100.1".into())],
            vec!["198.51.100.1", "public"],
        ),
        (
            "kind",
            vec![json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}})],
            vec!["Deployment"],
        ),
        (
            "twice",
            vec![service("bad", "ClusterIP"), service("bad", "NodePort")],
            vec!["default/bad", "twice"],
        ),
        (
            "a good one first",
            vec![service("good", "LoadBalancer"), pod("p", "x", "10.244.0.256")],
            vec!["10.244.0.256"],
        ),
        (
            "a field that is spelled wrong",
            vec![with(|s| s["spec"]["loadbalancerIP"] = "203.0.113.1".into())],
            vec!["Service bad", "unknown field \"spec.loadbalancerIP\"", "spelling"],
        ),
        (
            "a version that was never there",
            vec![with(|s| s["metadata"]["resourceVersion"] = "7".into())],
            vec!["default/bad", "metadata.resourceVersion", "leave it out"],
        ),
    ];
    for (what, objects, words) in rows {
        let error = turnpike.try_apply(objects).unwrap_err();
        words.iter().for_each(|word| assert!(error.contains(word), "{what}: {word:?} is not in {error:?}"));
        assert_eq!(dump_private(turnpike.folder()), before, "{what}");
    }
}

#[test]
fn what_one_service_gives_up_another_can_have_in_the_same_request() {
    let turnpike = ControlPlane::connected(&small());
    let on = |name: &str, port: u16| {
        let mut service = service(name, "NodePort");
        service["spec"]["ports"][0]["nodePort"] = port.into();
        service
    };
    assert_eq!(turnpike.apply(vec![on("a", 30001)]), ["created"]);
    assert_eq!(turnpike.apply(vec![on("a", 30002), on("b", 30001)]), ["configured", "created"]);
    let holder = |port: &str| {
        let all = dump_private(turnpike.folder());
        all.iter()
            .find(|(key, _)| key.ends_with(port))
            .map(|(_, value)| String::from_utf8(value.clone()).unwrap())
    };
    assert_eq!((holder("/30001"), holder("/30002")), (Some("default/b".into()), Some("default/a".into())));
}

/// Services of some kilobytes each.
fn large(count: usize) -> Vec<serde_json::Value> {
    let mut services: Vec<_> = (0..count).map(|i| service(&format!("s{i}"), "ClusterIP")).collect();
    for service in &mut services {
        service["metadata"]["annotations"] = json!({"example.com/note": "x".repeat(4_000)});
    }
    services
}

#[test]
fn a_request_of_megabytes_is_one_transaction_and_survives_a_restart() {
    let mut turnpike = ControlPlane::connected(&standalone("203.0.113.0/24"));
    // More than the four megabytes that a gRPC message has by default, in the watch and in a page of the list.
    let count = 1_500;
    assert_eq!(turnpike.apply(large(count)), vec!["created"; count]);
    assert_eq!(turnpike.status().objects.services, count as u64);
    assert_eq!(turnpike.get(Resource::Frontends).len(), count);
    let revisions: BTreeSet<i64> = with_private(turnpike.folder(), async |client| {
        let options = GetOptions::new().with_prefix().with_keys_only();
        let services = client.get("/registry/services/specs/", Some(options)).await.unwrap();
        services.kvs().iter().map(|kv| kv.mod_revision()).collect()
    });
    assert_eq!(revisions.len(), 1, "{revisions:?}");
    turnpike.stop();
    turnpike.start();
    turnpike.wait_connected();
    assert_eq!(turnpike.status().objects.services, count as u64);
    assert_eq!(turnpike.status().etcd.reconnects, 0);
}

#[test]
fn a_request_that_etcd_could_not_read_again_is_refused() {
    let mut turnpike = ControlPlane::connected(&standalone("203.0.113.0/24"));
    let before = dump_private(turnpike.folder());
    let error = turnpike.try_apply(large(2_700)).unwrap_err();
    assert!(error.contains("too large") && error.contains("send less at once"), "{error}");
    assert_eq!(dump_private(turnpike.folder()), before);
    turnpike.stop();
    turnpike.start();
    turnpike.wait_connected();
    assert_eq!(turnpike.apply(vec![service("web", "ClusterIP")]), ["created"]);
}

#[test]
fn a_bad_object_written_by_hand_is_skipped_shown_and_mended_by_apply() {
    let turnpike = ControlPlane::connected(&small());
    turnpike.apply(vec![service("web", "ClusterIP"), pod("web-1", "web", "10.244.0.11")]);
    with_private(turnpike.folder(), async |client| {
        client.put("/registry/services/specs/default/bad", "\x00garbage", None::<PutOptions>).await.unwrap();
        client.put("/registry/pods/default/bad", "k8s\0\u{1}", None).await.unwrap();
    });
    wait("the bad objects", || turnpike.status().objects.skipped.len() == 2);
    let skipped = turnpike.status().objects.skipped;
    assert!(
        skipped.iter().any(|s| s.key == "/registry/services/specs/default/bad"
            && s.revision > 0
            && !s.reason.is_empty()),
        "{skipped:?}"
    );
    assert_eq!(turnpike.backends("web"), ["10.244.0.11"]);
    assert_eq!(turnpike.apply(vec![service("bad", "ClusterIP")]), ["configured"]);
    assert_eq!(turnpike.delete("Pod", "bad", false).unwrap()[0].outcome, "deleted");
    assert!(turnpike.status().objects.skipped.is_empty(), "{:?}", turnpike.status().objects.skipped);
}

#[test]
fn an_allocation_whose_service_is_gone_is_given_back() {
    let turnpike = ControlPlane::connected(&small());
    let mut first = service("web", "NodePort");
    first["spec"]["ports"][0]["nodePort"] = 30007.into();
    turnpike.apply(vec![first]);
    with_private(turnpike.folder(), async |client| {
        client.delete("/registry/services/specs/default/web", None).await.unwrap();
    });
    wait("the deletion", || turnpike.status().objects.services == 0);
    let mut second = service("heir", "NodePort");
    second["spec"]["ports"][0]["nodePort"] = 30007.into();
    assert_eq!(turnpike.apply(vec![second]), ["created"]);
}

#[test]
fn requests_at_the_same_time_never_share_an_address() {
    let turnpike = ControlPlane::connected(&standalone("203.0.113.0/26"));
    thread::scope(|scope| {
        for worker in 0..8 {
            let turnpike = &turnpike;
            scope.spawn(move || {
                for number in 0..4 {
                    turnpike.apply(vec![service(&format!("s{worker}-{number}"), "LoadBalancer")]);
                }
            });
        }
    });
    assert_distinct(&turnpike, 32);
}

/// Every one of `count` Services has addresses and a NodePort that no other has.
fn assert_distinct(turnpike: &ControlPlane, count: usize) {
    let services = turnpike.get(Resource::Services);
    assert_eq!(services.len(), count);
    for path in ["/spec/clusterIP", "/spec/ports/0/nodePort", "/status/loadBalancer/ingress/0/ip"] {
        let values: BTreeSet<String> =
            services.iter().map(|s| s.pointer(path).unwrap().to_string()).collect();
        assert_eq!(values.len(), count, "{path}");
    }
}

#[test]
fn the_socket_is_the_owners_and_answers_nonsense() {
    let turnpike = ControlPlane::connected(&small());
    let socket = turnpike.folder().join("run/controlplane.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    for nonsense in [
        "",
        "{",
        "[]",
        r#"{"verb":"dance"}"#,
        r#"{"verb":"get","resource":"hats","namespace":null,"name":null}"#,
    ] {
        let reply = turnpike.ask_raw(nonsense);
        assert!(reply.contains(r#""reply":"error""#), "{nonsense:?}: {reply}");
    }
    for folder in ["state/etcd/server.key", "state/etcd/client.key"] {
        assert_eq!(
            std::fs::metadata(turnpike.folder().join(folder)).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    let mut second = ControlPlane::new("");
    let config = std::fs::read_to_string(turnpike.folder().join("turnpike.toml")).unwrap();
    std::fs::write(second.folder().join("turnpike.toml"), config).unwrap();
    let (code, said) = second.run_until_it_ends();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another control plane"), "{said}");
    assert_eq!(turnpike.apply(vec![service("web", "ClusterIP")]), ["created"], "the first goes on");
}
