//! The origin's transfers: their rate limits and the overload simulation.

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

use crate::line::LinkSchedule;

/// All transfers in progress and the limits on them.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Bytes per second and connection; 0: no limit.
    pub(crate) rate: AtomicU64,
    /// Bytes per second of all transfers together; 0: no limit.
    pub(crate) total_rate: AtomicU64,
    shared_link: Mutex<LinkSchedule>,
    transfers: Mutex<Transfers>,
}

/// The transfers in progress and the overload limit.
#[derive(Debug, Default)]
struct Transfers {
    /// By connection number.
    open: HashMap<u64, TcpStream>,
    most: usize,
    /// With more transfers than this all are reset, and no request is answered for this time.
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
    /// Sets the maximum number of transfers, and how long no request is answered after an overload.
    pub(crate) fn break_above(&self, most: usize, silence: Duration) {
        self.transfers().limit = Some((most, silence));
    }

    /// Registers a transfer. Above the limit all transfers are reset, including this one.
    pub(crate) fn begin(
        &self,
        connection: u64,
        stream: &TcpStream,
    ) -> std::io::Result<Transfer<'_>> {
        let mut transfers = self.transfers();
        transfers.open.insert(connection, stream.try_clone()?);
        if transfers.open.len() > transfers.most
            || transfers
                .limit
                .is_some_and(|(most, _)| transfers.open.len() > most)
        {
            // A client that has disconnected has no transfer any more, even if its thread has not
            // noticed yet.
            transfers.open.retain(|_, stream| !has_disconnected(stream));
        }
        transfers.most = transfers.most.max(transfers.open.len());
        if let Some((_, silence)) = transfers
            .limit
            .filter(|(most, _)| transfers.open.len() > *most)
        {
            transfers.overloads += 1;
            transfers.silent_until = Some(Instant::now() + silence);
            for (_, stream) in transfers.open.drain() {
                reset(&stream);
            }
        }
        Ok(Transfer {
            traffic: self,
            connection,
        })
    }

    /// When the time slot of these bytes on the shared link begins; `None`: at once.
    pub(crate) fn time_slot(&self, bytes: u64) -> Option<Instant> {
        let rate = self.total_rate.load(Ordering::Relaxed);
        let mut link = self
            .shared_link
            .lock()
            .expect("nothing panics while it holds this lock");
        (rate > 0).then(|| link.take(bytes, rate, Instant::now()).begins)
    }

    /// Whether requests are currently left unanswered.
    pub(crate) fn is_silent(&self) -> bool {
        self.transfers()
            .silent_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Number of overloads.
    pub(crate) fn overloads(&self) -> u64 {
        self.transfers().overloads
    }

    /// Maximum number of transfers at once.
    pub(crate) fn most(&self) -> u64 {
        self.transfers().most as u64
    }

    fn transfers(&self) -> MutexGuard<'_, Transfers> {
        self.transfers
            .lock()
            .expect("nothing panics while it holds this lock")
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.traffic.transfers().open.remove(&self.connection);
    }
}

fn has_disconnected(stream: &TcpStream) -> bool {
    match recv(
        stream,
        &mut [0_u8; 1],
        RecvFlags::PEEK | RecvFlags::DONTWAIT,
    ) {
        Ok((_, read)) => read == 0,
        Err(error) => error != rustix::io::Errno::AGAIN,
    }
}

/// Connecting a stream to `AF_UNSPEC` resets it, even if other descriptors refer to it. That fails
/// while another thread blocks in a call on it.
fn reset(stream: &TcpStream) {
    if connect_unspec(stream).is_err() {
        drop(stream.shutdown(Shutdown::Both));
    }
}
