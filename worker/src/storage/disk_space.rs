//! Space on the file system of the staging area: what a class needs is compared with it before the
//! class begins, and again while a class takes more than its announced length.
//!
//! Invariant: a class whose length is not known, or that outgrows it, never fills the disk for the
//! others. It takes at most half of the space that is free for it. One class of unknown length may go
//! beyond that half as long as no other class waits for space, no other process works in the target
//! or writes to the file system, and leaves a reserve. As soon as another class waits, or another
//! process writes, it fails, and its space is free again. The same half holds for the number of
//! files, of which no origin says how many there are: a class with more files than any of
//! ImageNet's takes no more than half of those that the file system can hold.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::statvfs;
use tokio::sync::Notify;

use crate::storage::target::Target;

mod lacks_space;

pub(crate) use lacks_space::LacksSpace;

/// A class that takes more than was announced is compared with the disk again each time that it has
/// grown by so many bytes.
const STEP: u64 = 1 << 20;
/// Without a length of another class to compare with, so many classes in a row that do not fit mean
/// that the disk is full.
const REFUSALS_OF_A_FULL_DISK: u32 = 3;

/// A class of unknown length that goes beyond half of the free space leaves this part of what was
/// free when it began, and no less than an ordinary class needs.
const RESERVE: u64 = 16;

/// Beside what is counted, the file system uses at most one byte for so many: its own structures,
/// the journal and the manifest.
const OVERHEAD: u64 = 32;

/// A class with more files is compared with the disk each time that it has grown by [`FILE_STEP`]; the
/// largest one of ImageNet's has about 3,000 images.
const FILES_OF_A_CLASS: u64 = 4_000;
const FILE_STEP: u64 = 256;
/// With fewer files free when it began, a class is not to blame for the last of them: a usual one has 650.
const FILES_OF_A_FULL_DISK: u64 = 2_000;
/// Files that a file system without free ones may still show.
const LAST_FILES: u64 = 16;

/// The classes of one process, and the file system that they share.
#[derive(Debug)]
pub(crate) struct DiskSpace {
    target: Arc<Target>,
    claims: Mutex<Claims>,
    /// A claim has ended.
    freed: Notify,
}

/// What the classes under way will still write, and what is known of the length of a class. Pure.
#[derive(Debug, Default)]
struct Claims {
    /// Bytes that each class will still write.
    unwritten: BTreeMap<u64, u64>,
    last: u64,
    /// Of the classes that were begun with a known length.
    begun: u64,
    begun_bytes: u64,
    /// Classes that did not fit since the last one that did.
    refused: u32,
    /// The class that has gone beyond half of the free space, and its bytes.
    beyond_half: Option<(u64, u64)>,
    /// Classes that wait for space.
    waiting: u32,
    /// Bytes that the classes of this process have written, since it started.
    written: u64,
}

/// What a class of unknown length is compared with when it goes beyond half of the free space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Beyond {
    /// Free bytes when the class began, and what this process had written by then.
    free_before: u64,
    written_before: u64,
}

/// The result of the comparison before a class begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Fits,
    /// It would fit if the classes under way had ended without taking what they have claimed, or if
    /// the one that has gone beyond half had failed.
    Later,
    /// Other classes fit, this one does not.
    TooLong,
    /// An ordinary class does not fit either.
    DiskIsFull,
}

/// A class that may begin; its claim ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    space: Arc<DiskSpace>,
    id: u64,
    /// Bytes of the tar, where they are known.
    length: Option<u64>,
    /// Bytes on the disk that it is expected to take at most; 0 where nothing was announced.
    needed: u64,
    /// Bytes that it had taken at the last comparison.
    compared_at: u64,
    used: u64,
    /// Files that it had at the last comparison.
    files_compared_at: u64,
    /// Files that the file system could still hold when it began, where the number is limited.
    files_free: Option<u64>,
    /// `None` where its length was announced, or the free space is not known: then it may not go
    /// beyond half.
    beyond: Option<Beyond>,
}

/// A class that waits for space, until this is dropped.
struct Waiting<'space>(&'space DiskSpace);

impl<'space> Waiting<'space> {
    fn begin(space: &'space DiskSpace) -> Self {
        space.claims().waiting += 1;
        Self(space)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.claims().waiting -= 1;
    }
}

impl Claims {
    /// Judges a class that will take so many bytes of the disk.
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
        let is_full = match self.ordinary() {
            Some(ordinary) => self.left_of(free) < ordinary,
            None => self.refused >= REFUSALS_OF_A_FULL_DISK,
        };
        if is_full { Fit::DiskIsFull } else { Fit::TooLong }
    }

    /// Mean length of the classes that were begun, where one is known.
    fn ordinary(&self) -> Option<u64> {
        self.begun_bytes.checked_div(self.begun)
    }

    /// Whether a class that has taken more than was announced may go on. `beyond`: `None` if it may
    /// not go beyond half.
    fn may_go_on(&mut self, id: u64, used: u64, free: u64, beyond: Option<Beyond>) -> bool {
        let left = self.left_of(free);
        if used <= left {
            return true;
        }
        // The files of the classes under way may take a quarter more of the disk than their lengths.
        let claimed = free - left;
        let for_it = left.saturating_sub(claimed / 4);
        let is_the_only_one = self.beyond_half.is_none_or(|(other, _)| other == id);
        let ordinary = self.ordinary().unwrap_or_default();
        let fits = beyond.is_some_and(|beyond| {
            for_it >= (beyond.free_before / RESERVE).max(ordinary) && !self.do_others_write(beyond, free)
        });
        let may = is_the_only_one && self.waiting == 0 && fits;
        if may {
            self.beyond_half = Some((id, used));
        }
        may
    }

    /// Whether the free space has shrunk by more than this process can have written. Of what the
    /// classes under way have announced any part may be on the disk, as parts of their tars.
    fn do_others_write(&self, beyond: Beyond, free: u64) -> bool {
        let written = self.written.saturating_sub(beyond.written_before).saturating_add(self.unwritten());
        let shrunk = beyond.free_before.saturating_sub(free);
        shrunk > written.saturating_add(written / OVERHEAD).saturating_add(STEP)
    }

    fn unwritten(&self) -> u64 {
        self.unwritten.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// What of the free bytes no class under way will take.
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
        Arc::new(Self { target, claims: Mutex::default(), freed: Notify::new() })
    }

    /// Lets a class begin whose tar has this length and is written so often (1, or 2 where the tar
    /// is kept as well). Waits while it does not fit only for what classes under way have claimed.
    /// Where an ordinary class would not fit either, it begins all the same: the disk is full, and
    /// stops the worker at a checkpoint.
    pub(crate) async fn claim(self: &Arc<Self>, length: Option<u64>, copies: u64) -> Result<Claim, LacksSpace> {
        loop {
            let mut freed = pin!(self.freed.notified());
            // A claim that ends between the comparison and the wait counts too.
            freed.as_mut().enable();
            match self.claim_now(length, copies) {
                Ok(Some(claim)) => return Ok(claim),
                Ok(None) => {
                    let _waiting = Waiting::begin(self);
                    freed.await;
                }
                Err(lacks) => return Err(lacks),
            }
        }
    }

    /// The same without the wait; `None` where it would wait.
    pub(crate) fn claim_now(self: &Arc<Self>, length: Option<u64>, copies: u64) -> Result<Option<Claim>, LacksSpace> {
        let needed = length.unwrap_or_default().saturating_mul(copies);
        let free = self.free();
        let mut claims = self.claims();
        if let Some(free) = free.filter(|_| length.is_some()) {
            match claims.judge(needed, free) {
                Fit::Fits | Fit::DiskIsFull => {}
                Fit::Later => return Ok(None),
                Fit::TooLong => return Err(LacksSpace::Announced { needed, free: claims.left_of(free) }),
            }
        }
        let id = claims.add(length, needed);
        let beyond = beyond(length, free, &claims);
        let files_free = self.files_free();
        let space = Arc::clone(self);
        Ok(Some(Claim { space, id, length, needed, compared_at: 0, used: 0, files_compared_at: 0, files_free, beyond }))
    }

    /// Claims space for the rest of a class of which so many bytes of the tar are here. It had
    /// enough space when it was begun, and its checkpoint is kept where that is gone.
    pub(crate) fn claim_rest(self: &Arc<Self>, length: Option<u64>, copies: u64, position: u64) -> Claim {
        let needed = length.unwrap_or_default().saturating_mul(copies);
        let used = position.saturating_mul(copies);
        let free = self.free();
        let mut claims = self.claims();
        let id = claims.add(length, needed.saturating_sub(used));
        let beyond = beyond(length, free, &claims);
        drop(claims);
        let space = Arc::clone(self);
        Claim { space, id, length, needed, compared_at: used, used, files_compared_at: 0, files_free: None, beyond }
    }

    /// Files that this user may still make; `None` where their number is not limited.
    fn files_free(&self) -> Option<u64> {
        let found = statvfs(self.target.staging()).ok()?;
        (found.f_files > 0).then_some(found.f_favail)
    }

    /// Bytes that this user may still write; `None` where the file system does not say.
    fn free(&self) -> Option<u64> {
        let found = statvfs(self.target.staging()).ok()?;
        (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a class may go beyond half of the free space, if at all.
fn beyond(length: Option<u64>, free: Option<u64>, claims: &Claims) -> Option<Beyond> {
    let free_before = free.filter(|_| length.is_none())?;
    Some(Beyond { free_before, written_before: claims.written })
}

impl Claim {
    /// Notes how many bytes of the disk the class takes by now, and how many files it has.
    pub(crate) fn takes(&mut self, used: u64, files: u64) -> Result<(), LacksSpace> {
        self.takes_files(files)?;
        let more = used.saturating_sub(self.used);
        self.used = used;
        let is_awaited = {
            let mut claims = self.space.claims();
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
        // Other processes in the target have no part in the claims of this one.
        let beyond = self.beyond.filter(|_| !self.space.target.has_neighbours());
        match self.space.free() {
            Some(free) if !self.space.claims().may_go_on(self.id, used, free, beyond) => Err(self.outgrown()),
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

    /// Whether it takes more than was announced: a quarter and a megabyte more, for the blocks of
    /// its files.
    pub(crate) fn is_outgrown(&self) -> bool {
        self.length.is_none() || self.used > self.needed.saturating_add(self.needed / 4).saturating_add(STEP)
    }

    /// The failure of a class of so many files, if the disk is full because of their number: it took
    /// half of what was free for it at least, and an ordinary class would have fitted.
    pub(crate) fn took_the_last_files(&self, files: u64) -> Option<LacksSpace> {
        let before = self.files_free.filter(|before| *before >= FILES_OF_A_FULL_DISK && files >= *before / 2)?;
        let left = self.space.files_free().unwrap_or(before);
        (left <= LAST_FILES).then_some(LacksSpace::Files { files })
    }

    /// The failure of a class that has outgrown what was announced.
    pub(crate) fn outgrown(&self) -> LacksSpace {
        LacksSpace::Outgrown { length: self.length, used: self.used }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.space.claims();
        // The unpacking of a local tar does not say what it has written.
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

    /// A class that has to leave so much if it goes beyond half, on a disk that no other uses.
    fn leaving(reserve: u64) -> Beyond {
        Beyond { free_before: reserve * RESERVE, written_before: 0 }
    }

    /// Claims of a process that has written so much.
    fn written(bytes: u64) -> Claims {
        Claims { written: bytes, ..Claims::default() }
    }

    #[test]
    fn what_others_have_announced_and_not_written_counts() {
        let mut claims = Claims::default();
        assert_eq!(claims.judge(60 * MB, 100 * MB), Fit::Fits);
        let first = claims.add(Some(60 * MB), 60 * MB);
        assert_eq!(claims.judge(50 * MB, 100 * MB), Fit::Later, "40 MB are left until the first has ended");
        assert_eq!(claims.judge(40 * MB, 100 * MB), Fit::Fits);
        *claims.unwritten.get_mut(&first).unwrap() = 10 * MB;
        assert_eq!(claims.judge(50 * MB, 60 * MB), Fit::Fits, "50 MB of it are written, and no longer free");
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
    fn without_a_class_to_compare_with_the_third_in_a_row_that_does_not_fit_means_a_full_disk() {
        let mut claims = Claims::default();
        assert_eq!([(); 3].map(|()| claims.judge(2, 1)), [Fit::TooLong, Fit::TooLong, Fit::DiskIsFull]);
        assert_eq!(claims.judge(1, 1), Fit::Fits);
        assert_eq!(claims.judge(2, 1), Fit::TooLong);
    }

    #[test]
    fn one_class_of_unknown_length_goes_beyond_half_and_leaves_a_reserve() {
        let mut claims = written(100 * MB);
        let [first, second] = [(); 2].map(|()| claims.add(None, 0));
        let reserve = Some(leaving(6 * MB));
        assert!(claims.may_go_on(first, 50 * MB, 50 * MB, reserve), "half");
        assert_eq!(claims.beyond_half, None);
        assert!(claims.may_go_on(first, 94 * MB, 6 * MB, reserve));
        assert!(!claims.may_go_on(first, 95 * MB, 5 * MB, reserve));
        assert!(claims.may_go_on(second, 5 * MB, 6 * MB, reserve), "the other one has its half");
        assert!(!claims.may_go_on(second, 8 * MB, 7 * MB, reserve), "and no more beside the first");
        assert!(!claims.may_go_on(3, 8 * MB, 7 * MB, None), "one that was announced has no more than half");
    }

    #[test]
    fn what_others_claim_and_an_ordinary_class_are_left_by_one_beyond_half() {
        let mut claims = written(100 * MB);
        let unknown = claims.add(None, 0);
        let other = claims.add(Some(20 * MB), 20 * MB);
        assert!(
            !claims.may_go_on(unknown, 60 * MB, 44 * MB, Some(leaving(MB))),
            "24 MB less 5 are left, and 20 are ordinary"
        );
        assert!(claims.may_go_on(unknown, 59 * MB, 45 * MB, Some(leaving(MB))));
        claims.unwritten.remove(&other);
        assert!(claims.may_go_on(unknown, 84 * MB, 20 * MB, Some(leaving(MB))));
        assert!(!claims.may_go_on(unknown, 85 * MB, 19 * MB, Some(leaving(MB))));
    }

    #[test]
    fn a_class_beyond_half_fails_when_another_one_waits_for_space() {
        let mut claims = written(100 * MB);
        let unknown = claims.add(None, 0);
        assert!(claims.may_go_on(unknown, 80 * MB, 20 * MB, Some(leaving(6 * MB))));
        assert_eq!(claims.judge(30 * MB, 20 * MB), Fit::Later);
        assert_eq!(claims.judge(101 * MB, 20 * MB), Fit::TooLong);
        claims.waiting = 1;
        assert!(!claims.may_go_on(unknown, 80 * MB, 20 * MB, Some(leaving(6 * MB))));
    }

    #[test]
    fn no_class_goes_beyond_half_while_other_processes_write_to_the_disk() {
        for (others, may) in [(0, true), (2 * MB, true), (3 * MB, false), (20 * MB, false)] {
            let mut claims = Claims::default();
            let beyond = beyond(None, Some(100 * MB), &claims);
            let unknown = claims.add(None, 0);
            claims.written = 60 * MB;
            let free = 40 * MB - others;
            assert_eq!(claims.may_go_on(unknown, 60 * MB, free, beyond), may || 60 * MB <= free, "{others}");
            // What is announced and under way may be on the disk.
            claims.add(Some(others), others);
            assert!(!claims.do_others_write(beyond.unwrap(), free), "{others}");
        }
    }

    #[test]
    fn what_a_class_has_announced_counts_as_written_when_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let space = DiskSpace::new(Arc::new(Target::open(folder.path(), None).unwrap()));
        drop(space.claim_now(Some(MB), 2).unwrap().unwrap());
        let mut claim = space.claim_now(None, 1).unwrap().unwrap();
        claim.takes(3 * MB, 1).unwrap();
        assert_eq!((space.claims().written, claim.beyond.unwrap().written_before), (5 * MB, 2 * MB));
    }

    #[test]
    fn no_class_goes_beyond_half_while_another_process_works_in_the_target() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Target::open(folder.path(), None).unwrap();
        let space = DiskSpace::new(Arc::new(open()));
        let mut claim = space.claim_now(None, 1).unwrap().unwrap();
        let beyond_half = space.free().expect("the disk says it") + 100 * MB;
        assert_eq!(claim.takes(beyond_half, 1), Ok(()), "it is alone");
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
