//! The program itself between two kernels: a client and backends in network namespaces of the test's own, a control plane that is the test. Needs root.
#![allow(clippy::unwrap_used)]

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use turnpike_shm::{ControlSide, CounterReader, KIND_WORKER, Popped, monotonic_ms};
use turnpike_wire::codec::{decode_event, encode_update};
use turnpike_wire::event::Event;
use turnpike_wire::update::{
    Backend, BackendState, Cluster, Commit, Fleet, Frontend, FrontendKey, FrontendKind, Mode, Protocol,
    Service, ServiceKey, Tracking, Treatment, Update,
};

const VIP: &str = "203.0.113.10";
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs this very test again in namespaces of its own; there, runs `body`.
fn in_namespace(test: &str, body: impl FnOnce()) {
    const INSIDE: &str = "TURNPIKE_TEST_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} in private namespaces (root is needed):\n{out}\n{err}");
    assert!(out.contains("1 passed"), "{out}");
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A client and a backend host, each one wire away from the gateway. Kernels complete their checksums themselves.
fn make_network() {
    run("mount -t tmpfs none /run");
    for (host, wire, address, gateway) in
        [("client", "gw0", "10.78.1.2/24", "10.78.1.1"), ("backend", "gw1", "10.78.2.2/24", "10.78.2.1")]
    {
        run(&format!("ip netns add {host}"));
        run(&format!("ip link add {wire} type veth peer name eth0 netns {host}"));
        run(&format!("ip link set {wire} up"));
        run(&format!("ip -n {host} link set lo up"));
        run(&format!("ip -n {host} link set eth0 up"));
        run(&format!("ip -n {host} address add {address} dev eth0"));
        run(&format!("ip -n {host} route add default via {gateway}"));
        run(&format!("ip netns exec {host} ethtool -K eth0 tx off gso off tso off gro off"));
    }
    run("ip -n backend address add 10.78.2.3/24 dev eth0");
}

/// Runs `work` on a thread of another host.
fn on<T: Send + 'static>(
    host: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(move || {
        let namespace = File::open(Path::new("/run/netns").join(host)).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    })
}

/// Backends that say their address and send back what they got, over TCP and UDP, for as long as the test runs.
fn serve_backends() {
    on("backend", || {
        for address in ["10.78.2.2", "10.78.2.3"] {
            let listener = TcpListener::bind((address, 8080)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    std::thread::spawn(move || echo(stream.unwrap()));
                }
            });
            let socket = UdpSocket::bind((address, 8080)).unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 2048];
                loop {
                    let (len, from) = socket.recv_from(&mut bytes).unwrap();
                    socket.send_to(&bytes[..len], from).unwrap();
                }
            });
        }
    })
    .join()
    .unwrap();
}

fn echo(mut stream: TcpStream) {
    let own = stream.local_addr().unwrap().ip().to_string();
    let mut bytes = Vec::new();
    if stream.read_to_end(&mut bytes).is_ok() {
        let _ = stream.write_all(format!("{own}\n").as_bytes()).and_then(|()| stream.write_all(&bytes));
    }
}

/// One connection of `len` bytes each way; which backend answered, and what.
fn request(len: usize) -> std::io::Result<String> {
    let wanted: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::new(VIP.parse().unwrap(), 80), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&wanted)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    let line = got.iter().position(|b| *b == b'\n').expect("the backend's name comes first");
    assert!(got[line + 1..] == wanted, "{len} bytes came back changed");
    Ok(String::from_utf8_lossy(&got[..line]).into_owned())
}

/// `count` connections one after the other; how many went to each backend. Every one must succeed.
fn requests(count: usize, len: usize) -> [usize; 2] {
    let work = move || {
        let mut share = [0, 0];
        for n in 0..count {
            let backend = request(len).unwrap_or_else(|e| panic!("request {n} of {count}: {e}"));
            share[usize::from(backend == "10.78.2.3")] += 1;
        }
        share
    };
    on("client", work).join().unwrap()
}

struct Dataplane(Child);

impl Dataplane {
    fn start(config: &Path) -> Self {
        let program = env!("CARGO_BIN_EXE_turnpike-dataplane");
        Self(Command::new(program).arg("--config").arg(config).spawn().unwrap())
    }

    fn signal(&mut self, signal: &str) -> std::process::ExitStatus {
        run(&format!("kill -{signal} {}", self.0.id()));
        self.0.wait().unwrap()
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The control plane's end, as far as a test needs one.
struct Control(ControlSide);

impl Control {
    /// Waits for the dataplane and attaches.
    fn attach(folder: &Path, dataplane: &Dataplane) -> Self {
        let end = Instant::now() + PATIENCE;
        loop {
            match ControlSide::open(folder) {
                Ok(side) if side.dataplane_pid() == Some(dataplane.0.id()) => return Self(side),
                Ok(_) | Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
                Ok(_) => panic!("the dataplane made no shared memory"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn send(&mut self, updates: &[Update]) {
        let mut record = Vec::new();
        for update in updates {
            encode_update(update, &mut record).unwrap();
            self.0.updates().push(&record).unwrap();
        }
    }

    fn transaction(&mut self, generation: u64, updates: &[Update]) {
        self.send(updates);
        let records = updates.len() as u64;
        self.send(&[Update::Commit(Commit { generation, revision: 100 + generation as i64, records })]);
    }

    /// The next event that `wanted` says yes to.
    fn wait(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let end = Instant::now() + PATIENCE;
        let mut record = Vec::new();
        while Instant::now() < end {
            self.0.beat(monotonic_ms());
            match self.0.events().pop(&mut record).unwrap() {
                Popped::Record => {
                    let event = decode_event(&record).unwrap();
                    if wanted(&event) {
                        return event;
                    }
                }
                Popped::NewEpoch => {}
                Popped::Nothing => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("no event came: {what}");
    }

    fn adopted(&mut self, wanted: u64) {
        self.wait(
            "adopted",
            |event| matches!(event, Event::Adopted { generation, .. } if *generation == wanted),
        );
        assert_eq!(self.0.adopted(), (wanted, 100 + wanted as i64));
    }
}

fn key(protocol: Protocol) -> ServiceKey {
    ServiceKey(format!("default/web:/{protocol}/IPv4"))
}

fn backend(protocol: Protocol, address: &str) -> Update {
    let address = address.parse().unwrap();
    Update::PutBackend(
        key(protocol),
        Backend {
            address,
            weight: 1,
            state: BackendState::Ready,
            in_cluster_set: true,
            in_local_set: true,
            serving: true,
        },
    )
}

/// One Service with a TCP and a UDP port on the VIP, two backends each.
fn snapshot() -> Vec<Update> {
    let mut updates =
        vec![Update::Reset, Update::PutFleet(Fleet { maglev_key: [1, 2], node_ports: (30_000, 32_767) })];
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let service = key(protocol);
        updates.push(Update::PutService(Service {
            key: service.clone(),
            affinity_timeout_s: 0,
            source_ranges: vec![],
            tracking: Tracking::default(),
            proxy_protocol: false,
        }));
        updates.extend(["10.78.2.2:8080", "10.78.2.3:8080"].map(|address| backend(protocol, address)));
        updates.push(Update::PutFrontend(Frontend {
            key: FrontendKey { address: VIP.parse().unwrap(), port: 80, protocol },
            service,
            kind: FrontendKind::LoadBalancer,
            outside: Treatment::FORWARD,
            inside: Treatment::FORWARD,
        }));
    }
    updates
}

/// The configuration file and the folder of the shared memory.
fn configure(folder: &Path, workers: &str) -> (PathBuf, PathBuf) {
    let config = folder.join("turnpike.toml");
    let text = format!(
        r#"
        [gateway]
        name = "test"
        state_dir = "{0}/state"
        run_dir = "{0}/run"
        shm_dir = "{0}"
        [cluster]
        service_cidrs = ["10.96.0.0/16"]
        [dataplane]
        workers = {workers}
        flows_per_worker = 65536
        hugepages = "never"
        memory_mb = 256
        [[dataplane.ports]]
        name = "wan"
        device = "net_af_packet0,iface=gw0"
        addresses = ["10.78.1.1/24"]
        [[dataplane.ports]]
        name = "lan"
        device = "net_af_packet1,iface=gw1"
        addresses = ["10.78.2.1/24"]
        [dataplane.snat]
        addresses = ["10.78.2.1"]
        "#,
        folder.display()
    );
    std::fs::write(&config, text).unwrap();
    (config, folder.join("turnpike-test"))
}

fn scene(workers: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
    make_network();
    serve_backends();
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let (config, shm) = configure(folder.path(), workers);
    (folder, config, shm)
}

#[test]
fn connections_pass_and_outlive_the_control_plane() {
    in_namespace("connections_pass_and_outlive_the_control_plane", || {
        let (_folder, config, shm) = scene("[0]");
        let mut dataplane = Dataplane::start(&config);
        let mut control = Control::attach(&shm, &dataplane);
        control.transaction(1, &snapshot());
        control.adopted(1);

        let share = requests(100, 100);
        assert!(share[0] >= 20 && share[1] >= 20, "Maglev spreads over both: {share:?}");
        requests(2, 5_000_000);
        control.wait("a next hop", |event| matches!(event, Event::Neighbour { mac: Some(_), .. }));

        // One backend goes, by a change; then the control plane itself.
        control.transaction(2, &[Update::DropBackend(key(Protocol::Tcp), "10.78.2.2:8080".parse().unwrap())]);
        control.adopted(2);
        assert_eq!(requests(30, 100), [0, 30]);
        drop(control);
        std::thread::sleep(Duration::from_millis(1_200));
        assert_eq!(requests(30, 100), [0, 30]);

        // It returns with what it knows; counting starts anew.
        let mut control = Control::attach(&shm, &dataplane);
        control.transaction(1, &snapshot());
        control.adopted(1);
        assert!(requests(40, 100)[0] > 0);

        // The workers show their counters ten times a second.
        std::thread::sleep(Duration::from_millis(300));
        let worker = CounterReader::open(&shm)
            .unwrap()
            .pages()
            .into_iter()
            .find(|page| page.kind == KIND_WORKER)
            .unwrap();
        let counter = |name: &str| worker.counters.iter().find(|(n, _)| n == name).unwrap().1;
        assert!(counter("forwarded") > 4_000 && counter("flows_opened") >= 202, "{:?}", worker.counters);
        assert_eq!((counter("core"), counter("flows_max"), counter("generation")), (0, 65_536, 1));
        // A SYN that a slow machine sends again may be among them; nothing else of real peers is.
        assert!(counter("tcp_ignored") < 10, "segments of real peers count: {:?}", worker.counters);
        assert!(dataplane.signal("TERM").success());
    });
}

#[test]
fn datagrams_pass_with_several_workers_and_no_receive_side_scaling() {
    in_namespace("datagrams_pass_with_several_workers_and_no_receive_side_scaling", || {
        let workers: Vec<usize> = (0..std::thread::available_parallelism().unwrap().get().min(3)).collect();
        let (_folder, config, shm) = scene(&format!("{workers:?}"));
        let dataplane = Dataplane::start(&config);
        let mut control = Control::attach(&shm, &dataplane);
        control.transaction(1, &snapshot());
        control.adopted(1);
        let udp = on("client", || {
            for n in 0..100u8 {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect((VIP, 80)).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
                for len in [0, 1, 1_400] {
                    socket.send(&vec![n; len]).unwrap();
                    let mut got = [0; 2_048];
                    assert_eq!(
                        socket.recv(&mut got).unwrap_or_else(|e| panic!("socket {n}, {len} bytes: {e}")),
                        len
                    );
                    assert!(got[..len].iter().all(|b| *b == n));
                }
            }
        });
        udp.join().unwrap();
        requests(60, 20_000);
        // The workers show their counters ten times a second.
        std::thread::sleep(Duration::from_millis(300));
        let pages = CounterReader::open(&shm).unwrap().pages();
        let opened = pages.iter().flat_map(|page| &page.counters).filter(|(name, _)| name == "flows_opened");
        let opened: Vec<u64> = opened.map(|(_, value)| *value).collect();
        assert!(
            opened.len() == workers.len() && opened.iter().all(|n| *n > 10),
            "each worker has flows: {opened:?}"
        );
        for page in pages.iter().filter(|page| page.kind == KIND_WORKER) {
            let is = |name: &str| page.counters.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
            assert_eq!(is("flow_page_bytes"), Some(4096), "hugepages = \"never\"");
            assert_eq!(is("flow_numa_node"), is("numa_node"), "each has its flow table where its core is");
        }
    });
}

/// UDP sockets of clients that have each had an answer to what they asked, and the answers.
fn ask_all(count: u8, to: (&'static str, u16)) -> Vec<(UdpSocket, String)> {
    let work = move || {
        let ask = |n: u8| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            socket.send(&[b'a' + n]).unwrap();
            let mut got = [0; 64];
            let len = socket.recv(&mut got).unwrap_or_else(|e| panic!("socket {n}: {e}"));
            (socket, String::from_utf8_lossy(&got[..len]).into_owned())
        };
        (0..count).map(ask).collect()
    };
    on("client", work).join().unwrap()
}

/// Asks how many flows are live; all, and those of each frontend and backend.
fn count_flows(control: &mut Control, question: u64) -> (u64, std::collections::BTreeMap<String, u64>) {
    control.send(&[Update::CountFlows { question }]);
    let of_this = |event: &Event| match event {
        Event::FlowCount { question: of, .. } | Event::FlowsCounted { question: of, .. } => *of == question,
        _ => false,
    };
    let mut pairs = std::collections::BTreeMap::new();
    loop {
        match control.wait("the answer", of_this) {
            Event::FlowCount { frontend, backend, flows, .. } => {
                *pairs.entry(format!("{frontend} {backend}")).or_default() += flows;
            }
            Event::FlowsCounted { flows, .. } => return (flows, pairs),
            _ => {}
        }
    }
}

fn counter(shm: &Path, name: &str) -> u64 {
    // The workers show their counters ten times a second.
    std::thread::sleep(Duration::from_millis(300));
    let pages = CounterReader::open(shm).unwrap().pages();
    pages.iter().flat_map(|page| &page.counters).filter(|(n, _)| n == name).map(|(_, value)| value).sum()
}

#[test]
fn flows_are_counted_when_asked_and_leave_backends_that_serve_no_more() {
    in_namespace("flows_are_counted_when_asked_and_leave_backends_that_serve_no_more", || {
        let (_folder, config, shm) = scene("[0, 1]");
        let dataplane = Dataplane::start(&config);
        let mut control = Control::attach(&shm, &dataplane);
        assert_eq!(count_flows(&mut control, 1), (0, [].into()), "asked before anything else");
        control.transaction(1, &snapshot());
        control.adopted(1);
        let sockets = ask_all(40, (VIP, 80));
        let (flows, pairs) = count_flows(&mut control, 2);
        assert_eq!((flows, pairs.values().sum::<u64>(), pairs.len()), (40, 40, 2), "{pairs:?}");
        let left = pairs[&format!("UDP {VIP}:80 10.78.2.3:8080")];

        // Very many questions; the last one alone has to be answered.
        (0..20_000).for_each(|_| control.send(&[Update::CountFlows { question: 3 }]));
        control.transaction(2, &[Update::DropBackend(key(Protocol::Udp), "10.78.2.3:8080".parse().unwrap())]);
        control.adopted(2);
        let end = Instant::now() + PATIENCE;
        while count_flows(&mut control, 4).0 > 40 - left {
            assert!(Instant::now() < end, "flows of the backend that is gone stay");
        }
        for (socket, _) in &sockets {
            socket.send(b"again").unwrap();
            let mut got = [0; 64];
            assert_eq!(socket.recv(&mut got).unwrap(), 5, "the same socket, another backend");
        }
        assert_eq!(count_flows(&mut control, 5).1, [(format!("UDP {VIP}:80 10.78.2.2:8080"), 40)].into());
        assert_eq!(counter(&shm, "udp_flows_cleaned"), left);
    });
}

#[test]
fn clients_keep_their_address_where_the_frontend_says_so() {
    in_namespace("clients_keep_their_address_where_the_frontend_says_so", || {
        let (_folder, config, shm) = scene("[0, 1]");
        // Says whom it sees.
        on("backend", || {
            let socket = UdpSocket::bind("10.78.2.2:9090").unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 2048];
                loop {
                    let (_, from) = socket.recv_from(&mut bytes).unwrap();
                    socket.send_to(from.to_string().as_bytes(), from).unwrap();
                }
            });
        })
        .join()
        .unwrap();
        let dataplane = Dataplane::start(&config);
        let mut control = Control::attach(&shm, &dataplane);
        let service = ServiceKey("default/who:/UDP/IPv4".into());
        let dnat = Treatment { mode: Mode::Dnat, ..Treatment::FORWARD };
        let face = |address: &str, outside, inside| {
            let key = FrontendKey { address: address.parse().unwrap(), port: 9090, protocol: Protocol::Udp };
            let kind = FrontendKind::LoadBalancer;
            Update::PutFrontend(Frontend { key, service: service.clone(), kind, outside, inside })
        };
        let mut updates = snapshot();
        updates.extend([
            Update::PutService(Service {
                key: service.clone(),
                affinity_timeout_s: 0,
                source_ranges: vec!["10.78.1.0/24".parse().unwrap()],
                tracking: Tracking::default(),
                proxy_protocol: false,
            }),
            Update::PutBackend(
                service.clone(),
                Backend {
                    address: "10.78.2.2:9090".parse().unwrap(),
                    weight: 1,
                    state: BackendState::Ready,
                    in_cluster_set: true,
                    in_local_set: false,
                    serving: true,
                },
            ),
            face("203.0.113.11", dnat, Treatment::FORWARD),
            face("203.0.113.12", Treatment::FORWARD, dnat),
        ]);
        control.transaction(1, &updates);
        control.adopted(1);
        // Kept open, so that no port is used again, whose flow lives on.
        let mut open = Vec::new();
        let mut seen = |to| {
            let all = ask_all(30, (to, 9090));
            let own = all.iter().filter(|(socket, seen)| {
                seen.ends_with(&format!(":{}", socket.local_addr().unwrap().port()))
            });
            let counts = (own.count(), all.iter().filter(|(_, seen)| seen.starts_with("10.78.1.2:")).count());
            open.extend(all);
            counts
        };
        let (own_port, own_address) = seen("203.0.113.11");
        assert_eq!(own_address, 30, "outside, addresses are kept");
        assert!((5..30).contains(&own_port), "and ports where answers come to the same worker: {own_port}");
        assert_eq!(seen("203.0.113.12").1, 0, "nobody is inside yet");

        let networks = |text: &str| vec![text.parse().unwrap()];
        let cluster = Cluster {
            service_networks: networks("10.96.0.0/16"),
            pod_networks: networks("10.78.1.0/24"),
            ..Default::default()
        };
        control.transaction(2, &[Update::PutCluster(cluster)]);
        control.adopted(2);
        assert_eq!(seen("203.0.113.12").1, 30, "now they are");
        on("client", || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"?", "10.96.7.7:53").unwrap())
            .join()
            .unwrap();
        assert_eq!(counter(&shm, "unallocated_cluster_ip"), 1);

        let guarded = Service {
            key: service.clone(),
            affinity_timeout_s: 0,
            source_ranges: networks("192.0.2.0/24"),
            tracking: Tracking::default(),
            proxy_protocol: false,
        };
        control.transaction(3, &[Update::PutService(guarded)]);
        control.adopted(3);
        on("client", || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"?", "203.0.113.12:9090").unwrap())
            .join()
            .unwrap();
        assert_eq!(counter(&shm, "source_range"), 1);
    });
}

#[test]
fn a_killed_dataplane_serves_again_after_its_next_start() {
    in_namespace("a_killed_dataplane_serves_again_after_its_next_start", || {
        let (_folder, config, shm) = scene("[0]");
        for _ in 0..5 {
            let mut dataplane = Dataplane::start(&config);
            let mut control = Control::attach(&shm, &dataplane);
            control.transaction(1, &snapshot());
            control.adopted(1);
            requests(5, 100);
            dataplane.signal("KILL");
        }
    });
}

#[test]
fn nothing_in_the_ring_is_trusted() {
    in_namespace("nothing_in_the_ring_is_trusted", || {
        let (_folder, config, shm) = scene("[0]");
        let dataplane = Dataplane::start(&config);
        let mut control = Control::attach(&shm, &dataplane);
        control.transaction(1, &snapshot());
        control.adopted(1);

        control.0.updates().push(&[1, 0xff, 0xff, 0xff, 0xff]).unwrap();
        control.wait("resync", |event| matches!(event, Event::ResyncNeeded { .. }));
        requests(3, 100);
        control.transaction(2, &snapshot());
        control.adopted(2);

        let orphan = Update::PutBackend(
            ServiceKey("nobody".into()),
            Backend {
                address: "10.78.2.9:80".parse().unwrap(),
                weight: 1,
                state: BackendState::Ready,
                in_cluster_set: true,
                in_local_set: true,
                serving: true,
            },
        );
        control.transaction(3, &[orphan]);
        let refused = control.wait("refused", |event| matches!(event, Event::Refused { .. }));
        assert!(
            matches!(&refused, Event::Refused { generation: 3, reason } if reason.contains("nobody")),
            "{refused:?}"
        );
        control.wait("resync", |event| matches!(event, Event::ResyncNeeded { .. }));
        requests(3, 100);
        control.transaction(4, &snapshot());
        control.adopted(4);
        requests(3, 100);
    });
}

/// The program's one message on standard error.
fn refusal(config: &Path) -> String {
    refusal_of(&mut Command::new(env!("CARGO_BIN_EXE_turnpike-dataplane")), config)
}

fn refusal_of(program: &mut Command, config: &Path) -> String {
    let output = program.arg("--config").arg(config).stdout(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_wrong_is_said_once_with_the_mend() {
    in_namespace("what_is_wrong_is_said_once_with_the_mend", || {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let (config, _shm) = configure(folder.path(), "[0]");
        let good = std::fs::read_to_string(&config).unwrap();
        let rows = [
            ("workers = [0]", "workers = [999]", "core 999 is not on this host"),
            ("\"net_af_packet1,iface=gw1\"", "\"0000:ff:1f.7\"", "no PCI device 0000:ff:1f.7"),
            ("\"never\"", "\"require\"", "/proc/sys/vm/nr_hugepages"),
            ("memory_mb = 256", "memory_mb = 20", "memory_mb = 20 is too little"),
            ("iface=gw0", "iface=gone0", "no network interface \"gone0\""),
        ];
        run("ip link add gw0 type veth peer name gw1");
        for (what, with, wanted) in rows {
            let bad = good.replace(what, with).replace("memory_mb = 256", "memory_mb = 65000");
            let bad = if what == "\"never\"" { bad } else { bad.replace("65000", "256") };
            std::fs::write(&config, bad).unwrap();
            let message = refusal(&config);
            assert!(message.contains(wanted) && message.lines().count() == 1, "{with}: {message}");
        }
        std::fs::write(&config, &good).unwrap();
        let mut powerless = Command::new("setpriv");
        powerless.args(["--bounding-set=-net_raw", env!("CARGO_BIN_EXE_turnpike-dataplane")]);
        let message = refusal_of(&mut powerless, &config);
        assert!(
            message.contains("port wan") && message.contains("needs root") && message.lines().count() == 1,
            "{message}"
        );

        let message = refusal(&folder.path().join("missing.toml"));
        assert!(message.contains("missing.toml") && message.contains("--config"), "{message}");

        std::fs::write(&config, &good).unwrap();
        run("ip link set gw0 up");
        run("ip link set gw1 up");
        let first = Dataplane::start(&config);
        Control::attach(&folder.path().join("turnpike-test"), &first);
        let message = refusal(&config);
        assert!(message.contains("another dataplane of this gateway is running"), "{message}");
    });
}
