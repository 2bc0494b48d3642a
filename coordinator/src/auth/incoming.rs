//! Accepts connections and does their handshakes, all of them at the same time. Each is pending
//! until its first valid call.

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
    Connection, Door,
    connections::{Connections, Entry, Limits},
};
use crate::auth::log_limiter::Sparing;

/// From the first byte to the last.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long somebody whose certificate was refused may take to hear it.
const LINGER: Duration = Duration::from_secs(1);
/// How often pending connections and revoked credentials are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// After an accept that failed, e.g. for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections of a listener that are ready for calls. Never ends, and one that fails is told to the log alone.
pub fn incoming(listener: TcpListener, door: Arc<Door>) -> impl Stream<Item = io::Result<Connection>> {
    let mut watch = JoinSet::new();
    watch.spawn(Arc::clone(&door).watch());
    let entrance = Entrance {
        listener,
        door,
        connections: Arc::new(Connections::new(Limits::within(limits::raise_open_files(None)))),
        handshakes: JoinSet::new(),
        sweep: interval(SWEEP),
        accept_after: Instant::now(),
        told: Sparing::default(),
        _watch: watch,
    };
    stream::unfold(entrance, |mut entrance| async move {
        let connection = entrance.next().await;
        Some((Ok(connection), entrance))
    })
}

struct Entrance {
    listener: TcpListener,
    door: Arc<Door>,
    connections: Arc<Connections>,
    handshakes: JoinSet<Result<Connection, Failed>>,
    sweep: Interval,
    accept_after: Instant,
    told: Sparing,
    _watch: JoinSet<()>,
}

impl Entrance {
    async fn next(&mut self) -> Connection {
        loop {
            let accept = async {
                sleep_until(self.accept_after).await;
                // Until there is room, a connection waits in the system's queue.
                self.connections.room().await;
                self.listener.accept().await
            };
            tokio::select! {
                accepted = accept => match accepted {
                    Ok((line, address)) => if let Some(connection) = self.enter(line, address) { return connection },
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        self.accept_after = Instant::now() + PAUSE;
                    }
                },
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(failed)) => self.tell(&failed),
                    // A panic has been told.
                    Err(_) => {}
                },
                _ = self.sweep.tick() => self.connections.sweep(Instant::now()),
            }
        }
    }

    /// Who was refused is told in the log, but a crowd of strangers does not fill it.
    fn tell(&mut self, Failed { address, error }: &Failed) {
        if !error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>) {
            // A probe of the port, or somebody who went away.
            tracing::debug!(%address, %error, "no handshake");
        } else if let Some(untold) = self.told.may_tell(Instant::now()) {
            tracing::info!(%address, untold, "the TLS handshake failed: {error}");
        }
    }

    /// Registers an accepted connection, and begins the handshake if there has to be one.
    fn enter(&mut self, line: TcpStream, address: SocketAddr) -> Option<Connection> {
        let entry = self.connections.enter(Instant::now());
        // Small answers are sent at once.
        if let Err(error) = line.set_nodelay(true) {
            tracing::debug!(%address, %error, "the connection was lost at once");
            return None;
        }
        let Some(tls) = &self.door.tls else { return Some(Connection::plain(line, address.ip(), entry)) };
        self.handshakes.spawn(handshake(TlsAcceptor::from(Arc::clone(&tls.get().config)), line, address, entry));
        None
    }
}

/// A handshake that came to nothing.
struct Failed {
    address: SocketAddr,
    error: io::Error,
}

async fn handshake(
    acceptor: TlsAcceptor,
    line: TcpStream,
    address: SocketAddr,
    entry: Entry,
) -> Result<Connection, Failed> {
    let cut = entry.cut().clone();
    match timeout(HANDSHAKE, cut.run_until_cancelled(acceptor.accept(line).into_fallible())).await {
        Ok(Some(Ok(line))) => Ok(Connection::encrypted(line, address.ip(), entry)),
        Ok(Some(Err((error, line)))) => {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
            if matches!(inner, Some(rustls::Error::InvalidCertificate(_))) {
                drop(timeout(LINGER, cut.run_until_cancelled(linger(line))).await);
            }
            Err(Failed { address, error })
        }
        Ok(None) | Err(_) => Err(Failed { address, error: io::ErrorKind::TimedOut.into() }),
    }
}

/// Waits until the other side has hung up. It has sent its first call already, and if that were left unread, the system would
/// reset the connection, and the other side might never see the alert that says why.
async fn linger(mut line: TcpStream) -> io::Result<u64> {
    line.shutdown().await?;
    tokio::io::copy(&mut line, &mut tokio::io::sink()).await
}
