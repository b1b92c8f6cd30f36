use super::{validate, validate_update};
use crate::defaults;
use crate::desired::Family;
use crate::manifest::from_json;
use crate::object::Object;
use crate::settings::Rules;
use serde_json::{Value, json};
use turnpike_wire::config::{Pool, PortRange};

fn rules() -> Rules {
    let pool = Pool { name: "public".into(), addresses: vec!["203.0.113.0/24".parse().unwrap()] };
    Rules {
        load_balancer_class: crate::settings::LoadBalancerClass::from_config(
            &turnpike_wire::config::Config::default(),
        ),
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        node_port_range: PortRange { first: 30000, last: 32767 },
        pools: vec![pool],
        own_addresses: Default::default(),
    }
}

fn object(value: Value) -> Object {
    let mut object = from_json(value).unwrap().object;
    defaults::apply(&mut object, None, Family::V4);
    object
}

/// A good object of the kind with `change` merged into it.
fn with(kind: &str, change: &Value) -> Object {
    let mut value = match kind {
        "Service" => {
            json!({"apiVersion": "v1", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}})
        }
        "Pod" => {
            json!({"apiVersion": "v1", "metadata": {"name": "web-0"}, "status": {"podIP": "10.244.0.1"}})
        }
        "Node" => {
            json!({"apiVersion": "v1", "metadata": {"name": "node-a.example.com"}, "spec": {"podCIDR": "10.244.0.0/24"}})
        }
        _ => json!({
            "apiVersion": "discovery.k8s.io/v1", "metadata": {"name": "web-x7"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.244.0.1"]}], "ports": [{"name": "http", "port": 80}]
        }),
    };
    value["kind"] = kind.into();
    merge(&mut value, change);
    object(value)
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "keeps the rows of the tables short")]
fn spec(value: Value) -> Value {
    json!({ "spec": value })
}

#[test]
fn good_objects_pass() {
    for change in [
        json!({}),
        spec(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080, "targetPort": "http"}]})),
        spec(
            json!({"ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]}),
        ),
        spec(
            json!({"type": "NodePort", "ports": [{"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053}, {"name": "t", "port": 53, "nodePort": 30053}]}),
        ),
        spec(json!({"clusterIP": "10.96.0.10"})),
        spec(json!({"clusterIP": "None", "ports": []})),
        spec(json!({"type": "ExternalName", "externalName": "db.example.com", "ports": []})),
        spec(json!({"ipFamilyPolicy": "PreferDualStack"})),
        spec(
            json!({"type": "LoadBalancer", "loadBalancerIP": "203.0.113.7", "loadBalancerSourceRanges": [" 10.0.0.0/8 "], "loadBalancerClass": "turnpike.dev/gateway"}),
        ),
        json!({"metadata": {"annotations": {"turnpike.dev/address-pool": "public", "turnpike.dev/mode": "nat"}}}),
    ] {
        assert_eq!(validate(&with("Service", &change), &rules()), Ok(()), "{change}");
    }
    for kind in ["Pod", "Node", "EndpointSlice"] {
        assert_eq!(validate(&with(kind, &json!({})), &rules()), Ok(()), "{kind}");
    }
}

#[test]
fn each_wrong_field_of_a_service_is_named() {
    let rows = [
        (
            json!({"metadata": {"name": "0web"}}),
            "Service default/0web: metadata.name: \"0web\" is no Service name",
        ),
        (json!({"metadata": {"name": ""}}), "metadata.name: is missing"),
        (
            json!({"metadata": {"namespace": "a.b"}}),
            "Service a.b/web: metadata.namespace: \"a.b\" is no name",
        ),
        (json!({"metadata": {"labels": {"a b": "c"}}}), "metadata.labels: \"a b\" is no label key"),
        (json!({"metadata": {"labels": {"a": "-"}}}), "metadata.labels[a]: \"-\" is no label value"),
        (
            json!({"metadata": {"annotations": {"turnpike.dev/address-pool": "none"}}}),
            "there is no address pool \"none\" in cluster.pools (there are: public)",
        ),
        (
            json!({"metadata": {"annotations": {"turnpike.dev/mode": "dsr"}}}),
            "metadata.annotations[turnpike.dev/mode]: \"dsr\" is not one of nat, dnat, dsr-ipip",
        ),
        (
            json!({
                "metadata": {"annotations": {"turnpike.dev/mode": "dsr-ipip"}},
                "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "targetPort": 8080}]},
            }),
            "spec.ports[0].targetPort: 8080 is not the port 80, and turnpike.dev/mode: dsr-ipip leaves ports",
        ),
        (
            json!({"metadata": {"annotations": {"turnpike.dev/udp-timeout": "119"}}}),
            "metadata.annotations[turnpike.dev/udp-timeout]: \"119\" is no number of seconds in 120..604800",
        ),
        (
            json!({"metadata": {"annotations": {"a": "x".repeat(300_000)}}}),
            "bytes are over the limit of 262144",
        ),
        (
            spec(json!({"type": "Other"})),
            "spec.type: \"Other\" is not one of ClusterIP, NodePort, LoadBalancer, ExternalName",
        ),
        (spec(json!({"ports": []})), "spec.ports: at least one port is needed"),
        (spec(json!({"ports": [{"port": 0}]})), "Service default/web: spec.ports[0].port: 0 is not 1..65535"),
        (spec(json!({"ports": [{"port": 65536}]})), "spec.ports[0].port: 65536 is not"),
        (
            spec(json!({"ports": [{"port": 80, "protocol": "tcp"}]})),
            "spec.ports[0].protocol: \"tcp\" is not one of TCP, UDP, SCTP",
        ),
        (spec(json!({"ports": [{"port": 80, "targetPort": 70000}]})), "spec.ports[0].targetPort: 70000"),
        (
            spec(json!({"ports": [{"port": 80, "targetPort": "Web"}]})),
            "spec.ports[0].targetPort: \"Web\" is no port name",
        ),
        (spec(json!({"ports": [{"port": 80, "name": "a.b"}]})), "spec.ports[0].name: \"a.b\" is no name"),
        (
            spec(json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]})),
            "spec.ports[0].name: is needed when there are several",
        ),
        (
            spec(json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]})),
            "spec.ports[1].name: \"a\" is the name of another",
        ),
        (
            spec(json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]})),
            "spec.ports[1].port: TCP 80 is there twice",
        ),
        (
            spec(json!({"ports": [{"port": 80, "nodePort": 30000}]})),
            "spec.ports[0].nodePort: is only for type NodePort",
        ),
        (
            spec(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]})),
            "spec.ports[0].nodePort: 80 is not in 30000-32767",
        ),
        (
            spec(
                json!({"type": "NodePort", "ports": [{"port": 1, "name": "a", "nodePort": 30000}, {"port": 2, "name": "b", "nodePort": 30000}]}),
            ),
            "spec.ports[1].nodePort: TCP 30000 is there twice",
        ),
        (spec(json!({"clusterIP": "x"})), "spec.clusterIPs[0]: \"x\" is no IP address"),
        (
            spec(json!({"clusterIP": "10.97.0.1"})),
            "spec.clusterIPs[0]: 10.97.0.1 is no assignable address of cluster.service_cidrs (10.96.0.0/16)",
        ),
        (spec(json!({"clusterIP": "10.96.0.0"})), "10.96.0.0 is no assignable address"),
        (spec(json!({"clusterIP": "10.96.255.255"})), "10.96.255.255 is no assignable address"),
        (
            spec(json!({"clusterIP": "None", "type": "NodePort"})),
            "spec.clusterIP: None is not for type NodePort",
        ),
        (
            spec(json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.2"]})),
            "spec.clusterIPs[0]: \"10.96.0.2\" is not spec.clusterIP",
        ),
        (
            spec(json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilyPolicy": "SingleStack"})),
            "spec.ipFamilyPolicy: SingleStack allows one family only",
        ),
        (
            spec(json!({"clusterIP": "10.96.0.1", "ipFamilies": ["IPv6"]})),
            "10.96.0.1 is not of the family IPv6",
        ),
        (spec(json!({"ipFamilies": ["IPv5"]})), "spec.ipFamilies[0]: \"IPv5\" is not one of"),
        (spec(json!({"ipFamilies": ["IPv4", "IPv4"]})), "spec.ipFamilies[1]: IPv4 is there twice"),
        (
            spec(json!({"ipFamilies": ["IPv6"]})),
            "spec.ipFamilies[0]: there is no IPv6 network in cluster.service_cidrs",
        ),
        (spec(json!({"ipFamilyPolicy": "RequireDualStack"})), "spec.ipFamilies[1]: there is no IPv6 network"),
        (spec(json!({"sessionAffinity": "Cookie"})), "spec.sessionAffinity: \"Cookie\""),
        (
            spec(
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
            ),
            "timeoutSeconds: 0 is not 1..86400",
        ),
        (spec(json!({"externalTrafficPolicy": "Local"})), "spec.externalTrafficPolicy: is only for"),
        (
            spec(json!({"type": "NodePort", "externalTrafficPolicy": "Near"})),
            "spec.externalTrafficPolicy: \"Near\"",
        ),
        (spec(json!({"internalTrafficPolicy": "Near"})), "spec.internalTrafficPolicy: \"Near\""),
        (spec(json!({"trafficDistribution": "Near"})), "spec.trafficDistribution: \"Near\""),
        (spec(json!({"healthCheckNodePort": 30000})), "spec.healthCheckNodePort: is only for"),
        (
            spec(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.1"]})),
            "spec.loadBalancerSourceRanges[0]: \"10.0.0.1\" is no network",
        ),
        (
            spec(json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]})),
            "spec.loadBalancerSourceRanges: is only for type LoadBalancer",
        ),
        (spec(json!({"loadBalancerClass": "x"})), "spec.loadBalancerClass: is only for type LoadBalancer"),
        (
            spec(json!({"allocateLoadBalancerNodePorts": false})),
            "spec.allocateLoadBalancerNodePorts: is only for type LoadBalancer",
        ),
        (
            spec(json!({"type": "LoadBalancer", "loadBalancerIP": "127.0.0.1"})),
            "spec.loadBalancerIP: 127.0.0.1 is a loopback address",
        ),
        (
            spec(json!({"externalIPs": ["169.254.0.1"]})),
            "spec.externalIPs[0]: 169.254.0.1 is a link-local address",
        ),
        (
            spec(json!({"type": "ExternalName", "externalName": "a_b"})),
            "spec.externalName: \"a_b\" is no name",
        ),
        (
            spec(json!({"type": "ExternalName", "externalName": "a", "clusterIP": "10.96.0.1"})),
            "spec.clusterIP: an ExternalName Service has none",
        ),
        (
            spec(
                json!({"type": "ExternalName", "externalName": "a", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}),
            ),
            "spec.ipFamilies: an ExternalName Service has none; leave them out; spec.ipFamilyPolicy: an ExternalName",
        ),
        (spec(json!({"type": "ExternalName"})), "spec.externalName: \"\" is no name"),
        (
            spec(json!({"type": "LoadBalancer", "ports": [{"port": 10250}]})),
            "spec.ports[0].port: 10250 is the kubelet's own",
        ),
        (
            spec(
                json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 29999}),
            ),
            "spec.healthCheckNodePort: 29999 is not in 30000-32767 (cluster.node_port_range)",
        ),
        (
            spec(
                json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "healthCheckNodePort": 30000}),
            ),
            "spec.healthCheckNodePort: is only for type LoadBalancer with externalTrafficPolicy Local",
        ),
        (
            spec(
                json!({"type": "ExternalName", "externalName": "a", "externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local"}),
            ),
            "spec.externalTrafficPolicy: is only for type NodePort or LoadBalancer or with externalIPs",
        ),
        (
            spec(json!({"externalIPs": ["0.0.0.0"]})),
            "spec.externalIPs[0]: 0.0.0.0 is the unspecified address",
        ),
        (spec(json!({"externalIPs": ["127.0.0.1"]})), "spec.externalIPs[0]: 127.0.0.1 is a loopback address"),
        (
            spec(
                json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            ),
            "timeoutSeconds: 86401 is not 1..86400",
        ),
        (
            json!({"metadata": {"annotations": {"service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8"}}}),
            "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: is only for type LoadBalancer",
        ),
        (
            json!({"metadata": {"annotations": {"service.beta.kubernetes.io/load-balancer-source-ranges": "10.0.0.0/8, x"}}, "spec": {"type": "LoadBalancer"}}),
            "load-balancer-source-ranges]: \"x\" is no network",
        ),
        (
            json!({"metadata": {"annotations": {"turnpike.dev/load-balancer-ips": "203.0.113.1,203.0.113.2"}}}),
            "metadata.annotations[turnpike.dev/load-balancer-ips]: 203.0.113.2 is a second IPv4 address",
        ),
        (
            json!({"metadata": {"annotations": {"turnpike.dev/load-balancer-ips": "203.0.113.x"}}}),
            "metadata.annotations[turnpike.dev/load-balancer-ips]: \"203.0.113.x\" is no IP address",
        ),
        (
            json!({"metadata": {"annotations": {"turnpike.dev/sharing-key": "a/b"}}}),
            "metadata.annotations[turnpike.dev/sharing-key]: \"a/b\" is no label value",
        ),
        (json!({"metadata": {"finalizers": ["a b"]}}), "metadata.finalizers: \"a b\" is no label key"),
        (spec(json!({"selector": {"app": "a b"}})), "spec.selector[app]: \"a b\" is no label value"),
    ];
    for (change, words) in rows {
        let error = validate(&with("Service", &change), &rules()).unwrap_err().to_string();
        assert!(error.contains(words), "{change}: {error}");
    }
}

#[test]
fn all_errors_of_an_object_are_told_at_once() {
    let change = json!({"metadata": {"name": "Web"}, "spec": {"ports": [{"port": 0}, {"port": -1}]}});
    let error = validate(&with("Service", &change), &rules()).unwrap_err();
    let paths: Vec<&str> = error.errors.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "metadata.name",
            "spec.ports[0].port",
            "spec.ports[0].name",
            "spec.ports[1].port",
            "spec.ports[1].name"
        ]
    );
    assert!(error.to_string().starts_with("Service default/Web: metadata.name: "), "{error}");
    assert!(error.to_string().contains("; spec.ports[0].port: 0 is not 1..65535; "), "{error}");
}

#[test]
fn each_wrong_field_of_the_other_kinds_is_named() {
    let rows = [
        ("Pod", json!({"metadata": {"name": "A"}}), "Pod default/A: metadata.name: \"A\" is no name"),
        (
            "Pod",
            json!({"metadata": {"annotations": {"turnpike.dev/weight": "257"}}}),
            "metadata.annotations[turnpike.dev/weight]: weight \"257\" is not 0..256",
        ),
        ("Pod", json!({"status": {"podIP": "pod"}}), "status.podIPs[0].ip: \"pod\" is no IP address"),
        (
            "Pod",
            json!({"status": {"podIP": "127.0.0.1"}}),
            "status.podIPs[0].ip: 127.0.0.1 is a loopback address",
        ),
        (
            "Pod",
            json!({"status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.2"}]}}),
            "status.podIPs[0].ip: \"10.0.0.2\" is not status.podIP",
        ),
        (
            "Pod",
            json!({"status": {"podIPs": [{"ip": "10.244.0.1"}, {"ip": "10.244.0.2"}]}}),
            "status.podIPs[1].ip: 10.244.0.2 is a second IPv4 address",
        ),
        ("Pod", json!({"status": {"phase": "Dead"}}), "status.phase: \"Dead\" is not one of"),
        (
            "Pod",
            json!({"status": {"conditions": [{"type": "Ready", "status": "yes"}]}}),
            "status.conditions[0].status: \"yes\"",
        ),
        ("Pod", spec(json!({"nodeName": "A"})), "spec.nodeName: \"A\" is no name"),
        ("Pod", spec(json!({"hostname": "a.b"})), "spec.hostname: \"a.b\" is no name"),
        (
            "Pod",
            spec(json!({"containers": [{"name": "c", "ports": [{"containerPort": 0}]}]})),
            "spec.containers[0].ports[0].containerPort: 0",
        ),
        (
            "Pod",
            spec(
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "protocol": "x", "hostPort": -1}]}]}),
            ),
            "spec.containers[0].ports[0].hostPort: -1",
        ),
        (
            "Pod",
            spec(
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}]}),
            ),
            "ports[1].name: \"a\" is the name of another port",
        ),
        (
            "Pod",
            spec(json!({"containers": [{"name": "c"}], "initContainers": [{"name": "c"}]})),
            "spec.initContainers[0].name: \"c\" is the name of another container",
        ),
        (
            "Node",
            json!({"spec": {"podCIDR": "x"}}),
            "Node node-a.example.com: spec.podCIDRs[0]: \"x\" is no network",
        ),
        (
            "Node",
            json!({"spec": {"podCIDRs": ["10.244.0.0/24", "10.245.0.0/24"]}}),
            "spec.podCIDRs[1]: 10.245.0.0/24 is a second IPv4 network",
        ),
        (
            "Node",
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "x"}]}}),
            "status.addresses[0].address: \"x\" is no IP",
        ),
        (
            "Node",
            json!({"status": {"addresses": [{"type": "Home", "address": "x"}]}}),
            "status.addresses[0].type: \"Home\"",
        ),
        (
            "EndpointSlice",
            json!({"addressType": ""}),
            "EndpointSlice default/web-x7: addressType: \"\" is not one of IPv4, IPv6, FQDN",
        ),
        (
            "EndpointSlice",
            json!({"addressType": "IPv6"}),
            "endpoints[0].addresses[0]: 10.244.0.1 is not of the addressType IPv6",
        ),
        (
            "EndpointSlice",
            json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a_b"]}]}),
            "endpoints[0].addresses[0]: \"a_b\" is no name",
        ),
        (
            "EndpointSlice",
            json!({"endpoints": [{"addresses": []}]}),
            "endpoints[0].addresses: 0 are not 1..100",
        ),
        (
            "EndpointSlice",
            json!({"endpoints": [{"addresses": ["169.254.169.254"]}]}),
            "169.254.169.254 is a link-local address",
        ),
        (
            "EndpointSlice",
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "hostname": "A"}]}),
            "endpoints[0].hostname: \"A\"",
        ),
        (
            "EndpointSlice",
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "deprecatedTopology": {"a": "b"}}]}),
            "endpoints[0].deprecatedTopology",
        ),
        (
            "EndpointSlice",
            json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}),
            "ports[1].name: \"a\" is the name of another",
        ),
        (
            "EndpointSlice",
            json!({"ports": [{"name": "A", "protocol": "x", "port": 0}]}),
            "ports[0].port: 0 is not 1..65535",
        ),
        (
            "EndpointSlice",
            json!({"metadata": {"labels": {"kubernetes.io/service-name": "A"}}}),
            "metadata.labels[kubernetes.io/service-name]: \"A\" is no Service name",
        ),
        (
            "EndpointSlice",
            json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "turnpike"}}}),
            "marks the slices Turnpike makes",
        ),
        (
            "EndpointSlice",
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "zone": "a b"}]}),
            "endpoints[0].zone: \"a b\" is no label value",
        ),
        (
            "EndpointSlice",
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "a"}, {"name": "a"}]}}]}),
            "endpoints[0].hints.forZones[1].name: \"a\" is there twice",
        ),
        (
            "EndpointSlice",
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "hints": {"forNodes": vec![json!({"name": "n"}); 9]}}]}),
            "endpoints[0].hints.forNodes: 9 are over the limit of 8",
        ),
        (
            "EndpointSlice",
            json!({"ports": [{"name": "a", "port": 80, "appProtocol": "a b"}]}),
            "ports[0].appProtocol: \"a b\"",
        ),
        (
            "EndpointSlice",
            json!({"endpoints": [{"addresses": []}]}),
            "endpoints[0].addresses: 0 are not 1..100",
        ),
        (
            "EndpointSlice",
            json!({"endpoints": vec![json!({"addresses": ["10.0.0.1"]}); 1001]}),
            "endpoints: 1001 are over the limit of 1000",
        ),
    ];
    for (kind, change, words) in rows {
        let error = validate(&with(kind, &change), &rules()).unwrap_err().to_string();
        assert!(error.contains(words), "{kind} {change}: {error}");
    }
}

#[test]
fn what_cannot_change_is_refused_with_the_way_out() {
    let rows = [
        (
            "Service",
            spec(json!({"clusterIP": "10.96.0.1"})),
            spec(json!({"clusterIP": "10.96.0.2"})),
            "spec.clusterIP: cannot change from 10.96.0.1 to \"10.96.0.2\"; delete the Service first",
        ),
        (
            "Service",
            spec(json!({"ipFamilies": ["IPv4"]})),
            spec(json!({"ipFamilies": ["IPv6"]})),
            "spec.ipFamilies[0]: the first family cannot change from IPv4",
        ),
        (
            "Service",
            spec(json!({"type": "LoadBalancer"})),
            spec(json!({"type": "LoadBalancer", "loadBalancerClass": "a/b"})),
            "spec.loadBalancerClass: cannot change",
        ),
        (
            "Service",
            spec(
                json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001}),
            ),
            spec(
                json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30002}),
            ),
            "spec.healthCheckNodePort: cannot change from 30001 to 30002",
        ),
        (
            "Service",
            spec(json!({"clusterIPs": ["10.96.0.1", "fd00::1"]})),
            spec(json!({"clusterIPs": ["10.96.0.1", "fd00::2"]})),
            "spec.clusterIPs[1]: cannot change from fd00::1 to \"fd00::2\"",
        ),
        (
            "EndpointSlice",
            json!({}),
            json!({"addressType": "FQDN"}),
            "addressType: cannot change from IPv4 to FQDN",
        ),
        (
            "EndpointSlice",
            json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "turnpike"}}}),
            json!({}),
            "made by Turnpike",
        ),
    ];
    for (kind, old, new, words) in rows {
        let error = validate_update(&with(kind, &old), &with(kind, &new)).unwrap_err().to_string();
        assert!(error.contains(words), "{old} → {new}: {error}");
        assert_eq!(validate_update(&with(kind, &json!({})), &with(kind, &json!({}))), Ok(()));
    }
    let named = with("Service", &spec(json!({"type": "ExternalName", "externalName": "a.b"})));
    let numbered = with("Service", &spec(json!({"clusterIP": "10.96.0.1"})));
    assert_eq!(validate_update(&numbered, &named), Ok(()));
    assert_eq!(validate_update(&named, &numbered), Ok(()));
}
