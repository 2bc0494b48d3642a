//! The rule that decides whether a file or a folder counts as this program's in a folder to which
//! other users may have added entries. It is used for the files of a target (`own_file`), the
//! staging area (the worker's `area_access`) and the folders of secrets.

use std::{
    fs::Metadata,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
};

use rustix::process::geteuid;

use crate::owner;

/// Permissions of others and of the group to write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Permission of every user to write.
const WRITABLE_BY_ALL: u32 = 0o002;
/// The sticky bit: in a folder with it, users can rename and remove only their own entries.
const STICKY: u32 = 0o1000;
/// The group shares a folder with both bits, unless every user can write to it.
const SHARED: u32 = 0o2020;

/// Why a file or a folder is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// A symbolic link.
    #[error("it is a symbolic link of {}, which is not followed: remove it", owner::name(*owner))]
    Link {
        /// The owner of the link.
        owner: u32,
    },
    /// A pipe, a socket or a device.
    #[error("it is no regular file: remove it")]
    NotAFile,
    /// Another user made it.
    #[error(
        "it belongs to {}, and this program runs as {}: remove it, or run this program as {} if \
         that user began the job",
        owner::name(*owner), owner::name(*user), owner::name(*owner)
    )]
    Owner {
        /// The owner of the file.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// The file has another name as well, so writing would change that file too.
    #[error("it is a hard link, and its other name may be a file of something else: remove it")]
    Linked,
    /// Others can write to it, so its content may be of another user.
    #[error(
        "other users can write to it: see what is in it, then take that right away (chmod go-w)"
    )]
    Writable,
    /// A folder for secrets that this other user made.
    #[error(
        "it belongs to {}, and this program runs as {}: give a folder of your own",
        owner::name(*.0), this_user()
    )]
    FolderOfAnother(u32),
    /// A link or a folder on the path to a folder for secrets that this other user made.
    #[error(
        "its path leads through a folder or link of {}, who can replace what is in it, and this \
         program runs as {}; give a folder whose parents are all yours or root's",
        owner::name(*.0), this_user()
    )]
    PathOfAnother(u32),
    /// A folder for secrets in which all users can create files.
    #[error("every user of this host can write to it: give a folder to which only you can write")]
    OpenFolder,
}

fn this_user() -> String {
    owner::name(geteuid().as_raw())
}

impl From<NotOurs> for io::Error {
    fn from(why: NotOurs) -> Self {
        Self::new(ErrorKind::InvalidInput, why)
    }
}

/// Users whose files count as this program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// This process's user, as the file system shows it.
    pub user: u32,
    /// The owner of the folder, who can replace every entry in it; `None` if such an owner is not
    /// accepted.
    pub folder: Option<u32>,
    /// The group that shares the folder, if there is one.
    pub group: Option<u32>,
}

impl Ownership {
    /// The rule for the entries of a folder, the same as that of the kernel's
    /// `fs.protected_regular`.
    pub fn within(folder: &Metadata) -> Self {
        Self {
            folder: Some(folder.uid()),
            group: is_shared(folder).then(|| folder.gid()),
            ..Self::strict()
        }
    }

    /// The rule for folders whose entries are used by name for longer than one call. Their owner
    /// could replace an entry in between, so only this process's user and root are accepted.
    pub fn strict() -> Self {
        Self {
            user: geteuid().as_raw(),
            folder: None,
            group: None,
        }
    }

    /// The same rule on a file system that shows this process's files as those of another user.
    #[must_use]
    pub fn shown_as(self, user: u32) -> Self {
        Self { user, ..self }
    }

    /// Whether the owner is one of the users, or the group is the accepted one.
    pub fn accepts(self, found: &Metadata) -> bool {
        let is_a_users = [Some(self.user), Some(0), self.folder].contains(&Some(found.uid()));
        is_a_users || self.group == Some(found.gid())
    }

    /// Returns an error unless [`Self::accepts`] the entry.
    ///
    /// # Errors
    /// [`NotOurs::Owner`].
    pub fn check(self, found: &Metadata) -> Result<(), NotOurs> {
        if self.accepts(found) {
            Ok(())
        } else {
            Err(NotOurs::Owner {
                owner: found.uid(),
                user: self.user,
            })
        }
    }
}

/// Whether a group shares a folder: it has the set-group-ID bit, and its group can write to it but
/// not every user. If every user can write, the bit gives the folder's group to files of any user,
/// so the group of a file does not show who made it.
pub fn is_shared(folder: &Metadata) -> bool {
    folder.mode() & SHARED == SHARED && !is_writable_by_all(folder)
}

/// Whether users can write to a folder other than its owner or the group that shares it.
pub fn is_writable_by_others(folder: &Metadata) -> bool {
    let own = if is_shared(folder) { 0o020 } else { 0 };
    folder.mode() & WRITABLE_BY_OTHERS & !own != 0
}

/// Whether entries of a folder can be replaced only by their owners and the owner of the folder.
pub fn has_sticky_bit(folder: &Metadata) -> bool {
    folder.mode() & STICKY != 0
}

/// Whether every user of this host can write to it.
pub fn is_writable_by_all(found: &Metadata) -> bool {
    found.mode() & WRITABLE_BY_ALL != 0
}
