//! All of a tar in order, over however many connections: the main one streams, parts that others have fetched come out of
//! their files.
//!
//! Invariant: as for [`Download`], the bytes since the last [`Piece::Begin`] are a prefix of one version.

use std::{path::PathBuf, pin::pin};

use tokio::{runtime::Handle, time::Instant};

use super::{
    fetch_part::Tar,
    plan::{Part, State},
    split::Split,
};
use crate::{
    origin::{
        Origin,
        download::{Download, Piece, Until},
        download_error::DownloadError,
    },
    source::Source,
    storage::{file_tree::remove_tree, part_file::FoundPart},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Assembly<'origin> {
    tar: Tar,
    download: Download<'origin>,
    /// Where the main connection is to end.
    until: Until,
    /// Of files with parts.
    folder: PathBuf,
    /// Where others run who fetch parts.
    runtime: Handle,
    /// While the tar can be cut.
    split: Option<Split>,
    /// When the last bytes of the main connection were handed out, while they are unpacked.
    handed_out: Option<Instant>,
}

/// What an earlier attempt has left of a tar.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) source: Source,
    /// Where the unpacker goes on.
    pub(crate) position: u64,
    pub(crate) parts: Vec<FoundPart>,
}

impl<'origin> Assembly<'origin> {
    /// Prepares a transfer. `origin`: for the main connection; `folder`: for files with parts.
    pub(crate) fn new(origin: &'origin Origin, tar: Tar, folder: PathBuf, runtime: Handle, left: Option<Left>) -> Self {
        let resume = left.as_ref().map(|left| (left.source.clone(), left.position));
        let mut download = Download::new(origin, tar.url.clone(), tar.retries, resume);
        let until = Until::default();
        download.end_at(until.clone());
        let split = left.and_then(|Left { source, position, parts }| {
            let split = Split::new(tar.clone(), &source, folder.clone(), position, parts, runtime.clone());
            let here = split.as_ref().map_or(position, Split::here);
            tar.progress.begin(here, source.length);
            split
        });
        Self { tar, download, until, folder, runtime, split, handed_out: None }
    }

    /// The next piece. An error is final: whatever could help has been tried.
    pub(crate) async fn next(&mut self) -> Result<Piece, DownloadError> {
        if let Some((at, split)) = self.handed_out.take().zip(self.split.as_mut()) {
            split.unpacked(at.elapsed());
        }
        loop {
            let Some(split) = &mut self.split else { return self.main_piece().await };
            split.take_in();
            if split.asks_by_date() && !self.download.asks_by_date() {
                self.download.ask_by_date();
            }
            match split.first().map(|first| first.state) {
                // Who has brought nothing yet may never do so, while the main connection is there.
                Some(State::Filed { file, reached, .. })
                    if reached == split.position() && self.download.can_go_on() =>
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
            let is_main = split.deal_out(self.download.can_go_on());
            match split.first() {
                Some(Part { state: State::Missing, .. }) if is_main => {
                    self.download.go_to(split.position());
                    match self.main_piece().await? {
                        // Of its own part only; what comes then is in a file.
                        Piece::End => {}
                        piece => return Ok(piece),
                    }
                }
                Some(part @ Part { state: State::Filed { file, reached, .. }, .. }) if reached > split.position() => {
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
                    self.handed_out = Some(now);
                }
            }
            Piece::End => {}
        }
        Ok(piece)
    }

    /// The part of the main connection may become shorter or longer while it is waited for.
    async fn wait_for(
        download: &mut Download<'_>,
        until: &Until,
        split: Option<&mut Split>,
    ) -> Result<Piece, DownloadError> {
        let Some(split) = split else { return download.next().await };
        let mut next = pin!(download.next());
        loop {
            until.set(split.first().map_or(u64::MAX, |Part { end, .. }| end));
            tokio::select! {
                biased;
                piece = &mut next => return piece,
                () = split.changed(false) => {
                    split.take_in();
                    split.deal_out(true);
                }
            }
        }
    }

    /// Forgets the parts of a version that the origin no longer has.
    async fn begin(&mut self, source: Source) {
        self.stop().await;
        if let Err(error) = remove_tree(&self.folder) {
            tracing::info!(%error, "parts of another version stay until the end of the job");
        }
        self.until.set(u64::MAX);
        let (tar, folder, runtime) = (self.tar.clone(), self.folder.clone(), self.runtime.clone());
        self.split = Split::new(tar, &source, folder, 0, Vec::new(), runtime);
    }

    /// The tar turned out to be incomplete although its body ended: starts anew if attempts are left.
    pub(crate) async fn begin_again(&mut self) -> Result<(), DownloadError> {
        self.download.begin_again().await
    }

    /// Ends what is fetched beside the main connection, and waits for it. Says whether files have bytes that a later attempt
    /// can use.
    pub(crate) async fn stop(&mut self) -> bool {
        match &mut self.split {
            Some(split) => split.stop().await,
            None => false,
        }
    }
}
