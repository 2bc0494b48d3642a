//! Receiving a class: the pieces of the download go to the unpacker, whatever breaks in between.

use bytes::Bytes;
use shared::{Wnid, outcome::Suspect};
use tokio_util::sync::CancellationToken;

use crate::{
    download::{Download, Piece},
    extract::{Extraction, Start, Stopped, Unpacker},
    progress::ClassProgress,
    site::Site,
    source::Source,
    staging::{Checkpoint, Staging, Unpacked},
    unfinished::Unfinished,
};

/// Downloads and unpacks a class into a staging folder, from the checkpoint of an earlier attempt where there is one.
pub(crate) async fn receive(
    site: &Site,
    wnid: Wnid,
    retries: u32,
    progress: &ClassProgress,
    stop: &CancellationToken,
) -> Result<Unpacked, Unfinished> {
    let (staging, checkpoint) = site.take_over(wnid).await?;
    let mut intake = Intake { site, wnid, staging, at_work: None };
    let resume = checkpoint.map(|Checkpoint { source, files, next_header }| {
        tracing::info!(%wnid, files, position = next_header, "going on at the checkpoint");
        progress.begin(next_header, source.length);
        intake.start(Start { source: source.clone(), files, offset: next_header });
        (source, next_header)
    });
    let mut download = Download::new(&site.origin, site.job.url.for_class(wnid), retries, resume);
    loop {
        let piece = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Unfinished::Stopped),
            piece = download.next() => piece.map_err(|error| Unfinished::Failed(error.into())),
        };
        match piece {
            Ok(Piece::Begin(source)) => {
                intake.forget().await;
                progress.begin(0, source.length);
                intake.start(Start { source, files: 0, offset: 0 });
            }
            Ok(Piece::Bytes(bytes)) => {
                progress.received(bytes.len() as u64);
                intake.feed(bytes).await?;
            }
            Ok(Piece::End) => match intake.finish().await? {
                Some((source, files)) => return Ok(Unpacked { staging: intake.staging, source, files }),
                None => match stop.run_until_cancelled(download.begin_again()).await {
                    Some(Ok(())) => {}
                    Some(Err(error)) => return Err(site.failed(intake.staging, error.into()).await),
                    None => return Err(Unfinished::Stopped),
                },
            },
            Err(Unfinished::Failed(failure)) => {
                // What may pass is tried again, here or by another worker, and goes on where this attempt ended.
                if failure.suspect == Suspect::Origin && intake.keep().await? {
                    return Err(Unfinished::Failed(failure));
                }
                intake.forget().await;
                return Err(site.failed(intake.staging, failure).await);
            }
            Err(unfinished) => {
                intake.checkpoint().await?;
                return Err(unfinished);
            }
        }
    }
}

/// The staging folder and the unpacker that fills it.
struct Intake<'site> {
    site: &'site Site,
    wnid: Wnid,
    staging: Staging,
    at_work: Option<(Extraction, Source)>,
}

impl Intake<'_> {
    fn start(&mut self, start: Start) {
        let (staging, wnid, keep_tar) = (self.staging.clone(), self.wnid, !self.site.job.delete_tar);
        let source = start.source.clone();
        let extraction = Extraction::start(move || Unpacker::open(&staging, wnid, &start, keep_tar));
        self.at_work = Some((extraction, source));
    }

    async fn feed(&mut self, bytes: Bytes) -> Result<(), Unfinished> {
        let (extraction, _) = self.at_work.as_ref().expect("bytes come after the beginning");
        match extraction.push(bytes).await {
            Ok(()) => Ok(()),
            // Only an error ends it early, and the checkpoint brings that error.
            Err(Stopped) => self.checkpoint().await,
        }
    }

    /// Stops with a checkpoint of what is done.
    async fn checkpoint(&mut self) -> Result<(), Unfinished> {
        self.keep().await.map(|_| ())
    }

    /// The same; says whether there is anything that a later attempt can go on from.
    async fn keep(&mut self) -> Result<bool, Unfinished> {
        let Some((extraction, source)) = self.at_work.take() else { return Ok(false) };
        match extraction.stop().await {
            Ok(done) => Ok(done > 0 && source.validator().is_some()),
            Err(error) => Err(self.site.broken(self.staging.clone(), error).await),
        }
    }

    /// Drops what there is of a version that the origin no longer has; what was wrong with it does not matter any more.
    async fn forget(&mut self) {
        if let Some((extraction, _)) = self.at_work.take() {
            extraction.stop().await.ok();
        }
    }

    /// Proves the tar complete; `None` when a body of unknown length was cut, which only the tar can tell.
    async fn finish(&mut self) -> Result<Option<(Source, u64)>, Unfinished> {
        let (extraction, source) = self.at_work.take().expect("the end comes after the beginning");
        match extraction.finish().await {
            Ok(files) => Ok(Some((source, files))),
            Err(error) if error.is_truncated() && source.length.is_none() => Ok(None),
            Err(error) => Err(self.site.broken(self.staging.clone(), error).await),
        }
    }
}
