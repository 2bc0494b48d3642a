//! `CoordinatorChannel`: what a generated client stands on. It carries the credential with each call, and never one that
//! belongs to other files than the connection does: when the files change, a new connection is made, and proved, with them.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri, header::AUTHORIZATION};
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, sync::mpsc, time::Instant};
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{Service, ServiceExt as _};

use super::{
    Address, ConnectError,
    credentials::Credentials,
    dial::{DialError, Security, dial},
};
use crate::tls::Watched;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Bytes in flight on an in-process connection.
const IN_PROCESS_BUFFER: usize = 64 << 10;

/// The way over TCP: an address, and what proves one side to the other.
pub struct Way {
    endpoint: Endpoint,
    address: Uri,
    credentials: Watched<Credentials>,
    looked: Mutex<Instant>,
    /// Somebody answered in TLS to plaintext.
    speaks_tls: Arc<AtomicBool>,
}

impl Way {
    pub(super) fn new(address: &Address, credentials: Watched<Credentials>) -> Result<Self, ConnectError> {
        let address = Uri::try_from(address.0.as_str()).map_err(|_| ConnectError::Address)?;
        // TLS is ours, so tonic must not look for its own behind https.
        let endpoint = Endpoint::from_static("http://coordinator")
            .origin(address.clone())
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        Ok(Self { endpoint, address, credentials, looked: Mutex::new(Instant::now()), speaks_tls: Arc::default() })
    }

    /// Those of now, or of a moment ago.
    fn credentials(&self) -> Arc<Credentials> {
        let is_due = {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = looked.elapsed() >= LOOK;
            if is_due {
                *looked = Instant::now();
            }
            is_due
        };
        if is_due {
            self.credentials.look();
        }
        self.credentials.get()
    }

    fn connect(&self, credentials: &Credentials) -> Channel {
        let address = self.address.clone();
        let security = match &credentials.tls {
            Some(tls) => Security::Tls(Arc::clone(tls)),
            None => Security::Plaintext(Arc::clone(&self.speaks_tls)),
        };
        let connect = tower::service_fn(move |_: Uri| dial(address.clone(), security.clone()));
        self.endpoint.connect_with_connector_lazy(connect)
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Way").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What a generated client stands on: `CoordinatorClient::new(connector.channel())`. Clones share one connection.
#[derive(Debug, Clone)]
pub struct CoordinatorChannel(Kind);

#[derive(Debug, Clone)]
enum Kind {
    InProcess(Channel),
    Tcp { way: Arc<Way>, link: Arc<Mutex<Link>> },
}

/// A connection and the credentials that it was made with.
struct Link {
    channel: Channel,
    credentials: Arc<Credentials>,
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Link").finish_non_exhaustive()
    }
}

impl CoordinatorChannel {
    pub(super) fn over(way: Arc<Way>) -> Self {
        let credentials = way.credentials();
        let link = Link { channel: way.connect(&credentials), credentials };
        Self(Kind::Tcp { way, link: Arc::new(Mutex::new(link)) })
    }

    pub(super) fn in_process(coordinator: mpsc::Sender<DuplexStream>) -> Self {
        let connect = tower::service_fn(move |_: Uri| {
            let coordinator = coordinator.clone();
            async move {
                let (near, far) = tokio::io::duplex(IN_PROCESS_BUFFER);
                let gone = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                coordinator.send(far).await.map_err(gone)?;
                Ok::<_, std::io::Error>(TokioIo::new(near))
            }
        });
        let endpoint = Endpoint::from_static("http://in-process");
        Self(Kind::InProcess(endpoint.connect_with_connector_lazy(connect)))
    }
}

impl Service<Request<Body>> for CoordinatorChannel {
    type Response = Response<Body>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The call waits for its connection itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (channel, speaks_tls) = match &self.0 {
            Kind::InProcess(channel) => (channel.clone(), None),
            Kind::Tcp { way, link } => {
                let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
                let credentials = way.credentials();
                if !Arc::ptr_eq(&credentials, &link.credentials) {
                    *link = Link { channel: way.connect(&credentials), credentials };
                }
                if let Some(bearer) = &link.credentials.bearer {
                    request.headers_mut().insert(AUTHORIZATION, bearer.clone());
                }
                (link.channel.clone(), Some(Arc::clone(&way.speaks_tls)))
            }
        };
        Box::pin(async move {
            channel.oneshot(request).await.map_err(|error| {
                // What HTTP/2 makes of it says nothing to anybody.
                if speaks_tls.is_some_and(|speaks_tls| speaks_tls.swap(false, Ordering::Relaxed)) {
                    return tonic::ConnectError(DialError::SpeaksTls.into()).into();
                }
                error.into()
            })
        })
    }
}
