//! Names of Services (rule D1), asked of a real control plane over real sockets: by `dig`, by hickory's client, and byte by byte.
#![allow(clippy::unwrap_used)]

#[path = "dns/asking.rs"]
mod asking;
mod bed;
#[path = "dns/cluster.rs"]
mod cluster;

use asking::{Dig, Fake, dig, free_port, send_udp, tcp};
use bed::etcd::private_pid;
use bed::{ControlPlane, service, wait};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener, UdpSocket};

/// A control plane that answers on a port of the loopback.
fn named(more: &str) -> (ControlPlane, u16) {
    let port = free_port();
    let turnpike = ControlPlane::connected(&settings(port, more));
    wait("names", || turnpike.status().dns.state == "serving");
    (turnpike, port)
}

fn settings(port: u16, more: &str) -> String {
    format!(
        "{}\n[dns]\nlisten = [\"127.0.0.1:{port}\", \"[::1]:{port}\"]\nttl_s = 7\n{more}\n",
        "[cluster]\nmode = \"standalone\"\nservice_cidrs = [\"10.96.0.0/16\", \"fd00:96::/112\"]"
    )
}

/// Applies, and waits until the names are those of it.
fn apply(turnpike: &ControlPlane, objects: Vec<Value>) {
    turnpike.apply(objects);
    catch_up(turnpike);
}

fn catch_up(turnpike: &ControlPlane) {
    let status = turnpike.status();
    wait("the names of that revision", || turnpike.status().dns.revision >= status.etcd.revision);
}

fn headless(name: &str) -> Value {
    let mut service = service(name, "ClusterIP");
    service["spec"]["clusterIP"] = "None".into();
    service["spec"].as_object_mut().unwrap().remove("selector");
    service
}

#[allow(clippy::needless_pass_by_value)]
fn slice(name: &str, service: &str, endpoints: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service, "service.kubernetes.io/headless": ""}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    })
}

const WEB: &str = "web.default.svc.cluster.local";

fn web() -> Value {
    let mut web = service("web", "ClusterIP");
    web["spec"]["clusterIP"] = "10.96.0.80".into();
    web
}

#[test]
fn rule_d1_dig_finds_services_over_udp_and_tcp_and_both_families() {
    let (turnpike, port) = named("");
    assert_eq!(dig(port, &[WEB]).status(), "NXDOMAIN");
    apply(&turnpike, vec![web()]);
    for words in [&["+notcp"][..], &["+tcp"], &["+noedns"], &["+bufsize=512"], &["+ignore", "+norec"]] {
        let found = dig(port, &[words, &[WEB]].concat());
        assert_eq!(
            (found.status(), found.answers()),
            ("NOERROR".into(), vec![format!("{WEB}. 7 IN A 10.96.0.80")])
        );
        assert!(found.flags().contains(&"aa".into()) && !found.flags().contains(&"ra".into()), "{found:?}");
    }
    assert_eq!(Dig::at("::1", port, &["+short", WEB]).text.trim(), "10.96.0.80");
    assert_eq!(
        dig(port, &["+short", "SRV", &format!("_http._tcp.{WEB}")]).text.trim(),
        format!("0 100 80 {WEB}.")
    );
    assert_eq!(dig(port, &["+short", "-x", "10.96.0.80"]).text.trim(), format!("{WEB}."));
    assert_eq!(dig(port, &["+short", "TXT", "dns-version.cluster.local"]).text.trim(), "\"1.1.0\"");
    let none = dig(port, &["AAAA", WEB]);
    assert_eq!((none.status(), none.answers().len()), ("NOERROR".into(), 0));
    let soa = "cluster.local. 7 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. ";
    assert!(
        none.authorities()[0].starts_with(soa) && none.authorities()[0].ends_with(" 7200 1800 86400 7"),
        "{none:?}"
    );

    let odd = "WeB.DefAult.svc.CLUSTER.local";
    assert_eq!(
        dig(port, &[odd]).answers(),
        [format!("{odd}. 7 IN A 10.96.0.80")],
        "the case is the client's"
    );

    turnpike.delete("Service", "web", false).unwrap();
    catch_up(&turnpike);
    assert_eq!(dig(port, &[WEB]).status(), "NXDOMAIN");
    assert_eq!(dig(port, &["-x", "10.96.0.80"]).status(), "NXDOMAIN");
}

#[test]
fn rule_d1_a_server_on_all_addresses_answers_from_the_one_that_was_asked() {
    let port = free_port();
    let listen = format!("[dns]\nlisten = [\"0.0.0.0:{port}\", \"[::]:{port}\"]\n");
    let turnpike = ControlPlane::connected(&format!("{}\n{listen}", bed::standalone("203.0.113.0/24")));
    wait("names", || turnpike.status().dns.state == "serving");
    apply(&turnpike, vec![web()]);
    for address in ["127.0.0.1", "127.0.0.53", "127.1.2.3", "::1"] {
        for transport in ["+notcp", "+tcp"] {
            // dig takes no answer from another address.
            let found = Dig::at(address, port, &[transport, "+short", WEB]);
            assert_eq!(found.text.trim(), "10.96.0.80", "{address} {transport}");
        }
    }
    let server = dig(port, &["+short", "ns.dns.cluster.local"]);
    assert_eq!(server.text.trim(), "192.0.2.1", "the gateway's address stands for all of them");
}

#[test]
fn rule_d1_headless_names_follow_readiness() {
    let (turnpike, port) = named("");
    let name = "db.default.svc.cluster.local";
    apply(&turnpike, vec![headless("db")]);
    assert_eq!(dig(port, &[name]).status(), "NXDOMAIN", "nobody is ready");
    let endpoint = |address: &str, host: &str, ready: bool| json!({"addresses": [address], "hostname": host, "conditions": {"ready": ready}});
    apply(
        &turnpike,
        vec![slice(
            "db-a",
            "db",
            json!([endpoint("10.244.0.1", "db-0", true), endpoint("10.244.0.2", "db-1", false)]),
        )],
    );
    assert_eq!(dig(port, &[name]).answers(), [format!("{name}. 7 IN A 10.244.0.1")]);
    assert_eq!(dig(port, &["+short", "-x", "10.244.0.1"]).text.trim(), format!("db-0.{name}."));
    assert_eq!(dig(port, &[&format!("db-1.{name}")]).status(), "NXDOMAIN");

    apply(
        &turnpike,
        vec![
            slice(
                "db-a",
                "db",
                json!([endpoint("10.244.0.1", "db-0", false), endpoint("10.244.0.2", "db-1", true)]),
            ),
            slice("db-b", "db", json!([{"addresses": ["10.244.0.3"]}])),
        ],
    );
    let mut found =
        dig(port, &["+short", name]).text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    found.sort();
    assert_eq!(found, ["10.244.0.2", "10.244.0.3"]);
    let srv = dig(port, &["SRV", &format!("_http._tcp.{name}")]);
    assert_eq!(srv.answers().len(), 2);
    assert!(
        srv.answers().contains(&format!("_http._tcp.{name}. 7 IN SRV 0 100 8080 10-244-0-3.{name}.")),
        "{srv:?}"
    );
    assert!(srv.additionals().contains(&format!("db-1.{name}. 7 IN A 10.244.0.2")), "{srv:?}");

    turnpike.delete("EndpointSlice", "db-a", false).unwrap();
    turnpike.delete("EndpointSlice", "db-b", false).unwrap();
    catch_up(&turnpike);
    assert_eq!(dig(port, &[name]).status(), "NXDOMAIN");
    assert_ne!(dig(port, &["-x", "10.244.0.2"]).status(), "NOERROR");
}

#[test]
fn rule_d1_selected_pods_have_names_with_their_hostnames() {
    let (turnpike, port) = named("");
    let mut service = service("db", "ClusterIP");
    service["spec"]["clusterIP"] = "None".into();
    let mut pod = bed::pod("db-0", "db", "10.244.0.9");
    pod["spec"] = json!({"hostname": "db-0", "subdomain": "db", "containers": [{"name": "c", "image": "c"}]});
    apply(&turnpike, vec![service, pod]);
    wait("the slice of the pod", || {
        dig(port, &["+short", "db.default.svc.cluster.local"]).text.trim() == "10.244.0.9"
    });
    assert_eq!(dig(port, &["+short", "db-0.db.default.svc.cluster.local"]).text.trim(), "10.244.0.9");
}

#[test]
fn rule_d1_many_endpoints_are_cut_over_udp_and_whole_over_tcp() {
    let (turnpike, port) = named("");
    let endpoints: Vec<Value> = (1..=100).map(|n| json!({"addresses": [format!("10.244.1.{n}")]})).collect();
    apply(&turnpike, vec![headless("big"), slice("big-a", "big", endpoints.into())]);
    let name = "big.default.svc.cluster.local";
    let cut = dig(port, &["+ignore", "+bufsize=4096", name]);
    assert!(cut.flags().contains(&"tc".into()) && (50..100).contains(&cut.answers().len()), "{cut:?}");
    assert!(cut.size() <= 1232, "{} bytes", cut.size());
    let plain = dig(port, &["+ignore", "+noedns", name]);
    assert!(plain.flags().contains(&"tc".into()) && plain.size() <= 512, "{} bytes", plain.size());
    let whole = dig(port, &[name]);
    assert_eq!(
        (whole.answers().len(), whole.flags().contains(&"tc".into())),
        (100, false),
        "asked again over TCP"
    );
    assert_eq!(turnpike.status().dns.counters["truncated"], 3, "dig's first try of the last was cut too");
}

#[test]
fn rule_d1_what_is_not_served_is_refused_in_the_right_words() {
    let (turnpike, port) = named("");
    apply(&turnpike, vec![web()]);
    let rows: [(&[&str], &str); 9] = [
        (&["example.com"], "REFUSED"),
        (&["AXFR", "+tcp", "cluster.local"], "; Transfer failed."),
        (&["-c", "CH", "TXT", "version.bind"], "REFUSED"),
        (&["+opcode=status", WEB], "NOTIMP"),
        (&["+opcode=7", WEB], "NOTIMP"),
        (&["+edns=1", "+noednsnegotiation", WEB], "BADVERS"),
        (&["-x", "192.168.0.1"], "REFUSED"),
        (&["default.svc.cluster.local"], "NOERROR"),
        (&["nowhere.svc.cluster.local"], "NXDOMAIN"),
    ];
    for (words, expected) in rows {
        let found = dig(port, words);
        assert!(found.status() == expected || found.text.contains(expected), "{words:?}: {found:?}");
    }
    let any = dig(port, &["ANY", "+notcp", WEB]);
    assert_eq!(any.answers(), [format!("{WEB}. 7 IN HINFO \"RFC8482\" \"\"")]);
}

#[test]
fn rule_d1_hickorys_client_understands_the_answers() {
    use hickory_net::client::{Client, ClientHandle};
    use hickory_net::runtime::TokioRuntimeProvider;
    use hickory_proto::op::ResponseCode;
    use hickory_proto::rr::{DNSClass, Name, RecordType};
    let (turnpike, port) = named("");
    apply(&turnpike, vec![web()]);
    let server = SocketAddr::from(([127, 0, 0, 1], port));
    bed::etcd::blocking(async {
        let provider = TokioRuntimeProvider::new();
        let udp = hickory_net::udp::UdpClientStream::builder(server, provider.clone()).build();
        let (mut over_udp, background) = Client::<TokioRuntimeProvider>::from_sender(udp);
        tokio::spawn(background);
        let (stream, sender) = hickory_net::tcp::TcpClientStream::new(server, None, None, provider);
        let (mut over_tcp, background) = Client::<TokioRuntimeProvider>::new(stream.await.unwrap(), sender);
        tokio::spawn(background);
        for client in [&mut over_udp, &mut over_tcp] {
            let name = Name::from_ascii(format!("{WEB}.")).unwrap();
            let found = client.query(name, DNSClass::IN, RecordType::A).await.unwrap();
            assert_eq!(found.answers[0].data.to_string(), "10.96.0.80");
            let name = Name::from_ascii("x.default.svc.cluster.local.").unwrap();
            let missing = client.query(name, DNSClass::IN, RecordType::A).await.unwrap();
            assert_eq!(
                (missing.metadata.response_code, missing.authorities.len()),
                (ResponseCode::NXDomain, 1)
            );
        }
    });
}

#[test]
fn rule_d1_an_external_name_is_followed_by_the_server_above() {
    let above = Fake::start(&[("db.example.com.", "192.0.2.77"), ("other.example.com.", "192.0.2.78")]);
    let more = format!("upstream = [\"127.0.0.1:{}\", \"127.0.0.1:{}\"]", closed_port(), above.port);
    let (turnpike, port) = named(&more);
    let external = |name: &str, target: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"type": "ExternalName", "externalName": target},
        })
    };
    apply(&turnpike, vec![external("db", "db.example.com"), external("gone", "gone.example.com")]);
    let name = "db.default.svc.cluster.local";
    let found = dig(port, &[name]);
    assert_eq!(
        found.answers(),
        [format!("{name}. 7 IN CNAME db.example.com."), "db.example.com. 300 IN A 192.0.2.77".into()]
    );
    assert!(found.flags().contains(&"ra".into()));
    assert_eq!(dig(port, &["+norec", name]).answers(), [format!("{name}. 7 IN CNAME db.example.com.")]);
    let gone = dig(port, &["gone.default.svc.cluster.local"]);
    assert_eq!(
        (gone.status(), gone.answers().len()),
        ("NXDOMAIN".into(), 1),
        "the code is that of the last name"
    );
    assert_eq!(dig(port, &["+short", "other.example.com"]).text.trim(), "192.0.2.78");
    assert_eq!(dig(port, &["+norec", "other.example.com"]).status(), "REFUSED");
    assert_eq!(dig(port, &["nowhere.example.com"]).status(), "NXDOMAIN");
    let large = dig(port, &["TXT", "large.example.com"]);
    assert!(large.text.contains(&"x".repeat(200)) && large.size() > 1232, "over TCP both times: {large:?}");
    let asked = above.asked();
    assert!(
        !asked.iter().any(|name| name.contains("cluster.local")),
        "names of the cluster stay here: {asked:?}"
    );
    let upstream = turnpike.status().dns.upstream;
    let states: Vec<&str> = upstream.iter().map(|peer| peer.state.as_str()).collect();
    assert!(states.contains(&"good") && states.contains(&"failing"), "{upstream:?}");
}

#[test]
fn rule_d1_a_server_above_that_asks_back_is_found_out() {
    let above = Fake::start(&[]);
    let (turnpike, port) = named(&format!("upstream = [\"127.0.0.1:{}\"]", above.port));
    above.forward_to(port);
    wait("the circle to be seen", || turnpike.status().dns.upstream.iter().any(|peer| peer.state == "loop"));
    assert_eq!(dig(port, &["example.com"]).status(), "SERVFAIL");
}

#[test]
fn rule_d1_servers_above_that_are_silent_end_in_a_failure_in_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (_turnpike, port) = named(&format!("upstream = [\"{}\"]", silent.local_addr().unwrap()));
    // Before dig gives up by itself, as resolvers do after some seconds.
    assert_eq!(dig(port, &["+time=9", "+tries=1", "example.com"]).status(), "SERVFAIL");
}

#[test]
fn rule_d1_names_stay_while_etcd_is_away_and_are_not_denied_before_it_came() {
    let (mut turnpike, port) = named("");
    apply(&turnpike, vec![web()]);
    let stopped = private_pid(turnpike.folder()).unwrap();
    kill_process(stopped, Signal::STOP).unwrap();
    assert_eq!(dig(port, &["+short", WEB]).text.trim(), "10.96.0.80");
    kill_process(stopped, Signal::CONT).unwrap();
    turnpike.stop();

    let nobody = closed_port();
    let port = free_port();
    let waiting = ControlPlane::started(&format!(
        "{}\n[etcd]\nendpoints = [\"http://127.0.0.1:{nobody}\"]\n",
        settings(port, "")
    ));
    wait("the sockets", || {
        waiting.status().dns.listeners.iter().filter(|l| l.state == "listening").count() == 4
    });
    assert_eq!(waiting.status().dns.state, "waiting");
    assert_eq!(dig(port, &[WEB]).status(), "SERVFAIL");
    assert_eq!(dig(port, &["-x", "10.96.0.80"]).status(), "SERVFAIL");
    assert_eq!(dig(port, &["example.com"]).status(), "REFUSED");
}

#[test]
fn rule_d1_an_address_that_is_taken_is_tried_again_and_said() {
    let taken = (TcpListener::bind("127.0.0.1:0").unwrap(), free_port());
    let port = taken.0.local_addr().unwrap().port();
    let turnpike = ControlPlane::connected(&settings(port, ""));
    let of_tcp =
        || turnpike.status().dns.listeners.into_iter().find(|l| l.transport == "tcp" && l.address.is_ipv4());
    wait("the failure", || of_tcp().is_some_and(|l| l.state == "failed"));
    let error = of_tcp().unwrap().last_error.unwrap();
    assert!(error.contains("dns.listen") && error.contains("in use"), "{error}");
    assert_eq!(dig(port, &["cluster.local", "SOA"]).answers().len(), 1, "UDP works");
    drop(taken);
    wait("another try", || of_tcp().is_some_and(|l| l.state == "listening"));
    assert_eq!(dig(port, &["+tcp", "cluster.local", "SOA"]).answers().len(), 1);
}

#[test]
fn rule_d1_streams_are_bounded_and_in_any_pieces() {
    let (turnpike, port) = named("");
    apply(&turnpike, vec![web()]);
    let question = asking::question(9, WEB);
    let mut stream = tcp::open(port);
    // Two questions in one piece, then one byte by byte.
    tcp::send(&mut stream, &[question.clone(), asking::question(10, WEB)]);
    assert_eq!([tcp::receive(&mut stream).unwrap()[1], tcp::receive(&mut stream).unwrap()[1]], [9, 10]);
    tcp::trickle(&mut stream, &question);
    assert_eq!(tcp::receive(&mut stream).unwrap()[1], 9);
    for bad in [vec![0u8; 0], vec![0; 11], vec![0xFF; 12]] {
        let mut stream = tcp::open(port);
        tcp::send(&mut stream, &[bad]);
        assert_eq!(tcp::receive(&mut stream), None, "closed without a word");
    }
    let crowd: Vec<_> = (0..600).map(|_| tcp::open(port)).collect();
    // 512 at a time.
    wait("the limit", || turnpike.status().dns.counters["tcp_connections_refused"] >= 80);
    assert_eq!(dig(port, &["+short", WEB]).text.trim(), "10.96.0.80", "UDP does not mind");
    drop(crowd);
    wait("room", || dig(port, &["+tcp", "+short", "+time=1", WEB]).text.trim() == "10.96.0.80");
    let idle = tcp::open(port);
    assert!(tcp::closed_within(idle, std::time::Duration::from_secs(15)), "an idle connection is closed");
}

#[test]
fn rule_d1_damaged_datagrams_do_no_harm() {
    let (turnpike, port) = named("");
    apply(&turnpike, vec![web()]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let question = asking::question(1, WEB);
    let mut random = 0x1234_5678_9ABC_DEF1_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let mut answered = 0;
    for round in 0..20_000 {
        let mut bytes = question.clone();
        for _ in 0..next() % 5 {
            let place = next() % bytes.len();
            bytes[place] = next() as u8;
        }
        bytes.truncate(bytes.len() - (next() % 8) * (round % 3) / 2);
        for answer in send_udp(&socket, port, &bytes) {
            assert!(
                answer.len() <= 512 || bytes.len() > 12 && answer.len() <= 1232,
                "{} bytes",
                answer.len()
            );
            assert!(answer[2] & 0x80 != 0);
            answered += 1;
        }
    }
    assert_eq!(dig(port, &["+short", WEB]).text.trim(), "10.96.0.80", "it still answers");
    assert!(answered > 1_000, "{answered} answers were looked at");
}

#[test]
fn rule_d1_the_lab_s_dns_service_is_accepted_and_leads_to_the_server() {
    let (turnpike, port) = named("");
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/lab/dns.yaml")).unwrap();
    apply(&turnpike, serde_saphyr::from_multiple(&text).unwrap());
    assert_eq!(turnpike.backends("kube-dns"), ["192.0.2.11"]);
    let frontends = turnpike.get(turnpike_wire::admin::Resource::Frontends);
    let mut faces: Vec<String> = frontends
        .iter()
        .map(|f| format!("{} {}:{} {}", f["protocol"], f["address"], f["port"], f["action"]).replace('"', ""))
        .collect();
    faces.sort();
    assert_eq!(faces, ["TCP 10.96.0.10:53 forward", "UDP 10.96.0.10:53 forward"]);
    assert_eq!(
        dig(port, &["+short", "-x", "10.96.0.10"]).text.trim(),
        "kube-dns.kube-system.svc.cluster.local."
    );
    assert!(turnpike.status().objects.skipped.is_empty(), "{:?}", turnpike.status().objects.skipped);
}

/// A port of the loopback on which nobody is.
fn closed_port() -> u16 {
    free_port()
}
