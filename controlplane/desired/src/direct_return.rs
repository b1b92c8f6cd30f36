//! `turnpike.dev/mode: dsr-ipip`: where it can be done. A packet in a packet keeps its ports and addresses, so the backends of a port have to
//! listen on that very port, on addresses that belong to the Service alone.

use crate::desired::{ProblemKind, ResolvedBackend};
use crate::frontends::PortFaces;
use crate::policy::Policies;
use crate::words::{DIRECT_RETURN, MODE_ANNOTATION};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use turnpike_wire::update::FrontendKind;

/// Whether backends can have the address of such a face, and answer from it.
pub(crate) const fn can_be_shared(kind: FrontendKind) -> bool {
    match kind {
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp => true,
        FrontendKind::ClusterIp | FrontendKind::NodePort => false,
    }
}

/// Why a Service port is not served to clients outside the cluster although its mode asks for it: a backend that takes new flows listens on
/// another port.
pub(crate) fn conflict(
    policies: Policies,
    port: &PortFaces,
    backends: &BTreeMap<SocketAddr, ResolvedBackend>,
) -> Option<(ProblemKind, String)> {
    let face = port.frontends.iter().find(|face| can_be_shared(face.kind))?;
    if !policies.is_direct_return() {
        return None;
    }
    let takes_new = |known: &ResolvedBackend| known.backend.in_cluster_set || known.backend.in_local_set;
    let other = backends
        .iter()
        .find(|(address, known)| takes_new(known) && address.port() != face.key.port)
        .map(|(address, _)| address)?;
    let message = format!(
        "annotation {MODE_ANNOTATION}: {DIRECT_RETURN} leaves ports as they are, but {} leads to {other}; clients outside are rejected: make port and targetPort equal, or use dnat",
        face.key
    );
    Some((ProblemKind::Refused, message))
}
