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
    collections::BTreeMap,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex},
};

use rustix::fs::statvfs;
use tokio::sync::Notify;

use crate::{lock::lock, storage::target::Target};

mod lacks_space;

pub(crate) use lacks_space::LacksSpace;

/// A class that exceeds its announced length is compared with the disk again after this many bytes.
const STEP: u64 = 1 << 20;
/// If the length of an ordinary class is not known, this many consecutive classes that do not fit
/// mean that the disk is full.
const REFUSALS_OF_A_FULL_DISK: u32 = 3;

/// A class of unknown length that exceeds half of the free space leaves 1/`RESERVE` of the space
/// that was free when it began, and at least the space of an ordinary class.
const RESERVE: u64 = 16;

/// The file system uses at most one byte per this many counted bytes for its own structures, the
/// journal and the manifest.
const OVERHEAD: u64 = 32;

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

/// The bytes that the running classes will still write, and statistics of class lengths. Pure.
#[derive(Debug, Default)]
struct Claims {
    /// Bytes that each running class will still write.
    unwritten: BTreeMap<u64, u64>,
    last: u64,
    /// Number of classes that were begun with a known length; `begun_bytes` is the sum of their
    /// lengths.
    begun: u64,
    begun_bytes: u64,
    /// Number of consecutive classes that did not fit.
    refused: u32,
    /// The class that has exceeded half of the free space, and its bytes.
    beyond_half: Option<(u64, u64)>,
    /// Number of classes that wait for space.
    waiting: u32,
    /// Bytes that the classes of this process have written since it started.
    written: u64,
}

/// The initial state with which a class of unknown length is compared if it exceeds half of the
/// free space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Baseline {
    /// Free bytes when the class began; `written_before` is what this process had written by then.
    free_before: u64,
    written_before: u64,
}

/// The result of the comparison before a class begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Fits,
    /// It would fit if the running classes ended without using their claims, or if the class that
    /// exceeds half of the free space failed.
    Later,
    /// It does not fit, but ordinary classes do.
    TooLong,
    /// Ordinary classes do not fit either.
    DiskIsFull,
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

impl Claims {
    /// Whether a class that takes `needed` bytes of the disk may begin.
    fn judge(&mut self, needed: u64, free: u64) -> Fit {
        if needed <= self.left_of(free) {
            self.refused = 0;
            return Fit::Fits;
        }
        let beyond_half = self.beyond_half.map_or(0, |(_, bytes)| bytes);
        if needed <= free.saturating_add(beyond_half) {
            return Fit::Later;
        }
        self.refused = self.refused.saturating_add(1);
        match self.ordinary() {
            Some(ordinary) if self.left_of(free) < ordinary => Fit::DiskIsFull,
            None if self.refused >= REFUSALS_OF_A_FULL_DISK => Fit::DiskIsFull,
            _ => Fit::TooLong,
        }
    }

    /// Mean length of the classes that were begun, if any had a known length.
    fn ordinary(&self) -> Option<u64> {
        self.begun_bytes.checked_div(self.begun)
    }

    /// Whether a class that has exceeded its announced length may continue. `baseline`: `None` if
    /// it may not exceed half.
    fn may_continue(&mut self, id: u64, used: u64, free: u64, baseline: Option<Baseline>) -> bool {
        let left = self.left_of(free);
        if used <= left {
            return true;
        }
        // The files of the running classes may take a quarter more of the disk than their announced
        // lengths.
        let claimed = free - left;
        let for_it = left.saturating_sub(claimed / 4);
        let ordinary = self.ordinary().unwrap_or_default();
        let may = self.waiting == 0
            && self.beyond_half.is_none_or(|(other, _)| other == id)
            && baseline.is_some_and(|baseline| {
                for_it >= (baseline.free_before / RESERVE).max(ordinary)
                    && !self.is_written_by_others(baseline, free)
            });
        if may {
            self.beyond_half = Some((id, used));
        }
        may
    }

    /// Whether the free space has decreased by more than this process can have written. Any part of
    /// the announced bytes of running classes may already be on the disk, as parts of their tars.
    fn is_written_by_others(&self, baseline: Baseline, free: u64) -> bool {
        let written = self.written - baseline.written_before;
        let written = written.saturating_add(self.unwritten());
        let shrunk = baseline.free_before.saturating_sub(free);
        shrunk > written.saturating_add(written / OVERHEAD + STEP)
    }

    fn unwritten(&self) -> u64 {
        self.unwritten
            .values()
            .fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// The free bytes that no running class has claimed.
    fn left_of(&self, free: u64) -> u64 {
        free.saturating_sub(self.unwritten())
    }

    fn add(&mut self, length: Option<u64>, needed: u64) -> u64 {
        if let Some(length) = length {
            self.begun += 1;
            self.begun_bytes = self.begun_bytes.saturating_add(length);
        }
        self.last += 1;
        self.unwritten.insert(self.last, needed);
        self.last
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
        Ok(Some(self.add(&mut claims, length, needed, free)))
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
        let mut claims = lock(&self.claims);
        let mut claim = self.add(&mut claims, length, needed, free);
        claims
            .unwritten
            .insert(claim.id, needed.saturating_sub(used));
        claim.used = used;
        claim.compared_at = used;
        // Without its files, the class would have found so many more free.
        claim.files_free = claim.files_free.map(|free| free.saturating_add(files));
        claim
    }

    /// Adds a claim that has used nothing. `free`: free bytes on the disk, if known.
    fn add(
        self: &Arc<Self>,
        claims: &mut Claims,
        length: Option<u64>,
        needed: u64,
        free: Option<u64>,
    ) -> Claim {
        Claim {
            space: Arc::clone(self),
            id: claims.add(length, needed),
            length,
            needed,
            compared_at: 0,
            used: 0,
            files_compared_at: 0,
            files_free: self.files_free(),
            baseline: baseline(length, free, claims),
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

/// The state to compare with if the class may exceed half of the free space; otherwise `None`.
fn baseline(length: Option<u64>, free: Option<u64>, claims: &Claims) -> Option<Baseline> {
    let free_before = free.filter(|_| length.is_none())?;
    Some(Baseline {
        free_before,
        written_before: claims.written,
    })
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

    /// A class that must leave `reserve` bytes if it exceeds half, on a disk that no other process
    /// uses.
    fn leaving(reserve: u64) -> Baseline {
        Baseline {
            free_before: reserve * RESERVE,
            written_before: 0,
        }
    }

    /// The claims of a process that has written `bytes`.
    fn written(bytes: u64) -> Claims {
        Claims {
            written: bytes,
            ..Claims::default()
        }
    }

    #[test]
    fn announced_bytes_of_other_classes_count_until_they_are_written() {
        let mut claims = Claims::default();
        assert_eq!(claims.judge(60 * MB, 100 * MB), Fit::Fits);
        let first = claims.add(Some(60 * MB), 60 * MB);
        assert_eq!(
            claims.judge(50 * MB, 100 * MB),
            Fit::Later,
            "40 MB are left until the first has ended"
        );
        assert_eq!(claims.judge(40 * MB, 100 * MB), Fit::Fits);
        *claims.unwritten.get_mut(&first).unwrap() = 10 * MB;
        assert_eq!(
            claims.judge(50 * MB, 60 * MB),
            Fit::Fits,
            "50 MB of it are written, and no longer free"
        );
        claims.unwritten.clear();
        assert_eq!(claims.judge(100 * MB, 100 * MB), Fit::Fits);
        assert_eq!(claims.judge(u64::MAX, 100 * MB), Fit::TooLong);
    }

    #[test]
    fn a_disk_is_full_when_an_ordinary_class_does_not_fit() {
        let mut claims = Claims::default();
        for length in [2 * MB, 4 * MB] {
            claims.add(Some(length), length);
        }
        claims.unwritten.clear();
        assert_eq!(claims.judge(2000 * MB, 3 * MB), Fit::TooLong);
        assert_eq!(claims.judge(2000 * MB, 3 * MB - 1), Fit::DiskIsFull);
    }

    #[test]
    fn without_known_lengths_the_third_consecutive_class_that_does_not_fit_means_a_full_disk() {
        let mut claims = Claims::default();
        assert_eq!(
            [(); 3].map(|()| claims.judge(2, 1)),
            [Fit::TooLong, Fit::TooLong, Fit::DiskIsFull]
        );
        assert_eq!(claims.judge(1, 1), Fit::Fits);
        assert_eq!(claims.judge(2, 1), Fit::TooLong);
    }

    #[test]
    fn one_class_of_unknown_length_may_exceed_half_and_leaves_a_reserve() {
        let mut claims = written(100 * MB);
        let [first, second] = [(); 2].map(|()| claims.add(None, 0));
        let reserve = Some(leaving(6 * MB));
        assert!(
            claims.may_continue(first, 50 * MB, 50 * MB, reserve),
            "half"
        );
        assert_eq!(claims.beyond_half, None);
        assert!(claims.may_continue(first, 94 * MB, 6 * MB, reserve));
        assert!(!claims.may_continue(first, 95 * MB, 5 * MB, reserve));
        assert!(
            claims.may_continue(second, 5 * MB, 6 * MB, reserve),
            "the second class may take half"
        );
        assert!(
            !claims.may_continue(second, 8 * MB, 7 * MB, reserve),
            "and no more, because the first exceeds half"
        );
        assert!(
            !claims.may_continue(3, 8 * MB, 7 * MB, None),
            "a class of known length may not exceed half"
        );
    }

    #[test]
    fn a_class_beyond_half_leaves_the_claims_of_others_and_an_ordinary_class() {
        let mut claims = written(100 * MB);
        let unknown = claims.add(None, 0);
        let other = claims.add(Some(20 * MB), 20 * MB);
        assert!(
            !claims.may_continue(unknown, 60 * MB, 44 * MB, Some(leaving(MB))),
            "24 MB less 5 are left, and an ordinary class has 20"
        );
        assert!(claims.may_continue(unknown, 59 * MB, 45 * MB, Some(leaving(MB))));
        claims.unwritten.remove(&other);
        assert!(claims.may_continue(unknown, 84 * MB, 20 * MB, Some(leaving(MB))));
        assert!(!claims.may_continue(unknown, 85 * MB, 19 * MB, Some(leaving(MB))));
    }

    #[test]
    fn a_class_beyond_half_fails_when_another_class_waits_for_space() {
        let mut claims = written(100 * MB);
        let unknown = claims.add(None, 0);
        assert!(claims.may_continue(unknown, 80 * MB, 20 * MB, Some(leaving(6 * MB))));
        assert_eq!(claims.judge(30 * MB, 20 * MB), Fit::Later);
        assert_eq!(claims.judge(101 * MB, 20 * MB), Fit::TooLong);
        claims.waiting = 1;
        assert!(!claims.may_continue(unknown, 80 * MB, 20 * MB, Some(leaving(6 * MB))));
    }

    #[test]
    fn no_class_exceeds_half_while_other_processes_write_to_the_disk() {
        for (others, may) in [(0, true), (2 * MB, true), (3 * MB, false), (20 * MB, false)] {
            let mut claims = Claims::default();
            let baseline = baseline(None, Some(100 * MB), &claims);
            let unknown = claims.add(None, 0);
            claims.written = 60 * MB;
            let free = 40 * MB - others;
            assert_eq!(
                claims.may_continue(unknown, 60 * MB, free, baseline),
                may || 60 * MB <= free,
                "{others}"
            );
            // Announced bytes of running classes may be on the disk already.
            claims.add(Some(others), others);
            assert!(
                !claims.is_written_by_others(baseline.unwrap(), free),
                "{others}"
            );
        }
    }

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

    #[test]
    fn numbers_without_a_bound_do_not_overflow() {
        let mut claims = Claims::default();
        for _ in 0..2 {
            claims.add(Some(u64::MAX), u64::MAX);
        }
        assert_eq!(claims.left_of(u64::MAX), 0);
        assert_eq!(claims.judge(u64::MAX, u64::MAX), Fit::Later);
    }
}
