//! How a program reaches the coordinator; used by the worker and by the coordinator's own commands.
//!
//! A token that names an authority is sent only to a server that was authenticated before, or, with
//! `--insecure`, to a port of this machine. A token that names none is sent in plaintext if the
//! address says `http`, and the log has a warning. The credentials for the server and the program
//! are read from the files together, and replaced together.

mod channel;
mod credentials;
mod dial;
mod line;
mod socket;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tokio::{io::DuplexStream, net::lookup_host, sync::mpsc, time::timeout};
use url::Url;

pub use channel::CoordinatorChannel;
pub use dial::{mismatched, reason, was_not_sent};
pub use socket::{NoSocket, SOCKET, SocketPath, find_socket, is_trusted_peer};

use crate::{
    private_file::readable_warning,
    protocol::DEFAULT_PORT,
    threads::NoThread,
    tls::{InvalidToken, TlsError, Watched},
};
use channel::TcpConnector;
use credentials::CredentialFiles;

/// Time limit for resolving a name; a name that takes longer counts as that of another host.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Address of the coordinator, and the credentials of both sides.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// Address of the coordinator: `http://127.0.0.1:50051`, or `https://host:50051` where it has a
    /// certificate
    #[arg(long, value_name = "URL", required = true)]
    pub connect: Option<Address>,
    /// File with the token that lets this program in; one that `coordinator init` wrote proves the
    /// coordinator, too
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificate authority of the coordinator, PEM [default: the one that the token names]
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Certificate that proves this program to the coordinator, PEM; a worker's must
    /// have its --name as CN or DNS name
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Send the token that `coordinator init` wrote in plaintext to a port of this machine; without
    /// TLS another user's program could listen there and be sent it. For the end of a tunnel, and
    /// for machines without other users
    #[arg(long)]
    pub insecure: bool,
}

impl ConnectArgs {
    /// The given address, or that of a coordinator on this machine with the default port.
    pub fn address(&self) -> Address {
        self.connect.clone().unwrap_or_default()
    }

    /// The connector for these arguments, for a user's command. Reads the files.
    ///
    /// # Errors
    /// [`ConnectError`]; its message is one sentence that names the flag.
    pub fn connector(&self) -> Result<Connector, ConnectError> {
        self.connector_as(&["admin", "viewer"])
    }

    /// The connector for these arguments, for a worker. Reads the files.
    ///
    /// # Errors
    /// The same.
    pub fn worker_connector(&self) -> Result<Connector, ConnectError> {
        self.connector_as(&["worker"])
    }

    /// Warnings for the log, before the first connection.
    pub fn warnings(&self) -> Vec<String> {
        let address = self.address();
        let is_plaintext = !address.is_tls() && self.token_file.is_some() && !self.insecure;
        let over_network = if address.is_loopback() {
            "the token goes in plaintext to a port at which other users of this machine can listen; use https where there are any"
        } else {
            "the token goes over the network in plaintext; use https where others may listen"
        };
        let secret_files = self.token_file.iter().chain(&self.tls_key);
        let readable = secret_files.filter_map(|path| readable_warning(path));
        is_plaintext
            .then(|| over_network.to_owned())
            .into_iter()
            .chain(readable)
            .collect()
    }

    /// Whether the coordinator is on this host, which is the case if each address of its name is
    /// one of this host's. A name that is not resolved in time counts as that of another host.
    pub async fn is_on_this_host(&self) -> bool {
        let address = self.address();
        if address.is_loopback() {
            return true;
        }
        let Some(host) = address.0.host_str() else {
            return false;
        };
        // A URL has brackets around an IPv6 address.
        let host = host.trim_matches(['[', ']']);
        match timeout(LOOKUP_TIMEOUT, lookup_host((host, DEFAULT_PORT))).await {
            Ok(Ok(addresses)) => {
                let mut addresses = addresses.map(|address| address.ip()).peekable();
                addresses.peek().is_some() && addresses.all(is_own)
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    fn connector_as(&self, roles: &'static [&'static str]) -> Result<Connector, ConnectError> {
        let address = self.address();
        let tls = address.is_tls();
        if tls && self.token_file.is_none() && self.tls_ca.is_none() {
            return Err(ConnectError::NoProof);
        }
        if !tls && (self.tls_ca.is_some() || self.tls_cert.is_some()) {
            return Err(ConnectError::NoTls);
        }
        let files = CredentialFiles {
            tls,
            in_plaintext: match (address.is_loopback(), self.insecure) {
                (false, _) => Err(InvalidToken::Plaintext),
                (true, false) => Err(InvalidToken::PlaintextHere),
                (true, true) => Ok(()),
            },
            token: self.token_file.clone(),
            roles,
            authority: self.tls_ca.clone(),
            pair: self.tls_cert.clone().zip(self.tls_key.clone()),
        };
        let credentials = Watched::new(files.paths(), move |sources| files.credentials(sources))?;
        Ok(Connector::Tcp(TcpConnector::new(&address, credentials)?))
    }
}

/// Whether an address is one of this host: the system would use the same address as the source.
fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        // Sends nothing: the system only chooses the source address.
        socket.connect((address, DEFAULT_PORT))?;
        socket.local_addr()
    });
    address.is_loopback() || source.is_ok_and(|source| source.ip() == address)
}

/// The address of a coordinator, `http://host:port` or `https://host:port`. The default port is
/// [`DEFAULT_PORT`], not that of web servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Url);

impl Default for Address {
    fn default() -> Self {
        format!("http://127.0.0.1:{DEFAULT_PORT}")
            .parse()
            .expect("it is an address")
    }
}

/// The text is not the address of a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no address like http://127.0.0.1:{DEFAULT_PORT} or https://host:{DEFAULT_PORT}")]
pub struct InvalidAddress;

impl Address {
    fn is_tls(&self) -> bool {
        self.0.scheme() == "https"
    }

    fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let mut url = Url::parse(text).map_err(|_| InvalidAddress)?;
        let is_address = ["http", "https"].contains(&url.scheme()) && url.host().is_some();
        // A secret in the URL would be visible in the list of processes.
        if !is_address || !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidAddress);
        }
        if !names_port(text) {
            url.set_port(Some(DEFAULT_PORT))
                .map_err(|()| InvalidAddress)?;
        }
        Ok(Self(url))
    }
}

/// Whether the text has a port; the parsed URL omits a port that is its scheme's default.
fn names_port(url: &str) -> bool {
    let (_, rest) = url.split_once("://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // An IPv6 address in brackets contains colons.
    let after_host = authority.rsplit(']').next().unwrap_or_default();
    after_host
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty())
}

/// Reasons for which the arguments are no usable connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not valid for HTTP.
    #[error("use the value of --connect: {InvalidAddress}")]
    Address,
    /// Without a token or an authority, any server could answer at the address.
    #[error(
        "trust a coordinator behind https without proof: give the token that `coordinator init` wrote with --token-file, or \
         the coordinator's certificate authority with --tls-ca"
    )]
    NoProof,
    /// Certificates are not used with plaintext.
    #[error("use --tls-ca or --tls-cert with an http address: give --connect https://…")]
    NoTls,
    /// One of the files is unusable.
    #[error(transparent)]
    Files(#[from] TlsError),
    /// The thread that checks the files for changes cannot be started.
    #[error(transparent)]
    Thread(#[from] NoThread),
}

/// The way to connect to the coordinator.
#[derive(Debug, Clone)]
pub enum Connector {
    /// Over TCP.
    Tcp(Arc<TcpConnector>),
    /// Over the Unix socket at this path.
    Socket(Arc<Path>),
    /// In the same process: the coordinator receives each connection through this channel.
    InProcess(mpsc::Sender<DuplexStream>),
}

impl Connector {
    /// Description of the other end, for messages.
    pub fn end(&self) -> String {
        match self {
            Self::Tcp(connector) => format!("the coordinator at {}", connector.address()),
            Self::Socket(path) => format!("the coordinator at {}", path.display()),
            Self::InProcess(_) => "the coordinator".to_owned(),
        }
    }

    /// Host and port of the server, or the path of its socket.
    pub fn server(&self) -> String {
        match self {
            Self::Tcp(connector) => connector.address(),
            Self::Socket(path) => path.display().to_string(),
            Self::InProcess(_) => "in-process".to_owned(),
        }
    }

    /// A channel that connects at the first call, and again whenever the connection is lost. Calls
    /// need a deadline of their own, because tonic's does not cover connecting (grpc-rust issue
    /// 1635).
    pub fn channel(&self) -> CoordinatorChannel {
        match self {
            Self::Tcp(connector) => CoordinatorChannel::over(Arc::clone(connector)),
            Self::Socket(path) => CoordinatorChannel::over_socket(Arc::clone(path)),
            Self::InProcess(coordinator) => CoordinatorChannel::in_process(coordinator.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
