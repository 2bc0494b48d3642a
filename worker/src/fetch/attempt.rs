//! One attempt at a class: what its steps share, and what they do in the target.
//!
//! An attempt has its own thread, so its file operations may block.

use std::{fmt::Display, io, path::PathBuf};

use shared::{
    Wnid,
    outcome::{Failure, Outcome},
    owner::explained,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    extract::UnpackError,
    fetch::{
        context::JobContext,
        resume::{Checkpoint, take_over},
        unfinished::{self, Unfinished, conflict, storage},
    },
    origin::Origin,
    parts::Tar,
    storage::{
        existing::TAR_OF_ANOTHER,
        kept_tar::{self, KeptTar},
        manifest::{self, Manifest},
        publish::{Publication, Replace, Staged, TarFate, remove_tar},
        set_aside,
        staging::{Staging, Unpacked},
    },
};

/// An attempt at a class.
pub(crate) struct Attempt<'slot> {
    pub(crate) context: &'slot JobContext,
    /// The origin, with the connections of the slot.
    pub(crate) origin: &'slot Origin,
    pub(crate) wnid: Wnid,
    /// The class's tar at the origin.
    pub(crate) tar: Tar,
    /// Stops the attempt at a checkpoint.
    pub(crate) stop: CancellationToken,
}

impl Attempt<'_> {
    /// The result of a step, or [`Unfinished::Stopped`] if the attempt is stopped before.
    pub(super) async fn until_stopped<T>(
        &self,
        step: impl Future<Output = Result<T, Unfinished>>,
    ) -> Result<T, Unfinished> {
        let ended = self.stop.run_until_cancelled(step).await;
        ended.unwrap_or(Err(Unfinished::Stopped))
    }

    /// How many times the bytes of the tar are written.
    pub(super) fn copies(&self) -> u64 {
        1 + u64::from(self.keeps_tar())
    }

    pub(super) fn keeps_tar(&self) -> bool {
        !self.context.job.delete_tar
    }

    /// The URL of the tar as it is recorded.
    pub(super) fn shown_url(&self) -> String {
        crate::source::shown(&self.tar.url)
    }

    /// The tar in the target, if this program wrote it.
    pub(super) fn own_tar(&self) -> Result<Option<KeptTar>, Unfinished> {
        kept_tar::written_here(&self.context.target, self.wnid)
            .map_err(self.storage("look at the tar"))
    }

    /// With `--delete-tar`, removes a tar that this program wrote, also one of an earlier run.
    pub(super) fn drop_tar(&self) -> Result<(), Unfinished> {
        if self.keeps_tar() || self.own_tar()?.is_none() {
            return Ok(());
        }
        let target = &self.context.target;
        remove_tar(target, self.wnid).map_err(storage(target, "remove the tar"))
    }

    /// An empty staging folder.
    pub(super) fn make_staging(&self) -> Result<Staging, Unfinished> {
        Staging::create(&self.context.target, self.wnid)
            .map_err(self.staging("make a staging folder"))
    }

    /// Removes a staging folder that is not needed any more.
    pub(super) fn drop_staging(&self, staging: &Staging) -> Result<(), Unfinished> {
        staging
            .remove()
            .map_err(self.staging("remove a staging folder"))
    }

    /// A staging folder, with the checkpoint of an earlier attempt if there is one.
    pub(super) fn take_over(&self) -> Result<(Staging, Option<Checkpoint>), Unfinished> {
        let target = &self.context.target;
        take_over(target, self.wnid, &self.shown_url(), self.keeps_tar())
            .map_err(self.staging("make a staging folder"))
    }

    /// Publishes the complete class from its staging folder.
    pub(super) async fn publish(
        &self,
        unpacked: Unpacked,
        tar: TarFate,
        replace: Replace,
        own_tar: Option<KeptTar>,
    ) -> Result<Outcome, Unfinished> {
        let began = Instant::now();
        let manifest = kept(&unpacked.staging, tar, own_tar)
            .and_then(|kept_tar| self.write_manifest(&unpacked, kept_tar))
            .map_err(self.staging("write the manifest"))?;
        let staged = Staged {
            wnid: self.wnid,
            staging: unpacked.staging,
            tar,
            replace,
        };
        let published = self.context.publisher.publish(staged).await;
        self.context.counters.publishes.record(began.elapsed());
        match published {
            Ok(Publication::Done) => Ok(Outcome::Success(manifest.published())),
            Ok(Publication::AlreadyThere(manifest)) => Ok(self.context.found(&manifest)),
            Ok(Publication::Fenced) => {
                tracing::info!(wnid = %self.wnid, "complete, but what is there is not replaced under a lease that may be gone");
                Err(Unfinished::Stopped)
            }
            Ok(Publication::Occupied) => Err(conflict(
                "something was put under the class's name in the meantime",
            )),
            Ok(Publication::CannotKeep(why)) => Err(cannot_keep(&why)),
            Err(error) => Err(self.staging("publish the class")(self.explained(error))),
        }
    }

    /// Writes the manifest from the journal, which must list every file of the tar.
    fn write_manifest(
        &self,
        unpacked: &Unpacked,
        kept_tar: Option<KeptTar>,
    ) -> io::Result<Manifest> {
        let folder = unpacked.staging.class_folder();
        let run = &self.context.job.run_id;
        let mut manifest = Manifest::new(self.wnid, run, &unpacked.source);
        manifest.kept_tar = kept_tar;
        let mut writer = manifest::Writer::create(&folder, manifest)?;
        let mut entries = unpacked.staging.entries()?;
        while let Some(file) = entries.next_finished() {
            writer.copy(file)?;
        }
        let manifest = writer.finish()?;
        if manifest.published().files != unpacked.files {
            return Err(io::Error::other(
                "the journal does not have every file of the tar",
            ));
        }
        Ok(manifest)
    }

    /// The folder for files of users that the manifest of a class does not list; `None` if the
    /// class folder has no such files.
    ///
    /// # Errors
    /// A conflict if there are such files and no folder can keep them.
    pub(super) fn place_of_unlisted(&self) -> Result<Option<PathBuf>, Unfinished> {
        let target = &self.context.target;
        let found = set_aside::has_unlisted(&target.class_folder(self.wnid), self.wnid);
        if !found.map_err(self.storage("read the folder"))? {
            return Ok(None);
        }
        set_aside::place(target)
            .map(Some)
            .map_err(|why| cannot_keep(&why))
    }

    /// Returns a conflict if another user's file has the tar's name and cannot be renamed.
    pub(super) fn check_tar_name(&self) -> Result<(), Unfinished> {
        let target = &self.context.target;
        if self.keeps_tar()
            && let Ok(found) = target.tar(self.wnid).symlink_metadata()
        {
            let users = target.users().map_err(self.storage("look at the target"))?;
            if !users.can_replace(&found) {
                return Err(conflict(TAR_OF_ANOTHER));
            }
        }
        Ok(())
    }

    /// As [`storage`], for operations on what is under the class's final names.
    pub(super) fn storage(&self, action: &'static str) -> impl FnOnce(io::Error) -> Unfinished {
        move |error| storage(&self.context.target, action)(self.explained(error))
    }

    /// As [`unfinished::staging`].
    pub(super) fn staging(&self, action: &'static str) -> impl FnOnce(io::Error) -> Unfinished {
        unfinished::staging(&self.context.target, action)
    }

    fn explained(&self, error: io::Error) -> io::Error {
        let target = &self.context.target;
        let folder = target.class_folder(self.wnid);
        explained(
            error,
            [
                folder.join(manifest::MANIFEST),
                folder,
                target.tar(self.wnid),
                target.root().to_owned(),
            ],
        )
    }

    /// Converts an unpacking error. Nothing of an invalid archive is kept.
    pub(super) fn broken(&self, staging: &Staging, error: UnpackError) -> Unfinished {
        match error.into_failure() {
            Err((action, error)) => self.staging(action)(error),
            Ok(failure) => self.failed(staging, failure),
        }
    }

    /// Ends the class as failed, and removes its staging folder, which no other attempt can use.
    pub(super) fn failed(&self, staging: &Staging, failure: Failure) -> Unfinished {
        match staging.remove() {
            Ok(()) => Unfinished::Failed(failure),
            Err(error) => storage(&self.context.target, "remove a staging folder")(error),
        }
    }
}

/// The class has files that its manifest does not list, and they cannot be kept elsewhere.
fn cannot_keep(why: &impl Display) -> Unfinished {
    conflict(&format!(
        "its folder has files that its manifest does not list, and {why}; move them out of the folder and run the \
         same command again"
    ))
}

/// What the manifest records of the tar: the one that is published with the class, or one that
/// stays and was written by this program.
fn kept(staging: &Staging, tar: TarFate, own: Option<KeptTar>) -> io::Result<Option<KeptTar>> {
    match tar {
        TarFate::Move | TarFate::MoveOver => KeptTar::of(&staging.tar()),
        TarFate::Stay => Ok(own),
        TarFate::Remove => Ok(None),
    }
}
