//! Which file is in the way when the system refuses access, and whose it is.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, access},
    process::geteuid,
};

/// Where the names of users stand.
const USERS: &str = "/etc/passwd";

/// The error with the first of the paths that this process may not use, and its owner, if access
/// was refused; any other error as it is. What does not exist is looked for in its folder.
pub fn explained<P: AsRef<Path>>(error: io::Error, paths: impl IntoIterator<Item = P>) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let user = geteuid().as_raw();
    let refused = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| !may_use(path, found.is_dir()));
    let in_the_way = paths.into_iter().filter_map(|path| existing(path.as_ref())).find(refused);
    let Some((path, owner)) = in_the_way.and_then(|path| fs::metadata(&path).ok().map(|found| (path, found.uid())))
    else {
        return error;
    };
    let said = if owner == user {
        format!("{error}, because {} is not writable; change its mode (chmod u+rwX)", path.display())
    } else {
        format!(
            "{error}, because {} belongs to {}, and this program runs as {}; run it as {}, or change the owner (chown -R)",
            path.display(),
            name(owner),
            name(user),
            name(owner)
        )
    };
    io::Error::new(error.kind(), said)
}

/// The path, or the folder that it would be made in.
fn existing(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|path| path.symlink_metadata().is_ok()).map(Path::to_owned)
}

fn may_use(path: &Path, is_folder: bool) -> bool {
    let how = if is_folder {
        Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK
    } else {
        Access::READ_OK | Access::WRITE_OK
    };
    access(path, how).is_ok()
}

/// A user's name, or the number where it has none.
pub(crate) fn name(user: u32) -> String {
    let users = fs::read_to_string(USERS).unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(user)).then(|| name.to_owned())
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
    fn only_a_refusal_is_explained_and_only_by_what_is_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let error = explained(io::ErrorKind::NotFound.into(), [folder.path()]);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let error = explained(refused(), [folder.path(), &folder.path().join("missing/deep")]);
        assert_eq!(error.to_string(), refused().to_string());
    }

    #[test]
    fn a_file_that_is_in_the_way_is_named_with_its_owner() {
        if geteuid().is_root() {
            println!("skipped: root is refused nothing");
            return;
        }
        let error = explained(refused(), ["/etc/shadow"]);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("/etc/shadow belongs to root"), "{error}");
        let error = explained(refused(), ["/etc/new"]);
        assert!(error.to_string().contains("/etc belongs to root"), "{error}");
    }

    #[test]
    fn users_have_names_or_numbers() {
        assert_eq!(name(0), "root");
        assert_eq!(name(4_000_000_000), "user 4000000000");
    }
}
