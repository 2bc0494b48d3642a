//! `CoordinatorChannel`: what a generated client stands on. It carries the credential with each call, and never one that
//! belongs to other files than the connection does: when the files change, a new connection is made, and proved, with them.

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
    line::LastWord,
    socket,
};
use crate::tls::Watched;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Bytes in flight on an in-process connection.
const IN_PROCESS_BUFFER: usize = 64 << 10;

/// How long a call waits for a look. It takes no time, but on a mount that hangs, where it holds up no other call and no end of
/// the program: hence a thread of its own that nobody waits for.
const PATIENCE: Duration = Duration::from_millis(100);

/// The last look at the files.
struct Look {
    begun: Instant,
    under_way: Option<JoinHandle<()>>,
}

/// The way over TCP: an address, and what proves one side to the other.
pub struct Way {
    endpoint: Endpoint,
    address: Uri,
    credentials: Watched<Credentials>,
    look: Mutex<Look>,
    last_word: LastWord,
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
        Ok(Self {
            endpoint,
            address,
            credentials,
            look: Mutex::new(Look { begun: Instant::now(), under_way: None }),
            last_word: LastWord::default(),
        })
    }

    /// Those of now, or of a moment ago.
    fn credentials(self: &Arc<Self>) -> Arc<Credentials> {
        if let Some(looked) = self.look() {
            looked.recv_timeout(PATIENCE).ok();
        }
        self.credentials.get()
    }

    /// Begins to look at the files, if that is due; the end is told.
    fn look(self: &Arc<Self>) -> Option<Receiver<()>> {
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        let is_under_way = look.under_way.as_ref().is_some_and(|thread| !thread.is_finished());
        if is_under_way || look.begun.elapsed() < LOOK || !self.credentials.has_files() {
            return None;
        }
        look.begun = Instant::now();
        let (way, (done, looked)) = (Arc::clone(self), sync_channel(1));
        let thread = thread::Builder::new().name("credentials".to_owned()).spawn(move || {
            way.credentials.look();
            done.send(()).ok();
        });
        match thread {
            Ok(thread) => look.under_way = Some(thread),
            Err(error) => tracing::warn!(%error, "the files of the credentials were not looked at"),
        }
        Some(looked)
    }

    /// As people write it.
    pub(super) fn address(&self) -> String {
        self.address.to_string().trim_end_matches('/').to_owned()
    }

    fn connect(&self, credentials: &Credentials) -> Channel {
        let address = self.address.clone();
        let security = match &credentials.tls {
            Some(tls) => Security::Tls(Arc::clone(tls)),
            None => Security::Plaintext,
        };
        let last_word = self.last_word.clone();
        let connect = tower::service_fn(move |_: Uri| dial(address.clone(), security.clone(), last_word.clone()));
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
    /// Within this machine, without credentials: a pair of pipes, or a Unix socket.
    Local(Channel),
    Tcp {
        way: Arc<Way>,
        link: Arc<Mutex<Link>>,
    },
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
        Self(Kind::Local(endpoint.connect_with_connector_lazy(connect)))
    }

    pub(super) fn over_socket(path: Arc<Path>) -> Self {
        let connect = tower::service_fn(move |_: Uri| {
            let path = Arc::clone(&path);
            async move { socket::connect(&path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://coordinator");
        Self(Kind::Local(endpoint.connect_with_connector_lazy(connect)))
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
        let (channel, last_word) = match &self.0 {
            Kind::Local(channel) => (channel.clone(), None),
            Kind::Tcp { way, link } => {
                let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
                let credentials = way.credentials();
                if !Arc::ptr_eq(&credentials, &link.credentials) {
                    *link = Link { channel: way.connect(&credentials), credentials };
                }
                if let Some(bearer) = &link.credentials.bearer {
                    request.headers_mut().insert(AUTHORIZATION, bearer.clone());
                }
                (link.channel.clone(), Some(way.last_word.clone()))
            }
        };
        Box::pin(async move {
            channel.oneshot(request).await.map_err(|error| {
                // What HTTP/2 makes of it says nothing to anybody.
                match last_word.and_then(|last_word| last_word.get()) {
                    Some(word) => tonic::ConnectError(DialError::from(word).into()).into(),
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
    async fn files_on_a_mount_that_hangs_hold_up_no_call() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "old").unwrap();
        let (mount_is_back, hangs) = sync_channel::<()>(0);
        let (hangs, call_was_held_up) = (Mutex::new(hangs), Arc::new(AtomicBool::new(false)));
        let held_up = Arc::clone(&call_was_held_up);
        let credentials = Watched::new(vec![path.clone()], move |sources| {
            if *sources[0].bytes == b"new" {
                let waited = hangs.lock().unwrap().recv_timeout(Duration::from_secs(20));
                held_up.store(waited == Err(std::sync::mpsc::RecvTimeoutError::Timeout), Ordering::SeqCst);
            }
            Ok(Credentials { tls: None, bearer: HeaderValue::from_bytes(&sources[0].bytes).ok() })
        });
        let way = Arc::new(Way::new(&"http://127.0.0.1:1".parse().unwrap(), credentials.unwrap()).unwrap());
        let bearer = || way.credentials().bearer.clone().unwrap();

        std::fs::write(&path, "new").unwrap();
        for _ in 0..3 {
            tokio::time::advance(LOOK).await;
            assert_eq!(bearer(), "old");
        }
        assert!(!call_was_held_up.load(Ordering::SeqCst));
        drop(mount_is_back);
        let look = way.look.lock().unwrap().under_way.take().unwrap();
        look.join().unwrap();
        assert_eq!(bearer(), "new");
    }
}
