//! What runs beside the dataplane: the host's clock, who listens at the ports that the control plane wants, and etcd.

use super::{Finding, Findings, Host, Patient};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

/// How long etcd may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// Clock sources that cost tens of nanoseconds, not microseconds.
const FAST_CLOCKS: &[&str] = &["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "xen"];

/// Files that are there while something keeps the clock right, by what does.
const SYNCHRONISERS: &[&str] = &[
    "run/systemd/timesync/synchronized",
    "run/chrony/chronyd.pid",
    "run/chrony",
    "run/ntpd.pid",
    "run/ntpsec/ntpd.pid",
    "run/ptp4l",
];

/// The clock is quick to read, and right.
pub fn clock(patient: &Patient<'_>) -> Vec<Finding> {
    let (mut found, host) = (Findings::of("clock"), patient.host);
    match host.text("sys/devices/system/clocksource/clocksource0/current_clocksource") {
        None => found.unknown("the kernel does not say what its clock source is"),
        Some(source) if FAST_CLOCKS.contains(&source.as_str()) => {}
        Some(source) => found.warn(
            format!("the kernel reads its clock from {source}, which is slow"),
            "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource; if it is refused, add tsc=reliable to the kernel's command line",
        ),
    }
    if !SYNCHRONISERS.iter().any(|file| host.has(file)) {
        found.warn(
            "nothing seems to keep the clock right: certificates and etcd's leases depend on it",
            "apt-get install chrony (or systemd-timesyncd)",
        );
    }
    found.or_ok("quick to read, and kept right")
}

/// A socket that listens, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listening {
    address: SocketAddr,
    inode: u64,
}

/// Those of one of `/proc/net/{tcp,tcp6,udp,udp6}`: TCP in state LISTEN (0A), UDP without a peer (07).
fn listening(text: &str, state: &str) -> Vec<Listening> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (local, found, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        let (address, port) = local.split_once(':')?;
        if *found != state {
            return None;
        }
        let address = SocketAddr::new(kernel_address(address)?, u16::from_str_radix(port, 16).ok()?);
        Some(Listening { address, inode: inode.parse().ok()? })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// An address as these files have it: words of 32 bits in the order of the host's bytes.
fn kernel_address(hex: &str) -> Option<IpAddr> {
    if !hex.is_ascii() {
        return None;
    }
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at * 8)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Whether two sockets cannot both be bound: the same port, and one address, or one of them every address (`::` takes IPv4 too).
fn collide(wanted: SocketAddr, there: SocketAddr) -> bool {
    let every =
        |address: IpAddr, other: IpAddr| address.is_unspecified() && (address.is_ipv6() || other.is_ipv4());
    let (a, b) = (wanted.ip(), there.ip());
    wanted.port() == there.port() && (a == b || every(a, b) || every(b, a))
}

/// The process that holds a socket.
fn holder(host: &Host, inode: u64) -> Option<String> {
    let socket = format!("socket:[{inode}]");
    let processes =
        host.names("proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    for process in processes {
        let folder = format!("proc/{process}/fd");
        let holds = |descriptor: &String| {
            let link = std::fs::read_link(host.path(&folder).join(descriptor));
            link.is_ok_and(|link| link.as_os_str() == socket.as_str())
        };
        if host.names(&folder).iter().any(holds) {
            let name = host.text(format!("proc/{process}/comm")).unwrap_or_else(|| "process".into());
            return Some(format!("{name} (process {process})"));
        }
    }
    None
}

/// Nobody else listens where the control plane wants to, and the kernel's own ports are not NodePorts.
pub fn listeners(patient: &Patient<'_>) -> Vec<Finding> {
    let (mut found, host, config) = (Findings::of("listeners"), patient.host, patient.config);
    let nodes = config.cluster.node_port_range;
    if let Some(text) = host.text("proc/sys/net/ipv4/ip_local_port_range") {
        let mut numbers = text.split_whitespace().map(|word| word.parse::<u16>().ok());
        if let (Some(Some(first)), Some(Some(last))) = (numbers.next(), numbers.next())
            && first <= nodes.last
            && nodes.first <= last
            && config.dataplane.ports.iter().any(|port| port.exception.is_some())
        {
            found.warn(
                format!(
                    "this host's own connections use ports {first}-{last}, and NodePorts are {}-{}",
                    nodes.first, nodes.last
                ),
                format!("sysctl -w net.ipv4.ip_local_reserved_ports={}-{}", nodes.first, nodes.last),
            );
        }
    }
    if patient.status.is_some() {
        return found.or_ok("the control plane runs and has its sockets");
    }
    let read = |file: &str, state: &str| {
        listening(&host.text(format!("proc/net/{file}")).unwrap_or_default(), state)
    };
    let mut there: BTreeMap<&str, Vec<Listening>> = BTreeMap::new();
    there.insert("TCP", [read("tcp", "0A"), read("tcp6", "0A")].concat());
    there.insert("UDP", [read("udp", "07"), read("udp6", "07")].concat());
    let mut wanted: Vec<(&str, &str, SocketAddr)> = Vec::new();
    wanted.extend(
        config.dns.listen.iter().flat_map(|at| [("dns.listen", "UDP", *at), ("dns.listen", "TCP", *at)]),
    );
    wanted.extend(config.health.listen.map(|at| ("health.listen", "TCP", at)));
    wanted.extend(config.metrics.listen.map(|at| ("metrics.listen", "TCP", at)));
    for (setting, protocol, address) in &wanted {
        let known = there.get(protocol).map(Vec::as_slice).unwrap_or_default();
        if let Some(other) = known.iter().find(|other| collide(*address, other.address)) {
            let whose = holder(host, other.inode).unwrap_or_else(|| "another process".into());
            found.fail(
                format!("{setting} {protocol} {address}: {whose} listens at {}", other.address),
                format!("stop it, or set another {setting}"),
            );
        }
    }
    found.or_ok(format!("{} addresses are free", wanted.len()))
}

/// etcd is there, and lets the control plane do what it must.
pub fn etcd(patient: &Patient<'_>) -> Vec<Finding> {
    let (mut found, settings) = (Findings::of("etcd"), &patient.config.etcd);
    if let Some(status) = patient.status {
        let etcd = &status.etcd;
        for warning in &etcd.warnings {
            let (what, mend) = warning.split_once("; ").unwrap_or((warning, "turnpike status says more"));
            found.warn(what, mend);
        }
        if etcd.state != "connected" {
            let why = etcd.last_error.as_deref().unwrap_or("it has not answered yet");
            found.fail(
                format!("the control plane is {} from etcd at {}: {why}", etcd.state, etcd.endpoints.join(", ")),
                "look whether etcd runs, whether etcd.endpoints and certificates are right, and whether its user has a role that may read cluster.registry_prefix and read and write cluster.turnpike_prefix",
            );
        }
        return found.or_ok(format!(
            "connected to {}, revision {}",
            etcd.endpoints.join(", "),
            etcd.revision
        ));
    }
    let files = [
        ("etcd.ca_file", &settings.ca_file),
        ("etcd.cert_file", &settings.cert_file),
        ("etcd.key_file", &settings.key_file),
        ("etcd.password_file", &settings.password_file),
    ];
    for (setting, path) in files.iter().filter_map(|(setting, path)| Some((setting, path.as_deref()?))) {
        if let Err(why) = std::fs::File::open(path) {
            let shown = path.display();
            found.fail(
                format!("{setting} {shown}: {why}"),
                format!("put the file there, or let this user read it: ls -l {shown}"),
            );
        }
    }
    if settings.endpoints.is_empty() {
        let search = std::env::var_os("PATH").unwrap_or_default();
        let is_there = |folder: &Path| {
            patient.host.path(folder.strip_prefix("/").unwrap_or(folder)).join("etcd").is_file()
        };
        if !std::env::split_paths(&search).any(|folder| is_there(&folder)) {
            found.fail(
                "etcd.endpoints is empty, and there is no program etcd to start",
                "apt-get install etcd-server, or set etcd.endpoints",
            );
        }
        return found.or_ok("a private etcd is started");
    }
    let mut last_why = String::new();
    let mut reached = 0;
    for endpoint in &settings.endpoints {
        match reach(endpoint) {
            Ok(()) => reached += 1,
            Err(why) => {
                last_why.clone_from(&why);
                if settings.endpoints.len() > 1 {
                    found.warn(
                        format!("{endpoint}: {why}"),
                        "look whether that member runs and a firewall lets port 2379 through",
                    );
                }
            }
        }
    }
    if reached == 0 {
        found.fail(
            format!("no member of etcd can be reached ({}): {last_why}", settings.endpoints.join(", ")),
            "look whether etcd runs, whether etcd.endpoints is right, and whether a firewall lets port 2379 through",
        );
    }
    found.or_ok(format!("{reached} members can be reached; roles are seen once the control plane runs"))
}

/// Whether something accepts connections at an endpoint's address.
fn reach(endpoint: &str) -> Result<(), String> {
    let bare = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let place = bare.split('/').next().unwrap_or(bare);
    let with_port = |port: &str| {
        if place.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok()) {
            place.to_owned()
        } else {
            format!("{place}:{port}")
        }
    };
    let addresses = with_port("2379").to_socket_addrs().map_err(|why| why.to_string())?;
    let mut outcome = Err("it has no address".to_owned());
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(why) => outcome = Err(why.to_string()),
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_as_the_kernel_lists_them() {
        let ip = |parts: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(parts));
        let six = |bytes: [u8; 16]| {
            bytes
                .chunks(4)
                .map(|part| format!("{:08X}", u32::from_ne_bytes([part[0], part[1], part[2], part[3]])))
                .collect::<String>()
        };
        let line = |local: &str, state: &str, inode: &str| {
            format!("   0: {local} 00000000:0000 {state} 0:0 0:0 0 0 0 {inode} 1 0\n")
        };
        let text = [
            "  sl  local_address rem_address   st ...\n".to_owned(),
            line(&format!("{}:24F8", ip([127, 0, 0, 1])), "0A", "77"),
            line(&format!("{}:0035", ip([10, 0, 0, 1])), "01", "78"),
            line(&format!("{}:0035", six(Ipv6Addr::LOCALHOST.octets())), "0A", "79"),
            line("zz:0035", "0A", "80"),
            line("é0000000:0035", "0A", "81"),
            "short\n".to_owned(),
        ]
        .concat();
        let wanted = [("127.0.0.1:9464", 77), ("[::1]:53", 79)]
            .map(|(address, inode)| Listening { address: address.parse().unwrap(), inode });
        assert_eq!(listening(&text, "0A"), wanted);
        assert_eq!(listening("", "0A"), []);
    }

    #[test]
    fn sockets_collide_as_the_kernel_says() {
        for (wanted, there, yes) in [
            ("127.0.0.1:53", "127.0.0.1:53", true),
            ("127.0.0.1:53", "127.0.0.1:54", false),
            ("127.0.0.1:53", "127.0.0.2:53", false),
            ("127.0.0.1:53", "0.0.0.0:53", true),
            ("0.0.0.0:53", "10.0.0.1:53", true),
            ("127.0.0.1:53", "[::]:53", true),
            ("[::1]:53", "0.0.0.0:53", false),
            ("[::]:53", "10.0.0.1:53", true),
        ] {
            assert_eq!(collide(wanted.parse().unwrap(), there.parse().unwrap()), yes, "{wanted} and {there}");
        }
    }
}
