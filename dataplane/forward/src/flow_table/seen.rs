//! A flow as others see it, from the words of its entry, while its worker goes on.

use super::Entry;
use crate::explain::Tuple;
use crate::flow_key::Key;
use crate::track::State;
use zerocopy::{FromBytes, IntoBytes};

/// What is known of a flow from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenFlow {
    /// The client's packets.
    pub client: Tuple,
    /// The backend's.
    pub reply: Tuple,
    /// Its state.
    pub state: State,
    /// When a packet was last seen, by the workers' clock.
    pub last_seen: u32,
}

/// What became of a look at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// No flow is there.
    Free,
    /// A flow.
    Flow(SeenFlow),
    /// It changed from look to look.
    Torn,
}

/// How often a place is looked at that changes.
const LOOKS: usize = 4;

/// Words of the largest entry.
const WORDS_MAX: usize = 16;

/// What is in a place that is read by `read`, which fills words as they are at the moment. Its keys and its state are believed that were read twice alike; a flow that
/// ends and begins anew changes at least one of them.
pub fn look<K: Key>(mut read: impl FnMut(&mut [u64])) -> Look {
    let words = size_of::<K::Session>() / 8;
    let mut buffer = [0u64; WORDS_MAX];
    let Some(buffer) = buffer.get_mut(..words) else { return Look::Torn };
    let mut before: Option<([K; 2], u8)> = None;
    for _ in 0..LOOKS {
        read(buffer);
        let Ok(session) = K::Session::read_from_bytes(buffer.as_bytes()) else { return Look::Torn };
        if session.state() == State::Free {
            return Look::Free;
        }
        let now = (*session.keys(), session.state);
        if before == Some(now) {
            let [client, reply] = now.0;
            return Look::Flow(SeenFlow {
                client: Tuple::of(client),
                reply: Tuple::of(reply),
                state: session.state(),
                last_seen: session.last_seen,
            });
        }
        before = Some(now);
    }
    Look::Torn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_key::FlowKey;
    use crate::flow_table::Session;

    fn words(state: State, port: u16) -> [u64; 8] {
        let mut session = Session::new(FlowKey::new(6, 1, 2, port, 80), FlowKey::new(6, 3, 4, 8080, port));
        session.set_state(state);
        session.last_seen = 77;
        zerocopy::transmute!(session)
    }

    #[test]
    fn what_stays_is_seen_and_what_changes_is_not_believed() {
        let flow = words(State::Established, 5);
        let Look::Flow(seen) = look::<FlowKey>(|into| into.copy_from_slice(&flow)) else { panic!("a flow") };
        assert_eq!((seen.client.source.1, seen.state, seen.last_seen), (5, State::Established, 77));
        assert_eq!(look::<FlowKey>(|into| into.copy_from_slice(&words(State::Free, 5))), Look::Free);
        let mut port = 0;
        let changing = look::<FlowKey>(|into| {
            port += 1;
            into.copy_from_slice(&words(State::Established, port));
        });
        assert_eq!((changing, port), (Look::Torn, LOOKS as u16));
        // Half of the old flow and half of the new one, and then the new one.
        let mut looks = 0;
        let settles = look::<FlowKey>(|into| {
            looks += 1;
            into.copy_from_slice(&words(State::Established, 9));
            if looks == 1 {
                into[0] = flow[0] ^ 1;
            }
        });
        let Look::Flow(seen) = settles else { panic!("{settles:?}") };
        assert_eq!((seen.client.source.1, looks), (9, 3));
    }
}
