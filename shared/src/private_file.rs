//! Which other users of this machine can read or change a file that holds secrets or decides whom
//! to trust.
//!
//! A group may have access: it is chosen by the operator, and Kubernetes gives pods their secrets
//! through one. Access for all users is never needed.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Permission bits of users that neither own a file nor are in its group.
const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;
/// In a volume of Kubernetes each file is a link into this link, which the kubelet replaces.
const KUBERNETES_DATA: &str = "..data";

/// Every user of the machine can put a secret of their own into the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use {}: every user of this machine can change it; run `chmod o-w {}`", path.display(), path.display())]
pub struct WritableByOthers {
    /// The file.
    pub path: PathBuf,
}

/// Whether every user can change an open file. Pipes and devices pass: `/dev/stdin` may be a
/// terminal.
///
/// # Errors
/// Those of `fstat`.
pub fn is_writable_by_others(file: &File) -> io::Result<bool> {
    Ok(has(&file.metadata()?, OTHERS_WRITE))
}

/// A warning for the log if every user can read the file, with the command that changes this.
pub fn readable_warning(path: &Path) -> Option<String> {
    let is_of_a_pod = path.read_link().is_ok_and(|target| target.starts_with(KUBERNETES_DATA));
    let is_readable = path.metadata().is_ok_and(|found| has(&found, OTHERS_READ));
    let path = path.display();
    (is_readable && !is_of_a_pod)
        .then(|| format!("every user of this machine can read the secret in {path}; run `chmod o= {path}`"))
}

fn has(metadata: &Metadata, permission: u32) -> bool {
    metadata.is_file() && metadata.permissions().mode() & permission != 0
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn access_for_every_user_is_told_and_access_for_a_group_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "secret").unwrap();
        for (mode, is_readable, is_writable) in [
            (0o600, false, false),
            (0o660, false, false),
            (0o440, false, false),
            (0o644, true, false),
            (0o604, true, false),
            (0o602, false, true),
            (0o666, true, true),
        ] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let said = readable_warning(&path);
            assert_eq!(said.is_some(), is_readable, "{mode:o}: {said:?}");
            let file = File::open(&path).unwrap();
            assert_eq!(is_writable_by_others(&file).unwrap(), is_writable, "{mode:o}");
        }
        let said = readable_warning(&path).unwrap();
        assert!(said.ends_with(&format!("run `chmod o= {}`", path.display())), "{said}");
        let refused = WritableByOthers { path: path.clone() }.to_string();
        assert!(refused.ends_with(&format!("run `chmod o-w {}`", path.display())), "{refused}");
    }

    #[test]
    fn devices_and_volumes_of_kubernetes_are_as_they_are() {
        assert_eq!(readable_warning(Path::new("/dev/null")), None);
        assert!(!is_writable_by_others(&File::open("/dev/null").unwrap()).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let version = folder.path().join("..2026_11_30_07_00_00.1");
        std::fs::create_dir(&version).unwrap();
        std::fs::write(version.join("token"), "secret").unwrap();
        std::fs::set_permissions(version.join("token"), Permissions::from_mode(0o644)).unwrap();
        symlink(version.file_name().unwrap(), folder.path().join("..data")).unwrap();
        let mounted = folder.path().join("token");
        symlink("..data/token", &mounted).unwrap();
        assert_eq!(readable_warning(&mounted), None);
        // Another link is no volume.
        std::fs::remove_file(&mounted).unwrap();
        symlink(version.join("token"), &mounted).unwrap();
        assert!(readable_warning(&mounted).is_some());
    }
}
