//! How the dataplane began, as `turnpike status` says it.

use crate::pages::STARTS;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the dataplane began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartStatus {
    /// `adopted`: with the flows of the dataplane before; else `empty: ` and why.
    pub how: String,
    /// Flows that live on.
    pub flows_adopted: u64,
    /// Entries that were no whole flows, as of a process that was killed while it wrote them.
    pub flows_torn: u64,
    /// Flows that no way leads to any more.
    pub flows_astray: u64,
}

impl StartStatus {
    /// From the counters of the gateway's page.
    #[must_use]
    pub fn of(counters: &[(String, u64)]) -> Option<Self> {
        let count = |wanted: &str| Some(counters.iter().find(|(name, _)| name == wanted)?.1);
        let start = usize::try_from(count("start")?).ok()?;
        Some(Self {
            how: (*STARTS.get(start)?).into(),
            flows_adopted: count("flows_adopted")?,
            flows_torn: count("flows_torn")?,
            flows_astray: count("flows_astray")?,
        })
    }
}

impl fmt::Display for StartStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { how, flows_adopted, flows_torn, flows_astray } = self;
        if how != STARTS[0] {
            return write!(f, "began {how}");
        }
        write!(f, "began with {flows_adopted} flows of the dataplane before")?;
        if flows_torn + flows_astray > 0 {
            write!(f, "; {flows_torn} were torn, to {flows_astray} leads no way")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_how_it_began() {
        let page = |start| {
            [("start", start), ("flows_adopted", 7), ("flows_torn", 1), ("flows_astray", 0)]
                .map(|(name, count)| (name.to_owned(), count))
        };
        let adopted = StartStatus::of(&page(0)).unwrap();
        assert_eq!(
            adopted.to_string(),
            "began with 7 flows of the dataplane before; 1 were torn, to 0 leads no way"
        );
        let empty = StartStatus::of(&page(1)).unwrap();
        assert_eq!(empty.to_string(), "began empty: there were no flow tables");
        assert_eq!(StartStatus::of(&page(99)), None);
        assert_eq!(StartStatus::of(&[]), None);
    }
}
