//! A list that is already complete: workers find that out without leases.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tests::{
    archives::images,
    cluster::{Job, Table},
    folders::classes,
    origin::Origin,
};

/// More than fits into one report. Run by hand with all 21,843 classes of `ImageNet` as well.
const CLASSES: usize = 5000;

#[test]
fn a_complete_list_takes_seconds_with_three_workers_on_one_storage() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=CLASSES)
        .map(|number| format!("n{number:08}"))
        .collect();
    origin.class(&wnids[0], images(&wnids[0], 4, 100..200, 1));
    let job = Job::new()
        .classes([wnids[0].as_str()])
        .origin(&origin)
        .args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    complete(&job, &wnids[0], &wnids[1..]);
    origin.forget_requests();

    // It takes seconds.
    let job = job
        .classes(wnids.iter().map(String::as_str))
        .deadline(Duration::from_mins(3));
    let coordinator = job.start_coordinator();
    let workers =
        ["w1", "w2", "w3"].map(|name| job.start_worker(name, &coordinator, job.target_path()));
    for worker in workers {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    job.assert_ended(
        &coordinator.running.wait(),
        0,
        Table::of(0, wnids.len() as u64, 0),
    );
    assert_eq!(origin.all_requests().len(), 0);
    assert_eq!(classes(job.target_path()), wnids);
}

#[test]
fn complete_classes_on_any_workers_disk_are_counted() {
    let origin = Origin::start();
    let wnids: Vec<String> = (1..=600).map(|number| format!("n{number:08}")).collect();
    let missing = wnids.last().expect("the list is not empty");
    for wnid in [&wnids[0], missing] {
        origin.class(wnid, images(wnid, 20, 100..200, 1));
    }
    let job = Job::new()
        .classes([wnids[0].as_str()])
        .origin(&origin)
        .args(["--delete-tar"]);
    job.assert_ended(&job.run(), 0, Table::of(1, 0, 0));
    complete(&job, &wnids[0], &wnids[1..wnids.len() - 1]);
    origin.forget_requests();
    let disks = ["disk1", "disk2"].map(|name| job.folder().join(name));
    for (number, wnid) in wnids[..wnids.len() - 1].iter().enumerate() {
        let disk = &disks[number % 2];
        fs::create_dir_all(disk).expect("the folder is ours");
        fs::rename(job.class_folder(wnid), disk.join(wnid)).expect("the folder is ours");
    }

    let job = job.classes(wnids.iter().map(String::as_str));
    let coordinator = job.start_coordinator();
    let start = |(name, disk): (&str, &Path)| job.start_worker(name, &coordinator, disk);
    for worker in [("w1", disks[0].as_path()), ("w2", disks[1].as_path())].map(start) {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    job.assert_ended(
        &coordinator.running.wait(),
        0,
        Table::of(1, wnids.len() as u64 - 1, 0),
    );
    let requested: Vec<String> = origin
        .all_requests()
        .into_iter()
        .map(|request| request.wnid)
        .collect();
    assert_eq!(requested, [missing.as_str()], "one class is on no disk");
}

/// Makes classes complete by hard-linking the images of a complete class.
pub(crate) fn complete(job: &Job, model: &str, wnids: &[String]) {
    let manifest = fs::read_to_string(job.class_folder(model).join(".manifest.json"))
        .expect("the class is complete");
    let entries = fs::read_dir(job.class_folder(model))
        .expect("the class is complete")
        .flatten()
        .map(|entry| entry.path());
    let images: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|end| end == "JPEG"))
        .collect();
    for wnid in wnids {
        let folder = job.class_folder(wnid);
        fs::create_dir(&folder).expect("the folder is ours");
        for image in &images {
            let name = image.file_name().expect("an image has a name");
            fs::hard_link(image, folder.join(name)).expect("the folder is ours");
        }
        fs::write(
            folder.join(".manifest.json"),
            renamed(&manifest, model, wnid),
        )
        .expect("the folder is ours");
    }
}

/// The manifest of another class, with its digest, which covers all bytes before it, recomputed.
fn renamed(manifest: &str, model: &str, wnid: &str) -> String {
    let renamed = manifest.replace(
        &format!("\"wnid\": \"{model}\""),
        &format!("\"wnid\": \"{wnid}\""),
    );
    let mark = "  \"digest\": \"";
    let (covered, _) = renamed
        .split_once(mark)
        .expect("the manifest ends with a digest");
    format!(
        "{covered}{mark}{}\"\n}}\n",
        blake3::hash(covered.as_bytes()).to_hex()
    )
}
