//! One class that cannot be stored, for a reason that is its own: it fails alone, and all others arrive.

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
/// In the middle, so that some are left when it fails.
const ODD: &str = WNIDS[1];
/// Makes root somebody who owns nothing.
const AS_NOBODY: [&str; 6] = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];

struct Setting {
    _origin: Origin,
    tars: [Vec<u8>; 3],
    job: Job,
}

impl Setting {
    fn with(args: &[&str]) -> Self {
        let origin = Origin::start();
        let tars = WNIDS.map(|wnid| images(wnid, 6, 11_000..20_000, 1));
        for (wnid, tar) in WNIDS.iter().zip(&tars) {
            origin.class(wnid, tar.clone());
        }
        let args = ["--workers", "1"].iter().chain(args).copied();
        let job = Job::new().classes(WNIDS).origin(&origin).args(args);
        Self { _origin: origin, tars, job }
    }

    /// The odd one as another tool would have made it.
    fn unpack_odd(&self) {
        unpack_by_hand(&self.tars[1], &self.job.class_folder(ODD));
    }

    #[track_caller]
    fn assert_only_the_odd_one_fails(&self) {
        let Self { job, tars, .. } = self;
        job.assert_ended(&job.run(), 1, Table::of(2, 0, 1));
        let failure = job.failure_of(ODD);
        assert!(["StorageError: ", "Conflict: "].iter().any(|kind| failure.starts_with(kind)), "{failure}");
        for (wnid, tar) in WNIDS.iter().zip(tars).filter(|(wnid, _)| **wnid != ODD) {
            assert_class_is(tar, &job.class_folder(wnid));
        }
    }
}

/// A folder with something in it under the name of the odd class's tar; gives what is in it, too.
fn with_a_folder_under_the_name_of_the_tar(args: &[&str]) -> (Setting, PathBuf) {
    let setting = Setting::with(args);
    let in_the_way = setting.job.target_path().join(format!("{ODD}.tar"));
    fs::create_dir(&in_the_way).expect("the target is ours");
    fs::write(in_the_way.join("precious"), "mine").expect("the folder is ours");
    (setting, in_the_way)
}

#[test]
fn a_folder_where_a_tar_is_to_be_kept_fails_that_class_alone() {
    let (setting, in_the_way) = with_a_folder_under_the_name_of_the_tar(&[]);
    setting.assert_only_the_odd_one_fails();
    assert_eq!(fs::read_to_string(in_the_way.join("precious")).unwrap(), "mine");
}

#[test]
fn a_folder_under_the_name_of_a_tar_is_no_tar_to_delete() {
    let (setting, in_the_way) = with_a_folder_under_the_name_of_the_tar(&["--delete-tar"]);
    let table = setting.job.assert_all_there(&setting.job.run(), 3);
    assert_eq!(table, Table::of(3, 0, 0));
    assert_class_is(&setting.tars[1], &setting.job.class_folder(ODD));
    assert_eq!(fs::read_to_string(in_the_way.join("precious")).unwrap(), "mine");
}

#[test]
fn a_name_that_is_no_text_fails_that_class_alone() {
    let setting = Setting::with(&["--delete-tar"]);
    setting.unpack_odd();
    let folder = setting.job.class_folder(ODD);
    let odd_name = folder.join(OsStr::from_bytes(b"n00000002_1\xff.JPEG"));
    if fs::rename(folder.join("n00000002_1.JPEG"), odd_name).is_err() {
        println!("skipped: names on this file system are text");
        return;
    }
    let before = snapshot(&folder);
    setting.assert_only_the_odd_one_fails();
    assert_eq!(snapshot(&folder), before);
}

/// Gives the target to nobody, who can then run the program; false if this user may not do so.
fn give_to_nobody(job: &Job) -> bool {
    let nobody = Some(65534);
    let open = |path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).is_ok();
    let may = Command::new(AS_NOBODY[0]).args(&AS_NOBODY[1..]).arg("true").output();
    may.is_ok_and(|output| output.status.success())
        && open(job.folder())
        && std::os::unix::fs::chown(job.target_path(), nobody, nobody).is_ok()
        && job.start_with(["--version"]).wait().code == Some(0)
}

#[test]
fn a_folder_of_somebody_else_fails_that_class_alone() {
    for existing in ["adopt", "replace"] {
        let mut setting = Setting::with(&["--delete-tar", "--existing", existing]);
        setting.unpack_odd();
        setting.job = setting.job.under(AS_NOBODY);
        if !give_to_nobody(&setting.job) {
            println!("skipped: this user may not become another one, or the programs stand where nobody may look");
            return;
        }
        let before = snapshot(&setting.job.class_folder(ODD));
        setting.assert_only_the_odd_one_fails();
        assert_eq!(snapshot(&setting.job.class_folder(ODD)), before, "{existing}");
    }
}
