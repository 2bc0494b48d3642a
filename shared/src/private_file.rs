//! Detects that other users of this machine can read or change a file with secrets or with
//! certificates to trust.
//!
//! Access for the group is permitted: the operator chooses the group, and Kubernetes gives pods
//! access to their secrets through it. Access for all users is never needed.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// Maximum length of such a file in bytes. A bundle of all public authorities is a fifth of it.
const MAX_LENGTH: u64 = 1 << 20;
/// Permission bits of users that neither own the file nor are in its group.
const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;
/// In a Kubernetes volume each file is a symbolic link into this one, which the kubelet replaces.
const KUBERNETES_DATA: &str = "..data";

/// Every user of the machine can change the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "use {}: every user of this machine can change it; run `chmod o-w {}`",
    path.display(), path.display()
)]
pub struct WritableByOthers {
    /// The file.
    pub path: PathBuf,
}

/// Reasons for which a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum NotRead {
    /// Every user can change it.
    #[error(transparent)]
    Writable(WritableByOthers),
    /// The error of the operating system, or the file is too long.
    #[error(transparent)]
    File(#[from] io::Error),
}

/// Reads a file of at most 1 MiB. The returned bytes are erased from memory when they are dropped.
/// Pipes and devices are accepted, because `/dev/stdin` may be a terminal.
///
/// # Errors
/// [`NotRead`].
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, NotRead> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if has(&metadata, OTHERS_WRITE) {
        return Err(NotRead::Writable(WritableByOthers {
            path: path.to_owned(),
        }));
    }
    // A vector that grows would leave copies in memory.
    let expected = usize::try_from(metadata.len().min(MAX_LENGTH)).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected + 1));
    let read = file.take(MAX_LENGTH + 1).read_to_end(&mut bytes)?;
    if read as u64 > MAX_LENGTH {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB").into());
    }
    Ok(bytes)
}

/// A warning for the log if every user can read the file, with the command that changes the
/// permissions.
pub fn readable_warning(path: &Path) -> Option<String> {
    let is_of_a_pod = path
        .read_link()
        .is_ok_and(|target| target.starts_with(KUBERNETES_DATA));
    let is_readable = path.metadata().is_ok_and(|found| has(&found, OTHERS_READ));
    let path = path.display();
    (is_readable && !is_of_a_pod).then(|| {
        format!("every user of this machine can read the secret in {path}; run `chmod o= {path}`")
    })
}

fn has(metadata: &Metadata, permission: u32) -> bool {
    metadata.is_file() && metadata.permissions().mode() & permission != 0
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn access_for_every_user_is_reported_and_access_for_a_group_is_not() {
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
            let refused = matches!(read(&path), Err(NotRead::Writable(_)));
            assert_eq!(refused, is_writable, "{mode:o}");
        }
        let said = readable_warning(&path).unwrap();
        assert!(
            said.ends_with(&format!("run `chmod o= {}`", path.display())),
            "{said}"
        );
        let refused = WritableByOthers { path: path.clone() }.to_string();
        assert!(
            refused.ends_with(&format!("run `chmod o-w {}`", path.display())),
            "{refused}"
        );
    }

    #[test]
    fn a_file_of_more_than_a_mebibyte_is_refused_and_not_truncated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, vec![b'a'; 1 << 20]).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1 << 20);
        std::fs::write(&path, vec![b'a'; (1 << 20) + 1]).unwrap();
        assert_eq!(
            read(&path).unwrap_err().to_string(),
            "it is longer than 1 MiB"
        );
        assert!(matches!(
            read(Path::new("/dev/zero")),
            Err(NotRead::File(_))
        ));
    }

    #[test]
    fn devices_and_kubernetes_volumes_cause_no_warning() {
        assert_eq!(readable_warning(Path::new("/dev/null")), None);
        assert!(read(Path::new("/dev/null")).unwrap().is_empty());
        let folder = tempfile::tempdir().unwrap();
        let version = folder.path().join("..2026_11_30_07_00_00.1");
        std::fs::create_dir(&version).unwrap();
        std::fs::write(version.join("token"), "secret").unwrap();
        std::fs::set_permissions(version.join("token"), Permissions::from_mode(0o644)).unwrap();
        symlink(version.file_name().unwrap(), folder.path().join("..data")).unwrap();
        let mounted = folder.path().join("token");
        symlink("..data/token", &mounted).unwrap();
        assert_eq!(readable_warning(&mounted), None);
        // A link that does not lead through `..data` is not a volume.
        std::fs::remove_file(&mounted).unwrap();
        symlink(version.join("token"), &mounted).unwrap();
        assert!(readable_warning(&mounted).is_some());
    }
}
