//! Connections to etcd: endpoints, TLS client certificates, user and password, limits on waiting.

use anyhow::{Context, Result, bail, ensure};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, KvClient, TlsOptions, WatchClient};
use std::path::Path;
use std::time::Duration;
use turnpike_wire::config::Etcd;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is asked this often whether it lives. etcd ends those that ask more often than every 5 s (`--grpc-keepalive-min-time`).
const KEEP_ALIVE: Duration = Duration::from_secs(6);
/// How long an answer to that may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Largest answer that is taken: a page of a list, or all events of one transaction. Only what comes is held in memory.
const MESSAGE_BYTES_MAX: usize = 512 << 20;
/// What a request is refused with that asks for a key the user may not read; etcd itself is there.
const PERMISSION_DENIED: i32 = 7;

/// What a request is refused with whose revision etcd has forgotten, or does not know yet.
const OUT_OF_RANGE: i32 = 11;
/// How etcd says that a revision is forgotten.
const COMPACTED: &str = "compacted";

/// Why a request was not answered.
#[derive(Debug)]
pub enum Refusal {
    /// The user may not; what etcd says.
    Denied(String),
    /// The revision is forgotten.
    Compacted,
    /// Anything else.
    Other(anyhow::Error),
}

/// Knows how to connect. Certificates and password are read anew for each connection, so that they can be exchanged under way.
#[derive(Clone, Debug)]
pub struct Connector {
    settings: Etcd,
}

impl Connector {
    /// Reads certificates and password once, to find mistakes. `settings.endpoints` must not be empty.
    pub fn new(settings: &Etcd) -> Result<Self> {
        ensure!(!settings.endpoints.is_empty(), "etcd.endpoints is empty; name at least one member");
        options(settings)?;
        Ok(Self { settings: settings.clone() })
    }

    /// Where it connects to.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.settings.endpoints
    }

    /// A connection that has answered once, to any member.
    pub async fn connect(&self) -> Result<Client> {
        self.connect_to(&self.settings.endpoints).await
    }

    /// The same to one member: what it says of itself then holds for everything that is asked. They are counted round and round.
    pub async fn connect_to_member(&self, number: usize) -> Result<Client> {
        self.connect_to(std::slice::from_ref(self.member(number))).await
    }

    /// The endpoint of that member.
    #[must_use]
    pub fn member(&self, number: usize) -> &String {
        let endpoints = &self.settings.endpoints;
        &endpoints[number % endpoints.len()]
    }

    async fn connect_to(&self, endpoints: &[String]) -> Result<Client> {
        let connected = async {
            let options = options(&self.settings)?;
            let mut client = Client::connect(endpoints, Some(options)).await.map_err(explain)?;
            match client.get("turnpike", None).await {
                Err(etcd_client::Error::GRpcStatus(status)) if status.code() as i32 == PERMISSION_DENIED => {}
                answer => drop(answer.map_err(explain)?),
            }
            anyhow::Ok(client)
        };
        let timed = tokio::time::timeout(REQUEST_TIMEOUT, connected).await;
        timed.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {REQUEST_TIMEOUT:?}"))).with_context(
            || {
                format!(
                    "etcd at {} cannot be reached (does it run, and does etcd.endpoints name it?)",
                    endpoints.join(", ")
                )
            },
        )
    }
}

/// For lists, whose pages may be large.
#[must_use]
pub fn lists(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// For watches, whose events may be large: one transaction is one answer.
#[must_use]
pub fn watches(client: &Client) -> WatchClient {
    client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Waits for a request, but not for ever.
pub async fn limited<T>(answer: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T> {
    request(answer).await.map_err(|refusal| match refusal {
        Refusal::Denied(text) => anyhow::Error::msg(text),
        Refusal::Compacted => anyhow::anyhow!("etcd has compacted the revision that was asked for"),
        Refusal::Other(error) => error,
    })
}

/// The same, with the refusals told apart.
pub async fn request<T>(answer: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, Refusal> {
    match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(etcd_client::Error::GRpcStatus(status))) if status.code() as i32 == PERMISSION_DENIED => {
            Err(Refusal::Denied(status.message().to_owned()))
        }
        Ok(Err(etcd_client::Error::GRpcStatus(status)))
            if status.code() as i32 == OUT_OF_RANGE && status.message().contains(COMPACTED) =>
        {
            Err(Refusal::Compacted)
        }
        Ok(Err(error)) => Err(Refusal::Other(explain(error))),
        Err(_) => Err(Refusal::Other(anyhow::anyhow!("etcd gave no answer within {REQUEST_TIMEOUT:?}"))),
    }
}

/// An error of the client with the causes that its own text leaves out.
pub fn explain(error: etcd_client::Error) -> anyhow::Error {
    let text = match error {
        etcd_client::Error::GRpcStatus(status) => with_causes(status.message(), &status),
        etcd_client::Error::TransportError(error) => with_causes(&error.to_string(), &error),
        other => other.to_string(),
    };
    anyhow::Error::msg(text)
}

fn with_causes(text: &str, error: &dyn std::error::Error) -> String {
    let mut text = text.to_owned();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

fn options(settings: &Etcd) -> Result<ConnectOptions> {
    // A watch must end when its member has lost its leader, rather than fall silent.
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    let is_tls = |endpoint: &String| endpoint.starts_with("https://");
    if settings.endpoints.iter().any(is_tls) {
        ensure!(
            settings.endpoints.iter().all(is_tls),
            "etcd.endpoints: some are https:// and some are not; write all of them the same way"
        );
        options = options.with_tls(tls(settings)?);
    }
    if let Some(user) = &settings.user {
        let file =
            settings.password_file.as_deref().context("etcd.user is set, etcd.password_file is not")?;
        let text = String::from_utf8(read("etcd.password_file", file)?);
        let text = text.context("etcd.password_file is not text")?;
        options = options.with_user(user, text.lines().next().unwrap_or_default());
    }
    Ok(options)
}

fn tls(settings: &Etcd) -> Result<TlsOptions> {
    let authority = settings.ca_file.as_deref().context(
        "etcd.ca_file is not set; https:// endpoints need the authority that signed their certificates",
    )?;
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read("etcd.ca_file", authority)?));
    Ok(match (&settings.cert_file, &settings.key_file) {
        (Some(certificate), Some(key)) => tls
            .identity(Identity::from_pem(read("etcd.cert_file", certificate)?, read("etcd.key_file", key)?)),
        (None, None) => tls,
        _ => bail!("etcd.cert_file and etcd.key_file belong together; set both or neither"),
    })
}

fn read(setting: &str, file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("{setting}: cannot read {}", file.display()))
}
