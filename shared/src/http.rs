//! The HTTP server of both programs: liveness, readiness, metrics, and what a program adds to
//! these. Without TLS it serves other machines nothing secret.
//!
//! Invariant: slow or frequent clients take a bounded number of connections and never affect the
//! job.

mod connections;
mod deadline;
mod host;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{Request, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::body::Incoming;
use rustls::ServerConfig;
use tokio::{net::TcpListener, time::timeout};
use tower::ServiceExt as _;

pub use connections::{LongStream, MAX_CONNECTIONS, MAX_STREAMS, Peer};
pub use host::{HostName, Source};

use connections::Answers;

use crate::metrics::{self, Metrics};

/// Without an answer for this long the program counts as not alive. Usual probes time out earlier
/// or at about this time.
const ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The answer to a request with another machine's name as its host (RFC 9110 §15.5.20).
const OTHER_HOST: &str = "this port is for this machine: ask for it as localhost or 127.0.0.1, or \
                          let the program listen on an address of the network with --http";
/// The answer to a stream beyond the limit.
pub const TOO_MANY_STREAMS: &str = "64 viewers are connected already: close one of them, or ask \
                                    for api/v1/snapshot now and then";
/// Paths below this one have JSON as answers, errors too.
const API: &str = "/api/";

/// The address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// The port is a default and not the user's choice: if it is busy, take a free one.
    pub or_any_port: bool,
}

/// Parses an address to listen on. A host name is not accepted: it can have several addresses,
/// or for none.
///
/// # Errors
/// A description of the expected format.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "it takes an IP address and a port, like 127.0.0.1:8080".to_owned())
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program has the address.
    #[error(
        "listen on {address}: the address is in use; stop the other program, or give another \
         address with {flag}"
    )]
    AddressInUse {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
    },
    /// The address cannot be used.
    #[error("listen on {address}: {source}; give another address with {flag}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl ListenError {
    /// Why `address`, which `flag` sets, could not be bound.
    pub fn at(address: SocketAddr, flag: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse { address, flag },
            _ => Self::Listen {
                address,
                flag,
                source,
            },
        }
    }
}

/// The state of a program that the server exposes.
pub trait ProgramStatus: Send + Sync + 'static {
    /// Whether the program's main loop answers.
    fn is_alive(&self) -> impl Future<Output = bool> + Send;
    /// Whether the program does its work; if not, one word that gives the reason.
    ///
    /// # Errors
    /// The reason.
    fn readiness(&self) -> Result<(), &'static str>;
    /// The program's metrics.
    fn metrics(&self) -> &Metrics;
}

/// Binds the address; no request is answered yet.
///
/// # Errors
/// [`ListenError`], one sentence that names the flag.
pub fn listen(on: Address) -> Result<(TcpListener, SocketAddr), ListenError> {
    let address = on.address;
    let mut bound = connections::bind(address);
    if on.or_any_port && matches!(&bound, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
        bound = connections::bind((Ipv4Addr::LOCALHOST, 0).into());
    }
    bound
        .and_then(|listener| listener.local_addr().map(|bound| (listener, bound)))
        .map_err(|source| ListenError::at(address, "--http", source))
}

/// The line for people with the address of the server.
pub fn announcement(address: SocketAddr) -> String {
    if address.ip().is_loopback() {
        return format!("health and metrics at http://{address}/");
    }
    format!(
        "warning: health and metrics at http://{address}/ are plaintext and open to other \
         machines; nothing secret is in them"
    )
}

/// Returns the current TLS configuration, for each new connection.
pub type TlsSource = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// What a port serves, and how.
#[derive(Clone)]
pub struct Site {
    /// Makes the answers. Each request has its [`Peer`] and its [`Source`] in its extensions.
    pub router: Router,
    /// The port has TLS.
    pub tls: Option<TlsSource>,
    /// Names of reverse proxies on this machine.
    pub proxies: Vec<HostName>,
    /// What an operator can do besides, at the end of the refusal of another host name.
    pub other_host_remedy: &'static str,
}

/// Answers requests for health, readiness and metrics until it is dropped.
pub async fn serve(listener: TcpListener, program: &'static str, status: Arc<impl ProgramStatus>) {
    let page = text_page(program, "");
    serve_site(
        listener,
        Site {
            router: probes(status).route("/", get(|| async { page })),
            tls: None,
            proxies: Vec::new(),
            other_host_remedy: "",
        },
    )
    .await;
}

/// Answers requests until it is dropped.
pub async fn serve_site(listener: TcpListener, site: Site) {
    // On an address of the network any host name is accepted: a kubelet uses the address of the
    // pod, and Prometheus uses the name under which it knows the host.
    let is_local = listener
        .local_addr()
        .is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let tls = site.tls.clone();
    connections::serve(listener, tls, SiteAnswers { site, is_local }).await;
}

/// The answers of a [`Site`].
#[derive(Clone)]
struct SiteAnswers {
    site: Site,
    /// The port is bound to a loopback address.
    is_local: bool,
}

impl Answers for SiteAnswers {
    async fn answer(&self, mut request: Request<Incoming>) -> Response {
        let Site {
            router,
            proxies,
            other_host_remedy,
            ..
        } = &self.site;
        if self.is_local && !host::is_expected(&request, proxies) {
            let error = format!("{OTHER_HOST}{other_host_remedy}");
            let status = StatusCode::MISDIRECTED_REQUEST;
            return if request.uri().path().starts_with(API) {
                json_error(status, &error)
            } else {
                (status, error + "\n").into_response()
            };
        }
        let peer = request.extensions().get::<Peer>();
        let peer = *peer.expect("each request has the peer of its connection");
        let source = host::source(&request, peer, proxies);
        request.extensions_mut().insert(source);
        let Ok(answer) = router.clone().oneshot(request).await;
        answer
    }

    fn too_many_streams(&self) -> Response {
        json_error(StatusCode::SERVICE_UNAVAILABLE, TOO_MANY_STREAMS)
    }
}

/// An error of the API: `{"error": "one sentence"}`.
pub fn json_error(status: StatusCode, sentence: &str) -> Response {
    let body = serde_json::json!({ "error": sentence }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The routes that both programs have.
pub fn probes<S: ProgramStatus>(status: Arc<S>) -> Router {
    Router::new()
        .route("/healthz", get(healthz::<S>))
        .route("/readyz", get(readyz::<S>))
        .route("/metrics", get(scrape::<S>))
        .with_state(status)
}

/// The page of a port for people, as text: what there is, and `more`.
pub fn text_page(program: &str, more: &str) -> String {
    format!(
        "{program} {}\n\n\
         /healthz  200 while the process lives\n\
         /readyz   200 while it does its work, else 503 and why\n\
         /metrics  for Prometheus\n{more}",
        env!("CARGO_PKG_VERSION")
    )
}

/// A line, or the status and the line of an error.
type Answer = Result<&'static str, (StatusCode, String)>;

fn unavailable(why: &str) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
}

async fn healthz<S: ProgramStatus>(State(status): State<Arc<S>>) -> Answer {
    match timeout(ALIVE_TIMEOUT, status.is_alive()).await {
        Ok(true) => Ok("ok\n"),
        Ok(false) | Err(_) => Err(unavailable("it does not answer")),
    }
}

async fn readyz<S: ProgramStatus>(State(status): State<Arc<S>>) -> Answer {
    status.readiness().map_err(unavailable)?;
    Ok("ok\n")
}

async fn scrape<S: ProgramStatus>(State(status): State<Arc<S>>) -> Response {
    match status.metrics().text() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt,
        sync::atomic::{AtomicBool, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        task::JoinSet,
    };

    use super::*;
    use crate::metrics::{MetricsSource, Page};

    /// A source with one gauge.
    #[derive(Debug)]
    struct OneGauge;

    impl MetricsSource for OneGauge {
        fn write(&self, page: &mut Page<'_>) -> fmt::Result {
            page.gauge("one", "It is one.", 1)
        }
    }

    /// A program whose state the test controls.
    struct Program {
        lives: bool,
        works: AtomicBool,
        metrics: Metrics,
    }

    impl ProgramStatus for Program {
        async fn is_alive(&self) -> bool {
            if !self.lives {
                std::future::pending::<()>().await;
            }
            true
        }

        fn readiness(&self) -> Result<(), &'static str> {
            self.works
                .load(Ordering::Relaxed)
                .then_some(())
                .ok_or("starting")
        }

        fn metrics(&self) -> &Metrics {
            &self.metrics
        }
    }

    fn local(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    fn start(lives: bool) -> (Arc<Program>, SocketAddr, JoinSet<()>) {
        start_at(
            Address {
                address: local(0),
                or_any_port: false,
            },
            lives,
        )
    }

    fn start_at(address: Address, lives: bool) -> (Arc<Program>, SocketAddr, JoinSet<()>) {
        let program = Program {
            lives,
            works: AtomicBool::new(false),
            metrics: Metrics::new("program", "1", Arc::new(OneGauge)),
        };
        let program = Arc::new(program);
        let (listener, address) = listen(address).unwrap();
        let mut task = JoinSet::new();
        task.spawn(serve(listener, "program", Arc::clone(&program)));
        (program, address, task)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        ask_as(address, request, "localhost").await
    }

    async fn ask_as(address: SocketAddr, request: &str, host: &str) -> String {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection
            .write_all(
                format!("{request} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await
            .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_readiness_and_metrics_are_served() {
        let (program, address, _task) = start(true);
        let starting = ask(address, "GET /readyz").await;
        assert!(
            starting.starts_with("HTTP/1.1 503 ") && starting.ends_with("\r\n\r\nstarting\n"),
            "{starting}"
        );
        program.works.store(true, Ordering::Relaxed);
        for path in ["/readyz", "/healthz"] {
            let answer = ask(address, &format!("GET {path}")).await;
            assert!(
                answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nok\n"),
                "{answer}"
            );
        }
        let page = ask(address, "GET /").await;
        assert!(
            page.contains("/metrics") && page.contains("content-type: text/plain"),
            "{page}"
        );
        let metrics = ask(address, "GET /metrics").await;
        assert!(
            metrics.contains("content-type: application/openmetrics-text; version=1.0.0")
                && metrics.contains("imagenet_one 1\n")
        );
        assert!(
            ask(address, "HEAD /metrics")
                .await
                .starts_with("HTTP/1.1 200 ")
        );
        assert!(
            ask(address, "GET /secret")
                .await
                .starts_with("HTTP/1.1 404 ")
        );
        assert!(
            ask(address, "POST /metrics")
                .await
                .starts_with("HTTP/1.1 405 ")
        );
    }

    #[tokio::test]
    async fn a_program_that_does_not_answer_in_time_is_not_alive() {
        let (_program, address, _task) = start(false);
        let answer = ask(address, "GET /healthz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("it does not answer\n"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_busy_port_is_an_error_unless_it_is_a_default() {
        let taken = TcpListener::bind(local(0)).await.unwrap();
        let address = taken.local_addr().unwrap();
        let refused = listen(Address {
            address,
            or_any_port: false,
        })
        .unwrap_err()
        .to_string();
        assert!(
            refused.ends_with("or give another address with --http")
                && refused.contains(&address.to_string())
        );
        let (_listener, other) = listen(Address {
            address,
            or_any_port: true,
        })
        .unwrap();
        assert!(other.ip().is_loopback() && other != address);
    }

    #[tokio::test]
    async fn on_loopback_only_requests_for_a_loopback_name_are_answered() {
        let (program, address, _task) = start(true);
        program.works.store(true, Ordering::Relaxed);
        let refused = ask_as(address, "GET /metrics", "evil.example:8080").await;
        assert!(
            refused.starts_with("HTTP/1.1 421 ") && !refused.contains("imagenet_one"),
            "{refused}"
        );
        assert!(
            refused.contains("ask for it as localhost or 127.0.0.1"),
            "{refused}"
        );
        let refused = ask_as(address, "GET /api/v1/snapshot", "evil.example:8080").await;
        assert!(
            refused.starts_with("HTTP/1.1 421 ") && refused.contains("{\"error\":\"this port is"),
            "{refused}"
        );
        assert!(
            ask_as(address, "GET /metrics", "127.0.0.1:8080")
                .await
                .starts_with("HTTP/1.1 200 ")
        );
    }

    #[tokio::test]
    async fn on_an_address_of_the_network_any_host_name_is_accepted() {
        let any = Address {
            address: "0.0.0.0:0".parse().unwrap(),
            or_any_port: false,
        };
        let (_program, address, _task) = start_at(any, true);
        let answer = ask_as(local(address.port()), "GET /metrics", "10.1.2.3:8080").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[test]
    fn an_address_open_to_other_machines_is_announced_with_a_warning() {
        assert_eq!(
            announcement(local(80)),
            "health and metrics at http://127.0.0.1:80/"
        );
        let open = announcement("0.0.0.0:80".parse().unwrap());
        assert!(
            open.starts_with("warning: health and metrics at http://0.0.0.0:80/ are plaintext"),
            "{open}"
        );
    }
}
