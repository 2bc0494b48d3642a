//! Class folders and tars of another user in a target that every user can write to: their manifests
//! are not trusted, and their content is not published.

use std::{fs, os::unix::fs::chown, path::Path};

use tests::{
    archives::{difference, images},
    folders::snapshot,
};

use crate::shared_host::{
    ATTACKER, Outcome, SharedHost, WNID, attackers_file, attackers_folder, give, set_mode, victims,
};

/// Group id of the users who share a target.
const GROUP: u32 = 54_412;
const OTHER_SEED: u64 = 2;

/// Changes the owner and group of a published class and its files.
fn change_owner_of_class(class: &Path, user: u32, group: u32) {
    for file in fs::read_dir(class).expect("the class exists") {
        chown(
            file.expect("the folder can be listed").path(),
            Some(user),
            Some(group),
        )
        .expect("root may");
    }
    chown(class, Some(user), Some(group)).expect("root may");
}

/// A published class in the target: its owner and group, and the owner and mode of the target.
struct Case {
    class: u32,
    group: u32,
    target: u32,
    mode: u32,
}

fn set_up(victim: u32, case: &Case, tar: Vec<u8>) -> SharedHost {
    let host = SharedHost::new(victim, 0o755, 0o755);
    host.origin.class(WNID, tar);
    let first = host.job.run();
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    fs::remove_file(host.target().join("n00000001.tar")).expect("root may");
    change_owner_of_class(&host.job.class_folder(WNID), case.class, case.group);
    chown(host.target(), Some(case.target), Some(GROUP)).expect("root may");
    set_mode(host.target(), case.mode);
    host.origin.class(WNID, host.tar.clone());
    host.origin.forget_requests();
    host
}

#[test]
fn a_manifest_of_another_user_is_not_trusted_in_a_world_writable_target() {
    for victim in victims() {
        // With the set-group-ID bit, new entries of any user inherit the group of the folder.
        for (mode, group) in [
            (0o1777, ATTACKER),
            (0o777, ATTACKER),
            (0o3777, ATTACKER),
            (0o3777, GROUP),
            (0o2777, GROUP),
        ] {
            let case = Case {
                class: ATTACKER,
                group,
                target: 0,
                mode,
            };
            let host = set_up(victim, &case, images(WNID, 3, 10_000..20_000, OTHER_SEED));
            let class = host.job.class_folder(WNID);
            let before = snapshot(&class);
            let finished = host.job.run();
            assert_eq!(finished.code, Some(1), "{mode:o}: {}", finished.stderr);
            let failure = host.job.failure_of(WNID);
            let message = "Conflict: the folder is another user's, so its manifest proves nothing, \
                           and is not the origin's";
            assert!(failure.starts_with(message), "{failure}");
            assert!(snapshot(&class) == before, "the folder was changed");

            // A class with the length of the origin's tar counts as complete, and nothing is
            // written into its folder.
            let host = set_up(victim, &case, images(WNID, 6, 10_000..20_000, 1));
            let before = snapshot(&host.job.class_folder(WNID));
            host.run(
                "a class of another user, as long as the origin's",
                Outcome::Done,
            );
            assert_eq!(
                host.origin.requests(WNID).len(),
                1,
                "the length is requested from the origin"
            );
            assert!(
                snapshot(&host.job.class_folder(WNID)) == before,
                "the folder was changed"
            );
        }
    }
}

#[test]
fn a_manifest_is_trusted_where_other_users_cannot_write_it() {
    for victim in victims() {
        for case in [
            Case {
                class: victim,
                group: victim,
                target: 0,
                mode: 0o1777,
            },
            Case {
                class: 0,
                group: 0,
                target: victim,
                mode: 0o1777,
            },
            Case {
                class: ATTACKER,
                group: ATTACKER,
                target: ATTACKER,
                mode: 0o1777,
            },
            Case {
                class: ATTACKER,
                group: GROUP,
                target: victim,
                mode: 0o3775,
            },
            Case {
                class: ATTACKER,
                group: GROUP,
                target: victim,
                mode: 0o2775,
            },
            Case {
                class: ATTACKER,
                group: ATTACKER,
                target: victim,
                mode: 0o2775,
            },
            Case {
                class: ATTACKER,
                group: ATTACKER,
                target: victim,
                mode: 0o755,
            },
        ] {
            let host = set_up(victim, &case, images(WNID, 3, 10_000..20_000, OTHER_SEED));
            let finished = host.job.run();
            assert_eq!(
                finished.code,
                Some(0),
                "{:o}: {}",
                case.mode,
                finished.stderr
            );
            assert!(
                host.origin.requests(WNID).is_empty(),
                "{:o}: {:?}",
                case.mode,
                host.origin.requests(WNID)
            );
        }
    }
}

#[test]
fn a_tar_of_another_user_is_not_unpacked_in_a_world_writable_target() {
    for victim in victims() {
        for (mode, group) in [(0o1777, ATTACKER), (0o777, ATTACKER), (0o3777, GROUP)] {
            let host = SharedHost::new(victim, 0o755, mode);
            chown(host.target(), Some(0), Some(GROUP)).expect("root may");
            set_mode(host.target(), mode);
            let tar = host.target().join("n00000001.tar");
            attackers_file(&tar, &images(WNID, 3, 10_000..20_000, OTHER_SEED));
            chown(&tar, None, Some(group)).expect("root may");
            host.run(
                &format!("a tar of the attacker in {mode:o}"),
                Outcome::DoneOrFailed,
            );
            let class = host.job.class_folder(WNID);
            assert!(
                !class.exists() || difference(&host.tar, &class).is_none(),
                "the attacker's images were published"
            );
        }
    }
}

/// With the sticky bit only the owner of an entry or of the target may move the entry.
#[test]
fn an_entry_that_cannot_be_moved_is_a_conflict_before_the_first_request() {
    for victim in victims() {
        for (what, args, message) in [
            (
                "an empty folder",
                &["--delete-tar"][..],
                "Conflict: the folder under the class's name is another user's",
            ),
            (
                "an empty folder",
                &[],
                "Conflict: the folder under the class's name is another user's",
            ),
            (
                "a folder",
                &["--existing", "replace"],
                "Conflict: the folder under the class's name is another user's",
            ),
            (
                "a tar",
                &[],
                "Conflict: the file under the tar's name is another user's and cannot be renamed",
            ),
        ] {
            let mut host = SharedHost::new(victim, 0o755, 0o755);
            let [class, tar] = [WNID, "n00000001.tar"].map(|name| host.target().join(name));
            match what {
                "a tar" => attackers_file(&tar, &host.tar),
                _ => attackers_folder(&class),
            }
            if what == "a folder" {
                attackers_file(&class.join("other.JPEG"), b"of the attacker");
            }
            give(host.target(), 0, 0o1777);
            let args = ["--workers", "1", "--durability", "process"]
                .iter()
                .chain(args)
                .copied();
            host.job = host.job.args(args);
            let before = snapshot(host.target());
            let finished = host.job.run();
            if victim == 0 {
                // Root may move the entry.
                assert_eq!(finished.code, Some(0), "{what}: {}", finished.stderr);
                continue;
            }
            assert_eq!(finished.code, Some(1), "{what}: {}", finished.stderr);
            let failure = host.job.failure_of(WNID);
            assert!(failure.starts_with(message), "{what}: {failure}");
            assert!(
                host.origin.all_requests().is_empty(),
                "{what}: {:?}",
                host.origin.all_requests()
            );
            let after = snapshot(host.target());
            assert!(
                before
                    .iter()
                    .all(|(path, thing)| after.get(path) == Some(thing)),
                "{what}: the target was changed"
            );
        }
    }
}
