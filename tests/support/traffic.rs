//! What the origin's line carries, and what becomes of those who ask too much of it at once.

use std::{
    collections::HashMap,
    net::{Shutdown, TcpStream},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::net::{RecvFlags, connect_unspec, recv};
use tokio::time::Instant;

use crate::line::Line;

/// All bodies that are being sent, and the limits on them.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Bytes per second and connection; 0 is without a limit.
    pub(crate) rate: AtomicU64,
    /// Bytes per second of all transfers together; 0 is without a limit.
    pub(crate) total_rate: AtomicU64,
    shared_line: Mutex<Line>,
    transfers: Mutex<Transfers>,
}

#[derive(Debug, Default)]
struct Transfers {
    /// By the number of their connection.
    open: HashMap<u64, TcpStream>,
    most: usize,
    /// More than so many are broken, and then nobody is answered for so long.
    limit: Option<(usize, Duration)>,
    silent_until: Option<Instant>,
    overloads: u64,
}

/// A body that is being sent, until this is dropped.
#[derive(Debug)]
pub(crate) struct Transfer<'traffic> {
    traffic: &'traffic Traffic,
    connection: u64,
}

impl Traffic {
    /// Sets the most transfers at once, and for how long nobody is answered after more.
    pub(crate) fn break_above(&self, most: usize, silence: Duration) {
        self.transfers().limit = Some((most, silence));
    }

    /// Counts a transfer among those at once. Beyond the limit all of them are reset, this one too.
    pub(crate) fn begin(&self, connection: u64, stream: &TcpStream) -> std::io::Result<Transfer<'_>> {
        let mut transfers = self.transfers();
        transfers.open.insert(connection, stream.try_clone()?);
        if transfers.open.len() > transfers.most || transfers.limit.is_some_and(|(most, _)| transfers.open.len() > most)
        {
            // Whoever has hung up no longer has a transfer, although its thread is yet to see it.
            transfers.open.retain(|_, stream| !has_hung_up(stream));
        }
        transfers.most = transfers.most.max(transfers.open.len());
        if let Some((_, silence)) = transfers.limit.filter(|(most, _)| transfers.open.len() > *most) {
            transfers.overloads += 1;
            transfers.silent_until = Some(Instant::now() + silence);
            for (_, stream) in transfers.open.drain() {
                reset(&stream);
            }
        }
        Ok(Transfer { traffic: self, connection })
    }

    /// When the shared line is free for so many bytes; `None`: at once.
    pub(crate) fn turn(&self, bytes: u64) -> Option<Instant> {
        let rate = self.total_rate.load(Ordering::Relaxed);
        let mut line = self.shared_line.lock().expect("nothing panics while it holds this lock");
        (rate > 0).then(|| line.take(bytes, rate, Instant::now()).begins)
    }

    /// Whether nobody is answered just now.
    pub(crate) fn is_silent(&self) -> bool {
        self.transfers().silent_until.is_some_and(|until| Instant::now() < until)
    }

    /// How often there were too many transfers.
    pub(crate) fn overloads(&self) -> u64 {
        self.transfers().overloads
    }

    /// The most transfers at once.
    pub(crate) fn most(&self) -> u64 {
        self.transfers().most as u64
    }

    fn transfers(&self) -> MutexGuard<'_, Transfers> {
        self.transfers.lock().expect("nothing panics while it holds this lock")
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.traffic.transfers().open.remove(&self.connection);
    }
}

fn has_hung_up(stream: &TcpStream) -> bool {
    match recv(stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, read)) => read == 0,
        Err(error) => error != rustix::io::Errno::AGAIN,
    }
}

/// Connecting a stream to nowhere resets it, whoever else holds it. Where somebody just waits in it that is refused.
fn reset(stream: &TcpStream) {
    if connect_unspec(stream).is_err() {
        drop(stream.shutdown(Shutdown::Both));
    }
}
