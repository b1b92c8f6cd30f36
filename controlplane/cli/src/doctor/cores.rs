//! The workers' cores: whether they are there, whose else they are, how fast they run, and how far from NICs and flow tables.

use super::{Finding, Findings, Host, Patient};
use std::collections::BTreeMap;
use turnpike_wire::topology::{self, Place, misplaced, numbers};

fn list(cores: &[u16]) -> String {
    cores.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

/// Cores this process may use: those that are online, if it cannot be told.
fn usable(host: &Host) -> Option<(String, Vec<u32>)> {
    let text =
        host.of_this_process("Cpus_allowed_list").or_else(|| host.text("sys/devices/system/cpu/online"))?;
    let cores = numbers(&text);
    Some((text, cores))
}

/// Each worker's core is there.
pub fn workers(patient: &Patient<'_>) -> Vec<Finding> {
    let (mut found, cores) = (Findings::of("cores"), &patient.config.dataplane.workers);
    let Some((text, usable)) = usable(patient.host) else {
        found.unknown("the kernel does not say which cores there are");
        return found.or_ok("");
    };
    for core in cores.iter().filter(|core| !usable.contains(&u32::from(**core))) {
        found.fail(
            format!("dataplane.workers names core {core}, and this host gives cores {text}"),
            format!("choose from {text} in dataplane.workers, or widen the cpuset of the unit or container"),
        );
    }
    let mut shared: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    for core in cores {
        let siblings = format!("sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        shared
            .entry(patient.host.text(siblings).unwrap_or_else(|| core.to_string()))
            .or_default()
            .push(*core);
    }
    for (siblings, of_one) in shared.iter().filter(|(_, cores)| cores.len() > 1) {
        found.warn(
            format!("workers {} share one physical core (threads {siblings})", list(of_one)),
            "give each worker a physical core: /sys/devices/system/cpu/cpu*/topology/thread_siblings_list",
        );
    }
    let usable_others =
        usable.iter().filter(|core| !cores.iter().any(|own| u32::from(*own) == **core)).count();
    if usable_others == 0 {
        found.warn(
            "every core is a worker's: the control plane and the kernel take turns with them",
            "leave at least one core out of dataplane.workers",
        );
    }
    found.or_ok(format!("workers on cores {} of {text}", list(cores)))
}

/// Nothing else runs on them.
pub fn isolation(patient: &Patient<'_>) -> Vec<Finding> {
    let (mut found, cores) = (Findings::of("isolation"), &patient.config.dataplane.workers);
    let Some(isolated) = patient.host.text("sys/devices/system/cpu/isolated") else {
        found.unknown("the kernel does not say which cores are isolated");
        return found.or_ok("");
    };
    let isolated = numbers(&isolated);
    let open: Vec<u16> = cores.iter().copied().filter(|core| !isolated.contains(&u32::from(*core))).collect();
    if !open.is_empty() {
        let all = list(cores);
        found.warn(
            format!("the kernel may run other work on workers' cores {}: packets wait for it", list(&open)),
            format!(
                "add to the kernel's command line and reboot: isolcpus={all} nohz_full={all} rcu_nocbs={all}"
            ),
        );
    }
    found.or_ok(format!("cores {} are isolated", list(cores)))
}

/// They run at full speed.
pub fn speed(patient: &Patient<'_>) -> Vec<Finding> {
    let mut found = Findings::of("core speed");
    let mut known = 0;
    for core in &patient.config.dataplane.workers {
        let governor = format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
        let Some(word) = patient.host.text(&governor) else { continue };
        known += 1;
        if word != "performance" {
            found.warn(
                format!("core {core} changes its clock rate (governor {word})"),
                format!("echo performance > /{governor}"),
            );
        }
    }
    match known {
        0 => found.or_ok("clock rates are not this kernel's to choose"),
        _ => found.or_ok("workers' cores keep their clock rate"),
    }
}

/// Workers, NICs and flow tables are on the same NUMA node.
pub fn numa(patient: &Patient<'_>) -> Vec<Finding> {
    let (mut found, sys, dataplane) = (Findings::of("numa"), patient.host.sys(), &patient.config.dataplane);
    let nodes = topology::nodes(&sys);
    if nodes.len() < 2 {
        return found.or_ok(if nodes.is_empty() {
            "this kernel knows no NUMA nodes"
        } else {
            "one NUMA node: nothing is far"
        });
    }
    let known = patient.status.map(|status| status.dataplane.workers.as_slice()).unwrap_or_default();
    let places: Vec<Place> = (0..)
        .zip(&dataplane.workers)
        .map(|(worker, core)| {
            let core = u32::from(*core);
            let of_table = known.iter().find(|known| known.worker == worker && known.core == core);
            let flow_node = of_table.and_then(|known| known.flow_numa_node);
            Place { worker, core, node: topology::node_of_core(&sys, core), flow_node }
        })
        .collect();
    let ports: Vec<(&str, Option<u32>)> = dataplane
        .ports
        .iter()
        .map(|port| (port.name.as_str(), super::devices::node(&sys, &port.device)))
        .collect();
    for far in misplaced(&places, &ports) {
        let (what, mend) = far.rsplit_once("; ").unwrap_or((&far, ""));
        found.warn(what, mend);
    }
    found.or_ok("workers are on the NUMA nodes of their queues")
}
