//! Health checks for whoever sends traffic here: `/healthz` and `/livez` for the whole gateway, and a `healthCheckNodePort` for each
//! load-balancer Service that keeps to local endpoints (rules H1 to H6).

pub mod pulse;

use crate::http::{Answer, Listeners, Server};
use crate::listen;
use crate::state::State;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use pulse::Health;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tracing::warn;
use turnpike_desired::health::HealthCheck;

/// How many local endpoints a Service has, for load balancers that weigh by it.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Starts all of them.
pub fn start(state: &Arc<State>) {
    if let Some(address) = state.config.health.listen {
        tokio::spawn(keep_node_server(address, state.clone()));
    }
    if !state.config.health.node_port_addresses.is_empty() {
        tokio::spawn(keep_service_servers(state.clone()));
    }
}

/// How the gateway is now.
fn feel(state: &State) -> Health {
    state.pulse.feel(state.dataplane(|d| d.state == "serving"))
}

/// `/healthz` and `/livez`, until the program ends.
async fn keep_node_server(address: SocketAddr, state: Arc<State>) {
    let listeners = state.listeners.clone();
    let _server = Server::start(address, "health of the gateway", &listeners, move |request| {
        let eligible = state.wanted().borrow().as_ref().is_none_or(|wanted| wanted.desired.node_eligible);
        node_answer(request.uri().path(), feel(&state), eligible)
    });
    std::future::pending::<()>().await;
}

/// Says how many health check ports have no server, for want of open files.
fn tell_refused(listeners: &Listeners, refused: usize, room: usize) {
    const PLACE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    const PURPOSE: &str = "further healthCheckNodePorts";
    if refused == 0 {
        return listeners.forget(PLACE, PURPOSE);
    }
    let text = format!(
        "{refused} have no server: this process may open files for {room}; raise its limit (ulimit -Hn, LimitNOFILE=)"
    );
    if listeners.note(PLACE, PURPOSE, Some(text.clone())) {
        warn!("health checks: {text}");
    }
}

/// One server for each port and address, as the cluster wants them, and as many as there are files for: half of those that may be open.
async fn keep_service_servers(state: Arc<State>) {
    let room = listen::open_files() / 2;
    let mut wanted = state.wanted();
    let mut servers: BTreeMap<SocketAddr, Server> = BTreeMap::new();
    loop {
        let ports: Vec<u16> = match wanted.borrow_and_update().as_ref() {
            Some(wanted) => wanted.desired.health_checks.keys().copied().collect(),
            None => Vec::new(),
        };
        servers.retain(|address, _| ports.contains(&address.port()));
        let listeners = &state.listeners;
        let addresses = &state.config.health.node_port_addresses;
        let refused = (ports.len() * addresses.len()).saturating_sub(room);
        for port in ports {
            for address in addresses {
                let place = SocketAddr::new(*address, port);
                if servers.len() >= room && !servers.contains_key(&place) {
                    continue;
                }
                servers.entry(place).or_insert_with_key(|address| {
                    let state = state.clone();
                    Server::start(*address, "healthCheckNodePort", listeners, move |_| {
                        let wanted = state.wanted();
                        let check = wanted
                            .borrow()
                            .as_ref()
                            .and_then(|w| w.desired.health_checks.get(&port).cloned());
                        service_answer(check.as_ref(), feel(&state))
                    })
                });
            }
        }
        tell_refused(listeners, refused, room);
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

#[derive(Serialize)]
struct ServiceName<'a> {
    namespace: &'a str,
    name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceBody<'a> {
    service: ServiceName<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

/// What a health check port tells: 200 with local endpoints and a healthy gateway, else 503 (rules H2 to H5). None: the Service has just
/// gone, so nobody is here for it.
fn service_answer(check: Option<&HealthCheck>, health: Health) -> Answer {
    let Some(check) = check else { return answer(StatusCode::SERVICE_UNAVAILABLE, Vec::new()) };
    let body = ServiceBody {
        service: ServiceName { namespace: &check.service.namespace, name: &check.service.name },
        local_endpoints: check.local_endpoints,
        service_proxy_healthy: health.healthy,
    };
    let status = if check.local_endpoints > 0 && health.healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut text = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    // Writing plain words and numbers to memory does not fail.
    let written = body.serialize(&mut serde_json::Serializer::with_formatter(&mut text, indent));
    debug_assert!(written.is_ok());
    let mut answer = answer(status, text);
    answer.headers_mut().insert(WEIGHT, HeaderValue::from(check.local_endpoints));
    answer
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeBody {
    last_updated: Option<Timestamp>,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
}

/// What the gateway tells of itself (rule H6): `/healthz` heeds whether its node is eligible, `/livez` does not.
fn node_answer(path: &str, health: Health, eligible: bool) -> Answer {
    let (node_eligible, good) = match path {
        "/healthz" => (Some(eligible), health.healthy && eligible),
        "/livez" => (None, health.healthy),
        _ => return answer(StatusCode::NOT_FOUND, b"there are /healthz and /livez\n".to_vec()),
    };
    let body = NodeBody { last_updated: health.updated, current_time: health.now, node_eligible };
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, serde_json::to_vec(&body).unwrap_or_default())
}

fn answer(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Bytes::from(body).into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
