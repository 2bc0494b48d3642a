//! Abusive clients, with or without a token, that send HTTP/2 frames over TLS as fast as the server
//! accepts them and read nothing after the handshake. A client whose connection is closed connects
//! again at once.

use std::{
    fmt,
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use crate::http2_client::{self as frames, Request};

/// How long one write or one step of a handshake may block before the client checks whether it has
/// to stop.
const BLOCK_TIMEOUT: Duration = Duration::from_millis(100);
/// Pause after a failed connection.
const RETRY_DELAY: Duration = Duration::from_millis(5);
/// Frames passed to TLS at a time.
const FRAMES: usize = 1000;

/// What the clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Complete calls: `GetFleet` with a token; without a token calls that the server rejects.
    Calls,
    /// `Watch` calls: of the job with a token, of the health service without one.
    Watch,
    /// Requests to the health service whose bodies never end.
    Streams,
    /// PING frames; each requires an acknowledgement.
    Pings,
    /// Acknowledgements of PING frames that were never sent.
    Acknowledgements,
    /// SETTINGS frames; each requires an acknowledgement.
    Settings,
    /// Calls that are reset at once.
    Resets,
    /// Calls that the server rejects, with header lists as long as it allows, sent as references to
    /// one long field.
    Headers,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Calls,
        Self::Watch,
        Self::Streams,
        Self::Pings,
        Self::Acknowledgements,
        Self::Settings,
        Self::Resets,
        Self::Headers,
    ];

    /// The next frames; `stream` is the last stream id in use.
    fn next(self, request: &Request, stream: &mut u32, count: usize) -> Vec<u8> {
        let mut take = || {
            *stream += 2;
            *stream
        };
        let mut bytes = Vec::new();
        for _ in 0..count {
            match self {
                Self::Calls | Self::Headers => bytes.extend(request.repeated(take(), true)),
                Self::Watch => {
                    let stream = take();
                    bytes.extend(request.repeated(stream, false));
                    bytes.extend(frames::empty_message(stream));
                }
                Self::Streams => bytes.extend(request.repeated(take(), false)),
                Self::Pings => bytes.extend(frames::PING),
                Self::Acknowledgements => bytes.extend(frames::PING_ACKNOWLEDGEMENT),
                Self::Settings => bytes.extend(frames::SETTINGS),
                Self::Resets => {
                    let stream = take();
                    bytes.extend(request.repeated(stream, false));
                    bytes.extend(frames::reset(stream));
                }
            }
        }
        bytes
    }

    fn request(self, token: Option<&str>) -> Request {
        let path = match (self, token) {
            (Self::Watch, None) => "/grpc.health.v1.Health/Watch",
            (Self::Watch, Some(_)) => "/imagenet.v1.Coordinator/Watch",
            (Self::Streams, _) => "/grpc.health.v1.Health/Check",
            (_, None) => "/imagenet.v1.Coordinator/Renew",
            (_, Some(_)) => "/imagenet.v1.Admin/GetFleet",
        };
        let request = Request::new(path).token(token.map(str::to_owned));
        if self == Self::Headers {
            request.field(3 << 10)
        } else {
            request
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Calls => "calls",
            Self::Watch => "watch",
            Self::Streams => "streams",
            Self::Pings => "pings",
            Self::Acknowledgements => "acknowledgements",
            Self::Settings => "settings",
            Self::Resets => "resets",
            Self::Headers => "headers",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.to_string() == text);
        found.ok_or_else(|| {
            format!(
                "the kinds are {}",
                Self::ALL.map(|kind| kind.to_string()).join(", ")
            )
        })
    }
}

/// The attack that the clients run.
#[derive(Debug, Clone)]
pub struct Attack {
    /// The server.
    pub address: SocketAddr,
    /// PEM file with the CA certificate of the server.
    pub authority: PathBuf,
    /// The clients' token, if any.
    pub token: Option<String>,
    /// What they send.
    pub kind: Kind,
    /// How long a connection sends.
    pub style: Style,
}

/// What the clients sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    /// Connections, after the handshake.
    pub connections: u64,
    /// Bytes that the kernel accepted, over all connections.
    pub bytes: u64,
}

/// How long a connection sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As fast as possible, until the server closes the connection.
    Endless,
    /// This many frames; the connection then stays open until the server closes it.
    Held(usize),
}

/// Running clients; stopped when dropped.
#[derive(Debug)]
pub struct AbusiveClients {
    stopping: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Sent>>,
}

impl AbusiveClients {
    /// Starts `count` clients.
    pub fn start(attack: &Attack, count: usize) -> Self {
        let config = Arc::new(config(&attack.authority));
        let stopping = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let client = Client {
                attack: attack.clone(),
                config: Arc::clone(&config),
                stopping: Arc::clone(&stopping),
            };
            std::thread::spawn(move || client.run())
        };
        let clients = (0..count).map(client).collect();
        Self { stopping, clients }
    }

    /// Stops them, which closes their connections.
    pub fn stop(mut self) -> Sent {
        self.stopping.store(true, Ordering::Relaxed);
        let mut sum = Sent::default();
        for client in self.clients.drain(..) {
            let sent = client.join().expect("a client does not panic");
            sum.connections += sent.connections;
            sum.bytes += sent.bytes;
        }
        sum
    }
}

impl Drop for AbusiveClients {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

fn config(authority: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let certificate =
        CertificateDer::from_pem_file(authority).expect("a PEM file with a certificate");
    roots
        .add(certificate)
        .expect("a certificate of an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// One client; runs on a thread.
struct Client {
    attack: Attack,
    config: Arc<ClientConfig>,
    stopping: Arc<AtomicBool>,
}

impl Client {
    fn run(self) -> Sent {
        let mut sent = Sent::default();
        while !self.is_stopping() {
            // The server closes the connection sooner or later.
            let cut = self.connection(&mut sent);
            if cut.is_err() {
                std::thread::sleep(RETRY_DELAY);
            }
        }
        sent
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn connection(&self, sent: &mut Sent) -> io::Result<()> {
        let Attack {
            address,
            token,
            kind,
            style,
            ..
        } = &self.attack;
        let request = kind.request(token.as_deref());
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(BLOCK_TIMEOUT))?;
        socket.set_write_timeout(Some(BLOCK_TIMEOUT))?;
        let name = ServerName::from(address.ip());
        let mut tls =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        while tls.is_handshaking() && !self.is_stopping() {
            if let Err(error) = tls.complete_io(&mut socket)
                && !is_blocked(&error)
            {
                return Err(error);
            }
        }
        sent.connections += 1;
        tls.writer().write_all(&frames::preface())?;
        tls.writer().write_all(&request.first())?;
        let mut stream = frames::FIRST_STREAM;
        let mut left = match *style {
            Style::Endless => usize::MAX,
            Style::Held(frames) => frames,
        };
        while !self.is_stopping() {
            if !tls.wants_write() {
                if left == 0 {
                    self.hold(&socket);
                    return Ok(());
                }
                let frames = left.min(FRAMES);
                left -= frames;
                tls.writer()
                    .write_all(&kind.next(&request, &mut stream, frames))?;
            }
            match tls.write_tls(&mut socket) {
                Ok(written) => sent.bytes += written as u64,
                Err(error) if is_blocked(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the server closes the connection, and reads nothing from it.
    fn hold(&self, socket: &TcpStream) {
        let mut ends = [PollFd::new(socket, PollFlags::RDHUP)];
        let blocked = Timespec {
            tv_sec: 0,
            tv_nsec: BLOCK_TIMEOUT.subsec_nanos().into(),
        };
        while !self.is_stopping() && ends[0].revents().is_empty() {
            poll(&mut ends, Some(&blocked)).expect("it is a socket");
        }
    }
}

fn is_blocked(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}
