//! Checks who can replace the components of a path: the owners of its folders and links.
//!
//! The path is resolved here one name at a time: the system follows a link of another user silently
//! if `fs.protected_symlinks` is off, or outside of folders with the sticky bit.

use std::{
    ffi::OsString,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use rustix::io::Errno;

use crate::ownership::NotOurs;

/// Linux follows at most this number of links in one path.
const MAX_LINKS: u32 = 40;

/// Returns an error unless `accepts` accepts each folder and each link above the last name of an
/// absolute path, and above the destinations of links. Components that do not exist are not
/// checked.
///
/// # Errors
/// [`NotOurs`], or the error of the file system.
pub(crate) fn check(path: &Path, accepts: impl Fn(&fs::Metadata) -> bool) -> io::Result<()> {
    let mut resolved = PathBuf::from("/");
    let mut left = names_backwards(path);
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&name);
        let found = match next.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        // The rule for the folder itself covers the last name, unless it is a link.
        let is_last = left.is_empty() && !found.is_symlink();
        if !is_last && !accepts(&found) {
            return Err(NotOurs::PathOfAnother(found.uid()).into());
        }
        if !found.is_symlink() {
            resolved = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        let leads = fs::read_link(&next)?;
        if leads.is_absolute() {
            resolved = PathBuf::from("/");
        }
        left.extend(names_backwards(&leads));
    }
    Ok(())
}

/// The names of a path, the first one last; `..` counts as a name.
fn names_backwards(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;
    use crate::{own_file::is_refused, ownership::Ownership};

    const OTHER: u32 = 54_421;

    #[test]
    fn links_are_followed_up_to_a_limit() {
        let host = tempfile::tempdir().unwrap();
        let path = |name: &str| host.path().join(name);
        fs::create_dir_all(path("a/b")).unwrap();
        symlink("a/b", path("relative")).unwrap();
        symlink(path("relative"), path("a/b/absolute")).unwrap();
        symlink("loop", path("loop")).unwrap();
        let seen = |name: &str| {
            let seen = std::cell::RefCell::new(Vec::new());
            check(&path(name), |found| {
                seen.borrow_mut().push(found.ino());
                true
            })
            .map(|()| seen.into_inner())
        };
        let inode = |name: &str| path(name).symlink_metadata().unwrap().ino();
        let all = seen("relative/../../relative/absolute/new").unwrap();
        for name in ["relative", "a", "a/b", "a/b/absolute"] {
            assert!(all.contains(&inode(name)), "{name}");
        }
        assert!(
            !seen("a/b").unwrap().contains(&inode("a/b")),
            "the last one is not checked"
        );
        assert_eq!(
            seen("loop/x").unwrap_err().raw_os_error(),
            Some(Errno::LOOP.raw_os_error())
        );
    }

    #[test]
    fn a_link_or_a_folder_of_another_user_is_refused_wherever_it_is() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root, to make files of other users");
            return;
        }
        let host = tempfile::tempdir().unwrap();
        let path = |name: &str| host.path().join(name);
        fs::create_dir_all(path("ours/deep/trust")).unwrap();
        fs::create_dir_all(path("theirs/deep/trust")).unwrap();
        symlink("ours", path("link")).unwrap();
        symlink(path("link"), path("our link")).unwrap();
        for name in ["theirs", "link"] {
            lchown(path(name), Some(OTHER), None).unwrap();
        }
        for (name, is_accepted) in [
            ("ours/deep/trust", true),
            ("ours/new/trust", true),
            ("theirs/deep/trust", false),
            ("theirs/new", false),
            ("link/deep/trust", false),
            ("link", false),
            ("our link/deep/trust", false),
            ("ours/../link/deep", false),
        ] {
            let refused = check(&path(name), |found| Ownership::strict().accepts(found)).err();
            assert_eq!(
                refused.as_ref().map(is_refused),
                (!is_accepted).then_some(true),
                "{name}: {refused:?}"
            );
        }
    }
}
