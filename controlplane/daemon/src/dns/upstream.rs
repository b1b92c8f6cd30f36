//! Names of other zones: asked of the configured servers, over UDP, then over TCP where an answer did not fit.
//!
//! Every question has a random port and number of its own and a bounded time. A server that fails or refuses is followed by the next; the one
//! that answered is asked first from then on. Nothing is kept: whoever wants a cache names a server that has one.
//! A server that asks us in turn would make questions run in a circle: each is sent a name that nobody else knows, and if that comes back, the
//! server is not asked any more until it stops.

use super::answer::Answer;
use super::message::UDP_BYTES_MAX;
use super::tally::{Count, Tally};
use hickory_net::NetError;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::tcp::TcpClientStream;
use hickory_net::udp::UdpClientStream;
use hickory_net::xfer::{DnsHandle, DnsRequestSender, FirstAnswer};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

/// How long one server may take for an answer.
const SERVER_TIME: Duration = Duration::from_secs(2);
/// When the question is sent once more over UDP.
const AGAIN_MS: u64 = 800;
/// How long all servers together may take: resolvers ask again after 5 seconds.
const WHOLE_TIME: Duration = Duration::from_millis(4_500);
/// Wait before servers are looked at for circles the first time, and between two looks.
const LOOKS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// The last label of the names that find circles; no such domain exists.
const PROBE_LABEL: &str = "turnpike-loop-probe";

/// The servers.
#[derive(Debug)]
pub struct Upstream {
    servers: Vec<Server>,
    /// Which is asked first.
    first: AtomicUsize,
    /// Part of the names that find circles.
    secret: String,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    /// A question to it came back.
    is_circle: AtomicBool,
    /// The probe of this look came back.
    has_returned: AtomicBool,
}

/// What a client wants of another zone.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Name, type and class.
    pub query: Query,
    /// Whether the server should do without checks of its own (RFC 4035 section 3.2.2).
    pub checking_disabled: bool,
    /// Whether the client wants DNSSEC records.
    pub dnssec_ok: bool,
}

impl Upstream {
    /// The servers in the order they are asked; none if there are none.
    #[must_use]
    pub fn new(servers: &[SocketAddr]) -> Option<Self> {
        let server = |address: &SocketAddr| Server {
            address: *address,
            is_circle: AtomicBool::new(false),
            has_returned: AtomicBool::new(false),
        };
        (!servers.is_empty()).then(|| Self {
            servers: servers.iter().map(server).collect(),
            first: AtomicUsize::new(0),
            secret: uuid::Uuid::new_v4().simple().to_string(),
        })
    }

    /// Asks the servers one after the other, and gives the first answer that is worth something; none: there is none.
    pub async fn ask(&self, wish: &Wish, tally: &Tally) -> Option<Answer> {
        tally.add(Count::Forwarded);
        let whole = Instant::now() + WHOLE_TIME;
        let count = self.servers.len();
        let first = self.first.load(Ordering::Relaxed);
        let mut refusal = None;
        for index in (0..count).map(|step| (first + step) % count) {
            let Some(server) = self.servers.get(index).filter(|s| !s.is_circle.load(Ordering::Relaxed))
            else {
                continue;
            };
            let deadline = whole.min(Instant::now() + SERVER_TIME);
            if deadline <= Instant::now() {
                break;
            }
            let error = match exchange(server.address, wish, deadline).await {
                // Of this name: that says nothing about the server. Another may know better.
                Ok(answer) if matches!(answer.code, ResponseCode::ServFail | ResponseCode::Refused) => {
                    refusal = Some(answer);
                    continue;
                }
                Ok(answer) => {
                    self.first.store(index, Ordering::Relaxed);
                    if tally.set_upstream(server.address, "good", None) {
                        info!("DNS: {} answers again", server.address);
                    }
                    return Some(answer);
                }
                Err(error) => error.to_string(),
            };
            if tally.set_upstream(server.address, "failing", Some(error.clone())) {
                warn!("DNS: {} does not answer: {error}", server.address);
            }
        }
        tally.add(Count::ForwardFailed);
        refusal
    }

    /// Whether this question is one of our own that came back, which is remembered.
    pub fn came_back(&self, query: &Query) -> bool {
        let labels = super::zone::labels(query.name());
        let [index, secret, last] = labels.as_slice() else { return false };
        if last != PROBE_LABEL || *secret != self.secret {
            return false;
        }
        let server = index.parse().ok().and_then(|index: usize| self.servers.get(index));
        if let Some(server) = server {
            server.has_returned.store(true, Ordering::Relaxed);
        }
        true
    }

    /// Looks for circles for ever.
    pub async fn look_for_circles(&self, tally: &Tally) {
        let mut wait = LOOKS.0;
        loop {
            tokio::time::sleep(wait).await;
            wait = LOOKS.1;
            for (index, server) in self.servers.iter().enumerate() {
                self.look(index, server, tally).await;
            }
        }
    }

    async fn look(&self, index: usize, server: &Server, tally: &Tally) {
        let Ok(name) = Name::from_ascii(format!("{index}.{}.{PROBE_LABEL}.", self.secret)) else { return };
        server.has_returned.store(false, Ordering::Relaxed);
        let query = Query::query(name, RecordType::HINFO);
        let wish = Wish { query, checking_disabled: false, dnssec_ok: false };
        // Only whether it comes back is of interest.
        let _ = exchange(server.address, &wish, Instant::now() + SERVER_TIME).await;
        let is_circle = server.has_returned.load(Ordering::Relaxed);
        if server.is_circle.swap(is_circle, Ordering::Relaxed) == is_circle {
            return;
        }
        let address = server.address;
        if is_circle {
            let reason = format!("{address} asks this server in turn; name another in dns.upstream");
            warn!("DNS: {reason}");
            tally.set_upstream(address, "loop", Some(reason));
        } else {
            info!("DNS: {address} does not ask this server any more");
            tally.set_upstream(address, "good", None);
        }
    }
}

/// One question to one server.
async fn exchange(server: SocketAddr, wish: &Wish, deadline: Instant) -> Result<Answer, NetError> {
    let response = timeout_at(deadline, ask_once(server, wish)).await.map_err(|_| NetError::Timeout)??;
    if !response.queries.iter().eq([&wish.query]) {
        return Err(NetError::Message("it answers another question"));
    }
    let response = response.into_message();
    Ok(Answer {
        code: response.metadata.response_code,
        is_authoritative: false,
        answers: response.answers,
        authorities: response.authorities,
        additionals: response.additionals,
    })
}

async fn ask_once(server: SocketAddr, wish: &Wish) -> Result<DnsResponse, NetError> {
    // What it starts ends with it.
    let provider = TokioRuntimeProvider::new();
    let mut udp = UdpClientStream::builder(server, provider.clone())
        .with_timeout(Some(SERVER_TIME))
        .with_retry_interval_floor(AGAIN_MS)
        .with_max_retries(1)
        .build();
    let response = udp.send_message(request(wish)).first_answer().await?;
    if !response.metadata.truncation {
        return Ok(response);
    }
    let tcp = TcpClientStream::exchange(server, None, SERVER_TIME, None, provider.clone()).await?;
    tcp.send(request(wish)).first_answer().await
}

fn request(wish: &Wish) -> DnsRequest {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = wish.checking_disabled;
    message.queries.push(wish.query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES_MAX).set_dnssec_ok(wish.dnssec_ok);
    message.set_edns(edns);
    DnsRequest::new(message, DnsRequestOptions::default())
}
