use super::*;
use proptest::prelude::*;

fn side(protocol: u8, source: &str, destination: &str, ports: [u16; 2]) -> Side {
    Side { protocol, addresses: [source.parse().unwrap(), destination.parse().unwrap()], ports: Some(ports) }
}

fn admits(text: &str, facts: &Facts<'_>) -> Option<bool> {
    text.parse::<Filter>().unwrap_or_else(|e| panic!("{text}: {e}")).admits(facts)
}

#[test]
fn tests_hold_on_either_side() {
    let facts = Facts {
        ethertype: 0x0800,
        sides: [
            Some(side(6, "10.244.0.1", "10.1.0.1", [8080, 2000])),
            Some(side(6, "203.0.113.80", "198.51.100.7", [80, 40_000])),
        ],
        service: Some("default/web:http/TCP"),
        verdicts: Some(&["forwarded"]),
    };
    let rows = [
        ("", true),
        ("tcp", true),
        ("ip and not ip6", true),
        ("udp or icmp", false),
        ("host 198.51.100.7", true),
        ("src host 198.51.100.7", false),
        ("dst host 198.51.100.7 and src port 80", true),
        ("net 10.244.0.0/16 and port 8080", true),
        ("not (port 80 or port 443)", false),
        ("not not port 80", true),
        ("arp or (tcp and net 2001:db8::/32)", false),
        ("service web", true),
        ("service default/web:http", true),
        ("service default/we", false),
        ("service shop/web", false),
        ("verdict forwarded and not dropped", true),
        ("verdict source_range", false),
    ];
    for (text, wanted) in rows {
        assert_eq!(admits(text, &facts), Some(wanted), "{text}");
    }
}

#[test]
fn what_is_not_known_yet_leaves_it_open_only_where_it_decides() {
    let facts = Facts { ethertype: 0x0806, ..Facts::default() };
    let rows = [
        ("verdict arp_bad", None),
        ("arp and dropped", None),
        ("tcp and dropped", Some(false)),
        ("arp or dropped", Some(true)),
        ("not dropped", None),
        ("service web", None),
    ];
    for (text, wanted) in rows {
        assert_eq!(admits(text, &facts), wanted, "{text}");
    }
    let dropped = Facts { verdicts: Some(&["source_range"]), ..facts };
    assert_eq!(admits("arp and dropped", &dropped), Some(true));
}

#[test]
fn mistakes_are_named_with_their_place() {
    let deep = "(".repeat(20) + "tcp";
    let many = vec!["tcp"; 65].join(" and ");
    let long = "tcp ".repeat(2_000);
    let rows = [
        ("tcp port 80", 2, "join tests"),
        ("tcp and", 3, "something lacks"),
        ("host", 2, "host of what"),
        ("host web", 2, "no IP address"),
        ("net 10.0.0.0/40", 2, "no network"),
        ("port 70000", 2, "no port"),
        ("src tcp", 2, "is no test"),
        ("src service web", 2, "is no test"),
        ("(tcp or udp", 5, "not closed"),
        ("tcp)", 2, "not opened"),
        ("hostt 10.0.0.1", 1, "is no test"),
        (deep.as_str(), 17, "nested deeper"),
        (many.as_str(), 129, "more than 64"),
        (long.as_str(), 1, "over the limit"),
    ];
    for (text, word, wanted) in rows {
        let error = text.parse::<Filter>().unwrap_err();
        assert!(error.word == word && error.to_string().contains(wanted), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "[a-z0-9()./: ]{0,200}") {
        let _ = text.parse::<Filter>();
    }
}
