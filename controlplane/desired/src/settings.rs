//! What of the configuration the rules need.

use crate::desired::Family;
use crate::k8s::Service;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use turnpike_wire::config::{ClusterMode, Config, Pool, PortRange};

/// What [`crate::resolve`] needs to know about this gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where NodePorts answer: the addresses of the gateway's ports.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Those and the SNAT addresses: none of them can be a backend, a cluster or a load-balancer address.
    pub own_addresses: BTreeSet<IpAddr>,
    /// NodePorts; none: no port is one.
    pub node_port_range: Option<PortRange>,
    /// Networks of the cluster addresses, as configured; those of ServiceCIDR objects come from the tracker.
    pub service_cidrs: Vec<IpNet>,
    /// Networks of pods, as configured; empty: those of the Node objects.
    pub pod_cidrs: Vec<IpNet>,
    /// Which load-balancer addresses may be answered.
    pub load_balancer_scope: LoadBalancerScope,
    /// Whether `spec.externalIPs` are answered (rule C8).
    pub external_ips: bool,
    /// The Kubernetes node this gateway acts as; empty: none.
    pub node_name: String,
    /// Its topology zone; empty: that of the Node object.
    pub zone: String,
}

/// Which addresses of `status.loadBalancer` may be answered (CVE-2020-8554: whoever can write a status could take any address).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadBalancerScope {
    /// Those of the configured pools.
    Pools(Vec<IpNet>),
    /// Any that is no cluster address and not the gateway's own: an installation that trusts its API server's writers, with no pool set.
    Any,
}

impl Default for LoadBalancerScope {
    fn default() -> Self {
        Self::Pools(Vec::new())
    }
}

impl LoadBalancerScope {
    /// Whether `address` may be answered.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Pools(networks) => networks.iter().any(|network| network.contains(&address)),
        }
    }
}

impl Settings {
    /// The settings of a configuration. Load-balancer addresses are bound to the pools in standalone mode always, in Kubernetes mode if there is a pool.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let pools = &config.cluster.pools;
        let scope = if pools.is_empty() && config.cluster.mode == ClusterMode::Kubernetes {
            LoadBalancerScope::Any
        } else {
            LoadBalancerScope::Pools(pools.iter().flat_map(|pool| pool.addresses.iter().copied()).collect())
        };
        let ports: BTreeSet<IpAddr> = config.own_addresses().into_iter().collect();
        let snat = config.snat_addresses();
        Self {
            own_addresses: ports.iter().copied().chain(snat).collect(),
            node_port_addresses: node_port_addresses(
                &config.own_addresses(),
                &config.cluster.node_port_addresses,
            ),
            node_port_range: Some(config.cluster.node_port_range),
            service_cidrs: config.cluster.service_cidrs.clone(),
            pod_cidrs: config.cluster.pod_cidrs.clone(),
            external_ips: config.cluster.external_ips,
            load_balancer_scope: scope,
            node_name: config.gateway.node_name.clone(),
            zone: config.gateway.zone.clone(),
        }
    }
}

/// The addresses that have NodePorts, of the gateway's `own` in the order of the ports, by `cluster.node_port_addresses`.
///
/// By family (rule P1): networks choose among the addresses of theirs, a network of length 0 chooses all, and a family that no network
/// is given for has all. `primary` is the first address of each family (rule P2).
fn node_port_addresses(own: &[IpAddr], chosen: &[String]) -> BTreeSet<IpAddr> {
    if chosen.iter().any(|text| text == "primary") {
        let first = |family| own.iter().copied().find(|address| Family::of(*address) == family);
        return [Family::V4, Family::V6].into_iter().filter_map(first).collect();
    }
    let networks: Vec<IpNet> = chosen.iter().filter_map(|text| text.parse().ok()).collect();
    let is_chosen = |address: &IpAddr| {
        let family = Family::of(*address);
        let mut of_family = networks.iter().filter(|network| Family::of(network.addr()) == family).peekable();
        of_family.peek().is_none()
            || of_family.any(|network| network.prefix_len() == 0 || network.contains(address))
    };
    own.iter().copied().filter(is_chosen).collect()
}

/// Which Services of type LoadBalancer get their addresses from this gateway (rule C1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancerClass {
    /// The class that is ours.
    pub name: String,
    /// Whether Services without a class are ours too.
    pub is_default: bool,
}

impl LoadBalancerClass {
    /// The class of a configuration.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let cluster = &config.cluster;
        Self { name: cluster.load_balancer_class.clone(), is_default: cluster.default_load_balancer }
    }

    /// Whether a Service is of type LoadBalancer and of this class.
    #[must_use]
    pub fn is_ours(&self, service: &Service) -> bool {
        let spec = &service.spec;
        spec.r#type == "LoadBalancer"
            && match spec.load_balancer_class.as_deref() {
                None => self.is_default,
                Some(class) => class == self.name,
            }
    }
}

/// What [`crate::validate`] and [`crate::allocate`] need to know about the cluster (standalone mode).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Networks of the cluster addresses.
    pub service_cidrs: Vec<IpNet>,
    /// NodePorts.
    pub node_port_range: PortRange,
    /// Pools of load-balancer addresses.
    pub pools: Vec<Pool>,
    /// Which Services get addresses of them.
    pub load_balancer_class: LoadBalancerClass,
    /// The gateway's own addresses: never given to a Service.
    pub own_addresses: BTreeSet<IpAddr>,
}

impl Rules {
    /// The rules of a configuration.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        Self {
            service_cidrs: config.cluster.service_cidrs.clone(),
            node_port_range: config.cluster.node_port_range,
            pools: config.cluster.pools.clone(),
            load_balancer_class: LoadBalancerClass::from_config(config),
            own_addresses: Settings::from_config(config).own_addresses,
        }
    }

    /// The family of a Service that names none: that of the first network of cluster addresses.
    #[must_use]
    pub fn first_family(&self) -> Family {
        self.service_cidrs.first().map_or(Family::V4, |network| Family::of(network.addr()))
    }
}

#[cfg(test)]
mod tests {
    use super::{LoadBalancerScope, Settings};
    use turnpike_wire::config::Config;

    const CONFIG: &str = r#"
        [cluster]
        mode = "MODE"
        service_cidrs = ["10.96.0.0/16"]
        [etcd]
        endpoints = ["https://192.0.2.9:2379"]
        [dataplane]
        workers = [1]
        [dataplane.snat]
        addresses = ["10.1.0.1"]
        [[dataplane.ports]]
        name = "wan"
        device = "net_null0"
        addresses = ["192.0.2.1/24"]
    "#;

    fn settings(mode: &str, pools: &str) -> Settings {
        let text = format!("{}{pools}", CONFIG.replace("MODE", mode));
        Settings::from_config(&Config::parse(&text, std::path::Path::new("test.toml")).unwrap())
    }

    #[test]
    fn node_ports_answer_on_ports_and_snat_addresses_are_only_kept_free() {
        let settings = settings("standalone", "");
        assert_eq!(settings.node_port_addresses, ["192.0.2.1".parse().unwrap()].into());
        assert_eq!(
            settings.own_addresses,
            ["192.0.2.1", "10.1.0.1"].map(|text| text.parse().unwrap()).into()
        );
    }

    #[test]
    fn public_addresses_are_bound_to_pools_unless_an_api_server_is_trusted() {
        let pool = "\n[[cluster.pools]]\nname = \"public\"\naddresses = [\"203.0.113.0/24\"]\n";
        let rows = [
            ("standalone", "", false, false),
            ("standalone", pool, true, false),
            ("kubernetes", pool, true, false),
            ("kubernetes", "", true, true),
        ];
        for (mode, pools, inside, outside) in rows {
            let scope = settings(mode, pools).load_balancer_scope;
            assert_eq!(scope.contains("203.0.113.9".parse().unwrap()), inside, "{mode} {pools}");
            assert_eq!(scope.contains("198.51.100.9".parse().unwrap()), outside, "{mode} {pools}");
            assert_eq!(scope == LoadBalancerScope::Any, outside);
        }
    }

    /// Where NodePorts answer on a gateway with 192.0.2.1, 198.51.100.1 and 2001:db8::1, in this order.
    fn chosen(setting: &[&str]) -> Vec<String> {
        let own = ["192.0.2.1", "198.51.100.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let setting: Vec<String> = setting.iter().map(|text| (*text).to_owned()).collect();
        super::node_port_addresses(&own, &setting).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rule_p1_networks_choose_by_family() {
        let all = ["192.0.2.1", "198.51.100.1", "2001:db8::1"];
        assert_eq!(chosen(&[]), all);
        assert_eq!(chosen(&["198.51.100.0/24"]), ["198.51.100.1", "2001:db8::1"], "no network of IPv6: all");
        assert_eq!(chosen(&["2001:db8::/64"]), all);
        assert_eq!(chosen(&["198.51.100.0/24", "fd00::/8"]), ["198.51.100.1"], "a family may have none");
        assert_eq!(chosen(&["198.51.100.0/24", "0.0.0.0/0", "fd00::/8"]), ["192.0.2.1", "198.51.100.1"]);
    }

    #[test]
    fn rule_p2_primary_is_the_first_address_of_each_family() {
        assert_eq!(chosen(&["primary"]), ["192.0.2.1", "2001:db8::1"]);
    }

    #[test]
    fn rule_c1_a_class_says_whose_load_balancer_is_meant() {
        let config = |lines: &str| {
            let text = CONFIG
                .replace("MODE", "kubernetes")
                .replace("service_cidrs", &format!("{lines}\nservice_cidrs"));
            super::LoadBalancerClass::from_config(
                &Config::parse(&text, std::path::Path::new("test.toml")).unwrap(),
            )
        };
        let service = |r#type: &str, class: Option<&str>| {
            let mut service = crate::k8s::Service::default();
            service.spec.r#type = r#type.into();
            service.spec.load_balancer_class = class.map(str::to_owned);
            service
        };
        let by_default = config("");
        let strict = config("default_load_balancer = false\nload_balancer_class = \"example.com/edge\"");
        for (service, ours, ours_strictly) in [
            (service("LoadBalancer", None), true, false),
            (service("LoadBalancer", Some("turnpike.dev/gateway")), true, false),
            (service("LoadBalancer", Some("example.com/edge")), false, true),
            (service("LoadBalancer", Some("")), false, false),
            (service("NodePort", None), false, false),
        ] {
            assert_eq!(by_default.is_ours(&service), ours, "{service:?}");
            assert_eq!(strict.is_ours(&service), ours_strictly, "{service:?}");
        }
    }
}
