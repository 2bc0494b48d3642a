//! Receiving a class: the pieces of the download go to the unpacker, whatever breaks in between.

use std::{pin::pin, sync::Arc};

use shared::{Wnid, outcome::Suspect};
use tokio_util::sync::CancellationToken;

use crate::{
    extract::{Start, UnpackError, Unpacker},
    fetch::resume::Checkpoint,
    fetch::{context::JobContext, unfinished::Unfinished},
    observe::progress::ClassProgress,
    origin::{Origin, download::Piece},
    parts::{Assembly, ExtraConnections, Left, Tar},
    source::Source,
    storage::{
        disk_space::{Claim, LacksSpace},
        staging::{Staging, Unpacked},
    },
};

/// Downloads and unpacks a class into a staging folder, from the checkpoint of an earlier attempt where there is one.
pub(crate) async fn receive(
    context: &JobContext,
    origin: &Origin,
    wnid: Wnid,
    retries: u32,
    progress: &Arc<ClassProgress>,
    spare: &Arc<ExtraConnections>,
    stop: &CancellationToken,
) -> Result<Unpacked, Unfinished> {
    let (staging, checkpoint) = context.take_over(wnid)?;
    let mut intake = Intake { context, wnid, staging, at_work: None };
    let mut left = None;
    if let Some(Checkpoint { source, files, begun, position, parts }) = checkpoint {
        tracing::info!(%wnid, files, position, parts = parts.len(), "going on at the checkpoint");
        let claim = context.disk_space().claim_rest(source.length, intake.copies(), position);
        intake.start(Start { source: source.clone(), files, begun, offset: position }, claim)?;
        left = Some(Left { source, position, parts });
    }
    let (beside, runtime) = context.beside();
    let url = context.job.url.for_class(wnid);
    let tar = Tar { origin: beside.clone(), url, retries, progress: Arc::clone(progress), spare: Arc::clone(spare) };
    let mut assembly = Assembly::new(origin, tar, intake.staging.parts(), runtime.clone(), left);
    loop {
        let piece = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Unfinished::Stopped),
            piece = intake.noting(assembly.next()) => piece.map_err(|error| Unfinished::Failed(error.into())),
        };
        match piece {
            Ok(Piece::Begin(source)) => {
                intake.forget();
                progress.begin(0, source.length);
                let begun = stop.run_until_cancelled(intake.begin(source)).await;
                if let Err(unfinished) = begun.unwrap_or(Err(Unfinished::Stopped)) {
                    assembly.stop().await;
                    return Err(unfinished);
                }
            }
            Ok(Piece::Bytes(bytes)) => {
                if let Err(unfinished) = intake.feed(&bytes) {
                    assembly.stop().await;
                    return Err(unfinished);
                }
            }
            Ok(Piece::End) => match intake.finish()? {
                Some((source, files)) => return Ok(Unpacked { staging: intake.staging, source, files }),
                None => match stop.run_until_cancelled(assembly.begin_again()).await {
                    Some(Ok(())) => {}
                    Some(Err(error)) => return Err(context.failed(&intake.staging, error.into())),
                    None => return Err(Unfinished::Stopped),
                },
            },
            Err(Unfinished::Failed(failure)) => {
                // What may pass is tried again, here or by another worker, and goes on where this attempt ended.
                let has_parts = assembly.stop().await;
                if failure.suspect == Suspect::Origin && (intake.keep()? || has_parts) {
                    return Err(Unfinished::Failed(failure));
                }
                intake.forget();
                return Err(context.failed(&intake.staging, failure));
            }
            Err(unfinished) => {
                assembly.stop().await;
                intake.keep()?;
                return Err(unfinished);
            }
        }
    }
}

/// The staging folder and the unpacker that fills it.
struct Intake<'context> {
    context: &'context JobContext,
    wnid: Wnid,
    staging: Staging,
    at_work: Option<AtWork>,
}

/// A tar that is being unpacked.
struct AtWork {
    unpacker: Unpacker,
    source: Source,
    /// Its space on the disk.
    claim: Claim,
}

impl Intake<'_> {
    /// How often the bytes of the tar are written.
    fn copies(&self) -> u64 {
        if self.context.job.delete_tar { 1 } else { 2 }
    }

    /// Begins a tar, if the disk has space for it, or once it has.
    async fn begin(&mut self, source: Source) -> Result<(), Unfinished> {
        // What there is of another version makes room for this one.
        self.staging
            .clear()
            .map_err(UnpackError::storage("open the staging folder"))
            .map_err(|error| self.sorted(error))?;
        let claim = self.context.disk_space().claim(source.length, self.copies()).await;
        let claim = claim.map_err(|lacks| self.context.failed(&self.staging, lacks.into()))?;
        self.start(Start { source, ..Start::default() }, claim)
    }

    fn start(&mut self, start: Start, claim: Claim) -> Result<(), Unfinished> {
        let source = start.source.clone();
        match Unpacker::open(&self.staging, self.wnid, start, !self.context.job.delete_tar) {
            Ok(unpacker) => self.at_work = Some(AtWork { unpacker, source, claim }),
            Err(error) => return Err(self.sorted(error)),
        }
        Ok(())
    }

    /// Waits, and notes meanwhile what has come when that is due.
    async fn noting<T>(&mut self, next: impl Future<Output = T>) -> T {
        let mut next = pin!(next);
        loop {
            let Some(AtWork { unpacker, .. }) = &mut self.at_work else { return next.await };
            tokio::select! {
                biased;
                next = &mut next => return next,
                () = unpacker.timer().due() => {
                    // Whatever is wrong with the disk, the next bytes meet it again.
                    unpacker.note_progress().ok();
                }
            }
        }
    }

    /// Unpacks the next bytes of the tar. While the disk is behind, nothing more is asked of the origin.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Unfinished> {
        let AtWork { unpacker, claim, .. } = self.at_work.as_mut().expect("bytes come after the beginning");
        if let Err(error) = unpacker.push(bytes) {
            return Err(self.broken(error));
        }
        claim.takes(unpacker.disk_bytes(), unpacker.files()).map_err(|lacks| self.give_up(lacks))
    }

    /// Ends a class for which the disk has no space. Its claim ends after its staging was removed,
    /// because a class that waits for the claim compares itself with the free space then.
    fn give_up(&mut self, lacks: LacksSpace) -> Unfinished {
        let claim = self.at_work.take().map(|AtWork { claim, .. }| claim);
        let failed = self.context.failed(&self.staging, lacks.into());
        drop(claim);
        failed
    }

    /// Ends the class, or the worker, as its unpacker ended.
    fn broken(&mut self, error: UnpackError) -> Unfinished {
        if let Some(lacks) = self.at_work.as_ref().and_then(|at_work| at_work.lacks_space(&error)) {
            return self.give_up(lacks);
        }
        if let Some(AtWork { mut unpacker, .. }) = self.at_work.take() {
            // What is done may serve the next attempt; that it cannot be kept changes nothing.
            unpacker.checkpoint().ok();
        }
        self.sorted(error)
    }

    fn sorted(&self, error: UnpackError) -> Unfinished {
        self.context.broken(&self.staging, error)
    }

    /// Stops with a checkpoint of what is done; says whether there is anything that a later attempt can go on from.
    fn keep(&mut self) -> Result<bool, Unfinished> {
        let Some(AtWork { unpacker, source, .. }) = &mut self.at_work else { return Ok(false) };
        let has_validator = source.validator().is_some();
        let done = unpacker.checkpoint().map_err(|error| self.broken(error))?;
        self.at_work = None;
        Ok(done > 0 && has_validator)
    }

    /// Drops what there is of a version that the origin no longer has; what was wrong with it does not matter any more.
    fn forget(&mut self) {
        self.at_work = None;
    }

    /// Proves the tar complete; `None` when a body of unknown length was cut, which only the tar can tell.
    fn finish(&mut self) -> Result<Option<(Source, u64)>, Unfinished> {
        let AtWork { unpacker, source, .. } = self.at_work.take().expect("the end comes after the beginning");
        match unpacker.finish() {
            Ok(files) => Ok(Some((source, files))),
            Err(error) if error.is_truncated() && source.length.is_none() => Ok(None),
            Err(error) => Err(self.sorted(error)),
        }
    }
}

impl AtWork {
    /// Whether the disk is full because this tar takes more than was announced, or has too many files.
    fn lacks_space(&self, error: &UnpackError) -> Option<LacksSpace> {
        if !error.is_full_disk() {
            return None;
        }
        let files = self.claim.took_the_last_files(self.unpacker.files());
        files.or_else(|| self.claim.is_outgrown().then(|| self.claim.outgrown()))
    }
}
