//! `CoordinatorChannel`: the transport of a generated client. It sends the credential with each
//! call, and only over a connection that was made with the same credential files: when the files
//! change, it makes and authenticates a new connection with them.

use std::{
    error::Error,
    fmt, io,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll},
    thread,
    time::Duration,
};

use http::{Request, Response, Uri, header::AUTHORIZATION};
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, sync::mpsc};
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{Service, ServiceExt as _};

use super::{
    Address, ConnectError,
    credentials::Credentials,
    dial::{DialError, dial},
    line::LastCloseReason,
    socket,
};
use crate::{lock::lock, threads, tls::Watched};

/// Interval at which the files are checked for changes: a call uses credentials that are at most
/// this old, or older while a check hangs.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Buffer of an in-process connection, in bytes for each direction.
const IN_PROCESS_BUFFER: usize = 64 << 10;

/// Makes connections over TCP to one address, with the current credentials.
#[derive(Debug)]
pub struct TcpConnector {
    endpoint: Endpoint,
    address: Uri,
    credentials: Watched<Credentials>,
    close_reason: LastCloseReason,
}

impl TcpConnector {
    /// Checks the files for changes until the connector is dropped.
    pub(super) fn new(
        address: &Address,
        credentials: Watched<Credentials>,
    ) -> Result<Arc<Self>, ConnectError> {
        let address = Uri::try_from(address.0.as_str()).map_err(|_| ConnectError::Address)?;
        // This module does TLS itself. With an https endpoint tonic would require its own.
        let endpoint = Endpoint::from_static("http://coordinator")
            .origin(address.clone())
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let connector = Arc::new(Self {
            endpoint,
            address,
            credentials,
            close_reason: LastCloseReason::default(),
        });
        if connector.credentials.has_files() {
            let connector = Arc::downgrade(&connector);
            threads::spawn("credentials", move || check_files(&connector))?;
        }
        Ok(connector)
    }

    /// The address without a trailing slash, for messages.
    pub(super) fn address(&self) -> String {
        self.address.to_string().trim_end_matches('/').to_owned()
    }

    fn connect(&self, credentials: &Credentials) -> Channel {
        let address = self.address.clone();
        let tls = credentials.tls.clone();
        let close_reason = self.close_reason.clone();
        let connect = tower::service_fn(move |_: Uri| {
            dial(address.clone(), tls.clone(), close_reason.clone())
        });
        self.endpoint.connect_with_connector_lazy(connect)
    }
}

/// Checks the files until the connector is dropped. A check is fast unless its mount hangs. It then
/// must block neither calls nor the end of the program, so it has a thread that is not joined.
fn check_files(connector: &Weak<TcpConnector>) {
    loop {
        thread::sleep(CHECK_INTERVAL);
        let Some(connector) = connector.upgrade() else {
            return;
        };
        connector.credentials.check_files();
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
        let credentials = connector.credentials.get();
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
                let gone = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
                coordinator.send(far).await.map_err(gone)?;
                Ok::<_, io::Error>(TokioIo::new(near))
            }
        });
        let endpoint = Endpoint::from_static("http://in-process");
        let channel = endpoint.connect_with_connector_lazy(connect);
        Self(Transport::Local(channel))
    }

    pub(super) fn over_socket(path: Arc<Path>) -> Self {
        let connect = tower::service_fn(move |_: Uri| {
            let path = Arc::clone(&path);
            async move { socket::connect(&path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://coordinator");
        let channel = endpoint.connect_with_connector_lazy(connect);
        Self(Transport::Local(channel))
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
                let mut connection = lock(connection);
                let credentials = connector.credentials.get();
                if !Arc::ptr_eq(&credentials, &connection.credentials) {
                    *connection = Connection {
                        channel: connector.connect(&credentials),
                        credentials,
                    };
                }
                if let Some(bearer) = &connection.credentials.bearer {
                    request.headers_mut().insert(AUTHORIZATION, bearer.clone());
                }
                let close_reason = connector.close_reason.clone();
                (connection.channel.clone(), Some(close_reason))
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
    use std::sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    };

    use http::HeaderValue;
    use tokio::time::Instant;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn files_on_a_hung_mount_block_no_call() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "old").unwrap();
        let (mount_is_back, hangs) = sync_channel::<()>(0);
        let (check_has_begun, check_begun) = sync_channel(1);
        let hangs = Mutex::new(hangs);
        let call_was_held_up = Arc::new(AtomicBool::new(false));
        let held_up = Arc::clone(&call_was_held_up);
        let credentials = Watched::new(vec![path.clone()], move |sources| {
            if *sources[0].bytes == b"new" {
                check_has_begun.send(()).unwrap();
                let waited = hangs.lock().unwrap().recv_timeout(DEADLINE);
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
        let address = "http://127.0.0.1:1".parse().unwrap();
        let connector = TcpConnector::new(&address, credentials.unwrap()).unwrap();
        let bearer = || connector.credentials.get().bearer.clone().unwrap();
        let channel = CoordinatorChannel::over(Arc::clone(&connector));

        std::fs::write(&path, "new").unwrap();
        check_begun.recv_timeout(DEADLINE).unwrap();
        for _ in 0..3 {
            // Nothing listens there, so the call fails; it uses the credentials nevertheless.
            let refused = channel.clone().call(Request::new(Body::empty())).await;
            assert!(refused.is_err());
            assert_eq!(bearer(), "old");
        }
        assert!(!call_was_held_up.load(Ordering::SeqCst));
        drop(mount_is_back);
        let end = Instant::now() + DEADLINE;
        while bearer() != "new" {
            assert!(Instant::now() < end, "the new content is used");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
