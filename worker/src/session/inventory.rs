//! The inventory of the target: reports every complete class folder as a result before any class is
//! leased.
//!
//! The folders are listed and examined in chunks, several chunks at once, because a network disk
//! answers slowly but serves many requests in parallel. The number of chunks in progress is
//! bounded and their results wait until the caller takes them, so memory does not grow with the
//! target.

use std::{io, sync::Arc};

use shared::{
    Wnid,
    listing::{self, Entry},
    threads::{self, NoThread},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    fetch::{
        context::JobContext,
        unfinished::{Unfinished, storage},
    },
    session::outbox::UnreportedResult,
    slots::Lease,
    storage::{
        existing::{self, ExistingFolder},
        kept_tar,
        target::{Target, TargetError},
    },
};

/// Folders in one chunk. One thread examines a chunk.
const CHUNK: usize = 256;
/// Threads that examine chunks at once.
const EXAMINERS: usize = 4;

/// A running inventory of all class folders.
#[derive(Debug)]
pub(crate) struct Inventory {
    context: Arc<JobContext>,
    chunks: mpsc::Receiver<Vec<Wnid>>,
    /// The thread that lists the target, and those that examine chunks.
    threads: JoinSet<Result<Vec<UnreportedResult>, TargetError>>,
    is_over: bool,
}

impl Inventory {
    /// Starts to list the target.
    ///
    /// # Errors
    /// [`NoThread`]. Without an inventory, a complete folder is found when its class is leased.
    pub(crate) fn start(context: Arc<JobContext>) -> Result<Self, NoThread> {
        let (listed, chunks) = mpsc::channel(EXAMINERS);
        let mut threads = JoinSet::new();
        let listing = Arc::clone(&context);
        // The listing thread blocks until the examining threads, which are from the runtime's pool,
        // take its chunks. With a thread of its own it cannot occupy the pool thread that it waits
        // for.
        threads::start(&mut threads, "list", move || {
            let target = &listing.target;
            list(target, &listed)
                .map_err(|error| target.error("list the folders", error))
                .map(|()| Vec::new())
        })?;
        Ok(Self {
            context,
            chunks,
            threads,
            is_over: false,
        })
    }

    /// Whether all folders were examined and all results were taken.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The next classes that are complete; none at the end, and never ready after that. Cancel
    /// safe.
    ///
    /// # Errors
    /// If the target cannot be read. A single folder that cannot be read is skipped; the worker
    /// that leases its class reports the error.
    pub(crate) async fn next(&mut self) -> Result<Vec<UnreportedResult>, TargetError> {
        if self.is_over {
            return std::future::pending().await;
        }
        loop {
            tokio::select! {
                Some(chunk) = self.chunks.recv(), if self.threads.len() <= EXAMINERS => {
                    let context = Arc::clone(&self.context);
                    self.threads.spawn_blocking(move || examine(&context, &chunk));
                }
                Some(found) = self.threads.join_next() => match found {
                    Ok(Ok(found)) if found.is_empty() => {}
                    Ok(found) => return found,
                    Err(error) => tracing::error!(%error, "a part of the target was not looked at"),
                },
                else => {
                    self.is_over = true;
                    return Ok(Vec::new());
                }
            }
        }
    }
}

/// Sends the names of all class folders; stops early if the receiver was dropped.
fn list(target: &Target, listed: &mpsc::Sender<Vec<Wnid>>) -> io::Result<()> {
    let wnid = |entry: io::Result<Entry>| match entry {
        Ok(entry) => entry.text()?.parse().ok().map(Ok),
        Err(error) => Some(Err(error)),
    };
    let mut wnids = listing::list(target.root())?.filter_map(wnid);
    loop {
        let chunk = wnids.by_ref().take(CHUNK).collect::<io::Result<Vec<_>>>()?;
        if chunk.is_empty() || listed.blocking_send(chunk).is_err() {
            return Ok(());
        }
    }
}

fn examine(context: &JobContext, chunk: &[Wnid]) -> Result<Vec<UnreportedResult>, TargetError> {
    let mut found = Vec::with_capacity(chunk.len());
    for wnid in chunk {
        match complete(context, *wnid) {
            Ok(Some(finished)) => found.push(finished),
            Ok(None) => {}
            Err(error) => match storage(&context.target, "look at what is there")(error) {
                Unfinished::Target(error) => return Err(error),
                Unfinished::Failed(failure) => tracing::info!(%wnid, %failure, "passed over"),
                Unfinished::Stopped => {}
            },
        }
    }
    Ok(found)
}

/// The result of a class that is complete; `None` otherwise. If `--delete-tar` is set and a tar of
/// this program lies beside the folder, the result needs a lease: the tar is to be removed, and
/// only a lease proves that the class belongs to this job.
fn complete(context: &JobContext, wnid: Wnid) -> io::Result<Option<UnreportedResult>> {
    let ExistingFolder::Complete(manifest) =
        existing::inspect(&context.target, wnid, &context.job)?
    else {
        return Ok(None);
    };
    let needs_lease =
        context.job.delete_tar && kept_tar::written_here(&context.target, wnid)?.is_some();
    Ok(Some(UnreportedResult {
        lease: Lease::not_granted(wnid),
        outcome: context.found(&manifest),
        needs_lease,
    }))
}
