//! Permissions of the files that the programs create, under any umask.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::Path,
    process::Command,
};

use tests::{archives::assert_class_is, programs::program, running::Signal};

use crate::shared_host::{Outcome, SharedHost, WNID, give, set_mode, victims};

/// The group that shares a target.
const GROUP: u32 = 54_412;

fn mode(path: &Path) -> Option<u32> {
    path.symlink_metadata()
        .ok()
        .map(|found| found.mode() & 0o7777)
}

fn count_images(area: &Path) -> usize {
    let attempts = fs::read_dir(area).into_iter().flatten().flatten();
    attempts
        .map(|attempt| fs::read_dir(attempt.path().join("class")).map_or(0, Iterator::count))
        .sum()
}

/// Starts a run under a umask, calls `look` while the origin stalls in the middle of the class, and
/// stops the run.
#[track_caller]
fn in_the_middle(mut host: SharedHost, umask: &str, look: impl Fn(&SharedHost)) -> SharedHost {
    let user = host.victim.to_string();
    let shell =
        format!("umask {umask}; exec setpriv --reuid {user} --regid {user} --clear-groups \"$@\"");
    host.job = host.job.under(["sh", "-c", &shell, "sh"]);
    host.stall_at_half();
    let mut running = host.job.start();
    running.wait_until("half of the tar was sent", |_| {
        (host.origin.bytes_sent() > 10_000).then_some(())
    });
    running.wait_until("the logs exist", |_| {
        mode(&host.target().join("failed_downloads.log"))
    });
    look(&host);
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, Some(143));
    host.origin.end_stalls();
    host
}

#[test]
fn logs_and_the_ledger_are_not_writable_by_others_and_the_staging_folder_is_private() {
    for victim in victims() {
        for umask in ["0", "002", "077"] {
            let host = in_the_middle(SharedHost::new(victim, 0o1777, 0o755), umask, |host| {
                for (name, most) in [
                    ("imagenet_downloader.log", 0o644),
                    ("failed_downloads.log", 0o644),
                    (".imagenet_downloader.ledger", 0o640),
                    (".imagenet_downloader.ledger-wal", 0o640),
                    (".imagenet_downloader.ledger-shm", 0o640),
                ] {
                    let found = mode(&host.target().join(name))
                        .unwrap_or_else(|| panic!("there is no {name}"));
                    assert_eq!(found & !most, 0, "{name} has {found:o} under umask {umask}");
                }
                assert_eq!(
                    mode(&host.parent_folder.join(".images.partial")),
                    Some(0o700),
                    "umask {umask}"
                );
            });
            assert_eq!(
                mode(&host.parent_folder.join(".images.partial")),
                Some(0o700),
                "umask {umask}"
            );
        }
    }
}

#[test]
fn permissions_of_an_earlier_run_that_are_too_wide_are_corrected() {
    for victim in victims() {
        let host = SharedHost::new(victim, 0o1777, 0o755);
        host.run("the former run", Outcome::Done);
        let names = [
            "imagenet_downloader.log",
            "failed_downloads.log",
            ".imagenet_downloader.ledger",
        ];
        for name in names {
            set_mode(&host.target().join(name), 0o666);
        }
        fs::create_dir(host.parent_folder.join(".images.partial")).unwrap();
        give(&host.parent_folder.join(".images.partial"), victim, 0o755);
        host.run("the next run", Outcome::Done);
        assert_eq!(
            names.map(|name| mode(&host.target().join(name))),
            [Some(0o644), Some(0o644), Some(0o640)]
        );
    }
}

/// An administrator shares a target by setting its set-group-ID bit and the group's write
/// permission.
#[test]
fn members_of_a_group_that_shares_the_target_resume_each_others_classes() {
    if victims().is_empty() {
        return;
    }
    let host = SharedHost::new(0, 0o1777, 0o755);
    let shared = host.parent_folder.join("shared");
    fs::create_dir(&shared).unwrap();
    for folder in [&host.parent_folder, &shared] {
        chown(folder, Some(0), Some(GROUP)).unwrap();
        set_mode(folder, 0o2775);
    }
    let coordinator = host.job.start_coordinator();
    let area = host.parent_folder.join(".shared.partial");
    let start = |name: &str, user: &str| {
        let shell = format!(
            "umask 002; exec setpriv --reuid {user} --regid {user} --groups {GROUP} \"$@\""
        );
        let mut worker = Command::new("sh");
        worker
            .args(["-c", &shell, "sh"])
            .arg(program("worker"))
            .arg("--target")
            .arg(&shared);
        worker.args([
            "--workers",
            "1",
            "--name",
            name,
            "--connect",
            &format!("http://{}", coordinator.address),
        ]);
        host.job.start_program(worker)
    };
    host.stall_at_half();
    let mut first = start("member", "54410");
    first.wait_until("images are in the area", |_| {
        (count_images(&area) > 1).then_some(())
    });
    assert_eq!(mode(&area), Some(0o2770));
    first.signal(Signal::TERM);
    assert_eq!(first.wait().code, Some(143));
    host.origin.forget_requests();
    let second = start("member", "54413").wait();
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    assert_class_is(&host.tar, &shared.join(WNID));
    assert!(
        host.origin.gets(WNID)[0].start() > 0,
        "the class was not resumed"
    );
    assert!(!area.exists());
    assert_eq!(coordinator.running.wait().code, Some(0));
    host.origin.end_stalls();
}

#[test]
fn a_member_of_a_group_that_shares_the_target_continues_the_logs_and_the_ledger_of_another() {
    if victims().is_empty() {
        return;
    }
    let mut host = SharedHost::new(0, 0o1777, 0o755);
    for folder in [&host.parent_folder, host.target()] {
        chown(folder, Some(0), Some(GROUP)).unwrap();
        set_mode(folder, 0o2775);
    }
    for user in ["54410", "54413"] {
        let shell = format!(
            "umask 002; exec setpriv --reuid {user} --regid {user} --groups {GROUP} \"$@\""
        );
        host.job = host.job.under(["sh", "-c", &shell, "sh"]);
        let finished = host.job.start().wait();
        assert_eq!(finished.code, Some(0), "{user}: {}", finished.stderr);
    }
    let names = [
        "imagenet_downloader.log",
        "failed_downloads.log",
        ".imagenet_downloader.ledger",
    ];
    assert_eq!(
        names.map(|name| mode(&host.target().join(name))),
        [Some(0o664), Some(0o664), Some(0o660)]
    );
}
