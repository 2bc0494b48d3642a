//! Names of a target: relative, through a link, with a slash at the end, as long as a name can be.

use std::{fs, path::PathBuf};

use tests::{archives::assert_class_is, running::Running};

use crate::{Served, names, parent};

/// Runs a job in the folder of its target with this `--target`, and says where its staging folder
/// was.
#[track_caller]
fn run(served: &Served, target: &str, name: &str) -> PathBuf {
    let job = served.job();
    let root = job.folder().join("data").join(name);
    fs::create_dir_all(&root).expect("the folder is ours");
    std::os::unix::fs::symlink(&root, job.folder().join("link")).expect("the folder is ours");
    let target = target.replace("FOLDER", job.folder().to_str().expect("a plain path"));
    let csv = job.folder().join("data.csv");
    let (csv, url) = (csv.to_str().expect("a plain path"), served.origin.url());
    let args = ["--dev", "--fname", csv, "--target", &target, "--url", &url, "--delete-tar", "--http", "127.0.0.1:0"];
    let job = job.target(&root);
    let mut view = served.view(&root);
    served.origin.limit_rate(2_000_000);
    let mut running: Running = job.start_with(args);
    let beside = running.wait_until("it is put together beside the target", |_| {
        view.assert_only_complete_classes();
        names(parent(&root)).into_iter().find(|found| found != name)
    });
    served.origin.limit_rate(0);
    assert_eq!(running.wait().code, Some(0));
    view.assert_only_complete_classes();
    let (wnid, tar) = &served.tars[0];
    assert_class_is(tar, &root.join(wnid));
    assert_eq!(names(parent(&root)).len(), 1, "something is left beside the target");
    assert!(names(job.folder()).iter().all(|name| !name.to_string_lossy().starts_with('.')));
    beside.into()
}

#[test]
fn by_whatever_name_a_target_is_called_its_classes_are_put_together_beside_it() {
    let served = Served::new(1);
    for target in [".", "./", "../images/", "FOLDER/link", "FOLDER/link/.", "FOLDER/data/images//"] {
        assert_eq!(run(&served, target, "images"), PathBuf::from(".images.partial"), "{target}");
    }
}

#[test]
fn a_name_may_be_as_long_as_the_file_system_lets_it_be() {
    let served = Served::new(1);
    for length in [246, 255] {
        let area = run(&served, ".", &"n".repeat(length));
        assert!(area.to_str().unwrap().ends_with(".partial"), "{}", area.display());
    }
}
