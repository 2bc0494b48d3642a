//! A host with two users: the victim runs the programs, and the attacker can write to the same
//! folder.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tests::{
    answer::Answer,
    archives::{assert_class_is, images},
    cluster::Job,
    folders::{Snapshot, SnapshotEntry, snapshot},
    origin::Origin,
    running::Finished,
};

pub(crate) const WNID: &str = "n00000001";
/// User id of the ordinary victim.
const VICTIM: u32 = 54_410;
/// User id and group id of the attacker.
pub(crate) const ATTACKER: u32 = 54_411;
/// Content of each private file of the victim.
const SECRET: &str = "only the victim may read this\n";
/// Deadline of a run. Only a run that blocks takes longer, even on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);
/// Maximum peak memory in bytes. A program that reads an endless device exceeds it.
const MAX_MEMORY: u64 = 256 << 20;

#[expect(clippy::print_stdout, reason = "the result line of the test")]
fn print_line(line: &str) {
    println!("{line}");
}

/// The users who run the programs: an ordinary user and root. Empty unless the test runs as root.
pub(crate) fn victims() -> Vec<u32> {
    if rustix::process::geteuid().is_root() {
        return vec![VICTIM, 0];
    }
    print_line("skipped: needs root, to run as several users");
    Vec::new()
}

/// The kind of entry that the attacker creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// A symbolic link to a private file.
    Link,
    /// A hard link to a private file, if the kernel permits users to create one
    /// (`fs.protected_hardlinks`).
    HardLink,
    /// A symbolic link to a nonexistent name in a private folder.
    Dangling,
    /// A symbolic link to an endless device.
    Endless,
    /// A named pipe without a reader or writer.
    Pipe,
    /// A file that every user can write to.
    File,
}

impl Planted {
    pub(crate) const ALL: [Self; 6] = [
        Self::Link,
        Self::HardLink,
        Self::Dangling,
        Self::Endless,
        Self::Pipe,
        Self::File,
    ];
}

/// The required outcome of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome<'words> {
    /// Exit code 2 and an error message with these texts.
    Refused(&'words [&'words str]),
    /// The class is complete.
    Done,
    /// The class is complete, or it failed with a reason.
    DoneOrFailed,
    /// The class is complete, or the run ends with exit code 2 and an error message.
    DoneOrRefused,
}

/// A target in a folder of the host, and the private files of the victim.
pub(crate) struct SharedHost {
    pub(crate) victim: u32,
    pub(crate) origin: Origin,
    pub(crate) tar: Vec<u8>,
    pub(crate) job: Job,
    /// The parent folder of the target.
    pub(crate) parent_folder: PathBuf,
    home: PathBuf,
    private: Snapshot,
}

impl SharedHost {
    /// `parent` is the mode of the parent folder, which belongs to root; `target` is the mode of
    /// the target, which belongs to the victim.
    pub(crate) fn new(victim: u32, parent: u32, target: u32) -> Self {
        let origin = Origin::start();
        let tar = images(WNID, 6, 10_000..20_000, 1);
        origin.class(WNID, tar.clone());
        let job = Job::new()
            .classes([WNID])
            .origin(&origin)
            .deadline(DEADLINE);
        let folder = job.folder().to_owned();
        set_mode(&folder, 0o755);
        let [host, home] = ["host", "home"].map(|name| folder.join(name));
        let images = host.join("images");
        fs::create_dir_all(&images).expect("the folder is writable");
        set_mode(&host, parent);
        give(&images, victim, target);
        for name in ["", "storage", "probe", "n00000001.private"] {
            fs::create_dir_all(home.join(name)).expect("the folder is writable");
            fs::write(home.join(name).join("file"), SECRET.repeat(4000))
                .expect("the folder is writable");
            give(&home.join(name).join("file"), victim, 0o600);
            give(&home.join(name), victim, 0o700);
        }
        give(&home, victim, 0o700);
        let user = victim.to_string();
        let job = job.target(images).args([
            "--workers",
            "1",
            "--retries",
            "0",
            "--durability",
            "process",
        ]);
        let job = if victim == 0 {
            job
        } else {
            job.under([
                "setpriv",
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
            ])
        };
        let private = snapshot(&home);
        Self {
            victim,
            origin,
            tar,
            job,
            parent_folder: host,
            home,
            private,
        }
    }

    pub(crate) fn target(&self) -> &Path {
        self.job.target_path()
    }

    /// The next transfer stalls after half of the tar. Returns that number of bytes.
    pub(crate) fn stall_at_half(&self) -> u64 {
        let half = self.tar.len() as u64 / 2;
        self.origin
            .script_of(WNID)
            .expect("the class is served")
            .script([Answer::stall_at(half)]);
        half
    }

    /// Path of a private file.
    pub(crate) fn secret(&self) -> PathBuf {
        self.home.join("file")
    }

    /// Path of a private folder.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Creates an entry of the attacker at a path.
    pub(crate) fn plant(&self, planted: Planted, path: &Path) {
        match planted {
            Planted::HardLink => {
                return fs::hard_link(self.secret(), path).expect("the name is free");
            }
            Planted::Link => symlink(self.secret(), path).expect("the name is free"),
            Planted::Dangling => symlink(self.home.join("new"), path).expect("the name is free"),
            Planted::Endless => symlink("/dev/zero", path).expect("the name is free"),
            Planted::Pipe => {
                mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0)
                    .expect("the name is free");
                set_mode(path, 0o666);
            }
            Planted::File => {
                fs::write(path, "of the attacker\n").expect("the name is free");
                set_mode(path, 0o666);
            }
        }
        attackers(path);
    }

    /// Runs the job and checks its outcome. `what` describes the case in messages.
    #[track_caller]
    pub(crate) fn run(&self, what: &str, ending: Outcome<'_>) -> Finished {
        let finished = self.job.run();
        self.check(what, &finished, ending);
        finished
    }

    /// Files that contain private bytes, without hard links to the private file.
    fn leaked(&self) -> Vec<PathBuf> {
        let inode = |path: &Path| {
            path.symlink_metadata()
                .map(|found| found.ino())
                .unwrap_or_default()
        };
        let secret = inode(&self.secret());
        let holds = |entry: &SnapshotEntry| match entry {
            SnapshotEntry::File(_, content) => content
                .windows(SECRET.len())
                .any(|part| part == SECRET.as_bytes()),
            _ => false,
        };
        let found = snapshot(&self.parent_folder)
            .into_iter()
            .filter(|(_, entry)| holds(entry));
        found
            .map(|(path, _)| path)
            .filter(|path| inode(&self.parent_folder.join(path)) != secret)
            .collect()
    }

    /// Panics unless the run had the required outcome, changed and leaked nothing private, and kept
    /// within the memory limit.
    #[track_caller]
    pub(crate) fn check(&self, case: &str, finished: &Finished, ending: Outcome<'_>) {
        let what = format!(
            "{case}, victim {}: {:?}\n{}",
            self.victim, finished.code, finished.stderr
        );
        assert!(
            snapshot(&self.home) == self.private,
            "private files were changed: {what}"
        );
        let leaked = self.leaked();
        assert!(leaked.is_empty(), "private bytes in {leaked:?}: {what}");
        assert!(
            finished.peak_memory.is_none_or(|peak| peak < MAX_MEMORY),
            "{:?}: {what}",
            finished.peak_memory
        );
        assert!(!finished.stderr.contains("panicked"), "{what}");
        match ending {
            Outcome::Refused(words) => {
                assert_eq!(finished.code, Some(2), "{what}");
                for word in words {
                    assert!(finished.stderr.contains(word), "no {word:?}: {what}");
                }
            }
            Outcome::Done => {
                assert_eq!(finished.code, Some(0), "{what}");
                assert_class_is(&self.tar, &self.job.class_folder(WNID));
            }
            Outcome::DoneOrFailed | Outcome::DoneOrRefused if finished.code == Some(0) => {
                assert_class_is(&self.tar, &self.job.class_folder(WNID));
            }
            Outcome::DoneOrRefused => {
                assert!(
                    finished.code == Some(2) && finished.stderr.contains("error: failed to "),
                    "{what}"
                );
            }
            Outcome::DoneOrFailed => {
                assert!(
                    finished.code == Some(1) && self.job.failures().len() == 1,
                    "{what}"
                );
            }
        }
        print_line(&format!("held: {case}, victim {}", self.victim));
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("root may");
}

/// Changes the owner, group and mode of a path.
pub(crate) fn give(path: &Path, user: u32, mode: u32) {
    chown(path, Some(user), Some(user)).expect("root may");
    set_mode(path, mode);
}

/// Changes the owner to the attacker, without following a link.
pub(crate) fn attackers(path: &Path) {
    lchown(path, Some(ATTACKER), Some(ATTACKER)).expect("root may");
}

/// Writes a file owned by the attacker.
pub(crate) fn attackers_file(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("root may");
    attackers(path);
}

/// Creates a folder owned by the attacker that every user can write to.
pub(crate) fn attackers_folder(path: &Path) {
    fs::create_dir(path).expect("the name is free");
    attackers(path);
    set_mode(path, 0o777);
}
