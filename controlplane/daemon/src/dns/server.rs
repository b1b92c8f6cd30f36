//! From a message to what goes back, whatever it came over.

use super::answer::{Answer, Reply, answer};
use super::index::Index;
use super::message::{Incoming, Question, Transport, read};
use super::tally::{Count, Tally};
use super::upstream::{Upstream, Wish};
use super::zone::Zone;
use crate::state::State;
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::Name;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Semaphore;

/// Questions that may wait for other servers at a time; further ones are told that it does not work.
const ONWARD_MAX: usize = 1_024;

/// Everything that answers need.
pub struct Server {
    state: Arc<State>,
    zone: Zone,
    index: Arc<RwLock<Index>>,
    upstream: Option<Upstream>,
    onward: Semaphore,
}

/// What comes of a message.
pub enum Met {
    /// Nothing.
    Silence,
    /// This goes back.
    Bytes(Vec<u8>),
    /// Another server must be asked first.
    Later(Later),
}

/// A question that waits for another server.
pub struct Later {
    question: Box<Question>,
    /// What is known already: the alias that leads there.
    begun: Option<Answer>,
    query: Query,
}

impl Server {
    /// A server of that zone.
    #[must_use]
    pub fn new(state: Arc<State>, zone: Zone, index: Arc<RwLock<Index>>) -> Self {
        let upstream = Upstream::new(&state.config.dns.upstream);
        Self { state, zone, index, upstream, onward: Semaphore::new(ONWARD_MAX) }
    }

    /// What is counted.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.state.dns
    }

    /// The servers for other names.
    #[must_use]
    pub const fn upstream(&self) -> Option<&Upstream> {
        self.upstream.as_ref()
    }

    /// Reads a message and answers it as far as that needs nobody else.
    #[must_use]
    pub fn meet(&self, bytes: &[u8], transport: Transport) -> Met {
        let question = match read(bytes, transport) {
            Incoming::Question(question) => question,
            Incoming::Fault(code, bytes) => {
                self.count(code);
                return Met::Bytes(bytes);
            }
            Incoming::Ignore => {
                self.tally().add(Count::Dropped);
                return Met::Silence;
            }
        };
        let reply = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            answer(&self.zone, &index, &question.query)
        };
        match reply {
            Reply::Answer(answer) => self.finish(&question, &answer),
            Reply::Onward(answer, name) => self.onward(question, Some((answer, name))),
            Reply::Elsewhere => self.onward(question, None),
        }
    }

    /// A name of another zone, or an alias that leads to one.
    fn onward(&self, question: Box<Question>, begun: Option<(Answer, Name)>) -> Met {
        let refused = Answer::code(ResponseCode::Refused);
        let may_ask = question.metadata.recursion_desired && self.upstream.is_some();
        let came_back = self.upstream.as_ref().is_some_and(|u| u.came_back(&question.query));
        match begun {
            // The client can follow the alias itself.
            Some((answer, _)) if !may_ask => self.finish(&question, &answer),
            None if !may_ask || came_back => self.finish(&question, &refused),
            Some((answer, name)) => {
                let query = Query::query(name, question.query.query_type());
                Met::Later(Later { question, begun: Some(answer), query })
            }
            None => {
                let query = question.query.clone();
                Met::Later(Later { question, begun: None, query })
            }
        }
    }

    /// Asks the other server; ends in a bounded time.
    pub async fn later(&self, later: Later) -> Option<Vec<u8>> {
        let Later { question, begun, query } = later;
        let failed = Answer::code(ResponseCode::ServFail);
        let wish = Wish {
            query,
            checking_disabled: question.metadata.checking_disabled,
            dnssec_ok: question.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
        };
        let found = match (self.onward.try_acquire(), &self.upstream) {
            (Ok(_permit), Some(upstream)) => upstream.ask(&wish, self.tally()).await.unwrap_or(failed),
            _ => failed,
        };
        let whole = match begun {
            None => found,
            Some(_) if !matches!(found.code, ResponseCode::NoError | ResponseCode::NXDomain) => {
                Answer::code(ResponseCode::ServFail)
            }
            Some(mut begun) => {
                begun.code = found.code;
                begun.answers.extend(found.answers);
                begun.authorities = found.authorities;
                begun
            }
        };
        match self.finish(&question, &whole) {
            Met::Bytes(bytes) => Some(bytes),
            Met::Silence | Met::Later(_) => None,
        }
    }

    fn finish(&self, question: &Question, answer: &Answer) -> Met {
        let Some((bytes, is_truncated)) = question.write(answer, self.upstream.is_some()) else {
            self.tally().add(Count::Dropped);
            return Met::Silence;
        };
        self.count(answer.code);
        if is_truncated {
            self.tally().add(Count::Truncated);
        }
        Met::Bytes(bytes)
    }

    fn count(&self, code: ResponseCode) {
        self.tally().add(match code {
            ResponseCode::NoError => Count::NoError,
            ResponseCode::FormErr => Count::FormErr,
            ResponseCode::ServFail => Count::ServFail,
            ResponseCode::NXDomain => Count::NxDomain,
            ResponseCode::NotImp => Count::NotImp,
            ResponseCode::Refused => Count::Refused,
            _ => Count::OtherCode,
        });
    }
}
