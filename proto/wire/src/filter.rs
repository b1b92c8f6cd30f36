//! Which packets and flows are meant: `tcp and host 198.51.100.7 and not port 22`.
//!
//! ```text
//! filter  = terms { "or" terms }
//! terms   = term { "and" term }
//! term    = "not" term | "(" filter ")" | test
//! test    = "ip" | "ip6" | "arp" | "tcp" | "udp" | "sctp" | "icmp"
//!         | [ "src" | "dst" ] ( "host" ADDRESS | "net" NETWORK | "port" PORT )
//!         | "service" [ NAMESPACE "/" ] NAME [ ":" PORT-NAME ]
//!         | "verdict" NAME | "dropped"
//! ```
//!
//! A packet that is translated has two sides, as it came and as it left; a test holds if it holds on one of them, so that `host CLIENT` finds the
//! answers of backends too.

use crate::verdicts::text_of;
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest text of a filter, in bytes: what a command line is given by hand.
pub const FILTER_BYTES_MAX: usize = 4_096;
/// Most tests of one filter: each is made on every packet.
pub const FILTER_TESTS_MAX: usize = 64;
/// How deep a filter may be nested.
pub const FILTER_DEPTH_MAX: usize = 16;

/// A filter. The default lets everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Option<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    All(Vec<Term>),
    Any(Vec<Term>),
    Not(Box<Term>),
    Test(Test),
}

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Source,
    Destination,
    Either,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Ethertype(u16),
    /// Either of the numbers: ICMP has one for each family.
    Protocol([u8; 2]),
    Net(End, IpNet),
    Port(End, u16),
    /// What the key of a Service port begins with.
    Service(String),
    Verdict(String),
    Dropped,
}

/// One side of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// IP protocol number.
    pub protocol: u8,
    /// Source and destination.
    pub addresses: [IpAddr; 2],
    /// Their ports, of protocols that have them.
    pub ports: Option<[u16; 2]>,
}

/// What is known of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// Ethernet type.
    pub ethertype: u16,
    /// As it came, and as it left.
    pub sides: [Option<Side>; 2],
    /// Key of its Service port; none while it is not known.
    pub service: Option<&'a str>,
    /// Names of its verdicts; none while it has none.
    pub verdicts: Option<&'a [&'a str]>,
}

impl Filter {
    /// Whether it can be told without knowing Services.
    #[must_use]
    pub fn asks_for_service(&self) -> bool {
        self.0.as_ref().is_some_and(|term| term.has(&|test| matches!(test, Test::Service(_))))
    }

    /// The names of verdicts that it asks for, as they were written.
    #[must_use]
    pub fn verdicts(&self) -> Vec<&str> {
        let mut names = Vec::new();
        if let Some(term) = &self.0 {
            term.collect_verdicts(&mut names);
        }
        names
    }

    /// Whether it lets a packet through; none while that depends on what is not known yet.
    #[must_use]
    pub fn admits(&self, facts: &Facts<'_>) -> Option<bool> {
        self.0.as_ref().map_or(Some(true), |term| term.holds(facts))
    }
}

impl Term {
    fn has(&self, what: &impl Fn(&Test) -> bool) -> bool {
        match self {
            Self::All(terms) | Self::Any(terms) => terms.iter().any(|term| term.has(what)),
            Self::Not(term) => term.has(what),
            Self::Test(test) => what(test),
        }
    }

    fn collect_verdicts<'a>(&'a self, names: &mut Vec<&'a str>) {
        match self {
            Self::All(terms) | Self::Any(terms) => terms.iter().for_each(|term| term.collect_verdicts(names)),
            Self::Not(term) => term.collect_verdicts(names),
            Self::Test(Test::Verdict(name)) => names.push(name),
            Self::Test(_) => {}
        }
    }

    fn holds(&self, facts: &Facts<'_>) -> Option<bool> {
        match self {
            Self::All(terms) => decide(terms, facts, false),
            Self::Any(terms) => decide(terms, facts, true),
            Self::Not(term) => term.holds(facts).map(|holds| !holds),
            Self::Test(test) => test.holds(facts),
        }
    }
}

/// The first term that comes out so decides; else one that is not known does.
fn decide(terms: &[Term], facts: &Facts<'_>, decisive: bool) -> Option<bool> {
    let mut unknown = false;
    for term in terms {
        match term.holds(facts) {
            Some(holds) if holds == decisive => return Some(decisive),
            Some(_) => {}
            None => unknown = true,
        }
    }
    if unknown { None } else { Some(!decisive) }
}

impl Test {
    fn holds(&self, facts: &Facts<'_>) -> Option<bool> {
        let any = |what: &dyn Fn(&Side) -> bool| facts.sides.iter().flatten().any(what);
        match self {
            Self::Ethertype(ethertype) => Some(facts.ethertype == *ethertype),
            Self::Protocol(numbers) => Some(any(&|side| numbers.contains(&side.protocol))),
            Self::Net(end, net) => {
                Some(any(&|side| end.any(side.addresses, |address| net.contains(&address))))
            }
            Self::Port(end, port) => {
                Some(any(&|side| side.ports.is_some_and(|ports| end.any(ports, |p| p == *port))))
            }
            Self::Service(beginning) => facts.service.map(|key| key.starts_with(beginning.as_str())),
            Self::Verdict(name) => facts.verdicts.map(|names| names.contains(&name.as_str())),
            Self::Dropped => facts
                .verdicts
                .map(|names| names.iter().any(|name| text_of(name).is_some_and(|text| text.is_drop))),
        }
    }
}

impl End {
    fn any<T: Copy>(self, [source, destination]: [T; 2], what: impl Fn(T) -> bool) -> bool {
        match self {
            Self::Source => what(source),
            Self::Destination => what(destination),
            Self::Either => what(source) || what(destination),
        }
    }
}

/// What is wrong with a filter, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FilterError {
    /// Number of the word, from 1.
    pub word: usize,
    message: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filter, word {}: {}", self.word, self.message)
    }
}

const TESTS: &str = "a test is ip, ip6, arp, tcp, udp, sctp, icmp, [src|dst] host ADDRESS, [src|dst] net NETWORK, [src|dst] port NUMBER, \
    service NAMESPACE/NAME, verdict NAME or dropped; tests are joined by and, or, not and parentheses";

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        if text.len() > FILTER_BYTES_MAX {
            let message = format!("{} bytes are over the limit of {FILTER_BYTES_MAX}", text.len());
            return Err(FilterError { word: 1, message });
        }
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let mut parser = Parser { words: spaced.split_whitespace().collect(), at: 0, depth: 0, tests: 0 };
        if parser.words.is_empty() {
            return Ok(Self::default());
        }
        let term = parser.any()?;
        match parser.peek() {
            None => Ok(Self(Some(term))),
            Some(")") => Err(parser.wrong("this parenthesis was not opened")),
            Some(word) => Err(parser.wrong(&format!("{word:?} does not follow; join tests by and or or"))),
        }
    }
}

struct Parser<'a> {
    words: Vec<&'a str>,
    at: usize,
    depth: usize,
    tests: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).copied()
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        self.at += usize::from(found);
        found
    }

    fn wrong(&self, message: &str) -> FilterError {
        FilterError { word: self.at + 1, message: message.into() }
    }

    fn any(&mut self) -> Result<Term, FilterError> {
        self.depth += 1;
        if self.depth > FILTER_DEPTH_MAX {
            return Err(
                self.wrong(&format!("nested deeper than {FILTER_DEPTH_MAX}; say it in a flatter way"))
            );
        }
        let mut terms = vec![self.all()?];
        while self.take("or") {
            terms.push(self.all()?);
        }
        self.depth -= 1;
        Ok(joined(terms, Term::Any))
    }

    fn all(&mut self) -> Result<Term, FilterError> {
        let mut terms = vec![self.term()?];
        while self.take("and") {
            terms.push(self.term()?);
        }
        Ok(joined(terms, Term::All))
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        let mut negated = false;
        while self.take("not") {
            negated = !negated;
        }
        let term = if self.take("(") {
            let inner = self.any()?;
            if !self.take(")") {
                return Err(self.wrong("a parenthesis is not closed"));
            }
            inner
        } else {
            self.tests += 1;
            if self.tests > FILTER_TESTS_MAX {
                return Err(self.wrong(&format!(
                    "more than {FILTER_TESTS_MAX} tests; a network says many hosts at once"
                )));
            }
            Term::Test(self.test()?)
        };
        Ok(if negated { Term::Not(Box::new(term)) } else { term })
    }

    fn test(&mut self) -> Result<Test, FilterError> {
        let Some(word) = self.peek() else { return Err(self.wrong(&format!("something lacks; {TESTS}"))) };
        let simple = match word {
            "ip" => Some(Test::Ethertype(0x0800)),
            "ip6" => Some(Test::Ethertype(0x86dd)),
            "arp" => Some(Test::Ethertype(0x0806)),
            "tcp" => Some(Test::Protocol([6, 6])),
            "udp" => Some(Test::Protocol([17, 17])),
            "sctp" => Some(Test::Protocol([132, 132])),
            "icmp" => Some(Test::Protocol([1, 58])),
            "dropped" => Some(Test::Dropped),
            _ => None,
        };
        if let Some(test) = simple {
            self.at += 1;
            return Ok(test);
        }
        let end = match word {
            "src" => End::Source,
            "dst" => End::Destination,
            _ => End::Either,
        };
        self.at += usize::from(end != End::Either);
        let kind = self.peek().unwrap_or_default();
        if !matches!(kind, "host" | "net" | "port")
            && (end != End::Either || !matches!(kind, "service" | "verdict"))
        {
            return Err(self.wrong(&format!("{kind:?} is no test; {TESTS}")));
        }
        self.at += 1;
        let Some(value) = self.peek() else { return Err(self.wrong(&format!("{kind} of what?"))) };
        let test = match kind {
            "host" => {
                let address: IpAddr =
                    value.parse().map_err(|_| self.wrong(&format!("{value:?} is no IP address")))?;
                Test::Net(end, IpNet::from(address))
            }
            "net" => Test::Net(
                end,
                value
                    .parse()
                    .map_err(|_| self.wrong(&format!("{value:?} is no network such as 10.0.0.0/8")))?,
            ),
            "port" => Test::Port(
                end,
                value.parse().map_err(|_| self.wrong(&format!("{value:?} is no port, 0 to 65535")))?,
            ),
            "service" => Test::Service(service_beginning(value)),
            _ => Test::Verdict(value.to_owned()),
        };
        self.at += 1;
        Ok(test)
    }
}

fn joined(mut terms: Vec<Term>, join: fn(Vec<Term>) -> Term) -> Term {
    match (terms.len(), terms.pop()) {
        (1, Some(only)) => only,
        (_, last) => {
            terms.extend(last);
            join(terms)
        }
    }
}

/// What the keys of a Service's ports begin with: `default/web:` of `web`, `shop/web:http/` of `shop/web:http`.
#[must_use]
pub fn service_beginning(name: &str) -> String {
    let name = if name.contains('/') { name.to_owned() } else { format!("default/{name}") };
    if name.contains(':') { format!("{name}/") } else { format!("{name}:") }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
