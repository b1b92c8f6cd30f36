//! What a Service's annotations say about how its flows are followed: time-outs, and segments of connections nobody knows.
//!
//! The least time-outs are those of RFC 5382 REQ-5 and RFC 4787 REQ-5. What is wrong is told, and the default holds.

use crate::desired::ProblemKind;
use crate::k8s::Service;
use crate::words::{
    TCP_ESTABLISHED_TIMEOUT_ANNOTATION, TCP_MIDSTREAM_ANNOTATION, TCP_TRANSITORY_TIMEOUT_ANNOTATION,
    UDP_TIMEOUT_ANNOTATION,
};
use turnpike_wire::limits::{
    FLOW_TIMEOUT_S_MAX, TCP_ESTABLISHED_TIMEOUT_S_MIN, TCP_TRANSITORY_TIMEOUT_S_MIN, UDP_TIMEOUT_S_MIN,
};
use turnpike_wire::update::{Midstream, Tracking};

/// An annotation that is wrong, and in which way.
pub(crate) type Wrong = (&'static str, String);

/// Reads the annotations of a Service. What each that is wrong would have set stays at its default.
pub(crate) fn read(service: &Service) -> (Tracking, Vec<Wrong>) {
    let mut wrong = Vec::new();
    let mut tracking = Tracking::default();
    let times = [
        (TCP_ESTABLISHED_TIMEOUT_ANNOTATION, TCP_ESTABLISHED_TIMEOUT_S_MIN, &mut tracking.tcp_established_s),
        (TCP_TRANSITORY_TIMEOUT_ANNOTATION, TCP_TRANSITORY_TIMEOUT_S_MIN, &mut tracking.tcp_transitory_s),
        (UDP_TIMEOUT_ANNOTATION, UDP_TIMEOUT_S_MIN, &mut tracking.udp_s),
    ];
    let annotation = |name: &str| service.metadata.annotations.get(name).map(String::as_str);
    for (name, least, seconds) in times {
        let Some(text) = annotation(name) else { continue };
        match text.parse().ok().filter(|s| (least..=FLOW_TIMEOUT_S_MAX).contains(s)) {
            Some(stated) => *seconds = stated,
            None => wrong
                .push((name, format!("{text:?} is no number of seconds in {least}..{FLOW_TIMEOUT_S_MAX}"))),
        }
    }
    tracking.midstream = match annotation(TCP_MIDSTREAM_ANNOTATION) {
        None | Some("reset") => Midstream::Reset,
        Some("drop") => Midstream::Drop,
        Some("forward") => Midstream::Forward,
        Some(text) => {
            wrong.push((TCP_MIDSTREAM_ANNOTATION, format!("{text:?} is none of reset, drop and forward")));
            Midstream::default()
        }
    };
    (tracking, wrong)
}

/// The same for the resolved state, where what is wrong is a problem of the Service.
pub(crate) fn of(service: &Service, problems: &mut Vec<(ProblemKind, String)>) -> Tracking {
    let (tracking, wrong) = read(service);
    let told = wrong.into_iter().map(|(name, what)| {
        (ProblemKind::Invalid, format!("annotation {name}: {what}; the default is used"))
    });
    problems.extend(told);
    tracking
}
