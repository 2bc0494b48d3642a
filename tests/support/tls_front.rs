//! A TLS terminator in front of an origin: takes one request per connection, forwards it in
//! plaintext and returns the answer.
//!
//! The certificates in `certificates/` were made once, with `openssl ca`: a CA, and from it one
//! certificate for 127.0.0.1 that is valid until 2120, one that expired in 2021, and one for
//! another host. `self_signed.pem` has the same key and was made with `openssl req -x509`. They
//! protect nothing.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Which certificate the server presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// For 127.0.0.1, issued by the CA.
    Valid,
    /// The same, but expired.
    Expired,
    /// Issued by the CA, for another host.
    WrongName,
    /// For 127.0.0.1, self-signed.
    SelfSigned,
}

/// A running TLS terminator; stops when dropped.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl TlsFront {
    /// Listens on loopback in front of the origin at this address.
    pub fn start(origin: SocketAddr, certificate: Certificate) -> Self {
        Self::start_that_ends(origin, certificate, true)
    }

    /// The same, but closes each connection without TLS's `close_notify`.
    pub fn start_without_close_notify(origin: SocketAddr, certificate: Certificate) -> Self {
        Self::start_that_ends(origin, certificate, false)
    }

    fn start_that_ends(origin: SocketAddr, certificate: Certificate, is_orderly: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let stopping = Arc::new(AtomicBool::new(false));
        let config = Arc::new(config(certificate));
        let acceptor = std::thread::spawn({
            let stopping = Arc::clone(&stopping);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    // Rejected certificates end here as errors; some tests expect that.
                    drop(pass_on(stream, origin, &config, is_orderly));
                }
            }
        });
        Self {
            address,
            stopping,
            acceptor: Some(acceptor),
        }
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

/// The CA certificate for `--cacert`.
pub fn authority() -> PathBuf {
    file("authority")
}

/// The self-signed certificate, which is its own CA.
pub fn self_signed() -> PathBuf {
    file("self_signed")
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("support/certificates/{name}.pem"))
}

fn config(certificate: Certificate) -> ServerConfig {
    let name = match certificate {
        Certificate::Valid => "valid",
        Certificate::Expired => "expired",
        Certificate::WrongName => "wrong_name",
        Certificate::SelfSigned => "self_signed",
    };
    let chain =
        CertificateDer::from_pem_file(file(name)).expect("the certificate is in the repository");
    let key = PrivateKeyDer::from_pem_file(file("key")).expect("the key is in the repository");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("the key belongs to the certificate")
}

fn pass_on(
    client: TcpStream,
    origin: SocketAddr,
    config: &Arc<ServerConfig>,
    is_orderly: bool,
) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut client = BufReader::new(StreamOwned::new(session, client));
    let mut server = TcpStream::connect(origin)?;
    let mut line = String::new();
    while client.read_line(&mut line)? > 2 {
        if !line.to_ascii_lowercase().starts_with("connection:") {
            server.write_all(line.as_bytes())?;
        }
        line.clear();
    }
    server.write_all(b"Connection: close\r\n\r\n")?;
    let mut client = client.into_inner();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match server.read(&mut buffer)? {
            0 => break,
            read => client.write_all(&buffer[..read])?,
        }
    }
    if is_orderly {
        client.conn.send_close_notify();
    }
    client.flush()
}
