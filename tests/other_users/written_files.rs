//! Commands that write files into a folder from an argument: manual pages, and the secrets of
//! `coordinator init`.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use tests::programs::program;

use crate::shared_host::{attackers, give, set_mode, victims};

/// User id of an owner other than the victim: the attacker.
const OTHER: u32 = 54_411;

/// Runs a program as a user; returns its exit code and its standard error.
fn run_as(user: u32, name: &str, words: &[&str]) -> (Option<i32>, String) {
    let user = user.to_string();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
        .arg(program(name))
        .args(words);
    let output = command.output().expect("setpriv runs");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn manual_pages_replace_links_and_do_not_follow_them() {
    for victim in victims() {
        for name in ["coordinator", "worker"] {
            for mode in [0o777, 0o1777] {
                let host = tempfile::tempdir().unwrap();
                set_mode(host.path(), 0o755);
                let [private, pages] = ["private", "pages"].map(|name| host.path().join(name));
                fs::write(&private, "private").unwrap();
                give(&private, victim, 0o600);
                fs::create_dir(&pages).unwrap();
                // In a sticky folder only the owner of the folder can replace entries of others.
                give(&pages, victim, mode);
                let page = pages.join(format!("{name}.1"));
                symlink(&private, &page).unwrap();
                attackers(&page);
                let (code, message) = run_as(victim, name, &["man", text(&pages)]);
                assert_eq!(
                    fs::read_to_string(&private).unwrap(),
                    "private",
                    "{name}, {mode:o}"
                );
                assert_eq!(code, Some(0), "{message}");
                assert!(page.symlink_metadata().unwrap().is_file());
                assert!(
                    fs::read_to_string(&page)
                        .unwrap()
                        .contains("IMAGENET_TARGET")
                );
            }
        }
    }
}

#[test]
fn init_writes_no_secrets_to_folders_that_other_users_can_change() {
    for victim in victims() {
        for (owner, mode, message) in [
            (
                OTHER,
                0o777,
                "every user of this host can write to it: give a folder to which only you can \
                 write with",
            ),
            (
                victim,
                0o1777,
                "every user of this host can write to it: give a folder to which only you can \
                 write with",
            ),
            (
                OTHER,
                0o755,
                "it belongs to user 54411, and this program runs as ",
            ),
        ] {
            let host = tempfile::tempdir().unwrap();
            set_mode(host.path(), 0o755);
            let [folder, own] = ["folder", "own"].map(|name| host.path().join(name));
            for (path, owner, mode) in [(&folder, owner, mode), (&own, victim, 0o755)] {
                fs::create_dir(path).unwrap();
                give(path, owner, mode);
            }
            let token = folder.join("worker.token");
            for (words, flag) in [
                (["--dir", text(&folder), "--advertise", "h"], "--dir"),
                (
                    ["--dir", text(&own), "--worker-token-file", text(&token)],
                    "--worker-token-file",
                ),
            ] {
                let words: Vec<&str> = ["init"].into_iter().chain(words).collect();
                let (code, error) = run_as(victim, "coordinator", &words);
                assert_eq!(code, Some(2), "{error}");
                assert!(
                    error.contains(message) && error.trim_end().ends_with(&format!(" with {flag}")),
                    "{error}"
                );
                assert_eq!(error.lines().count(), 1, "{error}");
                let made = [&folder, &own].map(|path| path.read_dir().unwrap().count());
                assert_eq!(made, [0, 0], "{flag}, {mode:o}");
            }
            // A new folder within a sticky folder is safe, as in /tmp.
            set_mode(host.path(), 0o1777);
            let new = host.path().join("new");
            let (code, error) = run_as(victim, "coordinator", &["init", "--dir", text(&new)]);
            assert_eq!(code, Some(0), "{error}");
            assert_eq!(fs::read_dir(&new).unwrap().count(), 8);
        }
    }
}

/// A link of another user anywhere in the path lets that user choose the destination.
#[test]
fn init_follows_no_link_and_uses_no_folder_of_another_user() {
    for victim in victims() {
        let host = tempfile::tempdir().unwrap();
        set_mode(host.path(), 0o755);
        let path = |name: &str| host.path().join(name);
        for folder in ["own", "own/deep", "theirs", "theirs/own"] {
            fs::create_dir(path(folder)).unwrap();
            give(&path(folder), victim, 0o755);
        }
        attackers(&path("theirs"));
        for (link, destination, of_attacker) in [
            ("link", "own", true),
            ("own link", "link", false),
            ("good", "own", false),
        ] {
            symlink(destination, path(link)).unwrap();
            if of_attacker {
                attackers(&path(link));
            } else {
                std::os::unix::fs::lchown(path(link), Some(victim), None).unwrap();
            }
        }
        for dir in [
            "link/deep",
            "link/deep/new",
            "link/deep/new/trust",
            "own link/deep",
            "theirs/own/trust",
        ] {
            let dir = path(dir);
            let token = dir.join("worker.token");
            let own = path("own/deep");
            for words in [
                &["init", "--dir", text(&dir)][..],
                &[
                    "init",
                    "--dir",
                    text(&own),
                    "--worker-token-file",
                    text(&token),
                ],
            ] {
                let (code, error) = run_as(victim, "coordinator", words);
                assert_eq!(code, Some(2), "{words:?} {error}");
                let message = "its path leads through a folder or link of user 54411, who can \
                               replace what is in it";
                assert!(error.contains(message), "{words:?} {error}");
                assert_eq!(error.lines().count(), 1, "{error}");
                assert_eq!(
                    fs::read_dir(path("own/deep")).unwrap().count(),
                    0,
                    "{words:?}"
                );
            }
        }
        let (code, error) = run_as(
            victim,
            "coordinator",
            &["init", "--dir", text(&path("good/deep/new"))],
        );
        assert_eq!(code, Some(0), "{error}");
        assert_eq!(fs::read_dir(path("own/deep/new")).unwrap().count(), 8);
    }
}
