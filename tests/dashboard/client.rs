//! A viewer of the page: requests over a plain socket or TLS, as a browser or curl sends them.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::time::Instant;

/// Timeout of each read and write.
const IO_TIMEOUT: Duration = Duration::from_secs(10);

/// A socket, with or without TLS.
pub(crate) trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The status line and the headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The sentence of an error of the API.
    #[track_caller]
    pub(crate) fn error(&self) -> String {
        assert!(
            self.head.contains("content-type: application/json"),
            "{self:?}"
        );
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("it is JSON");
        let error = body["error"].as_str().expect("it has a sentence");
        error.to_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_str(&self.body).expect("it is JSON")
    }
}

/// One way to reach a coordinator.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    host: String,
    tls: Option<Arc<ClientConfig>>,
    headers: String,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            host: address.to_string(),
            tls: None,
            headers: String::new(),
        }
    }

    /// Over TLS, with the certificates of this authority.
    pub(crate) fn tls(mut self, authority: &Path) -> Self {
        let authority = CertificateDer::from_pem_file(authority).expect("init created it");
        let mut roots = RootCertStore::empty();
        roots.add(authority).expect("it is a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has a suite for each version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        self.tls = Some(Arc::new(config));
        self
    }

    /// With another name in `Host`.
    pub(crate) fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        for part in [name, ": ", value, "\r\n"] {
            self.headers += part;
        }
        self
    }

    pub(crate) fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Sends a request and leaves the answer unread.
    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> io::Result<Box<dyn Wire>> {
        let socket = TcpStream::connect_timeout(&self.address, IO_TIMEOUT)?;
        socket.set_read_timeout(Some(IO_TIMEOUT))?;
        socket.set_write_timeout(Some(IO_TIMEOUT))?;
        let mut wire: Box<dyn Wire> = match &self.tls {
            None => Box::new(socket),
            Some(config) => {
                let name = ServerName::from(IpAddr::from([127, 0, 0, 1]));
                let connection = ClientConnection::new(Arc::clone(config), name);
                let connection = connection.map_err(io::Error::other)?;
                Box::new(StreamOwned::new(connection, socket))
            }
        };
        let Self { host, headers, .. } = self;
        let length = body.len();
        write!(
            wire,
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\
             content-length: {length}\r\n\r\n{body}"
        )?;
        wire.flush()?;
        Ok(wire)
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, body)
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut wire = self.send(method, path, body).expect("the port answers");
        let mut bytes = Vec::new();
        match wire.read_to_end(&mut bytes) {
            Ok(_) => {}
            // The port closes TLS connections without a goodbye when an answer is complete.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            Err(error) => panic!("{method} {path}: {error}"),
        }
        let text = String::from_utf8(bytes).expect("answers are text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Answer {
            status: status.expect("a status line"),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }
}

/// Reads until the text has come; returns everything so far. Panics at the end of the stream or
/// after the deadline.
#[track_caller]
pub(crate) fn read_until(wire: &mut dyn Wire, text: &str) -> String {
    let deadline = Instant::now() + IO_TIMEOUT * 3;
    let mut read = String::new();
    while !read.contains(text) {
        assert!(Instant::now() < deadline, "{text} did not come: {read}");
        let mut buffer = [0; 4096];
        let length = wire.read(&mut buffer).expect("the stream goes on");
        assert!(length > 0, "the stream ended before {text}: {read}");
        read += &String::from_utf8_lossy(&buffer[..length]);
    }
    read
}

/// An address of this machine that is not a loopback address, if there is one. No packet is sent.
pub(crate) fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}
