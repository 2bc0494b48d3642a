//! Attacks on the staging folder: files under its name, and files in it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
};

use serde_json::json;
use tests::{archives::files, folders::snapshot, running::Signal};

use crate::shared_host::{
    Outcome, Planted, SharedHost, WNID, attackers, attackers_file, attackers_folder, give,
    set_mode, victims,
};

/// Mode of a folder that every user can write to, such as /tmp.
const LIKE_TMP: u32 = 0o1777;
const ATTEMPT: &str = "n00000001.0123456789abcdef";

fn area(host: &SharedHost) -> PathBuf {
    host.parent_folder.join(".images.partial")
}

/// Offset of the second header of the tar.
fn second_header(tar: &[u8]) -> usize {
    let size = str::from_utf8(&tar[124..135]).expect("digits");
    512 + usize::from_str_radix(size, 8)
        .expect("a size")
        .next_multiple_of(512)
}

/// A journal that claims that the first bytes of its tar are those of an empty file.
fn forged_journal(host: &SharedHost) -> String {
    let length = host.tar.len();
    let source = json!({
        "url": format!("{}/{WNID}.tar", host.origin.url()),
        "length": length,
        "etag": format!("\"{WNID}-v1-{length}\""),
        "last_modified": null,
    });
    let empty = blake3::hash(b"").to_hex();
    let end = second_header(&host.tar);
    let file = json!({ "name": "a.JPEG", "size": 0, "blake3": empty.as_str(), "next_header": end });
    format!("{}\n{file}\n", json!({ "version": 1, "source": source }))
}

/// An attempt in a staging folder, with a link to a private file in the place of its tar.
fn plant_attempt(host: &SharedHost, area: &Path) {
    let attempt = area.join(ATTEMPT);
    attackers_folder(&attempt);
    attackers_folder(&attempt.join("class"));
    attackers_file(&attempt.join("class/a.JPEG"), b"");
    attackers_file(&attempt.join("journal"), forged_journal(host).as_bytes());
    host.plant(Planted::Link, &attempt.join("tar"));
}

#[test]
fn a_staging_folder_of_another_user_is_rejected_and_not_changed() {
    for victim in victims() {
        for mode in [0o777, 0o1777, 0o755, 0o2777] {
            let host = SharedHost::new(victim, LIKE_TMP, 0o755);
            attackers_folder(&area(&host));
            plant_attempt(&host, &area(&host));
            set_mode(&area(&host), mode);
            let before = snapshot(&area(&host));
            let words = [
                ".images.partial",
                "belongs to user 54411",
                // The folder cannot be entered, or it can and is not used.
                if mode & 0o002 == 0 && victim != 0 {
                    "run it as user 54411"
                } else {
                    "run this program as user 54411"
                },
                "--staging",
            ];
            host.run(
                &format!("an area with mode {mode:o}"),
                Outcome::Refused(&words),
            );
            assert!(
                snapshot(&area(&host)) == before,
                "the staging folder was changed"
            );
        }
    }
}

#[test]
fn a_link_or_a_file_under_the_staging_folders_name_is_rejected() {
    for victim in victims() {
        let host = SharedHost::new(victim, LIKE_TMP, 0o755);
        symlink(host.home(), area(&host)).unwrap();
        attackers(&area(&host));
        let words = [
            ".images.partial: it is a symbolic link of user 54411",
            "remove it",
            "--staging",
        ];
        host.run("a link to a private folder", Outcome::Refused(&words));
        for planted in Planted::ALL {
            let host = SharedHost::new(victim, LIKE_TMP, 0o755);
            host.plant(planted, &area(&host));
            host.run(
                &format!("{planted:?} under the area's name"),
                Outcome::Refused(&[".images.partial", "--staging"]),
            );
        }
    }
}

#[test]
fn a_staging_folder_that_others_can_write_to_is_rejected_and_nothing_is_lost() {
    for victim in victims() {
        for mode in [0o777, 0o775, 0o1777, 0o702] {
            let host = SharedHost::new(victim, LIKE_TMP, 0o755);
            fs::create_dir(area(&host)).unwrap();
            plant_attempt(&host, &area(&host));
            give(&area(&host), victim, mode);
            let before = snapshot(&area(&host));
            let words = [
                ".images.partial",
                "other users can write to it",
                "chmod go-w",
            ];
            host.run(
                &format!("an area with mode {mode:o}"),
                Outcome::Refused(&words),
            );
            assert!(
                snapshot(&area(&host)) == before,
                "the staging folder was changed"
            );
            // Also if the mode is corrected without an inspection: attempts of other users are not
            // used.
            set_mode(&area(&host), 0o700);
            host.run("an attempt of the attacker", Outcome::Done);
            assert!(fs::read(host.target().join("n00000001.tar")).unwrap() == host.tar);
        }
    }
}

/// Earlier versions had the staging folder in the target.
#[test]
fn a_staging_folder_of_another_user_in_the_target_is_neither_used_nor_removed() {
    for victim in victims() {
        let host = SharedHost::new(victim, LIKE_TMP, 0o777);
        let link = host.target().join(".partial");
        symlink(host.home(), &link).unwrap();
        attackers(&link);
        host.run("a link to a private folder", Outcome::Done);

        let host = SharedHost::new(victim, LIKE_TMP, 0o777);
        let former = host.target().join(".partial");
        attackers_folder(&former);
        plant_attempt(&host, &former);
        attackers_folder(&former.join("n00000002.1"));
        attackers_folder(&former.join("n00000002.1/replaced"));
        let before = snapshot(&former);
        host.run("an area of the attacker", Outcome::Done);
        assert!(
            snapshot(&former) == before,
            "the former staging folder was changed"
        );
        assert!(
            !host.job.class_folder("n00000002").exists(),
            "files of the attacker were published"
        );
    }
}

/// All parts of an attempt, even if there is no known way to plant them.
#[test]
fn files_planted_in_an_attempt_are_not_followed() {
    let names = [
        "journal",
        "tar",
        "class",
        "parts",
        "parts/0.0123456789abcdef",
        "class/first",
        "replaced",
    ];
    let victims = victims();
    // The kills wait for journal entries, so the cases run in parallel.
    thread::scope(|scope| {
        for name in names {
            let victims = &victims;
            scope.spawn(move || {
                for (victim, planted) in victims
                    .iter()
                    .flat_map(|victim| Planted::ALL.map(|planted| (*victim, planted)))
                {
                    plant_in_attempt(victim, name, planted);
                }
            });
        }
    });
}

#[track_caller]
fn plant_in_attempt(victim: u32, name: &str, planted: Planted) {
    let host = SharedHost::new(victim, LIKE_TMP, 0o755);
    let attempt = area(&host).join(ATTEMPT);
    interrupted(&host, &attempt);
    let first = files(&host.tar)
        .into_keys()
        .next()
        .expect("the tar has images");
    let path = attempt.join(name.replace("first", &first));
    if path.is_dir() {
        fs::remove_dir_all(&path).expect("root may remove it");
    }
    fs::remove_file(&path).unwrap_or_default();
    if name.starts_with("parts/") && !attempt.join("parts").exists() {
        fs::create_dir(attempt.join("parts")).expect("root may create it");
        give(&attempt.join("parts"), victim, 0o755);
    }
    host.plant(planted, &path);
    host.run(
        &format!("{planted:?} as {name} of an attempt"),
        Outcome::DoneOrFailed,
    );
}

#[test]
fn a_journal_does_not_publish_the_target_of_a_linked_tar() {
    for victim in victims() {
        let host = SharedHost::new(victim, LIKE_TMP, 0o755);
        let attempt = area(&host).join(ATTEMPT);
        interrupted(&host, &attempt);
        // The copy belongs to the victim, so only the contents are wrong.
        fs::copy(host.secret(), attempt.join("tar")).unwrap();
        fs::write(attempt.join("journal"), forged_journal(&host)).unwrap();
        fs::write(attempt.join("class/a.JPEG"), "").unwrap();
        give(&attempt.join("class/a.JPEG"), victim, 0o644);
        host.run("a false journal", Outcome::Done);
        assert!(fs::read(host.target().join("n00000001.tar")).unwrap() == host.tar);
    }
}

#[test]
fn a_planted_lock_file_does_not_block() {
    for victim in victims() {
        for planted in Planted::ALL {
            let host = SharedHost::new(victim, LIKE_TMP, 0o755);
            fs::create_dir(area(&host)).unwrap();
            give(&area(&host), victim, 0o700);
            host.plant(planted, &area(&host).join("in-use.0123456789abcdef"));
            host.run(&format!("{planted:?} as a lock file"), Outcome::Done);
        }
    }
}

/// Starts an attempt of the victim, kills it in the middle, and gives it a fixed name.
fn interrupted(host: &SharedHost, attempt: &Path) {
    host.stall_at_half();
    let mut running = host.job.start();
    running.wait_until("half of the tar was sent", |_| {
        let attempts = fs::read_dir(area(host)).into_iter().flatten().flatten();
        let found = attempts
            .map(|entry| entry.path())
            .find(|path| path.join("class").is_dir())?;
        let lines = fs::read_to_string(found.join("journal"))
            .ok()?
            .lines()
            .count();
        (lines > 2).then(|| fs::rename(found, attempt).expect("root may rename it"))
    });
    running.signal(Signal::KILL);
    running.wait();
    host.origin.end_stalls();
}
