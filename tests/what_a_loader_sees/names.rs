//! Forms of the target path: relative, through a link, with a trailing slash, with the longest
//! possible name.

use std::{fs, path::PathBuf};

use tests::{archives::assert_class_is, running::Running};

use crate::{Served, names, parent};

/// Runs a job with this `--target` and the target's folder as working directory; returns the path
/// of its staging folder.
#[track_caller]
fn run(served: &Served, target: &str, name: &str) -> PathBuf {
    let job = served.job();
    let root = job.folder().join("data").join(name);
    fs::create_dir_all(&root).expect("the folder is ours");
    std::os::unix::fs::symlink(&root, job.folder().join("link")).expect("the folder is ours");
    let target = target.replace("FOLDER", job.folder().to_str().expect("a plain path"));
    let csv = job.folder().join("data.csv");
    let csv = csv.to_str().expect("a plain path");
    let url = served.origin.url();
    let args = [
        "--dev",
        "--fname",
        csv,
        "--target",
        &target,
        "--url",
        &url,
        "--delete-tar",
        "--http",
        "127.0.0.1:0",
    ];
    let job = job.target(&root);
    let mut view = served.view(&root);
    served.origin.limit_rate(2_000_000);
    let mut running: Running = job.start_with(args);
    let beside = running.wait_until("the staging folder is beside the target", |_| {
        view.assert_only_complete_classes();
        names(parent(&root)).into_iter().find(|found| found != name)
    });
    served.origin.limit_rate(0);
    assert_eq!(running.wait().code, Some(0));
    view.assert_only_complete_classes();
    let (wnid, tar) = &served.tars[0];
    assert_class_is(tar, &root.join(wnid));
    assert_eq!(
        names(parent(&root)).len(),
        1,
        "something is left beside the target"
    );
    assert!(
        names(job.folder())
            .iter()
            .all(|name| !name.to_string_lossy().starts_with('.'))
    );
    beside.into()
}

#[test]
fn the_staging_folder_is_beside_the_target_for_every_form_of_its_path() {
    let served = Served::new(1);
    for target in [
        ".",
        "./",
        "../images/",
        "FOLDER/link",
        "FOLDER/link/.",
        "FOLDER/data/images//",
    ] {
        assert_eq!(
            run(&served, target, "images"),
            PathBuf::from(".images.partial"),
            "{target}"
        );
    }
}

#[test]
fn a_name_may_be_as_long_as_the_file_system_lets_it_be() {
    let served = Served::new(1);
    for length in [246, 255] {
        let area = run(&served, ".", &"n".repeat(length));
        assert!(
            area.to_str().unwrap().ends_with(".partial"),
            "{}",
            area.display()
        );
    }
}
