//! How clients connect to the coordinator: in plaintext without a credential, or over TLS with a
//! token.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use proto::coordinator_client::CoordinatorClient;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::worker::LoadError;

/// Connect timeout: a coordinator that does not accept within this time counts as unavailable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// A client with its connection.
pub(crate) type Client = CoordinatorClient<InterceptedService<Channel, Credential>>;

/// Address of a coordinator, and what its clients need.
#[derive(Clone)]
pub(crate) struct Dial {
    pub(crate) address: SocketAddr,
    tls: Option<Tls>,
}

/// The files of `coordinator init` that clients use.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    worker: Credential,
    viewer: Credential,
}

/// Adds a token to each call.
#[derive(Clone, Default)]
pub(crate) struct Credential(Option<MetadataValue<Ascii>>);

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

impl Credential {
    fn read(path: &Path) -> Result<Self, LoadError> {
        let bearer = format!("Bearer {}", std::fs::read_to_string(path)?.trim());
        Ok(Self(Some(bearer.parse().map_err(io::Error::other)?)))
    }
}

impl Tls {
    /// Reads the files in the folder of `coordinator init`.
    pub(crate) fn read(folder: &Path) -> Result<Self, LoadError> {
        let mut roots = RootCertStore::empty();
        let authority =
            CertificateDer::from_pem_file(folder.join("ca.pem")).map_err(io::Error::other)?;
        roots.add(authority).map_err(io::Error::other)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Real workers are separate processes without common TLS sessions: each handshake is a full
        // one.
        config.resumption = Resumption::disabled();
        let worker = Credential::read(&folder.join("worker.token"))?;
        let viewer = Credential::read(&folder.join("viewer.token"))?;
        Ok(Self {
            config: Arc::new(config),
            worker,
            viewer,
        })
    }
}

impl Dial {
    pub(crate) fn new(address: SocketAddr, tls: Option<Tls>) -> Self {
        Self { address, tls }
    }

    /// A connection that is established on first use.
    pub(crate) fn channel(&self) -> Channel {
        let address = self.address;
        let endpoint =
            Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URL");
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let Some(Tls { config, .. }) = &self.tls else {
            return endpoint.connect_lazy();
        };
        let connector = TlsConnector::from(Arc::clone(config));
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                connector
                    .connect(ServerName::from(address.ip()), socket)
                    .await
                    .map(TokioIo::new)
            }
        }))
    }

    /// A worker's client on a connection.
    pub(crate) fn worker(&self, channel: Channel) -> Client {
        let credential = self
            .tls
            .as_ref()
            .map(|tls| tls.worker.clone())
            .unwrap_or_default();
        CoordinatorClient::with_interceptor(channel, credential)
    }

    /// A viewer's client with a connection of its own.
    pub(crate) fn viewer(&self) -> Client {
        let credential = self
            .tls
            .as_ref()
            .map(|tls| tls.viewer.clone())
            .unwrap_or_default();
        CoordinatorClient::with_interceptor(self.channel(), credential)
    }
}
