//! Small HTTP/1.1 servers for machines that look after this one: health checks and metrics.
//!
//! Bounded against clients that are slow, many or broken: a time for the head of a request, a number of connections, a small buffer. A port
//! that cannot be had is told once and tried again; it never ends the program.

use crate::listen;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tracing::{info, warn};
use turnpike_wire::admin::ListenerStatus;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;
/// Most connections of one server at a time; more wait until one ends.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take for the head of a request, also between two requests.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection may live.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Wait before a port that could not be had is tried again, and after an error of accepting.
const RETRY: Duration = Duration::from_secs(2);

/// What a server answers.
pub type Answer = Response<Full<Bytes>>;

/// Where a server listens and what it is for.
type Place = (SocketAddr, String);

/// How the servers are: where each listens, or why it does not.
#[derive(Clone, Debug)]
pub struct Listeners {
    known: Arc<Mutex<BTreeMap<Place, Option<String>>>>,
    /// Connections that all of them may have, so that etcd, the dataplane and the CLI never lack a file.
    connections: Arc<Semaphore>,
}

impl Default for Listeners {
    fn default() -> Self {
        let connections = (listen::open_files() / 4).clamp(CONNECTIONS_MAX, Semaphore::MAX_PERMITS);
        Self { known: Arc::default(), connections: Arc::new(Semaphore::new(connections)) }
    }
}

impl Listeners {
    /// All of them, by address.
    #[must_use]
    pub fn status(&self) -> Vec<ListenerStatus> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |((address, purpose), error): (&Place, &Option<String>)| ListenerStatus {
            address: *address,
            purpose: purpose.clone(),
            state: if error.is_none() { "listening" } else { "failed" }.into(),
            last_error: error.clone(),
        };
        known.iter().map(status).collect()
    }

    /// Notes how one is; says whether that is news.
    pub fn note(&self, address: SocketAddr, purpose: &str, error: Option<String>) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((address, purpose.to_owned()), error.clone()) != Some(error)
    }

    /// Notes that one is not there any more.
    pub fn forget(&self, address: SocketAddr, purpose: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&(address, purpose.to_owned()));
    }
}

/// One server. It ends, with its connections, when this is dropped.
#[derive(Debug)]
pub struct Server {
    task: tokio::task::JoinHandle<()>,
    listeners: Listeners,
    address: SocketAddr,
    purpose: String,
}

impl Server {
    /// Answers requests to `address` with `answer`, as soon as the address can be had. `purpose` is what people call it.
    pub fn start(
        address: SocketAddr,
        purpose: &str,
        listeners: &Listeners,
        answer: impl Fn(&Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
    ) -> Self {
        let (purpose, listeners) = (purpose.to_owned(), listeners.clone());
        let task = tokio::spawn(run(address, purpose.clone(), listeners.clone(), answer));
        Self { task, listeners, address, purpose }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        self.listeners.forget(self.address, &self.purpose);
    }
}

async fn run(
    address: SocketAddr,
    purpose: String,
    listeners: Listeners,
    answer: impl Fn(&Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
) {
    let listener = loop {
        match listen::tcp(address, BACKLOG) {
            Ok(listener) => break listener,
            Err(error) => {
                let text = format!("cannot listen: {error}; {}", listen::mend(&error));
                if listeners.note(address, &purpose, Some(text.clone())) {
                    warn!("{purpose} at {address}: {text}");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    listeners.note(address, &purpose, None);
    info!("{purpose} at {address}");
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Connections end with this task, because they are its own.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // The client has gone already; anything else may need time.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                warn!("{purpose} at {address}: cannot accept connections: {error}; {}", listen::mend(&error));
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        // Not before: a server that waits for a client must keep none from the others.
        let Ok(common_place) = listeners.connections.clone().acquire_owned().await else { return };
        let answer = answer.clone();
        connections.spawn(async move {
            let _places = (place, common_place);
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME_MAX)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            // What is wrong with a request is its sender's affair.
            let _ = tokio::time::timeout(LIFE_MAX, connection).await;
        });
    }
}
