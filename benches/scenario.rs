//! The scenarios, and how much each may cost.

use crate::bed::BedPlan;
use crate::churn::{CONNECTION_PACKETS, First, NEW_FLOWS};
use crate::clients::Clients;
use crate::world::World;
use anyhow::{Context, Result};
use serde::Serialize;
use turnpike_forward::address::Family;

/// What the worker does in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Load {
    /// Packets of the flows that stay.
    Established,
    /// The same while endpoints change.
    Changing,
    /// The same while somebody asks how many flows there are, by frontend and backend, all the time.
    Asked,
    /// First packets of new flows.
    New(First),
    /// Whole TCP connections.
    Connections,
}

impl Load {
    /// How many packets make one of what is told of.
    #[must_use]
    pub const fn packets_a_unit(self) -> u32 {
        match self {
            Self::Connections => CONNECTION_PACKETS,
            Self::Established | Self::Changing | Self::Asked | Self::New(_) => 1,
        }
    }
}

/// Most that a scenario may cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Limit {
    /// As a ratio to the floor.
    Floor {
        /// How many times that.
        at_most: f64,
    },
    /// As a ratio to another scenario.
    Scenario {
        /// Its name.
        name: &'static str,
        /// How many times that.
        at_most: f64,
    },
    /// In ticks of the time stamp counter, for all packets that belong together.
    Ticks {
        /// How many.
        at_most: f64,
    },
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scenario {
    /// Its name, e.g. `established/1k`.
    pub name: &'static str,
    /// The worker and its flows.
    pub bed: BedPlan,
    /// What it does.
    pub load: Load,
    /// What it may cost.
    pub limit: Option<Limit>,
}

impl Scenario {
    /// The scenario it is compared with beside the floor.
    #[must_use]
    pub const fn other(&self) -> Option<&'static str> {
        match self.limit {
            Some(Limit::Scenario { name, .. }) => Some(name),
            _ => None,
        }
    }
}

const IPV4: World = World { family: Family::V4, services: 1, udp: false };
const MILLION: u32 = 1_000_000;

/// Established flows of consecutive clients to one Service, all TCP.
const fn flows(flows: u32) -> BedPlan {
    BedPlan { world: IPV4, clients: Clients::Consecutive, flows, room: 0, udp_percent: 0 }
}

const fn established(name: &'static str, bed: BedPlan, limit: Option<Limit>) -> Scenario {
    Scenario { name, bed, load: Load::Established, limit }
}

const fn floor(at_most: f64) -> Option<Limit> {
    Some(Limit::Floor { at_most })
}

const fn other(name: &'static str, at_most: f64) -> Option<Limit> {
    Some(Limit::Scenario { name, at_most })
}

const WITH_SERVICES: BedPlan = BedPlan { world: World { services: 10_000, ..IPV4 }, ..flows(MILLION) };
const WITH_IPV6: BedPlan = BedPlan { world: World { family: Family::V6, ..IPV4 }, ..flows(MILLION) };
const WITH_UDP: BedPlan = BedPlan { world: World { udp: true, ..IPV4 }, udp_percent: 25, ..flows(MILLION) };
const AT_RANDOM: BedPlan = BedPlan { clients: Clients::Random, ..flows(MILLION) };
const CHOSEN: BedPlan = BedPlan { clients: Clients::Chosen, ..flows(MILLION) };
const WITH_ROOM: BedPlan = BedPlan { world: World { udp: true, ..IPV4 }, room: NEW_FLOWS, ..flows(MILLION) };

/// All scenarios, in the order in which they take turns.
pub const ALL: &[Scenario] = &[
    established("established/1", flows(1), floor(1.8)),
    established("established/1k", flows(1_000), floor(1.8)),
    established("established/100k", flows(100_000), floor(2.2)),
    established("established/1M", flows(MILLION), floor(2.7)),
    established("established/1M/udp-25", WITH_UDP, other("established/1M", 1.15)),
    established("established/1M/10k-services", WITH_SERVICES, other("established/1M", 1.15)),
    Scenario {
        name: "established/1M/10k-services/changes",
        bed: WITH_SERVICES,
        load: Load::Changing,
        limit: other("established/1M/10k-services", 1.05),
    },
    established("established/1M/random-keys", AT_RANDOM, None),
    established("established/1M/chosen-keys", CHOSEN, other("established/1M/random-keys", 1.05)),
    established("established/1k/ipv6", BedPlan { flows: 1_000, ..WITH_IPV6 }, None),
    established("established/1M/ipv6", WITH_IPV6, floor(3.5)),
    established("established/2M", flows(2 * MILLION), None),
    Scenario {
        name: "established/2M/asked",
        bed: flows(2 * MILLION),
        load: Load::Asked,
        limit: other("established/2M", 1.05),
    },
    established("established/10M", flows(10 * MILLION), floor(3.4)),
    Scenario { name: "new/1M/syn", bed: WITH_ROOM, load: Load::New(First::Syn), limit: floor(8.0) },
    Scenario { name: "new/1M/udp", bed: WITH_ROOM, load: Load::New(First::Datagram), limit: floor(8.0) },
    Scenario {
        name: "connection/1M",
        bed: WITH_ROOM,
        load: Load::Connections,
        limit: Some(Limit::Ticks { at_most: 1_000.0 }),
    },
];

/// The scenarios of these names in their order, with those that they are compared with; all, if none is named. `others` are names too, of what
/// is measured elsewhere.
pub fn chosen(names: &[String], others: &[&str]) -> Result<Vec<Scenario>> {
    let by_name = |name: &str| {
        ALL.iter().find(|scenario| scenario.name == name).with_context(|| {
            let known = ALL.iter().map(|scenario| scenario.name).chain(others.iter().copied());
            format!("no scenario is called {name}; there are {}", known.collect::<Vec<_>>().join(", "))
        })
    };
    let mut wanted = Vec::new();
    for name in names.iter().filter(|name| !others.contains(&name.as_str())) {
        let scenario = by_name(name)?;
        wanted.push(scenario.name);
        wanted.extend(scenario.other());
    }
    Ok(ALL.iter().filter(|s| names.is_empty() || wanted.contains(&s.name)).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn who_is_compared_is_there_and_comes_before() {
        let mut before = BTreeSet::new();
        for scenario in ALL {
            assert!(scenario.other().is_none_or(|name| before.contains(name)), "{}", scenario.name);
            assert!(before.insert(scenario.name), "{} is there twice", scenario.name);
        }
    }

    #[test]
    fn a_chosen_scenario_brings_the_one_it_is_compared_with() {
        let names = |names: &[&str]| {
            let chosen = chosen(&names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>(), &["elsewhere"]);
            chosen.map(|chosen| chosen.iter().map(|s| s.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap().len(), ALL.len());
        let both = ["established/1M/random-keys", "established/1M/chosen-keys"];
        assert_eq!(names(&both[1..]).unwrap(), both);
        assert_eq!(names(&["connection/1M", "established/1"]).unwrap(), ["established/1", "connection/1M"]);
        assert_eq!(names(&["elsewhere"]).unwrap(), Vec::<&str>::new());
        assert_eq!(names(&["elsewhere", "established/1"]).unwrap(), ["established/1"]);
        let unknown = names(&["established/2"]).unwrap_err().to_string();
        assert!(
            unknown.contains("established/2")
                && unknown.contains("established/1k, ")
                && unknown.ends_with("elsewhere"),
            "{unknown}"
        );
    }

    #[test]
    fn equal_beds_are_shared() {
        let beds: BTreeSet<String> = ALL.iter().map(|s| format!("{:?}", s.bed)).collect();
        assert_eq!(beds.len(), ALL.len() - 4);
    }
}
