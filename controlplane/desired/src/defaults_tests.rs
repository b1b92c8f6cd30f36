use super::apply;
use crate::desired::Family;
use crate::k8s::Time;
use crate::manifest::{from_json, to_json};
use crate::object::Object;
use serde_json::{Value, json};

fn object(value: Value) -> Object {
    from_json(value).unwrap().object
}

#[expect(clippy::needless_pass_by_value, reason = "keeps the rows of the tables short")]
fn service(spec: Value) -> Object {
    object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}))
}

fn filled(mut object: Object, old: Option<&Object>) -> Value {
    apply(&mut object, old, Family::V4);
    to_json(&object, 0)
}

#[test]
fn a_service_gets_what_the_apiserver_would_fill_in() {
    let rows = [
        (
            json!({"ports": [{"port": 80}]}),
            json!({
                "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]
            }),
        ),
        (
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 53, "protocol": "UDP", "targetPort": "dns"}]}),
            json!({
                "type": "LoadBalancer", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Cluster",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true,
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "ports": [{"port": 53, "protocol": "UDP", "targetPort": "dns"}]
            }),
        ),
        (
            json!({"type": "NodePort", "clusterIP": "fd00::1", "ports": []}),
            json!({
                "type": "NodePort", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
                "clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"
            }),
        ),
        (
            json!({"clusterIPs": ["None"], "ipFamilyPolicy": "PreferDualStack"}),
            json!({
                "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack"
            }),
        ),
        (
            json!({"ipFamilies": ["IPv6", "IPv4"]}),
            json!({
                "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"
            }),
        ),
        (
            json!({"type": "ExternalName", "externalName": "db.example.com"}),
            json!({"type": "ExternalName", "externalName": "db.example.com", "sessionAffinity": "None"}),
        ),
    ];
    for (written, expected) in rows {
        let found = filled(service(written.clone()), None);
        assert_eq!(found["spec"], expected, "{written}");
        assert_eq!(found["metadata"]["namespace"], "default");
        assert_eq!(filled(object(found.clone()), None), found, "defaults change nothing the second time");
    }
}

#[test]
fn what_was_allocated_stays_until_the_manifest_says_otherwise() {
    let mut old = service(json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        "ports": [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 443, "nodePort": 30002}, {"name": "c", "port": 53, "protocol": "UDP", "nodePort": 30003}]
    }));
    old.metadata_mut().stamp("uid-1", Time::from_unix_seconds(5));
    let Object::Service(inner) = &mut old else { panic!() };
    inner.status.load_balancer.ingress =
        vec![crate::k8s::LoadBalancerIngress { ip: "203.0.113.5".into(), ..Default::default() }];
    let ports = json!([{"name": "x", "port": 443}, {"name": "y", "port": 80, "nodePort": 31000}, {"name": "z", "port": 53}, {"name": "w", "port": 81, "nodePort": 30002}]);
    let found = filled(service(json!({"type": "LoadBalancer", "ports": ports})), Some(&old));
    assert_eq!(found["spec"]["clusterIP"], "10.96.0.7");
    let node_ports: Vec<i64> = found["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["nodePort"].as_i64().unwrap_or_default())
        .collect();
    assert_eq!(
        node_ports,
        [0, 31000, 0, 30002],
        "a kept port that the manifest gives to another is free to be chosen anew"
    );
    assert_eq!(found["status"]["loadBalancer"]["ingress"][0]["ip"], "203.0.113.5");
    assert_eq!(
        (&found["metadata"]["uid"], &found["metadata"]["creationTimestamp"]),
        (&json!("uid-1"), &json!("1970-01-01T00:00:05Z"))
    );
    let found = filled(service(json!({"type": "ClusterIP", "ports": [{"port": 80}]})), Some(&old));
    assert_eq!(found["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(found.get("status"), None);
    let found = filled(service(json!({"type": "ExternalName", "externalName": "a.b"})), Some(&old));
    assert_eq!(found["spec"].get("clusterIP"), None);
}

#[test]
fn a_manifest_cannot_take_an_address_or_an_identity_by_writing_it() {
    let written = object(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "uid": "forged", "creationTimestamp": "1970-01-01T00:00:01Z", "resourceVersion": "5"},
        "spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}
    }));
    let found = filled(written, None);
    assert_eq!(found.get("status"), None);
    assert_eq!(found["metadata"], json!({"name": "web", "namespace": "default"}));
}

#[test]
fn pods_nodes_and_slices_get_theirs() {
    let pod = object(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}, "status": {"podIP": "10.244.0.1"}
    }));
    let found = filled(pod, None);
    assert_eq!(found["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(found["status"], json!({"podIP": "10.244.0.1", "podIPs": [{"ip": "10.244.0.1"}]}));
    let node = object(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "namespace": "oops"}, "spec": {"podCIDRs": ["10.244.0.0/24"]}
    }));
    let found = filled(node, None);
    assert_eq!(found["spec"]["podCIDR"], "10.244.0.0/24");
    assert_eq!(found["metadata"], json!({"name": "n"}));
    let slice = object(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 80}]
    }));
    assert_eq!(filled(slice, None)["ports"][0], json!({"name": "", "protocol": "TCP", "port": 80}));
}

#[test]
fn a_change_of_the_type_drops_what_the_new_type_cannot_have() {
    let old = service(json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30009, "loadBalancerClass": "a/b",
        "allocateLoadBalancerNodePorts": true, "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80, "nodePort": 30001}]
    }));
    let Value::Object(spec) = to_json(&old, 0)["spec"].clone() else { panic!() };
    let changed = |kind: &str| {
        let mut spec = spec.clone();
        spec.insert("type".into(), kind.into());
        filled(service(Value::Object(spec)), Some(&old))["spec"].clone()
    };
    let node_port = changed("NodePort");
    assert_eq!(
        (&node_port["ports"][0]["nodePort"], &node_port["externalTrafficPolicy"]),
        (&json!(30001), &json!("Local")),
        "what both types have stays"
    );
    let fields = ["healthCheckNodePort", "loadBalancerClass", "allocateLoadBalancerNodePorts"];
    for (kind, more) in [
        ("NodePort", &[][..]),
        ("ClusterIP", &["externalTrafficPolicy"]),
        (
            "ExternalName",
            &["externalTrafficPolicy", "clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"],
        ),
    ] {
        let spec = changed(kind);
        for field in fields.iter().chain(more) {
            assert_eq!(spec.get(field), None, "{kind} {field}");
        }
    }
    assert_eq!(changed("ClusterIP")["ports"][0].get("nodePort"), None);
    // What is said anew is not dropped: validation refuses it.
    let mut said = spec.clone();
    said.insert("type".into(), "ClusterIP".into());
    said["ports"][0]["nodePort"] = 31000.into();
    assert_eq!(filled(service(Value::Object(said)), Some(&old))["spec"]["ports"][0]["nodePort"], 31000);
}

#[test]
fn the_second_family_comes_and_goes_with_the_policy() {
    let one = service(
        json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80}]}),
    );
    let two = service(
        json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80}]}),
    );
    let with = |policy: &str, old: &Object| {
        let spec =
            filled(service(json!({"ipFamilyPolicy": policy, "ports": [{"port": 80}]})), Some(old))["spec"]
                .clone();
        (spec["ipFamilies"].clone(), spec["clusterIPs"].clone())
    };
    assert_eq!(with("PreferDualStack", &one), (json!(["IPv4", "IPv6"]), json!(["10.96.0.7"])));
    assert_eq!(with("SingleStack", &two), (json!(["IPv4"]), json!(["10.96.0.7"])));
    assert_eq!(with("RequireDualStack", &two), (json!(["IPv4", "IPv6"]), json!(["10.96.0.7", "fd00::7"])));
}

#[test]
fn a_service_that_names_no_family_gets_the_first_of_the_cluster() {
    let mut object = service(json!({"ports": [{"port": 80}]}));
    apply(&mut object, None, Family::V6);
    assert_eq!(to_json(&object, 0)["spec"]["ipFamilies"], json!(["IPv6"]));
}

#[test]
fn a_port_keeps_its_node_port_by_number_or_by_name() {
    let old = service(
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30002}]}),
    );
    let new = service(
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 8080}, {"name": "x", "port": 81}, {"name": "y", "port": 82}]}),
    );
    let ports = filled(new, Some(&old))["spec"]["ports"].clone();
    let found: Vec<i64> =
        ports.as_array().unwrap().iter().map(|p| p["nodePort"].as_i64().unwrap_or(0)).collect();
    assert_eq!(found, [30001, 30002, 0]);
}
