//! Health checks as a load balancer meets them: over HTTP, of the real control plane, with objects as a kube-apiserver stores them.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::cluster;
use bed::dataplane::Dataplane;
use bed::etcd::Etcd;
use bed::{ControlPlane, PATIENCE, wait};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use turnpike_desired::envelope;
use turnpike_desired::k8s::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Node, ObjectMeta, Service, ServicePort, Taint,
    Time,
};
use turnpike_desired::object::Object;
use turnpike_desired::registry::Registry;
use turnpike_wire::admin::Resource;

/// What a kube-proxy on node-a said of the recorded cluster, without white space (`shared/fixtures/kubernetes/kube-proxy`).
const RECORDED: [(u16, &str); 2] = [
    (
        30750,
        r#"{"service":{"namespace":"media","name":"quic-lb"},"localEndpoints":0,"serviceProxyHealthy":true}HTTP503"#,
    ),
    (
        32569,
        r#"{"service":{"namespace":"shop","name":"web-lb-local"},"localEndpoints":2,"serviceProxyHealthy":true}HTTP200"#,
    ),
];

/// An answer over HTTP.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

/// Sends bytes as they are; the answer, if there is one.
fn send(address: SocketAddr, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Some(Answer { status, headers: lines.filter_map(header).collect(), body: body.to_owned() })
}

fn ask(address: SocketAddr, method: &str, path: &str) -> Option<Answer> {
    send(address, &format!("{method} {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"))
}

/// A control plane that acts as node-a, a dataplane that adopts, and where health is asked.
struct Host {
    control_plane: ControlPlane,
    dataplane: Option<std::thread::JoinHandle<()>>,
    end: Arc<AtomicBool>,
    addresses: [&'static str; 2],
    node: SocketAddr,
}

impl Host {
    /// `octet` keeps tests that run at the same time apart.
    fn start(etcd: &Etcd, octet: u8) -> Self {
        let addresses = [format!("127.0.{octet}.1"), format!("127.0.{octet}.2")];
        let node: SocketAddr = format!("{}:10256", addresses[0]).parse().unwrap();
        let more = format!(
            "[cluster]\nmode = \"kubernetes\"\n{}[health]\nlisten = \"{node}\"\nnode_port_addresses = {addresses:?}\n[metrics]\nlisten = \"127.0.{octet}.1:9464\"\n",
            etcd.settings()
        );
        let mut control_plane = ControlPlane::new(&more);
        let file = control_plane.folder().join("turnpike.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        std::fs::write(
            &file,
            config.replacen("[gateway]", "[gateway]\nnode_name = \"node-a\"\nzone = \"zone-a\"", 1),
        )
        .unwrap();
        control_plane.start();
        let mut host = Self {
            control_plane,
            dataplane: None,
            end: Arc::default(),
            addresses: addresses.map(|address| &*address.leak()),
            node,
        };
        host.start_dataplane();
        host
    }

    fn start_dataplane(&mut self) {
        let (folder, end) = (self.control_plane.folder().to_owned(), self.end.clone());
        end.store(false, Ordering::Relaxed);
        self.dataplane = Some(std::thread::spawn(move || {
            let mut dataplane = Dataplane::start(&folder);
            while !end.load(Ordering::Relaxed) {
                dataplane.turn();
                std::thread::sleep(Duration::from_millis(1));
            }
        }));
    }

    fn stop_dataplane(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(dataplane) = self.dataplane.take() {
            dataplane.join().unwrap();
        }
    }

    fn service(&self, port: u16) -> Option<Answer> {
        ask(SocketAddr::new(self.addresses[0].parse().unwrap(), port), "GET", "/")
    }

    fn node(&self, path: &str) -> Answer {
        ask(self.node, "GET", path).unwrap()
    }

    #[track_caller]
    fn wait_service(&self, port: u16, status: u16, endpoints: usize) {
        wait(&format!("{status} with {endpoints} endpoints"), || {
            self.service(port).is_some_and(|answer| {
                answer.status == status
                    && answer.headers["x-load-balancing-endpoint-weight"] == endpoints.to_string()
            })
        });
    }

    #[track_caller]
    fn wait_node(&self, path: &str, status: u16) {
        wait(&format!("{status} at {path}"), || {
            ask(self.node, "GET", path).is_some_and(|a| a.status == status)
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

fn put(etcd: &Etcd, object: impl Into<Object>) {
    let object = object.into();
    let key = Registry::new("/registry").key(object.kind(), &object.key());
    etcd.with(async |client| client.put(key, envelope::encode(&object), None).await.unwrap());
}

fn delete(etcd: &Etcd, object: impl Into<Object>) {
    let object = object.into();
    let key = Registry::new("/registry").key(object.kind(), &object.key());
    etcd.with(async |client| client.delete(key, None).await.unwrap());
}

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta { namespace: "shop".into(), name: name.into(), ..ObjectMeta::default() }
}

/// A load-balancer Service that keeps to local endpoints, with two ports.
fn service(name: &str, address: u8, health_port: i32) -> Service {
    let mut service = Service { metadata: meta(name), ..Service::default() };
    let spec = &mut service.spec;
    spec.r#type = "LoadBalancer".into();
    spec.cluster_ip = format!("10.96.0.{address}");
    spec.cluster_ips = vec![spec.cluster_ip.clone()];
    spec.ip_families = vec!["IPv4".into()];
    spec.external_traffic_policy = "Local".into();
    spec.health_check_node_port = health_port;
    spec.ports = [("http", 80, 30_080), ("https", 443, 30_443)]
        .map(|(name, port, node_port)| ServicePort {
            name: name.into(),
            protocol: "TCP".into(),
            port,
            node_port: node_port + i32::from(address),
            ..ServicePort::default()
        })
        .to_vec();
    service
}

/// Its endpoints: last octet, node, and whether ready, serving, terminating.
fn slice(service: &str, endpoints: &[(u8, &str, [bool; 3])]) -> EndpointSlice {
    let mut slice = EndpointSlice {
        metadata: meta(&format!("{service}-1")),
        address_type: "IPv4".into(),
        ..EndpointSlice::default()
    };
    slice.metadata.labels.insert("kubernetes.io/service-name".into(), service.into());
    slice.ports = [("http", 8080), ("https", 8443)]
        .map(|(name, port)| EndpointPort {
            name: Some(name.into()),
            protocol: Some("TCP".into()),
            port: Some(port),
            app_protocol: None,
        })
        .to_vec();
    slice.endpoints = endpoints
        .iter()
        .map(|(octet, node, [ready, serving, terminating])| Endpoint {
            addresses: vec![format!("10.244.0.{octet}")],
            conditions: EndpointConditions {
                ready: Some(*ready),
                serving: Some(*serving),
                terminating: Some(*terminating),
            },
            node_name: Some((*node).into()),
            ..Endpoint::default()
        })
        .collect();
    slice
}

fn node_a() -> Node {
    let metadata = ObjectMeta { name: "node-a".into(), ..ObjectMeta::default() };
    Node { metadata, ..Node::default() }
}

const READY: [bool; 3] = [true, true, false];
const DRAINING: [bool; 3] = [false, true, true];

/// Endpoints of the slice, the status expected, the count expected.
type Row = (&'static [(u8, &'static str, [bool; 3])], u16, usize);

#[test]
fn rule_h5_a_recorded_cluster_is_told_as_a_kube_proxy_tells_it() {
    let etcd = cluster::restored();
    let host = Host::start(&etcd, 71);
    for (port, recorded) in RECORDED {
        wait("a healthy gateway", || host.service(port).is_some_and(|a| a.body.contains("true")));
        let answer = host.service(port).unwrap();
        let body: String = answer.body.split_whitespace().collect();
        assert_eq!(format!("{body}HTTP{}", answer.status), recorded);
        assert!(answer.body.starts_with("{\n\t\"service\": {\n\t\t\"namespace\": "), "{:?}", answer.body);
        assert!(answer.body.ends_with("\n}"), "{:?}", answer.body);
    }
}

#[test]
fn rule_h1_a_server_for_each_service_at_every_address_for_any_path_and_method() {
    let etcd = Etcd::start();
    put(&etcd, service("web", 10, 31_001));
    put(&etcd, slice("web", &[(1, "node-a", READY)]));
    let mut cluster_wide = service("wide", 11, 31_002);
    cluster_wide.spec.external_traffic_policy = "Cluster".into();
    put(&etcd, cluster_wide);
    let mut node_port = service("np", 12, 31_003);
    node_port.spec.r#type = "NodePort".into();
    put(&etcd, node_port);
    let host = Host::start(&etcd, 72);
    host.wait_service(31_001, 200, 1);
    for address in host.addresses {
        for (method, path) in
            [("GET", "/"), ("HEAD", "/healthz"), ("POST", "/a/b?c=d"), ("OPTIONS", "*"), ("BREW", "/pot")]
        {
            let answer = ask(SocketAddr::new(address.parse().unwrap(), 31_001), method, path).unwrap();
            assert_eq!(answer.status, 200, "{method} {path} at {address}");
            assert_eq!(answer.body.is_empty(), method == "HEAD", "{method}");
        }
    }
    for other in [31_002, 31_003] {
        assert!(host.service(other).is_none(), "{other} is no health check of a local load balancer");
    }

    put(&etcd, service("web", 10, 31_004));
    host.wait_service(31_004, 200, 1);
    wait("the old port to close", || host.service(31_001).is_none());
    delete(&etcd, service("web", 10, 31_004));
    wait("the port to close", || host.service(31_004).is_none());
}

#[test]
fn rule_h1_a_port_that_is_taken_is_told_and_had_as_soon_as_it_is_free() {
    let etcd = Etcd::start();
    let squatter = TcpListener::bind("127.0.73.1:31011").unwrap();
    put(&etcd, service("web", 10, 31_011));
    put(&etcd, slice("web", &[(1, "node-a", READY)]));
    let host = Host::start(&etcd, 73);
    let told = || {
        let listeners = host.control_plane.status().listeners;
        listeners.into_iter().find(|l| l.address == squatter.local_addr().unwrap()).and_then(|l| l.last_error)
    };
    wait("the problem in the status", || told().is_some_and(|error| error.contains("in use")));
    assert!(ask("127.0.73.2:31011".parse().unwrap(), "GET", "/").is_some(), "the other address is served");
    drop(squatter);
    host.wait_service(31_011, 200, 1);
    assert!(host.control_plane.status().listeners.iter().all(|l| l.last_error.is_none()));
}

#[test]
fn rule_h2_ready_endpoints_of_this_node_and_a_serving_dataplane_make_200() {
    let etcd = Etcd::start();
    put(&etcd, service("web", 10, 31_021));
    let mut host = Host::start(&etcd, 74);
    host.wait_service(31_021, 503, 0);
    let rows: [Row; 6] = [
        (&[(1, "node-a", READY), (2, "node-a", READY), (3, "node-b", READY)], 200, 2),
        (&[(3, "node-b", READY)], 503, 0),
        (&[(1, "node-a", READY), (2, "node-a", DRAINING)], 200, 1),
        (&[(1, "node-a", DRAINING), (2, "node-b", READY)], 503, 0),
        (&[(1, "node-a", [false, false, false])], 503, 0),
        (&[(1, "node-a", READY)], 200, 1),
    ];
    for (endpoints, status, count) in rows {
        put(&etcd, slice("web", endpoints));
        host.wait_service(31_021, status, count);
    }
    host.stop_dataplane();
    wait("503 without a dataplane", || host.service(31_021).is_some_and(|a| a.status == 503));
    let answer = host.service(31_021).unwrap();
    assert!(
        answer.body.contains("\"localEndpoints\": 1")
            && answer.body.contains("\"serviceProxyHealthy\": false")
    );
    host.start_dataplane();
    host.wait_service(31_021, 200, 1);
}

#[test]
fn rule_h3_an_address_counts_once_over_all_ports_and_slices() {
    let etcd = Etcd::start();
    put(&etcd, service("web", 10, 31_031));
    put(&etcd, slice("web", &[(1, "node-a", READY), (2, "node-a", READY)]));
    let mut second = slice("web", &[(2, "node-a", READY), (3, "node-a", READY)]);
    second.metadata.name = "web-2".into();
    put(&etcd, second);
    let host = Host::start(&etcd, 75);
    host.wait_service(31_031, 200, 3);
}

#[test]
fn rule_h4_the_headers() {
    let etcd = Etcd::start();
    put(&etcd, service("web", 10, 31_041));
    put(&etcd, slice("web", &[(1, "node-a", READY), (2, "node-a", READY)]));
    let host = Host::start(&etcd, 76);
    host.wait_service(31_041, 200, 2);
    let answer = host.service(31_041).unwrap();
    let expected = [
        ("content-type", "application/json"),
        ("x-content-type-options", "nosniff"),
        ("x-load-balancing-endpoint-weight", "2"),
    ];
    for (name, value) in expected {
        assert_eq!(answer.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(answer.headers["content-length"], answer.body.len().to_string());
}

#[test]
fn rule_h6_healthz_heeds_the_node_and_livez_does_not() {
    let etcd = Etcd::start();
    put(&etcd, node_a());
    let mut host = Host::start(&etcd, 77);
    host.wait_node("/healthz", 200);
    let body: serde_json::Value = serde_json::from_str(&host.node("/healthz").body).unwrap();
    assert_eq!(body["nodeEligible"], true);
    assert_eq!(body["lastUpdated"], body["currentTime"], "while it is healthy");
    assert!(body["currentTime"].as_str().unwrap().ends_with('Z'));
    assert!(host.node("/livez").body.find("nodeEligible").is_none());
    assert_eq!(host.node("/other").status, 404);
    assert_eq!(host.node("/healthz").headers["x-content-type-options"], "nosniff");

    let mut tainted = node_a();
    tainted.spec.taints = vec![Taint { key: "ToBeDeletedByClusterAutoscaler".into(), ..Taint::default() }];
    put(&etcd, tainted);
    host.wait_node("/healthz", 503);
    assert!(host.node("/healthz").body.contains("\"nodeEligible\":false"));
    assert_eq!(host.node("/livez").status, 200);
    put(&etcd, node_a());
    host.wait_node("/healthz", 200);
    let mut deleted = node_a();
    deleted.metadata.deletion_timestamp = Some(Time::from_unix_seconds(1_700_000_000));
    put(&etcd, deleted);
    host.wait_node("/healthz", 503);
    put(&etcd, node_a());
    host.wait_node("/healthz", 200);

    host.stop_dataplane();
    host.wait_node("/livez", 503);
    host.wait_node("/healthz", 503);
    host.start_dataplane();
    host.wait_node("/healthz", 200);
}

#[test]
fn rule_h6_an_etcd_that_is_away_leaves_the_gateway_healthy() {
    let etcd = Etcd::start();
    put(&etcd, service("web", 10, 31_061));
    put(&etcd, slice("web", &[(1, "node-a", READY)]));
    let host = Host::start(&etcd, 78);
    host.wait_service(31_061, 200, 1);
    let _data = etcd.stop();
    wait("the loss", || host.control_plane.status().etcd.state != "connected");
    assert_eq!(host.service(31_061).unwrap().status, 200);
    assert_eq!(host.node("/healthz").status, 200);
}

#[test]
fn rule_h7_a_draining_endpoint_keeps_its_flows_while_the_balancer_is_told_to_send_no_more() {
    let etcd = Etcd::start();
    put(&etcd, service("web", 10, 31_071));
    put(&etcd, slice("web", &[(1, "node-a", DRAINING)]));
    let host = Host::start(&etcd, 79);
    host.wait_service(31_071, 503, 0);
    let backends = host.control_plane.get(Resource::Backends);
    assert_eq!(backends.len(), 2, "one for each port: {backends:?}");
    assert!(backends.iter().all(|b| b["state"] == "terminating"), "{backends:?}");
}

#[test]
fn clients_that_are_slow_many_or_broken_do_no_harm() {
    let etcd = Etcd::start();
    put(&etcd, service("web", 10, 31_081));
    put(&etcd, slice("web", &[(1, "node-a", READY)]));
    let host = Host::start(&etcd, 80);
    host.wait_service(31_081, 200, 1);
    let address = SocketAddr::new(host.addresses[0].parse().unwrap(), 31_081);
    let long = format!("GET / HTTP/1.1\r\nHost: gateway\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let refused = send(address, &long);
    assert!(refused.as_ref().is_none_or(|answer| answer.status == 431), "{refused:?}");
    assert_eq!(send(address, "\0\0 nonsense\r\n\r\n").map(|answer| answer.status), Some(400));
    // Twice as many as are served at a time, none of which ever says what it wants.
    let silent: Vec<TcpStream> = (0..128).map(|_| TcpStream::connect(address).unwrap()).collect();
    let answer = ask(address, "GET", "/").unwrap();
    assert_eq!(answer.status, 200);
    drop(silent);
}
