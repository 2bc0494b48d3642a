//! A class that cannot be stored because of its own folder or tar: it fails alone, and all others
//! are complete.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::PathBuf,
    process::Command,
};

use tests::{
    archives::{assert_class_is, images, unpack_by_hand},
    cluster::{Job, Table},
    folders::snapshot,
    origin::Origin,
};

const WNIDS: [&str; 3] = ["n00000001", "n00000002", "n00000003"];
/// The second of three classes, so that another one is left when it fails.
const ODD: &str = WNIDS[1];
/// Command prefix that runs a program as a user who owns no files.
const AS_UNPRIVILEGED: [&str; 6] = [
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
];

/// A job of three classes and its origin.
struct Fixture {
    _origin: Origin,
    tars: [Vec<u8>; 3],
    job: Job,
}

impl Fixture {
    fn with(args: &[&str]) -> Self {
        let origin = Origin::start();
        let tars = WNIDS.map(|wnid| images(wnid, 6, 11_000..20_000, 1));
        for (wnid, tar) in WNIDS.iter().zip(&tars) {
            origin.class(wnid, tar.clone());
        }
        let args = ["--workers", "1"].iter().chain(args).copied();
        let job = Job::new().classes(WNIDS).origin(&origin).args(args);
        Self {
            _origin: origin,
            tars,
            job,
        }
    }

    /// Unpacks the odd class without a manifest, as another tool does.
    fn unpack_odd(&self) {
        unpack_by_hand(&self.tars[1], &self.job.class_folder(ODD));
    }

    #[track_caller]
    fn assert_only_the_odd_one_fails(&self) {
        let Self { job, tars, .. } = self;
        job.assert_ended(&job.run(), 1, Table::of(2, 0, 1));
        let failure = job.failure_of(ODD);
        assert!(
            ["StorageError: ", "Conflict: "]
                .iter()
                .any(|kind| failure.starts_with(kind)),
            "{failure}"
        );
        for (wnid, tar) in WNIDS.iter().zip(tars).filter(|(wnid, _)| **wnid != ODD) {
            assert_class_is(tar, &job.class_folder(wnid));
        }
    }
}

/// Creates a non-empty folder under the name of the odd class's tar; also returns the file in it.
fn with_a_folder_under_the_name_of_the_tar(args: &[&str]) -> (Fixture, PathBuf) {
    let fixture = Fixture::with(args);
    let blocking = fixture.job.target_path().join(format!("{ODD}.tar"));
    fs::create_dir(&blocking).expect("the target is writable");
    fs::write(blocking.join("precious"), "mine").expect("the folder is writable");
    (fixture, blocking)
}

#[test]
fn a_folder_under_the_name_of_a_kept_tar_fails_that_class_alone() {
    let (fixture, blocking) = with_a_folder_under_the_name_of_the_tar(&[]);
    fixture.assert_only_the_odd_one_fails();
    assert_eq!(
        fs::read_to_string(blocking.join("precious")).unwrap(),
        "mine"
    );
}

#[test]
fn a_folder_under_the_name_of_a_tar_is_not_deleted() {
    let (fixture, blocking) = with_a_folder_under_the_name_of_the_tar(&["--delete-tar"]);
    let table = fixture.job.assert_all_there(&fixture.job.run(), 3);
    assert_eq!(table, Table::of(3, 0, 0));
    assert_class_is(&fixture.tars[1], &fixture.job.class_folder(ODD));
    assert_eq!(
        fs::read_to_string(blocking.join("precious")).unwrap(),
        "mine"
    );
}

#[test]
fn a_file_name_that_is_not_utf8_fails_that_class_alone() {
    let fixture = Fixture::with(&["--delete-tar"]);
    fixture.unpack_odd();
    let folder = fixture.job.class_folder(ODD);
    let odd_name = folder.join(OsStr::from_bytes(b"n00000002_1\xff.JPEG"));
    if fs::rename(folder.join("n00000002_1.JPEG"), odd_name).is_err() {
        println!("skipped: names on this file system are text");
        return;
    }
    let before = snapshot(&folder);
    fixture.assert_only_the_odd_one_fails();
    assert_eq!(snapshot(&folder), before);
}

/// Gives the target to the unprivileged user; false if the program cannot run as that user.
fn give_to_unprivileged(job: &Job) -> bool {
    let unprivileged = Some(65534);
    let open = |path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).is_ok();
    let may = Command::new(AS_UNPRIVILEGED[0])
        .args(&AS_UNPRIVILEGED[1..])
        .arg("true")
        .output();
    may.is_ok_and(|output| output.status.success())
        && open(job.folder())
        && std::os::unix::fs::chown(job.target_path(), unprivileged, unprivileged).is_ok()
        && job.start_with(["--version"]).wait().code == Some(0)
}

#[test]
fn a_folder_of_another_user_fails_that_class_alone() {
    for existing in ["adopt", "replace"] {
        let mut fixture = Fixture::with(&["--delete-tar", "--existing", existing]);
        fixture.unpack_odd();
        fixture.job = fixture.job.under(AS_UNPRIVILEGED);
        if !give_to_unprivileged(&fixture.job) {
            println!(
                "skipped: this user may not become another one, or another user may not read the \
                 programs"
            );
            return;
        }
        let before = snapshot(&fixture.job.class_folder(ODD));
        fixture.assert_only_the_odd_one_fails();
        assert_eq!(
            snapshot(&fixture.job.class_folder(ODD)),
            before,
            "{existing}"
        );
    }
}
