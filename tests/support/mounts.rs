//! File systems that a test mounts; this needs root.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A mount; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    at: PathBuf,
    /// Removed after the file system is unmounted.
    _folder: Option<TempDir>,
}

impl Mount {
    /// Mounts a tmpfs with these options in a temporary folder; `None` if this user may not mount.
    pub fn memory(options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().ok()?;
        let at = folder.path().join("disk");
        std::fs::create_dir(&at).ok()?;
        run(&["-t", "tmpfs", "-o", options, "tmpfs"], &at).then_some(Self {
            at,
            _folder: Some(folder),
        })
    }

    /// Bind-mounts a folder at another path; `None` if this user may not mount.
    pub fn bind(folder: &Path, at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).ok()?;
        run(&["--bind", folder.to_str()?], at).then(|| Self {
            at: at.to_owned(),
            _folder: None,
        })
    }

    /// Mounts an overlay: `lower` read-only, the writable layer in `folder`, which must be empty;
    /// `None` if this user may not mount.
    pub fn overlay(lower: &Path, folder: &Path) -> Option<Self> {
        let [upper, work, at] = ["upper", "work", "merged"].map(|name| folder.join(name));
        for part in [&upper, &work, &at] {
            std::fs::create_dir_all(part).ok()?;
        }
        let [lower, upper, work] = [lower, &upper, &work].map(Path::display);
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        run(&["-t", "overlay", "-o", &options, "overlay"], &at)
            .then_some(Self { at, _folder: None })
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Changes the limits of a tmpfs.
    pub fn resize(&self, options: &str) {
        assert!(
            run(&["-o", &format!("remount,{options}")], &self.at),
            "a mount that worked before works again"
        );
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.at).output());
    }
}

fn run(args: &[&str], at: &Path) -> bool {
    Command::new("mount")
        .args(args)
        .arg(at)
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Prints why a test that mounts a file system is skipped.
#[expect(clippy::print_stdout, reason = "a skipped test prints the reason")]
pub fn skipped() {
    println!("skipped: this user may not mount a file system");
}
