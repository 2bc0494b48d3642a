//! Which tars in a target this program wrote, so that `--delete-tar` removes no other.
//!
//! The manifest of a class records length and time of change of the tar that was published with it.
//! A tar that differs in one of them was put there by another program, or changed since, and stays.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use serde::{Deserialize, Serialize};
use shared::Wnid;

use crate::storage::{
    manifest::{self, MANIFEST, MARKED},
    staging,
    target::Target,
};

/// A tar that this program wrote, as its manifest records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptTar {
    bytes: u64,
    /// Time of its last change, in seconds since the epoch.
    seconds: i64,
    /// And nanoseconds.
    nanoseconds: i64,
}

impl KeptTar {
    /// The file under a path; `None` where there is no regular file.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Self>> {
        let found = match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let kept = Self { bytes: found.len(), seconds: found.mtime(), nanoseconds: found.mtime_nsec() };
        Ok(found.is_file().then_some(kept))
    }
}

/// The tar of a class in the target, if this program wrote it. The manifest that says so is in the
/// class folder or, where a process was killed between publishing the tar and the folder, in the
/// staging area.
pub(crate) fn written_here(target: &Target, wnid: Wnid) -> io::Result<Option<KeptTar>> {
    let Some(found) = KeptTar::of(&target.tar(wnid))? else { return Ok(None) };
    let folder = target.class_folder(wnid);
    let published = [folder.join(MANIFEST), folder.join(MARKED)];
    for path in published.into_iter().chain(staging::manifests(target, wnid)?) {
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
        storage::{manifest::Provenance, staging::Staging},
    };

    #[test]
    fn a_tar_is_this_programs_if_a_manifest_says_so_also_one_that_is_not_published_yet() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(&folder.path().join("target"), None).unwrap();
        let wnid = "n00000001".parse().unwrap();
        fs::write(target.tar(wnid), "a tar").unwrap();
        assert_eq!(written_here(&target, wnid).unwrap(), None);
        let kept_tar = KeptTar::of(&target.tar(wnid)).unwrap();
        assert!(kept_tar.is_some());
        let staging = Staging::create(&target, wnid).unwrap();
        let source = Source::default();
        let provenance = Provenance { wnid, run: "run", source: &source, adopted: false, kept_tar };
        manifest::write(&staging.class_folder(), provenance, std::iter::empty()).unwrap();
        assert_eq!(written_here(&target, wnid).unwrap(), kept_tar);
        fs::rename(staging.class_folder(), target.class_folder(wnid)).unwrap();
        assert_eq!(written_here(&target, wnid).unwrap(), kept_tar);
        fs::write(target.tar(wnid), "another").unwrap();
        assert_eq!(written_here(&target, wnid).unwrap(), None);
    }
}
