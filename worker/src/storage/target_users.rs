//! Which users of the host can write to a target: whose entries are trusted, and which entries this
//! process can rename or replace.

use std::{fs::Metadata, os::unix::fs::MetadataExt as _};

use shared::ownership::{Ownership, has_sticky_bit, is_writable_by_all};

/// The permissions of a target.
#[derive(Debug)]
pub(crate) struct TargetUsers {
    folder: Metadata,
    /// This process's user, as the file system shows it.
    user: u32,
}

impl TargetUsers {
    /// `folder`: the target. `user`: the owner that its file system shows for what this process
    /// makes.
    pub(crate) fn new(folder: Metadata, user: u32) -> Self {
        Self { folder, user }
    }

    /// Whether an entry was put there by another user of this host: every user can write to the
    /// target, and the owner counts neither as this user nor as one that can replace all that is in
    /// it.
    pub(crate) fn is_of_another(&self, found: &Metadata) -> bool {
        let ownership = Ownership::within(&self.folder).shown_as(self.user);
        is_writable_by_all(&self.folder) && !ownership.accepts(found)
    }

    /// Whether the system lets this process rename or replace an entry. In a folder with the sticky
    /// bit only root, its owner and the owner of the entry can.
    pub(crate) fn can_replace(&self, found: &Metadata) -> bool {
        !has_sticky_bit(&self.folder) || [0, self.folder.uid(), found.uid()].contains(&self.user)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt as _, chown},
    };

    use super::*;

    const VICTIM: u32 = 54_410;
    const OTHER: u32 = 54_411;

    #[test]
    fn the_sticky_bit_keeps_entries_of_other_users() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root, to make files of other users");
            return;
        }
        let [target, entry] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        for (mode, owner, of, user, is_replaceable) in [
            (0o1777, 0, OTHER, VICTIM, false),
            (0o1777, 0, 0, VICTIM, false),
            (0o1777, 0, VICTIM, VICTIM, true),
            (0o1777, VICTIM, OTHER, VICTIM, true),
            (0o1777, 0, OTHER, 0, true),
            (0o777, 0, OTHER, VICTIM, true),
            (0o3775, 0, OTHER, VICTIM, false),
        ] {
            for (path, owner) in [(target.path(), owner), (entry.path(), of)] {
                chown(path, Some(owner), None).unwrap();
            }
            fs::set_permissions(target.path(), Permissions::from_mode(mode)).unwrap();
            let users = TargetUsers::new(target.path().metadata().unwrap(), user);
            let found = entry.path().metadata().unwrap();
            assert_eq!(
                users.can_replace(&found),
                is_replaceable,
                "{mode:o} {owner} {of} {user}"
            );
        }
    }
}
