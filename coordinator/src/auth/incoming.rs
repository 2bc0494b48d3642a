//! Accepts connections and performs their TLS handshakes concurrently. Each connection is pending
//! until its first call with a valid credential.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use shared::limits;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, Interval, interval, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Connection, ServerCredentials,
    connection::{encrypted, plain},
    connections::{ConnectionEntry, Connections, Limits},
    log_limiter::LogLimiter,
};

/// Timeout of a whole TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After a certificate was rejected, time for the client to read the TLS alert.
const ALERT_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval at which pending connections and revoked credentials are checked.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Delay after a failed accept, e.g. for want of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The connections of a listener that are ready for calls. The stream never ends; failed
/// connections are only logged.
pub fn incoming(
    listener: TcpListener,
    credentials: Arc<ServerCredentials>,
) -> impl Stream<Item = io::Result<Connection>> {
    let limits = Limits::within(limits::raise_open_files(None));
    let acceptor = Acceptor {
        listener,
        credentials,
        connections: Arc::new(Connections::new(limits)),
        handshakes: JoinSet::new(),
        sweep: interval(SWEEP_INTERVAL),
        accept_after: Instant::now(),
        log_limiter: LogLimiter::default(),
    };
    stream::unfold(acceptor, |mut acceptor| async move {
        let connection = acceptor.next().await;
        Some((Ok(connection), acceptor))
    })
}

/// A listener and the handshakes in progress.
struct Acceptor {
    listener: TcpListener,
    credentials: Arc<ServerCredentials>,
    connections: Arc<Connections>,
    handshakes: JoinSet<Result<Connection, FailedHandshake>>,
    sweep: Interval,
    accept_after: Instant,
    log_limiter: LogLimiter,
}

impl Acceptor {
    async fn next(&mut self) -> Connection {
        loop {
            let accept = async {
                sleep_until(self.accept_after).await;
                // Until a slot is free, connections wait in the kernel's accept queue.
                self.connections.wait_for_slot().await;
                self.listener.accept().await
            };
            tokio::select! {
                accepted = accept => match accepted {
                    Ok((stream, address)) => if let Some(connection) = self.enter(stream, address) { return connection },
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        self.accept_after = Instant::now() + ACCEPT_RETRY_DELAY;
                    }
                },
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(failed)) => self.log_failure(&failed),
                    // The panic hook has logged the panic.
                    Err(_) => {}
                },
                _ = self.sweep.tick() => self.connections.sweep(Instant::now()),
            }
        }
    }

    /// Logs a failed handshake, at a limited rate.
    fn log_failure(&mut self, FailedHandshake { address, error }: &FailedHandshake) {
        if !error
            .get_ref()
            .is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>)
        {
            // A port scan, or a client that disconnected.
            tracing::debug!(%address, %error, "no handshake");
        } else if let Some(untold) = self.log_limiter.may_log(Instant::now()) {
            tracing::info!(%address, untold, "the TLS handshake failed: {error}");
        }
    }

    /// Registers an accepted connection and starts its handshake if TLS is configured.
    fn enter(&mut self, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
        let entry = self.connections.enter(Instant::now());
        // Small responses are sent immediately.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%address, %error, "the connection was lost at once");
            return None;
        }
        let Some(tls) = &self.credentials.tls else {
            return Some(plain(stream, address.ip(), entry));
        };
        self.handshakes.spawn(handshake(
            TlsAcceptor::from(Arc::clone(&tls.get().config)),
            stream,
            address,
            entry,
        ));
        None
    }
}

/// A failed handshake.
struct FailedHandshake {
    address: SocketAddr,
    error: io::Error,
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    entry: ConnectionEntry,
) -> Result<Connection, FailedHandshake> {
    let must_close = entry.close_token().clone();
    let accepted = must_close.run_until_cancelled(acceptor.accept(stream).into_fallible());
    match timeout(HANDSHAKE_TIMEOUT, accepted).await {
        Ok(Some(Ok(stream))) => Ok(encrypted(stream, address.ip(), entry)),
        Ok(Some(Err((error, stream)))) => {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            if matches!(inner, Some(rustls::Error::InvalidCertificate(_))) {
                drop(
                    timeout(
                        ALERT_TIMEOUT,
                        must_close.run_until_cancelled(linger(stream)),
                    )
                    .await,
                );
            }
            Err(FailedHandshake { address, error })
        }
        Ok(None) | Err(_) => Err(FailedHandshake {
            address,
            error: io::ErrorKind::TimedOut.into(),
        }),
    }
}

/// Waits until the client closes the connection. It has already sent its first call; with unread
/// data the kernel would reset the connection, and the client might never read the TLS alert.
async fn linger(mut stream: TcpStream) -> io::Result<u64> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
}
