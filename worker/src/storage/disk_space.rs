//! Space on the file system of the staging area. The space that a class needs is compared with the
//! free space before the class begins, and again while a class exceeds its announced length.
//!
//! Invariant: a class of unknown length, or one that exceeds its announced length, never fills the
//! disk for other classes. It takes at most half of the space that is free for it. One class of
//! unknown length may exceed that half as long as no other class waits for space, no other process
//! works in the target or writes to the file system, and a reserve stays free. As soon as another
//! class waits, or another process writes, it fails and its space is freed. The same half applies
//! to the number of files, which no origin announces: a class with more files than any class of
//! ImageNet takes at most half of the files that the file system can hold.

use std::{
    path::Path,
    pin::pin,
    sync::{Arc, Mutex},
};

use rustix::fs::statvfs;
use shared::lock::lock;
use tokio::sync::Notify;

use crate::storage::target::Target;

mod claims;
mod lacks_space;

pub(crate) use lacks_space::LacksSpace;

use claims::{Baseline, Claims, Fit, STEP};

/// A class with more files than this is compared with the disk after each further [`FILE_STEP`]
/// files. The largest class of ImageNet has about 3,000 images.
const FILES_OF_A_CLASS: u64 = 4_000;
const FILE_STEP: u64 = 256;
/// If fewer files were free when a class began, the class is not the cause of the shortage: an
/// ordinary class has 650 files.
const FILES_OF_A_FULL_DISK: u64 = 2_000;
/// Number of files that a full file system may still report as free.
const LAST_FILES: u64 = 16;

/// Accounts for the disk space of all classes of one process.
#[derive(Debug)]
pub(crate) struct DiskSpace {
    target: Arc<Target>,
    claims: Mutex<Claims>,
    /// Notified when a claim ends.
    freed: Notify,
}

/// The claim of a running class on disk space. Dropping it ends the claim.
#[derive(Debug)]
pub(crate) struct Claim {
    space: Arc<DiskSpace>,
    id: u64,
    /// Length of the tar in bytes, if known.
    length: Option<u64>,
    /// Bytes on the disk that the class is expected to take at most; 0 if its length is unknown.
    needed: u64,
    /// Bytes that the class had taken at the last comparison.
    compared_at: u64,
    used: u64,
    /// Files that the class had at the last comparison.
    files_compared_at: u64,
    /// Files that the file system could still hold without those of the class; `None` if their
    /// number is not limited.
    files_free: Option<u64>,
    /// `None` if the length was announced or the free space is unknown: the class may then not
    /// exceed half.
    baseline: Option<Baseline>,
}

/// Counts a class as waiting for space until this is dropped.
struct Waiting<'space>(&'space DiskSpace);

impl<'space> Waiting<'space> {
    fn begin(space: &'space DiskSpace) -> Self {
        lock(&space.claims).waiting += 1;
        Self(space)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.0.claims).waiting -= 1;
    }
}

impl DiskSpace {
    pub(crate) fn new(target: Arc<Target>) -> Arc<Self> {
        Arc::new(Self {
            target,
            claims: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Claims space for a class whose tar has this length and is written `copies` times (1, or 2 if
    /// the tar is kept as well). Waits while the class does not fit only because of the claims of
    /// running classes. If ordinary classes do not fit either, the class begins nevertheless: the
    /// disk is full, and the write error stops the worker at a checkpoint.
    pub(crate) async fn claim(
        self: &Arc<Self>,
        length: Option<u64>,
        copies: u64,
    ) -> Result<Claim, LacksSpace> {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Register before the comparison, so that a claim that ends between the two is not
            // missed.
            freed.as_mut().enable();
            if let Some(claim) = self.claim_now(length, copies)? {
                return Ok(claim);
            }
            let _waiting = Waiting::begin(self);
            freed.await;
        }
    }

    /// Like [`Self::claim`], but returns `None` instead of waiting.
    pub(crate) fn claim_now(
        self: &Arc<Self>,
        length: Option<u64>,
        copies: u64,
    ) -> Result<Option<Claim>, LacksSpace> {
        let needed = length.unwrap_or_default().saturating_mul(copies);
        let free = self.free();
        let files_free = self.files_free();
        let mut claims = lock(&self.claims);
        if let Some(free) = free.filter(|_| length.is_some()) {
            match claims.judge(needed, free) {
                Fit::Fits | Fit::DiskIsFull => {}
                Fit::Later => return Ok(None),
                Fit::TooLong => {
                    return Err(LacksSpace::Announced {
                        needed,
                        free: claims.left_of(free),
                    });
                }
            }
        }
        Ok(Some(self.add(
            &mut claims,
            length,
            needed,
            free,
            files_free,
        )))
    }

    /// Claims space for the rest of a class, of whose tar `position` bytes and `files` files are
    /// here. It is not refused: it had enough space when it began, and its checkpoint is kept if
    /// that space is gone.
    pub(crate) fn claim_rest(
        self: &Arc<Self>,
        length: Option<u64>,
        copies: u64,
        position: u64,
        files: u64,
    ) -> Claim {
        let needed = length.unwrap_or_default().saturating_mul(copies);
        let used = position.saturating_mul(copies);
        let free = self.free();
        // Without its files, the class would have found so many more free.
        let files_free = self.files_free().map(|free| free.saturating_add(files));
        let mut claims = lock(&self.claims);
        let mut claim = self.add(&mut claims, length, needed, free, files_free);
        claims
            .unwritten
            .insert(claim.id, needed.saturating_sub(used));
        drop(claims);
        claim.used = used;
        claim.compared_at = used;
        claim
    }

    /// Adds a claim that has used nothing. `free`, `files_free`: free bytes and files on the disk,
    /// if known; the caller reads them before it takes the lock, because a network file system may
    /// answer late.
    fn add(
        self: &Arc<Self>,
        claims: &mut Claims,
        length: Option<u64>,
        needed: u64,
        free: Option<u64>,
        files_free: Option<u64>,
    ) -> Claim {
        Claim {
            space: Arc::clone(self),
            id: claims.add(length, needed),
            length,
            needed,
            compared_at: 0,
            used: 0,
            files_compared_at: 0,
            files_free,
            baseline: claims.baseline(length, free),
        }
    }

    /// Number of files that this user may still create; `None` if it is not limited.
    fn files_free(&self) -> Option<u64> {
        let found = statvfs(self.target.staging()).ok()?;
        (found.f_files > 0).then_some(found.f_favail)
    }

    /// Bytes that this user may still write; `None` if the file system does not report them.
    fn free(&self) -> Option<u64> {
        free_bytes(self.target.staging())
    }
}

/// Bytes that this user may still write to the file system of a folder; `None` if the file system
/// does not report them.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let found = statvfs(folder).ok()?;
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

impl Claim {
    /// Records how many bytes of the disk and how many files the class has taken so far.
    pub(crate) fn takes(&mut self, used: u64, files: u64) -> Result<(), LacksSpace> {
        self.takes_files(files)?;
        let more = used.saturating_sub(self.used);
        self.used = used;
        let is_awaited = {
            let mut claims = lock(&self.space.claims);
            claims.written = claims.written.saturating_add(more);
            if let Some(unwritten) = claims.unwritten.get_mut(&self.id) {
                *unwritten = self.needed.saturating_sub(used);
            }
            claims.waiting > 0 && claims.beyond_half.is_some_and(|(id, _)| id == self.id)
        };
        if !self.is_outgrown() || (!is_awaited && used.saturating_sub(self.compared_at) < STEP) {
            return Ok(());
        }
        self.compared_at = used;
        // The claims of this process do not cover other processes in the target.
        let baseline = self
            .baseline
            .filter(|_| !self.space.target.has_neighbours());
        match self.space.free() {
            Some(free) if !lock(&self.space.claims).may_continue(self.id, used, free, baseline) => {
                Err(self.outgrown())
            }
            _ => Ok(()),
        }
    }

    fn takes_files(&mut self, files: u64) -> Result<(), LacksSpace> {
        if files < FILES_OF_A_CLASS || files - self.files_compared_at < FILE_STEP {
            return Ok(());
        }
        self.files_compared_at = files;
        match self.space.files_free() {
            Some(free) if free < files => Err(LacksSpace::Files { files }),
            _ => Ok(()),
        }
    }

    /// Whether the class has exceeded its announced length, with a tolerance of a quarter plus
    /// [`STEP`] for the unused ends of file system blocks.
    fn is_outgrown(&self) -> bool {
        let tolerated = self.needed.saturating_add(self.needed / 4 + STEP);
        self.length.is_none() || self.used > tolerated
    }

    /// The failure of a class with so many files if the disk is full because of it: it took the
    /// last files, or more space than announced.
    pub(crate) fn filled_the_disk(&self, files: u64) -> Option<LacksSpace> {
        if self.took_the_last_files(files) {
            return Some(LacksSpace::Files { files });
        }
        self.is_outgrown().then(|| self.outgrown())
    }

    /// Whether a class with so many files took at least half of those that were free when it
    /// began, and the last ones, where an ordinary class would have fitted.
    fn took_the_last_files(&self, files: u64) -> bool {
        self.files_free.is_some_and(|before| {
            before >= FILES_OF_A_FULL_DISK
                && files >= before / 2
                && self.space.files_free().unwrap_or(before) <= LAST_FILES
        })
    }

    /// The failure of a class that has exceeded its announced length.
    fn outgrown(&self) -> LacksSpace {
        LacksSpace::Outgrown {
            length: self.length,
            used: self.used,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = lock(&self.space.claims);
        // The unpacking of a local tar does not report its written bytes.
        let unwritten = claims.unwritten.remove(&self.id).unwrap_or_default();
        claims.written = claims.written.saturating_add(unwritten);
        claims.beyond_half = claims.beyond_half.filter(|(id, _)| *id != self.id);
        drop(claims);
        self.space.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    #[test]
    fn announced_bytes_count_as_written_when_a_class_ends() {
        let folder = tempfile::tempdir().unwrap();
        let space = DiskSpace::new(Arc::new(Target::open(folder.path(), None).unwrap()));
        drop(space.claim_now(Some(MB), 2).unwrap().unwrap());
        let mut claim = space.claim_now(None, 1).unwrap().unwrap();
        claim.takes(3 * MB, 1).unwrap();
        assert_eq!(
            (
                lock(&space.claims).written,
                claim.baseline.unwrap().written_before
            ),
            (5 * MB, 2 * MB)
        );
    }

    #[test]
    fn a_resumed_class_counts_the_files_that_it_already_has() {
        let folder = tempfile::tempdir().unwrap();
        let space = DiskSpace::new(Arc::new(Target::open(folder.path(), None).unwrap()));
        // More files than other tests can make or remove in the meantime.
        let files = 1 << 40;
        let new = space.claim_now(Some(MB), 1).unwrap().unwrap();
        let resumed = space.claim_rest(Some(MB), 1, 1000, files);
        assert_eq!(
            resumed.files_free.map(|free| free >= files),
            new.files_free.map(|_| true)
        );
    }

    #[test]
    fn no_class_exceeds_half_while_another_process_works_in_the_target() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Target::open(folder.path(), None).unwrap();
        let space = DiskSpace::new(Arc::new(open()));
        let mut claim = space.claim_now(None, 1).unwrap().unwrap();
        let beyond_half = space.free().expect("the disk says it") + 100 * MB;
        assert_eq!(
            claim.takes(beyond_half, 1),
            Ok(()),
            "no other process works in the target"
        );
        let neighbour = open();
        assert_eq!(claim.takes(beyond_half + 2 * MB, 1), Err(claim.outgrown()));
        drop(neighbour);
    }
}
