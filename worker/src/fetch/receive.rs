//! Receives a class: passes the pieces of the download to the unpacker and handles interruptions.

use std::pin::pin;

use shared::outcome::Suspect;

use crate::{
    extract::{Start, UnpackError, Unpacker},
    fetch::{attempt::Attempt, resume::Checkpoint, unfinished::Unfinished},
    origin::download::Piece,
    parts::{Assembly, EarlierAttempt},
    source::Source,
    storage::{
        disk_space::{Claim, LacksSpace},
        staging::{Staging, Unpacked},
    },
};

impl Attempt<'_> {
    /// Downloads and unpacks the class into a staging folder, starting from the checkpoint of an
    /// earlier attempt if there is one.
    pub(super) async fn receive(&self) -> Result<Unpacked, Unfinished> {
        let (staging, checkpoint) = self.take_over()?;
        let parts = staging.parts();
        let mut receiver = ClassReceiver {
            attempt: self,
            staging,
            unpacking: None,
        };
        let left = checkpoint
            .map(|checkpoint| receiver.resume(checkpoint))
            .transpose()?;
        let mut assembly = Assembly::new(self.origin, self.tar.clone(), parts, left);
        loop {
            let piece = tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(Unfinished::Stopped),
                piece = receiver.noting(assembly.next()) => piece.map_err(Unfinished::from),
            };
            let processed = match piece {
                Ok(Piece::Begin(source)) => self.until_stopped(receiver.begin(source)).await,
                Ok(Piece::Bytes(bytes)) => receiver.feed(&bytes),
                Ok(Piece::End) => {
                    if let Some(unpacked) = receiver.finish()? {
                        return Ok(unpacked);
                    }
                    let failed = |error| self.failed(&receiver.staging, error);
                    let begun = async {
                        let begun = assembly.begin_again().await;
                        begun.map_err(|error| failed(error.into()))
                    };
                    self.until_stopped(begun).await
                }
                Err(unfinished) => {
                    let has_parts = assembly.stop().await;
                    return Err(receiver.end_early(unfinished, has_parts));
                }
            };
            if let Err(unfinished) = processed {
                assembly.stop().await;
                return Err(unfinished);
            }
        }
    }
}

/// The staging folder and the unpacker that fills it.
struct ClassReceiver<'attempt> {
    attempt: &'attempt Attempt<'attempt>,
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
    /// Continues at the checkpoint of an earlier attempt.
    fn resume(
        &mut self,
        Checkpoint { start, parts }: Checkpoint,
    ) -> Result<EarlierAttempt, Unfinished> {
        let source = start.source.clone();
        let position = start.offset;
        tracing::info!(
            wnid = %self.attempt.wnid, files = start.files, position, parts = parts.len(),
            "going on at the checkpoint"
        );
        let disk_space = &self.attempt.context.disk_space;
        let copies = self.attempt.copies();
        let claim = disk_space.claim_rest(source.length, copies, position, start.files);
        self.start(start, claim)?;
        Ok(EarlierAttempt {
            source,
            position,
            parts,
        })
    }

    /// Begins a tar as soon as the disk has space for it.
    async fn begin(&mut self, source: Source) -> Result<(), Unfinished> {
        // The origin no longer has the former version. Its files are removed to make room for this
        // one, and an error of its unpacker does not matter.
        self.unpacking = None;
        self.attempt.tar.progress.begin(0, source.length);
        self.staging
            .clear()
            .map_err(self.attempt.staging("open the staging folder"))?;
        let disk_space = &self.attempt.context.disk_space;
        let wait = self
            .attempt
            .tar
            .progress
            .waits
            .begin_for("space on the disk");
        let claim = disk_space
            .claim(source.length, self.attempt.copies())
            .await
            .map_err(|lacks| self.attempt.failed(&self.staging, lacks.into()))?;
        drop(wait);
        self.start(Start::of(source), claim)
    }

    fn start(&mut self, start: Start, claim: Claim) -> Result<(), Unfinished> {
        let attempt = self.attempt;
        let source = start.source.clone();
        let unpacker = Unpacker::open(&self.staging, attempt.wnid, start, attempt.keeps_tar())
            .map_err(|error| self.unfinished(error))?;
        self.unpacking = Some(Unpacking {
            unpacker,
            source,
            claim,
        });
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
        let claim = self.unpacking.take().map(|unpacking| unpacking.claim);
        let failed = self.attempt.failed(&self.staging, lacks.into());
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
        if let Some(mut unpacking) = self.unpacking.take() {
            // The next attempt may use the finished files. If they cannot be kept, the result is
            // the same.
            unpacking.unpacker.checkpoint().ok();
        }
        self.unfinished(error)
    }

    fn unfinished(&self, error: UnpackError) -> Unfinished {
        self.attempt.broken(&self.staging, error)
    }

    /// Ends an attempt that was stopped, or whose download failed. `has_parts`: files have bytes
    /// behind the unpacker that a later attempt can use.
    fn end_early(&mut self, unfinished: Unfinished, has_parts: bool) -> Unfinished {
        // A transient failure is retried here or by another worker, and continues where this
        // attempt ended.
        let failure = match unfinished {
            Unfinished::Failed(failure) if failure.suspect != Suspect::Origin => failure,
            unfinished => {
                let has_checkpoint = match self.keep() {
                    Ok(has_checkpoint) => has_checkpoint,
                    Err(error) => return error,
                };
                match unfinished {
                    Unfinished::Failed(failure) if !has_checkpoint && !has_parts => failure,
                    unfinished => return unfinished,
                }
            }
        };
        self.unpacking = None;
        self.attempt.failed(&self.staging, failure)
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

    /// Verifies that the tar is complete. `None` if a body of unknown length was cut, which only
    /// the tar itself can show.
    fn finish(&mut self) -> Result<Option<Unpacked>, Unfinished> {
        let Unpacking {
            unpacker, source, ..
        } = self
            .unpacking
            .take()
            .expect("the end comes after the beginning");
        match unpacker.finish() {
            Ok(files) => Ok(Some(Unpacked {
                staging: self.staging.clone(),
                source,
                files,
            })),
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
        let lacks = is_full.then(|| self.claim.filled_the_disk(self.unpacker.files()));
        lacks.flatten()
    }
}
