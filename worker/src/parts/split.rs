//! A transfer that can be split into parts: its plan, the files of its parts, and the tasks that
//! fetch them.

use std::{
    collections::BTreeMap,
    fs, io,
    panic::resume_unwind,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, watch},
    task::{JoinError, JoinSet},
};

use super::{
    extra_connections::Demand,
    fetch_part::{PartEnd, PartState, Tar},
    plan::{Cut, FileId, Part, PartPlan, State},
    speed::Speed,
};
use crate::{
    source::Source,
    storage::part_file::{FoundPart, PartReader, PartWriter, Version, name},
};
use tracing::Instrument as _;

/// Minimum size of a part in bytes. A part is also at least a fifth of what the origin sends in a
/// second: a smaller request is not worth its overhead.
const MIN_PART_BYTES: u64 = 4 << 20;
/// A connection gets at most one tenth of the remaining bytes, because more connections may follow.
const MIN_CONNECTIONS: u64 = 10;

/// A transfer that fetches parts of its tar over extra connections.
#[derive(Debug)]
pub(crate) struct Split {
    tar: Tar,
    pub(super) source: Source,
    version: Version,
    folder: PathBuf,
    pub(super) plan: PartPlan,
    files: BTreeMap<FileId, FoundPart>,
    reader: Option<(FileId, PartReader)>,
    /// The tasks that fetch parts.
    tasks: JoinSet<(FileId, PartEnd)>,
    growing: BTreeMap<FileId, Arc<PartState>>,
    grown: Arc<Notify>,
    granted: watch::Receiver<usize>,
    /// Number of connections that failed; they are not replaced.
    failed: usize,
    /// The origin does not send parts of this version.
    refused: bool,
    /// Parts were refused by `ETag`, and none was received by `Last-Modified` yet. One connection
    /// tests it.
    is_probing: bool,
    speed: Speed,
}

/// What an earlier attempt has left of a tar.
#[derive(Debug)]
pub(crate) struct EarlierAttempt {
    pub(crate) source: Source,
    /// Offset at which the unpacker continues.
    pub(crate) position: u64,
    pub(crate) parts: Vec<FoundPart>,
}

impl Split {
    /// Prepares the split of a tar. `left`: what an earlier attempt has left; empty if the tar
    /// starts from its first byte. `None` if the origin cannot send parts: the length or a
    /// validator is unknown.
    pub(crate) fn new(tar: Tar, folder: PathBuf, left: EarlierAttempt) -> Option<Self> {
        let EarlierAttempt {
            source,
            position,
            parts,
        } = left;
        let length = source.length.filter(|_| source.validator().is_some())?;
        let ranges: Vec<_> = parts
            .iter()
            .map(|found| (found.start, found.reached))
            .collect();
        let granted = tar.extra.granted();
        Some(Self {
            tar,
            version: Version::of(&source),
            source,
            folder,
            plan: PartPlan::new(position, length, &ranges),
            files: (0..).zip(parts).collect(),
            reader: None,
            tasks: JoinSet::new(),
            growing: BTreeMap::new(),
            grown: Arc::default(),
            granted,
            failed: 0,
            refused: false,
            is_probing: false,
            speed: Speed::default(),
        })
    }

    /// Number of bytes of the tar that were received.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.source.length.unwrap_or_default() - self.plan.left()
    }

    /// Records bytes of the main connection, and the time they were waited for.
    pub(crate) fn received(&mut self, bytes: u64, waited: Duration) {
        self.plan.consumed(bytes);
        self.speed.received(bytes, waited);
    }

    /// Records the time that unpacking the last bytes of the main connection took.
    pub(crate) fn unpacked(&mut self, busy: Duration) {
        self.speed.unpacked(busy);
    }

    /// Processes ended tasks and the growth of files.
    pub(crate) fn process_changes(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            self.ended(ended);
        }
        for (file, shared) in &self.growing {
            self.plan.grew(*file, shared.reached());
        }
    }

    /// Starts and stops parts to match the granted connections. `main`: whether the main connection
    /// is open. Returns whether the main connection is needed.
    pub(crate) fn assign_parts(&mut self, main: bool) -> bool {
        let limit = match (self.refused, self.is_probing) {
            (true, _) => 0,
            (_, true) => 1,
            _ => usize::MAX,
        };
        let granted = self
            .granted
            .borrow_and_update()
            .saturating_sub(self.failed)
            .min(limit);
        let demand = self.demand();
        let splits = granted > 0 && demand.left > 0;
        // If the main connection is not open, the extra connections take its place and its part.
        let main = self
            .plan
            .first()
            .is_some_and(|first| first.state == State::Missing)
            && (main || !splits);
        let others = if main { granted } else { granted + 1 };
        let mut at_work = self.at_work();
        for file in at_work.split_off(others.min(at_work.len())) {
            self.growing[&file].stop.cancel();
        }
        let cut = Cut {
            connections: MIN_CONNECTIONS.max(granted as u64 + 1),
            main,
            least: demand.least,
        };
        if splits {
            for _ in at_work.len()..others {
                let Some((file, part)) = self.plan.take(cut) else {
                    break;
                };
                self.begin(file, part);
            }
        }
        let at_work = self.at_work().len();
        // One of them uses the main connection's place.
        let at_work = at_work.saturating_sub(usize::from(!main));
        self.tar.extra.want(Demand { at_work, ..demand });
        self.update_and_clean_up();
        main || self.growing.is_empty()
    }

    /// Files whose tasks were not stopped.
    fn at_work(&self) -> Vec<FileId> {
        self.growing
            .iter()
            .filter(|(_, shared)| !shared.stop.is_cancelled())
            .map(|(file, _)| *file)
            .collect()
    }

    /// What additional connections could fetch.
    fn demand(&self) -> Demand {
        // Under a rate limit more connections bring no more bytes.
        let may_be_cut = !self.refused && !self.tar.origin.has_rate();
        let Some(second) = self.speed.of_origin().filter(|_| may_be_cut) else {
            return Demand::default();
        };
        let left = self.plan.left();
        // A remainder that arrives within a second is not split, unless parts are already under
        // way.
        let left = if self.growing.is_empty() && left < second {
            0
        } else {
            left
        };
        Demand {
            left,
            least: MIN_PART_BYTES.max(second / 5),
            at_work: 0,
        }
    }

    /// Makes only the folder of the parts and never the staging folder: another attempt that has
    /// taken over the staging folder has renamed it.
    fn make_folder(&self) -> io::Result<()> {
        match fs::create_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, file: FileId, part: Part) {
        let Part { start, end, .. } = part;
        if let Err(error) = self.make_folder() {
            tracing::warn!(%error, "no parts can be fetched");
            self.refused = true;
            return self.plan.stopped(file);
        }
        tracing::debug!(start, end, "fetching a part of the tar");
        let path = self.folder.join(name(start));
        let shared = Arc::new(PartState::new(start, end, Arc::clone(&self.grown)));
        shared
            .is_first
            .store(start == self.plan.position(), Ordering::Relaxed);
        let writer = PartWriter::new(path.clone(), self.version, start);
        let fetch = self
            .tar
            .clone()
            .fetch(self.source.clone(), writer, Arc::clone(&shared))
            .in_current_span();
        self.tasks
            .spawn_on(async move { (file, fetch.await) }, &self.tar.runtime);
        self.growing.insert(file, shared);
        self.files.insert(
            file,
            FoundPart {
                path,
                start,
                reached: start,
            },
        );
    }

    fn ended(&mut self, ended: Result<(FileId, PartEnd), JoinError>) {
        let (file, ended) = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // Tasks are cancelled only when the runtime ends, and this class ends with it.
            Err(_) => return,
        };
        if let Some(shared) = self.growing.remove(&file) {
            self.plan.grew(file, shared.reached());
            let is_empty = |found: &FoundPart| shared.reached() <= found.start;
            self.is_probing &= self.files.get(&file).is_none_or(is_empty);
        }
        self.plan.stopped(file);
        match ended {
            PartEnd::Failed => self.failed += 1,
            PartEnd::Refused if !self.refused => {
                tracing::info!(url = %self.source.url, "the origin does not send parts of this tar, so it comes in one");
                self.refused = true;
            }
            PartEnd::RefusedByTag if !self.source.by_date => {
                tracing::info!(url = %self.source.url, "parts of this tar do not come by its ETag: they are asked for by Last-Modified");
                self.source.by_date = true;
                self.is_probing = true;
            }
            PartEnd::Done | PartEnd::Refused | PartEnd::RefusedByTag => {}
        }
    }

    /// Updates the ends of the parts that are under way, and removes the files that are no longer
    /// needed.
    fn update_and_clean_up(&mut self) {
        let first = self.plan.first().map(|first| first.state);
        for (file, shared) in &self.growing {
            let is_first =
                matches!(first, Some(State::Filed { file: first, .. }) if first == *file);
            shared.is_first.store(is_first, Ordering::Relaxed);
            match self.plan.end_of(*file) {
                Some(end) => shared.until.set(end),
                None => shared.stop.cancel(),
            }
        }
        let is_over = |file: &FileId| !self.plan.needs(*file) && !self.growing.contains_key(file);
        let over: Vec<_> = self.files.keys().copied().filter(is_over).collect();
        for file in over {
            self.reader.take_if(|(read, _)| *read == file);
            // A file without bytes was never made. A file that cannot be removed is removed with
            // the staging folder.
            self.files
                .remove(&file)
                .and_then(|found| fs::remove_file(found.path).ok());
        }
    }

    /// Waits for a change that [`Self::process_changes`] processes; `following`: growth of a file
    /// counts as one. Cancel safe.
    pub(crate) async fn changed(&mut self, following: bool) {
        tokio::select! {
            Some(ended) = self.tasks.join_next() => self.ended(ended),
            Ok(()) = self.granted.changed() => {}
            () = self.grown.notified(), if following => {}
            else => std::future::pending().await,
        }
    }

    /// Stops the task that writes to a file and plans without its missing bytes.
    pub(crate) fn give_up(&mut self, file: FileId) {
        if let Some(shared) = self.growing.get(&file) {
            shared.stop.cancel();
            self.plan.grew(file, shared.reached());
        }
        self.plan.stopped(file);
    }

    /// The next bytes of a file that should have some; `None` if the file turns out not to have
    /// them.
    pub(crate) fn read(&mut self, file: FileId, part: Part) -> Option<Bytes> {
        let position = self.plan.position();
        match self.block(file, position) {
            Ok(Some((start, block))) => {
                let last = part.end.min(start + block.len() as u64) - start;
                let index = |offset| usize::try_from(offset).expect("a block fits into memory");
                let bytes = block.slice(index(position - start)..index(last));
                self.plan.consumed(bytes.len() as u64);
                Some(bytes)
            }
            unproved => {
                let error = unproved.map_or_else(|error| error.to_string(), |_| String::new());
                tracing::warn!(
                    file,
                    error,
                    "a part of the tar does not prove right, and is fetched again"
                );
                self.plan.lost(file);
                None
            }
        }
    }

    /// The block that contains a position, and the offset at which the block begins.
    fn block(&mut self, file: FileId, position: u64) -> io::Result<Option<(u64, Bytes)>> {
        let mut reader = match self.reader.take() {
            Some((read, reader)) if read == file && reader.position() <= position => reader,
            _ => {
                let FoundPart { path, start, .. } = &self.files[&file];
                PartReader::open(path, self.version, *start)?
            }
        };
        while let Some(block) = reader.next()? {
            let start = reader.position() - block.len() as u64;
            if reader.position() > position {
                self.reader = Some((file, reader));
                return Ok(Some((start, block.into())));
            }
        }
        Ok(None)
    }

    /// Stops all tasks and waits for them. Returns whether the files have bytes that are not
    /// unpacked yet.
    pub(crate) async fn stop(&mut self) -> bool {
        self.growing
            .values()
            .for_each(|shared| shared.stop.cancel());
        while let Some(ended) = self.tasks.join_next().await {
            self.ended(ended);
        }
        self.tar.extra.want(Demand::default());
        self.files.keys().any(|file| self.plan.needs(*file))
    }
}
