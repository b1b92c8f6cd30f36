//! The one TOML file of all three programs: what was typed → what it means, validated.

pub use crate::config_devices::PortDevice;
pub use crate::config_dsr::Dsr;
pub use crate::config_faults::Faults;
pub use crate::config_mss::MssClamp;
use ipnet::IpNet;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where the file is looked for without `--config`.
pub const DEFAULT_PATH: &str = "/etc/turnpike/turnpike.toml";

/// Every setting, as it was typed, with defaults filled in. [`Config::load`] and [`Config::parse`] only return valid ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub struct Config {
    /// This gateway.
    pub gateway: Gateway,
    /// The cluster it serves.
    pub cluster: Cluster,
    /// Where the cluster's state is.
    pub etcd: Etcd,
    /// The packet path.
    pub dataplane: Dataplane,
    /// The Kubernetes API, for what goes back to it.
    pub kubernetes: Kubernetes,
    /// The DNS server.
    pub dns: Dns,
    /// The health check servers.
    pub health: Health,
    /// The metrics server.
    pub metrics: Metrics,
}

/// `[gateway]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Its name in the fleet; default: the host's name.
    pub name: String,
    /// Set: act as this Kubernetes node.
    pub node_name: String,
    /// The topology zone.
    pub zone: String,
    /// Folder of what must survive a restart (the private etcd).
    pub state_dir: PathBuf,
    /// Folder of sockets.
    pub run_dir: PathBuf,
    /// Folder under which the shared memory of each gateway has its own folder; a tmpfs.
    pub shm_dir: PathBuf,
}

/// `[cluster]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Who writes the objects.
    pub mode: ClusterMode,
    /// Prefix of the Kubernetes objects in etcd.
    pub registry_prefix: String,
    /// Prefix of Turnpike's own keys in etcd.
    pub turnpike_prefix: String,
    /// Addresses for ClusterIPs (standalone mode).
    pub service_cidrs: Vec<IpNet>,
    /// Sources that count as pods of the cluster.
    pub pod_cidrs: Vec<IpNet>,
    /// First and last NodePort, as `"30000-32767"`.
    pub node_port_range: PortRange,
    /// Where NodePorts answer: networks of the gateway's addresses (rule P1), or `"primary"` alone: the first address of the first port
    /// (rule P2). Empty: every address of every port.
    pub node_port_addresses: Vec<String>,
    /// Whether `spec.externalIPs` are answered. Whoever may write a Service may then take any address (CVE-2020-8554, rule C8).
    pub external_ips: bool,
    /// The `spec.loadBalancerClass` that belongs to Turnpike (rule C1).
    pub load_balancer_class: String,
    /// Whether Services of type LoadBalancer without a class belong to Turnpike too.
    pub default_load_balancer: bool,
    /// Addresses for LoadBalancer Services.
    pub pools: Vec<Pool>,
}

/// Who writes the objects in etcd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterMode {
    /// Turnpike's own API (`turnpike apply`).
    #[default]
    Standalone,
    /// A kube-apiserver.
    Kubernetes,
}

/// `[[cluster.pools]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Named by the annotation `turnpike.dev/address-pool`.
    pub name: String,
    /// Its networks. Every address of a network is used, also the first and the last.
    pub addresses: Vec<IpNet>,
}

/// `[etcd]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Etcd {
    /// URLs of the members, e.g. `https://etcd-1:2379`. Empty: a private etcd in `gateway.state_dir`.
    pub endpoints: Vec<String>,
    /// PEM file of the authority that signed the members' certificates.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our client certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file of its key.
    pub key_file: Option<PathBuf>,
    /// etcd user.
    pub user: Option<String>,
    /// File that holds the user's password on its first line.
    pub password_file: Option<PathBuf>,
    /// A new list of all objects that lacks more than this share of the Services, or of the endpoints, known before is held back, in percent; 100: never.
    pub shrink_limit_percent: u8,
}

/// `[kubernetes]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// A kubeconfig for `status.loadBalancer` and finalizers of Services; none: nothing is written.
    pub kubeconfig: Option<PathBuf>,
    /// Its context; none: the current one.
    pub context: Option<String>,
}

/// `[dns]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Addresses and ports of the host on which names of Services are answered, UDP and TCP; empty: no DNS server.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain.
    pub zone: String,
    /// How long resolvers may keep an answer, in seconds.
    pub ttl_s: u32,
    /// Servers that are asked for names outside the zone; empty: such questions are refused.
    pub upstream: Vec<SocketAddr>,
}

/// `[health]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Address and port of `/healthz` and `/livez`; none, or `""`: no such server.
    #[serde(deserialize_with = "address_or_none")]
    pub listen: Option<SocketAddr>,
    /// Addresses of the host on which `healthCheckNodePort`s answer; empty: none do.
    pub node_port_addresses: Vec<IpAddr>,
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Address and port of `/metrics`; none, or `""`: no such server.
    #[serde(deserialize_with = "address_or_none")]
    pub listen: Option<SocketAddr>,
}

/// TOML has no word for nothing: an empty text says so.
fn address_or_none<'de, D: Deserializer<'de>>(input: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(input)?;
    if text.is_empty() {
        return Ok(None);
    }
    let mend = |_| {
        D::Error::custom(format!(
            "{text:?} is no address with a port, such as \"127.0.0.1:9464\"; \"\" for none"
        ))
    };
    text.parse().map(Some).map_err(mend)
}

/// `[dataplane]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dataplane {
    /// CPU cores of the workers, one worker each.
    pub workers: Vec<u16>,
    /// Flows each worker can hold.
    pub flows_per_worker: u32,
    /// The same of IPv6, if a port has an IPv6 address; none: as many as `flows_per_worker`.
    pub ipv6_flows_per_worker: Option<u32>,
    /// Flows each client can have on each worker; 0: as many as there is room for (RFC 6888 REQ-4).
    pub client_flows_max: u32,
    /// Memory for packets: huge pages where there are, none, or demanded.
    pub hugepages: Hugepages,
    /// Packet memory in MiB.
    pub memory_mb: u32,
    /// What a worker does when there is nothing to do.
    pub idle: Idle,
    /// Whether the addresses that are taken up are announced to the links, so that neighbours learn of the change at once. Not where several
    /// gateways answer the same addresses on one link.
    pub announce: bool,
    /// The NICs.
    pub ports: Vec<Port>,
    /// Source addresses towards backends.
    pub snat: Snat,
    /// Packets in packets towards the backends of Services with `turnpike.dev/mode: dsr-ipip`.
    pub dsr: Dsr,
    /// What is done to the segment sizes that TCP SYNs announce: `"off"`, `"auto"`, or a number of bytes.
    pub mss_clamp: MssClamp,
    /// For tests alone: faults that frames meet on their way from and to the NICs; none: none.
    pub faults: Option<Faults>,
}

/// `dataplane.hugepages`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hugepages {
    /// Use huge pages when enough are free, else ordinary memory with a warning.
    #[default]
    Auto,
    /// Refuse to start without huge pages.
    Require,
    /// Ordinary memory.
    Never,
}

/// `dataplane.idle`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Poll, pause, then sleep: until a frame comes where the devices can say so, else in naps of at most 100 µs.
    #[default]
    Adaptive,
    /// Poll without rest.
    Poll,
}

/// `[[dataplane.ports]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its name in listings and logs.
    pub name: String,
    /// A DPDK virtual device with its arguments (`net_af_packet0,iface=gw0`) or a PCI address (`0000:01:00.0`).
    pub device: String,
    /// The VLAN (IEEE 802.1Q) whose frames are this port's, 1 to 4094; none: frames without a tag. Ports with the same device need different ones.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// The gateway's addresses on this port, of one or both families, with the length of the connected network. The first of its family is the
    /// source of questions for neighbours. A port with an IPv6 address has the link-local one of its Ethernet address as well.
    pub addresses: Vec<IpNet>,
    /// Next hop for everything of IPv4 that is on no connected network, if this port leads there.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// The same for IPv6; often a router's link-local address.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// Whether the next hop of IPv6 is a router that says so itself (RFC 4861), in place of `gateway6`.
    #[serde(default)]
    pub router_advertisements: bool,
    /// Networks behind neighbours of this port other than `gateway`. The longest prefix of all ports wins.
    #[serde(default)]
    pub routes: Vec<StaticRoute>,
    /// Name of the tap through which the host's kernel has this port's addresses; none: the kernel has no way to this port.
    #[serde(default)]
    pub exception: Option<String>,
    /// Longest IP packet that is sent through this port, in bytes; none: the device's MTU.
    #[serde(default)]
    pub mtu: Option<u16>,
}

/// `[[dataplane.ports.routes]]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticRoute {
    /// Where to.
    pub to: IpNet,
    /// The next hop, a neighbour on a network of the port; of IPv6 also a link-local address.
    pub via: IpAddr,
}

/// The ports that this host's kernel gives its own connections (`net.ipv4.ip_local_port_range`). SNAT leaves them to it on the addresses of
/// taps.
#[must_use]
pub fn local_ports() -> PortRange {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    // What it is where nothing can be read: Linux's own default.
    local_ports_of(&text).unwrap_or(PortRange { first: 32_768, last: 60_999 })
}

fn local_ports_of(text: &str) -> Option<PortRange> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (first <= last).then_some(PortRange { first, last })
}

/// `[dataplane.snat]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Snat {
    /// Routed to this gateway by the network; empty: the first address of each family.
    pub addresses: Vec<IpAddr>,
    /// Ports that are never used, beside the well-known ones and NodePorts.
    pub excluded_ports: Vec<PortRange>,
    /// How long a port rests towards its backend after a flow, in seconds; 0: not at all (RFC 6888 REQ-8).
    pub rest_s: u32,
    /// Most ports of each worker that rest.
    pub resting_ports_max: u32,
}

/// An inclusive range of ports, written `"30000-32767"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed =
            text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        match parsed {
            Some((first, last)) if first != 0 && first <= last => Ok(Self { first, last }),
            _ => Err(format!("{text:?} is no port range; write FIRST-LAST, e.g. \"30000-32767\"")),
        }
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        format!("{}-{}", range.first, range.last)
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            name: String::new(),
            node_name: String::new(),
            zone: String::new(),
            state_dir: "/var/lib/turnpike".into(),
            run_dir: "/run/turnpike".into(),
            shm_dir: "/dev/shm".into(),
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            mode: ClusterMode::Standalone,
            registry_prefix: "/registry".into(),
            turnpike_prefix: "/turnpike".into(),
            service_cidrs: Vec::new(),
            pod_cidrs: Vec::new(),
            node_port_range: PortRange { first: 30000, last: 32767 },
            node_port_addresses: Vec::new(),
            external_ips: false,
            load_balancer_class: "turnpike.dev/gateway".into(),
            default_load_balancer: true,
            pools: Vec::new(),
        }
    }
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            user: None,
            password_file: None,
            shrink_limit_percent: 50,
        }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self { listen: Vec::new(), zone: "cluster.local".into(), ttl_s: 5, upstream: Vec::new() }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([0, 0, 0, 0], 10256))),
            node_port_addresses: vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from(([127, 0, 0, 1], 9464))) }
    }
}

impl Default for Dataplane {
    fn default() -> Self {
        Self {
            workers: Vec::new(),
            flows_per_worker: 1 << 20,
            ipv6_flows_per_worker: None,
            client_flows_max: 1 << 15,
            hugepages: Hugepages::Auto,
            memory_mb: 256,
            idle: Idle::Adaptive,
            announce: true,
            ports: Vec::new(),
            snat: Snat::default(),
            dsr: Dsr::default(),
            mss_clamp: MssClamp::default(),
            faults: None,
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; give another with --config FILE")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Not TOML, an unknown setting, or a value of the wrong type; says line and column.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and mend.
        message: String,
    },
    /// A value that cannot work.
    #[error("{path}: {setting}: {message}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The setting's dotted name.
        setting: String,
        /// What is wrong and the mend.
        message: String,
    },
}

impl Config {
    /// Reads, parses and validates the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Parses and validates `text`; `path` is named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|e| {
            let mut message = e.to_string().trim_end().to_owned();
            if let Some(question) = crate::config_spelling::question(e.message()) {
                message = format!("{message}; {question}");
            }
            ConfigError::Syntax { path: path.to_owned(), message }
        })?;
        match crate::config_rules::broken(&config) {
            Some(broken) => Err(broken.at(path)),
            None => Ok(config),
        }
    }

    /// Checks what only those need who have a dataplane: workers and ports. `path` is named in the error.
    pub fn require_dataplane(&self, path: &Path) -> Result<(), ConfigError> {
        match crate::config_rules::broken_dataplane(self) {
            Some(broken) => Err(broken.at(path)),
            None => Ok(()),
        }
    }

    /// The name of this gateway: `gateway.name`, else the host's name.
    #[must_use]
    pub fn gateway_name(&self) -> String {
        if self.gateway.name.is_empty() {
            std::fs::read_to_string("/proc/sys/kernel/hostname")
                .map_or_else(|_| "gateway".into(), |n| n.trim().to_owned())
        } else {
            self.gateway.name.clone()
        }
    }

    /// Folder of this gateway's shared memory: `shm_dir/turnpike-NAME`.
    #[must_use]
    pub fn shm_folder(&self) -> PathBuf {
        self.gateway.shm_dir.join(format!("turnpike-{}", self.gateway_name()))
    }

    /// The control plane's admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.gateway.run_dir.join("controlplane.sock")
    }

    /// The dataplane's own Unix socket.
    #[must_use]
    pub fn query_socket(&self) -> PathBuf {
        self.gateway.run_dir.join("dataplane.sock")
    }

    /// Every address of every port.
    #[must_use]
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        self.dataplane.ports.iter().flat_map(|p| p.addresses.iter().map(IpNet::addr)).collect()
    }

    /// Whether the host's kernel has this address through a tap.
    #[must_use]
    pub fn is_kernels(&self, address: IpAddr) -> bool {
        let behind_taps = self.dataplane.ports.iter().filter(|port| port.exception.is_some());
        behind_taps.flat_map(|port| &port.addresses).any(|network| network.addr() == address)
    }

    /// SNAT addresses: as set, else the first address of each family.
    #[must_use]
    pub fn snat_addresses(&self) -> Vec<IpAddr> {
        if !self.dataplane.snat.addresses.is_empty() {
            return self.dataplane.snat.addresses.clone();
        }
        let own = self.own_addresses();
        let first = |is_of: fn(&IpAddr) -> bool| own.iter().copied().find(is_of);
        first(IpAddr::is_ipv4).into_iter().chain(first(IpAddr::is_ipv6)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_port_range_is_read() {
        assert_eq!(local_ports_of("32768\t60999\n"), Some(PortRange { first: 32_768, last: 60_999 }));
        assert_eq!(local_ports_of("1024 1024"), Some(PortRange { first: 1_024, last: 1_024 }));
        for bad in ["", "1", "a b", "2 1", "1 70000"] {
            assert_eq!(local_ports_of(bad), None, "{bad:?}");
        }
        assert!(local_ports().first <= local_ports().last);
    }

    #[test]
    fn the_kernel_has_the_addresses_of_ports_with_a_tap() {
        let text = "[[dataplane.ports]]\nname = \"a\"\ndevice = \"net_null0\"\naddresses = [\"192.0.2.1/24\"]\nexception = \"tp-a\"\n\
                    [[dataplane.ports]]\nname = \"b\"\ndevice = \"net_null1\"\naddresses = [\"10.0.0.1/24\"]\n";
        let config = Config::parse(text, Path::new("t.toml")).unwrap();
        assert!(config.is_kernels([192, 0, 2, 1].into()));
        assert!(!config.is_kernels([192, 0, 2, 2].into()) && !config.is_kernels([10, 0, 0, 1].into()));
    }
}
