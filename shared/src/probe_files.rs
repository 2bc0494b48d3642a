//! Temporary files in a target. The programs create them to find out whether and as which user they
//! can write there. Files that a killed process has left are removed by the next process that
//! starts.
//!
//! Invariant: a process never fails because another one has removed its probe file.

use std::{fs, io, path::Path};

use crate::{listing::list, own_file::PROBE};

/// Number of hexadecimal digits after [`PROBE`].
const DIGITS: usize = 16;

/// Removes the probe files that are left in a folder. A file that cannot be removed stays, for
/// example a file of another user in a folder with the sticky bit.
///
/// # Errors
/// The folder cannot be listed.
pub fn remove_left(folder: &Path) -> io::Result<()> {
    for entry in list(folder)? {
        let entry = entry?;
        let digits = entry.text().and_then(|name| name.strip_prefix(PROBE));
        if digits.is_some_and(|digits| {
            digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        }) {
            fs::remove_file(entry.path()).unwrap_or_default();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let others = [
            ".probe-",
            ".probe-0123456789abcdeg",
            ".probe-0123456789abcdef0",
            "a.probe-0123456789abcdef",
        ];
        for name in others
            .into_iter()
            .chain([".probe-0123456789abcdef", ".probe-fedcba9876543210"])
        {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join(".probe-0000000000000000")).unwrap();
        remove_left(folder.path()).unwrap();
        let names = others.into_iter().chain([".probe-0000000000000000"]);
        assert!(names.clone().all(|name| folder.path().join(name).exists()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), names.count());
    }
}
