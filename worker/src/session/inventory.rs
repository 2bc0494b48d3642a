//! What a target already has: every complete class folder as a result of its own, before any class is leased.
//!
//! The folders are listed and looked at a part at a time, several parts at once, because a network disk answers slowly but
//! many at a time. What is found waits until it is asked for: memory does not grow with the target.

use std::{io, sync::Arc};

use shared::{
    Wnid,
    ids::LeaseToken,
    listing,
    telemetry::trace::TraceParent,
    threads::{self, NoThread},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    fetch::{
        context::Site,
        unfinished::{Unfinished, storage},
    },
    session::outbox::Finished,
    slots::Lease,
    storage::{
        existing::{self, Found},
        kept_tar,
        target::{Target, TargetError},
    },
};

/// Folders that one thread looks at in one go.
const PART: usize = 256;
/// Threads that look at once.
const LOOKING: usize = 4;

/// A look at all folders, under way.
#[derive(Debug)]
pub(crate) struct Survey {
    site: Arc<Site>,
    parts: mpsc::Receiver<Vec<Wnid>>,
    /// The one that lists, and those that look.
    threads: JoinSet<Result<Vec<Finished>, TargetError>>,
    is_over: bool,
}

impl Survey {
    /// Starts to look.
    ///
    /// # Errors
    /// [`NoThread`]; what is there is then found when its class is leased.
    pub(crate) fn start(site: Arc<Site>) -> Result<Self, NoThread> {
        let (listed, parts) = mpsc::channel(LOOKING);
        let mut threads = JoinSet::new();
        let listing = Arc::clone(&site);
        // It waits for those that look, which have threads of the pool: with one of its own it
        // never waits for itself.
        threads::start(&mut threads, "list", move || {
            let target = listing.target();
            list(target, &listed).map_err(|error| target.error("list the folders", error)).map(|()| Vec::new())
        })?;
        Ok(Self { site, parts, threads, is_over: false })
    }

    /// Everything was looked at and given out.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// The next classes that are complete; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// When the target cannot be read. A single folder that cannot be is left to whoever leases its class.
    pub(crate) async fn next(&mut self) -> Option<Result<Vec<Finished>, TargetError>> {
        loop {
            tokio::select! {
                Some(part) = self.parts.recv(), if self.threads.len() <= LOOKING => {
                    let site = Arc::clone(&self.site);
                    self.threads.spawn_blocking(move || look(&site, &part));
                }
                Some(found) = self.threads.join_next() => match found {
                    Ok(Ok(found)) if found.is_empty() => {}
                    Ok(found) => return Some(found),
                    Err(error) => tracing::error!(%error, "a part of the target was not looked at"),
                },
                else => {
                    self.is_over = true;
                    return None;
                }
            }
        }
    }
}

/// Sends the names of all class folders; stops early when nobody wants them any more.
fn list(target: &Target, listed: &mpsc::Sender<Vec<Wnid>>) -> io::Result<()> {
    let mut part = Vec::with_capacity(PART);
    for entry in listing::list(target.root())? {
        let Some(wnid) = entry?.text().and_then(|name| name.parse().ok()) else { continue };
        part.push(wnid);
        if part.len() == PART && listed.blocking_send(std::mem::replace(&mut part, Vec::with_capacity(PART))).is_err() {
            return Ok(());
        }
    }
    if !part.is_empty() {
        // Whoever is gone needs no names.
        listed.blocking_send(part).ok();
    }
    Ok(())
}

fn look(site: &Site, part: &[Wnid]) -> Result<Vec<Finished>, TargetError> {
    let mut found = Vec::with_capacity(part.len());
    for wnid in part {
        match complete(site, *wnid) {
            Ok(Some(finished)) => found.push(finished),
            Ok(None) => {}
            Err(error) => match storage(site.target(), "look at what is there", error) {
                Unfinished::Target(error) => return Err(error),
                Unfinished::Failed(failure) => tracing::info!(%wnid, %failure, "passed over"),
                Unfinished::Stopped => {}
            },
        }
    }
    Ok(found)
}

/// The result of a class that is complete. With `--delete-tar` a tar of this program beside it is to
/// be removed; but only a lease says whether the class is in this job at all, so it needs one.
fn complete(site: &Site, wnid: Wnid) -> io::Result<Option<Finished>> {
    let Found::Complete(manifest) = existing::look(site.target(), wnid, &site.job)? else { return Ok(None) };
    let needs_lease = site.job.delete_tar && kept_tar::written_here(site.target(), wnid)?.is_some();
    // No worker has leased it.
    let lease = Lease { wnid, token: LeaseToken(0), probe: false, trace: TraceParent::default() };
    Ok(Some(Finished { lease, outcome: site.found(&manifest), needs_lease }))
}
