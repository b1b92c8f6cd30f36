//! Whether a Service's backends get the PROXY protocol in front of each TCP connection. It tells them their clients where full NAT hides them,
//! so it needs full NAT: a backend that wants it refuses connections without.

use crate::desired::ProblemKind;
use crate::k8s::Service;
use crate::tracking::Wrong;
use crate::words::{MODE_ANNOTATION, PROXY_PROTOCOL_ANNOTATION};

/// The one version there is.
const V2: &str = "v2";

/// Reads the annotation, and what is wrong about it.
pub(crate) fn read(service: &Service) -> (bool, Option<Wrong>) {
    let annotation = |name: &str| service.metadata.annotations.get(name).map(String::as_str);
    match (annotation(PROXY_PROTOCOL_ANNOTATION), annotation(MODE_ANNOTATION)) {
        (None, _) => (false, None),
        (Some(V2), None | Some("nat")) => (true, None),
        (Some(V2), Some(mode)) => {
            let what = format!("it needs full NAT, and {MODE_ANNOTATION} is {mode:?}; leave one of them out");
            (false, Some((PROXY_PROTOCOL_ANNOTATION, what)))
        }
        (Some(other), _) => (false, Some((PROXY_PROTOCOL_ANNOTATION, format!("{other:?} is not {V2}")))),
    }
}

/// The same for the resolved state, where what is wrong is a problem of the Service.
pub(crate) fn of(service: &Service, problems: &mut Vec<(ProblemKind, String)>) -> bool {
    let (is_wanted, wrong) = read(service);
    problems.extend(wrong.map(|(name, what)| {
        (ProblemKind::Invalid, format!("annotation {name}: {what}; backends are not told"))
    }));
    is_wanted
}
