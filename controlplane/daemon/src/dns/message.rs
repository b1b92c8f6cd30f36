//! Bytes of a question, and bytes of an answer that fit (RFC 1035, RFC 6891).

use super::answer::Answer;
use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// Largest UDP message sent, and asked for, in bytes: it fits every network without fragments (DNS flag day 2020).
pub const UDP_BYTES_MAX: u16 = 1_232;
/// Largest UDP message to a client that says nothing about itself (RFC 1035 section 2.3.4).
const UDP_BYTES_PLAIN: u16 = 512;
/// Largest TCP message.
const TCP_BYTES_MAX: usize = u16::MAX as usize;
/// Bytes of a header; what is shorter says not even whom to answer.
pub const HEADER_BYTES: usize = 12;
/// The only version of EDNS there is.
const EDNS_VERSION: u8 = 0;
/// The bit of the third header byte that says that records are missing.
const TRUNCATED: u8 = 0x02;

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In one datagram.
    Udp,
    /// In a stream, with its length before it.
    Tcp,
}

impl Transport {
    /// Its name in the status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// A sound question.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Header of the message.
    pub metadata: Metadata,
    /// Name, type and class, the name as it was written.
    pub query: Query,
    /// What the client says about itself.
    pub edns: Option<Edns>,
    transport: Transport,
}

/// What is to be done with a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// Answer this.
    Question(Box<Question>),
    /// It is no question that can be answered; say so with these bytes.
    Fault(ResponseCode, Vec<u8>),
    /// It must not be answered: it is an answer itself, or too short.
    Ignore,
}

/// Reads a message. Whatever the bytes are, this ends without a panic and with nothing larger than they.
#[must_use]
pub fn read(bytes: &[u8], transport: Transport) -> Incoming {
    let mut decoder = BinDecoder::new(bytes);
    let Ok(Header { metadata, counts }) = Header::read(&mut decoder) else { return Incoming::Ignore };
    if metadata.message_type == MessageType::Response {
        return Incoming::Ignore;
    }
    let fault = |code, query: Option<&Query>, edns: Option<&Edns>| {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.metadata = Metadata::response_from_request(&metadata);
        message.metadata.response_code = code;
        message.queries.extend(query.cloned());
        message.edns = edns.map(own_edns);
        match message.to_vec() {
            Ok(bytes) => Incoming::Fault(code, bytes),
            Err(_) => Incoming::Ignore,
        }
    };
    if metadata.op_code != OpCode::Query {
        return fault(ResponseCode::NotImp, None, None);
    }
    // One question a message (RFC 9619); other counts are read no further.
    if counts.queries != 1 {
        return fault(ResponseCode::FormErr, None, None);
    }
    let Ok(query) = Query::read(&mut decoder) else { return fault(ResponseCode::FormErr, None, None) };
    let before = usize::from(counts.answers) + usize::from(counts.authorities);
    let Ok(edns) = read_edns(&mut decoder, before, usize::from(counts.additionals)) else {
        return fault(ResponseCode::FormErr, Some(&query), None);
    };
    if let Some(edns) = edns.as_ref().filter(|edns| edns.version() > EDNS_VERSION) {
        return fault(ResponseCode::BADVERS, Some(&query), Some(edns));
    }
    Incoming::Question(Box::new(Question { metadata, query, edns, transport }))
}

/// The OPT record, which only the additional section may have, and once, at the root (RFC 6891 section 6.1.1).
fn read_edns(decoder: &mut BinDecoder<'_>, before: usize, additionals: usize) -> Result<Option<Edns>, ()> {
    let mut edns = None;
    for index in 0..before + additionals {
        let record = Record::read(decoder).map_err(drop)?;
        if record.record_type() == RecordType::OPT {
            if index < before || edns.is_some() || !record.name.is_root() {
                return Err(());
            }
            edns = Some(Edns::from(&record));
        }
    }
    Ok(edns)
}

/// What this server says about itself; the client's wish for DNSSEC records is said back (RFC 3225 section 3).
fn own_edns(client: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES_MAX).set_version(EDNS_VERSION).set_dnssec_ok(client.flags().dnssec_ok);
    edns
}

impl Question {
    /// Most bytes an answer may have.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        match (self.transport, &self.edns) {
            (Transport::Tcp, _) => TCP_BYTES_MAX,
            (Transport::Udp, None) => usize::from(UDP_BYTES_PLAIN),
            (Transport::Udp, Some(edns)) => {
                usize::from(edns.max_payload().clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX))
            }
        }
    }

    /// The bytes of the answer, and whether they lack something. What does not fit goes in this order: what was not asked for, then records
    /// from the end, with the sign that a client should ask again over TCP.
    #[must_use]
    pub fn write(&self, answer: &Answer, recursion_available: bool) -> Option<(Vec<u8>, bool)> {
        let mut message = self.message(answer, recursion_available);
        turn(&mut message.answers, usize::from(self.metadata.id));
        if let Some(bytes) = self.fitting(&message) {
            return Some((bytes, false));
        }
        message.additionals.clear();
        if let Some(bytes) = self.fitting(&message) {
            return Some((bytes, false));
        }
        message.authorities.clear();
        message.metadata.truncation = true;
        let all = std::mem::take(&mut message.answers);
        // Every record has 11 bytes at least.
        let (mut fits, mut fits_not) = (0, (self.bytes_max() / 11).min(all.len()) + 1);
        let mut best = None;
        while fits < fits_not {
            let count = fits.midpoint(fits_not);
            message.answers.clear();
            message.answers.extend(all.iter().take(count).cloned());
            match self.fitting(&message) {
                Some(bytes) => {
                    best = Some(bytes);
                    fits = count + 1;
                }
                None => fits_not = count,
            }
        }
        best.map(|bytes| (bytes, true))
    }

    fn message(&self, answer: &Answer, recursion_available: bool) -> Message {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.metadata = Metadata::response_from_request(&self.metadata);
        message.metadata.authoritative = answer.is_authoritative;
        message.metadata.recursion_available = recursion_available;
        message.metadata.response_code = answer.code;
        message.queries.push(self.query.clone());
        message.answers.clone_from(&answer.answers);
        message.authorities.clone_from(&answer.authorities);
        message.additionals.clone_from(&answer.additionals);
        message.edns = self.edns.as_ref().map(own_edns);
        message
    }

    /// The bytes of a message, if they fit.
    fn fitting(&self, message: &Message) -> Option<Vec<u8>> {
        let bytes = message.to_vec().ok()?;
        // Beyond 64 KiB the encoder leaves records out by itself, and sets the bit.
        let is_whole =
            message.metadata.truncation || bytes.get(2).is_some_and(|flags| flags & TRUNCATED == 0);
        let counted = bytes.get(6..8).map(|count| usize::from(u16::from_be_bytes([count[0], count[1]])));
        (bytes.len() <= self.bytes_max() && is_whole && counted == Some(message.answers.len()))
            .then_some(bytes)
    }
}

/// Begins the records that are alike with another one each time, since many clients take the first (RFC 1794). The random number that the
/// client has put on its question decides. Aliases stay where they are.
fn turn(answers: &mut [Record], by: usize) {
    let first = answers.iter().take_while(|record| record.record_type() == RecordType::CNAME).count();
    let alike = &mut answers[first..];
    let Some(kind) = alike.first().map(Record::record_type) else { return };
    if alike.len() > 1 && alike.iter().all(|record| record.record_type() == kind) {
        alike.rotate_left(by % alike.len());
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
