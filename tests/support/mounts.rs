//! File systems that a test mounts for itself; this needs root.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A mount, gone when it is dropped.
#[derive(Debug)]
pub struct Mount {
    at: PathBuf,
    /// Removed after the file system is unmounted.
    _folder: Option<TempDir>,
}

impl Mount {
    /// A file system in memory with these options, in a folder of its own; `None` where this user
    /// may not mount one.
    pub fn memory(options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().ok()?;
        let at = folder.path().join("disk");
        std::fs::create_dir(&at).ok()?;
        run(&["-t", "tmpfs", "-o", options, "tmpfs"], &at).then_some(Self { at, _folder: Some(folder) })
    }

    /// Shows a folder at another place as well; `None` where this user may not.
    pub fn bind(folder: &Path, at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).ok()?;
        run(&["--bind", folder.to_str()?], at).then(|| Self { at: at.to_owned(), _folder: None })
    }

    /// `lower` below a layer of its own in `folder`, which must be empty; `None` where this user
    /// may not.
    pub fn overlay(lower: &Path, folder: &Path) -> Option<Self> {
        let [upper, work, at] = ["upper", "work", "merged"].map(|name| folder.join(name));
        for part in [&upper, &work, &at] {
            std::fs::create_dir_all(part).ok()?;
        }
        let [lower, upper, work] = [lower, &upper, &work].map(Path::display);
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        run(&["-t", "overlay", "-o", &options, "overlay"], &at).then_some(Self { at, _folder: None })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Gives a file system in memory other limits.
    pub fn resize(&self, options: &str) {
        assert!(run(&["-o", &format!("remount,{options}")], &self.at), "mount was there before");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.at).output());
    }
}

fn run(args: &[&str], at: &Path) -> bool {
    Command::new("mount").args(args).arg(at).output().is_ok_and(|output| output.status.success())
}

/// Says in one line why a story that mounts something does not run.
#[expect(clippy::print_stdout, reason = "a story that does not run says so")]
pub fn skipped() {
    println!("skipped: this user may not mount a file system");
}
