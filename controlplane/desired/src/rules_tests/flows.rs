//! Named rules: whose UDP flows may stay (rules U).

use super::{gateway, node_a, policies, public, slice};
use crate::test_world::World;

/// The backends that are published, by the last byte: `+` in the Cluster set, `=` in the Local set, `.` serving.
fn published(world: &mut World) -> Vec<String> {
    let desired = world.resolve();
    let backends = desired.services.values().flat_map(|service| service.backends.values());
    backends
        .map(|resolved| {
            let b = resolved.backend;
            let mark = |is: bool, sign: &'static str| if is { sign } else { "" };
            let last = b.address.ip().to_string().rsplit('.').next().unwrap_or_default().to_owned();
            format!(
                "{last}{}{}{}",
                mark(b.in_cluster_set, "+"),
                mark(b.in_local_set, "="),
                mark(b.serving, ".")
            )
        })
        .collect()
}

#[test]
fn rule_u1_who_does_not_serve_is_not_published_as_serving() {
    let mut world = gateway();
    world.put(public()).put(slice(&["10.244.0.1+", "10.244.0.2-", "10.244.0.3x"]));
    assert_eq!(published(&mut world), ["1+."]);
    // Published though not ready: it takes new flows, and its UDP flows are not kept.
    let mut unready = slice(&["10.244.0.1+"]);
    unready.endpoints[0].conditions.serving = Some(false);
    world.put(unready);
    assert_eq!(published(&mut world), ["1+"]);
}

#[test]
fn rule_u2_those_that_serve_keep_their_flows_whatever_the_sets() {
    let mut world = node_a();
    world.put(public());
    world.put(slice(&["10.244.0.1+ hint-zone:zone-a", "10.244.0.2+ hint-zone:zone-b", "10.244.0.3~"]));
    assert_eq!(published(&mut world), ["1+.", "2.", "3."]);
    world.put(policies("Local", "Local"));
    world.put(slice(&["10.244.0.1+ @node-a", "10.244.0.2+ @node-b"]));
    assert_eq!(published(&mut world), ["1+=.", "2+."]);
}

#[test]
fn rule_u3_nobody_serving_is_an_empty_set() {
    let mut world = gateway();
    world.put(public()).put(slice(&["10.244.0.1-", "10.244.0.2x"]));
    assert_eq!(published(&mut world), [] as [&str; 0]);
    assert_eq!(world.resolve().services.len(), 1, "the Service stays");
}
