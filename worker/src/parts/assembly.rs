//! Delivers the bytes of a tar in order over several connections: the main connection streams, and
//! parts that other connections have fetched are read from their files.
//!
//! Invariant: as for [`Download`], the bytes since the last [`Piece::Begin`] are a prefix of one
//! version.

use std::{path::PathBuf, pin::pin};

use tokio::time::Instant;

use super::{
    fetch_part::Tar,
    plan::{Part, State},
    split::{EarlierAttempt, Split},
};
use crate::{
    origin::{
        Origin,
        download::{Download, Piece, Until},
        download_error::DownloadError,
    },
    source::Source,
    storage::file_tree::remove_tree,
};

/// The bytes of one tar in order, from the main connection and from the files of its parts.
#[derive(Debug)]
pub(crate) struct Assembly<'origin> {
    tar: Tar,
    download: Download<'origin>,
    /// The offset at which the main connection ends.
    until: Until,
    /// The folder for files with parts.
    folder: PathBuf,
    /// Present while the tar can be split.
    split: Option<Split>,
    /// The time at which the last bytes of the main connection were returned to the unpacker, while
    /// it unpacks them.
    delivered_at: Option<Instant>,
}

impl<'origin> Assembly<'origin> {
    /// Prepares a transfer. `origin`: for the main connection. `folder`: for files with parts.
    pub(crate) fn new(
        origin: &'origin Origin,
        tar: Tar,
        folder: PathBuf,
        left: Option<EarlierAttempt>,
    ) -> Self {
        let resume = left
            .as_ref()
            .map(|left| (left.source.clone(), left.position));
        let until = Until::default();
        let download = Download::new(origin, tar.url.clone(), tar.retries, resume, until.clone());
        let split = left.and_then(|left| {
            let length = left.source.length;
            let position = left.position;
            let split = Split::new(tar.clone(), folder.clone(), left);
            let here = split.as_ref().map_or(position, Split::received_bytes);
            tar.progress.begin(here, length);
            split
        });
        Self {
            tar,
            download,
            until,
            folder,
            split,
            delivered_at: None,
        }
    }

    /// The next piece. An error is final: retries are used up or cannot help.
    pub(crate) async fn next(&mut self) -> Result<Piece, DownloadError> {
        if let Some((at, split)) = self.delivered_at.take().zip(self.split.as_mut()) {
            split.unpacked(at.elapsed());
        }
        loop {
            let Some(split) = &mut self.split else {
                return self.main_piece().await;
            };
            split.process_changes();
            self.download.by_date |= split.source.by_date;
            match split.plan.first().map(|first| first.state) {
                // A task that has received nothing yet may never receive anything, and the main
                // connection is available.
                Some(State::Filed { file, reached, .. })
                    if reached == split.plan.position() && self.download.can_go_on() =>
                {
                    split.give_up(file);
                }
                Some(State::Filed { .. }) => self.download.hang_up().await,
                Some(State::Missing) => {}
                None => {
                    split.stop().await;
                    return Ok(Piece::End);
                }
            }
            let is_main = split.assign_parts(self.download.can_go_on());
            match split.plan.first() {
                Some(Part {
                    state: State::Missing,
                    ..
                }) if is_main => {
                    self.download.go_to(split.plan.position());
                    match self.main_piece().await? {
                        // The end of the main connection's own part; the bytes after it are in a
                        // file.
                        Piece::End => {}
                        piece => return Ok(piece),
                    }
                }
                Some(
                    part @ Part {
                        state: State::Filed { file, reached, .. },
                        ..
                    },
                ) if reached > split.plan.position() => {
                    if let Some(bytes) = split.read(file, part) {
                        return Ok(Piece::Bytes(bytes));
                    }
                }
                _ => split.changed(true).await,
            }
        }
    }

    /// The next piece of the main connection.
    async fn main_piece(&mut self) -> Result<Piece, DownloadError> {
        let began = Instant::now();
        let piece = Self::wait_for(&mut self.download, &self.until, self.split.as_mut()).await?;
        match &piece {
            Piece::Begin(source) => self.begin(source.clone()).await,
            Piece::Bytes(bytes) => {
                self.tar.progress.received(bytes.len() as u64);
                if let Some(split) = &mut self.split {
                    let now = Instant::now();
                    split.received(bytes.len() as u64, now - began);
                    self.delivered_at = Some(now);
                }
            }
            Piece::End => {}
        }
        Ok(piece)
    }

    /// The end of the main connection's part can change during the wait.
    async fn wait_for(
        download: &mut Download<'_>,
        until: &Until,
        split: Option<&mut Split>,
    ) -> Result<Piece, DownloadError> {
        let Some(split) = split else {
            return download.next().await;
        };
        let mut next = pin!(download.next());
        loop {
            until.set(split.plan.first().map_or(u64::MAX, |Part { end, .. }| end));
            tokio::select! {
                biased;
                piece = &mut next => return piece,
                () = split.changed(false) => {
                    split.process_changes();
                    split.assign_parts(true);
                }
            }
        }
    }

    /// Removes the parts of a version that the origin no longer has.
    async fn begin(&mut self, source: Source) {
        self.stop().await;
        if let Err(error) = remove_tree(&self.folder) {
            tracing::info!(%error, "parts of another version stay until the end of the job");
        }
        self.until.set(u64::MAX);
        let nothing = EarlierAttempt {
            source,
            position: 0,
            parts: Vec::new(),
        };
        self.split = Split::new(self.tar.clone(), self.folder.clone(), nothing);
    }

    /// Starts again if retries are left, because the tar turned out to be incomplete although its
    /// body ended.
    pub(crate) async fn begin_again(&mut self) -> Result<(), DownloadError> {
        self.download.begin_again().await
    }

    /// Stops the extra connections and waits for them. Returns whether files have bytes that a
    /// later attempt can use.
    pub(crate) async fn stop(&mut self) -> bool {
        match &mut self.split {
            Some(split) => split.stop().await,
            None => false,
        }
    }
}
