//! From a question to its answer: pure, no sockets.
//!
//! Names that do not exist are told from names without a record of the type (RFC 2308, RFC 8020), aliases are followed inside the zone,
//! `ANY` gets as little as it may (RFC 8482). Answers carry nothing that was not asked for but the addresses behind SRV and NS records.

use super::index::Index;
use super::zone::{Node, Place, Zone, alias};
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::HINFO;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Most aliases that are followed.
const ALIASES_MAX: usize = 8;
/// Most records for which addresses are added unasked.
const TARGETS_MAX: usize = 256;

/// The records and the code of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// NOERROR, NXDOMAIN, …
    pub code: ResponseCode,
    /// Whether it comes from the server that must know.
    pub is_authoritative: bool,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// The SOA record of a no.
    pub authorities: Vec<Record>,
    /// What will be asked next.
    pub additionals: Vec<Record>,
}

/// What is to be done about a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// This is the answer.
    Answer(Answer),
    /// The answer begins like this and goes on with this name, which is another server's.
    Onward(Answer, Name),
    /// The name is another server's.
    Elsewhere,
}

impl Answer {
    /// An answer that is only a code.
    #[must_use]
    pub const fn code(code: ResponseCode) -> Self {
        Self {
            code,
            is_authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }
}

/// Answers a question of opcode QUERY.
#[must_use]
pub fn answer(zone: &Zone, index: &Index, query: &Query) -> Reply {
    if query.query_class() != DNSClass::IN {
        return Reply::Answer(Answer::code(ResponseCode::Refused));
    }
    match query.query_type() {
        // Nobody transfers the zone: it is in etcd.
        RecordType::AXFR | RecordType::IXFR => return Reply::Answer(Answer::code(ResponseCode::Refused)),
        RecordType::OPT => return Reply::Answer(Answer::code(ResponseCode::FormErr)),
        other if is_meta(other) => return Reply::Answer(Answer::code(ResponseCode::NotImp)),
        _ => {}
    }
    Walk {
        zone,
        index,
        asked: query.query_type(),
        answer: Answer::code(ResponseCode::NoError),
        seen: Vec::new(),
    }
    .walk(query.name())
}

/// TKEY, TSIG, MAILB, MAILA: questions about other things than records (RFC 6895 section 3.1).
fn is_meta(asked: RecordType) -> bool {
    (128..=254).contains(&u16::from(asked))
}

struct Walk<'a> {
    zone: &'a Zone,
    index: &'a Index,
    asked: RecordType,
    answer: Answer,
    seen: Vec<Name>,
}

impl Walk<'_> {
    fn walk(mut self, start: &Name) -> Reply {
        let mut name = start.clone();
        loop {
            let (apex, node) = match self.zone.place(self.index, &name) {
                Place::NotYet => return Reply::Answer(Answer::code(ResponseCode::ServFail)),
                Place::Elsewhere if self.seen.is_empty() => return Reply::Elsewhere,
                Place::Elsewhere => return Reply::Onward(self.answer, name),
                Place::Known(data) => return self.known(data, &name),
                Place::Here(apex, node) => (apex, node),
            };
            self.answer.is_authoritative = true;
            match node {
                Node::Records(data) => {
                    if !self.take(data, &name) {
                        self.deny(&name, apex);
                    }
                    return Reply::Answer(self.answer);
                }
                Node::Empty => {
                    self.deny(&name, apex);
                    return Reply::Answer(self.answer);
                }
                Node::Missing => {
                    // Also at the end of aliases: the code is that of the last name (RFC 6604).
                    self.answer.code = ResponseCode::NXDomain;
                    self.deny(&name, apex);
                    return Reply::Answer(self.answer);
                }
                Node::Alias(target) => {
                    self.answer.answers.push(self.record(&name, alias(target.clone())));
                    if matches!(self.asked, RecordType::CNAME | RecordType::ANY) {
                        return Reply::Answer(self.answer);
                    }
                    self.seen.push(name);
                    if self.seen.contains(&target) || self.seen.len() > ALIASES_MAX {
                        return Reply::Answer(Answer::code(ResponseCode::ServFail));
                    }
                    name = target;
                }
            }
        }
    }

    /// Takes the records of the type that is asked for; says whether there are any.
    fn take(&mut self, data: Vec<RData>, name: &Name) -> bool {
        if self.asked == RecordType::ANY {
            let hint = RData::HINFO(HINFO::new("RFC8482".into(), String::new()));
            self.answer.answers.push(self.record(name, hint));
            return true;
        }
        let fitting: Vec<RData> = data.into_iter().filter(|d| d.record_type() == self.asked).collect();
        self.add_targets(&fitting);
        let found = !fitting.is_empty();
        let records: Vec<Record> = fitting.into_iter().map(|data| self.record(name, data)).collect();
        self.answer.answers.extend(records);
        found
    }

    /// Records of a name whose zone is another's: only what is asked for, and no word about the rest.
    fn known(mut self, data: Vec<RData>, name: &Name) -> Reply {
        if data.iter().any(|d| d.record_type() == self.asked) {
            self.answer.is_authoritative = true;
            self.take(data, name);
            return Reply::Answer(self.answer);
        }
        if self.seen.is_empty() { Reply::Elsewhere } else { Reply::Onward(self.answer, name.clone()) }
    }

    /// The addresses of the names that SRV and NS records lead to.
    fn add_targets(&mut self, data: &[RData]) {
        let mut targets: Vec<&Name> = data
            .iter()
            .filter_map(|data| match data {
                RData::SRV(srv) => Some(&srv.target),
                RData::NS(ns) => Some(&ns.0),
                _ => None,
            })
            .take(TARGETS_MAX)
            .collect();
        targets.dedup();
        for target in targets {
            let Place::Here(_, Node::Records(found)) = self.zone.place(self.index, target) else { continue };
            let addresses = found.into_iter().filter(|d| matches!(d, RData::A(_) | RData::AAAA(_)));
            let records: Vec<Record> = addresses.map(|data| self.record(target, data)).collect();
            self.answer.additionals.extend(records);
        }
    }

    /// The SOA record says how long a no may be kept (RFC 2308 section 3).
    fn deny(&mut self, name: &Name, apex: usize) {
        let soa = self.zone.soa(self.index.revision().unwrap_or_default());
        let record = self.record(&name.trim_to(apex), soa);
        self.answer.authorities.push(record);
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.zone.ttl_s, data)
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
