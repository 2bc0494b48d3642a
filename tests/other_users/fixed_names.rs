//! Another user's files and links under the fixed names: logs, the ledger and its companion files,
//! the storage id, the probe, a tar, a manifest.

use std::fs;

use tests::archives::unpack_by_hand;

use crate::shared_host::{Outcome, Planted, SharedHost, WNID, attackers, give, set_mode, victims};

/// Modes of folders in which every user can create files: with the sticky bit, and without it.
const TARGETS: [u32; 2] = [0o1777, 0o777];

/// Runs each kind of planted file, in each folder, for each victim.
#[track_caller]
fn for_each(name: &str, ending: impl Fn(Planted, u32) -> Outcome<'static>) {
    for victim in victims() {
        for mode in TARGETS {
            for planted in Planted::ALL {
                let host = SharedHost::new(victim, 0o755, mode);
                // With the sticky bit only the folder's owner may remove files of other users.
                if mode == 0o1777 {
                    give(host.target(), 0, mode);
                }
                host.plant(planted, &host.target().join(name));
                host.run(
                    &format!("{planted:?} under {name} in {mode:o}"),
                    ending(planted, mode),
                );
            }
        }
    }
}

#[test]
fn nothing_is_written_through_the_name_of_the_detailed_log() {
    for_each("imagenet_downloader.log", |_, _| {
        Outcome::Refused(&["imagenet_downloader.log", "remove it"])
    });
}

#[test]
fn nothing_is_written_through_the_name_of_the_failure_log() {
    for_each("failed_downloads.log", |_, _| {
        Outcome::Refused(&["failed_downloads.log", "remove it"])
    });
}

#[test]
fn nothing_is_written_through_the_name_of_the_ledger() {
    for_each(".imagenet_downloader.ledger", |planted, _| match planted {
        Planted::Pipe => Outcome::Refused(&["ledger: it is no regular file"]),
        _ => Outcome::Refused(&[".imagenet_downloader.ledger: it ", "remove it"]),
    });
}

#[test]
fn nothing_is_read_or_written_through_the_names_of_the_ledgers_other_files() {
    for_each(".imagenet_downloader.ledger-wal", |_, _| {
        Outcome::Refused(&["ledger-wal: it ", "remove it"])
    });
    for_each(".imagenet_downloader.ledger-shm", |_, _| {
        Outcome::Refused(&["ledger-shm: it ", "remove it"])
    });
    for_each(".imagenet_downloader.ledger-journal", |_, _| {
        Outcome::Refused(&["ledger-journal: it ", "remove it"])
    });
}

#[test]
fn the_id_of_the_storage_is_not_read_through_a_link() {
    for_each(".imagenet_downloader.storage", |planted, mode| {
        match (planted, mode) {
            // A file without a valid id is replaced if possible.
            (Planted::File | Planted::HardLink, 0o777) => Outcome::Done,
            (Planted::File | Planted::HardLink, _) => Outcome::DoneOrRefused,
            _ => Outcome::Refused(&[".imagenet_downloader.storage: it ", "remove it"]),
        }
    });
}

#[test]
fn a_probe_is_not_written_through_a_link() {
    // A name that earlier versions used; this version does not use it, so it is no obstacle.
    for_each(".imagenet_downloader.probe", |_, _| Outcome::Done);
}

#[test]
fn a_tar_is_not_read_through_a_link_or_from_a_pipe() {
    for_each("n00000001.tar", |_, _| Outcome::DoneOrFailed);
}

#[test]
fn a_manifest_is_not_written_through_a_link() {
    for victim in victims() {
        for name in [".manifest.json.new", ".manifest.json"] {
            for planted in Planted::ALL {
                let host = SharedHost::new(victim, 0o755, 0o755);
                let class = host.job.class_folder(WNID);
                unpack_by_hand(&host.tar, &class);
                give(&class, victim, 0o777);
                host.plant(planted, &class.join(name));
                let ending = if name == ".manifest.json" {
                    Outcome::DoneOrFailed
                } else {
                    Outcome::Done
                };
                host.run(&format!("{planted:?} under {name}"), ending);
            }
        }
    }
}

/// The attacker is in the folder before the victim, and owns the class.
#[test]
fn an_image_of_a_verified_folder_is_not_read_through_a_link() {
    for victim in victims() {
        for planted in Planted::ALL {
            let host = SharedHost::new(victim, 0o755, 0o755);
            let class = host.job.class_folder(WNID);
            unpack_by_hand(&host.tar, &class);
            let image = fs::read_dir(&class)
                .unwrap()
                .next()
                .unwrap()
                .unwrap()
                .path();
            fs::remove_file(&image).unwrap();
            attackers(&class);
            set_mode(&class, 0o777);
            host.plant(planted, &image);
            host.run(&format!("{planted:?} in a class"), Outcome::DoneOrFailed);
        }
    }
}

#[test]
fn a_workers_log_is_not_written_through_a_link() {
    for victim in victims().into_iter().filter(|victim| *victim == 0) {
        for planted in Planted::ALL {
            let host = SharedHost::new(victim, 0o755, 0o1777);
            host.plant(planted, &host.target().join("imagenet_downloader.w.log"));
            let target = host.target().to_str().unwrap();
            let args = [
                "--connect",
                "http://127.0.0.1:1",
                "--name",
                "w",
                "--target",
                target,
            ];
            let finished = host.job.start_worker_with(args).wait();
            let words = ["imagenet_downloader.w.log", "remove it"];
            host.check(
                &format!("{planted:?} under the log of a worker"),
                &finished,
                Outcome::Refused(&words),
            );
        }
    }
}
