//! Names the file to which the system refuses access, and its owner.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, access},
    process::geteuid,
};

/// The file with the names of users.
const USERS: &str = "/etc/passwd";

/// If access was refused, adds the first of the paths that this process may not use, and its owner,
/// to the error. Any other error is returned unchanged. For a path that does not exist, its folder
/// is checked.
pub fn explained<P: AsRef<Path>>(
    error: io::Error,
    paths: impl IntoIterator<Item = P>,
) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let user = geteuid().as_raw();
    let in_the_way = paths.into_iter().find_map(|path| {
        let path = existing(path.as_ref())?;
        let found = fs::metadata(&path).ok()?;
        (!may_use(&path, found.is_dir())).then(|| (path, found.uid()))
    });
    let Some((path, owner)) = in_the_way else {
        return error;
    };
    let said = if owner == user {
        format!(
            "{error}, because {} is not writable; change its mode (chmod u+rwX)",
            path.display()
        )
    } else {
        format!(
            "{error}, because {} belongs to {}, and this program runs as {}; run it as {}, or \
             change the owner (chown -R)",
            path.display(),
            name(owner),
            name(user),
            name(owner)
        )
    };
    io::Error::new(error.kind(), said)
}

/// The path, or the folder in which it would be created.
fn existing(path: &Path) -> Option<PathBuf> {
    path.ancestors()
        .find(|path| path.symlink_metadata().is_ok())
        .map(Path::to_owned)
}

fn may_use(path: &Path, is_folder: bool) -> bool {
    let mut how = Access::READ_OK | Access::WRITE_OK;
    how.set(Access::EXEC_OK, is_folder);
    access(path, how).is_ok()
}

/// The name of a user, or the number of a user without a name.
pub(crate) fn name(user: u32) -> String {
    let users = fs::read_to_string(USERS).unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(user)).then(|| fields[0].to_owned())
    });
    named.unwrap_or_else(|| format!("user {user}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> io::Error {
        io::ErrorKind::PermissionDenied.into()
    }

    #[test]
    fn only_refused_access_is_explained_by_the_path_that_caused_it() {
        let folder = tempfile::tempdir().unwrap();
        let error = explained(io::ErrorKind::NotFound.into(), [folder.path()]);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let error = explained(
            refused(),
            [folder.path(), &folder.path().join("missing/deep")],
        );
        assert_eq!(error.to_string(), refused().to_string());
    }

    #[test]
    fn the_inaccessible_file_is_named_with_its_owner() {
        if geteuid().is_root() {
            println!("skipped: root is refused nothing");
            return;
        }
        let error = explained(refused(), ["/etc/shadow"]);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(
            error.to_string().contains("/etc/shadow belongs to root"),
            "{error}"
        );
        let error = explained(refused(), ["/etc/new"]);
        assert!(
            error.to_string().contains("/etc belongs to root"),
            "{error}"
        );
    }

    #[test]
    fn a_user_is_shown_by_name_or_number() {
        assert_eq!(name(0), "root");
        assert_eq!(name(4_000_000_000), "user 4000000000");
    }
}
