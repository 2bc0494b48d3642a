//! Accepts connections: a seat in the lobby, then the handshake, all of them at the same time.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, Interval, interval, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Connection, Door,
    lobby::{Lobby, Seat},
};

/// From the first byte to the last.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often the lobby is swept.
const SWEEP: Duration = Duration::from_secs(1);
/// How often a full lobby is looked at.
const GLANCE: Duration = Duration::from_millis(10);
/// After an accept that failed, e.g. for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections of a listener that are ready for calls. Never ends, and one that fails is told to the log alone.
pub fn incoming(listener: TcpListener, door: Arc<Door>) -> impl Stream<Item = io::Result<Connection>> {
    let mut watch = JoinSet::new();
    watch.spawn(Arc::clone(&door).watch());
    let entrance = Entrance {
        listener,
        door,
        lobby: Arc::default(),
        handshakes: JoinSet::new(),
        sweep: interval(SWEEP),
        accept_after: Instant::now(),
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
    lobby: Arc<Lobby>,
    handshakes: JoinSet<Option<Connection>>,
    sweep: Interval,
    accept_after: Instant,
    _watch: JoinSet<()>,
}

impl Entrance {
    async fn next(&mut self) -> Connection {
        loop {
            let accept = async {
                sleep_until(self.accept_after).await;
                // Who finds no seat waits in the system's queue.
                while !self.lobby.has_room(Instant::now()) {
                    sleep(GLANCE).await;
                }
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
                Some(done) = self.handshakes.join_next() => if let Ok(Some(connection)) = done { return connection },
                _ = self.sweep.tick() => self.lobby.sweep(Instant::now()),
            }
        }
    }

    /// Gives the newcomer a seat, and begins the handshake if there has to be one.
    fn enter(&mut self, line: TcpStream, address: SocketAddr) -> Option<Connection> {
        let Some(seat) = self.lobby.enter(Instant::now()) else {
            tracing::debug!(%address, "turned away: every seat is taken");
            return None;
        };
        // Small answers are sent at once.
        if let Err(error) = line.set_nodelay(true) {
            tracing::debug!(%address, %error, "the connection was lost at once");
            return None;
        }
        let Some(tls) = &self.door.tls else { return Some(Connection::plain(line, address.ip(), seat)) };
        self.handshakes.spawn(handshake(TlsAcceptor::from(Arc::clone(&tls.get().config)), line, address, seat));
        None
    }
}

async fn handshake(acceptor: TlsAcceptor, line: TcpStream, address: SocketAddr, seat: Seat) -> Option<Connection> {
    let cut = seat.cut.clone();
    let shaken = timeout(HANDSHAKE, cut.run_until_cancelled(acceptor.accept(line))).await;
    match shaken {
        Ok(Some(Ok(line))) => return Some(Connection::encrypted(line, address.ip(), seat)),
        Ok(Some(Err(error))) => tracing::debug!(%address, %error, "no handshake"),
        Ok(None) | Err(_) => tracing::debug!(%address, "no handshake in time"),
    }
    None
}
