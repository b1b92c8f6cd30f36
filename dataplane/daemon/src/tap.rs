//! The kernel's side of the exception path: taps, and what the kernel is told about them through rtnetlink.
//!
//! A tap is made for this process alone: it is gone, with its addresses and routes, when the process ends in whatever way.

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use std::io;
use std::net::IpAddr;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// How little the tap's routes are preferred: those that the host has by itself to the same network come first.
const ROUTE_METRIC: u32 = 4_096;

/// One tap as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TapPlan {
    /// Name of the network interface.
    pub(crate) name: String,
    /// The port's Ethernet address.
    pub(crate) mac: [u8; 6],
    /// The port's largest IP packet, in bytes.
    pub(crate) mtu: u16,
    /// The gateway's addresses on the port.
    pub(crate) addresses: Vec<IpNet>,
    /// Networks behind neighbours of the port, and who leads there; all else among them.
    pub(crate) routes: Vec<(IpNet, IpAddr)>,
    /// The kernel's own interface under the port, from which the kernel gets the same frames a second time.
    pub(crate) below: Option<String>,
}

/// Why there is no tap.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TapError {
    #[error("tap {name} cannot be made: {}", mend(source))]
    Make { name: String, source: io::Error },
    #[error("tap {name}: cannot {step}: {source}")]
    Step { name: String, step: String, source: io::Error },
}

/// What the system says to the making of a tap, and what to do.
fn mend(error: &io::Error) -> String {
    let mend = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::ACCESS) => "run turnpike-dataplane as root (CAP_NET_ADMIN)",
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => "there is no /dev/net/tun; try: modprobe tun",
        Some(Errno::BUSY) => "another program has a tap of this name; stop it, or set another exception",
        Some(Errno::INVAL) => {
            "is there another interface of this name? `ip link` lists those there are; set another exception"
        }
        _ => "leave exception out to do without",
    };
    format!("{error}; {mend}")
}

/// Makes a tap with addresses and routes, up, whose reads and writes never wait.
pub(crate) fn make(plan: &TapPlan) -> Result<SyncDevice, TapError> {
    let name = &plan.name;
    let made = DeviceBuilder::new().name(name.clone()).layer(Layer::L2).inherit_enable_state().build_sync();
    let tap = made.map_err(|source| TapError::Make { name: name.clone(), source })?;
    let step = |step: String, outcome: io::Result<()>| {
        outcome.map_err(|source| TapError::Step { name: name.clone(), step, source })
    };
    step("make it never wait".into(), rustix::io::ioctl_fionbio(&tap, true).map_err(io::Error::from))?;
    // Before it is up, so that nothing is said with another address, and no packet of far hosts is dropped for coming from here (strict
    // reverse path filters), nor next hops asked for from a VIP that the host has on another interface.
    step("set its Ethernet address".into(), tap.set_mac_address(plan.mac))?;
    step(format!("set its MTU to {}", plan.mtu), tap.set_mtu(plan.mtu))?;
    for (setting, value) in [("rp_filter", "2"), ("arp_announce", "2")] {
        let file = format!("/proc/sys/net/ipv4/conf/{name}/{setting}");
        step(format!("set {setting} = {value}"), std::fs::write(file, value))?;
    }
    step("bring it up".into(), tap.enabled(true))?;
    let index = tap.if_index();
    let index = index.map_err(|source| TapError::Step {
        name: name.clone(),
        step: "ask for its number".into(),
        source,
    })?;
    for network in &plan.addresses {
        step(format!("give it the address {network}"), add_address(index, *network))?;
    }
    for (to, via) in &plan.routes {
        step(format!("route {to} via {via} through it"), add_route(index, *to, *via))?;
    }
    Ok(tap)
}

/// Says how to keep the kernel from taking a port's frames twice, if nobody has done so: as itself, and through the tap.
pub(crate) fn warn_of_two_ways(plan: &TapPlan) {
    let Some(below) = &plan.below else { return };
    // The stricter of the two counts.
    let setting = |name: &str| -> Option<u8> {
        let read = |interface: &str| -> Option<u8> {
            let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/{name}"));
            text.ok()?.trim().parse().ok()
        };
        read("all").max(read(below))
    };
    if takes_for_others(setting("rp_filter"), setting("arp_ignore")) {
        tracing::warn!(
            interface = below,
            tap = plan.name,
            "the kernel gets the port's frames from the interface too and would answer twice; set: sysctl net.ipv4.conf.{below}.rp_filter=1 net.ipv4.conf.{below}.arp_ignore=1"
        );
    }
}

/// Whether an interface without addresses takes packets, or answers ARP, for addresses of others. A strict reverse path filter drops what
/// comes from a host that is reached through another interface, and to the hosts of a port every route is through its tap.
const fn takes_for_others(rp_filter: Option<u8>, arp_ignore: Option<u8>) -> bool {
    !matches!((rp_filter, arp_ignore), (Some(1), Some(1..)))
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn add_address(index: u32, network: IpNet) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = family(network.addr());
    message.header.prefix_len = network.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(network.addr()), AddressAttribute::Address(network.addr())];
    match network {
        IpNet::V4(network) if network.prefix_len() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(network.broadcast()));
        }
        IpNet::V4(_) => {}
        // The dataplane answers for it already: the kernel need not look for others who have it, nor wait.
        IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    ask_kernel(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

fn add_route(index: u32, to: IpNet, via: IpAddr) -> io::Result<()> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(via);
    message.header.destination_prefix_length = to.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Destination(to.network().into()),
        RouteAttribute::Gateway(via.into()),
        RouteAttribute::Oif(index),
        RouteAttribute::Priority(ROUTE_METRIC),
    ];
    match ask_kernel(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL) {
        // Another port's tap has it, or the host's own configuration.
        Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => Ok(()),
        outcome => outcome,
    }
}

/// One request of rtnetlink and the kernel's answer.
fn ask_kernel(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        NetlinkPayload::Error(_) => Ok(()),
        other => Err(io::Error::other(format!("rtnetlink answers {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_would_answer_twice_is_noticed() {
        let rows = [
            ((Some(1), Some(1)), false),
            ((Some(1), Some(8)), false),
            ((Some(0), Some(1)), true),
            ((Some(2), Some(1)), true),
            ((Some(1), Some(0)), true),
            ((None, None), true),
        ];
        for ((rp_filter, arp_ignore), twice) in rows {
            assert_eq!(takes_for_others(rp_filter, arp_ignore), twice, "{rp_filter:?} {arp_ignore:?}");
        }
    }

    /// With a kernel of its own, since it leaves nothing behind there.
    #[test]
    fn a_tap_is_made_whole_and_made_anew() {
        const INSIDE: &str = "TURNPIKE_TEST_NAMESPACE";
        if std::env::var_os(INSIDE).is_none() {
            let name = "tap::tests::a_tap_is_made_whole_and_made_anew";
            let again = std::env::current_exe().unwrap();
            let output = std::process::Command::new("unshare")
                .args(["--net", "--kill-child"])
                .arg(again)
                .args(["--exact", name, "--nocapture"])
                .env(INSIDE, "1")
                .output()
                .unwrap();
            assert!(output.status.success(), "root is needed: {}", String::from_utf8_lossy(&output.stderr));
            return;
        }
        let shown = |words: &str| {
            let output = std::process::Command::new("ip").args(words.split(' ')).output().unwrap();
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        };
        let plan = TapPlan {
            name: "tp-test".into(),
            mac: [2, 0, 0, 0, 0, 7],
            mtu: 1_400,
            addresses: vec!["192.0.2.1/24".parse().unwrap(), "10.9.0.1/31".parse().unwrap()],
            routes: vec![
                ("0.0.0.0/0".parse().unwrap(), [192, 0, 2, 254].into()),
                ("10.244.1.0/24".parse().unwrap(), [192, 0, 2, 7].into()),
            ],
            below: None,
        };
        for _ in 0..2 {
            let tap = make(&plan).unwrap();
            let link = shown("-o link show tp-test").unwrap();
            assert!(link.contains("mtu 1400") && link.contains("02:00:00:00:00:07"), "{link}");
            assert!(link.contains(",UP"), "{link}");
            let addresses = shown("-o -4 address show tp-test").unwrap();
            assert!(addresses.contains("192.0.2.1/24 brd 192.0.2.255"), "{addresses}");
            assert!(addresses.contains("10.9.0.1/31"), "{addresses}");
            let routes = shown("route show default").unwrap();
            assert!(
                routes.contains("via 192.0.2.254 dev tp-test") && routes.contains("metric 4096"),
                "{routes}"
            );
            let routes = shown("route show 10.244.1.0/24").unwrap();
            assert!(routes.contains("via 192.0.2.7 dev tp-test"), "{routes}");
            let busy = make(&plan).err().unwrap().to_string();
            assert!(busy.contains("another program has a tap of this name"), "{busy}");
            // What its kernel has said by itself, and then nothing.
            let read = || rustix::io::read(&tap, &mut [0; 2_000]).err();
            assert_eq!(std::iter::repeat_with(read).find_map(|e| e), Some(Errno::AGAIN), "it never waits");
            drop(tap);
            assert_eq!(shown("-o link show tp-test"), None, "gone with its process");
        }
        let taken = make(&TapPlan { name: "lo".into(), ..plan.clone() }).err().unwrap().to_string();
        assert!(taken.contains("another interface of this name"), "{taken}");
        let nowhere =
            TapPlan { routes: vec![("0.0.0.0/0".parse().unwrap(), [198, 51, 100, 1].into())], ..plan };
        let error = make(&nowhere).err().unwrap().to_string();
        assert!(error.contains("tap tp-test: cannot route 0.0.0.0/0 via 198.51.100.1"), "{error}");
    }

    #[test]
    fn what_the_system_refuses_is_said_with_the_mend() {
        let rows = [
            (Errno::PERM, "root"),
            (Errno::NOENT, "modprobe tun"),
            (Errno::BUSY, "another program"),
            (Errno::INVAL, "ip link"),
            (Errno::NOMEM, "leave exception out"),
        ];
        for (errno, wanted) in rows {
            let error = TapError::Make { name: "tp-wan".into(), source: errno.into() }.to_string();
            assert!(error.starts_with("tap tp-wan cannot be made: ") && error.contains(wanted), "{error}");
        }
    }
}
