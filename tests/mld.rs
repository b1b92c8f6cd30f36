//! Multicast listener discovery before a real switch: a Linux bridge that snoops (RFC 4541) and asks who listens, between the router, a host and
//! the gateway. What nobody has reported it does not deliver, so that the gateway is found by its reports alone.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;
use turnpike_tests::bed::{Lab, available, wait};

const OWN: &str = "2001:db8:192::1";
const OWN_GROUP: &str = "ff02::1:ff00:1";
const VIP: &str = "2001:db8:203::1234";
const VIP_GROUP: &str = "ff02::1:ff00:1234";
/// Nobody has it.
const NOBODY: &str = "2001:db8:192::abcd";
const NOBODYS_GROUP: &str = "ff02::1:ff00:abcd";

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata:
  name: six
  annotations: {turnpike.dev/load-balancer-ips: \"2001:db8:203::1234\"}
spec:
  type: LoadBalancer
  ipFamilies: [IPv6]
  selector: {app: six}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: six-1, labels: {app: six}}
status: {phase: Running, podIPs: [{ip: \"fd00:10:244::11\"}]}
";

/// Sets the switch.
fn set(lab: &Lab, settings: &str) {
    let words = ["link", "set", "br-wan", "type", "bridge"];
    let words: Vec<&str> = words.into_iter().chain(settings.split(' ')).collect();
    lab.run_in("router", "ip", &words).unwrap();
}

/// Whether the switch knows a group behind the gateway's port.
fn is_known(lab: &Lab, group: &str) -> anyhow::Result<bool> {
    let groups = lab.run_in("router", "bridge", &["mdb", "show", "dev", "br-wan"])?;
    let words = format!("port gateway0 grp {group} ");
    Ok(groups.lines().any(|line| line.contains(&words)))
}

/// Whether a frame that the filter wants passes an interface within three seconds, while `provoke` does something.
fn passes(lab: &Lab, (place, interface): (&str, &str), filter: &str, provoke: impl Fn()) -> bool {
    let mut capture = lab.command(place, "timeout");
    capture.args(["3", "tcpdump", "-nn", "-i", interface, "-c", "1", "-w", "/dev/null", filter]);
    let mut capture = capture.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(capture.stderr.take().unwrap());
    // It has begun when it says so. The rest is read as well, so that it never waits for that.
    let mut said = said.lines();
    assert!(said.by_ref().any(|line| line.unwrap().contains("listening on")), "tcpdump does not start");
    provoke();
    said.for_each(drop);
    capture.wait().unwrap().success()
}

fn solicitations(group: &str) -> String {
    format!("icmp6 and ip6[40] == 135 and dst host {group}")
}

/// Whether the router gets answers from an address that it knows nothing of, not even that it has asked for it just now.
fn is_found(lab: &Lab, address: &str) -> bool {
    lab.run_in("router", "ip", &["-6", "neigh", "flush", "all"]).unwrap();
    lab.run_in("router", "ping", &["-6", "-c", "2", "-i", "0.2", "-W", "1", address]).is_ok()
}

fn asks(lab: &Lab, address: &str, is_answered: bool) {
    assert_eq!(is_found(lab, address), is_answered, "{address}");
}

#[test]
fn rfc4541_3_a_switch_that_snoops_delivers_solicitations_to_the_gateway_alone() {
    if !available() {
        return;
    }
    let lab = Lab::dual("l1", "[0, 1]", "").unwrap();
    lab.serve().unwrap();
    let (host, gateway) = (("host", "eth0"), ("router", "gateway0"));

    // A switch that does not snoop delivers to all.
    set(&lab, "mcast_snooping 0");
    assert!(passes(&lab, host, &solicitations(NOBODYS_GROUP), || asks(&lab, NOBODY, false)));

    // Its question comes once; the next would come after two minutes.
    assert!(!is_known(&lab, OWN_GROUP).unwrap());
    set(
        &lab,
        "mcast_querier 1 mcast_startup_query_count 1 mcast_query_response_interval 100 mcast_snooping 1",
    );
    wait("an answer to the switch's question", Duration::from_secs(10), || is_known(&lab, OWN_GROUP))
        .unwrap();
    // It delivers to all until there was time for answers.
    wait("a switch that trusts the answers", Duration::from_secs(30), || {
        Ok(!passes(&lab, host, &solicitations(NOBODYS_GROUP), || asks(&lab, NOBODY, false)))
    })
    .unwrap();
    let found = |address: &str, group: &str| {
        let asks = || asks(&lab, address, true);
        assert!(passes(&lab, gateway, &solicitations(group), asks), "{address}");
        assert!(!passes(&lab, host, &solicitations(group), asks), "{address}");
    };
    found(OWN, OWN_GROUP);

    // A VIP is reported when it is taken up, unasked. Its neighbours are those who take its network for their own.
    assert!(!is_known(&lab, VIP_GROUP).unwrap());
    let manifest = lab.dir().join("six.yaml");
    std::fs::write(&manifest, MANIFEST).unwrap();
    lab.apply(&manifest.to_string_lossy()).unwrap();
    lab.wait_adopted().unwrap();
    wait("a report of the VIP", Duration::from_secs(5), || is_known(&lab, VIP_GROUP)).unwrap();
    lab.run_in("router", "ip", &["-6", "route", "add", VIP, "dev", "br-wan", "src", "2001:db8:192::fe"])
        .unwrap();
    found(VIP, VIP_GROUP);

    // A switch that has lost a group keeps solicitations from the gateway, until it asks again. (The gateway's own questions tell the router
    // where it is, too, but seldom.)
    lab.run_in("router", "bridge", &["mdb", "del", "dev", "br-wan", "port", "gateway0", "grp", OWN_GROUP])
        .unwrap();
    wait("an address that is not found", Duration::from_secs(10), || Ok(!is_found(&lab, OWN))).unwrap();
    set(&lab, "mcast_snooping 0");
    set(&lab, "mcast_snooping 1");
    wait("an answer to the switch's question", Duration::from_secs(10), || is_known(&lab, OWN_GROUP))
        .unwrap();
    found(OWN, OWN_GROUP);
    assert!(lab.count("listener_reports").unwrap() > 0);
    assert_eq!(lab.count("ndp_bad").unwrap(), 0);
}

#[test]
fn rfc3810_8_2_a_switch_is_answered_in_the_version_that_it_speaks() {
    if !available() {
        return;
    }
    let lab = Lab::dual("l2", "[1]", "").unwrap();
    lab.serve().unwrap();
    let gateway = lab.run_in("gw", "cat", &["/sys/class/net/gw0/address"]).unwrap();
    // Version 1 last: its querier is remembered. Types of ICMPv6 behind a hop-by-hop header.
    for (version, report) in [(2, 143), (1, 131)] {
        let settings =
            format!("mcast_snooping 0 mcast_mld_version {version} mcast_query_response_interval 100");
        set(&lab, &settings);
        let filter = format!("ether src {} and ip6[6] == 0 and ip6[48] == {report}", gateway.trim());
        let asks = || set(&lab, "mcast_querier 1 mcast_snooping 1");
        assert!(passes(&lab, ("router", "gateway0"), &filter, asks), "version {version}");
        wait("the group", Duration::from_secs(5), || is_known(&lab, OWN_GROUP)).unwrap();
        self::asks(&lab, OWN, true);
    }
}
