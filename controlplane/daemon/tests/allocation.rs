//! Addresses and ports of standalone mode on a real etcd: given once, shared where asked for, waited for, given back.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::dataplane::Dataplane;
use bed::etcd::{Etcd, dump_private};
use bed::{ControlPlane, pod, service, standalone, wait};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::thread;
use turnpike_wire::admin::{Difference, PlannedFlows, Reply, Request, Resource};
use turnpike_wire::event::Event;
use turnpike_wire::update::{FrontendKey, Protocol};

fn ingress(turnpike: &ControlPlane, name: &str) -> Vec<String> {
    let service = turnpike.service(name);
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    ingress.iter().map(|i| i["ip"].as_str().unwrap().to_owned()).collect()
}

fn annotated(name: &str, port: u16, annotations: &Value) -> Value {
    let mut service = service(name, "LoadBalancer");
    service["spec"]["ports"][0]["port"] = port.into();
    service["metadata"]["annotations"] = annotations.clone();
    service
}

#[test]
fn rule_c4_two_control_planes_at_once_give_no_address_or_port_twice_and_leak_nothing() {
    const EACH: usize = 200;
    const AT_ONCE: usize = 10;
    let etcd = Etcd::start();
    let config = format!(
        "{}\n{}",
        standalone("203.0.112.0/22").replace("10.96.0.0/16", "10.96.0.0/22"),
        etcd.settings()
    );
    let gateways = [ControlPlane::connected(&config), ControlPlane::connected(&config)];
    wait("the fleet's key", || etcd.dump().len() == 1);
    let empty = etcd.dump();
    let name = |gateway: usize, number: usize| format!("s{gateway}-{number}");
    thread::scope(|scope| {
        for (index, gateway) in gateways.iter().enumerate() {
            scope.spawn(move || {
                for first in (0..EACH).step_by(AT_ONCE) {
                    let services = (first..first + AT_ONCE).map(|number| {
                        let mut service = service(&name(index, number), "LoadBalancer");
                        service["spec"]["externalTrafficPolicy"] = "Local".into();
                        service
                    });
                    assert_eq!(gateway.apply(services.collect()), ["created"; AT_ONCE]);
                    // One that fails leaves nothing.
                    let mut bad = service(&name(index, EACH + first), "LoadBalancer");
                    bad["spec"]["clusterIP"] = "10.99.0.1".into();
                    gateway.try_apply(vec![service("good", "LoadBalancer"), bad]).unwrap_err();
                }
            });
        }
    });
    wait("both to know all", || gateways.iter().all(|g| g.get(Resource::Services).len() == 2 * EACH));
    let services = gateways[0].get(Resource::Services);
    for path in ["/spec/clusterIP", "/status/loadBalancer/ingress/0/ip"] {
        let values: BTreeSet<String> =
            services.iter().map(|s| s.pointer(path).unwrap().to_string()).collect();
        assert_eq!(values.len(), 2 * EACH, "{path}");
    }
    let ports =
        services.iter().flat_map(|s| [&s["spec"]["ports"][0]["nodePort"], &s["spec"]["healthCheckNodePort"]]);
    let ports: BTreeSet<u64> = ports.map(|port| port.as_u64().unwrap()).collect();
    assert_eq!(ports.len(), 4 * EACH, "NodePorts and health check ports come from one range");
    assert!(ports.iter().all(|port| (30086..=32767).contains(port)), "none of the static band: {ports:?}");
    // Each deletes what the other made.
    thread::scope(|scope| {
        for (index, gateway) in gateways.iter().enumerate() {
            scope.spawn(move || {
                for number in 0..EACH {
                    gateway.delete("Service", &name(1 - index, number), false).unwrap();
                }
            });
        }
    });
    wait("nothing to be left", || etcd.dump() == empty);
}

#[test]
fn a_service_that_finds_the_pool_empty_is_made_waits_and_gets_the_next_address() {
    let turnpike = ControlPlane::connected(&standalone("203.0.113.0/30"));
    let names = ["a", "b", "c", "d"];
    turnpike.apply(names[..3].iter().map(|name| service(name, "LoadBalancer")).collect());
    turnpike.apply(vec![service("d", "LoadBalancer"), pod("d-1", "d", "10.244.0.11")]);
    assert_eq!(names.map(|name| ingress(&turnpike, name).len()), [1, 1, 0, 0]);
    let waiting = turnpike.service("d");
    let condition = &waiting["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"]),
        (&json!("turnpike.dev/AddressAssigned"), &json!("False"))
    );
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains("pool \"public\" has 2 to give, none free"), "{message}");
    assert_ne!(condition["lastTransitionTime"], Value::Null);
    assert_eq!(turnpike.backends("d"), ["10.244.0.11"], "its other faces are served");
    assert_eq!(turnpike.apply(vec![service("d", "LoadBalancer")]), ["unchanged"]);

    let free = ingress(&turnpike, "a");
    turnpike.delete("Service", "a", false).unwrap();
    wait("the oldest to get the address", || ingress(&turnpike, "c") == free);
    assert!(ingress(&turnpike, "d").is_empty());
    assert_eq!(turnpike.service("c")["status"].get("conditions"), None);
    // A change of the type frees as well.
    assert_eq!(turnpike.apply(vec![service("b", "ClusterIP")]), ["configured"]);
    wait("the last one to get an address", || ingress(&turnpike, "d").len() == 1);
    for name in ["b", "c", "d"] {
        turnpike.delete("Service", name, false).unwrap();
    }
    let left = dump_private(turnpike.folder());
    assert!(!left.keys().any(|key| key.contains("allocations")), "{:?}", left.keys());
}

#[test]
fn an_address_is_shared_under_a_key_and_leaves_with_the_last() {
    let turnpike = ControlPlane::connected(&standalone("203.0.113.0/30"));
    let key = json!({"turnpike.dev/sharing-key": "web"});
    turnpike.apply(vec![annotated("a", 80, &key), annotated("b", 443, &key)]);
    assert_eq!(ingress(&turnpike, "a"), ["203.0.113.1"]);
    assert_eq!(ingress(&turnpike, "b"), ["203.0.113.1"]);
    let faces = turnpike.get(Resource::Frontends);
    let public: BTreeSet<u64> =
        faces.iter().filter(|f| f["kind"] == "load_balancer").map(|f| f["port"].as_u64().unwrap()).collect();
    assert_eq!(public, [80, 443].into());
    let asks = |key: &str, port| {
        let mut annotations = json!({"turnpike.dev/load-balancer-ips": "203.0.113.1"});
        if !key.is_empty() {
            annotations["turnpike.dev/sharing-key"] = key.into();
        }
        turnpike.try_apply(vec![annotated("c", port, &annotations)])
    };
    assert!(asks("", 8080).unwrap_err().contains("both need the same turnpike.dev/sharing-key"));
    assert!(asks("other", 8080).unwrap_err().contains("both need the same turnpike.dev/sharing-key"));
    assert!(asks("web", 443).unwrap_err().contains("both have port 443/TCP"));
    assert!(asks("web", 8080).is_ok());
    // From shared to alone and back, in one step.
    for name in ["b", "c"] {
        turnpike.delete("Service", name, false).unwrap();
    }
    assert_eq!(turnpike.apply(vec![annotated("a", 80, &json!({}))]), ["configured"]);
    assert_eq!(ingress(&turnpike, "a"), ["203.0.113.1"]);
    assert!(asks("web", 8080).unwrap_err().contains("is taken by Service default/a"));
    assert_eq!(turnpike.apply(vec![annotated("a", 80, &key)]), ["configured"]);
    assert!(asks("web", 8080).is_ok());
    for name in ["a", "c"] {
        turnpike.delete("Service", name, false).unwrap();
    }
    let left = dump_private(turnpike.folder());
    assert!(!left.keys().any(|key| key.contains("allocations")), "{:?}", left.keys());
}

#[test]
fn a_dry_run_does_everything_but_write() {
    let turnpike = ControlPlane::connected(&standalone("203.0.113.0/30"));
    turnpike.apply(vec![service("web", "ClusterIP")]);
    let before = dump_private(turnpike.folder());
    let dry = |objects: Vec<Value>| match turnpike.ask(&Request::Apply { objects, dry_run: true }) {
        Reply::Changed { results } => Ok(results.into_iter().map(|r| r.outcome).collect::<Vec<_>>()),
        Reply::Error { message } => Err(message),
        other => panic!("{other:?}"),
    };
    let rows = vec![service("web", "ClusterIP"), service("new", "LoadBalancer")];
    assert_eq!(dry(rows).unwrap(), ["unchanged", "created"]);
    assert_eq!(dry(vec![service("web", "NodePort")]).unwrap(), ["configured"]);
    let mut wrong = service("bad", "LoadBalancer");
    wrong["spec"]["loadBalancerIP"] = "198.51.100.1".into();
    assert!(dry(vec![wrong]).unwrap_err().contains("198.51.100.1"));
    assert_eq!(dump_private(turnpike.folder()), before);
}

#[test]
fn what_was_changed_in_between_is_a_conflict() {
    let turnpike = ControlPlane::connected(&standalone("203.0.113.0/30"));
    turnpike.apply(vec![service("web", "ClusterIP")]);
    let mine = turnpike.service("web");
    assert_eq!(turnpike.apply(vec![mine.clone()]), ["unchanged"], "what get shows can be applied");
    turnpike.apply(vec![service("web", "NodePort")]);
    let error = turnpike.try_apply(vec![mine]).unwrap_err();
    assert!(error.contains("default/web") && error.contains("somebody has changed it"), "{error}");
    let mut other = service("web", "NodePort");
    other["metadata"]["uid"] = "11111111-2222-3333-4444-555555555555".into();
    let error = turnpike.try_apply(vec![other]).unwrap_err();
    assert!(error.contains("metadata.uid") && error.contains("another object"), "{error}");
}

#[test]
fn a_plan_tells_what_would_change_and_whose_flows_that_touches() {
    let turnpike = ControlPlane::connected(&standalone("203.0.113.0/29"));
    let mut dns = service("dns", "ClusterIP");
    dns["spec"]["ports"] =
        json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 53}]);
    let pods = || vec![pod("dns-1", "dns", "10.244.0.1"), pod("dns-2", "dns", "10.244.0.2")];
    turnpike.apply([vec![dns, service("web", "LoadBalancer")], pods()].concat());
    let before = dump_private(turnpike.folder());
    let mut gone = pod("dns-2", "dns", "10.244.0.2");
    gone["metadata"]["labels"]["app"] = "other".into();
    let mut moved = service("web", "LoadBalancer");
    moved["spec"]["ports"][0]["port"] = 8080.into();
    let objects =
        || vec![gone.clone(), moved.clone(), pod("dns-1", "dns", "10.244.0.1"), service("new", "ClusterIP")];

    let planned = turnpike.plan(objects());
    let outcomes: Vec<&str> = planned.objects.iter().map(|o| o.outcome.as_str()).collect();
    assert_eq!(outcomes, ["configured", "configured", "unchanged", "created"]);
    assert_eq!(planned.objects[0].fields[0].path, "metadata.labels.app");
    assert!(
        planned.objects[1]
            .fields
            .iter()
            .any(|f| f.path == "spec.ports[0].port" && f.after == Some(json!(8080)))
    );
    let mut frontends: Vec<_> =
        planned.frontends.iter().map(|f| (f.change, f.frontend.service.as_str(), f.frontend.port)).collect();
    frontends.retain(|(_, _, port)| *port < 30000);
    frontends.sort();
    let expected = [
        (Difference::Appears, "new", 80),
        (Difference::Appears, "web", 8080),
        (Difference::Appears, "web", 8080),
        (Difference::Goes, "web", 80),
        (Difference::Goes, "web", 80),
    ];
    assert_eq!(frontends, expected);
    let backends: Vec<_> =
        planned.backends.iter().map(|b| (b.change, b.protocol, b.backend.address.to_string())).collect();
    let goes = |protocol| (Difference::Goes, protocol, "10.244.0.2".to_owned());
    assert_eq!(backends, [goes(Protocol::Udp), goes(Protocol::Tcp)]);
    assert_eq!(planned.flows, None);
    assert!(planned.flows_unknown.unwrap().contains("no dataplane"));
    assert_eq!(dump_private(turnpike.folder()), before, "a plan writes nothing");

    let address = turnpike.service("dns")["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    let web = turnpike.service("web")["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    let key = |address, port, protocol| FrontendKey { address, port, protocol };
    // Frontend, backend, flows: what stays, UDP to the pod that goes, TCP to it, TCP to a port that goes.
    let flows = [
        (key(address, 53, Protocol::Udp), "10.244.0.1:53", 1),
        (key(address, 53, Protocol::Udp), "10.244.0.2:53", 2),
        (key(address, 53, Protocol::Tcp), "10.244.0.2:53", 4),
        (key(web, 80, Protocol::Tcp), "10.244.9.9:8080", 8),
    ];
    let mut dataplane = Dataplane::start(turnpike.folder());
    wait("the dataplane", || {
        dataplane.turn();
        turnpike.status().dataplane.adopted_generation > 0
    });
    let planned = thread::scope(|scope| {
        let asked = scope.spawn(|| turnpike.plan(objects()));
        wait("the question", || {
            dataplane.turn();
            !dataplane.questions.is_empty()
        });
        let question = dataplane.questions[0];
        for (frontend, backend, flows) in flows {
            dataplane.say(&Event::FlowCount { question, frontend, backend: backend.parse().unwrap(), flows });
        }
        dataplane.say(&Event::FlowsCounted { question, flows: 16 });
        asked.join().unwrap()
    });
    assert_eq!(planned.flows, Some(PlannedFlows { live: 16, touched: 14, ends: 2, stay: 12 }));
}
