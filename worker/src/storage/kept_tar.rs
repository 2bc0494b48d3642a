//! Identifies the tars in a target that this program wrote, so that `--delete-tar` removes no
//! others.
//!
//! The manifest of a class records the length and modification time of the tar that was published
//! with it. A tar that differs in one of them was put there by another program, or was modified,
//! and is kept.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use serde::{Deserialize, Serialize};
use shared::Wnid;

use crate::storage::{
    manifest::{self, MANIFEST, MARKED},
    staging,
    target::Target,
};

/// The identity of a tar that this program wrote, as its manifest records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptTar {
    bytes: u64,
    /// Modification time in seconds since the epoch, and the nanoseconds within that second.
    seconds: i64,
    nanoseconds: i64,
}

impl KeptTar {
    /// The identity of the file at a path; `None` if there is no regular file.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Self>> {
        let found = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let kept = Self {
            bytes: found.len(),
            seconds: found.mtime(),
            nanoseconds: found.mtime_nsec(),
        };
        Ok(found.is_file().then_some(kept))
    }
}

/// The tar of a class in the target, if this program wrote it. The manifest that proves it is in
/// the class folder or, if a process was killed between publishing the tar and the folder, in the
/// staging area.
pub(crate) fn written_here(target: &Target, wnid: Wnid) -> io::Result<Option<KeptTar>> {
    let Some(found) = KeptTar::of(&target.tar(wnid))? else {
        return Ok(None);
    };
    let folder = target.class_folder(wnid);
    let published = [folder.join(MANIFEST), folder.join(MARKED)];
    for path in published
        .into_iter()
        .chain(staging::manifests(target, wnid)?)
    {
        let recorded = manifest::open(&path, wnid)?.and_then(|(manifest, _)| manifest.kept_tar);
        if recorded == Some(found) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        source::Source,
        storage::{manifest::Manifest, staging::Staging},
    };

    #[test]
    fn a_tar_is_recognised_by_a_published_or_staged_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(&folder.path().join("target"), None).unwrap();
        let wnid = "n00000001".parse().unwrap();
        fs::write(target.tar(wnid), "a tar").unwrap();
        assert_eq!(written_here(&target, wnid).unwrap(), None);
        let kept_tar = KeptTar::of(&target.tar(wnid)).unwrap();
        assert!(kept_tar.is_some());
        let staging = Staging::create(&target, wnid).unwrap();
        let mut manifest = Manifest::new(wnid, "run", &Source::default());
        manifest.kept_tar = kept_tar;
        manifest::write(&staging.class_folder(), manifest, std::iter::empty()).unwrap();
        assert_eq!(written_here(&target, wnid).unwrap(), kept_tar);
        fs::rename(staging.class_folder(), target.class_folder(wnid)).unwrap();
        assert_eq!(written_here(&target, wnid).unwrap(), kept_tar);
        fs::write(target.tar(wnid), "another").unwrap();
        assert_eq!(written_here(&target, wnid).unwrap(), None);
    }
}
