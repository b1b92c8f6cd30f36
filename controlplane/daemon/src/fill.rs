//! How full what is bounded on the packet path is, told early: what is full refuses new flows, and an operator wants to know before.
//!
//! SNAT ports are bounded for each backend and protocol. Nobody keeps a table of them, so the live flows are counted now and then.
//! Flow tables tell by themselves.

use crate::flow_census::Census;
use crate::state::{State, held};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tracing::{info, warn};
use turnpike_desired::desired::Desired;
use turnpike_wire::admin::{BackendFill, FillStatus, WorkerStatus};
use turnpike_wire::config::{Config, local_ports};
use turnpike_wire::update::{Mode, Protocol};

/// How often flows are counted. A worker's walk over its flow table costs it little, but not nothing.
const PERIOD: Duration = Duration::from_secs(20);
/// How long an answer is waited for: a large table takes its worker a while.
const COUNT_LIMIT: Duration = Duration::from_secs(15);
/// Most backends that are named.
const NAMED_MAX: usize = 10;
/// From how many percent on something is told, and from how many it is urgent.
const FILLING: u64 = 70;
const NEARLY_FULL: u64 = 90;
/// How many percent below those it has to come until it is told again.
const FLUTTER: u64 = 5;

/// What was counted last.
#[derive(Debug, Default)]
pub struct Fill {
    counted: Mutex<Option<Counted>>,
}

#[derive(Debug)]
struct Counted {
    at: Instant,
    used: Used,
}

/// SNAT ports in use, by backend and protocol: of the backends over [`FILLING`] their number, of the fullest which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Used {
    fullest: Vec<BackendFill>,
    over_70: u64,
    over_90: u64,
}

impl Fill {
    /// What the status shows.
    #[must_use]
    pub fn status(&self, config: &Config, workers: &[WorkerStatus]) -> FillStatus {
        let counted = held(&self.counted);
        let used = counted.as_ref().map(|counted| counted.used.clone()).unwrap_or_default();
        let mut warnings = flow_table_warnings(workers);
        warnings.extend(snat_warnings(&used));
        FillStatus {
            snat_ports: SnatPorts::of(config).least(),
            backends: used.fullest,
            backends_over_70_percent: used.over_70,
            backends_over_90_percent: used.over_90,
            age_ms: counted.as_ref().map(|counted| counted.at.elapsed().as_millis() as u64),
            warnings,
        }
    }
}

/// Counts from time to time, for as long as the program runs.
pub fn start(state: &Arc<State>) {
    tokio::spawn(watch(state.clone()));
}

async fn watch(state: Arc<State>) {
    let mut told = 0;
    loop {
        tokio::time::sleep(PERIOD).await;
        let serves = state.dataplane(|dataplane| dataplane.state == "serving");
        let census = if serves { timeout(COUNT_LIMIT, state.flow_census.ask()).await.ok() } else { None };
        let used = census.and_then(Result::ok).map(|census| {
            let desired = state.core().resolver.desired();
            used(&census, &desired, SnatPorts::of(&state.config))
        });
        // Without an answer nothing is known, and nothing is said.
        told = used.as_ref().map_or(told, |used| tell(told, used));
        *held(&state.fill.counted) = used.map(|used| Counted { at: Instant::now(), used });
    }
}

/// Says what has become worse, or well again, and returns what is told by now: 0, 70 or 90 percent.
fn tell(told: u64, used: &Used) -> u64 {
    let worst = used.fullest.first().map_or(0, |backend| backend.percent);
    let level = [NEARLY_FULL, FILLING].into_iter().find(|&level| worst >= level).unwrap_or(0);
    if level < told && worst + FLUTTER >= told {
        return told;
    }
    if level > told {
        snat_warnings(used).iter().for_each(|warning| warn!("{warning}"));
    } else if level == 0 && told > 0 {
        info!("no backend uses {FILLING} % of its SNAT ports any more");
    }
    level
}

/// SNAT ports towards each backend of a family and each protocol, on every SNAT address of that family; where the host's kernel has the address
/// too, without those left to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SnatPorts {
    v4: u64,
    v6: u64,
}

impl SnatPorts {
    fn of(config: &Config) -> Self {
        let mut found = Self { v4: 0, v6: 0 };
        for address in config.snat_addresses() {
            let kernel = config.is_kernels(address).then(local_ports);
            let family = if address.is_ipv4() { &mut found.v4 } else { &mut found.v6 };
            *family += config.snat_ports(kernel) as u64;
        }
        found
    }

    /// Of the family that has fewer, if it has any.
    fn least(self) -> u64 {
        [self.v4, self.v6].into_iter().filter(|&ports| ports > 0).min().unwrap_or(0)
    }

    /// How many percent of those towards a backend so many are.
    fn percent(self, backend: SocketAddr, ports: u64) -> u64 {
        let of = if backend.is_ipv4() { self.v4 } else { self.v6 };
        (ports * 100).checked_div(of).unwrap_or(0)
    }
}

/// Adds the flows up by backend. Those whose clients keep their addresses take no SNAT port.
fn used(census: &Census, desired: &Desired, of: SnatPorts) -> Used {
    let mut ports: HashMap<(SocketAddr, Protocol), u64> = HashMap::new();
    for (frontend, backend, flows) in &census.pairs {
        let keeps_address =
            desired.frontends.get(frontend).is_some_and(|known| known.frontend.outside.mode != Mode::Nat);
        if !keeps_address {
            *ports.entry((*backend, frontend.protocol)).or_default() += flows;
        }
    }
    let mut fullest: Vec<BackendFill> = ports
        .into_iter()
        .map(|((backend, protocol), ports)| {
            let percent = of.percent(backend, ports);
            BackendFill { backend, protocol, ports, percent }
        })
        .collect();
    let count_over = |level| fullest.iter().filter(|fill| fill.percent >= level).count() as u64;
    let (over_70, over_90) = (count_over(FILLING), count_over(NEARLY_FULL));
    fullest.sort_by_key(|fill| (Reverse((fill.percent, fill.ports)), fill.backend, fill.protocol));
    fullest.truncate(NAMED_MAX);
    Used { fullest, over_70, over_90 }
}

fn snat_warnings(used: &Used) -> Vec<String> {
    let filling = used.fullest.iter().filter(|fill| fill.percent >= FILLING);
    let mut warnings: Vec<String> = filling
        .map(|BackendFill { backend, protocol, ports, percent }| {
            format!(
                "{percent} % of the SNAT ports towards {protocol} {backend} are in use ({ports}); name more dataplane.snat.addresses, or add backends"
            )
        })
        .collect();
    let more = used.over_70.saturating_sub(warnings.len() as u64);
    if more > 0 {
        warnings.push(format!("and towards {more} more backends over {FILLING} %"));
    }
    warnings
}

fn flow_table_warnings(workers: &[WorkerStatus]) -> Vec<String> {
    let tables = workers.iter().flat_map(|worker| {
        let (flows, most) = (worker.ipv6_flows, worker.ipv6_flows_max);
        let of_ipv4 = (worker.flows.saturating_sub(flows), worker.flows_max.saturating_sub(most));
        let of_ipv6 = (flows, most);
        [
            (worker.worker, "", "flows_per_worker", of_ipv4),
            (worker.worker, "IPv6 ", "ipv6_flows_per_worker", of_ipv6),
        ]
    });
    let filling = tables.filter_map(|(worker, family, setting, (flows, most))| {
        let percent = (flows * 100).checked_div(most).filter(|&percent| percent >= FILLING)?;
        Some(format!(
            "the {family}flow table of worker {worker} is {percent} % full ({flows} of {most}); raise dataplane.{setting}, or add workers"
        ))
    });
    filling.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnpike_wire::update::FrontendKey;

    const PORTS: u64 = 61_744;

    fn census(flows: &[(u8, Protocol, u64)]) -> Used {
        let frontend = |protocol| FrontendKey { address: "203.0.113.1".parse().unwrap(), port: 80, protocol };
        let backend = |last| SocketAddr::from(([10, 244, 0, last], 8080));
        let pairs = flows.iter().map(|&(last, protocol, n)| (frontend(protocol), backend(last), n)).collect();
        used(&Census { flows: 0, pairs }, &Desired::default(), SnatPorts { v4: PORTS, v6: 0 })
    }

    #[test]
    fn ports_are_those_of_every_snat_address_without_node_ports() {
        let mut config = Config::default();
        config.dataplane.snat.addresses = vec!["10.1.0.1".parse().unwrap(), "10.1.0.2".parse().unwrap()];
        assert_eq!(SnatPorts::of(&config), SnatPorts { v4: 2 * PORTS, v6: 0 });
        // Where the kernel has one of them too, it has ports of its own.
        config.dataplane.ports = vec![turnpike_wire::config::Port {
            name: "wan".into(),
            device: "net_null0".into(),
            vlan: None,
            addresses: vec!["10.1.0.1/24".parse().unwrap()],
            gateway: None,
            gateway6: None,
            router_advertisements: false,
            routes: vec![],
            mtu: None,
            exception: Some("tp-wan".into()),
        }];
        let shared = config.snat_ports(Some(local_ports()));
        assert!(shared < PORTS as usize);
        assert_eq!(SnatPorts::of(&config).v4, PORTS + shared as u64);
        // What is excluded is none of them anywhere.
        config.dataplane.snat.excluded_ports = vec!["1024-1123".to_owned().try_into().unwrap()];
        assert!(SnatPorts::of(&config).v4 <= 2 * PORTS - 100);
    }

    #[test]
    fn each_family_has_its_own_ports() {
        let mut config = Config::default();
        config.dataplane.snat.addresses =
            ["10.1.0.1", "10.1.0.2", "2001:db8::1"].map(|address| address.parse().unwrap()).into();
        let of = SnatPorts::of(&config);
        assert_eq!((of, of.least()), (SnatPorts { v4: 2 * PORTS, v6: PORTS }, PORTS));
        let frontend = |address: &str| FrontendKey {
            address: address.parse().unwrap(),
            port: 80,
            protocol: Protocol::Tcp,
        };
        let pairs = vec![
            (frontend("203.0.113.1"), "10.244.0.1:80".parse().unwrap(), 50_000),
            (frontend("2001:db8::80"), "[fd00::1]:80".parse().unwrap(), 45_000),
        ];
        let used = used(&Census { flows: 0, pairs }, &Desired::default(), of);
        let named: Vec<_> = used.fullest.iter().map(|f| (f.backend.is_ipv6(), f.percent)).collect();
        assert_eq!((named, used.over_70), (vec![(true, 72), (false, 40)], 1), "the fuller one first");
    }

    #[test]
    fn flows_add_up_by_backend_and_protocol() {
        let used = census(&[
            (1, Protocol::Tcp, 30_000),
            (1, Protocol::Tcp, 26_000),
            (1, Protocol::Udp, 30_000),
            (2, Protocol::Tcp, 44_000),
        ]);
        let named: Vec<_> = used.fullest.iter().map(|f| (f.protocol, f.ports, f.percent)).collect();
        assert_eq!(
            named,
            [(Protocol::Tcp, 56_000, 90), (Protocol::Tcp, 44_000, 71), (Protocol::Udp, 30_000, 48)]
        );
        assert_eq!((used.over_70, used.over_90), (2, 1));
        let warnings = snat_warnings(&used);
        assert_eq!(warnings.len(), 2);
        assert!(
            warnings[0].starts_with("90 % of the SNAT ports towards TCP 10.244.0.1:8080"),
            "{warnings:?}"
        );
        assert!(warnings[0].contains("dataplane.snat.addresses"), "{warnings:?}");
    }

    #[test]
    fn many_full_backends_are_counted_and_few_named() {
        let flows: Vec<_> = (1..=30).map(|last| (last, Protocol::Tcp, 50_000)).collect();
        let used = census(&flows);
        assert_eq!((used.fullest.len(), used.over_70, used.over_90), (NAMED_MAX, 30, 0));
        assert_eq!(snat_warnings(&used).last().unwrap(), "and towards 20 more backends over 70 %");
    }

    #[test]
    fn what_gets_worse_is_told_once() {
        let at = |ports| census(&[(1, Protocol::Tcp, ports)]);
        let told = [10, 45_000, 42_000, 56_000, 53_000, 45_000, 56_000, 10, 45_000];
        let levels: Vec<u64> = told
            .into_iter()
            .scan(0, |level, ports| {
                *level = tell(*level, &at(ports));
                Some(*level)
            })
            .collect();
        assert_eq!(levels, [0, 70, 70, 90, 90, 70, 90, 0, 70]);
    }

    #[test]
    fn flow_tables_tell_by_themselves() {
        let worker = |worker, [flows, most]: [u64; 2], [ipv6_flows, ipv6_flows_max]: [u64; 2]| WorkerStatus {
            worker,
            flows: flows + ipv6_flows,
            flows_max: most + ipv6_flows_max,
            ipv6_flows,
            ipv6_flows_max,
            ..Default::default()
        };
        let none = [0; 2];
        let warnings = flow_table_warnings(&[
            worker(0, [69, 100], none),
            worker(1, [70, 100], [699, 1_000]),
            worker(2, none, none),
            worker(3, [1, 100], [9, 10]),
        ]);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("the flow table of worker 1 is 70 % full (70 of 100)"));
        assert!(warnings[1].starts_with(
            "the IPv6 flow table of worker 3 is 90 % full (9 of 10); raise dataplane.ipv6_flows_per_worker"
        ));
    }
}
