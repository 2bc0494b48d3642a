//! Fetches a part of a tar into its file, over a connection of its own. Every extra connection
//! starts here.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::{runtime::Handle, sync::Notify, task::spawn_blocking};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::extra_connections::ExtraConnections;
use crate::{
    observe::progress::ClassProgress,
    origin::{
        Origin,
        download::{Download, Piece, Until},
        limiter::Priority,
    },
    source::{Source, shown},
    storage::part_file::PartWriter,
};

/// The tar of one class at the origin, for all its connections.
#[derive(Debug, Clone)]
pub(crate) struct Tar {
    /// The origin, with the connections of the parts.
    pub(crate) origin: Origin,
    /// The runtime of the tasks that fetch parts.
    pub(crate) runtime: Handle,
    pub(crate) url: Url,
    /// Number of retries without progress.
    pub(crate) retries: u32,
    pub(crate) progress: Arc<ClassProgress>,
    /// Extra connections, of free slots, that the transfer may use.
    pub(crate) extra: Arc<ExtraConnections>,
}

/// The state that a part's task shares with the class.
#[derive(Debug)]
pub(crate) struct PartState {
    /// The offset at which the part ends; it may be lowered.
    pub(crate) until: Until,
    /// The unpacker waits for this part.
    pub(crate) is_first: AtomicBool,
    /// Offset in the tar up to which the file has bytes.
    reached: AtomicU64,
    /// Notified whenever the file has grown.
    grown: Arc<Notify>,
    pub(crate) stop: CancellationToken,
}

impl PartState {
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

    /// The file has the tar's bytes up to this offset.
    pub(crate) fn reached(&self) -> u64 {
        self.reached.load(Ordering::Acquire)
    }
}

/// How fetching a part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartEnd {
    /// The part is complete, or the task was stopped.
    Done,
    /// The retries are used up, or the file could not be written.
    Failed,
    /// The origin does not send this part of this version.
    Refused,
    /// As [`Self::Refused`], but the origin has this version: a request by `Last-Modified` may
    /// succeed.
    RefusedByTag,
}

impl Tar {
    /// Fetches the part that begins at the writer's offset. Received bytes are in the file however
    /// it ends.
    pub(crate) async fn fetch(
        self,
        source: Source,
        writer: PartWriter,
        shared: Arc<PartState>,
    ) -> PartEnd {
        let fetched = self.fetch_into(source, writer, &shared).await;
        fetched.unwrap_or_else(|error| {
            tracing::info!(%error, "a part of the tar could not be written to a file of its own");
            PartEnd::Failed
        })
    }

    async fn fetch_into(
        &self,
        source: Source,
        mut writer: PartWriter,
        shared: &PartState,
    ) -> io::Result<PartEnd> {
        let mut download = Download::new(
            &self.origin,
            self.url.clone(),
            self.retries,
            Some((source.clone(), writer.reached())),
            shared.until.clone(),
        );
        let ended = loop {
            // The part that the unpacker waits for continues the transfer. All other parts arrive
            // later in any case.
            download.priority = Some(if shared.is_first.load(Ordering::Relaxed) {
                Priority::GoingOn
            } else {
                Priority::Part
            });
            let step = {
                let mut step = pin!(download.step());
                loop {
                    tokio::select! {
                        biased;
                        () = shared.stop.cancelled() => break Ok(Some(Piece::End)),
                        step = &mut step => break step,
                        () = writer.timer().due() => writer = note(writer).await?,
                    }
                }
            };
            match step {
                Ok(Some(Piece::Bytes(bytes))) => {
                    self.progress.received(bytes.len() as u64);
                    writer = store(writer, bytes, shared).await?;
                }
                Ok(None) if download.is_under_way() => {}
                Ok(Some(Piece::End)) => break PartEnd::Done,
                Ok(Some(Piece::Begin(_)) | None) if download.by_date && !source.by_date => {
                    break PartEnd::RefusedByTag;
                }
                Ok(Some(Piece::Begin(_)) | None) => break PartEnd::Refused,
                Err(error) => {
                    tracing::info!(url = %shown(&self.url), %error, "a part of the tar did not come");
                    break PartEnd::Failed;
                }
            }
        };
        flush(writer, shared).await?;
        Ok(ended)
    }
}

async fn store(
    mut writer: PartWriter,
    mut bytes: Bytes,
    shared: &PartState,
) -> io::Result<PartWriter> {
    while !bytes.is_empty() {
        let taken = writer.fill(&bytes);
        drop(bytes.split_to(taken));
        if writer.is_full() {
            writer = flush(writer, shared).await?;
        }
    }
    if writer.timer().received() {
        note(writer).await
    } else {
        Ok(writer)
    }
}

async fn note(mut writer: PartWriter) -> io::Result<PartWriter> {
    spawn_blocking(move || writer.note().map(|()| writer)).await?
}

async fn flush(mut writer: PartWriter, shared: &PartState) -> io::Result<PartWriter> {
    let write = move || writer.write().map(|()| writer);
    let writer = spawn_blocking(write).await??;
    shared.reached.store(writer.reached(), Ordering::Release);
    shared.grown.notify_one();
    Ok(writer)
}
