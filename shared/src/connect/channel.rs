//! `CoordinatorChannel`: the transport of a generated client. It sends the credential with each
//! call, and only over a connection that was made with the same credential files: when the files
//! change, it makes and authenticates a new connection with them.

use std::{
    error::Error,
    fmt,
    future::Future,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, sync_channel},
    },
    task::{Context, Poll},
    thread::{self, JoinHandle},
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
    line::LastCloseReason,
    socket,
};
use crate::tls::Watched;

/// Interval at which the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Buffer of an in-process connection, in bytes for each direction.
const IN_PROCESS_BUFFER: usize = 64 << 10;

/// Time that a call waits for a check of the files. A check is fast unless its mount hangs. It then
/// must block neither other calls nor the end of the program, so it runs on a separate thread that
/// is not joined.
const CHECK_TIMEOUT: Duration = Duration::from_millis(100);

/// State of the last check of the files.
struct FileCheck {
    begun: Instant,
    under_way: Option<JoinHandle<()>>,
}

/// Makes connections over TCP to one address, with the current credentials.
pub struct TcpConnector {
    endpoint: Endpoint,
    address: Uri,
    credentials: Watched<Credentials>,
    last_check: Mutex<FileCheck>,
    close_reason: LastCloseReason,
}

impl TcpConnector {
    pub(super) fn new(
        address: &Address,
        credentials: Watched<Credentials>,
    ) -> Result<Self, ConnectError> {
        let address = Uri::try_from(address.0.as_str()).map_err(|_| ConnectError::Address)?;
        // This module does TLS itself. With an https endpoint tonic would require its own.
        let endpoint = Endpoint::from_static("http://coordinator")
            .origin(address.clone())
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        Ok(Self {
            endpoint,
            address,
            credentials,
            last_check: Mutex::new(FileCheck {
                begun: Instant::now(),
                under_way: None,
            }),
            close_reason: LastCloseReason::default(),
        })
    }

    /// The current credentials. They may be older than a change of the files by [`CHECK_INTERVAL`].
    fn credentials(self: &Arc<Self>) -> Arc<Credentials> {
        if let Some(checked) = self.start_check() {
            checked.recv_timeout(CHECK_TIMEOUT).ok();
        }
        self.credentials.get()
    }

    /// Starts a check of the files if one is due. The returned channel signals its end.
    fn start_check(self: &Arc<Self>) -> Option<Receiver<()>> {
        let mut check = self
            .last_check
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_under_way = check
            .under_way
            .as_ref()
            .is_some_and(|thread| !thread.is_finished());
        if is_under_way || check.begun.elapsed() < CHECK_INTERVAL || !self.credentials.has_files() {
            return None;
        }
        check.begun = Instant::now();
        let connector = Arc::clone(self);
        let (done, checked) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("credentials".to_owned())
            .spawn(move || {
                connector.credentials.look();
                done.send(()).ok();
            });
        match thread {
            Ok(thread) => check.under_way = Some(thread),
            Err(error) => tracing::warn!(%error, "the files of the credentials were not looked at"),
        }
        Some(checked)
    }

    /// The address without a trailing slash, for messages.
    pub(super) fn address(&self) -> String {
        self.address.to_string().trim_end_matches('/').to_owned()
    }

    fn connect(&self, credentials: &Credentials) -> Channel {
        let address = self.address.clone();
        let security = match &credentials.tls {
            Some(tls) => Security::Tls(Arc::clone(tls)),
            None => Security::Plaintext,
        };
        let close_reason = self.close_reason.clone();
        let connect = tower::service_fn(move |_: Uri| {
            dial(address.clone(), security.clone(), close_reason.clone())
        });
        self.endpoint.connect_with_connector_lazy(connect)
    }
}

impl fmt::Debug for TcpConnector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TcpConnector")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Transport of a generated client: `CoordinatorClient::new(connector.channel())`. Clones share one
/// connection.
#[derive(Debug, Clone)]
pub struct CoordinatorChannel(Transport);

/// The kinds of transport.
#[derive(Debug, Clone)]
enum Transport {
    /// Within this machine and without credentials: in-process pipes or a Unix socket.
    Local(Channel),
    Tcp {
        connector: Arc<TcpConnector>,
        connection: Arc<Mutex<Connection>>,
    },
}

/// A connection and the credentials that it was made with.
struct Connection {
    channel: Channel,
    credentials: Arc<Credentials>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl CoordinatorChannel {
    pub(super) fn over(connector: Arc<TcpConnector>) -> Self {
        let credentials = connector.credentials();
        let connection = Connection {
            channel: connector.connect(&credentials),
            credentials,
        };
        Self(Transport::Tcp {
            connector,
            connection: Arc::new(Mutex::new(connection)),
        })
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
        Self(Transport::Local(
            endpoint.connect_with_connector_lazy(connect),
        ))
    }

    pub(super) fn over_socket(path: Arc<Path>) -> Self {
        let connect = tower::service_fn(move |_: Uri| {
            let path = Arc::clone(&path);
            async move { socket::connect(&path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://coordinator");
        Self(Transport::Local(
            endpoint.connect_with_connector_lazy(connect),
        ))
    }
}

impl Service<Request<Body>> for CoordinatorChannel {
    type Response = Response<Body>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // The call itself waits for its connection.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (channel, close_reason) = match &self.0 {
            Transport::Local(channel) => (channel.clone(), None),
            Transport::Tcp {
                connector,
                connection,
            } => {
                let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                let credentials = connector.credentials();
                if !Arc::ptr_eq(&credentials, &connection.credentials) {
                    *connection = Connection {
                        channel: connector.connect(&credentials),
                        credentials,
                    };
                }
                if let Some(bearer) = &connection.credentials.bearer {
                    request.headers_mut().insert(AUTHORIZATION, bearer.clone());
                }
                (
                    connection.channel.clone(),
                    Some(connector.close_reason.clone()),
                )
            }
        };
        Box::pin(async move {
            channel.oneshot(request).await.map_err(|error| {
                // HTTP/2 reports such an end only as a generic error.
                match close_reason.and_then(|close_reason| close_reason.get()) {
                    Some(reason) => tonic::ConnectError(DialError::from(reason).into()).into(),
                    None => error.into(),
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use http::HeaderValue;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn files_on_a_hung_mount_block_no_call() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "old").unwrap();
        let (mount_is_back, hangs) = sync_channel::<()>(0);
        let hangs = Mutex::new(hangs);
        let call_was_held_up = Arc::new(AtomicBool::new(false));
        let held_up = Arc::clone(&call_was_held_up);
        let credentials = Watched::new(vec![path.clone()], move |sources| {
            if *sources[0].bytes == b"new" {
                let waited = hangs.lock().unwrap().recv_timeout(Duration::from_secs(20));
                held_up.store(
                    waited == Err(std::sync::mpsc::RecvTimeoutError::Timeout),
                    Ordering::SeqCst,
                );
            }
            Ok(Credentials {
                tls: None,
                bearer: HeaderValue::from_bytes(&sources[0].bytes).ok(),
            })
        });
        let connector = Arc::new(
            TcpConnector::new(&"http://127.0.0.1:1".parse().unwrap(), credentials.unwrap())
                .unwrap(),
        );
        let bearer = || connector.credentials().bearer.clone().unwrap();

        std::fs::write(&path, "new").unwrap();
        for _ in 0..3 {
            tokio::time::advance(CHECK_INTERVAL).await;
            assert_eq!(bearer(), "old");
        }
        assert!(!call_was_held_up.load(Ordering::SeqCst));
        drop(mount_is_back);
        let check = connector
            .last_check
            .lock()
            .unwrap()
            .under_way
            .take()
            .unwrap();
        check.join().unwrap();
        assert_eq!(bearer(), "new");
    }
}
