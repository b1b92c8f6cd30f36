//! Connections to etcd: endpoints, TLS client certificates, user and password, limits on waiting.

use anyhow::{Context, Result};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use std::path::Path;
use std::time::Duration;
use turnpike_wire::config::Etcd;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that is silent for this long is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Knows how to connect.
#[derive(Clone)]
pub struct Connector {
    endpoints: Vec<String>,
    options: ConnectOptions,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads certificates and password. `settings.endpoints` must not be empty.
    pub fn new(settings: &Etcd) -> Result<Self> {
        // A watch must end when its member has lost its leader, rather than fall silent.
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if settings.endpoints.iter().any(|e| e.starts_with("https://")) {
            options = options.with_tls(tls(settings)?);
        }
        if let Some(user) = &settings.user {
            let file =
                settings.password_file.as_deref().context("etcd.user is set, etcd.password_file is not")?;
            let text = String::from_utf8(read("etcd.password_file", file)?)
                .context("etcd.password_file is not text")?;
            options = options.with_user(user, text.lines().next().unwrap_or_default());
        }
        Ok(Self { endpoints: settings.endpoints.clone(), options })
    }

    /// Where it connects to.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// A connection that has answered once.
    pub async fn connect(&self) -> Result<Client> {
        let connected = async {
            let mut client =
                Client::connect(&self.endpoints, Some(self.options.clone())).await.map_err(explain)?;
            client.get("turnpike", None).await.map_err(explain)?;
            anyhow::Ok(client)
        };
        let timed = tokio::time::timeout(REQUEST_TIMEOUT, connected).await;
        timed
            .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {REQUEST_TIMEOUT:?}")))
            .with_context(|| format!("etcd at {} cannot be reached", self.endpoints.join(", ")))
    }
}

/// Waits for a request, but not for ever.
pub async fn limited<T>(request: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(explain),
        Err(_) => Err(anyhow::anyhow!("etcd gave no answer within {REQUEST_TIMEOUT:?}")),
    }
}

/// An error of the client with the causes that its own text leaves out.
pub fn explain(error: etcd_client::Error) -> anyhow::Error {
    let text = match &error {
        etcd_client::Error::GRpcStatus(status) => status.message().to_owned(),
        etcd_client::Error::TransportError(transport) => {
            let mut text = transport.to_string();
            let mut cause = std::error::Error::source(transport);
            while let Some(next) = cause {
                text = format!("{text}: {next}");
                cause = next.source();
            }
            text
        }
        other => other.to_string(),
    };
    anyhow::Error::from(error).context(text)
}

fn tls(settings: &Etcd) -> Result<TlsOptions> {
    let mut tls = TlsOptions::new();
    if let Some(ca) = &settings.ca_file {
        tls = tls.ca_certificate(Certificate::from_pem(read("etcd.ca_file", ca)?));
    }
    if let (Some(certificate), Some(key)) = (&settings.cert_file, &settings.key_file) {
        tls = tls
            .identity(Identity::from_pem(read("etcd.cert_file", certificate)?, read("etcd.key_file", key)?));
    }
    Ok(tls)
}

fn read(setting: &str, file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("{setting}: cannot read {}", file.display()))
}
