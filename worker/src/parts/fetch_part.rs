//! Fetches a part of a tar into its file, over a connection of its own. Every connection beside the main one begins here.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::{sync::Notify, task::spawn_blocking};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::spare::ExtraConnections;
use crate::source::shown;
use crate::{
    observe::progress::ClassProgress,
    origin::{
        Origin,
        download::{Download, Piece, Until},
        limiter::Priority,
    },
    source::Source,
    storage::part_file::PartWriter,
};

/// What all parts of a tar have in common.
#[derive(Debug, Clone)]
pub(crate) struct Tar {
    pub(crate) origin: Origin,
    pub(crate) url: Url,
    /// Attempts without progress, after the first.
    pub(crate) retries: u32,
    pub(crate) progress: Arc<ClassProgress>,
    /// Connections of free slots that it may use.
    pub(crate) spare: Arc<ExtraConnections>,
}

/// What the class and the one who fetches for it tell one another.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Where the part ends; may come nearer.
    pub(crate) until: Until,
    /// The unpacker waits for this part.
    pub(crate) is_first: AtomicBool,
    /// How far it is in the file.
    reached: AtomicU64,
    /// Told whenever the file has grown.
    grown: Arc<Notify>,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    pub(crate) fn new(start: u64, end: u64, grown: Arc<Notify>) -> Self {
        let until = Until::default();
        until.set(end);
        Self {
            until,
            is_first: AtomicBool::new(false),
            reached: AtomicU64::new(start),
            grown,
            stop: CancellationToken::new(),
        }
    }

    /// The file has the tar's bytes up to here.
    pub(crate) fn reached(&self) -> u64 {
        self.reached.load(Ordering::Acquire)
    }

    /// What the unpacker waits for goes on; all else comes in any case.
    fn priority(&self) -> Priority {
        if self.is_first.load(Ordering::Relaxed) { Priority::GoingOn } else { Priority::Part }
    }

    fn has_grown(&self, to: u64) {
        self.reached.store(to, Ordering::Release);
        self.grown.notify_one();
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All is there, or it was told to stop.
    Done,
    /// Nothing more came, although it was tried again; or the file could not be written.
    Failed,
    /// The origin sends something else than this part of this version.
    Refused,
    /// The same, but it has this version: the part may come if it is asked for by `Last-Modified`.
    RefusedByTag,
}

impl Tar {
    /// Fetches the part that begins where the writer is. What came is in the file whatever the end.
    pub(crate) async fn fetch(self, source: Source, mut writer: PartWriter, shared: Arc<Shared>) -> Ended {
        let mut download =
            Download::new(&self.origin, self.url.clone(), self.retries, Some((source.clone(), writer.reached())));
        download.end_at(shared.until.clone());
        loop {
            download.set_priority(shared.priority());
            let step = {
                let mut step = pin!(download.step());
                loop {
                    tokio::select! {
                        biased;
                        () = shared.stop.cancelled() => break Ok(Some(Piece::End)),
                        step = &mut step => break step,
                        () = writer.timer().due() => match note(writer).await {
                            Ok(same) => writer = same,
                            Err(error) => return unwritten(&error),
                        },
                    }
                }
            };
            let ended = match step {
                Ok(Some(Piece::Bytes(bytes))) => {
                    self.progress.received(bytes.len() as u64);
                    match store(writer, bytes, &shared).await {
                        Ok(same) => writer = same,
                        Err(error) => return unwritten(&error),
                    }
                    continue;
                }
                Ok(None) if download.is_under_way() => continue,
                Ok(Some(Piece::End)) => Ended::Done,
                Ok(Some(Piece::Begin(_)) | None) if download.asks_by_date() && !source.by_date => Ended::RefusedByTag,
                Ok(Some(Piece::Begin(_)) | None) => Ended::Refused,
                Err(error) => {
                    tracing::info!(url = %shown(&self.url), %error, "a part of the tar did not come");
                    Ended::Failed
                }
            };
            return match flush(writer, &shared).await {
                Ok(_) => ended,
                Err(error) => unwritten(&error),
            };
        }
    }
}

fn unwritten(error: &io::Error) -> Ended {
    tracing::info!(%error, "a part of the tar could not be written to a file of its own");
    Ended::Failed
}

async fn store(mut writer: PartWriter, mut bytes: Bytes, shared: &Shared) -> io::Result<PartWriter> {
    while !bytes.is_empty() {
        let taken = writer.fill(&bytes);
        drop(bytes.split_to(taken));
        if writer.is_full() {
            writer = flush(writer, shared).await?;
        }
    }
    if writer.timer().received() { note(writer).await } else { Ok(writer) }
}

async fn note(mut writer: PartWriter) -> io::Result<PartWriter> {
    spawn_blocking(move || writer.note().map(|()| writer)).await.map_err(io::Error::other)?
}

async fn flush(mut writer: PartWriter, shared: &Shared) -> io::Result<PartWriter> {
    let write = move || writer.write().map(|()| writer);
    let writer = spawn_blocking(write).await.map_err(io::Error::other)??;
    shared.has_grown(writer.reached());
    Ok(writer)
}
