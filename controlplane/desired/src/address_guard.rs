//! Addresses that must not become a backend or a frontend, whoever writes them.
//!
//! Whoever may write EndpointSlices or a Service's status could otherwise reach services of the gateway itself or of its link
//! (CVE-2021-25737), or take another's address (CVE-2020-8554).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is no host's that may be reached through a gateway; none if it may be.
#[must_use]
pub fn danger(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => danger_v4(v4),
        IpAddr::V6(v6) => danger_v6(v6),
    }
}

fn danger_v4(address: Ipv4Addr) -> Option<&'static str> {
    if address.octets()[0] == 0 {
        Some("is the unspecified address or in 0.0.0.0/8")
    } else if address.is_loopback() {
        Some("is a loopback address")
    } else if address.is_link_local() {
        Some("is a link-local address")
    } else if address.is_multicast() {
        Some("is a multicast address")
    } else if address.octets()[0] >= 240 {
        Some("is the broadcast address or in the reserved 240.0.0.0/4")
    } else {
        None
    }
}

fn danger_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(mapped) = address.to_ipv4_mapped() {
        // Such an address would smuggle an IPv4 one past the checks of its family.
        return danger_v4(mapped).or(Some("is an IPv4 address in IPv6 clothes"));
    }
    if address.is_unspecified() {
        Some("is the unspecified address")
    } else if address.is_loopback() {
        Some("is a loopback address")
    } else if address.is_unicast_link_local() {
        Some("is a link-local address")
    } else if address.is_multicast() {
        Some("is a multicast address")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::danger;

    #[test]
    fn each_class_of_dangerous_address_is_named() {
        let rows = [
            ("0.0.0.0", Some("unspecified")),
            ("0.1.2.3", Some("0.0.0.0/8")),
            ("127.0.0.1", Some("loopback")),
            ("127.255.0.1", Some("loopback")),
            ("169.254.169.254", Some("link-local")),
            ("224.0.0.1", Some("multicast")),
            ("239.255.255.255", Some("multicast")),
            ("255.255.255.255", Some("broadcast")),
            ("240.0.0.1", Some("reserved")),
            ("::", Some("unspecified")),
            ("::1", Some("loopback")),
            ("fe80::1", Some("link-local")),
            ("ff02::1", Some("multicast")),
            ("::ffff:127.0.0.1", Some("loopback")),
            ("::ffff:10.0.0.1", Some("IPv6 clothes")),
            ("10.244.0.1", None),
            ("203.0.113.1", None),
            ("fd00::1", None),
            ("2001:db8::1", None),
        ];
        for (address, words) in rows {
            let found = danger(address.parse().unwrap());
            let told = found.is_some_and(|reason| words.is_some_and(|words| reason.contains(words)));
            assert!(told || (found.is_none() && words.is_none()), "{address}: {found:?}");
        }
    }
}
