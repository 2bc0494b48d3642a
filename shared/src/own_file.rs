//! Opens this program's files in folders to which other users may have added entries.
//!
//! Invariant: what is opened here is a regular file and is not reached through a symbolic link, and
//! opening it never waits. [`open`] and [`open_or_create`] also refuse a file of another user, by
//! the rule of [`Ownership::within`]: the owner must be this process's user, root, or the owner of
//! the folder, who can replace every entry anyway. In a folder that a group shares (set-group-ID,
//! writable by the group and not by all) the files of the group are accepted as well. A file system
//! may show another owner for files of this process, as NFS with `root_squash` does. That owner
//! then counts as this process's user; a temporary file shows which one it is.
//!
//! Only [`open_log`] follows a symbolic link, if the link belongs to this process's user or to the
//! owner of the folder (as with `fs.protected_symlinks`).

use std::{
    fs::{File, Metadata, Permissions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, RawMode, openat},
    io::Errno,
    process::geteuid,
};

use crate::{
    ownership::{NotOurs, Ownership, has_sticky_bit, is_writable_by_all, is_writable_by_others},
    path_owners,
};

mod folder_entry;

use folder_entry::FolderEntry;

/// Mode of a new log, before the process's umask is applied.
const LOG_MODE: RawMode = 0o644;
/// Prefix of the names of temporary files; sixteen hexadecimal digits follow.
/// [`crate::probe_files`] removes files that a killed process has left.
pub const PROBE: &str = ".probe-";

/// The access to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Writing at any offset.
    Write,
    /// Reading and writing; NFS locks only such a descriptor.
    ReadWrite,
    /// Writing at the end of the file.
    Append,
}

/// Whether an error is a [`NotOurs`]: the file or folder does not belong to this program.
pub fn is_refused(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<NotOurs>)
}

/// Opens a regular file of any owner for reading.
///
/// # Errors
/// [`NotOurs`], or the error of the file system.
pub fn open_regular(path: &Path) -> io::Result<File> {
    FolderEntry::of(path)?.open(Access::Read)
}

/// Opens a regular file that this program has made.
///
/// # Errors
/// [`NotOurs`], or the error of the file system.
pub fn open(path: &Path, access: Access) -> io::Result<File> {
    FolderEntry::of(path)?.open_ours(access)
}

/// Opens a file that several runs of this program use, or creates it with at most this mode. A file
/// with a second name is refused.
///
/// # Errors
/// [`NotOurs`], or the error of the file system.
pub fn open_or_create(path: &Path, access: Access, mode: RawMode) -> io::Result<File> {
    FolderEntry::of(path)?.open_or_create(access, mode)
}

/// Opens a log for appending, creates it if it is missing, and removes the permission of other
/// users to write to it. A link is followed only if it is ours, and may then lead to a pipe or a
/// device.
///
/// # Errors
/// [`NotOurs`], or the error of the file system.
pub fn open_log(path: &Path) -> io::Result<File> {
    let entry = FolderEntry::of(path)?;
    let mode = entry.mode(LOG_MODE)?;
    let file = entry.open_log(Access::Append, mode)?;
    restrict(&file, mode)?;
    Ok(file)
}

/// A mode, with the permissions of the group to read and write if the group shares the folder.
///
/// # Errors
/// The error of the file system.
pub fn mode_in_folder_of(path: &Path, mode: RawMode) -> io::Result<RawMode> {
    FolderEntry::of(path)?.mode(mode)
}

/// The content of a log; empty for a pipe or a device.
///
/// # Errors
/// [`NotOurs`], or the error of the file system.
pub fn read_log(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = FolderEntry::of(path)?.open_log(Access::Read, LOG_MODE)?;
    let mut text = Vec::new();
    if file.metadata()?.is_file() {
        file.read_to_end(&mut text)?;
    }
    Ok(text)
}

/// Opens a folder; a link under its name is refused.
///
/// # Errors
/// [`NotOurs`], or the error of the file system.
pub fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(CWD, path, flags, Mode::empty()) {
        Ok(folder) => Ok(folder.into()),
        Err(Errno::LOOP | Errno::NOTDIR) => Err(match path.symlink_metadata() {
            Ok(found) if found.is_symlink() => NotOurs::Link { owner: found.uid() }.into(),
            _ => ErrorKind::NotADirectory.into(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Replaces what is under a name, which may be a link of another user, by a new file with this
/// content and mode. The content is written to a temporary file in the same folder, which is then
/// renamed. A process that is killed in between leaves the temporary file.
///
/// # Errors
/// The error of the file system.
pub fn replace(path: &Path, content: &[u8], mode: RawMode) -> io::Result<()> {
    let entry = FolderEntry::of(path)?;
    let (name, mut file) = entry.create_temporary(mode)?;
    let renamed = file
        .write_all(content)
        .and_then(|()| entry.take_over(&name));
    if renamed.is_err() {
        entry.remove_temporary(&name)?;
    }
    renamed
}

/// Returns an error unless only this process's user, root, or an authorized group can change the
/// entries of a folder. For a missing folder, checks the folder in which it would be created. Every
/// user may be able to write to that one if it has the sticky bit, like `/tmp`. Another user can
/// create the folder in the meantime, so it is checked again after its creation. The path may lead
/// only through folders and links of this process's user or of root.
///
/// # Errors
/// [`NotOurs`], or the error of the file system.
pub fn check_private_folder(path: &Path) -> io::Result<()> {
    let absolute = std::path::absolute(path)?;
    let existing = absolute
        .ancestors()
        .find(|folder| folder.symlink_metadata().is_ok())
        .ok_or(ErrorKind::NotFound)?;
    // With user namespaces the owner of the root folder can be shown as another user. That user can
    // replace every file anyway.
    let ownership = Ownership {
        folder: Some(Path::new("/").metadata()?.uid()),
        ..Ownership::strict()
    };
    let shown = || FolderEntry::of(&existing.join(PROBE)).and_then(|entry| entry.user_here());
    let accepts = |found: &Metadata| {
        ownership.accepts(found)
            || shown().is_ok_and(|user| ownership.shown_as(user).accepts(found))
    };
    path_owners::check(&absolute, accepts)?;
    let found = existing.metadata()?;
    if !found.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    let is_replaceable = existing == absolute || !has_sticky_bit(&found);
    if is_writable_by_all(&found) && is_replaceable {
        return Err(NotOurs::OpenFolder.into());
    }
    if accepts(&found) {
        return Ok(());
    }
    Err(NotOurs::FolderOfAnother(found.uid()).into())
}

/// Returns an error unless this program made a folder.
///
/// # Errors
/// [`NotOurs`], or the error of the file system.
pub fn check_folder(path: &Path) -> io::Result<()> {
    let found = open_folder(path)?.metadata()?;
    FolderEntry::of(path)?.check_owner(&found)
}

/// Limits the permissions of a regular file to these. A file system without permissions is
/// accepted.
///
/// # Errors
/// [`NotOurs::Writable`] if others can write to the file and only its owner could change that.
pub fn restrict(file: &File, mode: RawMode) -> io::Result<()> {
    let found = file.metadata()?;
    let now = found.mode() & 0o7777;
    if !found.is_file() || now & !mode == 0 {
        return Ok(());
    }
    match file.set_permissions(Permissions::from_mode(now & mode)) {
        Err(_) if found.uid() != geteuid().as_raw() && is_writable_by_others(&found) => {
            Err(NotOurs::Writable.into())
        }
        _ => Ok(()),
    }
}

/// Returns an error if a file has a second name, which may be that of a file of another program.
///
/// # Errors
/// [`NotOurs::Linked`], or the error of the file system.
pub fn check_alone(file: &File) -> io::Result<()> {
    if file.metadata()?.nlink() > 1 {
        Err(NotOurs::Linked.into())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, sync::mpsc, thread, time::Duration};

    use rustix::fs::{FileType, mknodat};

    use super::*;

    const PRIVATE: &str = "private";

    /// A folder with a private file, which no link may make accessible.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), PRIVATE).unwrap();
        folder
    }

    fn refusal<T>(opened: io::Result<T>) -> NotOurs {
        let Err(error) = opened else {
            panic!("it was opened")
        };
        *error
            .get_ref()
            .and_then(|why| why.downcast_ref())
            .unwrap_or_else(|| panic!("{error}"))
    }

    /// Runs a function on a thread, so that a function that waits does not hang the tests.
    fn without_waiting<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, ended) = mpsc::channel();
        thread::spawn(move || done.send(run()));
        ended
            .recv_timeout(Duration::from_secs(20))
            .expect("the function does not wait")
    }

    fn every_way(path: &Path) -> Vec<io::Result<File>> {
        let access = [
            Access::Read,
            Access::Write,
            Access::ReadWrite,
            Access::Append,
        ];
        let opened = access.into_iter().map(|access| open(path, access));
        let made = access
            .into_iter()
            .map(|access| open_or_create(path, access, 0o600));
        opened.chain(made).chain([open_regular(path)]).collect()
    }

    #[test]
    fn links_pipes_and_devices_are_refused_without_waiting() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        symlink(path("secret"), path("link")).unwrap();
        symlink("missing", path("dangling")).unwrap();
        mknodat(
            CWD,
            path("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        for name in ["link", "dangling", "pipe", "socket"] {
            let path = path(name);
            for opened in without_waiting(move || every_way(&path)) {
                let why = refusal(opened);
                let is_link = matches!(why, NotOurs::Link { .. });
                assert_eq!(
                    is_link,
                    !["pipe", "socket"].contains(&name),
                    "{name}: {why}"
                );
                assert!(is_link || why == NotOurs::NotAFile, "{name}: {why}");
            }
        }
        drop(socket);
        for opened in every_way(folder.path()) {
            assert_eq!(opened.unwrap_err().kind(), ErrorKind::IsADirectory);
        }
        assert_eq!(fs::read_to_string(path("secret")).unwrap(), PRIVATE);
        assert!(!path("missing").exists());
    }

    #[test]
    fn a_missing_file_is_created_with_the_mode_and_opened_again() {
        let folder = folder();
        let path = folder.path().join("new");
        assert_eq!(
            open(&path, Access::Read).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        for text in ["one", "two"] {
            open_or_create(&path, Access::Append, 0o600)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "onetwo");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        fs::hard_link(&path, folder.path().join("other")).unwrap();
        assert_eq!(
            refusal(open_or_create(&path, Access::Append, 0o600)),
            NotOurs::Linked
        );
        assert!(
            open(&path, Access::Read).is_ok(),
            "a checkpoint's files are linked while they are taken over"
        );
    }

    #[test]
    fn a_log_follows_a_link_of_its_own_user_even_to_a_pipe() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        for (name, leads) in [
            ("file", "elsewhere"),
            ("device", "/dev/null"),
            ("pipe", "a pipe"),
        ] {
            symlink(leads, path(name)).unwrap();
        }
        open_log(&path("file"))
            .unwrap()
            .write_all(b"line\n")
            .unwrap();
        assert_eq!(read_log(&path("file")).unwrap(), b"line\n");
        assert_eq!(fs::read_to_string(path("elsewhere")).unwrap(), "line\n");
        open_log(&path("device"))
            .unwrap()
            .write_all(b"line\n")
            .unwrap();
        assert_eq!(read_log(&path("device")).unwrap(), b"");
        mknodat(
            CWD,
            path("a pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let pipe = path("pipe");
        let error = without_waiting(move || open_log(&pipe)).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(Errno::NXIO.raw_os_error()),
            "a pipe that nothing reads"
        );
        let _reader = File::options()
            .read(true)
            .write(true)
            .open(path("a pipe"))
            .unwrap();
        open_log(&path("pipe"))
            .unwrap()
            .write_all(b"line\n")
            .unwrap();
        assert_eq!(refusal(open_log(&path("a pipe"))), NotOurs::NotAFile);
        assert_eq!(
            open_log(folder.path()).unwrap_err().kind(),
            ErrorKind::IsADirectory
        );
    }

    #[test]
    fn a_new_or_former_log_is_not_writable_by_others() {
        let folder = folder();
        let path = folder.path().join("log");
        for former in [0o666, 0o602, 0o620, 0o644, 0o600] {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(former)).unwrap();
            drop(open_log(&path).unwrap());
            assert_eq!(path.metadata().unwrap().mode() & 0o777, former & 0o644);
        }
    }

    #[test]
    fn a_file_of_another_user_is_accepted_only_by_its_folders_owner_or_group() {
        use std::os::unix::fs::chown;

        if !geteuid().is_root() {
            println!("skipped: needs root, to make files of other users");
            return;
        }
        let folder = folder();
        let path = folder.path().join("file");
        let [attacker, other] = [54_421, 54_422];
        for (folders, file, mode, group, is_opened) in [
            (0, 0, 0o755, 0, true),
            (0, attacker, 0o755, 0, false),
            (0, attacker, 0o1777, 0, false),
            (other, attacker, 0o777, 0, false),
            (attacker, attacker, 0o755, 0, true),
            (0, attacker, 0o2775, 7, true),
            (0, attacker, 0o2775, 8, false),
            (0, attacker, 0o2755, 7, false),
            (0, attacker, 0o2777, 7, false),
            (0, attacker, 0o3777, 7, false),
            (0, attacker, 0o3775, 7, true),
            (0, attacker, 0o775, 7, false),
        ] {
            fs::write(&path, "").unwrap();
            chown(&path, Some(file), Some(group)).unwrap();
            chown(folder.path(), Some(folders), Some(7)).unwrap();
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            for opened in [
                open(&path, Access::Read),
                open_or_create(&path, Access::Append, 0o600),
            ] {
                let case = (folders, file, format!("{mode:o}"), group);
                assert_eq!(
                    opened.as_ref().err().map(is_refused),
                    (!is_opened).then_some(true),
                    "{case:?}"
                );
            }
            assert!(open_regular(&path).is_ok(), "of any owner");
        }
        let link = folder.path().join("link");
        for (folders, owner, is_followed) in [
            (0, 0, true),
            (0, attacker, false),
            (attacker, attacker, true),
        ] {
            fs::remove_file(&link).unwrap_or_default();
            symlink("secret", &link).unwrap();
            std::os::unix::fs::lchown(&link, Some(owner), None).unwrap();
            chown(folder.path(), Some(folders), None).unwrap();
            assert_eq!(open_log(&link).is_ok(), is_followed, "{folders}, {owner}");
        }
    }

    #[test]
    fn secrets_are_written_only_if_no_other_user_can_replace_them() {
        use std::os::unix::fs::chown;

        if !geteuid().is_root() {
            println!("skipped: needs root, to make folders of other users");
            return;
        }
        let host = folder();
        let folder = host.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let [attacker, group] = [54_421, 54_422];
        for (owner, mode, inside, missing) in [
            (0, 0o700, true, true),
            (0, 0o755, true, true),
            (0, 0o2770, true, true),
            (0, 0o1777, false, true),
            (0, 0o777, false, false),
            (0, 0o702, false, false),
            (attacker, 0o755, false, false),
            (attacker, 0o1777, false, false),
        ] {
            chown(&folder, Some(owner), Some(group)).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
            for (path, is_accepted) in [
                (folder.clone(), inside),
                (folder.join("new"), missing),
                (folder.join("new/deep"), missing),
            ] {
                let checked = check_private_folder(&path);
                let refused = checked.as_ref().err().map(is_refused);
                assert_eq!(
                    refused,
                    (!is_accepted).then_some(true),
                    "{}, {owner}, {mode:o}",
                    path.display()
                );
            }
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        }
        // Another user can change where a link of that user leads, even if it now leads to a folder
        // of ours.
        chown(&folder, Some(0), Some(0)).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        let link = host.path().join("link");
        for (owner, is_accepted) in [(0, true), (attacker, false)] {
            fs::remove_file(&link).unwrap_or_default();
            symlink("folder", &link).unwrap();
            std::os::unix::fs::lchown(&link, Some(owner), None).unwrap();
            let refused = check_private_folder(&link).err();
            assert_eq!(
                refused.as_ref().map(is_refused),
                (!is_accepted).then_some(true),
                "{owner}: {refused:?}"
            );
        }
    }

    #[test]
    fn replacing_a_link_does_not_write_to_its_destination() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        symlink("secret", path("page")).unwrap();
        symlink("missing", path("new")).unwrap();
        fs::write(path("old"), "old").unwrap();
        fs::hard_link(path("secret"), path("hard link")).unwrap();
        for name in ["page", "new", "old", "hard link"] {
            replace(&path(name), b"content", 0o640).unwrap();
            assert_eq!(fs::read_to_string(path(name)).unwrap(), "content", "{name}");
            let found = path(name).symlink_metadata().unwrap();
            assert!(found.is_file() && found.mode() & 0o777 == 0o640, "{name}");
        }
        assert_eq!(fs::read_to_string(path("secret")).unwrap(), PRIVATE);
        fs::create_dir(path("folder")).unwrap();
        assert!(replace(&path("folder"), b"content", 0o640).is_err());
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            6,
            "a temporary file is left"
        );
    }

    /// As on NFS with `root_squash`: files that root makes belong to another user.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_owner_that_the_file_system_shows_for_our_files_counts_as_this_user() {
        use std::os::unix::fs::chown;

        use nix::unistd::{Uid, setfsuid};

        if !geteuid().is_root() {
            println!("skipped: needs root, to make files of other users");
            return;
        }
        let folder = folder();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let [ours, theirs] = ["ours", "theirs"].map(|name| folder.path().join(name));
        fs::write(&theirs, "").unwrap();
        chown(&theirs, Some(54_421), None).unwrap();
        fs::set_permissions(&theirs, Permissions::from_mode(0o666)).unwrap();
        // The file system's user belongs to a thread.
        let squashed = thread::spawn(move || {
            setfsuid(Uid::from_raw(54_430));
            let twice = [(); 2].map(|()| open_log(&ours).map(|log| log.metadata().unwrap().uid()));
            (twice, refusal(open_log(&theirs)))
        });
        let (twice, refused) = squashed.join().unwrap();
        assert_eq!(twice.map(Result::unwrap), [54_430; 2]);
        assert_eq!(
            refused,
            NotOurs::Owner {
                owner: 54_421,
                user: 0
            }
        );
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            3,
            "a probe is left"
        );
    }
}
