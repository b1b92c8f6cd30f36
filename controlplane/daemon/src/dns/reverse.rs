//! Names of addresses: `d.c.b.a.in-addr.arpa` and nibbles under `ip6.arpa` (RFC 1035 section 3.5, RFC 3596 section 2.5), whole and in part,
//! and the zones that a network makes of them.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A name under one of the two trees, as far as it says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reverse {
    /// All addresses that the labels leave open; with all labels, one address.
    Network(IpNet),
    /// More or other labels than an address has, below this network.
    Below(IpNet),
}

/// Reads the labels of a name, the leftmost first, in lower case; none: it is under neither tree.
pub fn parse(labels: &[String]) -> Option<Reverse> {
    let (rest, bits) = match labels {
        [rest @ .., tree, arpa] if arpa == "arpa" && tree == "in-addr" => (rest, 8),
        [rest @ .., tree, arpa] if arpa == "arpa" && tree == "ip6" => (rest, 4),
        _ => return None,
    };
    let most = if bits == 8 { 4 } else { 32 };
    let mut numbers: Vec<u8> = Vec::with_capacity(most);
    for label in rest.iter().rev() {
        match number(label, bits) {
            Some(number) if numbers.len() < most => numbers.push(number),
            _ => return Some(Reverse::Below(network(&numbers, bits))),
        }
    }
    Some(Reverse::Network(network(&numbers, bits)))
}

/// One label: a decimal byte without leading zeros, or one hexadecimal digit.
fn number(label: &str, bits: u8) -> Option<u8> {
    if bits == 4 {
        let digit = label.chars().next().filter(|_| label.len() == 1)?;
        return digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    }
    let plain = label.bytes().all(|b| b.is_ascii_digit()) && (label.len() == 1 || !label.starts_with('0'));
    plain.then(|| label.parse().ok())?
}

fn network(numbers: &[u8], bits: u8) -> IpNet {
    if bits == 8 {
        let mut octets = [0; 4];
        octets.iter_mut().zip(numbers).for_each(|(octet, number)| *octet = *number);
        let length = (numbers.len() * 8).min(32) as u8;
        return IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(octets), length));
    }
    let mut octets = [0; 16];
    for (index, number) in numbers.iter().take(32).enumerate() {
        octets[index / 2] |= if index % 2 == 0 { number << 4 } else { *number };
    }
    let length = (numbers.len() * 4).min(128) as u8;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(octets), length))
}

/// How many labels stand before the tree in the apex of the zone that has `within`, for a network that is served: a network that does not
/// end between two labels is as many zones as it takes. None: `within` is above the zones, or elsewhere.
pub fn apex_labels(served: IpNet, within: IpNet) -> Option<usize> {
    let bits = label_bits(served);
    let labels = usize::from(served.prefix_len().div_ceil(bits));
    let long_enough = usize::from(within.prefix_len()) >= labels * usize::from(bits);
    (long_enough && served.contains(&within)).then_some(labels)
}

/// Bits of an address that one label stands for.
pub const fn label_bits(network: IpNet) -> u8 {
    match network {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::{Reverse, apex_labels, parse};
    use hickory_proto::rr::Name;
    use ipnet::IpNet;
    use std::net::IpAddr;

    fn labels(name: &str) -> Vec<String> {
        name.trim_end_matches('.').split('.').map(str::to_owned).collect()
    }

    #[test]
    fn names_say_networks_as_far_as_they_go() {
        let rows = [
            ("1.0.96.10.in-addr.arpa", Some(("10.96.0.1/32", true))),
            ("0.96.10.in-addr.arpa", Some(("10.96.0.0/24", true))),
            ("in-addr.arpa", Some(("0.0.0.0/0", true))),
            ("256.0.96.10.in-addr.arpa", Some(("10.96.0.0/24", false))),
            ("01.0.96.10.in-addr.arpa", Some(("10.96.0.0/24", false))),
            ("+1.0.96.10.in-addr.arpa", Some(("10.96.0.0/24", false))),
            ("x.1.0.96.10.in-addr.arpa", Some(("10.96.0.1/32", false))),
            ("7.1.0.96.10.in-addr.arpa", Some(("10.96.0.1/32", false))),
            ("x.96.10.in-addr.arpa", Some(("10.96.0.0/16", false))),
            ("0.0.d.f.ip6.arpa", Some(("fd00::/16", true))),
            ("f.0.0.d.f.ip6.arpa", Some(("fd00:f000::/20", true))),
            ("0.0.0.d.f.ip6.arpa", Some(("fd00::/20", true))),
            ("10.0.0.d.f.ip6.arpa", Some(("fd00::/16", false))),
            ("g.ip6.arpa", Some(("::/0", false))),
            ("ip6.arpa", Some(("::/0", true))),
            ("arpa", None),
            ("in-addr.arpa.example", None),
            ("1.0.96.10.in-addr", None),
        ];
        for (name, expected) in rows {
            let expected = expected.map(|(network, whole)| {
                let network: IpNet = network.parse().unwrap();
                if whole { Reverse::Network(network) } else { Reverse::Below(network) }
            });
            assert_eq!(parse(&labels(name)), expected, "{name}");
        }
    }

    #[test]
    fn whole_names_are_those_that_others_make() {
        for address in ["10.96.0.1", "0.0.0.0", "255.255.255.255", "fd00::1", "2001:db8:1234::f00f"] {
            let address: IpAddr = address.parse().unwrap();
            let name = Name::from(address).to_lowercase();
            let tree = if address.is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" };
            let text = name.to_ascii();
            assert!(text.trim_end_matches('.').ends_with(tree), "{text}");
            assert_eq!(parse(&labels(&text)), Some(Reverse::Network(address.into())), "{text}");
        }
    }

    #[test]
    fn zones_end_between_labels() {
        let rows = [
            ("10.96.0.0/16", "10.96.0.1/32", Some(2)),
            ("10.96.0.0/16", "10.96.0.0/16", Some(2)),
            ("10.96.0.0/16", "10.0.0.0/8", None),
            ("10.96.0.0/12", "10.96.0.1/32", Some(2)),
            ("10.96.0.0/12", "10.0.0.0/8", None),
            ("10.96.0.0/12", "10.112.0.1/32", None),
            ("10.96.0.0/20", "10.96.15.0/24", Some(3)),
            ("10.96.0.0/20", "10.96.0.0/16", None),
            ("10.96.0.16/28", "10.96.0.17/32", Some(4)),
            ("10.96.0.16/28", "10.96.0.0/24", None),
            ("fd00:1::/108", "fd00:1::1/128", Some(27)),
            ("fd00:1::/110", "fd00:1::1/128", Some(28)),
            ("fd00:1::/110", "10.0.0.1/32", None),
        ];
        for (served, within, labels) in rows {
            let found = apex_labels(served.parse().unwrap(), within.parse().unwrap());
            assert_eq!(found, labels, "{within} in {served}");
        }
    }
}
