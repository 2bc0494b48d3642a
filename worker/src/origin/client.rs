//! The HTTP clients of a job. Each has its own connections; all follow the same rules and trust the
//! same authorities.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use reqwest::{
    Client, ClientBuilder, Proxy,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use rustls::ClientConfig;
use shared::{
    job::JobOptions,
    outcome::printable_within,
    tls::{InvalidBundle, bundle, provider},
};
use url::Url;

use crate::origin::{
    allowed_addresses::{AllowedAddresses, PrivateOrigin, RefusedAddress, Resolver},
    authorities::Authorities,
    lookup::Lookup,
    proxies::{Proxies, UnusableProxy, shown_proxy},
    receive_window::ReceiveWindow,
};

/// Lifetime of an idle connection. ImageNet's server closes idle connections within seconds.
const POOL_IDLE: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest number of header lines in a response. Their total length is limited to about 400 KB by
/// hyper's read buffer.
const MAX_HEADERS: usize = 1000;

/// Largest number of bytes of a header's name in a message.
const LONGEST_NAME: usize = 100;

/// Why no HTTP client for the origin could be created.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// A header of `--header-file` that HTTP does not allow.
    #[error(
        "use the request header \"{name}\": its name or value has characters that HTTP forbids"
    )]
    Header {
        /// The header's name; the value is secret.
        name: String,
    },
    /// The additional certificate authorities are invalid.
    #[error("use the certificates of --cacert: {0}")]
    Certificate(#[from] InvalidBundle),
    /// No authority can be used, e.g. because the system has none.
    #[error("start the HTTP client (on a system without CA certificates give --cacert): {0}")]
    Authorities(#[from] rustls::Error),
    /// A proxy of the environment cannot be used.
    #[error(transparent)]
    Proxy(#[from] UnusableProxy),
    /// The address of the origin is not allowed.
    #[error("ask the origin: {0}")]
    Address(#[from] RefusedAddress),
    /// The client could not be created.
    #[error("start the HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Creates the clients of a job, and holds what all their requests share.
#[derive(Debug)]
pub(crate) struct Clients {
    /// A URL of the configured host, which the user has chosen.
    pub(crate) base: Url,
    /// Header fields that are sent to the origin only.
    pub(crate) secrets: HeaderMap,
    pub(crate) proxies: Arc<Proxies>,
    connect_timeout: Duration,
    /// Shared, so that a client can resume TLS sessions that another client began.
    tls: ClientConfig,
    /// The addresses to which requests may go.
    pub(crate) addresses: AllowedAddresses,
}

/// The HTTP clients, and so the connections, of one slot.
#[derive(Debug)]
pub(crate) struct Connections {
    /// For the configured host and for proxies.
    pub(crate) chosen: Client,
    /// For hosts that are named only by a redirect; never through a proxy.
    pub(crate) guarded: Client,
    /// The last request left its connection open for the next one.
    pub(crate) are_kept: AtomicBool,
    pub(crate) window: ReceiveWindow,
}

impl Clients {
    /// Prepares the shared settings. The current runtime looks up host names for all clients.
    /// `private`: whether the origin may be at a private address.
    pub(crate) fn for_job(job: &JobOptions, private: PrivateOrigin) -> Result<Self, OriginError> {
        let base = job
            .url
            .for_class("n00000000".parse().expect("a well-formed id"));
        let tls = tls(&job.ca_pem, base.scheme() == "https")?;
        let proxies = Arc::new(Proxies::of_environment());
        if let Some(proxy) = proxies.for_url(&base)? {
            tracing::info!(
                proxy = shown_proxy(&proxy),
                "the origin is asked through a proxy"
            );
        }
        let addresses = AllowedAddresses::new(base.clone(), private, Lookup::on_current_runtime());
        Ok(Self {
            base,
            secrets: secrets(job)?,
            proxies,
            connect_timeout: CONNECT_TIMEOUT.min(job.timeout),
            tls,
            addresses,
        })
    }

    /// Creates clients. They open their connections on the runtime on which they are used.
    pub(crate) fn make(&self) -> Result<Connections, OriginError> {
        let proxies = Arc::clone(&self.proxies);
        // A proxy that cannot be used is reported before a request that needs it is sent.
        let proxy = Proxy::custom(move |url| proxies.for_url(url).ok().flatten());
        let chosen = Resolver::OfOrigin(self.addresses.clone());
        let guarded = Resolver::OfRedirects(self.addresses.clone());
        Ok(Connections {
            chosen: self.builder().proxy(proxy).dns_resolver(chosen).build()?,
            guarded: self.builder().no_proxy().dns_resolver(guarded).build()?,
            are_kept: AtomicBool::default(),
            window: ReceiveWindow::default(),
        })
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder()
            .http1_only() // one connection per transfer: HTTP/2 would put all transfers on one
            .http1_max_headers(MAX_HEADERS)
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_ignore_invalid_headers_in_responses(true)
            .tls_backend_preconfigured(self.tls.clone())
            .user_agent(concat!("imagenet-downloader/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none()) // `route` follows redirects: headers and allowed addresses differ per hop
            .referer(false)
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(POOL_IDLE)
    }
}

/// The headers of `--header-file`.
fn secrets(job: &JobOptions) -> Result<HeaderMap, OriginError> {
    let mut headers = HeaderMap::new();
    for secret in &job.headers {
        let invalid = || OriginError::Header {
            name: printable_within(&secret.name, LONGEST_NAME),
        };
        let name: HeaderName = secret.name.parse().map_err(|_| invalid())?;
        let mut value = HeaderValue::from_bytes(&secret.value).map_err(|_| invalid())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// The TLS settings. `now`: read the system's authorities at once, so that missing ones are
/// reported at the start.
fn tls(ca_pem: &[u8], now: bool) -> Result<ClientConfig, OriginError> {
    let named = if ca_pem.is_empty() {
        Vec::new()
    } else {
        bundle::read(ca_pem)?
    };
    let authorities = Authorities::new(named);
    if now {
        authorities.check()?;
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(authorities))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
