//! Access rights of a staging area: writable for this process's user only, or for the group that
//! shares the target.
//!
//! A target is shared by its group if it has the set-group-ID bit and is writable for the group but
//! not for all users. The area of a shared target gets the same rights. An administrator can also
//! create the area in advance with these two bits, as root or as the user of this process. Any
//! other area has mode 0700, independent of the umask.

use std::{
    fs::{DirBuilder, File, Metadata, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{
    fs::{Gid, fchown},
    process::geteuid,
};
use shared::{
    own_file::open_folder,
    ownership::{
        NotOurs, Ownership, has_sticky_bit, is_shared, is_writable_by_all, is_writable_by_others,
    },
};

/// Mode of an area that is not shared.
const PRIVATE_MODE: u32 = 0o700;
/// Mode of an area that a group shares.
const SHARED_MODE: u32 = 0o2770;
/// Mode bits of the group and of other users.
const FOREIGN_BITS: u32 = 0o077;

/// The id of the group that shares a folder, if it is shared.
pub(crate) fn group_of(folder: &Metadata) -> Option<u32> {
    is_shared(folder).then(|| folder.gid())
}

/// How the file system shows files that this process creates, determined with a file of mode 0600.
/// NFS with `root_squash` shows another owner for files of root, and a mount without modes shows
/// the same mode for all files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AreaAccess {
    /// This process's user, as the file system shows it.
    pub(crate) user: u32,
    /// Whether the file system stores modes, so that they restrict access.
    pub(crate) keeps_modes: bool,
}

impl Default for AreaAccess {
    fn default() -> Self {
        Self {
            user: geteuid().as_raw(),
            keeps_modes: true,
        }
    }
}

impl AreaAccess {
    /// Determines it from a file that was just created with mode 0600.
    pub(crate) fn of(file: &Metadata) -> Self {
        Self {
            user: file.uid(),
            keeps_modes: file.mode() & FOREIGN_BITS == 0,
        }
    }

    /// Refuses an area to which other users could have written.
    pub(crate) fn check(self, folder: &Metadata, group: Option<u32>) -> io::Result<()> {
        Ownership {
            user: self.user,
            folder: None,
            group: group.filter(|_| is_shared(folder)),
        }
        .check(folder)?;
        if self.keeps_modes && is_writable_by_others(folder) {
            return Err(NotOurs::Writable.into());
        }
        Ok(())
    }
}

/// Creates the folder of an area. If it exists and belongs to this user alone, removes the rights
/// of others.
pub(crate) fn make(path: &Path, group: Option<u32>) -> io::Result<()> {
    let is_new = match DirBuilder::new().mode(PRIVATE_MODE).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
        made => made.map(|()| true)?,
    };
    let folder = open_folder(path)?;
    if is_new
        && let Some(group) = group
        && fchown(&folder, None, Some(Gid::from_raw(group))).is_ok()
    {
        set_mode(&folder, SHARED_MODE)?;
    }
    let found = folder.metadata()?;
    let is_ours = found.uid() == geteuid().as_raw() && !is_writable_by_others(&found);
    let is_too_open = is_ours && found.mode() & FOREIGN_BITS != 0;
    // A user who is not a member of the group works alone: the kernel keeps the set-group-ID bit
    // for members only.
    if !is_shared(&found) && (is_new || is_too_open) {
        set_mode(&folder, PRIVATE_MODE)?;
    }
    Ok(())
}

/// Lets the group of a shared area lock a file in it.
pub(crate) fn share(file: &File, area: &File) -> io::Result<()> {
    if is_shared(&area.metadata()?) {
        set_mode(file, 0o660)?;
    }
    Ok(())
}

/// Whether every user can replace the entries of a folder: it is writable for all and has no sticky
/// bit.
pub(crate) fn is_open_to_all(folder: &Path) -> bool {
    folder
        .metadata()
        .is_ok_and(|found| is_writable_by_all(&found) && !has_sticky_bit(&found))
}

/// Sets a mode. Errors of mounts without modes are ignored, because there the mount determines the
/// rights.
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    let set = file.set_permissions(Permissions::from_mode(mode));
    set.or_else(|error| match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::Unsupported => Ok(()),
        _ => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::chown};

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn an_area_is_private_unless_a_group_shares_the_target() {
        let folder = tempfile::tempdir().unwrap();
        let area = folder.path().join("area");
        for (target, expected) in [
            (0o755, 0o700),
            (0o777, 0o700),
            (0o2755, 0o700),
            (0o775, 0o700),
            (0o2775, 0o2770),
            (0o2777, 0o700),
            (0o3777, 0o700),
            (0o3775, 0o2770),
        ] {
            fs::set_permissions(folder.path(), Permissions::from_mode(target)).unwrap();
            let group = group_of(&folder.path().metadata().unwrap());
            for _ in 0..2 {
                make(&area, group).unwrap();
                // The set-group-ID bit is inherited and has no effect without the right to write.
                let found = mode(&area);
                assert_eq!(
                    if found & 0o020 == 0 {
                        found & 0o777
                    } else {
                        found
                    },
                    expected,
                    "{target:o}"
                );
            }
            fs::set_permissions(&area, Permissions::from_mode(0o755)).unwrap();
            make(&area, group).unwrap();
            assert_eq!(mode(&area) & 0o777, 0o700, "an area of an earlier version");
            fs::remove_dir(&area).unwrap();
        }
    }

    #[test]
    fn an_area_to_which_others_could_have_written_is_refused() {
        if !geteuid().is_root() {
            println!("skipped: needs root, to make folders of other users");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let [attacker, user] = [54_421, 54_422];
        let access = AreaAccess {
            user,
            keeps_modes: true,
        };
        for (owner, rights, is_used) in [
            (user, 0o700, true),
            (user, 0o755, true),
            (user, 0o775, false),
            (user, 0o777, false),
            (user, 0o1777, false),
            (user, 0o2770, true),
            (user, 0o2777, false),
            (attacker, 0o700, false),
            (attacker, 0o2770, true),
            (attacker, 0o2777, false),
            (attacker, 0o3777, false),
            (0, 0o700, true),
            (0, 0o777, false),
            (0, 0o2770, true),
        ] {
            chown(folder.path(), Some(owner), Some(7)).unwrap();
            fs::set_permissions(folder.path(), Permissions::from_mode(rights)).unwrap();
            let found = folder.path().metadata().unwrap();
            assert_eq!(
                access.check(&found, Some(7)).is_ok(),
                is_used,
                "{owner}, {rights:o}"
            );
            let in_the_group = is_used && owner != attacker;
            assert_eq!(
                access.check(&found, Some(8)).is_ok(),
                in_the_group,
                "{owner}, {rights:o}"
            );
            let without_modes = AreaAccess {
                user,
                keeps_modes: false,
            };
            assert_eq!(without_modes.check(&found, None).is_ok(), owner != attacker);
        }
    }
}
