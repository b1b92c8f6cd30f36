//! `turnpike doctor` through the real program, on hosts made up of files.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use tempfile::TempDir;
use turnpike_wire::admin::{DataplaneStatus, EtcdStatus, PortStatus, Reply, Status, WorkerStatus};

const NIC: &str = "0000:81:00.0";

/// A host, and the configuration it is looked at with.
struct Bed {
    folder: TempDir,
    etcd: String,
    dataplane: String,
    rest: String,
}

impl Bed {
    /// A host of two NUMA nodes on which nothing is wrong, with a NIC of node 1 that DPDK has, and an interface.
    fn fit() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dataplane = format!(
            "workers = [4]\nflows_per_worker = 1048576\nhugepages = \"require\"\n[[dataplane.ports]]\nname = \"wan\"\ndevice = \"{NIC}\"\n\
             addresses = [\"192.0.2.1/24\"]\n"
        );
        let bed = Self { folder, etcd: String::new(), dataplane, rest: String::new() };
        let files = [
            ("sys/devices/system/cpu/online", "0-7"),
            ("sys/devices/system/cpu/isolated", "4-7"),
            ("sys/devices/system/cpu/cpu4/cpufreq/scaling_governor", "performance"),
            ("sys/devices/system/cpu/cpu4/topology/thread_siblings_list", "4,12"),
            ("sys/devices/system/cpu/cpu5/topology/thread_siblings_list", "5,13"),
            ("sys/devices/system/node/online", "0-1"),
            ("sys/devices/system/node/node0/cpulist", "0-3"),
            ("sys/devices/system/node/node1/cpulist", "4-7"),
            ("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "600"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "600"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "0"),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc"),
            ("sys/bus/pci/devices/0000:81:00.0/numa_node", "1"),
            ("sys/class/net/eth1/mtu", "1500"),
            ("sys/class/net/eth1/operstate", "up"),
            ("sys/class/net/eth1/queues/rx-0/rps_cpus", "0"),
            ("proc/sys/vm/nr_hugepages", "600"),
            ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-7"),
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999"),
            ("run/systemd/timesync/synchronized", ""),
            ("opt/etcd/etcd", ""),
            ("dev/net/tun", ""),
            ("dev/shm/.keep", ""),
        ];
        for (name, text) in files {
            bed.write(name, text);
        }
        bed.link(&format!("sys/bus/pci/devices/{NIC}/driver"), "../../../bus/pci/drivers/vfio-pci");
        bed.link(&format!("sys/bus/pci/devices/{NIC}/iommu_group"), "../../../kernel/iommu_groups/7");
        bed.write(&format!("sys/kernel/iommu_groups/7/devices/{NIC}"), "");
        bed
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn remove(&self, name: &str) {
        let path = self.root().join(name);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    fn link(&self, name: &str, target: &str) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
    }

    fn doctor(&self, arguments: &[&str]) -> (i32, String) {
        let config = self.folder.path().join("turnpike.toml");
        let run_dir = self.folder.path().display();
        let text = format!(
            "[gateway]\nrun_dir = \"{run_dir}\"\n[etcd]\n{}\n[dataplane]\n{}\n{}",
            self.etcd, self.dataplane, self.rest
        );
        fs::write(&config, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_turnpike"))
            .args(["--config", config.to_str().unwrap(), "doctor", "--root", self.root().to_str().unwrap()])
            .args(arguments)
            .env("PATH", "/opt/etcd:/opt/none")
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    /// What is not well: check, level, message and mend; and the exit status is what the report says.
    fn complaints(&self) -> Vec<(String, String, String)> {
        let (code, text) = self.doctor(&["--json"]);
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(code == 0, report["fit"].as_bool().unwrap(), "{text}");
        let of = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        let findings = report["findings"].as_array().unwrap();
        let level = |wanted: &str| findings.iter().filter(|finding| finding["level"] == wanted).count();
        assert_eq!(report["failures"], level("failure"));
        assert_eq!(report["warnings"], level("warning"));
        let bad = findings.iter().filter(|finding| finding["level"] != "ok");
        bad.map(|finding| {
            let (message, mend) = (of(finding, "message"), of(finding, "mend"));
            assert!(!message.is_empty() && (finding["level"] == "unknown" || !mend.is_empty()), "{finding}");
            (of(finding, "check"), of(finding, "level"), format!("{message} → {mend}"))
        })
        .collect()
    }

    /// That exactly this is wrong.
    fn says(&self, what: &str, wanted: &[(&str, &str, &str)]) {
        let found = self.complaints();
        let as_wanted = found.len() == wanted.len()
            && found.iter().zip(wanted).all(|((check, level, words), wanted)| {
                check == wanted.0 && level == wanted.1 && words.contains(wanted.2)
            });
        assert!(as_wanted, "{what}: {found:#?}\nis not\n{wanted:#?}");
    }

    fn change(&mut self, from: &str, to: &str) {
        assert!(self.dataplane.contains(from), "{from}");
        self.dataplane = self.dataplane.replace(from, to);
    }

    fn interface(&mut self) {
        self.change(NIC, "net_af_packet0,iface=eth1");
    }

    /// A control plane that says this once.
    fn control_plane(&self, status: &Reply) {
        let path = self.folder.path().join("controlplane.sock");
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let line = serde_json::to_string(status).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
            writeln!(stream, "{line}").unwrap();
        });
    }
}

#[test]
fn a_fit_host_has_no_complaint_and_each_check_says_what_it_saw() {
    let bed = Bed::fit();
    bed.says("fit", &[]);
    let (code, text) = bed.doctor(&[]);
    assert_eq!(code, 0, "{text}");
    for words in [
        "ok       cores",
        "workers on cores 4 of 0-7",
        "devices are behind an IOMMU",
        "352 MiB of huge pages are wanted, 1200 MiB are free",
        "this host is fit: 0 failures, 0 warnings",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    let (_, json) = bed.doctor(&["-o", "json"]);
    assert_eq!(json, bed.doctor(&["--json"]).1);
    assert!(bed.doctor(&["-o", "yaml"]).1.contains("fit: true"));
}

type Change = fn(&mut Bed);

/// What is changed on a host on which all is well, and what is said then: check, level, words.
type Row = (&'static str, Change, &'static [(&'static str, &'static str, &'static str)]);

#[test]
fn each_thing_that_is_wrong_is_named_with_its_mend() {
    let rows: &[Row] = &[
        (
            "no such core",
            |bed| bed.change("[4]", "[4, 9]"),
            &[
                ("cores", "failure", "core 9, and this host gives cores 0-7 → choose from 0-7"),
                ("isolation", "warning", "workers' cores 9"),
                ("rss", "unknown", "once the dataplane runs"),
            ],
        ),
        (
            "not given to the process",
            |bed| bed.write("proc/self/status", "Cpus_allowed_list:\t0-3"),
            &[("cores", "failure", "core 4, and this host gives cores 0-3")],
        ),
        (
            "two threads of a core",
            |bed| {
                bed.change("[4]", "[4, 5]");
                bed.write("sys/devices/system/cpu/cpu4/topology/thread_siblings_list", "4-5");
                bed.write("sys/devices/system/cpu/cpu5/topology/thread_siblings_list", "4-5");
            },
            &[
                ("cores", "warning", "workers 4,5 share one physical core (threads 4-5)"),
                ("rss", "unknown", "once the dataplane runs"),
            ],
        ),
        (
            "no core is left",
            |bed| bed.write("proc/self/status", "Cpus_allowed_list:\t4"),
            &[("cores", "warning", "leave at least one core out")],
        ),
        (
            "not isolated",
            |bed| bed.write("sys/devices/system/cpu/isolated", ""),
            &[("isolation", "warning", "isolcpus=4 nohz_full=4 rcu_nocbs=4")],
        ),
        (
            "slow governor",
            |bed| bed.write("sys/devices/system/cpu/cpu4/cpufreq/scaling_governor", "powersave"),
            &[(
                "core speed",
                "warning",
                "echo performance > /sys/devices/system/cpu/cpu4/cpufreq/scaling_governor",
            )],
        ),
        (
            "far from the NIC",
            |bed| bed.write("sys/bus/pci/devices/0000:81:00.0/numa_node", "0"),
            &[("numa", "warning", "worker 0 on core 4 is on NUMA node 1, its queue of port wan on node 0")],
        ),
        (
            "no NIC",
            |bed| bed.remove("sys/bus/pci/devices/0000:81:00.0"),
            &[(
                "devices",
                "failure",
                "there is no PCI device 0000:81:00.0 → dpdk-devbind.py --status-dev net",
            )],
        ),
        (
            "the kernel's NIC",
            |bed| bed.link("sys/bus/pci/devices/0000:81:00.0/driver", "../drivers/ixgbe"),
            &[(
                "devices",
                "failure",
                "belongs to the kernel (driver ixgbe) → modprobe vfio-pci && dpdk-devbind.py --bind=vfio-pci 0000:81:00.0",
            )],
        ),
        (
            "nobody's NIC",
            |bed| bed.remove("sys/bus/pci/devices/0000:81:00.0/driver"),
            &[("devices", "failure", "has no driver")],
        ),
        (
            "an unfenced driver",
            |bed| bed.link("sys/bus/pci/devices/0000:81:00.0/driver", "../drivers/uio_pci_generic"),
            &[("devices", "warning", "bound to uio_pci_generic")],
        ),
        (
            "no IOMMU",
            |bed| bed.remove("sys/bus/pci/devices/0000:81:00.0/iommu_group"),
            &[("iommu", "failure", "intel_iommu=on iommu=pt")],
        ),
        (
            "no IOMMU, and that is allowed",
            |bed| {
                bed.remove("sys/bus/pci/devices/0000:81:00.0/iommu_group");
                bed.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y");
            },
            &[("iommu", "warning", "VFIO is allowed without")],
        ),
        (
            "a group with the kernel",
            |bed| {
                bed.write("sys/kernel/iommu_groups/7/devices/0000:81:00.1", "");
                bed.link("sys/bus/pci/devices/0000:81:00.1/driver", "../drivers/ahci");
            },
            &[(
                "iommu",
                "failure",
                "shares IOMMU group 7 with 0000:81:00.1, which the kernel has (driver ahci)",
            )],
        ),
        (
            "a shared NIC needs no VFIO",
            |bed| {
                bed.link("sys/bus/pci/devices/0000:81:00.0/driver", "../drivers/mlx5_core");
                bed.remove("sys/bus/pci/devices/0000:81:00.0/iommu_group");
            },
            &[],
        ),
        (
            "few huge pages",
            |bed| bed.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "76"),
            &[(
                "hugepages",
                "failure",
                "352 MiB of huge pages are wanted (packets and flow tables), 152 MiB are free → sysctl -w vm.nr_hugepages=700",
            )],
        ),
        (
            "those are promised to others",
            |bed| {
                bed.write("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "524");
                bed.change("require", "auto");
            },
            &[("hugepages", "warning", "152 MiB are free")],
        ),
        (
            "1 GiB pages count",
            |bed| {
                bed.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0");
                bed.write("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "1");
            },
            &[],
        ),
        (
            "on the wrong node",
            |bed| bed.write("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "9"),
            &[(
                "hugepages",
                "warning",
                "node 1 want 96 MiB of huge pages, that node has 18 MiB free → echo 48 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
            )],
        ),
        (
            "no huge pages at all",
            |bed| bed.remove("sys/kernel/mm/hugepages"),
            &[("hugepages", "failure", "CONFIG_HUGETLBFS")],
        ),
        (
            "none are wanted",
            |bed| {
                bed.change("require", "never");
                bed.remove("sys/kernel/mm/hugepages");
            },
            &[],
        ),
        (
            "a slow clock nobody keeps",
            |bed| {
                bed.write("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet");
                bed.remove("run/systemd");
            },
            &[("clock", "warning", "hpet"), ("clock", "warning", "apt-get install chrony")],
        ),
        (
            "no folder for shared memory",
            |bed| bed.remove("dev/shm"),
            &[("shared memory", "failure", "mkdir -p /dev/shm")],
        ),
        (
            "no interface",
            |bed| {
                bed.interface();
                bed.remove("sys/class/net/eth1");
            },
            &[("devices", "failure", "there is no network interface eth1")],
        ),
        (
            "link is down",
            |bed| {
                bed.interface();
                bed.write("sys/class/net/eth1/operstate", "down");
            },
            &[("links", "warning", "ip link set eth1 up")],
        ),
        (
            "short MTU",
            |bed| {
                bed.interface();
                bed.dataplane += "mtu = 9000\n";
            },
            &[("mtu", "failure", "ip link set eth1 mtu 9000")],
        ),
        (
            "two MTUs",
            |bed| {
                bed.interface();
                bed.write("sys/class/net/eth2/mtu", "9000");
                bed.dataplane += "[[dataplane.ports]]\nname = \"lan\"\ndevice = \"net_af_packet1,iface=eth2\"\naddresses = [\"10.0.0.1/24\"]\n";
            },
            &[("mtu", "warning", "port lan takes packets of 9000 bytes, port wan of 1500")],
        ),
        (
            "few queues",
            |bed| {
                bed.change("[4]", "[4, 5]");
                bed.change(NIC, "net_af_xdp0,iface=eth1,queue_count=2");
            },
            &[
                ("rss", "failure", "ethtool -L eth1 combined 2"),
                ("rss", "unknown", "once the dataplane runs"),
            ],
        ),
        (
            "no tap",
            |bed| {
                bed.dataplane += "exception = \"tp-wan\"\n";
                bed.remove("dev/net/tun");
            },
            &[("devices", "failure", "modprobe tun")],
        ),
        (
            "NodePorts are the kernel's",
            |bed| {
                bed.dataplane += "exception = \"tp-wan\"\n";
                bed.write("proc/sys/net/ipv4/ip_local_port_range", "1024 60999");
            },
            &[("listeners", "warning", "ip_local_reserved_ports=30000-32767")],
        ),
        (
            "somebody listens",
            |bed| {
                let at = u32::from_ne_bytes([127, 0, 0, 1]);
                bed.write(
                    "proc/net/tcp",
                    &format!("  sl  local\n   0: {at:08X}:24F8 00000000:0000 0A 0:0 0:0 0 0 0 4711 1"),
                );
                bed.write("proc/900/comm", "exporter");
                bed.link("proc/900/fd/3", "socket:[4711]");
            },
            &[(
                "listeners",
                "failure",
                "metrics.listen TCP 127.0.0.1:9464: exporter (process 900) listens at 127.0.0.1:9464",
            )],
        ),
        (
            "no etcd to start",
            |bed| bed.remove("opt/etcd"),
            &[("etcd", "failure", "apt-get install etcd-server")],
        ),
        (
            "no such certificate",
            |bed| {
                bed.etcd = "endpoints = [\"https://127.0.0.1:1\"]\nca_file = \"/nonexistent/ca.pem\"".into();
            },
            &[
                ("etcd", "failure", "/nonexistent/ca.pem"),
                ("etcd", "failure", "no member of etcd can be reached"),
            ],
        ),
    ];
    for (what, change, wanted) in rows {
        let mut bed = Bed::fit();
        change(&mut bed);
        bed.says(what, wanted);
    }
}

#[test]
fn members_of_etcd_are_tried_one_by_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let there = format!("http://{}", listener.local_addr().unwrap());
    let mut bed = Bed::fit();
    bed.etcd = format!("endpoints = [\"{there}\"]");
    bed.says("one that is there", &[]);
    bed.etcd = format!("endpoints = [\"{there}\", \"http://127.0.0.1:1\"]");
    bed.says("one of two", &[("etcd", "warning", "http://127.0.0.1:1")]);
}

/// A kernel that says nothing: every file may lack.
#[test]
fn a_host_that_says_nothing_is_not_known() {
    let bed = Bed::fit();
    fs::remove_dir_all(bed.root()).unwrap();
    let complaints = bed.complaints();
    let checks: Vec<(&str, &str)> =
        complaints.iter().map(|(check, level, _)| (check.as_str(), level.as_str())).collect();
    assert_eq!(
        checks,
        [
            ("cores", "unknown"),
            ("isolation", "unknown"),
            ("devices", "failure"),
            ("hugepages", "failure"),
            ("shared memory", "failure"),
            ("clock", "unknown"),
            ("clock", "warning"),
            ("etcd", "failure"),
        ]
    );
}

#[test]
fn files_of_nonsense_harm_nothing() {
    let bed = Bed::fit();
    fn each(folder: &Path, visit: &mut dyn FnMut(&Path)) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                each(&entry.path(), visit);
            } else if kind.is_file() {
                visit(&entry.path());
            }
        }
    }
    for nonsense in ["", "\u{fffd}é", "-1", "99999999999999999999", "0-4294967295,,-,a-b", "\0\0\0\n\n: :"] {
        each(&bed.root(), &mut |path| fs::write(path, nonsense).unwrap());
        bed.write("proc/net/tcp", nonsense);
        bed.write(
            "proc/net/udp6",
            &format!("sl\n{nonsense} {nonsense}:{nonsense} x 07 1 1 1 1 1 {nonsense}"),
        );
        let (code, text) = bed.doctor(&[]);
        assert!(code <= 1 && text.contains("this host is"), "{nonsense:?}: {code}, {text}");
    }
}

#[test]
fn what_the_running_gateway_knows_is_asked() {
    let worker = |flow_node: u32, flow_page_bytes: u64| WorkerStatus {
        core: 4,
        flow_page_bytes,
        flow_numa_node: Some(flow_node),
        ..WorkerStatus::default()
    };
    let port = |steering: &str, astray: u64| PortStatus {
        name: "wan".into(),
        device: NIC.into(),
        driver: "net_ixgbe".into(),
        link_up: true,
        steering: steering.into(),
        counters: [("nic_hash_astray".to_owned(), astray)].into(),
        ..PortStatus::default()
    };
    let status = |etcd: EtcdStatus, worker: WorkerStatus, port: PortStatus| {
        let dataplane = DataplaneStatus {
            state: "serving".into(),
            workers: vec![worker],
            ports: vec![port],
            ..DataplaneStatus::default()
        };
        Reply::Status(Box::new(Status { etcd, dataplane, ..Status::default() }))
    };
    let mut bed = Bed::fit();
    bed.change("[4]", "[4, 5]");
    let well = EtcdStatus { state: "connected".into(), ..EtcdStatus::default() };
    let huge = 2 << 20;
    bed.control_plane(&status(well.clone(), worker(1, huge), port("rss", 0)));
    bed.says("all is well", &[]);
    bed.control_plane(&status(well.clone(), worker(0, 4096), port("handoff", 0)));
    bed.says(
        "slower than it could be",
        &[
            ("rss", "warning", "hand answers over"),
            ("numa", "warning", "its flow table on node 0"),
            ("hugepages", "warning", "flow table of worker 0 is in ordinary pages"),
        ],
    );
    bed.control_plane(&status(well, worker(1, huge), port("rss", 5)));
    bed.says("a NIC that pretends", &[("rss", "failure", "its own hashes name (5 seen)")]);
    let denied = EtcdStatus {
        state: "disconnected".into(),
        last_error: Some("permission denied".into()),
        warnings: vec!["nodes may not be read; grant it".into()],
        ..EtcdStatus::default()
    };
    bed.control_plane(&status(denied, worker(1, huge), port("rss", 0)));
    bed.says(
        "no role",
        &[
            ("etcd", "warning", "nodes may not be read → grant it"),
            ("etcd", "failure", "permission denied → look whether etcd runs"),
        ],
    );
}
