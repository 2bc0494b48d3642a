//! Receives a class: passes the pieces of the download to the unpacker and handles interruptions.

use std::{pin::pin, sync::Arc};

use shared::{Wnid, outcome::Suspect};
use tokio_util::sync::CancellationToken;

use crate::{
    extract::{Start, UnpackError, Unpacker},
    fetch::resume::Checkpoint,
    fetch::{context::JobContext, unfinished::Unfinished},
    observe::progress::ClassProgress,
    origin::{Origin, download::Piece},
    parts::{Assembly, EarlierAttempt, ExtraConnections, Tar},
    source::Source,
    storage::{
        disk_space::{Claim, LacksSpace},
        staging::{Staging, Unpacked},
    },
};

/// Downloads and unpacks a class into a staging folder, starting from the checkpoint of an earlier
/// attempt if there is one.
pub(crate) async fn receive(
    context: &JobContext,
    origin: &Origin,
    wnid: Wnid,
    retries: u32,
    progress: &Arc<ClassProgress>,
    extra: &Arc<ExtraConnections>,
    stop: &CancellationToken,
) -> Result<Unpacked, Unfinished> {
    let (staging, checkpoint) = context.take_over(wnid)?;
    let mut receiver = ClassReceiver {
        context,
        wnid,
        staging,
        unpacking: None,
    };
    let mut left = None;
    if let Some(Checkpoint {
        source,
        files,
        begun,
        position,
        parts,
    }) = checkpoint
    {
        tracing::info!(%wnid, files, position, parts = parts.len(), "going on at the checkpoint");
        let claim =
            context
                .disk_space()
                .claim_rest(source.length, receiver.copies(), position, files);
        receiver.start(
            Start {
                source: source.clone(),
                files,
                begun,
                offset: position,
            },
            claim,
        )?;
        left = Some(EarlierAttempt {
            source,
            position,
            parts,
        });
    }
    let (part_origin, runtime) = context.origin_and_runtime();
    let url = context.job.url.for_class(wnid);
    let tar = Tar {
        origin: part_origin.clone(),
        url,
        retries,
        progress: Arc::clone(progress),
        extra: Arc::clone(extra),
    };
    let mut assembly = Assembly::new(origin, tar, receiver.staging.parts(), runtime.clone(), left);
    loop {
        let piece = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Unfinished::Stopped),
            piece = receiver.noting(assembly.next()) => piece.map_err(|error| Unfinished::Failed(error.into())),
        };
        match piece {
            Ok(Piece::Begin(source)) => {
                receiver.forget();
                progress.begin(0, source.length);
                let begun = stop.run_until_cancelled(receiver.begin(source)).await;
                if let Err(unfinished) = begun.unwrap_or(Err(Unfinished::Stopped)) {
                    assembly.stop().await;
                    return Err(unfinished);
                }
            }
            Ok(Piece::Bytes(bytes)) => {
                if let Err(unfinished) = receiver.feed(&bytes) {
                    assembly.stop().await;
                    return Err(unfinished);
                }
            }
            Ok(Piece::End) => match receiver.finish()? {
                Some((source, files)) => {
                    return Ok(Unpacked {
                        staging: receiver.staging,
                        source,
                        files,
                    });
                }
                None => match stop.run_until_cancelled(assembly.begin_again()).await {
                    Some(Ok(())) => {}
                    Some(Err(error)) => return Err(context.failed(&receiver.staging, error.into())),
                    None => return Err(Unfinished::Stopped),
                },
            },
            Err(Unfinished::Failed(failure)) => {
                // A transient failure is retried here or by another worker, and continues where
                // this attempt ended.
                let has_parts = assembly.stop().await;
                if failure.suspect == Suspect::Origin && (receiver.keep()? || has_parts) {
                    return Err(Unfinished::Failed(failure));
                }
                receiver.forget();
                return Err(context.failed(&receiver.staging, failure));
            }
            Err(unfinished) => {
                assembly.stop().await;
                receiver.keep()?;
                return Err(unfinished);
            }
        }
    }
}

/// The staging folder and the unpacker that fills it.
struct ClassReceiver<'context> {
    context: &'context JobContext,
    wnid: Wnid,
    staging: Staging,
    unpacking: Option<Unpacking>,
}

/// A tar that is being unpacked.
struct Unpacking {
    unpacker: Unpacker,
    source: Source,
    /// Its reservation of disk space.
    claim: Claim,
}

impl ClassReceiver<'_> {
    /// How many times the bytes of the tar are written.
    fn copies(&self) -> u64 {
        if self.context.job.delete_tar { 1 } else { 2 }
    }

    /// Begins a tar as soon as the disk has space for it.
    async fn begin(&mut self, source: Source) -> Result<(), Unfinished> {
        // The files of another version are removed to make room for this one.
        self.staging
            .clear()
            .map_err(UnpackError::storage("open the staging folder"))
            .map_err(|error| self.unfinished(error))?;
        let claim = self
            .context
            .disk_space()
            .claim(source.length, self.copies())
            .await;
        let claim = claim.map_err(|lacks| self.context.failed(&self.staging, lacks.into()))?;
        self.start(
            Start {
                source,
                ..Start::default()
            },
            claim,
        )
    }

    fn start(&mut self, start: Start, claim: Claim) -> Result<(), Unfinished> {
        let source = start.source.clone();
        match Unpacker::open(
            &self.staging,
            self.wnid,
            start,
            !self.context.job.delete_tar,
        ) {
            Ok(unpacker) => {
                self.unpacking = Some(Unpacking {
                    unpacker,
                    source,
                    claim,
                });
            }
            Err(error) => return Err(self.unfinished(error)),
        }
        Ok(())
    }

    /// Waits, and records the progress in the journal whenever that is due.
    async fn noting<T>(&mut self, next: impl Future<Output = T>) -> T {
        let mut next = pin!(next);
        loop {
            let Some(Unpacking { unpacker, .. }) = &mut self.unpacking else {
                return next.await;
            };
            tokio::select! {
                biased;
                next = &mut next => return next,
                () = unpacker.timer().due() => {
                    // An error of the disk is ignored here: writing the next bytes returns it
                    // again.
                    unpacker.note_progress().ok();
                }
            }
        }
    }

    /// Unpacks the next bytes of the tar. While the disk is slower than the origin, no further
    /// bytes are read.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Unfinished> {
        let Unpacking {
            unpacker, claim, ..
        } = self
            .unpacking
            .as_mut()
            .expect("bytes come after the beginning");
        if let Err(error) = unpacker.push(bytes) {
            return Err(self.broken(error));
        }
        claim
            .takes(unpacker.disk_bytes(), unpacker.files())
            .map_err(|lacks| self.give_up(lacks))
    }

    /// Ends a class for which the disk has no space. The reservation ends after the staging folder
    /// was removed, because a class that waits for the reservation then compares its size with the
    /// free space.
    fn give_up(&mut self, lacks: LacksSpace) -> Unfinished {
        let claim = self.unpacking.take().map(|Unpacking { claim, .. }| claim);
        let failed = self.context.failed(&self.staging, lacks.into());
        drop(claim);
        failed
    }

    /// Ends the class or the worker, depending on the error of its unpacker.
    fn broken(&mut self, error: UnpackError) -> Unfinished {
        if let Some(lacks) = self
            .unpacking
            .as_ref()
            .and_then(|unpacking| unpacking.lacks_space(&error))
        {
            return self.give_up(lacks);
        }
        if let Some(Unpacking { mut unpacker, .. }) = self.unpacking.take() {
            // The next attempt may use the finished files. If they cannot be kept, the result is
            // the same.
            unpacker.checkpoint().ok();
        }
        self.unfinished(error)
    }

    fn unfinished(&self, error: UnpackError) -> Unfinished {
        self.context.broken(&self.staging, error)
    }

    /// Stops with a checkpoint of the finished work; returns whether a later attempt can continue
    /// from it.
    fn keep(&mut self) -> Result<bool, Unfinished> {
        let Some(Unpacking {
            unpacker, source, ..
        }) = &mut self.unpacking
        else {
            return Ok(false);
        };
        let has_validator = source.validator().is_some();
        let done = unpacker.checkpoint().map_err(|error| self.broken(error))?;
        self.unpacking = None;
        Ok(done > 0 && has_validator)
    }

    /// Discards the files of a version that the origin no longer has, and any error of its
    /// unpacker.
    fn forget(&mut self) {
        self.unpacking = None;
    }

    /// Verifies that the tar is complete. `None` if a body of unknown length was cut, which only
    /// the tar itself can show.
    fn finish(&mut self) -> Result<Option<(Source, u64)>, Unfinished> {
        let Unpacking {
            unpacker, source, ..
        } = self
            .unpacking
            .take()
            .expect("the end comes after the beginning");
        match unpacker.finish() {
            Ok(files) => Ok(Some((source, files))),
            Err(error) if error.is_truncated() && source.length.is_none() => Ok(None),
            Err(error) => Err(self.unfinished(error)),
        }
    }
}

impl Unpacking {
    /// The failure for a disk that is full because this tar takes more space than announced, or has
    /// too many files.
    fn lacks_space(&self, error: &UnpackError) -> Option<LacksSpace> {
        let is_full = error.is_full_disk();
        is_full.then(|| self.claim.filled_the_disk(self.unpacker.files()))?
    }
}
