//! `/metrics` in OpenMetrics text, which Prometheus reads: the state of etcd, of what was made of it, and of the packet path.
//!
//! Everything is read when it is asked for, from the status that `turnpike status` shows and from the dataplane's counter pages, so that the
//! two never disagree and nothing is counted twice.

mod collector;
pub mod latency;

use crate::http::{Answer, Server};
use crate::state::State;
use collector::Gateway;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use tracing::error;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Starts the server, if one is configured.
pub fn start(state: &Arc<State>) {
    let Some(address) = state.config.metrics.listen else { return };
    let (state, listeners) = (state.clone(), state.listeners.clone());
    tokio::spawn(async move {
        let registry = Arc::new(registry(&state));
        let _server = Server::start(address, "metrics", &listeners, move |request| {
            answer(&registry, request.uri().path())
        });
        std::future::pending::<()>().await;
    });
}

fn registry(state: &Arc<State>) -> Registry {
    let mut registry = Registry::with_prefix("turnpike");
    registry.register(
        "adoption_latency_seconds",
        "Time from a change received of etcd to its adoption by every worker",
        state.latency.histogram().clone(),
    );
    registry.register_collector(Box::new(Gateway::new(state.clone())));
    registry
}

fn answer(registry: &Registry, path: &str) -> Answer {
    let mut text = String::new();
    let (status, text) = match path {
        "/metrics" => match encode(&mut text, registry) {
            Ok(()) => (StatusCode::OK, text),
            Err(_) => {
                error!("the metrics could not be written as text");
                (StatusCode::INTERNAL_SERVER_ERROR, String::new())
            }
        },
        _ => (StatusCode::NOT_FOUND, "there is /metrics\n".to_owned()),
    };
    let mut answer = Response::new(Bytes::from(text).into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
    answer
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
